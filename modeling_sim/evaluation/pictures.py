"""The results of an evaluation as a table for the terminal and as pictures."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from modeling_sim.analysis.scorecard import SPECTRUM_MODULE, Measure, Row, features_name
from modeling_sim.evaluation.results import Results
from modeling_sim.plots import GRAY, plot_text, save_figure, style_of
from modeling_sim.text import counted, decimal, interval, percent, points, printable


def table(results: Results) -> str:
    """A table for the terminal: a row per feature, a column per measure with its interval, and differences below."""
    columns = [measure for measure in results.measures if measure.group == "Probes"] or results.measures
    task = f"{printable(results.label)} of {results.corpus}"
    lines = []
    if results.train_items:
        lines.append(f"{task}: {counted(results.train_items, 'item')} to train on, {results.test_items} to test on")
    if results.tokens:
        lines.append(f"{task}: ABX of {counted(results.tokens, 'token')}")
    lines += [f"95 % intervals over {results.intervals_over}"] * bool(results.intervals_over)
    rows = [["", *(measure.title for measure in columns)]]
    spectra = {row.representation for row in results.rows if row.module == SPECTRUM_MODULE}
    rows += [
        [printable(name), *(_cell(row.get(measure.key), measure) for measure in columns)]
        for name, row in results.by_features().items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines += ["", *("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)]
    lines += ["", "paired differences of accuracy"] * bool(results.differences)
    for each in results.differences:
        name = features_name(each.representation, each.module)
        against = each.against if each.against in spectra else features_name(each.against, each.module)
        difference = points(each.value) + _in_brackets(interval(each.low, each.high, points))
        lines.append(f"{printable(name)} - {printable(against)}: {difference}")
    return "\n".join(lines)


def _cell(row: Row | None, measure: Measure) -> str:
    if row is None:
        return "-"
    write = percent if measure.format == "percent" else decimal
    return write(row.value) + _in_brackets(interval(row.low, row.high, write))


def _in_brackets(text: str) -> str:
    return text and f" [{text}]"


def draw(results: Results, path: Path) -> None:
    """Draws a panel for the probe's accuracy, or for every measure of ABX: a color per kind, gray for controls.

    Seeds of one kind have different markers; the report uses the same colors.
    """
    shown = [measure for measure in results.measures if measure.key in (results.probe_measure, *_ABX)]
    by_features = list(results.by_features().items())[::-1]
    figure = Figure(figsize=(4 + 4 * len(shown), 1.2 + 0.32 * len(by_features)), layout="constrained", dpi=120)
    axes = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    styles = {
        name: (style_of(number).color, style_of(seed).marker)
        for number, kind in enumerate(kind for kind in results.kinds if not kind.is_control)
        for seed, name in enumerate(kind.representations)
    }
    for axis, measure in zip(axes, shown, strict=True):
        for height, (_, rows) in enumerate(by_features):
            row = rows.get(measure.key)
            if row is None or row.value is None:
                continue
            color, marker = styles.get(row.representation, (GRAY, "o"))
            spread = None if row.low is None or row.high is None else [[row.value - row.low], [row.high - row.value]]
            axis.errorbar(row.value, height, xerr=spread, fmt=marker, capsize=3, color=color)
        axis.set_xlim(left=0)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axis.set_xlabel(
            f"95 % intervals over {plot_text(results.intervals_over)}" if measure.key not in _ABX else "chance 50 %"
        )
        axis.set_title(measure.title, loc="left", fontsize=10)
        axis.grid(axis="x", alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(by_features)), [plot_text(name) for name, _ in by_features], fontsize=9)
    figure.suptitle(f"{plot_text(results.label)} of {plot_text(results.corpus)}", fontsize=11)
    save_figure(figure, path)


_ABX = ("abx_within", "abx_within_triphone", "abx_across", "abx_across_triphone")


def draw_confusion(results: Results, path: Path) -> None:
    """Draws which classes the best module of the first model confuses."""
    rows = [
        row for row in results.rows if (row.representation, row.measure) == (results.models[0], results.probe_measure)
    ]
    best = max(rows, key=lambda row: row.value or 0.0)
    counts = np.array(
        next(
            each["confusion"]
            for each in results.details
            if (each["representation"], each["module"], each["measure"])
            == (results.models[0], best.module, best.measure)
        ),
        dtype=float,
    )
    shown = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
    counts = counts[np.ix_(shown, shown)]
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    names = [plot_text(results.classes[number]) for number in shown]
    size = 2.5 + 0.2 * max(len(names), 10)
    figure = Figure(figsize=(size + 1, size), layout="constrained", dpi=120)
    axis = figure.subplots()
    picture = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    axis.set_title(f"{plot_text(results.label)}: {best.module}, {percent(best.value)}", loc="left", fontsize=11)
    figure.colorbar(picture, ax=axis, label="share of the true class", shrink=0.7)
    save_figure(figure, path)
