"""An interrupted run, killed, stopped or out of disk space, resumes with the result of an uninterrupted one."""

import itertools
import json
import math
import os
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file

from modeling_sim.commands import pretrain
from modeling_sim.data.batches import ReaderError, crop_batches
from modeling_sim.trainer import checkpoints
from modeling_sim.trainer import pretraining as pretraining_task
from modeling_sim.trainer.checkpoints import find_checkpoint
from modeling_sim.trainer.curves import read_log
from modeling_sim.trainer.log import Log
from modeling_sim.trainer.optimization import Optimization, Part
from modeling_sim.trainer.run_folder import LOCK_NAME, RunFolder
from modeling_sim.trainer.settings import RunArguments

ROOT = Path(__file__).parent.parent
TINY = shlex.split(
    "--model_settings '{hidden_size: 16, context_size: 8, loss_window: 32}' --crop_samples 6000 "
    "--corpus_settings '{num_train: 10, num_test: 4, num_speakers: 2}' --batch_size 3 --eval_batch_size 4 "
    "--logging_steps 4 --save_steps 3 --max_steps 14"
)
# The Gaussian critic and all penalties, on few channels.
READABLE = shlex.split(
    "--preset sim-readable-small "
    "--model_settings '{hidden_size: 16, latent_size: 8, context_size: 8, loss_window: 32, prediction_offsets: [1, 8]}'"
)


def train(output_dir, *flags):
    pretrain.main([*TINY, "--output_dir", str(output_dir), *flags])


def weights(output_dir):
    return load_file(output_dir / "model.safetensors")


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def without_times(log):
    return [{key: value for key, value in line.items() if key not in ("seconds", "title")} for line in log]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """An uninterrupted run."""
    output_dir = tmp_path_factory.mktemp("whole")
    train(output_dir)
    return output_dir


class Stopped(Exception):  # noqa: N818 - stands for a kill
    """The run ends here."""


def stop_at(monkeypatch, step):
    """Makes training stop at the start of a step, as if it were killed."""
    begin = Optimization.begin_step

    def begin_or_stop(self, parts):
        if max(scheduler.last_epoch for scheduler in self.schedulers) + 1 == step:
            raise Stopped
        begin(self, parts)

    monkeypatch.setattr(Optimization, "begin_step", begin_or_stop)


def train_until(monkeypatch, step, output_dir, *flags):
    """A run that stops at the start of a step."""
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(Stopped):
            train(output_dir, *flags)


@pytest.mark.parametrize("step", [2, 9, 14])
def test_a_broken_off_run_ends_with_the_same_weights_and_log(whole_run, tmp_path, monkeypatch, step):
    train_until(monkeypatch, step, tmp_path)
    train(tmp_path)
    assert same(weights(tmp_path), weights(whole_run))
    assert without_times(read_log(tmp_path / "log.jsonl")) == without_times(read_log(whole_run / "log.jsonl"))
    results = [json.loads((run / "results.json").read_text()) for run in (tmp_path, whole_run)]
    assert results[0]["modules"] == results[1]["modules"]


def test_the_gaussian_critic_resumes_exactly(tmp_path, monkeypatch):
    flags = [*READABLE, "--max_steps", "6"]
    train(tmp_path / "whole", *flags)
    train_until(monkeypatch, 5, tmp_path / "stopped", *flags)
    train(tmp_path / "stopped", *flags)
    assert same(weights(tmp_path / "stopped"), weights(tmp_path / "whole"))
    logs = [without_times(read_log(tmp_path / name / "log.jsonl")) for name in ("stopped", "whole")]
    assert logs[0] == logs[1]


def test_a_resume_says_from_which_step(tmp_path, monkeypatch, capsys):
    train_until(monkeypatch, 8, tmp_path)
    train(tmp_path, "--batch_size", "2")
    output = capsys.readouterr().out
    assert "step 6" in output
    assert "`batch_size`" in output
    assert json.loads((tmp_path / "results.json").read_text())["crops"] == 6 * 3 + 8 * 2


