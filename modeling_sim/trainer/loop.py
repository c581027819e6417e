"""The loop that every training command shares: steps, logging, evaluation, checkpoints, and ends of all kinds.

What is trained is a `Task`: rows of scores (one per module), parts that are optimized on their own, batches, and a
backward pass. Its `Schedule` says which rows are trained when and by which processes. What happens around a run, as
uploads do, is a `Callback`.
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
from modeling_sim.trainer.checkpoints import find_checkpoint, read_checkpoint, save_checkpoint
from modeling_sim.trainer.log import Log, MetricMeans, Scores, bars_are_shown, in_one_line
from modeling_sim.trainer.optimization import Optimization
from modeling_sim.trainer.run_folder import RunFolder
from modeling_sim.trainer.settings import RunArguments
from modeling_sim.trainer.task import Task

# Schedulers announce the end of a job's time with a signal of the user's choice: `#SBATCH --signal=USR1@120`.
_SIGNALS = (signal.SIGTERM, signal.SIGINT, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))


class StopRequest:
    """Notes SIGTERM, SIGINT and SIGUSR1 while it is entered; a second one acts as it would without this."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def agreed(self, *, together: bool, out_of_time: bool) -> tuple[int, bool]:
        """Number of the signal to stop for, 0 for none, and whether time is up.

        Several processes must stop after the same step, so they ask each other, and only where `together` says that
        all of them are asking, as in a step that is logged.
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
    """How far a run has come; kept in its checkpoints."""

    step: int = 0
    """Optimizer steps of all stages."""
    stage: int = 0
    stage_step: int = 0
    """Steps of this stage."""
    position: int = 0
    """Crops that all processes together have read in this stage."""
    crops: int = 0
    """Crops that they have read in all."""
    replaced: int = 0
    """Crops of files that broke while they were read, which other utterances stood in for."""
    seconds: float = 0.0
    """Time spent in steps."""


@dataclass
class EarlyStopping:
    """Which rows have stopped getting better; a row stops once all below it have."""

    finished: int = 0
    """Rows from the bottom that are trained no more."""
    best: list[float | None] = field(default_factory=list)
    """Lowest held-out loss of each row."""
    waited: list[int] = field(default_factory=list)
    """Evaluations since then."""

    def update(self, losses: Sequence[float], rows: range, patience: int, *, together: bool) -> list[int]:
        """Counts an evaluation; returns the rows that stop now. With `together` they stop only at once."""
        self.best = self.best or [None] * len(losses)
        self.waited = self.waited or [0] * len(losses)
        for row in range(self.finished, rows.stop):
            best = self.best[row]
            better = best is None or losses[row] < best
            self.best[row], self.waited[row] = (losses[row], 0) if better else (best, self.waited[row] + 1)
        before = self.finished
        if together:
            if min(self.waited[row] for row in rows if math.isfinite(losses[row])) >= patience:
                self.finished = rows.stop
        else:
            while self.finished < rows.stop and self.waited[self.finished] >= patience:
                self.finished += 1
        return list(range(before, self.finished))


class Callback:
    """What happens around a run besides its training; a subclass overrides what it needs.

    All methods are called in the main process alone. Training waits for each, and an error of one ends the run: report
    what may be skipped, and do what takes long in a thread.
    """

    def on_begin(self, run_folder: Path, say: Callable[[str], None]) -> None:
        """Called before the first step, and before `on_end` of a run that is found finished.

        Args:
            run_folder: Folder of the run.
            say: Prints a sentence without disturbing the progress bar; it may be called from any thread.
        """

    def on_evaluation(self, run_folder: Path) -> None:
        """Called after every evaluation between two steps; the log has its scores."""

    def on_save(self, checkpoint: Path) -> None:
        """Called with the folder of every checkpoint that was written; a later save may remove it."""

    def on_end(self, run_folder: Path) -> None:
        """Called once the run is finished and its files are complete, and again if the same command finds it so."""

    def close(self) -> None:
        """Called last, however the run ends."""


@dataclass
class Run:
    """A task on its way."""

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
    """Step of the newest checkpoint of this run, or of the latest attempt at one; the same in all processes."""
    diverged: set[int] = field(default_factory=set)
    """Rows whose loss has been reported as absurd."""
    evaluating: bool = False
    """Whether an evaluation runs, or ended in an error."""


# What a full disk raises: Python, safetensors and torch's writer of archives.
SAVING_ERRORS = (OSError, SafetensorError, RuntimeError)


# A loss this many times as large as before the first step, or as 1 where that is less, says that training diverged.
_ABSURD_LOSS = 1e4


# ---------------------------------------------------------------------- checkpoints


def resume(run: Run) -> None:
    """Goes on from a checkpoint if there is one to go on from, and says so.

    Raises:
        ValueError: The checkpoint is of another model, or the one that was asked for is not whole.
    """
    settings, log = run.settings, run.log
    checkpoint = None
    if settings.resume == "auto":
        checkpoint, broken = find_checkpoint(run.folder.path)
        for sentence in broken:
            log.say(f"{sentence}; trying the one before")
    elif settings.resume != "never":
        checkpoint = read_checkpoint(Path(settings.resume))
    log.keep_until(checkpoint.numbers["step"] if checkpoint is not None else -1)
    if checkpoint is None:
        return

    numbers = checkpoint.numbers
    if numbers["counts"]["stage_step"] > settings.max_steps:
        raise ValueError(
            f"{checkpoint.path} is after step {numbers['counts']['stage_step']}, and `max_steps` is "
            f"{settings.max_steps}; give more steps, or another `output_dir`."
        )
    then = numbers["comparable_config"]
    different = sorted(name for name, value in run.task.comparable_config().items() if value != then.get(name))
    if different:
        raise ValueError(
            f"{checkpoint.path} is of another model: {', '.join(different)} differ. Give the settings it was trained "
            "with, or another `output_dir`."
        )
    run.task.schedule.check_resumable(numbers["settings"])
    checkpoint.load_model(run.task.model)
    tensors = checkpoint.load_tensors()
    run.optimization.load_state_dict(tensors["optimization"])
    run.means.load_state_dict(tensors["means"], run.accelerator.device)
    run.counts = Counts(**numbers["counts"])
    if settings.resume == "auto":
        run.saved_step = run.counts.step
    run.early_stopping = EarlyStopping(**numbers["early_stopping"])
    run.untrained = [
        {name: math.nan if value is None else value for name, value in scores.items()}
        for scores in numbers["untrained"]
    ]
    run.diverged = set(numbers.get("diverged", []))  # which earlier versions did not keep
    log.say(f"resuming after step {run.counts.step}, from {checkpoint.path}")
    for name, value in run.all_settings.items():
        before = numbers["settings"].get(name)
        if before != value and name not in ("resume", "overwrite_output_dir", "output_dir"):
            log.say(f"  `{name}` was {before!r} and is now {value!r}")


def save(run: Run) -> None:
    """Writes a checkpoint unless there is one of this step; a full disk is reported, and training continues.

    Every process calls it.
    """
    if run.saved_step == run.counts.step:
        return
    run.saved_step = run.counts.step
    schedule = run.task.schedule
    schedule.share_model()
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
            tensors={"optimization": optimization, "means": means},
            limit=run.settings.save_total_limit,
        )
    except SAVING_ERRORS as error:
        run.log.say(
            f"step {run.counts.step} could not be saved ({in_one_line(error)}); training continues, and earlier "
            "checkpoints are as they were"
        )
        return
    for callback in run.callbacks:
        callback.on_save(checkpoint)


# ---------------------------------------------------------------------- steps


def train(run: Run) -> list[Scores]:
    """Trains to the end and returns the scores there; `run.untrained` has those before the first step.

    Raises:
        SystemExit: SIGTERM, SIGINT or SIGUSR1 came; the state was saved, and the code is 128 plus the signal's number.
        FloatingPointError: `max_skipped_steps` steps in a row were not finite.
        ReaderError: A reader process died or hangs; the steps so far were saved.
        AudioError, BadAudioError: A recording cannot be read; the steps so far were saved.
    """
    counts, task = run.counts, run.task
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
        scores = score(run)
    except (ReaderError, AudioError, BadAudioError):
        # Other processes wait for this one in the middle of a step: what needs them cannot be saved.
        if counts.step and task.schedule.placement.num_replicas == run.accelerator.num_processes:
            save(run)
        raise
    check_diverged(run, scores)
    return scores


def train_stage(run: Run, stop: StopRequest) -> bool:
    """Runs the steps that are left of a stage; returns whether there is time for another."""
    accelerator, task, settings, counts = run.accelerator, run.task, run.settings, run.counts
    num_stages, rows = task.schedule.num_stages, task.schedule.rows_of_stage(counts.stage)
    if run.early_stopping.finished >= rows.stop:
        return True
    run.early_stopping.finished = max(run.early_stopping.finished, rows.start)  # what earlier stages trained is done
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
            run.log.say(
                f"stopped by {signal.Signals(received).name} after step {counts.step}; the same command continues"
            )
            raise SystemExit(128 + received)
        if out_of_time:
            run.log.say(f"`max_train_time` is over after step {counts.step}")
            return False
        if run.early_stopping.finished >= rows.stop:
            break
    return True


def training_step(
    run: Run, batches: Iterator[dict[str, Any]], stage_step: int, latest_ids: deque[list[str]] | None = None
) -> None:
    """One step of the optimizer, on as many batches as gradients accumulate over."""
    settings, counts = run.settings, run.counts
    accumulated = settings.gradient_accumulation_steps
    before, means_before = asdict(counts), copy(run.means)
    run.optimization.begin_step(run.trained_parts)
    for number in range(accumulated):
        try:
            batch = next(batches)
        except Exception:  # as if the step had not begun: the steps before it are saved
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


def score(run: Run) -> list[Scores]:
    """Scores the model on the held-out split and logs it."""
    run.task.schedule.share_model()
    run.evaluating = True
    scores = run.task.evaluate()
    run.evaluating = False
    run.log.write(run.counts.step, "test", scores)
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
    """Ends the training of rows whose held-out loss has not fallen for `early_stopping_patience` evaluations."""
    for callback in run.callbacks:
        callback.on_evaluation(run.folder.path)
    if not run.settings.early_stopping_patience:
        return
    losses = [row["loss"] for row in scores]
    stopping = run.early_stopping
    together = len(run.optimization.parts) < run.task.num_rows  # one gradient for all
    for row in stopping.update(losses, rows, run.settings.early_stopping_patience, together=together):
        run.log.say(
            f"{run.log.row_names[row]} is trained no more after step {run.counts.step}: its held-out loss has not "
            f"fallen below {stopping.best[row]:.3f} for {stopping.waited[row]} evaluations"
        )
    run.trained_parts = run.task.begin_stage(run.counts.stage, stopping.finished)


def check_diverged(run: Run, scores: Sequence[Scores]) -> None:
    """Says once per row that its loss has left every sensible range, though it is finite."""
    found = []
    for row, (now, before) in enumerate(zip(scores, run.untrained, strict=True)):
        bound = _ABSURD_LOSS * max(1.0, abs(before["loss"])) if math.isfinite(before["loss"]) else _ABSURD_LOSS
        # NaN means nothing to say in a row of training; steps that are not finite have a check of their own.
        if row not in run.diverged and abs(now["loss"]) > bound:
            run.diverged.add(row)
            found.append(f"{run.log.row_names[row]} ({now['loss']:.3g}, {before['loss']:.3g} before the first step)")
    if found:
        run.log.say(
            f"training has diverged by step {run.counts.step}; the loss of {', '.join(found)} is beyond all bounds. "
            f"Start again with a lower `learning_rate` (now {run.settings.learning_rate:g}), more `warmup_steps`, or "
            "`max_grad_norm`."
        )


def check_finite(run: Run, latest_ids: Sequence[list[str]]) -> None:
    """Stops a run whose steps are not finite any more.

    Raises:
        FloatingPointError: `max_skipped_steps` steps in a row had to be left out.
    """
    skipped = run.task.schedule.gather_rows(run.optimization.skipped_steps).max(dim=0).values
    total, in_a_row = skipped.tolist()
    if in_a_row >= run.settings.max_skipped_steps:
        raise FloatingPointError(
            f"the gradient was not finite in the last {in_a_row} steps ({total} in all), and they were left out. "
            "Lower `learning_rate`, set `max_grad_norm` or the model's `log_variance_clamp`, or look at the "
            f"utterances of the latest batches: {'; '.join(', '.join(ids) for ids in latest_ids)}."
        )


# ---------------------------------------------------------------------- checks

_SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


def check_processes(accelerator: Accelerator) -> None:
    """Refuses launches under which training would not be what it seems.

    Raises:
        ValueError: The launcher started several processes that do not know of each other, or wants the model sharded.
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
            f"`distributed_type` {accelerator.distributed_type.value} is not supported: every process has the whole "
            "model. Launch with MULTI_GPU, as in `training/accelerate/ddp.yaml`."
        )


