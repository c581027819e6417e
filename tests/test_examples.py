"""Every example runs as its reader would run it."""

import runpy
import sys
from functools import partial
from itertools import groupby
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


@pytest.mark.parametrize("samples", [400, 2000, 8000])
def test_streaming(samples, tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    config = SimConfig.preset("sim-small", hidden_size=16, context_size=8, num_labels=20)
    model, waveform = SimForAudioFrameClassification(config).eval(), torch.randn(1, samples).clamp(-1, 1)
    with torch.no_grad():
        frames = model.sim(waveform, output_hidden_states=True).hidden_states[model.probe_module][0]
        # Frames of an untrained encoder are alike: without their mean, most have another class than the one before.
        model.classifier.bias.copy_(-model.classifier.weight @ frames.mean(dim=0))
        labels = model(waveform).logits[0].argmax(dim=-1).tolist()
    model.save_pretrained(tmp_path)
    soundfile.write(tmp_path / "speech.wav", waveform[0].numpy(), 16000, subtype="FLOAT")
    run(monkeypatch, "09_stream.py", tmp_path, tmp_path / "speech.wav", "--fast")
    first, *lines = capsys.readouterr().out.splitlines()
    assert "29 ms" in first
    assert [line.split()[-1] for line in lines] == [config.id2label[label] for label, _ in groupby(labels)]
