"""Every example runs as its reader would run it."""

import runpy
import sys
from functools import partial
from pathlib import Path

import pytest
import soundfile
import torch

from modeling_sim import SimConfig, SimForAudioFrameClassification
from modeling_sim.commands import evaluate, pretrain

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run of one step, as `make demo` leaves one."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    model = ["--model_settings", "{hidden_size: 16, context_size: 8}"]
    data = ["--corpus_settings", "{num_train: 8, num_test: 4}", "--crop_samples", "6000", "--batch_size", "4"]
    pretrain.main([*model, *data, "--max_steps", "1", "--output_dir", str(folder)])
    return folder


def run(monkeypatch, name, *flags):
    monkeypatch.setattr(sys, "argv", [name, *map(str, flags)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_every_example_is_short_and_is_run_here():
    names = sorted(path.name for path in EXAMPLES.glob("*.py"))
    assert [name[:2] for name in names] == ["01", "02", "03", "04", "05", "06", "07", "08", "09", "10"]
    assert all(len((EXAMPLES / name).read_text().splitlines()) < 80 for name in names)
    source = Path(__file__).read_text()
    assert all(f'"{name}"' in source for name in names)


def test_encoding(run_folder, monkeypatch, capsys):
    run(monkeypatch, "01_load_and_encode.py", run_folder)
    assert "module 0:" in capsys.readouterr().out


def test_pretraining_on_a_folder(tmp_path, monkeypatch):
    run(monkeypatch, "02_pretrain_on_my_folder.py", "--output_dir", tmp_path, "--steps", "1")
    assert (tmp_path / "model.safetensors").is_file()


def test_probing(run_folder, monkeypatch, capsys):
    run(monkeypatch, "03_probe_phones.py", run_folder, "--num_train", "8")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["log-mel", "MFCC"] + ["untrained,"] * 4 + ["trained,"] * 4


def test_sharing_shows_what_would_go_up(run_folder, monkeypatch, capsys):
    run(monkeypatch, "04_share_on_the_hub.py", run_folder)
    output = capsys.readouterr().out
    assert "model.safetensors" in output
    assert "library_name: transformers" in output


def test_a_pipeline(run_folder, tmp_path, monkeypatch, capsys):
    run(monkeypatch, "05_use_in_a_pipeline.py", run_folder, "--output_dir", tmp_path, "--steps", "1")
    assert capsys.readouterr().out.count("recognized") == 3


def test_hearing_a_dimension(run_folder, tmp_path, monkeypatch, capsys):
    run(monkeypatch, "06_hear_one_dimension.py", run_folder, "--output_dir", tmp_path, "--steps", "1")
    assert len(list(tmp_path.glob("*.wav"))) == 4
    assert "pitch, semitones" in capsys.readouterr().out


def test_own_recordings_and_their_labels(tmp_path, monkeypatch, capsys):
    few = ["--num_utterances", "6", "--num_pairs", "4", "--steps", "3", "--max_frames", "400", "--modules", "2"]
    tiny = ["--model_settings", "{hidden_size: 16, context_size: 8}"]
    for command, more in ((evaluate, few), (pretrain, tiny)):
        run_command = partial(lambda full, more, flags: full([*flags, *more]), command.main, more)
        monkeypatch.setattr(command, "main", run_command)
    run(monkeypatch, "07_my_recordings.py", "--output_dir", tmp_path, "--steps", "1")
    assert (tmp_path / "probe" / "probe.json").is_file()
    assert (tmp_path / "report" / "report.html").is_file()
    printed = capsys.readouterr().out
    assert "speaker" in printed


def test_measuring_from_python(run_folder, tmp_path, monkeypatch, capsys):
    run(monkeypatch, "08_evaluate_in_a_notebook.py", run_folder, "--output_dir", tmp_path)
    assert capsys.readouterr().out.count("untrained, ") == 8  # a row and a difference per module
    assert (tmp_path / "probe.png").is_file()


def test_training_with_the_trainer_of_transformers(tmp_path, monkeypatch, capsys):
    run(monkeypatch, "10_train_with_transformers.py", "--output_dir", tmp_path, "--steps", "1", "--num_train", "8")
    assert capsys.readouterr().out.count("held-out") == 2
    assert (tmp_path / "vowels" / "model.safetensors").is_file()


def test_streaming(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    config = SimConfig.preset("sim-small", hidden_size=16, context_size=8, num_labels=3)
    SimForAudioFrameClassification(config).save_pretrained(tmp_path)
    soundfile.write(tmp_path / "speech.wav", torch.randn(8000).clamp(-1, 1).numpy(), 16000)
    run(monkeypatch, "09_stream.py", tmp_path, tmp_path / "speech.wav", "--fast")
    lines = capsys.readouterr().out.splitlines()
    assert "29 ms" in lines[0]
    assert all("LABEL_" in line for line in lines[1:])
    assert len(lines) > 1
