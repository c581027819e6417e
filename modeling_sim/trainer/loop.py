"""The training loop of all commands: steps, logging, evaluation, checkpoints, and (early) stopping.

A `Task` defines what is trained: rows of scores (one per module), parts with their own optimizers, batches, and a
backward pass. Its `Schedule` defines the order and the processes of the training. A `Callback` adds what happens around
a run, such as uploads.
"""

import math
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import torch
import torch.distributed
from accelerate import Accelerator, DistributedType
from safetensors import SafetensorError
from tqdm.auto import tqdm

from modeling_sim.data.audio import AudioError
from modeling_sim.data.batches import ReaderError
from modeling_sim.data.corpora.scan import BadAudioError
from modeling_sim.provenance import own_settings
from modeling_sim.text import counted, in_one_line
from modeling_sim.trainer.checkpoints import (
    Checkpoint,
    check_is_last,
    find_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from modeling_sim.trainer.greedy import broadcast
from modeling_sim.trainer.log import Log, MetricMeans, Scores, bars_are_shown
from modeling_sim.trainer.optimization import Optimization
from modeling_sim.trainer.run_folder import RunFolder
from modeling_sim.trainer.settings import INFONCE, RunArguments
from modeling_sim.trainer.task import Task

# Job schedulers can announce the end of a job's time with a signal: `#SBATCH --signal=USR1@120`.
_SIGNALS = (signal.SIGTERM, signal.SIGINT, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))


