import json

import numpy as np
import pytest
import soundfile
from datasets import ClassLabel

from training.audio import read_audio
from training.corpora import load_corpus
from training.corpora.scan import BadAudioError

FILES = ["alice/one.wav", "alice/two.flac", "alice/deep/three.ogg", "bob/four.mp3", "bob/five.wav", "bob/six.wav"]


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "recordings"
    for number, name in enumerate(FILES):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        rate = (16_000, 44_100)[number % 2]
        soundfile.write(root / name, 0.1 * np.sin(np.arange(rate) / 9), rate)
    (root / "notes.txt").write_text("not audio")
    return root


def write_manifest(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        delimiter = {".csv": ",", ".tsv": "\t"}[path.suffix]
        lines = [delimiter.join(rows[0]), *(delimiter.join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    return path


ROWS = [
    {"file": "alice/one.wav", "speaker_id": "alice", "mood": "calm", "note": "x", "split": "train"},
    {"file": "alice/two.flac", "speaker_id": "alice", "mood": "angry", "note": "y", "split": "dev"},
    {"file": "bob/four.mp3", "speaker_id": "bob", "mood": "calm", "note": "z", "split": "train"},
]


def test_every_kind_of_file_is_found(tree):
    corpus = load_corpus("folder", "all", data_dir=tree)
    assert sorted(corpus["id"]) == sorted(name.rsplit(".", 1)[0] for name in FILES)
    assert corpus.features["speaker_id"].names == ["unknown"]
    for row in corpus:
        assert len(read_audio(row["audio"])) == pytest.approx(16_000, abs=100)


def test_folders_may_be_labels(tree):
    corpus = load_corpus("folder", "all", data_dir=tree, folder_label="speaker_id")
    assert corpus.features["speaker_id"].names == ["alice", "bob", "deep"]
    speakers = dict(zip(corpus["id"], corpus["speaker_id"], strict=True))
    assert speakers["bob/four"] == 1
    corpus = load_corpus("folder", "all", data_dir=tree, folder_label="word")
    assert corpus.features["word"] == ClassLabel(names=["alice", "bob", "deep"])


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_a_manifest_names_files_labels_and_splits(tree, tmp_path, suffix):
    manifest = write_manifest(tmp_path / f"manifest.{suffix}", ROWS)
    train = load_corpus("folder", data_dir=tree, manifest=manifest, label_columns=["mood"])
    dev = load_corpus("folder", "dev", data_dir=tree, manifest=manifest, label_columns=["mood"])
    assert train["id"][:] == ["alice/one", "bob/four"]
    assert dev["id"][:] == ["alice/two"]
    assert train["note"][:] == ["x", "z"]
    assert train.features["speaker_id"].names == ["alice", "bob"]
    assert train.features["mood"] == dev.features["mood"] == ClassLabel(names=["angry", "calm"])
    assert train["mood"][:] == [1, 1]
    assert "split" not in train.column_names
    with pytest.raises(ValueError, match=r"`split` is 'test'; the manifest has \['dev', 'train'\]"):
        load_corpus("folder", "test", data_dir=tree, manifest=manifest)


def test_a_row_without_a_label_has_none(tree, tmp_path):
    rows = [ROWS[0], {"file": "bob/five.wav", "split": "train"}]
    corpus = load_corpus(
        "folder", data_dir=tree, manifest=write_manifest(tmp_path / "m.jsonl", rows), label_columns=["mood"]
    )
    assert corpus["mood"][:] == [0, None]
    assert corpus.features["speaker_id"].names == ["alice"]
    assert corpus["speaker_id"][:] == [0, None]


def test_a_rule_divides_the_speakers(tree):
    settings = {"data_dir": tree, "folder_label": "speaker_id", "split_by": "speaker"}
    train, test = (load_corpus("folder", split, **settings) for split in ("train", "test"))
    assert not set(train["speaker_id"]) & set(test["speaker_id"])
    assert len(train) + len(test) == 6


def test_lists_divide_by_id(tree, tmp_path):
    (tmp_path / "train.txt").write_text("bob/five\nbob/gone\n")
    with pytest.raises(BadAudioError, match=r"bob/gone.*no such file"):
        load_corpus("folder", data_dir=tree, lists=tmp_path)
    kept = load_corpus("folder", data_dir=tree, lists=tmp_path, folder_label="speaker_id", on_bad_audio="skip")
    assert kept["id"][:] == ["bob/five"]


def test_two_files_of_one_id_are_named(tree):
    soundfile.write(tree / "bob" / "five.flac", np.zeros(4_000), 16_000)
    with pytest.raises(BadAudioError, match=r"bob/five .*a second recording of this id"):
        load_corpus("folder", "all", data_dir=tree)


def test_a_manifest_that_names_an_absent_file(tree, tmp_path):
    manifest = write_manifest(tmp_path / "m.csv", [*ROWS, {**ROWS[0], "file": "gone.wav"}])
    with pytest.raises(BadAudioError, match=r"gone\.wav: no such file"):
        load_corpus("folder", data_dir=tree, manifest=manifest)


def test_what_is_wrong_is_named(tree, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        load_corpus("folder", data_dir=tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no file with a suffix"):
        load_corpus("folder", data_dir=tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="`manifest`"):
        load_corpus("folder", data_dir=tree, manifest=tmp_path / "absent.csv")
    (tmp_path / "m.xml").write_text("x")
    with pytest.raises(ValueError, match=r"its suffix must be \.csv"):
        load_corpus("folder", data_dir=tree, manifest=tmp_path / "m.xml")
    with pytest.raises(ValueError, match=r"no column `file`.*columns there: path, note"):
        load_corpus(
            "folder", data_dir=tree, manifest=write_manifest(tmp_path / "m.csv", [{"path": "x.wav", "note": "x"}])
        )
    manifest = write_manifest(tmp_path / "m.tsv", ROWS)
    with pytest.raises(ValueError, match="no column colour"):
        load_corpus("folder", data_dir=tree, manifest=manifest, label_columns=["colour"])


def test_a_manifest_that_is_not_of_its_format_is_named(tree, tmp_path):
    for name, content, message in (
        ("m.jsonl", b'{"file": "alice/one.wav"', "line 1: not JSON"),
        ("m.jsonl", b'{"file": "alice/one.wav"}\n[1]\n', "line 2: must be an object"),
        ("m.csv", b"file,mood\nalice/one.wav,calm,far\n", "row 1 has more cells than the header"),
        ("m.csv", b"file\ncaf\xe9.wav\n", "not text in UTF-8"),
        ("m.csv", b'file,text\nalice/one.wav,"Stop\nbob/five.wav,x\n', "line 3: not a table"),
        ("m.csv", b"file,mood,file\nalice/one.wav,calm,x\n", "two columns file"),
        ("m.csv", b"file,mood\n,calm\n", "row 1 has no `file`"),
        ("m.csv", b"\n", "has no rows"),
        ("m.jsonl", b"[" * 100_000, "line 1: not JSON"),
        ("m.jsonl", b'{"file": ["alice/one.wav"]}\n', "column file holds a list"),
        ("m.jsonl", b'{"file": "alice/one.wav", "speaker": {"a": 1}}\n', "column speaker holds a list"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}.*{message}"):
            load_corpus("folder", "all", data_dir=tree, manifest=tmp_path / name)


def test_lengths_come_from_the_files_and_not_from_a_manifest(tree, tmp_path):
    rows = [{**row, "num_samples": 3, "sampling_rate": 8, "audio": "x"} for row in ROWS]
    corpus = load_corpus("folder", "all", data_dir=tree, manifest=write_manifest(tmp_path / "m.jsonl", rows))
    assert corpus["num_samples"][:2] == [16_000, 44_100]
    gone = [*rows, {**rows[0], "file": "gone.wav"}]
    with pytest.raises(BadAudioError, match=r"gone\.wav: no such file"):
        load_corpus("folder", "all", data_dir=tree, manifest=write_manifest(tmp_path / "gone.jsonl", gone))


def test_one_label_column_may_be_given_by_its_name(tree, tmp_path):
    manifest = write_manifest(tmp_path / "m.csv", ROWS)
    corpus = load_corpus("folder", "all", data_dir=tree, manifest=manifest, label_columns="mood")
    assert corpus.features["mood"].names == ["angry", "calm"]


def test_a_folders_name_does_not_replace_what_every_corpus_has(tree):
    with pytest.raises(ValueError, match="`folder_label` is 'audio'"):
        load_corpus("folder", "all", data_dir=tree, folder_label="audio")


def test_links_are_followed_each_folder_once_and_a_link_to_nothing_is_named(tree, tmp_path):
    farm = tmp_path / "ünïcode and spaces"
    farm.mkdir()
    (farm / "recordings").symlink_to(tree)
    (tree / "loop").symlink_to(farm)
    corpus = load_corpus("folder", "all", data_dir=farm)
    assert sorted(corpus["id"]) == sorted(f"recordings/{name.rsplit('.', 1)[0]}" for name in FILES)
    (farm / "gone.wav").symlink_to(tree / "gone.wav")
    with pytest.raises(BadAudioError, match=r"gone\.wav: no such file"):
        load_corpus("folder", "all", data_dir=farm)


def test_one_speaker_cannot_be_divided_by_speaker(tree):
    with pytest.raises(ValueError, match="`split_by` is 'speaker', but all utterances have one, 'unknown'"):
        load_corpus("folder", "train", data_dir=tree, split_by="speaker")


def test_a_split_without_utterances_is_named(tree, tmp_path):
    manifest = write_manifest(tmp_path / "m.csv", [{"file": "bob/five.wav"}])
    with pytest.raises(ValueError, match="split 'test' of folder holds no utterance"):
        load_corpus("folder", "test", data_dir=tree, manifest=manifest)


def test_lists_that_share_an_utterance_are_refused(tree, tmp_path):
    (tmp_path / "train.txt").write_text("bob/four\nbob/five\n")
    (tmp_path / "test.txt").write_text("bob/five\r\n")
    for split in ("train", "test"):
        with pytest.raises(ValueError, match=r"share 1 utterances, such as 'bob/five'"):
            load_corpus("folder", split, data_dir=tree, lists=tmp_path)
