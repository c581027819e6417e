import re
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import soundfile
from datasets import Audio, ClassLabel

from benchmarks.reading import crop_against_file, crops_per_second
from modeling_sim import SimFeatureExtractor
from modeling_sim.commands.corpora import CorporaArguments, main
from modeling_sim.data.corpora import corpus_info, corpus_names, corpus_settings, load_corpus
from modeling_sim.data.corpora.contract import IGNORED, as_class_label, as_text, class_names
from modeling_sim.data.corpora.describe import describe, description_table, plot_utterance
from modeling_sim.data.corpora.splits import share_of_each, share_of_groups, split_ids
from modeling_sim.evaluation import ProbeArguments
from modeling_sim.settings import parse_arguments
from modeling_sim.trainer.settings import PRETRAINING


@pytest.fixture(scope="module")
def corpus():
    return load_corpus("synthetic_syllables", num_train=6, consonants="bms", cache=False)


def test_every_corpus_says_what_it_is():
    assert corpus_names() == sorted(corpus_names())
    for name in corpus_names():
        assert corpus_info(name).description.endswith(".")
        assert corpus_info(name).license
        assert "split" not in corpus_settings(name)


def test_an_unknown_name_or_setting_names_the_nearest():
    with pytest.raises(ValueError, match="'librispeech'"):
        load_corpus("libri_speech")
    with pytest.raises(ValueError, match="'data_directory'"):
        load_corpus("librispeech", data_directory="x")
    with pytest.raises(ValueError, match="artificial_speech"):
        load_corpus("zzz")
    with pytest.raises(ValueError, match="`on_bad_audio`"):
        load_corpus("synthetic_syllables", on_bad_audio="ignore")


OTHERS_HUMS = '''
from modeling_sim.data.corpora import synthetic_syllables

INFO = synthetic_syllables.INFO

def load(*, split="train", num_hums: int = 4):
    """Load.

    Args:
        split: Split.
        num_hums: Number of hums.
    """
    return synthetic_syllables.load(split=split, num_train=num_hums, num_test=2, cache=False)
'''


def test_other_packages_register_corpora(tmp_path, monkeypatch, capsys):
    metadata = tmp_path / "others-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1\n")
    points = "[modeling_sim.corpora]\nhums = others_hums\n"
    (metadata / "entry_points.txt").write_text(f"{points}empty = others_empty\nfolder = others_empty\n")
    (tmp_path / "others_empty.py").touch()
    (tmp_path / "others_hums.py").write_text(OTHERS_HUMS)
    monkeypatch.syspath_prepend(tmp_path)
    assert {"hums", "empty"} < set(corpus_names())
    assert len(load_corpus("hums", num_hums=3)) == 3
    assert "data_dir" in corpus_settings("folder")  # a name of this package is not replaced
    with pytest.raises(ValueError, match="'hums'"):
        load_corpus("hum")
    with pytest.raises(ValueError, match="'num_hums'"):
        load_corpus("hums", nom_hums=3)
    with pytest.raises(ValueError, match=r"`split` .*'test'"):
        load_corpus("hums", "tset")
    with pytest.raises(ImportError, match="'empty'"):
        load_corpus("empty")
    (metadata / "entry_points.txt").write_text(points)
    with pytest.raises(SystemExit):
        parse_arguments("", ["--corpus", "hums", "--help"], PRETRAINING)
    assert {"'hums'", "num_hums"} <= set(capsys.readouterr().out.split())


def test_the_contracts_columns(corpus):
    assert corpus.features["audio"] == Audio(decode=False)
    assert isinstance(corpus.features["speaker_id"], ClassLabel)
    assert isinstance(corpus.features["phones"].feature, ClassLabel)
    assert {"id", "num_samples", "sampling_rate"} <= set(corpus.column_names)


def test_class_names_are_sorted_as_numbers_and_nulls_stay(corpus):
    assert class_names(["b", "10", None, "9", "a", "9"]) == ["9", "10", "a", "b"]
    numbered = corpus.add_column("chapter", [10, 9, None, 10, 9, 9])
    labeled = as_class_label(numbered, "chapter", "this")
    assert labeled.features["chapter"].names == ["9", "10"]
    assert labeled["chapter"][:] == [1, 0, None, 1, 0, 0]
    assert as_text(numbered, "chapter")["chapter"][:] == ["10", "9", None, "10", "9", "9"]
    assert as_class_label(corpus, "phones", "this") is corpus
    listed = as_class_label(corpus.add_column("tags", [["y", "x"], [], None, ["x"], [], []]), "tags", "this")
    assert listed.features["tags"].feature.names == ["x", "y"]
    assert listed["tags"][:4] == [[1, 0], [], None, [0]]


