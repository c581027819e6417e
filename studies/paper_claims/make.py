"""Which of the paper's claims hold: tables and pictures of the scorecards in `results/`.

    python studies/paper_claims/make.py           # writes studies/paper_claims/results/claims.md and its pictures
    python studies/paper_claims/make.py --check   # fails if claims.md does not match the results

All numbers come from the results of `modeling-sim evaluate`. The first kind is Smooth InfoMax, and signs compare it
with each other kind.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from modeling_sim.analysis.scorecard import DIRECTION_WORDS, SPECTRUM_MODULE
from modeling_sim.evaluation.results import Results
from modeling_sim.files import replacing
from modeling_sim.plots import save_figure, style_of
from modeling_sim.settings import HelpFormatter
from modeling_sim.text import decimal

_FOLDER = Path(__file__).resolve().parent

RESULTS = {
    "syllables": ("Synthetic syllables", _FOLDER / "results" / "syllables_small_analysis.json"),
    "artificial": ("The paper's artificial speech", _FOLDER / "results" / "artificial_small_analysis.json"),
}


PAGE = _FOLDER / "results" / "claims.md"


# Measures of what the paper claims or its critics ask.
MEASURES = (
    "linear_accuracy",
    "abx_within",
    "wasserstein",
    "wasserstein_standardised",
    "mmd_whitened",
    "total_correlation",
    "gini",
    "rotation_gap",
    "dci_disentanglement",
    "mutual_information_gap",
    "traversal_selectivity",
    "path_ratio",
    "path_ratio_norm_corrected",
    "jump_ratio",
    "lipschitz_95",
    "clean_transitions",
    "curve_area_paper",
    "curve_area_paper_pca",
    "curve_area",
    "log_mel",
)


# Measures with a null value of each model's own, without which their values mean nothing.
NULLS = {"traversal_selectivity": "The same, turned axes"}


KINDS = ("SIM", "GIM", "GIM (Löwe)", "CPC", "GIM + PCA", "GIM + ICA", "GIM + noise", "log-mel")


_DRAWN = (
    "linear_accuracy",
    "wasserstein",
    "mmd_whitened",
    "total_correlation",
    "gini",
    "path_ratio",
    "lipschitz_95",
    "curve_area_paper",
    "curve_area_paper_pca",
    "curve_area",
)


# The color of a model is that of its controls, which are hollow.
_COLORS = {kind: style_of(KINDS.index(kind.split(" + ")[0])).color for kind in KINDS if kind != "log-mel"}


_EXPLANATION = (
    "Made by `python studies/paper_claims/make.py` from the results next to it. Means over models of different seeds. "
    "**+** and **\N{MINUS SIGN}** say that SIM is better or worse than the method of that column with 95 % over seeds, "
    "in the direction fixed beforehand; no sign means undecided, or that the measure has no direction. The report of "
    "`modeling-sim evaluate` says what each measure is, and so do the results themselves."
)


_SIGNS = {"win": " +", "loss": " \N{MINUS SIGN}", "undecided": ""}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--check", action="store_true", help="Write nothing; fail if claims.md is not up to date.")
    arguments = parser.parse_args(argv)
    page = render_page()
    if arguments.check:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page:
            raise SystemExit(f"{PAGE.name} is not what the results give; run `python studies/paper_claims/make.py`.")
        return
    with replacing(PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    for name, (title, path) in RESULTS.items():
        save_figure(draw(Results.read(path), title), _FOLDER / "images" / f"{name}_small_claims.png")


def render_page() -> str:
    """The page with a table for each corpus and module."""
    lines = ["# What holds of the paper's claims", "", _EXPLANATION]
    for name, (title, path) in RESULTS.items():
        analysis = Results.read(path)
        lines += ["", f"## {title}", "", f"![{title}: scores of every model](../images/{name}_small_claims.png)"]
        for module in modules_of(analysis):
            lines += ["", f"### {title}, {module}", "", *table(analysis, module)]
    return "\n".join(lines) + "\n"


def table(analysis: Results, module: str) -> list[str]:
    """Lines of a Markdown table of one module: a row per measure, a column per kind.

    Args:
        analysis: Results of `modeling-sim evaluate`.
        module: Name of a module.
    """
    titles = {measure.key: measure for measure in analysis.measures}
    kinds = [kind for kind in KINDS if any(values_of(analysis, key, module, kind) for key in MEASURES)]
    lines = [f"| | {' | '.join(kinds)} |", f"|{' --- |' * (len(kinds) + 1)}"]
    for key in (key for key in MEASURES if key in titles):
        measure = titles[key]
        columns = [values_of(analysis, key, module, kind) for kind in kinds]
        if not columns[0]:
            continue
        factor = 100 if measure.format == "percent" else 1
        means = [factor * float(np.mean(column)) if column else None for column in columns]
        largest = max(abs(value) for value in means if value is not None)
        digits = 1 if factor == 100 else 3 if largest < 0.1 else 2
        cells = [
            decimal(value, digits) + _SIGNS[_verdict(analysis, key, module, kind)]
            for kind, value in zip(kinds, means, strict=True)
        ]
        lines.append(f"| {measure.title}{', %' if factor == 100 else ''} | {' | '.join(cells)} |")
        if key in NULLS:
            nulls = [values_of(analysis, key, module, kind, field="null") for kind in kinds]
            means = [float(np.mean(column)) if column else None for column in nulls]
            lines.append(f"| {NULLS[key]} | {' | '.join(decimal(value, digits) for value in means)} |")
    return lines


def draw(analysis: Results, title: str) -> Figure:
    """Every model as a point: a row per measure, a column per module, a line per kind within."""
    measures = {measure.key: measure for measure in analysis.measures}
    modules = [module for module in modules_of(analysis) if module != "context"]
    # Kinds that the measure is known of, by measure.
    kinds = {
        key: [kind for kind in _COLORS if any(values_of(analysis, key, module, kind) for module in modules)]
        for key in _DRAWN
        if key in measures
    }
    heights = [len(names) for names in kinds.values()]
    figure = Figure(figsize=(10, 1.0 + 0.15 * sum(heights) + 0.65 * len(heights)), layout="constrained", dpi=120)
    axes = figure.subplots(len(kinds), len(modules), sharex="row", sharey="row", squeeze=False, height_ratios=heights)
    for (key, names), row in zip(kinds.items(), axes, strict=True):
        for module, axis in zip(modules, row, strict=True):
            for place, kind in enumerate(names):
                values = values_of(analysis, key, module, kind)
                color = _COLORS[kind]
                inside = "white" if "+" in kind else color
                axis.plot(values, [place] * len(values), "o", color=color, markerfacecolor=inside, markersize=5)
            if not any(len(line.get_xdata()) for line in axis.lines):
                axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", color="#999999", fontsize=8)
            axis.set_yticks(range(len(names)), names)
            axis.set_ylim(len(names) - 0.5, -0.5)
            axis.tick_params(length=0, labelsize=8)
            axis.grid(visible=True, axis="y", color="#dddddd", linewidth=0.6)
            axis.spines[["top", "right", "left"]].set_visible(False)
            axis.spines["bottom"].set_color("#999999")
            axis.set_xlabel(module, fontsize=8, color="#666666", labelpad=1)
        note = DIRECTION_WORDS[measures[key].direction]
        row[0].set_title(f"{measures[key].title}, {note}", loc="left", fontsize=9, fontweight="bold")
    figure.suptitle(f"{title}: a point per model; controls are hollow", fontsize=12)
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


def _verdict(analysis: Results, measure: str, module: str, kind: str) -> str:
    """The verdict for the first kind against another; "undecided" against itself."""
    for each in analysis.comparisons:
        if (each.measure, each.module, each.first, each.second) == (measure, module, KINDS[0], kind):
            return each.verdict
    return "undecided"


if __name__ == "__main__":
    sys.exit(main())
