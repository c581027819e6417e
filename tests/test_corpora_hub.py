import io
import json
import pickle
import tarfile
import zipfile

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import soundfile
from datasets import Audio, DatasetDict

from modeling_sim.data.audio import AudioError, read_audio, read_header
from modeling_sim.data.corpora import load_corpus
from modeling_sim.data.corpora.alignments import num_label_frames
from modeling_sim.data.corpora.audio_file import AudioFile
from modeling_sim.data.corpora.scan import BadAudioError
from modeling_sim.text import say_once


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
    settings = {"id_column": None, "speaker_column": None, "label_columns": {"reader": "voice"}}
    corpus = load_corpus("hub", **arguments(folder, **settings))
    assert corpus["id"][:] == [f"train-{number:06d}" for number in range(12)]
    assert corpus.features["speaker_id"].names == ["unknown"]
    stream = load_corpus("hub", **arguments(folder, streaming=True, **settings))
    assert [row["id"] for row in stream] == corpus["id"][:]
    assert {row["speaker_id"] for row in stream} == {"unknown"}


@pytest.mark.parametrize("streaming", [False, True])
def test_speakers_are_known_by_the_usual_names(folder, syllables, streaming, capsys):
    say_once.cache_clear()
    corpus = load_corpus("hub", **arguments(folder, speaker_column=None, streaming=streaming))
    assert [str(row["speaker_id"]) for row in corpus] == [str(reader) for reader in syllables["reader"]]
    assert "reader" in capsys.readouterr().out


def test_files_of_one_name_have_ids_of_their_own_in_a_stream(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0.wav").write_bytes(wav(0))
    stream = load_corpus("hub", "train", dataset_id=str(tmp_path), streaming=True)
    for _ in range(2):
        assert [row["id"] for row in stream] == ["0", "0 (2)"]


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
        with pytest.raises(ValueError, match="color"):
            load_corpus("hub", **arguments(folder, label_columns=["color"], streaming=streaming))
    if "saved_splits" in folder.name:
        with pytest.raises(ValueError, match="'third'"):
            load_corpus("hub", **arguments(folder) | {"split": "third"})


def test_a_column_that_is_not_audio_is_named(folder):
    for streaming in (False, True):
        with pytest.raises(ValueError, match="`audio_column`"):
            load_corpus("hub", **arguments(folder, streaming=streaming) | {"audio_column": "f0"})


def test_a_single_data_set_is_not_its_own_test_split(syllables, tmp_path):
    syllables.save_to_disk(tmp_path / "saved")
    for split in ("test", "validation", "test[:2]", "train+validation"):
        for streaming in (False, True):
            with pytest.raises(ValueError, match="`split_by`"):
                load_corpus("hub", **arguments(tmp_path / "saved", streaming=streaming) | {"split": split})


@pytest.mark.parametrize("streaming", [False, True])
def test_slices_of_saved_data_sets_are_taken(syllables, tmp_path, streaming):
    names = syllables["name"][:]
    syllables.save_to_disk(tmp_path / "saved")
    halves = {"first-half": syllables.select(range(6)), "second": syllables.select(range(6, 12))}
    DatasetDict(halves).save_to_disk(tmp_path / "halves")

    def ids(folder, split):
        corpus = load_corpus("hub", **arguments(tmp_path / folder, streaming=streaming) | {"split": split})
        return [row["id"] for row in corpus]

    assert ids("saved", "train[:3]") == names[:3]
    assert ids("saved", "train[3:]") == names[3:]
    assert ids("saved", "train[:25%] + train[-2:]") == names[:3] + names[-2:]
    assert ids("saved", "all") == ids("halves", "all") == names
    assert ids("halves", "first-half[4:]+second[:1]") == names[4:7]
    for split in ("train[12:]", "train[x:]", "train[2]", "train["):
        with pytest.raises(ValueError, match="`split`"):
            ids("saved", split)


def test_a_saved_slice_is_all_of_its_split(syllables, tmp_path):
    syllables.to_parquet(tmp_path / "files" / "test.parquet")
    part = datasets.load_dataset(str(tmp_path / "files"), split="test[:4]")
    part.save_to_disk(tmp_path / "saved")
    assert len(load_corpus("hub", **arguments(tmp_path / "saved") | {"split": "test"})) == 4
    with pytest.raises(ValueError, match="'train'"):
        load_corpus("hub", **arguments(tmp_path / "saved"))


def test_slices_of_files_are_the_same_streamed(syllables, tmp_path):
    names = syllables["name"][:]
    syllables.to_parquet(tmp_path / "of_files" / "set" / "train.parquet")

    def ids(split, **more):
        return [
            row["id"]
            for row in load_corpus("hub", **arguments(tmp_path / "of_files" / "set", **more) | {"split": split})
        ]

    assert ids("train[2:5]") == ids("train[2:5]", streaming=True) == names[2:5]
    assert ids("train[10:99]") == ids("train[10:]", streaming=True) == names[10:]
    with pytest.raises(ValueError, match="`split`"):
        ids("train[:50%]", streaming=True)


def test_a_slice_is_divided(syllables, tmp_path):
    syllables.save_to_disk(tmp_path / "saved")
    settings = arguments(tmp_path / "saved", split_by="utterance", source_split="train[:6]", test_fraction=0.5)
    assert sorted(load_corpus("hub", **settings | {"split": "all"})["id"]) == syllables["name"][:][:6]


def test_rows_without_a_speaker_are_divided_as_one_speakers(syllables, tmp_path):
    saved = syllables.remove_columns("reader").add_column("reader", ["a", "b", None] * 4)
    saved.save_to_disk(tmp_path / "saved")
    settings = arguments(tmp_path / "saved", split_by="utterance", test_fraction=0.25)
    test = load_corpus("hub", **settings | {"split": "test"})
    assert sorted(test["speaker_id"], key=str) == [0, 1, None]


NUMBERS = range(4)


def waveform(number):
    return (0.1 * np.random.default_rng(number).standard_normal(4_000 + number)).astype("float32")


def wav(number):
    file = io.BytesIO()
    soundfile.write(file, waveform(number), 16_000, format="WAV", subtype="FLOAT")
    return file.getvalue()


def class_folders(folder):
    for number in NUMBERS:
        path = folder / "train" / "ab"[number % 2] / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wav(number))
        (path.parent / f"._{number}.wav").write_bytes(b"not audio")