class StopRequest:
    """Context manager that records SIGTERM, SIGINT and SIGUSR1; a second signal has its usual effect."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def agreed(self, *, together: bool, out_of_time: bool) -> tuple[int, bool]:
        """Number of the received signal, 0 for none, and whether time is up, in any of the processes.

        Processes must stop after the same step, so they communicate, but only in steps in which all of them call this
        with `together`, such as logged steps.
        """
        if self.accelerator.num_processes == 1:
            return self.received, out_of_time
        if not together:
            return 0, False
        reasons = torch.tensor([self.received, int(out_of_time)], device=self.accelerator.device)
        torch.distributed.all_reduce(reasons, torch.distributed.ReduceOp.MAX)
        received, late = reasons.tolist()
        return received, bool(late)


@dataclass
class Counts:
    """Progress of a run; saved in its checkpoints."""

    step: int = 0
    """Optimizer steps of all stages."""
    stage: int = 0
    stage_step: int = 0
    """Optimizer steps of this stage."""
    position: int = 0
    """Crops that all processes have read in this stage."""
    crops: int = 0
    """Crops that all processes have read in all stages."""
    replaced: int = 0
    """Crops from unreadable files, replaced by crops of other utterances."""
    seconds: float = 0.0
    """Time spent in steps."""


@dataclass
class EarlyStopping:
    """Stops rows whose held-out loss does not improve any more, once all rows below have stopped."""

    finished: int = 0
    """Number of lowest rows that have stopped."""
    best: list[float | None] = field(default_factory=list)
    """Lowest held-out loss of each row."""
    waited: list[int] = field(default_factory=list)
    """Evaluations of each row since its lowest loss."""

    def update(self, losses: Sequence[float], rows: range, patience: int, *, together: bool) -> list[int]:
        """Records an evaluation; returns the rows that stop now. With `together`, all rows stop at the same time."""
        self.best = self.best or [None] * len(losses)
        self.waited = self.waited or [0] * len(losses)
        for row in range(self.finished, rows.stop):
            best = self.best[row]
            better = math.isfinite(losses[row]) and (best is None or losses[row] < best)
            self.best[row], self.waited[row] = (losses[row], 0) if better else (best, self.waited[row] + 1)
        before = self.finished
        if together:
            if min((self.waited[row] for row in rows if math.isfinite(losses[row])), default=0) >= patience:
                self.finished = rows.stop
        else:
            while self.finished < rows.stop and self.waited[self.finished] >= patience:
                self.finished += 1
        return list(range(before, self.finished))


class Callback:
    """Hooks around a run; a subclass overrides what it needs.

    All methods are only called in the main process. Training waits for them, and an error in one ends the run: report
    errors that do not matter, and use a thread for long operations.
    """

    def on_begin(self, run_folder: Path, say: Callable[[str], None]) -> None:
        """Called before the first step, or before `on_end` if the run is already finished.

        Args:
            run_folder: Folder of the run.
            say: Prints a message without disturbing the progress bar; may be called from any thread.
        """

    def on_evaluation(self, run_folder: Path) -> None:
        """Called after every evaluation between two steps; the log has its scores."""

    def on_save(self, checkpoint: Path) -> None:
        """Called with the folder of every new checkpoint; a later save may remove it."""

    def on_end(self, run_folder: Path) -> None:
        """Called when the run is finished and its files are complete, and again if the same command is rerun."""

    def close(self) -> None:
        """Called last, also after an error."""


@dataclass
class Run:
    """State of a run."""

    accelerator: Accelerator
    settings: RunArguments
    all_settings: dict[str, Any]
    """Every setting of the command, for checkpoints and results."""
    task: Task
    folder: RunFolder
    log: Log
    optimization: Optimization
    means: MetricMeans = field(default_factory=MetricMeans)
    counts: Counts = field(default_factory=Counts)
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    untrained: list[Scores] = field(default_factory=list)
    """Scores before the first step."""
    trained_parts: list[int] = field(default_factory=list)
    callbacks: list[Callback] = field(default_factory=list)
    """None except in the main process."""
    saved_step: int = -1
    """Step of the newest checkpoint of this run, or of the latest attempt to save one; the same in all processes."""
    diverged: set[int] = field(default_factory=set)
    """Rows whose loss has been reported as diverged."""
    evaluating: bool = False
    """Whether an evaluation is running, or has failed."""
    compiling_since: float | None = None
    """Time at which compiling modules began, until the first step is done."""


# Errors of Python, safetensors and torch when the disk is full.
SAVING_ERRORS = (OSError, SafetensorError, RuntimeError)


# A loss above this multiple of the loss before the first step (or of 1, if that is larger) has diverged.
_ABSURD_LOSS = 1e4


# ---------------------------------------------------------------------- checkpoints


def resume(run: Run) -> None:
    """Resumes from a checkpoint and prints what has changed, or begins a new run if there is none.

    Raises:
        ValueError: The checkpoint differs from this model's configuration, or the requested checkpoint is corrupt.
        FileExistsError: The folder has checkpoints of later steps than the requested one.
    """
    settings, log = run.settings, run.log
    checkpoint = None
    if settings.resume == "auto":
        checkpoint, broken = find_checkpoint(run.folder.path)
        for sentence in broken:
            log.say(f"{sentence}; trying an earlier one")
    elif settings.named_checkpoint is not None:
        checkpoint = read_checkpoint(settings.named_checkpoint)
        check_is_last(checkpoint, run.folder.path)
    log.keep_until(checkpoint.numbers["step"] if checkpoint is not None else -1)
    if checkpoint is None:
        run.task.begin()
        return

    check_resumable(run.task, settings, checkpoint)
    numbers = checkpoint.numbers
    checkpoint.load_model(run.task.model)
    tensors = checkpoint.load_tensors()
    run.optimization.load_state_dict(tensors["optimization"])
    run.means.load_state_dict(tensors["means"], run.accelerator.device)
    run.task.load_state_dict(tensors.get("task", {}))  # missing in checkpoints of earlier versions
    run.counts = Counts(**numbers["counts"])
    if settings.resume == "auto":
        run.saved_step = run.counts.step
    run.early_stopping = EarlyStopping(**numbers["early_stopping"])
    run.untrained = [
        {name: math.nan if value is None else value for name, value in scores.items()}
        for scores in numbers["untrained"]
    ]
    run.diverged = set(numbers.get("diverged", []))  # missing in checkpoints of earlier versions
    log.say(f"resuming after step {run.counts.step}, from {checkpoint.path}")
    for name, value in run.all_settings.items():
        before = numbers["settings"].get(name)
        if before != value and name not in ("resume", "overwrite_output_dir", "output_dir"):
            log.say(f"  `{name}` was {before!r} and is now {value!r}")


def check_resumable(task: Task, settings: RunArguments, checkpoint: Checkpoint) -> None:
    """Checks that a run can resume from a checkpoint.

    Raises:
        ValueError: It is at a later step than `max_steps`, or of another configuration or schedule.
    """
    numbers = checkpoint.numbers
    if numbers["counts"]["stage_step"] > settings.max_steps:
        raise ValueError(
            f"{checkpoint.path} is at step {numbers['counts']['stage_step']}, but `max_steps` is "
            f"{settings.max_steps}; increase it, or choose another `output_dir`."
        )
    # A checkpoint of an earlier version lacks newer fields, whose defaults change nothing.
    newer = {**own_settings(type(task.model.config)()), "objective": INFONCE}
    then = newer | numbers["comparable_config"]
    different = sorted(name for name, value in task.comparable_config().items() if value != then.get(name))
    if different:
        raise ValueError(
            f"cannot resume from {checkpoint.path}: {', '.join(different)} differ from this model's configuration. Use "
            "the settings of that run, or choose another `output_dir`."
        )
    task.schedule.check_resumable(numbers["settings"])


def save(run: Run, *, together: bool = True) -> None:
    """Writes a checkpoint unless this step has one; a full disk is only reported, and training continues.

    All processes must call it, unless `together` is False; each then needs the complete model.
    """
    if run.saved_step == run.counts.step:
        return
    run.saved_step = run.counts.step
    schedule = run.task.schedule
    if together:
        share_model(run)
    optimization = schedule.gather_optimization(run.optimization.state_dict())
    means = run.means.state_dict(schedule.gather_rows)
    if not run.accelerator.is_main_process:
        return
    try:
        checkpoint = save_checkpoint(
            run.folder.path,
            run.task.model,
            run.task.extractor,
            step=run.counts.step,
            numbers={
                "counts": asdict(run.counts),
                "early_stopping": asdict(run.early_stopping),
                "untrained": run.untrained,
                "diverged": sorted(run.diverged),
                "settings": run.all_settings,
                "comparable_config": run.task.comparable_config(),
            },
            tensors={"optimization": optimization, "means": means, "task": run.task.state_dict()},
            limit=run.settings.save_total_limit,
        )
    except SAVING_ERRORS as error:
        run.log.say(
            f"could not save step {run.counts.step} ({in_one_line(error)}); training continues, and earlier "
            "checkpoints are unchanged"
        )
        return
    for callback in run.callbacks:
        callback.on_save(checkpoint)


# ---------------------------------------------------------------------- steps


def train(run: Run) -> list[Scores]:
    """Trains to the end and returns the final scores; `run.untrained` has those before the first step.

    Raises:
        SystemExit: SIGTERM, SIGINT or SIGUSR1 was received; the state is saved, and the exit code is 128 plus the
            number of the signal.
        FloatingPointError: The gradients of `max_skipped_steps` consecutive steps were not finite.
        ReaderError: A reader process died or hangs.
        AudioError, BadAudioError: A recording is unreadable. As after a `ReaderError`, the state is saved, if it is the
            main process that failed.
    """
    counts, task = run.counts, run.task
    if getattr(run.settings, "torch_compile", False):
        run.compiling_since = time.perf_counter()
        run.log.say("compiling the modules (`torch_compile`), which takes a minute or more")
    if not run.untrained:
        run.untrained = score(run)
    try:
        with StopRequest(run.accelerator) as stop:
            for stage in range(counts.stage, task.schedule.num_stages):
                if stage > counts.stage:
                    counts.stage, counts.stage_step, counts.position = stage, 0, 0
                if not train_stage(run, stop):
                    break
        if run.settings.save_steps:
            save(run)
        return score(run)
    except (ReaderError, AudioError, BadAudioError):
        # Other processes are waiting within a step, so a state that is distributed over them cannot be saved.
        if counts.step and task.schedule.placement.num_replicas == run.accelerator.num_processes:
            save(run, together=False)
        raise


def train_stage(run: Run, stop: StopRequest) -> bool:
    """Runs the remaining steps of a stage; returns whether there is time for the next one."""
    accelerator, task, settings, counts = run.accelerator, run.task, run.settings, run.counts
    num_stages, rows = task.schedule.num_stages, task.schedule.rows_of_stage(counts.stage)
    if run.early_stopping.finished >= rows.stop:
        return True
    run.early_stopping.finished = max(run.early_stopping.finished, rows.start)  # earlier stages are finished
    share_model(run)
    run.trained_parts = task.begin_stage(counts.stage, run.early_stopping.finished)
    batches = iter(task.batches(counts.position))
    latest_ids: deque[list[str]] = deque(maxlen=settings.max_skipped_steps * settings.gradient_accumulation_steps)
    progress = tqdm(
        range(counts.stage_step + 1, settings.max_steps + 1),
        desc="training" if num_stages == 1 else f"training {counts.stage + 1}/{num_stages}",
        initial=counts.stage_step,
        total=settings.max_steps,
        disable=not bars_are_shown(accelerator),
    )
    for stage_step in progress:
        started = time.perf_counter()
        is_last = stage_step == settings.max_steps
        training_step(run, batches, stage_step, latest_ids)
        counts.step, counts.stage_step = counts.step + 1, stage_step
        say_time_of_compiling(run)
        logging = stage_step % settings.logging_steps == 0 or is_last
        if logging:
            report(run, progress)
        counts.seconds += time.perf_counter() - started
        if logging:
            check_finite(run, latest_ids)
        if settings.eval_steps and stage_step % settings.eval_steps == 0 and not is_last:
            consider_stopping(run, score(run), rows)
        out_of_time = bool(settings.max_train_time) and counts.seconds >= 60 * settings.max_train_time
        received, out_of_time = stop.agreed(together=logging, out_of_time=out_of_time)
        if received or (settings.save_steps and counts.step % settings.save_steps == 0 and not is_last):
            save(run)
        if received:
            name = signal.Signals(received).name
            run.log.say(f"stopped by {name} after step {counts.step}; rerun {settings.command_to_resume} to resume")
            raise SystemExit(128 + received)
        if out_of_time:
            run.log.say(f"reached `max_train_time` after step {counts.step}")
            return False
        if run.early_stopping.finished >= rows.stop:
            break
    return True


def say_time_of_compiling(run: Run) -> None:
    """Logs after the first step how long compiling took, which happens when modules first run."""
    if run.compiling_since is not None:
        seconds, run.compiling_since = time.perf_counter() - run.compiling_since, None
        run.log.say(f"compiled after {seconds:.0f} s (`torch_compile`), including what ran up to the first step")


def training_step(
    run: Run, batches: Iterator[dict[str, Any]], stage_step: int, latest_ids: deque[list[str]] | None = None
) -> None:
    """One optimizer step, with `gradient_accumulation_steps` batches."""
    settings, counts = run.settings, run.counts
    accumulated = settings.gradient_accumulation_steps
    before, means_before = asdict(counts), copy(run.means)
    run.optimization.begin_step(run.trained_parts)
    for number in range(accumulated):
        try:
            batch = next(batches)
        except Exception:  # restore the state before this step, which is then saved
            vars(counts).update(before)
            run.means = means_before
            run.optimization.abandon_step()
            raise
        if latest_ids is not None:
            latest_ids.append(batch["id"])
        rows = run.task.backward(
            batch,
            (stage_step - 1) * accumulated + number + 1,
            loss_scale=1 / accumulated,
            accumulating=number < accumulated - 1,
        )
        run.means.add(rows)
        crops = settings.batch_size * run.task.schedule.placement.num_replicas
        counts.position += crops
        counts.crops += crops
        counts.replaced += batch["num_replaced"]
    run.optimization.finish_step()
    run.task.after_step(stage_step / settings.max_steps)


def share_model(run: Run) -> None:
    """Makes the model equal in all processes, to evaluate or save it, or to train on its finished modules."""
    run.task.schedule.share_model()
    # Each process measures the statistics of batch normalization on its own crops.
    broadcast([buffer for part in run.optimization.parts for buffer in part.buffers], run.accelerator)


def score(run: Run) -> list[Scores]:
    """Scores the model on the held-out split and logs the scores."""
    share_model(run)
    run.evaluating = True
    scores = run.task.evaluate()
    run.evaluating = False
    run.log.write(run.counts.step, "test", scores)
    if run.untrained:
        check_diverged(run, scores, held_out=True)
    if run.trained_parts:
        run.task.begin_stage(run.counts.stage, run.early_stopping.finished)
    return scores


def report(run: Run, progress: Any) -> None:
    """Logs the steps since the last report."""
    means = run.means.read(run.task.metrics, run.task.schedule.gather_rows)
    scores = [{**mean, **latest} for mean, latest in zip(means, run.task.snapshot(), strict=True)]
    learning_rate = run.optimization.learning_rate(run.trained_parts[0]) if run.trained_parts else math.nan
    run.log.write(run.counts.step, "train", scores, learning_rate=learning_rate)
    summary = run.task.summary(scores)
    progress.set_postfix_str(summary)
    if not bars_are_shown(run.accelerator):
        run.log.say(f"step {run.counts.step} of {run.settings.max_steps * run.task.schedule.num_stages}: {summary}")
    check_diverged(run, scores)
    for sentence in run.task.warnings(scores, run.counts.stage_step):
        run.log.say(sentence)


def consider_stopping(run: Run, scores: list[Scores], rows: range) -> None:
    """Stops training rows whose held-out loss has not improved for `early_stopping_patience` evaluations."""
    for callback in run.callbacks:
        callback.on_evaluation(run.folder.path)
    if not run.settings.early_stopping_patience:
        return
    losses = [row["loss"] for row in scores]
    stopping = run.early_stopping
    together = len(run.optimization.parts) < run.task.num_rows  # all rows share one gradient
    for row in stopping.update(losses, rows, run.settings.early_stopping_patience, together=together):
        best, has_loss = stopping.best[row], math.isfinite(run.untrained[row]["loss"])
        if best is not None or has_loss:
            below = "been finite" if best is None else f"fallen below {best:.3f}"
            run.log.say(
                f"stopped training {run.log.row_names[row]} after step {run.counts.step}: its held-out loss has not "
                f"{below} for {stopping.waited[row]} evaluations"
            )
    run.trained_parts = run.task.begin_stage(run.counts.stage, stopping.finished)


def check_diverged(run: Run, scores: Sequence[Scores], *, held_out: bool = False) -> None:
    """Warns once per row that its loss has diverged; `held_out` are scores of the held-out data."""
    found = []
    for row, (now, before) in enumerate(zip(scores, run.untrained, strict=True)):
        had_loss = math.isfinite(before["loss"])  # NaN marks a row without a loss
        too_large = abs(now["loss"]) > _ABSURD_LOSS * (max(1.0, abs(before["loss"])) if had_loss else 1.0)
        # In training, a loss that is not finite may come from one batch, whose step is skipped; see `check_finite`.
        lost = held_out and had_loss and not math.isfinite(now["loss"])
        if row not in run.diverged and (too_large or lost):
            run.diverged.add(row)
            found.append(f"{run.log.row_names[row]} ({now['loss']:.3g}, {before['loss']:.3g} before the first step)")
    if found:
        run.log.say(
            f"training has diverged by step {run.counts.step}: the loss of {', '.join(found)} is too large or not "
            f"finite. Restart with a lower `learning_rate` (now {run.settings.learning_rate:g}), more `warmup_steps`, "
            "or `max_grad_norm`."
        )


def check_finite(run: Run, latest_ids: Sequence[list[str]]) -> None:
    """Stops a run whose gradients are not finite.

    Raises:
        FloatingPointError: `max_skipped_steps` consecutive steps were skipped.
    """
    skipped = run.task.schedule.gather_rows(run.optimization.skipped_steps).max(dim=0).values
    total, in_a_row = skipped.tolist()
    if in_a_row >= run.settings.max_skipped_steps:
        raise FloatingPointError(
            f"skipped the last {counted(in_a_row, 'step')} ({total} in total) because the gradient was not finite. "
            "Reduce `learning_rate`, set `max_grad_norm` or the model's `log_variance_clamp`, or check the utterances "
            f"of the latest batches: {'; '.join(', '.join(ids) for ids in latest_ids)}."
        )


# ---------------------------------------------------------------------- checks

_SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


def check_processes(accelerator: Accelerator) -> None:
    """Checks that the launched processes form one data-parallel group.

    Raises:
        ValueError: The launcher started several processes that do not communicate, or asks for a sharded model.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise ValueError(
            f"{launched} processes were launched, but accelerate sees {accelerator.num_processes}: each would train "
            "alone and overwrite the others' files. On CPUs, set ACCELERATE_USE_CPU=true and launch with "
            "`torchrun --nproc_per_node N`."
        )
    if accelerator.distributed_type in _SHARDED:
        raise ValueError(
            f"`distributed_type` {accelerator.distributed_type.value} is not supported: every process needs the "
            "complete model. Launch with MULTI_GPU, as in `training/accelerate/ddp.yaml`."
        )


def steps_of_epochs(settings: RunArguments, num_utterances: int | None, num_replicas: int) -> int:
    """Number of steps of `num_train_epochs`, or `max_steps` if that is 0.

    Raises:
        ValueError: The data is a stream, whose length is unknown.
    """
    if not settings.num_train_epochs:
        return settings.max_steps
    if num_utterances is None:
        raise ValueError("the length of a stream is unknown; set `max_steps` instead of `num_train_epochs`.")
    crops = settings.batch_size * num_replicas * settings.gradient_accumulation_steps
    return max(1, math.ceil(settings.num_train_epochs * num_utterances / crops))
