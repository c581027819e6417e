"""The paper's probe does what its code is described to do."""

import numpy as np
import pytest
import torch

from modeling_sim.analysis.paper_probe import PaperSettings, items_tested, paper_predictions, paper_settings


def test_the_test_set_is_shuffled_and_cut_to_whole_batches():
    kept = items_tested(360, paper_settings("vowel"), seed=0)
    assert len(kept) == 320
    assert len(set(kept)) == 320
    assert not np.array_equal(kept, np.sort(kept))
    assert not np.array_equal(kept, items_tested(360, paper_settings("vowel"), seed=1))
    assert len(items_tested(20, paper_settings("vowel"), seed=0)) == 20  # less than a batch is kept


def test_each_label_has_the_papers_settings():
    assert paper_settings("syllable") == PaperSettings(50, 1e-3, 64)
    assert paper_settings("phones").learning_rate == 1e-4
    assert paper_settings("speaker_id").batch_size == 8


@pytest.mark.parametrize("name", ["features", "queries"])
def test_values_that_are_not_numbers_are_refused_by_name(name):
    arguments = {"features": np.eye(4), "queries": np.eye(4), "labels": np.arange(4)}
    arguments[name] = np.full((4, 4), np.nan)
    with pytest.raises(ValueError, match=f"`{name}`"):
        paper_predictions(**arguments, num_classes=4, settings=PaperSettings(1, 1e-3, 2), bias=True)


def test_features_are_not_standardized():
    """Tiny features, which a standardized probe reads perfectly, stay at chance: the paper's random baseline."""
    generator = np.random.default_rng(0)
    labels = generator.integers(3, size=600)
    features = np.eye(3)[labels] + 0.1 * generator.normal(size=(600, 3))
    arguments = {"num_classes": 3, "settings": PaperSettings(50, 1e-2, 64), "bias": False}

    def accuracy(scale, shift=0.0):
        inputs = (scale * features + shift).astype(np.float32)
        return (paper_predictions(inputs[:400], labels[:400], inputs[400:], **arguments) == labels[400:]).mean()

    assert accuracy(1.0) > 0.95
    assert accuracy(1e-4, shift=1.0) < 0.6


@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_plain_loop(bias):
    generator = np.random.default_rng(1)
    features, labels = generator.normal(size=(40, 4)).astype(np.float32), generator.integers(2, size=40)
    settings = PaperSettings(epochs=3, learning_rate=1e-2, batch_size=16, max_grad_norm=0.5)
    found = paper_predictions(features, labels, features, 2, settings=settings, bias=bias, seed=5)
    order = torch.Generator().manual_seed(5)
    weight = torch.nn.init.xavier_normal_(torch.empty(2, 4), generator=order).requires_grad_()
    offset = torch.zeros(2, requires_grad=True)
    parameters = [weight, offset] if bias else [weight]
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    for _ in range(3):
        permutation = torch.randperm(40, generator=order)
        for start in (0, 16):  # the last 8 do not fill a batch
            batch = permutation[start : start + 16]
            logits = torch.from_numpy(features)[batch] @ weight.T + (offset if bias else 0)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)[batch]).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 0.5)
            optimizer.step()
    logits = torch.from_numpy(features) @ weight.T + (offset if bias else 0)
    np.testing.assert_array_equal(found, logits.argmax(1).numpy())
