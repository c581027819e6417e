"""The metrics of `evaluate` give what the functions behind them give, and combine."""

import evaluate
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from modeling_sim.analysis import abx
from modeling_sim.analysis.metrics import AbxError, GroupedAccuracy, GroupedMacroF1


@pytest.fixture
def task():
    generator = np.random.default_rng(0)
    references = generator.integers(4, size=300)
    predictions = np.where(generator.random(300) < 0.6, references, generator.integers(4, size=300))
    return {"references": references, "predictions": predictions, "groups": [f"u{item // 10}" for item in range(300)]}


def test_scores_are_scikit_learns_and_lie_in_their_intervals(task):
    scores = evaluate.combine([GroupedAccuracy(), GroupedMacroF1()]).compute(**task)
    assert scores["accuracy"] == pytest.approx(accuracy_score(task["references"], task["predictions"]))
    assert scores["macro_f1"] == pytest.approx(f1_score(task["references"], task["predictions"], average="macro"))
    for name in ("accuracy", "macro_f1"):
        assert scores[f"{name}_low"] < scores[name] < scores[f"{name}_high"]


def test_batches_add_up_and_one_group_has_no_interval(task):
    metric = GroupedAccuracy()
    for start in range(0, 300, 100):
        metric.add_batch(**{name: values[start : start + 100] for name, values in task.items()})
    assert metric.compute() == GroupedAccuracy().compute(**task)
    alone = GroupedAccuracy().compute(**{**task, "groups": ["u0"] * 300})
    assert alone["accuracy"] > 0.5
    assert np.isnan(alone["accuracy_low"])
    with pytest.raises(ValueError, match="`references`"):
        GroupedAccuracy().compute(**{**task, "references": [-100] * 300})


def test_abx_is_the_functions():
    generator = np.random.default_rng(1)
    phones, speakers = generator.integers(3, size=40).astype(str), generator.integers(2, size=40).astype(str)
    segments = [generator.normal(size=(3, 4)).astype(np.float32) + int(phone) for phone in phones]
    expected = abx(segments, list(phones), list(speakers), mode="across").error
    found = AbxError().compute(predictions=segments, references=phones, speakers=speakers, mode="across")
    assert found["abx_error"] == pytest.approx(expected)
