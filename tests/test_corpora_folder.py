import json
import os
import subprocess
import sys
from unicodedata import normalize

import numpy as np
import pytest
import soundfile
from datasets import ClassLabel

from modeling_sim.data.audio import read_audio
from modeling_sim.data.corpora import load_corpus
from modeling_sim.data.corpora.describe import describe
from modeling_sim.data.corpora.scan import BadAudioError
from modeling_sim.evaluation.features import extract
from modeling_sim.evaluation.representations import Spectra
from modeling_sim.text import say_once

FILES = ["alice/one.wav", "alice/two.flac", "alice/deep/three.ogg", "bob/four.mp3", "bob/five.wav", "bob/six.wav"]


@pytest.fixture
def tree(tmp_path):
    say_once.cache_clear()
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
    numbers = describe(corpus)
    assert (numbers["speakers"], numbers["classes"]) == (0, {})
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
    with pytest.raises(ValueError, match="`split`"):
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
    with pytest.raises(BadAudioError, match="bob/gone"):
        load_corpus("folder", data_dir=tree, lists=tmp_path)
    kept = load_corpus("folder", data_dir=tree, lists=tmp_path, folder_label="speaker_id", on_bad_audio="skip")
    assert kept["id"][:] == ["bob/five"]


def test_two_files_of_one_id_are_named(tree):
    soundfile.write(tree / "bob" / "five.flac", np.zeros(4_000), 16_000)
    with pytest.raises(BadAudioError, match="bob/five"):
        load_corpus("folder", "all", data_dir=tree)


def test_a_manifest_that_names_an_absent_file(tree, tmp_path):
    manifest = write_manifest(tmp_path / "m.csv", [*ROWS, {**ROWS[0], "file": "gone.wav"}])
    with pytest.raises(BadAudioError, match=r"gone\.wav"):
        load_corpus("folder", data_dir=tree, manifest=manifest)


