"""Tables of the report: scores, comparisons, reconstruction quality and effects of traversals, as text for cells."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from modeling_sim.analysis.scorecard import SPECTRUM_MODULE, Comparison, Measure, Row
from modeling_sim.evaluation.results import Kind, Results
from modeling_sim.text import counted, decimal, interval, percent

Entry = Mapping[str, Any]


MISSING = "-"


NEEDS_SEEDS = "needs at least two seeds to compare"


_OPPOSITE = {"win": "loss", "loss": "win", "undecided": "undecided"}


class Cell(NamedTuple):
    """A score: the value, its range, its control if it has one, and whether its kind is the best.

    The best kind is the trained kind that won against every other trained kind.
    """

    value: str
    spread: str = ""
    null: str = ""
    best: bool = False


class TableRow(NamedTuple):
    """Scores of a kind; `basis` is the number of models, in words."""

    kind: str
    is_control: bool
    basis: str
    cells: list[Cell]


class ScoreTable(NamedTuple):
    """Scores of one group of measures in one module."""

    group: str
    measures: list[Measure]
    rows: list[TableRow]


class Tally(NamedTuple):
    """Outcomes of comparisons, from the perspective of the first kind.

    Comparisons without enough seeds are not counted.
    """

    wins: int
    losses: int
    undecided: int
    has_seeds: bool = True


class Difference(NamedTuple):
    """A comparison as text; `verdict` is for `first`."""

    measure: str
    first: str
    second: str
    difference: str
    interval: str
    verdict: str


class ModuleScores(NamedTuple):
    """All scores of a module, and the outcomes of the first kind against the others in this module."""

    name: str
    tables: list[ScoreTable]
    tally: Tally
    differences: list[Difference]


class Opponent(NamedTuple):
    """Outcomes of the first kind against another, by group of measures."""

    kind: str
    is_control: bool
    tallies: list[Tally]
    total: Tally


class Quality(NamedTuple):
    """Reconstruction quality of a decoder as text."""

    kind: str
    model: str
    module: str
    decoder: str
    log_mel: Cell
    silence: str
    beats_silence: bool | None
    spectral: Cell
    si_sdr: Cell


class EffectCell(NamedTuple):
    """A change of a factor; `share` in [0, 1] is its size over the factor's spread, relative to the largest one."""

    value: str
    share: float
    negative: bool


class EffectTable(NamedTuple):
    """Effects of changing single dimensions, spread of utterances, and how much of it the decoder reproduces."""

    kind: str
    model: str
    module: str
    factors: list[str]
    spread: list[str]
    conveyed: list[str]
    selectivity: str
    deviations: str
    rows: list[tuple[str, list[EffectCell]]]


# ---------------------------------------------------------------------- modules


def modules_of(places: Iterable[tuple[str, str]], controls: Iterable[str]) -> list[str]:
    """Modules in order of appearance: those of trained kinds, or of all kinds if there are only controls.

    A control without modules, such as log-mel, does not add a module: see `belongs`.

    Args:
        places: Kind and module of every entry.
        controls: Kinds that are controls.
    """
    places, controls = list(places), set(controls)
    trained = [place for place in places if place[0] not in controls]
    return list(dict.fromkeys(module for _, module in trained or places))


def belongs(own: str, module: str, modules: Sequence[str]) -> bool:
    """Whether a row of module `own` is shown with `module`: if both are equal, or `own` is not in `modules`."""
    return own == module or own not in modules


# ---------------------------------------------------------------------- numbers