@pytest.mark.parametrize("damage", ["truncate", "remove", "flip", "state"])
def test_a_broken_checkpoint_is_noticed_and_the_one_before_used(whole_run, tmp_path, monkeypatch, capsys, damage):
    train_until(monkeypatch, 8, tmp_path)
    newest = tmp_path / "checkpoint-6"
    file = newest / ("trainer_state.json" if damage == "state" else "trainer.pt")
    content = file.read_bytes()
    if damage == "remove":
        file.unlink()
    elif damage == "flip":
        file.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    else:
        file.write_bytes(content[: len(content) // 2])
    train(tmp_path)
    output = capsys.readouterr().out
    assert re.search(rf"checkpoint-6: .*{file.name}", output)
    assert "step 3" in output
    assert same(weights(tmp_path), weights(whole_run))


def test_a_full_disk_leaves_the_earlier_checkpoint_and_training_continues(whole_run, tmp_path, monkeypatch, capsys):
    saved, save = [], torch.save

    def save_once(tensors, path):
        if saved:
            Path(path).write_bytes(b"half of")
            raise OSError(28, "No space left on device")
        saved.append(path)
        save(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.torch, "save", save_once)
        stop_at(patch, 8)
        with pytest.raises(Stopped):
            train(tmp_path)
    assert "[Errno 28] No space left on device" in capsys.readouterr().out
    assert find_checkpoint(tmp_path)[0].path.name == "checkpoint-3"
    assert not list(tmp_path.glob(".checkpoint*"))
    train(tmp_path)
    assert same(weights(tmp_path), weights(whole_run))


def test_old_checkpoints_are_removed(whole_run):
    assert sorted(path.name for path in whole_run.glob("checkpoint-*")) == ["checkpoint-12", "checkpoint-14"]


def test_a_checkpoint_of_another_model_is_refused(tmp_path, monkeypatch):
    train_until(monkeypatch, 5, tmp_path)
    with pytest.raises(SystemExit, match=r"checkpoint-3\b.*context_size"):
        train(tmp_path, "--model_settings", "{hidden_size: 16, context_size: 4, loss_window: 32}")


def test_a_checkpoint_of_an_earlier_version_lacks_newer_fields(whole_run, tmp_path, monkeypatch):
    train_until(monkeypatch, 5, tmp_path)
    path = tmp_path / "checkpoint-3" / checkpoints.STATE_NAME
    state = json.loads(path.read_text())
    del state["comparable_config"]["shared_noise"]
    path.write_text(json.dumps(checkpoints.sealed(state)))
    train(tmp_path)
    assert same(weights(tmp_path), weights(whole_run))


def test_an_unfinished_run_is_not_started_anew_by_accident(tmp_path, monkeypatch):
    train_until(monkeypatch, 5, tmp_path)
    with pytest.raises(SystemExit, match="`overwrite_output_dir`"):
        train(tmp_path, "--resume", "never")
    train(tmp_path, "--resume", "never", "--overwrite_output_dir", "--max_steps", "1")
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]


def test_a_run_that_starts_anew_leaves_no_lines_of_the_one_before(tmp_path, monkeypatch):
    """The run stopped before its first checkpoint: there is a log, but nothing to resume from."""
    train_until(monkeypatch, 2, tmp_path)
    train(tmp_path, "--resume", "never", "--max_steps", "4")
    assert [(line["step"], line["split"]) for line in read_log(tmp_path / "log.jsonl")] == [
        (0, "test"),
        (4, "train"),
        (4, "test"),
    ]


def test_a_checkpoint_can_be_named(whole_run, tmp_path):
    train(tmp_path, "--resume", str(whole_run / "checkpoint-12"))
    assert same(weights(tmp_path), weights(whole_run))
    with pytest.raises(SystemExit, match=r"nowhere\b.*trainer_state\.json"):
        train(tmp_path / "other", "--resume", "nowhere")


def test_a_named_checkpoint_is_not_removed_to_replace_its_run(whole_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole_run, run)
    before = sorted(path.name for path in run.iterdir())
    with pytest.raises(SystemExit, match="`resume`"):
        train(run, "--resume", str(run / "checkpoint-12"), "--overwrite_output_dir")
    (tmp_path / "checkpoint-9").mkdir()
    with pytest.raises(SystemExit, match="corrupt checkpoint"):
        train(run, "--resume", str(tmp_path / "checkpoint-9"), "--overwrite_output_dir")
    copied = tmp_path / "checkpoint-12"
    shutil.copytree(run / "checkpoint-12", copied)
    other_model = ["--model_settings", "{hidden_size: 16, context_size: 4, loss_window: 32}"]
    for setting, field in ((["--max_steps", "4"], "max_steps"), (other_model, "context_size")):
        with pytest.raises(SystemExit, match=field):
            train(run, "--resume", str(copied), "--overwrite_output_dir", *setting)
    assert sorted(path.name for path in run.iterdir()) == before
    train(run, "--resume", str(copied), "--overwrite_output_dir")
    assert same(weights(run), weights(whole_run))


def test_a_named_checkpoint_is_the_last_of_its_folder(tmp_path, monkeypatch):
    """Else the folder would keep the checkpoints of later steps, and remove each new one."""
    train_until(monkeypatch, 11, tmp_path)
    earlier, later = (tmp_path / f"checkpoint-{step}" for step in (6, 9))
    with pytest.raises(SystemExit, match="`resume`"):
        train(tmp_path, "--resume", str(earlier))
    assert later.is_dir()
    shutil.rmtree(later)
    train_until(monkeypatch, 8, tmp_path, "--resume", str(earlier))
    train(tmp_path, "--resume", str(earlier))
    assert (tmp_path / "results.json").is_file()


def test_a_second_trainer_on_the_same_folder_is_refused(tmp_path):
    with (
        RunFolder(tmp_path).lock(Accelerator(cpu=True)),
        pytest.raises(SystemExit, match="`output_dir`"),
    ):
        train(tmp_path)


# ---------------------------------------------------------------------- finished runs


def test_a_finished_run_is_extended_from_its_last_step(tmp_path, capsys):
    constant = ["--lr_scheduler_type", "constant_with_warmup"]
    train(tmp_path / "extended", *constant, "--max_steps", "8", "--save_total_limit", "1")
    assert (tmp_path / "extended" / "checkpoint-8").is_dir()
    train(tmp_path / "extended", *constant)
    assert "step 8" in capsys.readouterr().out
    train(tmp_path / "at_once", *constant)
    assert same(weights(tmp_path / "extended"), weights(tmp_path / "at_once"))
    results = [json.loads((tmp_path / run / "results.json").read_text()) for run in ("extended", "at_once")]
    assert results[0]["modules"] == results[1]["modules"]


def test_a_broken_off_extension_is_resumed(tmp_path, monkeypatch):
    train(tmp_path, "--max_steps", "8")
    train_until(monkeypatch, 12, tmp_path)
    assert not (tmp_path / "results.json").exists()
    train(tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["steps"] == 14


def test_the_same_command_on_a_finished_run_changes_nothing(whole_run, capsys):
    before = {path: path.read_bytes() for path in whole_run.rglob("*") if path.is_file()}
    train(whole_run)
    assert str(whole_run) in capsys.readouterr().out
    assert {path: path.read_bytes() for path in whole_run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["--max_steps", "13"], "max_steps"),
        (["--max_steps", "20", "--batch_size", "2"], "batch_size"),
        (["--model_settings", "{hidden_size: 8}"], "model_settings"),
    ],
)
def test_a_finished_run_is_not_repeated_with_other_settings(whole_run, flags, name):
    with pytest.raises(SystemExit, match=f"`{name}`.*`overwrite_output_dir`"):
        train(whole_run, *flags)