def test_what_is_wrong_is_named(tree, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        load_corpus("folder", data_dir=tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"\.flac"):
        load_corpus("folder", data_dir=tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="`manifest`"):
        load_corpus("folder", data_dir=tree, manifest=tmp_path / "absent.csv")
    (tmp_path / "m.xml").write_text("x")
    with pytest.raises(ValueError, match=r"\.csv"):
        load_corpus("folder", data_dir=tree, manifest=tmp_path / "m.xml")
    with pytest.raises(ValueError, match="`file`"):
        load_corpus(
            "folder", data_dir=tree, manifest=write_manifest(tmp_path / "m.csv", [{"path": "x.wav", "note": "x"}])
        )
    manifest = write_manifest(tmp_path / "m.tsv", ROWS)
    with pytest.raises(ValueError, match="color"):
        load_corpus("folder", data_dir=tree, manifest=manifest, label_columns=["color"])


def test_a_manifest_that_is_not_of_its_format_is_named(tree, tmp_path):
    for name, content, message in (
        ("m.jsonl", b'{"file": "alice/one.wav"', "line 1.*JSON"),
        ("m.jsonl", b'{"file": "alice/one.wav"}\n[1]\n', "line 2.*`file`"),
        ("m.csv", b"file,mood\nalice/one.wav,calm,far\n", "row 1 .*header"),
        ("m.csv", b"file\ncaf\xe9.wav\n", "UTF-8"),
        ("m.csv", b'file,text\nalice/one.wav,"Stop\nbob/five.wav,x\n', "line 3.*quot"),
        ("m.csv", b"file,mood,file\nalice/one.wav,calm,x\n", "columns file"),
        ("m.csv", b"file,mood\n,calm\n", "row 1 .*`file`"),
        ("m.csv", b"\n", "rows.*`file`"),
        ("m.jsonl", b"[" * 100_000, "line 1.*JSON"),
        ("m.jsonl", b'{"file": ["alice/one.wav"]}\n', "column file .*list"),
        ("m.jsonl", b'{"file": "alice/one.wav", "speaker": {"a": 1}}\n', "column speaker .*list"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}.*{message}"):
            load_corpus("folder", "all", data_dir=tree, manifest=tmp_path / name)


def test_lengths_come_from_the_files_and_not_from_a_manifest(tree, tmp_path):
    rows = [{**row, "num_samples": 3, "sampling_rate": 8, "audio": "x"} for row in ROWS]
    corpus = load_corpus("folder", "all", data_dir=tree, manifest=write_manifest(tmp_path / "m.jsonl", rows))
    assert corpus["num_samples"][:2] == [16_000, 44_100]
    gone = [*rows, {**rows[0], "file": "gone.wav"}]
    with pytest.raises(BadAudioError, match=r"gone\.wav"):
        load_corpus("folder", "all", data_dir=tree, manifest=write_manifest(tmp_path / "gone.jsonl", gone))


def test_one_label_column_may_be_given_by_its_name(tree, tmp_path):
    manifest = write_manifest(tmp_path / "m.csv", ROWS)
    corpus = load_corpus("folder", "all", data_dir=tree, manifest=manifest, label_columns="mood")
    assert corpus.features["mood"].names == ["angry", "calm"]


def test_a_folders_name_does_not_replace_what_every_corpus_has(tree):
    with pytest.raises(ValueError, match="`folder_label`"):
        load_corpus("folder", "all", data_dir=tree, folder_label="audio")


def test_links_are_followed_each_folder_once_and_a_link_to_nothing_is_named(tree, tmp_path):
    farm = tmp_path / "ünïcode and spaces"
    farm.mkdir()
    (farm / "recordings").symlink_to(tree)
    (tree / "loop").symlink_to(farm)
    corpus = load_corpus("folder", "all", data_dir=farm)
    assert sorted(corpus["id"]) == sorted(f"recordings/{name.rsplit('.', 1)[0]}" for name in FILES)
    (farm / "gone.wav").symlink_to(tree / "gone.wav")
    with pytest.raises(BadAudioError, match=r"gone\.wav"):
        load_corpus("folder", "all", data_dir=farm)


def test_one_speaker_cannot_be_divided_by_speaker(tree):
    with pytest.raises(ValueError, match="`split_by`"):
        load_corpus("folder", "train", data_dir=tree, split_by="speaker")


def test_a_split_without_utterances_is_named(tree, tmp_path):
    manifest = write_manifest(tmp_path / "m.csv", [{"file": "bob/five.wav"}])
    with pytest.raises(ValueError, match="'test'"):
        load_corpus("folder", "test", data_dir=tree, manifest=manifest)


def test_a_folder_without_audio_is_named_and_no_setting_is(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"^{tmp_path} "):  # `embed` has no `data_dir`
        load_corpus("folder", "all", data_dir=tmp_path)


def test_lists_that_share_an_utterance_are_refused(tree, tmp_path):
    (tmp_path / "train.txt").write_text("bob/four\nbob/five\n")
    (tmp_path / "test.txt").write_text("bob/five\r\n")
    for split in ("train", "test"):
        with pytest.raises(ValueError, match="'bob/five'"):
            load_corpus("folder", split, data_dir=tree, lists=tmp_path)


def load_text(tree, tmp_path, name, text, split="all", **settings):
    """The corpus of a manifest with the given text."""
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_corpus("folder", split, data_dir=tree, manifest=path, **settings)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.csv", "file,speaker_id,mood\nalice/one.wav,alice,calm\nbob/five.wav,bob,angry\n"),
        ("m.csv", "\ufefffile, speaker_id , mood\r\nalice/one.wav , alice,calm \r\nbob/five.wav,bob, angry\r\n"),
        ("m.csv", "\n file ,speaker_id,mood,,\nalice/one.wav,alice,calm,,\n,,,,\nbob/five.wav,bob,angry,,\n\n"),
        ("m.csv", "file;speaker_id;mood\nalice/one.wav;alice;calm\nbob/five.wav;bob;angry"),
        ("m.csv", '"file" , "speaker_id", "mood"\n"alice/one.wav" ,"alice" , "calm"\nbob/five.wav,bob,angry\n'),
        ("m.csv", "file\tspeaker_id\tmood\nalice/one.wav\talice\tcalm\nbob/five.wav\tbob\tangry\n"),
        ("m.csv", ",file,speaker_id,mood\n0,./alice//one.wav,alice,calm\n1,alice/../bob/five.wav,bob,angry\n"),
        ("m.csv", "file,speaker_id,mood\nalice\\one.wav,alice,calm\nbob\\five.wav,bob,angry\n"),
        ("m.tsv", '"file"\t"speaker_id"\t"mood"\n"alice/one.wav"\t"alice"\t"calm"\n"bob/five.wav"\t"bob"\t"angry"\n'),
        ("m.TSV", "file\tspeaker_id\tmood\nalice/one.wav\talice\tcalm\nbob/five.wav\tbob\tangry\n".encode("utf-16")),
        (
            "m.jsonl",
            '\ufeff{"file": "alice/one.wav", "speaker_id": " alice", "mood": "calm"}\r\n\n\ufeff'
            + json.dumps({" mood ": "angry ", "file": "bob/five.wav", "speaker_id": "bob"}),
        ),
    ],
)
def test_a_manifest_reads_the_same_whatever_program_wrote_it(tree, tmp_path, name, text):
    corpus = load_text(tree, tmp_path, name, text, label_columns="mood")
    assert corpus["id"][:] == ["alice/one", "bob/five"]
    assert corpus.features["speaker_id"].names == ["alice", "bob"]
    assert corpus.features["mood"].names == ["angry", "calm"]
    assert corpus["mood"][:] == [1, 0]
    assert set(corpus.column_names) == {"id", "audio", "num_samples", "sampling_rate", "speaker_id", "mood"}


