import numpy as np
import pytest
import soundfile
from datasets import Audio

from modeling_sim.data.corpora import load_corpus
from modeling_sim.data.corpora.overlap import say_shared_recordings, say_shared_speakers
from modeling_sim.evaluation.settings import MeasuringArguments, load_splits
from modeling_sim.text import say_once


@pytest.fixture
def corpus(tmp_path):
    """Four speakers with three recordings of one length each."""
    for speaker in "abcd":
        (tmp_path / speaker).mkdir()
        for number in range(3):
            noise = 0.1 * np.random.default_rng([ord(speaker), number]).standard_normal(4_000)
            soundfile.write(tmp_path / speaker / f"{number}.wav", noise, 16_000)
    say_once.cache_clear()
    return load_corpus("folder", "all", data_dir=tmp_path, folder_label="speaker_id")


def test_shared_speakers_are_counted(corpus, capsys):
    say_shared_speakers(corpus.select(range(6)), corpus.select(range(6, 12)))
    assert not capsys.readouterr().out
    say_shared_speakers(corpus.select(range(7)), corpus.select(range(7, 12)))
    assert "1 of 2 speakers" in capsys.readouterr().out
    unnamed = corpus.remove_columns("speaker_id")
    say_shared_speakers(unnamed, unnamed)
    assert not capsys.readouterr().out


def test_shared_recordings_are_counted(corpus, capsys):
    say_shared_recordings(corpus.select(range(6)), corpus.select(range(6, 12)))
    assert not capsys.readouterr().out
    say_shared_recordings(corpus.select(range(8)), corpus.select(range(6, 12)))
    assert " 2 recordings" in capsys.readouterr().out


@pytest.mark.usefixtures("corpus")
def test_one_file_under_two_paths_is_shared(tmp_path, capsys):
    (tmp_path / "linked").symlink_to(tmp_path / "a")
    train, test = (load_corpus("folder", "all", data_dir=tmp_path / name) for name in ("a", "linked"))
    assert train["audio"][:] != test["audio"][:]
    say_shared_recordings(train, test)
    assert " 3 recordings" in capsys.readouterr().out


def test_equal_ids_and_lengths_of_other_recordings_are_none_shared(corpus, capsys):
    audio = [{"bytes": open(row["path"], "rb").read(), "path": None} for row in corpus["audio"]]  # noqa: SIM115, PTH123
    numbered = (
        corpus.remove_columns(["id", "audio"]).add_column("audio", audio).cast_column("audio", Audio(decode=False))
    )
    halves = [
        half.add_column("id", [str(row) for row in range(6)])
        for half in (numbered.select(range(6)), numbered.select(range(6, 12)))
    ]
    say_shared_recordings(*halves)
    assert not capsys.readouterr().out
    say_shared_recordings(halves[0], halves[0])
    assert " 6 recordings" in capsys.readouterr().out


@pytest.mark.usefixtures("corpus")
@pytest.mark.parametrize(
    ("split_by", "label", "warns"),
    [("utterance", "word", True), ("speaker", "word", False), ("utterance", "speaker_id", False)],
)
def test_a_measure_warns_of_speakers_it_was_trained_on(tmp_path, capsys, split_by, label, warns):
    settings = f"{{folder_label: speaker_id, split_by: {split_by}, test_fraction: 0.4}}"
    arguments = MeasuringArguments(
        model=["x"], corpus="folder", data_dir=str(tmp_path), label=label, corpus_settings=settings
    )
    capsys.readouterr()
    load_splits(arguments)
    assert ("speakers of the test split are among" in capsys.readouterr().out) == warns


@pytest.mark.real_data
def test_the_real_splits_share_speakers_and_no_recording(data_dir, capsys):
    say_once.cache_clear()
    train, test = (load_corpus("librispeech", split, data_dir=data_dir / "librispeech") for split in ("train", "test"))
    say_shared_recordings(train, test)
    say_shared_speakers(train, test)
    printed = capsys.readouterr().out
    assert "20 of 20 speakers" in printed
    assert "recordings" not in printed
