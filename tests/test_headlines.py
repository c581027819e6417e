"""The five numbers at the top of the report: which are chosen, and what their signs say."""

import numpy as np
import pytest

from modeling_sim.analysis.scorecard import MEASURES, Row
from modeling_sim.evaluation.pictures import table
from modeling_sim.evaluation.results import Difference, Kind, Results
from modeling_sim.report.headlines import headline_module, headlines, light_of
from modeling_sim.report.tables import module_scores


def results(rows, differences=(), models=("a",), quality=()):
    keys = {row.measure for row in rows}
    return Results(
        corpus="c",
        corpus_license="mit",
        label="vowel",
        kinds=[Kind("SIM", "", False, list(models)), Kind("log-mel", "", True, ["log-mel"])],
        measures=[measure for measure in MEASURES if measure.key in keys],
        rows=list(rows),
        differences=list(differences),
        reconstruction_quality=list(quality),
    )


def row(measure, value, model="a", module="module 2", **bounds):
    return Row("SIM", model, module, measure, value, **bounds)


def test_a_sign_says_better_only_where_the_interval_excludes_no_difference_in_the_right_direction():
    for bounds, higher, lower in (
        ((0.1, 0.2), "better", "worse"),
        ((-0.2, -0.1), "worse", "better"),
        ((-0.1, 0.2), "undecided", "undecided"),
        ((0.0, 0.2), "undecided", "undecided"),
    ):
        assert light_of([bounds], lower_is_better=False) == higher
        assert light_of([bounds], lower_is_better=True) == lower
    assert light_of([(0.1, 0.2), (0.1, 0.3)], lower_is_better=False) == "better"
    assert light_of([(0.1, 0.2), (-0.1, 0.3)], lower_is_better=False) == "undecided"
    assert light_of([(0.1, 0.2), (-0.3, -0.1)], lower_is_better=False) == "undecided"


def test_each_number_has_its_own_control():
    found = results(
        [
            row("linear_accuracy", 0.8, low=0.75, high=0.85, null=0.3),
            row("best_dimension", 0.6, null=0.5),
            row("best_dimension_gap", 0.1, low=-0.02, high=0.2),
            row("log_mel", 2.0, low=1.9, high=2.1, null=4.0),
            row("traversal_selectivity", 0.2, low=0.1, high=0.25, null=0.3),
            row("dci_disentanglement", 0.5, null=0.1),
            row("dci_disentanglement_gap", 0.2, low=0.1, high=0.3),
        ],
        [
            Difference("a", "a untrained", "module 2", "linear_accuracy", 0.3, 0.2, 0.4),
            Difference("a", "log-mel", "module 2", "linear_accuracy", -0.05, -0.1, -0.01),
        ],
    )
    module, numbers = headlines(found)
    assert module == "module 2"
    assert len(numbers) == 5  # the sixth of the list is not shown
    assert [(each.value, each.control_value, each.light) for each in numbers] == [
        ("80.0 %", "50.0 %", "better"),
        ("80.0 %", "85.0 %", "worse"),
        ("0.60", "0.50", "undecided"),
        ("2.00", "4.00", "better"),
        ("0.20", "0.30", "worse"),
    ]
    assert numbers[0].difference == "+30.0 points (95 %: +20.0 to +40.0)"
    assert [each.lower_is_better for each in numbers] == [False, False, False, True, False]
    bars = [(each.share, each.control_share) for each in numbers]
    assert np.array(bars) == pytest.approx(np.array([(0.8, 0.5), (0.8, 0.85), (0.6, 0.5), (0.5, 1.0), (0.2, 0.3)]))


def test_numbers_without_an_interval_or_control_are_no_headlines():
    found = results([row("linear_accuracy", 0.8), row("log_mel", 2.0, low=1.9, high=2.1), row("best_dimension", 0.6)])
    assert headlines(found)[1] == []
    assert headlines(Results(corpus="c", corpus_license="mit", kinds=[], measures=[], rows=[])) == ("", [])


def test_an_interval_with_equal_ends_is_not_written():
    found = results(
        [row("linear_accuracy", 0.8, low=0.8, high=0.80001)],
        [Difference("a", "a untrained", "module 2", "linear_accuracy", 0.3, 0.3, 0.3)],
    )
    assert headlines(found)[1][0].difference == "+30.0 points"
    assert [cell.spread for cell in module_scores(found)[0].tables[0].rows[0].cells] == [""]
    assert "[" not in table(found)


def test_the_models_of_a_kind_have_to_agree():
    rows = [row("log_mel", 2.0, model, low=1.9, high=high, null=4.0) for model, high in (("a", 2.1), ("b", 4.1))]
    (number,) = headlines(results(rows, models=("a", "b")))[1]
    assert number.light == "undecided"
    assert number.basis == "first of 2 models; better than the control in 1"


@pytest.mark.parametrize(
    ("modules", "decoded", "chosen"),
    [
        (["module 0", "module 2", "context"], [], "module 2"),
        (["module 0", "module 2", "context"], ["module 0"], "module 0"),
        (["context"], [], "context"),
        ([], [], ""),
    ],
)
def test_the_module_of_the_headlines_is_chosen_without_its_numbers(modules, decoded, chosen):
    rows = [row("kl", 1.0, module=module) for module in modules]
    quality = [{"kind": "SIM", "representation": "a", "module": module} for module in decoded]
    assert headline_module(results(rows, quality=quality), ["a"]) == chosen