def digits_for(values: Iterable[float | None]) -> int:
    """Number of decimals, at most 6, with which the largest of some numbers has three significant digits."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    return 3 if largest == 0 else min(6, max(0, 2 - math.floor(math.log10(largest))))


def write_value(value: float | None, form: str, digits: int = 3) -> str:
    """Formats a score like its measure: as a percentage, an integer, or a number with some decimals."""
    if value is None:
        return MISSING
    if form == "percent":
        return percent(value)
    return f"{value:,.0f}" if form == "integer" and float(value).is_integer() else decimal(value, digits)


def _digits(form: str, values: Sequence[float | None]) -> int:
    # A mean of integers over models is not always an integer.
    return 1 if form == "integer" else digits_for(values)


# ---------------------------------------------------------------------- scores


def module_scores(analysis: Results) -> list[ModuleScores]:
    """Scores and comparisons of every module."""
    modules = modules_of(
        [(row.kind, row.module) for row in analysis.rows], [kind.name for kind in analysis.kinds if kind.is_control]
    )
    first = analysis.kinds[0].name if analysis.kinds else ""
    measures = {measure.key: measure for measure in analysis.measures}
    scores = []
    for module in modules:
        rows = [row for row in analysis.rows if belongs(row.module, module, modules)]
        comparisons = [each for each in analysis.comparisons if each.module == module]
        scores.append(
            ModuleScores(
                module,
                _score_tables(analysis, rows, comparisons),
                tally(seen_from(first, comparisons), analysis),
                [_difference(each, measures[each.measure], analysis) for each in comparisons],
            )
        )
    return scores


def _score_tables(analysis: Results, rows: Sequence[Row], comparisons: Sequence[Comparison]) -> list[ScoreTable]:
    """A table for every group that has a value."""
    tables = []
    measured = {row.measure for row in rows}
    for group in dict.fromkeys(measure.group for measure in analysis.measures):
        measures = [each for each in analysis.measures if each.group == group and each.key in measured]
        keys = {measure.key for measure in measures}
        lines = [
            line
            for kind in analysis.kinds
            for line in _table_rows(kind, [row for row in rows if row.measure in keys], measures)
        ]
        if lines:
            best = {measure.key: best_kind(measure.key, analysis.kinds, rows, comparisons) for measure in measures}
            tables.append(ScoreTable(group, measures, [_marked(line, measures, best) for line in lines]))
    return tables


def _table_rows(kind: Kind, rows: Sequence[Row], measures: Sequence[Measure]) -> list[TableRow]:
    """Rows of a kind: one, or several if it has several sets of features instead of modules."""
    own = [row for row in rows if row.kind == kind.name]
    lines = []
    places = list(dict.fromkeys(row.module for row in own))
    for place in places:
        here = [row for row in own if row.module == place]
        name = kind.name if len(places) == 1 else f"{kind.name}, {place}"
        models = {row.representation for row in here}
        basis = counted(len(models), "model")
        cells = []
        for measure in measures:
            digits = _digits(measure.format, [row.value for row in rows if row.measure == measure.key])
            cells.append(_cell([row for row in here if row.measure == measure.key], measure.format, digits))
        lines.append(TableRow(name, kind.is_control, basis, cells))
    return lines


def _cell(rows: Sequence[Row], form: str, digits: int) -> Cell:
    """Mean and range over models, or one model's value and interval."""
    measured = [row for row in rows if row.value is not None]
    values = [row.value for row in measured if row.value is not None]
    if not values:
        return Cell(MISSING)
    nulls = [row.null for row in measured if row.null is not None]
    write = partial(write_value, form=form, digits=digits)
    null = write(sum(nulls) / len(nulls)) if nulls else ""
    if len(rows) == 1:
        return Cell(write(values[0]), interval(measured[0].low, measured[0].high, write), null)
    spread = interval(min(values), max(values), write)
    if len(values) < len(rows):
        spread += f" ({len(values)} of {len(rows)} models)"
    return Cell(write(sum(values) / len(values)), spread.strip(), null)


def _marked(row: TableRow, measures: Sequence[Measure], best: Mapping[str, str | None]) -> TableRow:
    cells = [
        cell._replace(best=best[measure.key] == row.kind) for cell, measure in zip(row.cells, measures, strict=True)
    ]
    return row._replace(cells=cells)


def best_kind(
    measure: str, kinds: Sequence[Kind], rows: Sequence[Row], comparisons: Sequence[Comparison]
) -> str | None:
    """The trained kind that won its comparison with every other trained kind that has a value; `None` if none did.

    Args:
        measure: Key of the measure.
        kinds: `kinds` of the analysis.
        rows: Its `rows` in one module.
        comparisons: Its `comparisons` in one module.
    """
    measured = {row.kind for row in rows if row.measure == measure and row.value is not None}
    trained = [kind.name for kind in kinds if not kind.is_control and kind.name in measured]
    for name in trained:
        beaten = {
            each.second for each in seen_from(name, comparisons) if each.measure == measure and each.verdict == "win"
        }
        if len(trained) > 1 and beaten.issuperset(set(trained) - {name}):
            return name
    return None


# ---------------------------------------------------------------------- comparisons


def seen_from(kind: str, comparisons: Iterable[Comparison]) -> list[Comparison]:
    """The comparisons of a kind, with this kind as the first."""
    seen = []
    for each in comparisons:
        if each.first == kind:
            seen.append(each)
        elif each.second == kind:
            seen.append(replace(each, first=kind, second=each.first, verdict=_OPPOSITE[each.verdict]))
    return seen


def tally(comparisons: Sequence[Comparison], analysis: Results) -> Tally:
    """Counts of verdicts over the comparisons with enough seeds."""
    compared = [each for each in comparisons if has_seeds(each, analysis)]
    counts = Counter(each.verdict for each in compared)
    return Tally(counts["win"], counts["loss"], counts["undecided"], has_seeds=bool(compared))


def has_seeds(comparison: Comparison, analysis: Results) -> bool:
    """Whether a comparison has enough models: two of each kind; one is enough for a spectrum, which has no seeds."""
    if comparison.low is not None:
        return True
    models = {kind.name: len(kind.representations) for kind in analysis.kinds}
    spectra = {row.kind for row in analysis.rows if row.module == SPECTRUM_MODULE}
    return all(models[name] > 1 or name in spectra for name in (comparison.first, comparison.second))