def test_missing_values_are_no_classes(corpus):
    for cells in (["b", "nan", "a", "", "None", None], [2.0, np.nan, 1.0, np.nan, None, None]):
        labeled = as_class_label(corpus.add_column("word", cells), "word", "this")
        assert labeled["word"][:] == [1, None, 0, None, None, None]
    listed = as_class_label(
        corpus.add_column("tags", [["b", "", "a"], ["nan", None], None, ["a"], [], []]), "tags", "this"
    )
    assert listed.features["tags"].feature.names == ["a", "b"]
    assert listed["tags"][:] == [[1, IGNORED, 0], [IGNORED, IGNORED], None, [0], [], []]


def test_a_share_of_each_group_does_not_depend_on_the_others():
    groups = {f"{group}{number}": group for group in "abc" for number in range(10)}
    test = share_of_each(groups, 0.3, 0)
    assert sorted(name[0] for name in test) == ["a"] * 3 + ["b"] * 3 + ["c"] * 3
    alone = share_of_each({name: group for name, group in groups.items() if group == "b"}, 0.3, 0)
    assert alone == {name for name in test if name[0] == "b"}
    assert share_of_each(groups, 0.3, 1) != test


def test_whole_groups_are_some_and_never_all():
    assert len(share_of_groups("ab", 0.01, 0)) == len(share_of_groups("ab", 0.99, 0)) == 1
    assert share_of_groups("abcdef", 0.5, 0) == share_of_groups("fedcba", 0.5, 0)
    with pytest.raises(ValueError, match=r"`groups`.*'a'"):
        share_of_groups("aaa", 0.5, 0)
    with pytest.raises(ValueError, match="`test_fraction`"):
        share_of_groups("ab", 1, 0)


@pytest.mark.parametrize(("split", "fraction"), [("test", 0.2), ("train", 0.8)])
def test_a_fraction_that_leaves_a_split_empty_is_named(split, fraction):
    with pytest.raises(ValueError, match="`test_fraction`"):
        split_ids({"a": "x", "b": "x"}, split=split, rule="utterance", test_fraction=fraction)


def test_a_description_counts(corpus):
    numbers = describe(corpus)
    seconds = np.array(corpus["num_samples"]) / 16_000
    assert numbers["utterances"] == 6
    assert numbers["speakers"] == 6
    assert numbers["hours"] == pytest.approx(seconds.sum() / 3_600)
    assert numbers["seconds"]["shortest"] == seconds.min()
    assert numbers["seconds"]["median"] == np.median(seconds)
    assert numbers["label_coverage"]["phones"] == 1
    assert numbers["classes"]["syllable"] == 9


def test_the_table_has_a_column_a_split(corpus):
    lines = description_table({"train": describe(corpus), "test": describe(corpus.select([0]))}).split("\n")
    assert len({len(line) for line in lines}) == 1
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:4]] for line in lines}
    assert cells[""] == ["train", "test"]
    assert cells["utterances"] == ["6", "1"]
    assert cells["labeled: phones (7 classes)"] == ["100.0 %", "100.0 %"]


def test_an_utterance_is_drawn(corpus, tmp_path):
    plot_utterance(corpus, 1, tmp_path / "whole.png", seconds=None)
    plot_utterance(corpus.remove_columns(["phones", "formants"]), 1, tmp_path / "plain.png", start=0.5, seconds=0.3)
    pictures = [matplotlib.image.imread(tmp_path / name) for name in ("whole.png", "plain.png")]
    assert [picture.shape[1] for picture in pictures] == [1_800, 1_800]
    assert pictures[0].shape[0] > pictures[1].shape[0]
    # Boxes in the colors of the phones that are there, below the spectrum: silence, vowels, and b, m or s.
    below = pictures[0][int(0.7 * len(pictures[0])) :, :, :3].reshape(-1, 3)
    pixels = {color.tobytes().hex().upper() for color in (below * 255).round().astype(np.uint8)}
    colors = {"SIL": "DDDDDD", "a": "E69F00", "i": "E69F00", "u": "E69F00", "b": "0072B2", "m": "009E73", "s": "56B4E9"}
    names = corpus.features["phones"].feature.int2str(corpus[1]["phones"])
    assert {colors[name] for name in names} <= pixels
    assert not (set(colors.values()) - {colors[name] for name in names}) & pixels
    with pytest.raises(ValueError, match="`start`"):
        plot_utterance(corpus, 1, tmp_path / "late.png", start=9)
    assert not (tmp_path / "late.png").exists()


