import datasets
import numpy as np
import pytest
from datasets import DatasetDict

from training.audio import read_audio
from training.corpora import load_corpus
from training.corpora.scan import BadAudioError


@pytest.fixture(scope="module")
def syllables():
    """Twelve utterances under other column names."""
    made = load_corpus("synthetic_syllables", num_train=12, num_syllables=1, cache=False)
    corpus = made.select_columns(["id", "audio", "speaker_id", "vowel", "f0"])
    corpus = corpus.add_column("mood", ["calm", "angry", "calm"] * 4)
    return corpus.rename_columns({"id": "name", "audio": "sound", "speaker_id": "reader"})


@pytest.fixture(scope="module", params=["parquet", "saved", "saved_splits"])
def folder(request, syllables, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "parquet":
        syllables.to_parquet(folder / "train-00000.parquet")
    elif request.param == "saved":
        syllables.save_to_disk(folder)
    else:
        halves = {"first": syllables.select(range(6)), "second": syllables.select(range(6, 12))}
        DatasetDict(halves).save_to_disk(folder)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)


def arguments(folder, **more):
    split = "first+second" if "saved_splits" in folder.name else "train"
    columns = {"audio_column": "sound", "id_column": "name", "speaker_column": "reader"}
    return {"split": split, "dataset_id": folder, **columns, **more}


def test_columns_are_chosen_by_name(folder, syllables):
    corpus = load_corpus("hub", **arguments(folder, label_columns={"mood": "state", "vowel": "vowel"}))
    assert set(corpus.column_names) == {"id", "audio", "speaker_id", "state", "vowel", "num_samples", "sampling_rate"}
    assert corpus["id"][:] == syllables["name"][:]
    assert corpus.features["speaker_id"] == syllables.features["reader"]
    assert corpus.features["state"].names == ["angry", "calm"]
    assert corpus["vowel"][:] == syllables["vowel"][:]
    for row, source in zip(corpus, syllables, strict=True):
        np.testing.assert_array_equal(read_audio(row["audio"]), read_audio(source["sound"]))
        assert row["num_samples"] == len(read_audio(row["audio"]))


def test_a_stream_gives_the_same_rows(folder):
    table = load_corpus("hub", **arguments(folder, label_columns=["vowel"]))
    stream = load_corpus("hub", **arguments(folder, label_columns=["vowel"], streaming=True))
    for row, streamed in zip(table, stream, strict=True):
        assert row["audio"]["bytes"] == streamed["audio"]["bytes"]
        assert {**row, "audio": None} == {**streamed, "audio": None}


def test_ids_and_speakers_are_made_where_there_are_none(folder):
    corpus = load_corpus("hub", **arguments(folder, id_column=None, speaker_column=None))
    assert corpus["id"][:] == [f"train-{number:06d}" for number in range(12)]
    assert corpus.features["speaker_id"].names == ["unknown"]
    stream = load_corpus("hub", **arguments(folder, id_column=None, speaker_column=None, streaming=True))
    assert [row["id"] for row in stream] == corpus["id"][:]


def test_a_set_without_a_test_split_is_divided(syllables, tmp_path):
    syllables.save_to_disk(tmp_path / "saved")
    settings = arguments(tmp_path / "saved", split_by="speaker", test_fraction=0.25)
    train, test = (load_corpus("hub", **{**settings, "split": split}) for split in ("train", "test"))
    assert len(train) + len(test) == 12
    assert not set(train["speaker_id"]) & set(test["speaker_id"])
    assert train.features == test.features


def test_rows_that_cannot_be_decoded_are_named(syllables, tmp_path):
    audio = syllables["sound"][:]
    audio[3] = {"path": "broken.wav", "bytes": b"not audio"}
    audio[5] = {"path": "empty.wav", "bytes": b""}
    audio[7] = {"path": None, "bytes": None}
    audio[9] = None
    broken = syllables.remove_columns("sound").add_column("sound", audio)
    broken.save_to_disk(tmp_path / "saved")
    settings = arguments(tmp_path / "saved")
    with pytest.raises(BadAudioError) as error:
        load_corpus("hub", **settings)
    assert [recording.id for recording in error.value.recordings] == [f"train-{row:06d}" for row in (3, 5, 7, 9)]
    kept = load_corpus("hub", on_bad_audio="skip", bad_audio_list=tmp_path / "bad.tsv", **settings)
    assert len(kept) == 8
    assert len((tmp_path / "bad.tsv").read_text().splitlines()) == 4
    stream = load_corpus("hub", on_bad_audio="skip", streaming=True, **settings)
    assert [row["id"] for row in stream] == kept["id"][:]


def test_a_column_or_split_that_is_not_there_is_named(folder):
    for streaming in (False, True):
        with pytest.raises(ValueError, match=r"no column colour; columns there: .*mood"):
            load_corpus("hub", **arguments(folder, label_columns=["colour"], streaming=streaming))
    if "saved_splits" in folder.name:
        with pytest.raises(ValueError, match="no split third; splits there: first, second"):
            load_corpus("hub", **arguments(folder) | {"split": "third"})


def test_a_column_that_is_not_audio_is_named(folder):
    for streaming in (False, True):
        with pytest.raises(ValueError, match=r"column f0 of .* not audio; give another `audio_column`"):
            load_corpus("hub", **arguments(folder, streaming=streaming) | {"audio_column": "f0"})


def test_a_single_data_set_is_not_its_own_test_split(syllables, tmp_path):
    syllables.save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="no split 'test'; set `split_by` to divide it"):
        load_corpus("hub", **arguments(tmp_path / "saved") | {"split": "test"})


def test_rows_without_a_speaker_are_divided_as_one_speakers(syllables, tmp_path):
    saved = syllables.remove_columns("reader").add_column("reader", ["a", "b", None] * 4)
    saved.save_to_disk(tmp_path / "saved")
    settings = arguments(tmp_path / "saved", split_by="utterance", test_fraction=0.25)
    test = load_corpus("hub", **settings | {"split": "test"})
    assert sorted(test["speaker_id"], key=str) == [0, 1, None]