def check_settings(settings: RunArguments) -> None:
    """Refuses what would fail later, or run and mean nothing."""
    for name, least in (
        ("max_steps", 1), ("batch_size", 1), ("eval_batch_size", 1), ("logging_steps", 1),
        ("warmup_steps", 0), ("eval_steps", 0), ("max_grad_norm", 0), ("seed", 0),
        ("save_steps", 0), ("save_total_limit", 1), ("max_skipped_steps", 1), ("gradient_accumulation_steps", 1),
        ("num_train_epochs", 0), ("max_train_time", 0), ("early_stopping_patience", 0),
    ):  # fmt: skip
        if getattr(settings, name) < least:
            raise ValueError(f"`{name}` is {getattr(settings, name)}; it must be at least {least}.")
    if settings.learning_rate <= 0:
        raise ValueError(f"`learning_rate` is {settings.learning_rate}; it must be above 0.")
    if settings.early_stopping_patience and not settings.eval_steps:
        raise ValueError("`early_stopping_patience` counts evaluations; set `eval_steps`.")


def steps_of_epochs(settings: RunArguments, num_utterances: int | None, num_replicas: int) -> int:
    """Steps that `num_train_epochs` makes, or `max_steps` where that is 0.

    Raises:
        ValueError: The data is a stream, whose length is not known.
    """
    if not settings.num_train_epochs:
        return settings.max_steps
    if num_utterances is None:
        raise ValueError("a stream's length is not known; set `max_steps` instead of `num_train_epochs`.")
    crops = settings.batch_size * num_replicas * settings.gradient_accumulation_steps
    return max(1, math.ceil(settings.num_train_epochs * num_utterances / crops))
