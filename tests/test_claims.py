"""The page of claims is what results give, and says of small results what can be seen in them."""

import io
from dataclasses import replace
from pathlib import Path

import pytest

from modeling_sim.analysis.scorecard import MEASURES, SPECTRUM_MODULE, Row, compare
from modeling_sim.evaluation.results import Results
from studies.paper_claims import make as claims

ROOT = Path(__file__).parent.parent


def analysis(**values):
    """Results of one module with these values, by measure and kind."""
    rows = [
        Row(kind, f"{kind}-{number}", SPECTRUM_MODULE if kind == "log-mel" else "module 2", measure, value)
        for measure, kinds in values.items()
        for kind, models in kinds.items()
        for number, value in enumerate(models)
    ]
    kinds = list(dict.fromkeys(row.kind for row in rows))
    return Results(
        corpus="c",
        corpus_license="mit",
        kinds=[],
        measures=[measure for measure in MEASURES if measure.key in values],
        rows=rows,
        comparisons=compare(rows, [(kinds[0], kind) for kind in kinds[1:]]),
    )


def test_the_page_is_what_the_results_give():
    assert claims.PAGE.read_text(encoding="utf-8") == claims.render_page()
    claims.main(["--check"])


def test_a_page_that_is_not_is_named(tmp_path, monkeypatch):
    page = tmp_path / "claims.md"
    monkeypatch.setattr(claims, "PAGE", page)
    with pytest.raises(SystemExit, match=r"claims\.md"):
        claims.main(["--check"])
    page.write_text(claims.render_page().replace("0.5", "0.6", 1), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"claims\.md"):
        claims.main(["--check"])


def test_a_table_holds_means_and_says_what_is_decided():
    results = analysis(
        linear_accuracy={"SIM": [0.9, 0.91, 0.92], "GIM": [0.5, 0.51, 0.52], "GIM + PCA": [0.89, 0.91, 0.93]},
        wasserstein={"SIM": [0.3, 0.31, 0.32], "GIM": [0.2, 0.21, 0.22], "GIM + PCA": [0.1, 0.5, 0.9]},
        gini={"SIM": [0.04, 0.05, 0.06]},
    )
    assert claims.table(results, "module 2") == [
        "| | SIM | GIM | GIM + PCA |",
        "| --- | --- | --- | --- |",
        "| Linear probe, % | 91.0 | 51.0 + | 91.0 |",
        "| W1 to N(0, 1) | 0.31 | 0.21 \N{MINUS SIGN} | 0.50 |",
        "| Gini of probe weights | 0.050 | - | - |",
    ]


def test_a_null_of_each_model_stands_below_the_measure():
    results = analysis(traversal_selectivity={"SIM": [0.5, 0.7], "GIM": [0.4, 0.4]})
    nulls = (0.2, 0.4, 0.35, None)
    results.rows = [replace(row, null=null) for row, null in zip(results.rows, nulls, strict=True)]
    assert claims.table(results, "module 2")[2:] == [
        "| Traversal selectivity | 0.60 | 0.40 |",
        "| The same, random axes | 0.30 | 0.35 |",
    ]


def test_a_spectrum_is_shown_with_every_module_and_a_kind_that_was_not_measured_with_none():
    results = analysis(linear_accuracy={"SIM": [0.9, 0.92], "log-mel": [0.72]})
    assert claims.table(results, "module 2")[0] == "| | SIM | log-mel |"
    assert claims.table(results, "module 2")[2] == "| Linear probe, % | 91.0 | 72.0 + |"


def test_the_picture_has_a_point_for_every_model_and_a_line_for_every_kind_that_is_measured():
    results = analysis(
        linear_accuracy={"SIM": [0.9, 0.91, 0.92], "GIM": [0.5, 0.51, 0.52]},
        path_ratio={"SIM": [1.5, 1.6], "GIM + noise": [1.4]},
    )
    figure = claims.draw(results, "Small results")
    assert [[len(line.get_xdata()) for line in axis.lines] for axis in figure.axes] == [[3, 3], [2, 1]]
    assert [[tick.get_text() for tick in axis.get_yticklabels()] for axis in figure.axes] == [
        ["SIM", "GIM"],
        ["SIM", "GIM + noise"],
    ]
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    assert drawn.getbuffer().nbytes > 5000
