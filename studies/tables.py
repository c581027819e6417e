"""Tables and pictures of scorecards, used by several studies: a column or color per kind, a row per measure."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from modeling_sim.analysis.scorecard import DIRECTION_WORDS, SPECTRUM_MODULE
from modeling_sim.evaluation.results import Results
from modeling_sim.text import decimal

SIGNS = {"win": " +", "loss": " \N{MINUS SIGN}", "undecided": ""}
"""Signs of verdicts on the first kind."""


def table(
    analysis: Results, module: str, *, kinds: Sequence[str], measures: Sequence[str], nulls: Mapping[str, str]
) -> list[str]:
    """Lines of a Markdown table of one module: a row per measure, a column per kind, signs by the first kind.

    Args:
        analysis: The numbers.
        module: Name of a module.
        kinds: Columns, for those that were measured.
        measures: Keys of the rows.
        nulls: Names of further rows, by the measures whose values are meaningless without the model's own null value.
    """
    titles = {measure.key: measure for measure in analysis.measures}
    first = kinds[0]
    kinds = [kind for kind in kinds if any(values_of(analysis, key, module, kind) for key in measures)]
    lines = [f"| | {' | '.join(kinds)} |", f"|{' --- |' * (len(kinds) + 1)}"]
    for key in (key for key in measures if key in titles):
        measure = titles[key]
        columns = [values_of(analysis, key, module, kind) for kind in kinds]
        if not any(columns):
            continue
        factor = 100 if measure.format == "percent" else 1
        means = [factor * float(np.mean(column)) if column else None for column in columns]
        largest = max(abs(value) for value in means if value is not None)
        digits = 1 if factor == 100 else 3 if largest < 0.1 else 2
        cells = [
            decimal(value, digits) + SIGNS[_verdict(analysis, key, module, first, kind)]
            for kind, value in zip(kinds, means, strict=True)
        ]
        lines.append(f"| {measure.title}{', %' if factor == 100 else ''} | {' | '.join(cells)} |")
        if key in nulls:
            of_null = [values_of(analysis, key, module, kind, field="null") for kind in kinds]
            means = [float(np.mean(column)) if column else None for column in of_null]
            lines.append(f"| {nulls[key]} | {' | '.join(decimal(value, digits) for value in means)} |")
    return lines


def draw(
    analysis: Results, title: str, *, colors: Mapping[str, str], measures: Sequence[str], modules: Sequence[str]
) -> Figure:
    """Draws every model as a point: a row per measure, a column per module, a line per kind; controls are hollow."""
    known = {measure.key: measure for measure in analysis.measures}
    controls = {kind.name for kind in analysis.kinds if kind.is_control}
    # Kinds with a value, by measure.
    kinds = {
        key: [kind for kind in colors if any(values_of(analysis, key, module, kind) for module in modules)]
        for key in measures
        if key in known
    }
    kinds = {key: names for key, names in kinds.items() if names}
    heights = [len(names) for names in kinds.values()]
    figure = Figure(figsize=(10, 1.0 + 0.15 * sum(heights) + 0.65 * len(heights)), layout="constrained", dpi=120)
    axes = figure.subplots(len(kinds), len(modules), sharex="row", sharey="row", squeeze=False, height_ratios=heights)
    for (key, names), row in zip(kinds.items(), axes, strict=True):
        for module, axis in zip(modules, row, strict=True):
            for place, kind in enumerate(names):
                values = values_of(analysis, key, module, kind)
                color = colors[kind]
                inside = "white" if kind in controls else color
                axis.plot(values, [place] * len(values), "o", color=color, markerfacecolor=inside, markersize=5)
            if not any(len(line.get_xdata()) for line in axis.lines):
                axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", color="#999999", fontsize=8)
            axis.set_yticks(range(len(names)), names)
            axis.xaxis.set_major_locator(MaxNLocator(4))  # with more, long numbers would overlap
            axis.set_ylim(len(names) - 0.5, -0.5)
            axis.tick_params(length=0, labelsize=8)
            axis.grid(visible=True, axis="y", color="#dddddd", linewidth=0.6)
            axis.spines[["top", "right", "left"]].set_visible(False)
            axis.spines["bottom"].set_color("#999999")
            axis.set_xlabel(module, fontsize=8, color="#666666", labelpad=1)
        note = DIRECTION_WORDS[known[key].direction]
        row[0].set_title(f"{known[key].title}, {note}", loc="left", fontsize=9, fontweight="bold")
    figure.suptitle(title, fontsize=12)
    return figure


def modules_of(analysis: Results) -> list[str]:
    """Names of the modules, the context last."""
    names = {row.module for row in analysis.rows} - {SPECTRUM_MODULE}
    return sorted(names, key=lambda name: (name == "context", name))


def values_of(analysis: Results, measure: str, module: str, kind: str, field: str = "value") -> list[float]:
    """Values, or nulls, of the models of a kind; a spectrum, which has no modules, is shown with all."""
    return [
        getattr(row, field)
        for row in analysis.rows
        if row.measure == measure
        and row.kind == kind
        and row.module in (module, SPECTRUM_MODULE)
        and getattr(row, field) is not None
    ]


def _verdict(analysis: Results, measure: str, module: str, first: str, kind: str) -> str:
    """The verdict for a kind against another; "undecided" against itself."""
    for each in analysis.comparisons:
        if (each.measure, each.module, each.first, each.second) == (measure, module, first, kind):
            return each.verdict
    return "undecided"


def leave_only_vertical_lines(axis: Axes) -> None:
    """Removes everything except vertical lines and names from a panel with named rows."""
    axis.tick_params(length=0)
    axis.grid(visible=True, axis="x", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