COMMAND = ["--corpus", "synthetic_syllables"]
SMALL = "num_train: 3, num_test: 2, cache: false"


def test_silence_is_drawn(tmp_path, recwarn):
    soundfile.write(tmp_path / "silence.wav", np.zeros(8_000), 16_000)
    plot_utterance(load_corpus("folder", "all", data_dir=tmp_path), 0, tmp_path / "new" / "x.png")
    assert (tmp_path / "new" / "x.png").is_file()
    assert not recwarn.list


def test_the_command_describes_and_draws(tmp_path, capsys):
    picture = ["--plot", str(tmp_path / "x.png"), "--utterance", "train-000002"]
    main([*COMMAND, "--corpus_settings", f"{{{SMALL}, vowels: [a, i]}}", "--describe", *picture])
    printed = capsys.readouterr().out
    assert "License: apache-2.0" in printed
    assert "vowel (2 classes)" in printed
    assert (tmp_path / "x.png").stat().st_size > 10_000


def test_a_split_that_cannot_be_described_can_be_left_out(tmp_path):
    soundfile.write(tmp_path / "one.wav", np.zeros(8_000), 16_000)
    command = ["--corpus", "folder", "--data_dir", str(tmp_path)]
    with pytest.raises(SystemExit, match="--splits train"):
        main(command)
    main([*command, "--splits", "train"])


def test_the_command_lists_the_corpora(capsys):
    main([])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == corpus_names()


@pytest.mark.parametrize("name", corpus_names())
def test_help_explains_every_setting(name, capsys):
    for classes in (PRETRAINING, (ProbeArguments,), (CorporaArguments,)):
        with pytest.raises(SystemExit):
            parse_arguments("", ["--corpus", name, "--help"], classes)
        options, _, explained = capsys.readouterr().out.partition("\nSettings of the corpus")
        assert "modeling-sim corpora --corpus NAME --help" in " ".join(options.split())
        assert re.findall(r"^  (\w+)(?: \(.*\))?$", explained, re.MULTILINE) == list(corpus_settings(name))
        assert "default: None" not in explained


@pytest.mark.parametrize(
    ("settings", "flags", "message"),
    [
        ("num_speaker: 3", [], "'num_speaker'.*'num_speakers'"),
        ("streaming: true", [], "'streaming'"),
        ("cache: false", ["--plot", "x.png", "--utterance", "nobody"], "`utterance` is 'nobody'"),
        ("num_speakers: 0", [], "`num_speakers` is 0"),
        ("num_speakers: 1z3", [], "`num_speakers` is '1z3'.* int"),
        ("noise_level: loud", [], "`noise_level` is 'loud'.* float"),
        ("cache: 1", [], "`cache` is 1;.* bool"),
        ("vowels: 1", [], "`vowels` is 1"),
        ("vowels: [a, i", [], "`corpus_settings`.*YAML"),
        ("cache: false", ["--plot", "x.png", "--seconds", "0"], "`seconds` is 0.0"),
    ],
)
def test_the_command_says_what_is_wrong(settings, flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        main([*COMMAND, "--corpus_settings", f"{{num_train: 3, num_test: 2, {settings}}}", *flags])
    assert list(tmp_path.iterdir()) == []


def test_a_setting_that_a_corpus_cannot_do_without_is_named():
    with pytest.raises(ValueError, match="'data_dir'"):
        load_corpus("folder")


def test_the_command_runs_as_a_module():
    run = subprocess.run(
        [sys.executable, "-m", "training.corpora"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "librispeech" in run.stdout


def test_reading_speed_is_measured(corpus):
    numbers = crop_against_file(corpus[0]["audio"], crop_samples=1_000, repeats=5)
    assert numbers["share"] == numbers["crop_milliseconds"] / numbers["file_milliseconds"] > 0
    assert numbers["file_seconds"] == corpus[0]["num_samples"] / 16_000
    assert crops_per_second(corpus, SimFeatureExtractor(), num_batches=3) > 0


@pytest.mark.real_data
def test_a_crop_costs_a_fraction_of_its_file(data_dir):
    corpus = load_corpus("librispeech", "test", data_dir=data_dir / "librispeech")
    longest = int(np.argmax(corpus["num_samples"]))
    # 1.28 of 16.7 s are 8 % of the samples; opening and seeking cost as much again.
    assert crop_against_file(corpus[longest]["audio"])["share"] < 0.4