def test_a_finished_run_without_a_checkpoint_is_not_extended(tmp_path):
    train(tmp_path, "--save_steps", "0", "--max_steps", "2")
    with pytest.raises(SystemExit, match="`overwrite_output_dir`"):
        train(tmp_path, "--save_steps", "0")


def test_a_run_killed_after_its_last_checkpoint_is_finished_with_the_same_log(whole_run, tmp_path):
    shutil.copytree(whole_run, tmp_path, dirs_exist_ok=True)
    for name in ("results.json", "model.safetensors"):
        (tmp_path / name).unlink()
    train(tmp_path)
    assert same(weights(tmp_path), weights(whole_run))
    assert without_times(read_log(tmp_path / "log.jsonl")) == without_times(read_log(whole_run / "log.jsonl"))


def test_an_upload_that_failed_is_made_by_the_same_command(tmp_path, monkeypatch, capsys):
    flags = ["--push_to_hub", "--repo_id", "org/run", "--max_steps", "2"]
    uploads = []

    def push_run(_output_dir, repo_id):
        uploads.append(repo_id)
        if len(uploads) == 1:
            raise OSError("no network")
        return "address"

    monkeypatch.setattr("modeling_sim.hub.callback.push_run", push_run)
    for said, count in ((r"org/run .*\(no network\)", 1), ("uploaded to address", 2), ("org/run", 2)):
        train(tmp_path, *flags)
        assert re.search(said, capsys.readouterr().out)
        assert len(uploads) == count
        assert (tmp_path / "upload.json").exists() == (count == 2)


