"""Features on disk are made once, complete or not at all, and never mistaken for others."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from modeling_sim import SimConfig, SimFeatureExtractor, SimModel
from modeling_sim.data.audio import AudioError
from modeling_sim.data.corpora import load_corpus
from modeling_sim.evaluation.feature_store import stored_items
from modeling_sim.evaluation.features import extract
from modeling_sim.evaluation.representations import SimModules, Spectra

CORPUS = {"num_train": 8, "num_test": 4, "num_speakers": 2}


@pytest.fixture(scope="module")
def corpus():
    return load_corpus("synthetic_syllables", "train", **CORPUS)


def model(seed=0):
    torch.manual_seed(seed)
    return SimModel(SimConfig.preset("sim-small", hidden_size=8, context_size=4)).eval()


def modules(model, *args, **more):
    return SimModules("sim", model, SimFeatureExtractor(), *args, **more)


def phones(corpus, representation, cache_dir, **more):
    settings = {"label": "phones", "pooling": "frame", "cache_dir": cache_dir, **more}
    return extract(corpus, representation, **settings)


def test_a_second_reading_encodes_nothing(corpus, tmp_path, monkeypatch):
    first = phones(corpus, modules(model(), range(4)), tmp_path)
    monkeypatch.setattr(SimModules, "encode", lambda *_: pytest.fail("encoded again"))
    second = phones(corpus, modules(model(), range(4)), tmp_path)
    assert isinstance(second.features["context"], np.memmap)
    for name, features in first.features.items():
        np.testing.assert_array_equal(features, second.features[name])
    np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_array_equal(first.utterances, second.utterances)


def test_what_the_features_depend_on_makes_them_others(corpus, tmp_path):
    phones(corpus, modules(model(), range(4)), tmp_path)
    phones(corpus, modules(model(1), range(4)), tmp_path)  # weights
    phones(corpus, modules(model(), [1]), tmp_path)  # modules
    phones(corpus, modules(model(), range(4), sample=True), tmp_path)
    phones(corpus, modules(model(), range(4), sample=True, seed=1), tmp_path)
    phones(corpus.select(range(4)), modules(model(), range(4)), tmp_path)  # data
    phones(corpus, modules(model(), range(4)), tmp_path, frame_step=8)
    phones(corpus, Spectra(), tmp_path)
    assert len(list(tmp_path.iterdir())) == 8


def test_a_seed_of_samples_does_not_matter_to_means(corpus, tmp_path):
    for seed in (0, 1):
        phones(corpus, modules(model(), [0], seed=seed), tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_writer_that_breaks_leaves_nothing(tmp_path):
    def write(writer):
        columns = {"labels": np.zeros(2), "speakers": np.zeros(2), "seconds": np.arange(2.0)}
        writer.add({"x": np.zeros((2, 3))}, utterances=np.array(["a", "a"]), **columns)
        raise OSError("no room")

    with pytest.raises(OSError, match=r"^no room$"):
        stored_items(tmp_path, {"key": 1}, write)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="label"):
        stored_items(tmp_path, {"key": 1}, lambda _: None)


def test_items_are_thinned_evenly_and_the_same_for_every_encoder(corpus, tmp_path):
    whole = phones(corpus, Spectra(), tmp_path)
    thinned = phones(corpus, Spectra(), tmp_path, max_items=100)
    other = phones(corpus, modules(model(), [0]), tmp_path, max_items=100)
    assert 60 < len(thinned.labels) < 140 < len(whole.labels)
    np.testing.assert_array_equal(thinned.labels, other.labels)
    assert set(thinned.utterances) == set(whole.utterances)


# ---------------------------------------------------------------------- what changes under the same name


@pytest.fixture
def recordings(tmp_path):
    """Writes recordings of two words under names and lengths that never change: `recordings(seed)` gives the corpus."""
    root = tmp_path / "words"

    def write(seed):
        for number in range(4):
            samples = np.random.default_rng([seed, number]).normal(0, 0.1, 8000)
            folder = root / f"word{number % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / f"{number}.wav", samples, 16_000, subtype="PCM_16")
        return load_corpus("folder", "all", data_dir=root, folder_label="word")

    return write


def words(corpus, cache_dir):
    return extract(corpus, Spectra(), label="word", pooling="mean", cache_dir=cache_dir).features["log-mel"]


@pytest.mark.parametrize("dated", [False, True])
def test_recordings_that_are_replaced_are_encoded_again(recordings, tmp_path, dated):
    """Under the same names and lengths, with the same data set at hand, and even with the times of the old files."""
    corpus = recordings(0)
    paths = [Path(audio["path"]) for audio in corpus["audio"]]
    if dated:
        for path in paths:
            os.utime(path, (1e9, 1e9))
    first = np.array(words(corpus, tmp_path / "cache"))
    times = [path.stat().st_mtime_ns for path in paths]
    again = recordings(1)
    for path, time in zip(paths, times, strict=True):
        os.utime(path, ns=(time, time))
    assert not np.allclose(first, words(corpus, tmp_path / "cache"))
    assert not np.allclose(first, words(again, tmp_path / "cache"))
    recordings(0)
    np.testing.assert_array_equal(first, words(corpus, tmp_path / "cache"))
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_files_that_are_moved_keep_their_features(recordings, tmp_path):
    root = tmp_path / "words"
    words(recordings(0), tmp_path / "cache")
    root.rename(tmp_path / "moved")
    words(load_corpus("folder", "all", data_dir=tmp_path / "moved", folder_label="word"), tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_recordings_that_change_while_they_are_read_are_refused(recordings, tmp_path, monkeypatch):
    corpus = recordings(0)
    encode = Spectra.encode

    def disturb(self, batch):
        recordings(1)
        return encode(self, batch)

    monkeypatch.setattr(Spectra, "encode", disturb)
    with pytest.raises(AudioError, match="recordings"):
        words(corpus, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("name", ["log-mel.float32", "columns.npz", "meta.json"])
def test_damaged_features_are_made_again(recordings, tmp_path, name):
    corpus = recordings(0)
    first = np.array(words(corpus, tmp_path / "cache"))
    (folder,) = (tmp_path / "cache").iterdir()
    with (folder / name).open("r+b") as file:
        file.truncate(7)
    np.testing.assert_array_equal(first, words(corpus, tmp_path / "cache"))


def test_a_cache_follows_the_umask(corpus, tmp_path):
    before = os.umask(0o022)
    try:
        phones(corpus, Spectra(), tmp_path / "cache")
    finally:
        os.umask(before)
    for path in (tmp_path / "cache").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644), path
