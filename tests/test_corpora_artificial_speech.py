import shutil
from collections import Counter

import numpy as np
import pytest
import soundfile

from modeling_sim.data.audio import read_audio, resampled_length
from modeling_sim.data.corpora import corpus_info, load_corpus

WORDS = {
    "train": ["babadu_1", "bagigi_1", "bagigi_2", "dudidi_1", "gagaga_2"],
    "test": ["babadu_2", "dudidi_2", "gabibu_1"],
}
SYLLABLES = {"train": ["babadu_1", "bagigi_1"], "test": ["babadu_1", "bagigi_1", "dudidi_1"]}


@pytest.fixture(scope="module", params=["wav", "flac"])
def data(request, tmp_path_factory):
    """A miniature of the published folders; test syllables are cut from take 2 and named take 1, as published."""
    root = tmp_path_factory.mktemp("artificial")
    for split, names in WORDS.items():
        folder = root / "reshuffledv2" / split
        folder.mkdir(parents=True)
        for name in names:
            soundfile.write(folder / f"{name}.{request.param}", 0.1 * np.sin(np.arange(30_000) / 20), 44_100)
    for split, names in SYLLABLES.items():
        folder = root / "split up data padded" / split
        folder.mkdir(parents=True)
        for name in names:
            word = name.split("_")[0]
            for place in range(3):
                syllable = word[2 * place : 2 * place + 2]
                path = folder / f"{name}_{place + 1}_{syllable}.{request.param}"
                soundfile.write(path, 0.1 * np.sin(np.arange(12_156) / 20), 22_050)
    return root


def both(data_dir, **settings):
    return [load_corpus("artificial_speech", split, data_dir=data_dir, **settings) for split in ("train", "test")]


def test_words_have_three_vowels_and_syllables(data):
    train, test = both(data)
    assert train["id"][:] == sorted(WORDS["train"])
    assert test["id"][:] == sorted(WORDS["test"])
    row = train[train["id"][:].index("bagigi_2")]
    assert (row["word"], row["take"], row["recording"]) == ("bagigi", 2, "bagigi_2")
    assert train.features["syllable"].feature.int2str(row["syllable"]) == ["ba", "gi", "gi"]
    assert train.features["vowel"].feature.int2str(row["vowel"]) == ["a", "i", "i"]
    assert train.features == test.features


def test_syllables_have_one_vowel_and_a_place(data):
    train, test = both(data, units="syllables")
    row = train[train["id"][:].index("bagigi_1_3_gi")]
    assert train.features["syllable"].int2str(row["syllable"]) == "gi"
    assert train.features["vowel"].int2str(row["vowel"]) == "i"
    assert (row["word"], row["position"]) == ("bagigi", 3)
    assert train.features == test.features


def test_takes_go_by_the_recording_so_that_ids_are_unique(data):
    train, test = both(data, units="syllables")
    assert set(train["take"]) == {1}
    assert set(test["take"]) == {2}
    assert "babadu_2_1_ba" in test["id"][:]
    assert len({*train["id"], *test["id"]}) == len(train) + len(test)


def test_unseen_skips_test_syllables_of_pretraining(data):
    train, test = both(data, units="syllables", protocol="unseen")
    # Take 2 of bagigi is a train word; take 2 of babadu and dudidi are test words.
    assert set(test["recording"]) == {"babadu_2", "dudidi_2"}
    assert len(train) == 6


@pytest.mark.parametrize("units", ["words", "syllables"])
def test_word_disjoint_splits_share_no_word(data, units):
    train, test = both(data, units=units, protocol="word_disjoint", test_fraction=0.4, seed=2)
    assert not set(train["word"]) & set(test["word"])
    everything = load_corpus("artificial_speech", "all", data_dir=data, units=units)
    assert sorted([*train["id"], *test["id"]]) == sorted(everything["id"])


def test_word_disjoint_words_and_syllables_of_one_seed_fit_together(data):
    for seed in range(3):
        settings = {"protocol": "word_disjoint", "test_fraction": 0.5, "seed": seed}
        train_words, test_words = both(data, **settings)
        everything = load_corpus("artificial_speech", "all", data_dir=data, units="syllables")
        expected = set(everything["word"]) & set(test_words["word"])
        if expected:
            test_syllables = load_corpus("artificial_speech", "test", data_dir=data, units="syllables", **settings)
            assert set(test_syllables["word"]) == expected
            assert not expected & set(train_words["word"])
        else:
            with pytest.raises(ValueError, match="'test' of artificial_speech"):
                load_corpus("artificial_speech", "test", data_dir=data, units="syllables", **settings)