def test_fewer_steps_than_a_checkpoint_has_are_refused(tmp_path, monkeypatch):
    train_until(monkeypatch, 8, tmp_path)
    with pytest.raises(SystemExit, match=r"checkpoint-6\b.*`max_steps`"):
        train(tmp_path, "--max_steps", "4")


def test_settings_that_changed_hold_after_a_resume():
    weight = torch.nn.Parameter(torch.ones(2))
    first = Optimization([Part([weight], [])], Accelerator(cpu=True), RunArguments(max_steps=10, warmup_steps=0))
    for _ in range(10):
        first.begin_step([0])
        weight.grad = torch.ones(2)
        first.finish_step()
    assert first.learning_rate(0) == 0
    longer = RunArguments(max_steps=20, warmup_steps=0, learning_rate=4e-3, weight_decay=0.5)
    second = Optimization([Part([weight], [])], Accelerator(cpu=True), longer)
    second.load_state_dict(first.state_dict())
    assert second.learning_rate(0) == pytest.approx(2e-3)  # half-way down the longer cosine
    group = second.optimizers[0].param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (second.learning_rate(0), 0.5)


# ---------------------------------------------------------------------- troubles


@pytest.mark.parametrize(
    "error", [SafetensorError("I/O error: file too large"), RuntimeError("file write failed\nat 0")]
)
def test_every_kind_of_error_of_a_full_disk_is_reported_in_one_line(whole_run, tmp_path, monkeypatch, capsys, error):
    """The first save fails, the others do not: training continues, with the same result."""
    saved, save = [], torch.save

    def fail_once(tensors, path):
        saved.append(path)
        if len(saved) == 1:
            raise error
        save(tensors, path)

    monkeypatch.setattr(checkpoints.torch, "save", fail_once)
    train(tmp_path)
    said = [line for line in capsys.readouterr().out.splitlines() if "save step 3 " in line]
    assert " ".join(str(error).split()) in said[0]
    assert same(weights(tmp_path), weights(whole_run))


