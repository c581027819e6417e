"""Features on disk are made once, whole or not at all, and never mistaken for others."""

import numpy as np
import pytest
import torch

from modeling_sim import SimConfig, SimFeatureExtractor, SimModel
from training.corpora import load_corpus
from training.feature_store import stored_items
from training.features import ModelEncoder, SpectralEncoder, extract

CORPUS = {"num_train": 8, "num_test": 4, "num_speakers": 2}


@pytest.fixture(scope="module")
def corpus():
    return load_corpus("synthetic_syllables", "train", **CORPUS)


def model(seed=0):
    torch.manual_seed(seed)
    return SimModel(SimConfig.preset("sim-small", hidden_size=8, context_size=4)).eval()


def phones(corpus, encoder, cache_dir, **more):
    settings = {"label": "phones", "pooling": "frame", "cache_dir": cache_dir, **more}
    return extract(corpus, encoder, SimFeatureExtractor(), **settings)


def test_a_second_reading_encodes_nothing(corpus, tmp_path, monkeypatch):
    first = phones(corpus, ModelEncoder(model(), range(4)), tmp_path)
    monkeypatch.setattr(ModelEncoder, "__call__", lambda *_: pytest.fail("encoded again"))
    second = phones(corpus, ModelEncoder(model(), range(4)), tmp_path)
    assert isinstance(second.features["context"], np.memmap)
    for name, features in first.features.items():
        np.testing.assert_array_equal(features, second.features[name])
    np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_array_equal(first.utterances, second.utterances)


def test_what_the_features_depend_on_makes_them_others(corpus, tmp_path):
    phones(corpus, ModelEncoder(model(), range(4)), tmp_path)
    phones(corpus, ModelEncoder(model(1), range(4)), tmp_path)  # weights
    phones(corpus, ModelEncoder(model(), [1]), tmp_path)  # modules
    phones(corpus, ModelEncoder(model(), range(4), sample=True), tmp_path)
    phones(corpus, ModelEncoder(model(), range(4), sample=True, seed=1), tmp_path)
    phones(corpus.select(range(4)), ModelEncoder(model(), range(4)), tmp_path)  # data
    phones(corpus, ModelEncoder(model(), range(4)), tmp_path, frame_step=8)
    phones(corpus, SpectralEncoder(), tmp_path)
    assert len(list(tmp_path.iterdir())) == 8


def test_a_seed_of_samples_does_not_matter_to_means(corpus, tmp_path):
    for seed in (0, 1):
        phones(corpus, ModelEncoder(model(), [0], seed=seed), tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_writer_that_breaks_leaves_nothing(tmp_path):
    def write(writer):
        writer.add({"x": np.zeros((2, 3))}, np.zeros(2), np.array(["a", "a"]), np.zeros(2))
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        stored_items(tmp_path, {"key": 1}, write)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="no item has a label"):
        stored_items(tmp_path, {"key": 1}, lambda _: None)


def test_items_are_thinned_evenly_and_the_same_for_every_encoder(corpus, tmp_path):
    whole = phones(corpus, SpectralEncoder(), tmp_path)
    thinned = phones(corpus, SpectralEncoder(), tmp_path, max_items=100)
    other = phones(corpus, ModelEncoder(model(), [0]), tmp_path, max_items=100)
    assert 60 < len(thinned.labels) < 140 < len(whole.labels)
    np.testing.assert_array_equal(thinned.labels, other.labels)
    assert set(thinned.utterances) == set(whole.utterances)
