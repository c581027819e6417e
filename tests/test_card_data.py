"""The origin of data and models is recorded on the training machine; comparable licenses are compared."""

import pytest
from datasets import ClassLabel, Dataset, Features, IterableDataset

from modeling_sim.data.corpora import load_corpus
from modeling_sim.data.corpora.contract import UNKNOWN_SPEAKER
from modeling_sim.data.licenses import check_license, known_licenses, refuse_looser
from modeling_sim.hub.card import data_flag, data_text, license_line, start_of
from modeling_sim.provenance import held_out_speakers, hours, hub_dataset, hub_id

LICENSES = {"corpus_license": "cc-by-4.0", "license": "cc-by-4.0", "base_license": None}
SIZES = {"train_utterances": 8, "test_utterances": 2, "train_hours": 0.5, "test_hours": 0.25}
RUN = {"corpus": "librispeech", "dataset_id": None, "base_model": None, **LICENSES, **SIZES}


def test_a_folder_that_is_named_like_a_hub_id_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub_id("a/b") == "a/b"
    assert hub_dataset("hub", None, {"dataset_id": "a/b"}) == "a/b"
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert hub_id("a/b") is None
    assert hub_dataset("hub", None, {"dataset_id": "a/b"}) is None
    for name in (None, "/a/b", "./a/b", "../a", "~/a", "C:\\a", "a/b/c"):
        assert hub_id(name) is None


def test_librispeech_from_a_folder_was_not_read_from_the_hub():
    assert hub_dataset("librispeech", None, {}) == "openslr/librispeech_asr"
    assert hub_dataset("librispeech", None, {"dataset_id": "org/mini"}) == "org/mini"
    assert hub_dataset("librispeech", "LibriSpeech", {}) is None
    assert hub_dataset("synthetic_syllables", None, {}) is None


def test_hours_are_those_of_all_recordings():
    data = load_corpus("synthetic_syllables", "train", num_train=4, num_test=2, num_speakers=2)
    seconds = sum(row["num_samples"] / row["sampling_rate"] for row in data)
    assert hours(data) == pytest.approx(seconds / 3600, abs=1e-4)
    assert hours(IterableDataset.from_generator(lambda: iter([{"num_samples": 1}]))) is None


def test_a_card_says_where_data_was_read_and_how_much_of_it():
    text = data_text(RUN)
    for fact in ("openslr/librispeech_asr", "folder", "10 utterances", "8 (0.50"):
        assert fact in text
    assert data_flag(RUN) == " --data_dir PATH_TO_LIBRISPEECH"
    from_hub = {**RUN, "dataset_id": "org/mini"}
    text = data_text(from_hub)
    assert "[org/mini](https://huggingface.co/datasets/org/mini)" in text
    assert "openslr" not in text
    assert "folder" not in text
    assert data_flag(from_hub) == ""
    assert "subset" in text
    assert "subset" not in data_text({**RUN, "train_utterances": 292_365})


def test_held_out_speakers_are_known_by_name_however_splits_number_them():
    train, test = (
        Dataset.from_dict({"speaker_id": values}, features=Features({"speaker_id": ClassLabel(names=names)}))
        for values, names in (([0, 1, 1], ["ann", "bea"]), ([0, 1, 0], ["bea", "cat"]))
    )
    assert held_out_speakers(train, test) == {"speakers": 2, "heard_in_training": 1}
    unknown = Dataset.from_dict({"speaker_id": [None, "cat"]})
    assert held_out_speakers(train, unknown) == {"speakers": 1, "heard_in_training": 0}
    assert held_out_speakers(train, unknown.select(range(1))) is None
    nameless = Dataset.from_dict({"speaker_id": [UNKNOWN_SPEAKER]})
    assert held_out_speakers(train, nameless) is held_out_speakers(nameless, test) is None
    assert held_out_speakers(train, train) == {"speakers": 2, "heard_in_training": 2}
    assert held_out_speakers(train, test.remove_columns("speaker_id")) is None
    assert held_out_speakers(IterableDataset.from_generator(lambda: iter([{"speaker_id": 1}])), test) is None


@pytest.mark.parametrize(
    ("speakers", "shared", "count", "share"),
    [
        (1, 1, "one speaker", "is in"),
        (1, 0, "one speaker", "is not in"),
        (20, 20, "20 speakers", "all of"),
        (20, 0, "20 speakers", "none of"),
        (20, 1, "20 speakers", "one of"),
        (20, 3, "20 speakers", "3 of"),
    ],
)
def test_a_card_says_how_many_held_out_speakers_are_in_the_training_data(speakers, shared, count, share):
    found = {"speakers": speakers, "heard_in_training": shared}
    held_out = data_text({**RUN, "held_out_speakers": found}).partition("2 (0.25 hours)")[2]
    assert count in held_out
    assert share in held_out.partition(count)[2]


def test_what_was_not_recorded_is_not_claimed():
    old = {name: RUN[name] for name in ("corpus", "corpus_license", "train_utterances", "test_utterances")}
    text = data_text(old)
    assert "read from" not in text
    assert "hours" not in text
    assert start_of(old, "a/b") == "`a/b`"


def test_generated_speech_needs_no_folder():
    made = {**RUN, "corpus": "synthetic_syllables", "corpus_license": "apache-2.0"}
    assert data_flag(made) == ""
    assert "folder" not in data_text(made)


def test_the_license_says_where_it_comes_from():
    assert license_line(RUN, None).startswith("CC BY 4.0, ")
    other = {**RUN, "corpus_license": "other", "license": "other"}
    assert license_line(other, None).startswith("not stated")
    stricter = license_line({**RUN, "license": "cc-by-nc-sa-4.0", "base_license": "cc-by-nc-sa-4.0"}, None)
    assert stricter.startswith("CC BY-NC-SA 4.0, ")
    assert "**not for commercial use**" in stricter
    assert known_licenses(other) == []
    assert known_licenses({**other, "base_license": "cc-by-4.0"}) == ["cc-by-4.0"]


@pytest.mark.parametrize(
    ("stated", "known"),
    [
        ("cc-by-4.0", "cc-by-nc-sa-4.0"),
        ("mit", "cc-by-4.0"),
        ("cc0-1.0", "cc-by-nc-sa-4.0"),  # an unknown license is not strict
        ("other", "cc-by-4.0"),
        ("cc-by-4.0", "openrail"),
    ],
)
def test_a_looser_license_is_refused(stated, known):
    with pytest.raises(ValueError, match=f"'{stated}'.*'(mit|{known})'"):
        refuse_looser(stated, ["mit", known] if known != "mit" else [known])


def test_terms_that_are_not_stated_may_be_those_of_a_model_that_began_from_a_known_license():
    own = {"corpus_license": "other", "license": "other", "base_license": "cc-by-4.0"}
    check_license("other", own)
    check_license("cc-by-4.0", own)
    for stated, training in (
        ("mit", own),
        ("other", {**own, "license": "cc-by-nc-4.0"}),
        ("mit", {**own, "license": "mit"}),
    ):
        with pytest.raises(ValueError, match=stated):
            check_license(stated, training)


def test_the_same_license_and_a_stricter_one_may_be_stated():
    refuse_looser("openrail", ["openrail"])
    refuse_looser("cc-by-nc-4.0", ["cc-by-4.0", "apache-2.0"])
    refuse_looser("anything", [])