def test_a_full_disk_at_the_end_is_one_line_and_the_same_command_finishes(whole_run, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_model", lambda *_: (_ for _ in ()).throw(SafetensorError("no space")))
        with pytest.raises(SystemExit, match=r"no space.*checkpoint-14"):
            train(tmp_path)
    train(tmp_path)
    assert same(weights(tmp_path), weights(whole_run))


def test_a_log_on_a_full_disk_keeps_complete_lines(tmp_path, monkeypatch, capsys):
    log = Log(tmp_path / "log.jsonl", Accelerator(cpu=True), title="", row_names=["a"], chance=None)
    log.write(1, "train", [{"loss": 1.0}])
    size = log.path.stat().st_size
    with monkeypatch.context() as patch:
        patch.setattr("modeling_sim.trainer.log.json.dumps", lambda _: "x" * 10)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 4, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        try:
            log.write(2, "train", [{"loss": 1.0}])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert "step 2" in capsys.readouterr().out
    log.write(3, "train", [{"loss": 1.0}])
    assert [line["step"] for line in read_log(log.path)] == [1, 3]


@pytest.mark.parametrize("accumulated", [1, 3])
def test_what_ends_a_reader_ends_the_run_after_a_save_of_complete_steps(tmp_path, monkeypatch, accumulated):
    """The batch that cannot be read is in the middle of step 8."""
    flags = ["--gradient_accumulation_steps", str(accumulated)]

    def breaking(*arguments, **more):
        for number, batch in enumerate(crop_batches(*arguments, **more)):
            if number == 7 * accumulated + accumulated // 2:
                raise ReaderError("a reader process (pid 1) was killed")
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr("modeling_sim.trainer.task.crop_batches", breaking)
        with pytest.raises(SystemExit, match="checkpoint-7") as stopped:
            train(tmp_path / "broken", *flags)
    assert len(str(stopped.value).splitlines()) == 1
    train(tmp_path / "broken", *flags)
    train(tmp_path / "not_broken", *flags)
    assert same(weights(tmp_path / "broken"), weights(tmp_path / "not_broken"))
    logs = [without_times(read_log(tmp_path / name / "log.jsonl")) for name in ("broken", "not_broken")]
    assert logs[0] == logs[1]


def test_a_loss_beyond_all_bounds_is_reported_with_what_helps(tmp_path, capsys):
    train(tmp_path, "--learning_rate", "1e3", "--warmup_steps", "0", "--lr_scheduler_type", "constant")
    said = [line for line in capsys.readouterr().out.splitlines() if "diverged by step 4" in line]
    assert "module 0" in said[0]
    assert "`learning_rate`" in said[0]
    assert "module 0" in " ".join(json.loads((tmp_path / "results.json").read_text())["diverged"])


def test_a_model_that_becomes_nan_has_diverged(tmp_path, capsys):
    """The first step breaks the weights, and too few others follow to stop the run."""
    train(tmp_path, "--learning_rate", "1e30", "--warmup_steps", "0", "--max_steps", "4")
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "diverged by step 4" in line]
    assert "module 0" in said
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["diverged"] == ["module 0", "module 1", "module 2", "context"]


def test_early_stopping_ends_a_run_whose_loss_was_never_finite(tmp_path, capsys):
    train(tmp_path, *shlex.split("--learning_rate 1e30 --warmup_steps 0 --eval_steps 1 --early_stopping_patience 2"))
    assert "stopped training context" in capsys.readouterr().out


def test_early_stopping_says_nothing_of_modules_without_a_loss(tmp_path, monkeypatch, capsys):
    score = pretraining_task.PretrainingTask.evaluate
    evaluated = itertools.count(1)

    def worse(self):
        scores = score(self)
        assert [math.isnan(row["loss"]) for row in scores] == [True, True, True, False]
        scores[-1]["loss"] = float(next(evaluated))
        return scores

    monkeypatch.setattr(pretraining_task.PretrainingTask, "evaluate", worse)
    settings = "{hidden_size: 8, context_size: 4, contrastive_modules: context, gradient_isolation: false}"
    flags = ["--objective", "vicreg", "--model_settings", settings]
    train(tmp_path, *flags, "--eval_steps", "1", "--early_stopping_patience", "1")
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("stopped training")]
    assert [line.split()[2] for line in said] == ["context"]


def test_a_loss_that_is_as_usual_is_not(whole_run):
    assert json.loads((whole_run / "results.json").read_text())["diverged"] == []