def test_audio_comes_at_16_khz(data):
    for units, length, rate in (("words", 30_000, 44_100), ("syllables", 12_156, 22_050)):
        row = both(data, units=units)[0][0]
        assert (row["num_samples"], row["sampling_rate"]) == (length, rate)
        assert len(read_audio(row["audio"])) == resampled_length(length, rate, 16_000)


def test_the_license_is_stated():
    assert corpus_info("artificial_speech").license == "cc-by-nc-sa-4.0"


def test_what_is_wrong_is_named(data, tmp_path):
    with pytest.raises(ValueError, match="`protocol`"):
        both(data, protocol="random")
    with pytest.raises(ValueError, match="`units`"):
        both(data, units="phones")
    with pytest.raises(FileNotFoundError, match="reshuffledv2"):
        both(tmp_path)
    for split in ("train", "test"):
        (tmp_path / "reshuffledv2" / split).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"\.wav"):
        both(tmp_path)
    (tmp_path / "reshuffledv2" / "train" / "hello.wav").touch()
    with pytest.raises(ValueError, match=r"hello\.wav"):
        both(tmp_path)


@pytest.mark.real_data
def test_the_real_words(data_dir):
    train, test = both(data_dir / "artificial_speech")
    assert (len(train), len(test)) == (680, 171)
    assert len(set(train["word"]) & set(test["word"])) == 38
    seconds = np.array([*train["num_samples"], *test["num_samples"]]) / 44_100
    assert (seconds.min(), seconds.max()) == pytest.approx((0.680, 1.096), abs=0.001)
    assert set(train["sampling_rate"]) == {44_100}


@pytest.mark.real_data
def test_the_real_syllables_and_their_balance(data_dir):
    train, test = both(data_dir / "artificial_speech", units="syllables")
    assert (len(train), len(test)) == (2_181, 360)
    assert set(train["num_samples"]) | set(test["num_samples"]) == {12_156}
    counts = Counter(train.features["syllable"].int2str(train["syllable"][:]))
    assert set(counts.values()) == {241, 242, 243} | set(counts.values())
    assert min(counts.values()) >= 241
    assert max(counts.values()) <= 243
    assert Counter(test.features["vowel"].int2str(test["vowel"][:])) == {"a": 134, "i": 125, "u": 101}
    assert len({*train["id"], *test["id"]}) == 2_541


@pytest.mark.real_data
def test_the_real_splits(data_dir):
    folder = data_dir / "artificial_speech"
    words = {recording for corpus in both(folder) for recording in corpus["recording"]}
    pretraining = set(both(folder)[0]["recording"])
    published, unseen = (
        load_corpus("artificial_speech", "test", data_dir=folder, units="syllables", protocol=protocol)
        for protocol in ("published", "unseen")
    )
    assert set(published["recording"]) <= words
    assert len(set(published["recording"]) & pretraining) == 95
    assert len(set(unseen["recording"])) == 25
    assert not set(unseen["recording"]) & pretraining
    train, test = both(folder, protocol="word_disjoint")
    assert not set(train["word"]) & set(test["word"])
    assert len(train) + len(test) == 851


@pytest.mark.real_data
def test_the_real_test_syllables_are_cut_from_take_2(data_dir):
    """The claim that the corrected takes rest on, by correlation of the samples."""
    folder = data_dir / "artificial_speech"
    words = {
        row["recording"]: row["audio"]
        for corpus in both(folder)
        for row in corpus.select_columns(["recording", "audio"])
    }
    test = load_corpus("artificial_speech", "test", data_dir=folder, units="syllables")
    for row in test.select(range(0, 360, 30)):
        syllable = read_audio(row["audio"], sampling_rate=8_000)
        sounding = np.flatnonzero(np.abs(syllable) > 1e-3)
        syllable = syllable[sounding[0] : sounding[-1] + 1]

        def likeness(take, syllable=syllable, word=row["word"]):
            if f"{word}_{take}" not in words:
                return 0.0
            whole = read_audio(words[f"{word}_{take}"], sampling_rate=8_000)
            energy = np.convolve(whole**2, np.ones(len(syllable)), "valid") * np.sum(syllable**2)
            return (np.correlate(whole, syllable, "valid") / np.sqrt(energy)).max()

        assert likeness(2) > 0.8
        assert likeness(2) > likeness(1) + 0.1


def test_hidden_files_are_skipped(data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    folder = tmp_path / "data" / "reshuffledv2" / "train"
    (folder / "._babadu_1.wav").write_bytes(b"not audio")
    count = len(load_corpus("artificial_speech", "train", data_dir=data))
    assert len(load_corpus("artificial_speech", "train", data_dir=tmp_path / "data")) == count