def opponents(analysis: Results) -> tuple[list[str], list[Opponent]]:
    """Groups of measures with comparisons, and the outcomes of the first kind against each other kind, by group."""
    if not analysis.kinds:
        return [], []
    group_of = {measure.key: measure.group for measure in analysis.measures}
    seen = seen_from(analysis.kinds[0].name, analysis.comparisons)
    compared = {group_of[each.measure] for each in seen}
    groups = [group for group in dict.fromkeys(group_of.values()) if group in compared]
    rows = []
    for kind in analysis.kinds[1:]:
        against = [each for each in seen if each.second == kind.name]
        tallies = [tally([each for each in against if group_of[each.measure] == group], analysis) for group in groups]
        if against:
            rows.append(Opponent(kind.name, kind.is_control, tallies, tally(against, analysis)))
    return groups, rows


def _difference(comparison: Comparison, measure: Measure, analysis: Results) -> Difference:
    bounds = [comparison.difference, comparison.low, comparison.high]
    scale, unit = (100, " points") if measure.format == "percent" else (1, "")
    scaled = [None if value is None else scale * value for value in bounds]
    digits = 1 if measure.format != "number" else digits_for(scaled)
    write = partial(decimal, digits=digits, signed=True)
    value, low, high = scaled
    return Difference(
        measure.title,
        comparison.first,
        comparison.second,
        MISSING if value is None else write(value) + unit,
        interval(low, high, write) or MISSING,
        comparison.verdict if has_seeds(comparison, analysis) else NEEDS_SEEDS,
    )


# ---------------------------------------------------------------------- reconstruction and traversals


def quality_rows(entries: Sequence[Entry]) -> list[Quality]:
    """Reconstruction quality of every decoder, and the score of silence."""
    rows = []
    for entry in entries:
        score = _interval(entry.get("log_mel"))
        distance, silence = score["value"], _interval(entry.get("log_mel_of_silence"))["value"]
        rows.append(
            Quality(
                entry["kind"],
                entry["representation"],
                entry["module"],
                entry["decoder"],
                _quality_cell(score),
                write_value(silence, "number", 2),
                None if distance is None or silence is None else distance < silence,
                _quality_cell(_interval(entry.get("spectral"))),
                _quality_cell(_interval(entry.get("si_sdr")), digits=1),
            )
        )
    return rows


def _interval(score: Any) -> dict[str, float | None]:
    """Converts a score to a mapping: a number, `None`, or a mapping with `value` and optionally bounds."""
    if isinstance(score, Mapping):
        return {name: score.get(name) for name in ("value", "low", "high")}
    return {"value": score, "low": None, "high": None}


def _quality_cell(score: Mapping[str, float | None], digits: int = 2) -> Cell:
    write = partial(write_value, form="number", digits=digits)
    return Cell(write(score["value"]), interval(score["low"], score["high"], write))


def effect_tables(entries: Sequence[Entry]) -> list[EffectTable]:
    """Effects of traversals; a cell's share is relative to its factor's spread between utterances, at most 1."""
    tables = []
    for entry in entries:
        # The number of decimals follows from the variation of the factor: effects that round to 0 are negligible.
        digits = [digits_for([value]) for value in entry["spread"]]
        tables.append(
            EffectTable(
                entry["kind"],
                entry["representation"],
                entry["module"],
                entry["factors"],
                [write_value(value, "number", number) for value, number in zip(entry["spread"], digits, strict=True)],
                [write_value(value, "number", 2) for value in entry["conveyed"]],
                _selectivity(entry),
                f"{entry.get('deviations', 3.0):g}",
                _effect_rows(entry, digits),
            )
        )
    return tables


def _selectivity(entry: Entry) -> str:
    own, rotated = float(np.mean(entry["selectivity"])), entry["selectivity_of_random_axes"]
    text = f"selectivity {decimal(own)}, random axes {decimal(min(rotated))} to {decimal(max(rotated))}"
    if oracle := entry.get("oracle"):
        text += f", that of regression directions {decimal(float(np.mean(oracle['selectivity'])))}"
    return text


def _effect_rows(entry: Entry, digits: Sequence[int]) -> list[tuple[str, list[EffectCell]]]:
    oracle = entry.get("oracle") or {"targets": [], "values": []}
    values = np.array([*entry["values"], *oracle["values"]], dtype=float)  # null becomes NaN
    spread = np.array(entry["spread"], dtype=float)
    sizes = np.nan_to_num(np.divide(np.abs(values), spread, out=np.zeros_like(values), where=spread > 0))
    shares = sizes.clip(max=1)
    rows = []
    names = [
        f"{dimension}, of {target.split(',')[0]} ({decimal(correlation, 2, signed=True)})"
        for dimension, target, correlation in zip(
            entry["dimensions"], entry["targets"], entry["correlations"], strict=True
        )
    ]
    names += [f"direction of {target.split(',')[0]}" for target in oracle["targets"]]
    for name, row, row_shares in zip(names, values, shares, strict=True):
        cells = [
            EffectCell(decimal(value, number, signed=True), round(float(share), 3), bool(value < 0))
            if np.isfinite(value)
            else EffectCell(MISSING, 0.0, negative=False)
            for value, share, number in zip(row, row_shares, digits, strict=True)
        ]
        rows.append((name, cells))
    return rows