def test_a_run_that_diverged_says_so_though_it_was_resumed(tmp_path, monkeypatch, capsys):
    """After the resume the threshold is so high that no loss counts as diverged."""
    flags = ["--learning_rate", "1e3", "--warmup_steps", "0", "--lr_scheduler_type", "constant"]
    train_until(monkeypatch, 8, tmp_path, *flags)
    capsys.readouterr()
    monkeypatch.setattr("modeling_sim.trainer.loop._ABSURD_LOSS", 1e30)
    train(tmp_path, *flags)
    assert "has diverged" not in capsys.readouterr().out
    assert json.loads((tmp_path / "results.json").read_text())["diverged"]


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(tmp_path, monkeypatch):
    """The fifth batch is infinitely loud: the run ends as if its step had been skipped."""
    to_device, calls, states = pretraining_task.to_device, [], []

    def loud(batch, device):
        input_values, attention_mask = to_device(batch, device)
        calls.append(batch)
        return (input_values * torch.inf if len(calls) == 5 else input_values), attention_mask

    finish = Optimization.finish_step

    def record(self):
        finish(self)
        tensors = [tensor for part in self.parts for tensor in (*part.parameters, *part.buffers)]
        state = {str(number): tensor.detach().clone() for number, tensor in enumerate(tensors)}
        moments = [value["exp_avg"].clone() for optimizer in self.optimizers for value in optimizer.state.values()]
        states.append((state, moments))

    monkeypatch.setattr(pretraining_task, "to_device", loud)
    monkeypatch.setattr(Optimization, "finish_step", record)
    train(tmp_path, "--max_steps", "6")
    assert same(states[3][0], states[4][0])
    assert all(torch.equal(before, after) for before, after in zip(states[3][1], states[4][1], strict=True))
    assert not same(states[4][0], states[5][0])
    assert all(tensor.isfinite().all() for tensor in states[5][0].values())
    assert json.loads((tmp_path / "results.json").read_text())["steps_left_out"] == 1


def test_a_module_that_is_not_finite_leaves_the_others_alone():
    arguments = RunArguments(max_steps=3, warmup_steps=0, learning_rate=1e-2)
    models = [torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)]
    parts = [Part(list(model.parameters()), []) for model in models]
    optimization = Optimization(parts, Accelerator(cpu=True), arguments)
    before = [model.weight.detach().clone() for model in models]
    optimization.begin_step([0, 1])
    for model, value in zip(models, (torch.inf, 1.0), strict=True):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, value)
    optimization.finish_step()
    assert optimization.skipped_steps.tolist() == [[1, 1], [0, 0]]
    assert [torch.equal(model.weight, old) for model, old in zip(models, before, strict=True)] == [True, False]


def test_training_stops_with_the_utterances_when_no_step_is_finite(tmp_path, monkeypatch):
    to_device = pretraining_task.to_device
    monkeypatch.setattr(
        pretraining_task, "to_device", lambda batch, device: (to_device(batch, device)[0] * torch.nan, None)
    )
    with pytest.raises(SystemExit, match=r"`learning_rate`.*train-\d+"):
        train(tmp_path, "--max_skipped_steps", "3")


def test_clipping_and_skipping_share_one_step():
    arguments = RunArguments(max_steps=3, warmup_steps=0, max_grad_norm=1e-3, learning_rate=1e-2)
    model = torch.nn.Linear(2, 2)
    optimization = Optimization([Part(list(model.parameters()), [])], Accelerator(cpu=True), arguments)
    before = model.weight.detach().clone()
    for value in (1.0, torch.nan, 1.0):
        optimization.begin_step([0])
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, value)
        optimization.finish_step()
    assert optimization.skipped_steps.tolist() == [[1, 0]]
    assert model.weight.isfinite().all()
    assert not torch.equal(model.weight, before)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)])