def metadata(folder):
    for number in NUMBERS:
        (folder / f"{number}.wav").write_bytes(wav(number))
    rows = [{"file_name": f"{number}.wav", "mood": "ab"[number % 2]} for number in NUMBERS]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def archive(folder):
    with zipfile.ZipFile(folder / "train.zip", "w") as file:
        for number in NUMBERS:
            file.writestr(f"{number}.wav", wav(number))


def tar_shards(folder):
    for shard in range(2):
        with tarfile.open(folder / f"train-{shard:04d}.tar", "w") as file:
            for number in NUMBERS[2 * shard : 2 * shard + 2]:
                for name, content in ((f"{number}.wav", wav(number)), (f"{number}.json", b'{"mood": "a"}')):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    file.addfile(member, io.BytesIO(content))


def parquet_of(make, kind=None):
    def write(folder):
        for number in NUMBERS:
            (folder / "clips").mkdir(exist_ok=True)
            (folder / "clips" / f"{number}.audio").write_bytes(wav(number))
        column = pa.array([make(folder, number) for number in NUMBERS], kind)
        (folder / "data").mkdir()
        pa.parquet.write_table(pa.table({"audio": column}), folder / "data" / "train.parquet")

    return write


SAMPLES = {"array": pa.list_(pa.float32()), "path": pa.string(), "sampling_rate": pa.int32()}
FORMS = {
    "class folders": class_folders,
    "metadata": metadata,
    "zip": archive,
    "tar shards": tar_shards,
    "paths": parquet_of(lambda folder, number: str(folder / "clips" / f"{number}.audio")),
    "relative large paths": parquet_of(lambda _, number: f"clips/{number}.audio", pa.large_string()),
    "path alone": parquet_of(lambda _, number: {"path": f"clips/{number}.audio"}),
    "bytes": parquet_of(lambda _, number: wav(number)),
    "large bytes": parquet_of(lambda _, number: wav(number), pa.large_binary()),
    "bytes alone": parquet_of(lambda _, number: {"bytes": wav(number)}),
    "more than a file": parquet_of(lambda _, number: {"bytes": wav(number), "path": "x.wav", "sampling_rate": 8_000}),
    "samples": parquet_of(
        lambda _, number: {"array": waveform(number), "path": "x.wav", "sampling_rate": 16_000}, pa.struct(SAMPLES)
    ),
    "samples of a channel": parquet_of(lambda _, number: {"array": [waveform(number)], "sampling_rate": 16_000}),
    "samples of channels": parquet_of(
        lambda _, number: {"array": np.stack([waveform(number)] * 2, axis=1).tolist(), "sampling_rate": 16_000}
    ),
    "whole numbers": parquet_of(
        lambda _, number: {"array": np.round(waveform(number) * 32_768).astype(int), "sampling_rate": 16_000}
    ),
}