def test_a_lone_quote_in_tabs_is_text(tree, tmp_path):
    text = 'file\tsentence\nalice/one.wav\t"Stop, he said\nbob/five.wav\tthey left" early\nbob/six.wav\t"\n'
    corpus = load_text(tree, tmp_path, "m.tsv", text)
    assert corpus["sentence"][:] == ['"Stop, he said', 'they left" early', '"']


def test_columns_of_any_kind_are_text_or_named(tree, tmp_path):
    rows = [
        {
            "file": "alice/one.wav",
            "id": 7,
            "age": "twenties",
            "ok": True,
            "n": 1,
            "big": 1,
            "take": 1.0,
            "half": "\ud83d",
        },
        {"file": "bob/five.wav", "id": 8.0, "age": 31, "ok": 1, "n": 2.5, "big": 2**70, "take": None},
        {"file": "bob/six.wav", "id": None, "age": None, "take": float("nan"), "late": "x"},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    corpus = load_text(tree, tmp_path, "m.jsonl", text, label_columns="take")
    assert corpus["id"][:] == ["7", "8", "bob/six"]
    assert corpus["age"][:] == ["twenties", "31", None]
    assert corpus["ok"][:] == ["True", "1", None]
    assert corpus["n"][:] == [1.0, 2.5, None]
    assert corpus["big"][:] == ["1", str(2**70), None]
    assert corpus["late"][:] == [None, None, "x"]
    assert corpus["half"][0] == r"\ud83d"
    assert corpus.features["take"].names == ["1"]
    assert corpus["take"][:] == [0, None, None]
    wrong = '{"file": "alice/one.wav", "x": {"a": 1}}\n{"file": "bob/five.wav", "x": {"a": "b"}}'
    with pytest.raises(ValueError, match="'x'"):
        load_text(tree, tmp_path, "m.jsonl", wrong)


def test_types_and_classes_do_not_depend_on_the_split(tree, tmp_path):
    text = '{"file": "alice/one.wav", "split": "train", "n": 1}\n{"file": "bob/five.wav", "split": "test", "n": "x"}\n'
    train, test = (load_text(tree, tmp_path, "m.jsonl", text, split) for split in ("train", "test"))
    assert train.features == test.features
    assert train["n"][:] == ["1"]


def test_split_counts_wherever_it_is_named(tree, tmp_path, capsys):
    splits = [{}, {"split": " test"}, {"split": None}]
    files = ["alice/one.wav", "bob/five.wav", "bob/six.wav"]
    text = "".join(json.dumps({"file": file, **own}) + "\n" for file, own in zip(files, splits, strict=True))
    assert load_text(tree, tmp_path, "m.jsonl", text, "test")["id"][:] == ["bob/five"]
    assert "2 of 3 rows" in capsys.readouterr().out
    with pytest.raises(ValueError, match="`split`"):
        load_text(tree, tmp_path, "m.jsonl", text, "train")


@pytest.mark.parametrize("column", ["speaker", "spk", "Speaker ID", "speaker-id", "client_id", "SPK_ID", "participant"])
def test_speakers_are_known_by_the_usual_names(tree, tmp_path, capsys, column):
    text = f"file,{column}\nalice/one.wav,7\nalice/two.flac,7\nbob/five.wav,9\nbob/six.wav,9\n"
    corpus = load_text(tree, tmp_path, "m.csv", text)
    assert corpus.features["speaker_id"].names == ["7", "9"]
    assert column in capsys.readouterr().out
    text = "file,voice no,Voice\nalice/one.wav,7,a\nbob/five.wav,9,b\n"
    own = load_text(tree, tmp_path, "m.csv", text, speaker_column="Voice")
    assert own.features["speaker_id"].names == ["a", "b"]
    with pytest.raises(ValueError, match="voice"):
        load_text(tree, tmp_path, "m.csv", text, speaker_column="voice")


def test_one_line_says_what_a_split_is_by(tree, tmp_path, capsys):
    for split in ("train", "test"):
        load_corpus("folder", split, data_dir=tree, folder_label="speaker_id", test_fraction=0.5)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("split by utterance: train ")
    assert "warning" in line
    load_corpus("folder", "train", data_dir=tree, folder_label="speaker_id", split_by="speaker")
    line = capsys.readouterr().out
    assert "speaker: train" in line
    assert line.endswith("of 1 speaker\n")
    assert "warning" not in line
    load_corpus("folder", "test", data_dir=tree)
    assert "warning" in capsys.readouterr().out
    (tmp_path / "train.txt").write_text("bob/five\n")
    (tmp_path / "test.txt").write_text("alice/one\n")
    load_corpus("folder", "test", data_dir=tree, lists=tmp_path, folder_label="speaker_id")
    assert "list: train 1" in capsys.readouterr().out
    (tmp_path / "train.txt").write_text("alice/two\n")
    load_corpus("folder", "test", data_dir=tree, lists=tmp_path, folder_label="speaker_id")
    line = capsys.readouterr().out
    assert "1 speaker with" in line
    assert "warning" not in line


@pytest.mark.parametrize("other", ["alice/copy.wav", "alice/link.wav", "bob/../alice/one.wav", "linked/one.wav"])
def test_one_file_in_two_splits_is_refused(tree, tmp_path, other):
    (tree / "alice" / "copy.wav").hardlink_to(tree / "alice" / "one.wav")
    (tree / "alice" / "link.wav").symlink_to("one.wav")
    (tree / "linked").symlink_to("alice")
    text = f"file,id,split\nalice/one.wav,a,train\n{other},b,{{}}\n"
    with pytest.raises(ValueError, match=r"m\.csv"):
        load_text(tree, tmp_path, "m.csv", text.format("test"), "train")
    with pytest.raises(BadAudioError, match=r"recordings/"):
        load_text(tree, tmp_path, "m.csv", text.format("train"), "train")
    with pytest.raises(ValueError, match=r"m\.csv"):
        load_text(tree, tmp_path, "m.csv", "file,id,split\nbob/five.wav,a,train\nbob/six.wav,a,test\n", "train")


def test_a_manifest_stays_below_the_folder(tree, tmp_path):
    soundfile.write(tmp_path / "secret.wav", np.zeros(4_000), 16_000)
    for outside in ("../secret.wav", str(tmp_path / "secret.wav"), "alice/../../secret.wav", "..\\secret.wav"):
        with pytest.raises(ValueError, match=rf"secret\.wav.*{tmp_path}"):
            load_text(tree, tmp_path, "m.csv", f"file\nbob/five.wav\n{outside}\n")
    corpus = load_text(tree, tmp_path, "m.csv", f"file\n{tree}/bob/five.wav\n")
    assert corpus["id"][:] == ["bob/five"]


def test_hidden_files_and_links_count_no_recording_twice(tree):
    (tree / ".git" / "annex").mkdir(parents=True)
    for name in FILES:
        hidden = tree / ".git" / "annex" / name.replace("/", "-")
        (tree / name).rename(hidden)
        (tree / name).symlink_to(hidden)
    (tree / "bob" / "._five.wav").write_bytes(b"x")
    corpus = load_corpus("folder", "all", data_dir=tree)
    assert sorted(corpus["id"]) == sorted(name.rsplit(".", 1)[0] for name in FILES)


def test_columns_that_have_another_use_hold_no_classes(tree, tmp_path):
    manifest = write_manifest(tmp_path / "m.csv", ROWS)
    for column in ("id", "audio", "file", "split"):
        with pytest.raises(ValueError, match="`folder_label`"):
            load_corpus("folder", data_dir=tree, manifest=manifest, folder_label=column)
    with pytest.raises(ValueError, match="`folder_label`"):
        load_corpus("folder", data_dir=tree, manifest=manifest, folder_label="mood")
    with pytest.raises(ValueError, match="`label_columns`"):
        load_corpus("folder", data_dir=tree, manifest=manifest, label_columns=["file"])
    with pytest.raises(ValueError, match="late"):
        load_text(tree, tmp_path, "m.csv", "file,late\nbob/five.wav,\n", label_columns="late")
    corpus = load_text(tree, tmp_path, "m.csv", "file,phones\nbob/five.wav,AH B\n")  # text instead of frame labels
    assert corpus["phones"][:] == ["AH B"]


def test_a_name_that_is_not_utf8_is_one_bad_recording(tree, tmp_path, capsys):
    name = os.fsencode(tree) + b"/caf\xe9\n\x1b[2K.wav"
    try:
        with open(name, "wb") as file:  # noqa: PTH123 - of bytes
            file.write((tree / "bob" / "five.wav").read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    with pytest.raises(BadAudioError, match=r"caf\\xe9\\n\\x1b\[2K"):
        load_corpus("folder", "all", data_dir=tree)
    listed = tmp_path / "bad.tsv"
    kept = load_corpus("folder", "all", data_dir=tree, on_bad_audio="skip", bad_audio_list=listed)
    assert len(kept) == len(FILES)
    assert listed.read_text().count("\n") == 1
    assert listed.read_text().count("\t") == 2
    assert "\x1b" not in capsys.readouterr().out


def test_classes_of_any_name_and_ids_that_are_numbers_can_be_probed(tree, tmp_path):
    names = ["position", "index", "start", "length", "samples", "attention_mask"]
    rows = [{"file": name, "id": number} | dict.fromkeys(names, "ab"[number % 2]) for number, name in enumerate(FILES)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    corpus = load_text(tree, tmp_path, "m.jsonl", text, label_columns=names)
    for name in names:
        items = extract(corpus, Spectra(), label=name, pooling="mean", cache_dir=tmp_path / name)
        assert dict(zip(items.utterances.tolist(), items.labels.tolist(), strict=True)) == {
            str(number): number % 2 for number in range(len(FILES))
        }


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_a_missing_class_is_none_whatever_program_wrote_it(tree, tmp_path, capsys, name):
    moods = ["calm", "nan", "NaN", "<NA>", "None", "null"]  # the last is a number to Germans
    rows = [{"file": file, "speaker": mood, "mood": mood} for file, mood in zip(FILES, moods, strict=True)]
    manifest = write_manifest(tmp_path / name, rows)
    corpus = load_corpus("folder", "all", data_dir=tree, manifest=manifest, label_columns="mood")
    for column in ("mood", "speaker_id"):
        assert corpus.features[column].names == ["calm", "null"]
        assert corpus[column][:] == [0, None, None, None, None, 1]
    assert corpus["speaker"][:] == moods
    assert "'NaN'" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_letters_may_be_composed_in_either_way(tree, tmp_path, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    (tree / "alice" / "one.wav").rename(tree / "alice" / normalize(form, "é.wav"))
    name = normalize(other, "alice/é")
    (tmp_path / "alignments.txt").write_text(f"{name} {'1 ' * 98}\n", encoding="utf-8")
    settings = {"data_dir": tree, "alignments": tmp_path / "alignments.txt"}
    manifest = (tmp_path / "m.csv").write_text(f"file\n{name}.wav\n", encoding="utf-8") and tmp_path / "m.csv"
    (tmp_path / "train.txt").write_text(f"{name}\n", encoding="utf-8")
    for more in ({"manifest": manifest, "split": "all"}, {"lists": tmp_path, "split": "train"}):
        corpus = load_corpus("folder", **settings, **more)
        assert corpus["id"][:] == ["alice/é"]
        assert corpus["phones"][0] == [1] * 98


@pytest.mark.trains
def test_every_name_is_read_in_an_ascii_locale(tree):
    (tree / "alice" / "one.wav").rename(tree / "alice" / "ü.wav")
    (tree / "m.csv").write_text("file,speaker\nalice/ü.wav,ä\nbob/../alice/two.flac,b\n", encoding="utf-8")
    program = (
        "import sys; from modeling_sim.data.corpora import load_corpus;"
        "walked = load_corpus('folder', 'all', data_dir=sys.argv[1]);"
        "listed = load_corpus('folder', 'all', data_dir=sys.argv[1], manifest=sys.argv[1] + '/m.csv');"
        "print(sys.getfilesystemencoding(), len(walked), ascii(listed['id'][:]))"
    )
    locale = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-X", "utf8=0", "-c", program, str(tree)]
    printed = subprocess.run(command, env=locale, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == f"ascii {len(FILES)} {['alice/ü', 'alice/two']!a}"
