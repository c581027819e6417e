"""Tests the claims of the paper: tables and pictures of the scorecards in `results/`.

    python studies/paper_claims/make.py           # writes studies/paper_claims/results/claims.md and its pictures
    python studies/paper_claims/make.py --check   # fails if claims.md does not match the results

All numbers come from the results of `modeling-sim evaluate`. The first kind is Smooth InfoMax, and signs compare it
with each other kind.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from modeling_sim.evaluation.results import Results
from modeling_sim.files import replacing
from modeling_sim.plots import save_figure, style_of
from modeling_sim.settings import HelpFormatter
from studies import tables

_FOLDER = Path(__file__).resolve().parent

RESULTS = {
    "syllables": ("Synthetic syllables", _FOLDER / "results" / "syllables_small_analysis.json"),
    "artificial": ("The paper's artificial speech", _FOLDER / "results" / "artificial_small_analysis.json"),
}


PAGE = _FOLDER / "results" / "claims.md"


# Measures of the paper's claims, and of objections to them.
MEASURES = (
    "linear_accuracy",
    "abx_within",
    "wasserstein",
    "wasserstein_standardized",
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


# Measures whose values are meaningless without the null value of each model.
NULLS = {"traversal_selectivity": "The same, random axes"}


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


# Controls have the color of their model, and are hollow.
_COLORS = {kind: style_of(KINDS.index(kind.split(" + ")[0])).color for kind in KINDS if kind != "log-mel"}


_EXPLANATION = (
    "Made by `python studies/paper_claims/make.py` from the results next to it. Means over models of different seeds. "
    "**+** and **\N{MINUS SIGN}** say that SIM is better or worse than the method of that column with 95 % over seeds, "
    "in the direction fixed beforehand; no sign means undecided, or that the measure has no direction. The report of "
    "`modeling-sim evaluate` says what each measure is, and so do the results themselves."
)


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
    lines = ["# Which of the paper's claims hold", "", _EXPLANATION]
    for name, (title, path) in RESULTS.items():
        analysis = Results.read(path)
        lines += ["", f"## {title}", "", f"![{title}: scores of every model](../images/{name}_small_claims.png)"]
        for module in tables.modules_of(analysis):
            lines += ["", f"### {title}, {module}", "", *table(analysis, module)]
    return "\n".join(lines) + "\n"


def table(analysis: Results, module: str) -> list[str]:
    """Lines of a Markdown table of one module; see `studies.tables.table`."""
    return tables.table(analysis, module, kinds=KINDS, measures=MEASURES, nulls=NULLS)


def draw(analysis: Results, title: str) -> Figure:
    """Every model as a point; see `studies.tables.draw`."""
    modules = [module for module in tables.modules_of(analysis) if module != "context"]
    title = f"{title}: a point per model; controls are hollow"
    return tables.draw(analysis, title, colors=_COLORS, measures=_DRAWN, modules=modules)


if __name__ == "__main__":
    sys.exit(main())
