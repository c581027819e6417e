"""The output of a run to a file, to a terminal with a limited encoding, or to nothing."""

import fcntl
import os
import pty
import shlex
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from accelerate import Accelerator

from modeling_sim.commands import pretrain
from modeling_sim.settings import parse_arguments
from modeling_sim.trainer import curves
from modeling_sim.trainer.log import Log
from modeling_sim.trainer.loop import Callback
from modeling_sim.trainer.pretraining import build
from modeling_sim.trainer.run import run_command
from modeling_sim.trainer.settings import PRETRAINING

ROOT = Path(__file__).parent.parent
FLAGS = shlex.split(
    "--model_settings '{hidden_size: 16, context_size: 8, loss_window: 32}' --crop_samples 6000 "
    "--corpus_settings '{num_train: 4, num_test: 2, num_speakers: 2}' --batch_size 2 --max_steps 4 --logging_steps 2 "
    "--save_steps 2"
)


def run(output_dir, *flags, **environment):
    command = [sys.executable, "training/pretrain.py", *FLAGS, "--output_dir", str(output_dir), *flags]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, cwd=ROOT, capture_output=True, env=variables, check=False)


def test_without_a_terminal_a_logging_step_is_a_plain_line(tmp_path, capfd):
    pretrain.main([*FLAGS, "--output_dir", str(tmp_path / "run")])
    printed = capfd.readouterr()
    assert "\r" not in printed.out + printed.err
    assert "it/s" not in printed.err
    steps = [line.split(":")[0] for line in printed.out.splitlines() if line.startswith("step ")]
    assert steps == ["step 2 of 4", "step 4 of 4"]


@pytest.mark.parametrize(
    ("flags", "environment", "has_bars"),
    [([], {}, True), (["--disable_tqdm", "true"], {}, False), ([], {"TQDM_DISABLE": "1"}, False)],
)
def test_a_terminal_has_bars_unless_they_are_not_wanted(tmp_path, flags, environment, has_bars, monkeypatch, capsys):
    terminal, stderr = pty.openpty()
    fcntl.ioctl(stderr, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    try:
        with open(stderr, "w", closefd=False) as file, monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", file)
            for name, value in environment.items():
                patch.setenv(name, value)
            pretrain.main([*FLAGS, "--output_dir", str(tmp_path / "run"), *flags])
        printed = capsys.readouterr().out
    finally:
        os.close(stderr)
    shown = b""
    while True:
        try:
            shown += os.read(terminal, 1 << 16)
        except OSError:  # all of it is read
            break
    os.close(terminal)
    assert (b"training" in shown) == has_bars
    assert ("step 2" in printed) != has_bars


@pytest.mark.slow
def test_names_that_a_locale_cannot_print_are_escaped(tmp_path):
    plain = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = run(tmp_path / "Löwe", "--eval_steps", "2", **plain)
    assert done.returncode == 0, done.stderr
    assert rb"L\xf6we" in done.stdout or rb"L\udcc3\udcb6we" in done.stdout
    second = run(tmp_path / "second", *FLAGS[2:], "--init_from", str(tmp_path / "Löwe"), **plain)
    assert second.returncode == 0, second.stderr
    assert curves.read_log(tmp_path / "second" / "log.jsonl")[0]["title"] == "synthetic_syllables, Löwe"


def test_control_characters_of_names_reach_no_terminal(tmp_path, capsys):
    log = Log(tmp_path / "log.jsonl", Accelerator(cpu=True), title="", row_names=["a"], chance=None)
    log.say("a\x1b[2Jb\nc\rd \udcff é")
    assert capsys.readouterr().out == "a\\x1b[2Jb\\nc\\rd \\udcff é\n"


def test_curves_are_drawn_at_every_evaluation(tmp_path, monkeypatch):
    drawn = []
    write = curves.write_curves

    def counting(output_dir):
        drawn.append(len(curves.read_log(Path(output_dir) / "log.jsonl")))
        return write(output_dir)

    monkeypatch.setattr("modeling_sim.trainer.curves.write_curves", counting)
    pretrain.main([*FLAGS, "--output_dir", str(tmp_path), "--eval_steps", "1"])
    assert len(drawn) == 4  # after steps 1 to 3, and at the end
    assert (tmp_path / "curves.png").is_file()


def test_a_picture_that_cannot_be_written_ends_no_run_and_the_same_command_draws_it(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr("modeling_sim.trainer.curves.save_figure", lambda *_: (_ for _ in ()).throw(OSError("no space")))
        pretrain.main([*FLAGS, "--output_dir", str(tmp_path), "--eval_steps", "1"])
    assert capsys.readouterr().out.count("no space") == 4
    assert (tmp_path / "results.json").is_file()
    assert not (tmp_path / "curves.png").exists()
    pretrain.main([*FLAGS, "--output_dir", str(tmp_path), "--eval_steps", "1"])
    assert (tmp_path / "curves.png").is_file()


def test_callbacks_are_called_around_a_run_and_when_it_is_found_finished(tmp_path):
    calls = []

    class Recorder(Callback):
        def on_begin(self, run_folder, say):
            say("begin")
            calls.append(("begin", run_folder))

        def on_evaluation(self, run_folder):
            calls.append(("evaluation", run_folder))

        def on_save(self, checkpoint):
            assert (checkpoint / "model.safetensors").is_file()
            calls.append(("save", checkpoint.parent))

        def on_end(self, run_folder):
            assert (run_folder / "results.json").is_file()
            calls.append(("end", run_folder))

        def close(self):
            calls.append(("close", tmp_path))

    flags = [*FLAGS, "--output_dir", str(tmp_path), "--eval_steps", "2", "--save_steps", "3"]
    for expected in (["begin", "evaluation", "save", "save", "end", "close"], ["begin", "end", "close"]):
        run_command("test", lambda: (parse_arguments("", flags, PRETRAINING), [Recorder()]), build)
        assert calls == [(name, tmp_path) for name in expected]
        calls.clear()