def test_a_signal_saves_before_it_stops(whole_run, tmp_path, monkeypatch, capsys, number, code):
    begin = Optimization.begin_step

    def begin_and_receive(self, parts):
        begin(self, parts)
        if self.schedulers[0].last_epoch == 4:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(Optimization, "begin_step", begin_and_receive)
        with pytest.raises(SystemExit) as stopped:
            train(tmp_path)
    assert stopped.value.code == code
    assert f"{signal.Signals(number).name} after step 5" in capsys.readouterr().out
    assert find_checkpoint(tmp_path)[0].path.name == "checkpoint-5"
    train(tmp_path)
    assert same(weights(tmp_path), weights(whole_run))


@pytest.mark.parametrize("reader_dies", [False, True])
def test_a_stopped_run_names_the_settings_that_would_begin_it_again(
    whole_run, tmp_path, monkeypatch, capsys, reader_dies
):
    begin = Optimization.begin_step

    def stop_and_begin(self, parts):
        if self.schedulers[0].last_epoch == 12:
            if reader_dies:
                raise ReaderError("a reader process (pid 1) was killed")
            os.kill(os.getpid(), signal.SIGTERM)
        begin(self, parts)

    with monkeypatch.context() as patch:
        patch.setattr(Optimization, "begin_step", stop_and_begin)
        with pytest.raises(SystemExit) as stopped:
            train(tmp_path, "--resume", str(whole_run / "checkpoint-12"), "--overwrite_output_dir")
    said = f"{stopped.value}{capsys.readouterr().out}"
    assert "`resume`" in said
    assert "`overwrite_output_dir`" in said
    train(tmp_path)
    assert same(weights(tmp_path), weights(whole_run))


def test_an_error_before_the_first_save_names_the_checkpoint_of_the_start(whole_run, tmp_path, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Optimization, "begin_step", fail)
    with pytest.raises(SystemExit, match=r"whole\S*/checkpoint-12"):
        train(tmp_path, "--resume", str(whole_run / "checkpoint-12"))


# ---------------------------------------------------------------------- real processes


def start(output_dir, *flags, processes=1):
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [*launcher, "training/pretrain.py", *TINY, "--output_dir", str(output_dir), *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )


def wait_for(path, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_ten_kills_at_random_instants_leave_the_same_weights(tmp_path, processes):
    long = ["--max_steps", "120", "--save_steps", "1"]
    undisturbed = start(tmp_path / "whole", *long, processes=processes)
    output, _ = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0, output

    instants = random.Random(0)
    killed_at = set()
    for _ in range(10):
        process = start(tmp_path / "killed", *long, processes=processes)
        found, _ = find_checkpoint(tmp_path / "killed")
        done = found.numbers["counts"]["step"] if found else 0
        wait_for(tmp_path / "killed" / f"checkpoint-{done + 2}", process)
        time.sleep(instants.uniform(0, 0.3))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        found, _ = find_checkpoint(tmp_path / "killed")
        killed_at.add(found.numbers["counts"]["step"])
    assert len(killed_at) == 10
    process = start(tmp_path / "killed", *long, processes=processes)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))


@pytest.mark.slow
def test_one_process_resumes_from_the_sample_where_two_stopped(tmp_path):
    flags = ["--max_steps", "100000", "--lr_scheduler_type", "constant_with_warmup"]
    process = start(tmp_path, *flags, processes=2)
    wait_for(tmp_path / "checkpoint-6", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    found, _ = find_checkpoint(tmp_path)
    step, position = found.numbers["counts"]["step"], found.numbers["counts"]["position"]
    assert position == step * 3 * 2
    shutil.copytree(tmp_path, tmp_path / "copy", ignore=shutil.ignore_patterns("copy", LOCK_NAME))
    alone = start(tmp_path / "copy", "--max_steps", str(step + 1), "--lr_scheduler_type", "constant_with_warmup")
    output, _ = alone.communicate(timeout=120)
    assert alone.returncode == 0, output
    assert "`num_processes`" in output
    assert json.loads((tmp_path / "copy" / "results.json").read_text())["crops"] == position + 3