@pytest.fixture(params=FORMS)
def audio_files(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    FORMS[request.param](folder)
    return {"dataset_id": str(folder), "audio_column": "wav" if request.param == "tar shards" else "audio"}


@pytest.mark.parametrize("streaming", [False, True])
def test_audio_in_every_form_is_read_without_torchcodec(audio_files, streaming, monkeypatch):
    def refuse(*_):
        raise ImportError("torchcodec")

    monkeypatch.setattr(Audio, "encode_example", refuse)
    monkeypatch.setattr(Audio, "decode_example", refuse)
    corpus = load_corpus("hub", "train", streaming=streaming, **audio_files)
    if streaming:
        corpus = pickle.loads(pickle.dumps(corpus))  # noqa: S301 - as readers that are spawned get it
    found = sorted((read_audio(row["audio"]) for row in corpus), key=len)
    for number, samples in zip(NUMBERS, found, strict=True):
        np.testing.assert_allclose(samples, waveform(number), atol=2**-15)


def test_classes_of_folders_are_labels(tmp_path):
    class_folders(tmp_path)
    corpus = load_corpus("hub", "train", dataset_id=str(tmp_path), label_columns="label")
    assert corpus.features["label"].names == ["a", "b"]
    assert {row["id"]: row["label"] for row in corpus} == {"0": 0, "1": 1, "2": 0, "3": 1}


@pytest.mark.parametrize("streaming", [False, True])
def test_samples_and_paths_that_cannot_be_read_are_skipped(tmp_path, streaming):
    rows = [{"array": [0.1] * 800, "sampling_rate": 8_000}, {"array": [0.1], "sampling_rate": None}, None]
    paths = ["0.wav", None, "gone.wav"]
    (tmp_path / "0.wav").write_bytes(wav(0))
    pa.parquet.write_table(pa.table({"audio": rows, "file": paths}), tmp_path / "train.parquet")
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: train.parquet\n---\n")
    for column in ("audio", "file"):
        settings = {"dataset_id": str(tmp_path), "audio_column": column, "streaming": streaming}
        assert len(list(load_corpus("hub", "train", on_bad_audio="skip", **settings))) == 1
        with pytest.raises(BadAudioError):
            list(load_corpus("hub", "train", **settings))


def test_integers_of_full_scale_are_samples():
    audio = AudioFile().encode_example({"array": [-32768, 32767] * 400, "sampling_rate": 16_000})
    np.testing.assert_array_equal(read_audio(audio)[:2], np.float32([-1, 32767 / 32768]))


@pytest.mark.parametrize(
    ("array", "rate"),
    [
        (np.zeros((3000, 4000), np.float32), 16_000),
        (np.zeros((2, 2, 800)), 16_000),
        ([[0.0] * 800, [0.0] * 700], 16_000),
        (np.zeros(800), 0),
        (np.zeros(800), -1),
        (np.zeros(800), np.nan),
        (np.zeros(800), "16 kHz"),
        (np.zeros(800), 2**40),
    ],
)
def test_samples_that_no_file_can_hold_are_unusable_audio(array, rate):
    with pytest.raises(AudioError):
        read_header(AudioFile().encode_example({"array": array, "sampling_rate": rate}))


def test_samples_without_a_rate_are_no_audio(tmp_path):
    pa.parquet.write_table(pa.table({"audio": [{"array": [0.1, 0.2]}]}), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="audio"):
        load_corpus("hub", "train", dataset_id=str(tmp_path))


@pytest.mark.parametrize("streaming", [False, True])
def test_names_of_missing_speakers_are_no_speakers(syllables, tmp_path, streaming):
    for name, speaker in (("some", "a"), ("none", "")):
        cells = [speaker, None, "", "nan"] * 3
        corpus = syllables.remove_columns("reader").add_column("reader", cells)
        corpus.to_parquet(tmp_path / name / "train.parquet")
        found = load_corpus("hub", **arguments(tmp_path / name, streaming=streaming))
        if streaming:
            assert [row["speaker_id"] for row in found] == [speaker or "unknown", *["unknown"] * 3] * 3
        else:
            assert found.features["speaker_id"].names == [speaker or "unknown"]
            assert found["speaker_id"][:4] == ([0, None, None, None] if speaker else [0] * 4)


@pytest.mark.parametrize("streaming", [False, True])
def test_alignments_come_with_any_data_set(folder, tmp_path, streaming):
    corpus = load_corpus("hub", **arguments(folder))
    lengths = dict(zip(corpus["id"][:3], corpus["num_samples"][:3], strict=True))
    lines = [f"{name}\t{' '.join(['1'] * num_label_frames(length))}\n" for name, length in lengths.items()]
    (tmp_path / "labels.txt").write_text("".join(lines))
    aligned = load_corpus("hub", **arguments(folder, alignments=tmp_path / "labels.txt", streaming=streaming))
    assert aligned.features["phones"].feature.names == ["0", "1"]
    assert {row["id"] for row in aligned if row["phones"] is not None} == set(lengths)
