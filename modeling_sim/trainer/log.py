"""Logging of a run: JSON lines in a file, messages on the terminal."""

import errno
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from datasets import disable_progress_bars
from tqdm.auto import tqdm
from transformers.utils import logging

from modeling_sim.files import finite_or_none, replacing
from modeling_sim.text import printable, utf8_name

# Scores of one module by name; NaN if a score does not apply.
Scores = dict[str, float]


_terminal = {"bars": True}


def prepare_output(*, disable_tqdm: bool = False) -> None:
    """Adapts the output of a command to its destination; call it once at the start.

    Characters that the terminal cannot encode are escaped instead of raising an error. Progress bars are only shown on
    terminals: in a file each update would be a line.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    unwanted = os.environ.get("TQDM_DISABLE", "").lower() not in ("", "0", "false")
    _terminal["bars"] = not (disable_tqdm or unwanted) and sys.stderr is not None and sys.stderr.isatty()
    if not _terminal["bars"]:
        disable_library_bars()


def disable_library_bars() -> None:
    """Turns off the progress bars of datasets and transformers."""
    disable_progress_bars()
    logging.disable_progress_bar()


def bars_are_shown(accelerator: Accelerator) -> bool:
    """Whether this process shows progress bars; see `prepare_output`."""
    return _terminal["bars"] and accelerator.is_main_process


class MetricMeans:
    """Means of scores over the steps since they were last read; kept on the device until then."""

    def __init__(self) -> None:
        self.sums: torch.Tensor | None = None
        self.steps = 0

    def add(self, rows: torch.Tensor) -> None:
        """Adds the scores of one step, `(rows, metrics)`."""
        self.sums = rows if self.sums is None else self.sums + rows
        self.steps += 1

    def state_dict(self, gather: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
        """Sums and number of steps; `gather` collects the rows of all processes."""
        return {"sums": None if self.sums is None else gather(self.sums), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Restores a `state_dict`."""
        self.sums = None if state["sums"] is None else state["sums"].to(device)
        self.steps = state["steps"]

    def read(self, metrics: Sequence[str], gather: Callable[[torch.Tensor], torch.Tensor]) -> list[Scores]:
        """Returns the means of the scores, and resets them.

        Raises:
            ValueError: No step was added.
        """
        if self.sums is None:
            raise ValueError("no step was added since the last call of `read`.")
        means = gather(self.sums / self.steps)
        self.sums, self.steps = None, 0
        return [dict(zip(metrics, row, strict=True)) for row in means.tolist()]


class Log:
    """Log of a run: JSON lines in `log.jsonl`, messages on the terminal.

    Args:
        path: The file.
        accelerator: Determines the main process, the only one that writes.
        title: Model and data of the run.
        row_names: Names of the rows of scores.
        chance: Chance accuracy; `None` if the scores have no accuracy.
    """

    def __init__(
        self, path: Path, accelerator: Accelerator, *, title: str, row_names: Sequence[str], chance: float | None
    ) -> None:
        self.path, self.accelerator = path, accelerator
        self.title = utf8_name(title)  # may contain a path, and appears in figures and published files
        self.row_names, self.chance = list(row_names), chance
        self.started = time.perf_counter()

    def keep_until(self, step: int) -> None:
        """Removes the lines of later steps, which the resumed run will write again."""
        if not self.accelerator.is_main_process or not self.path.exists():
            return
        lines = [line for line in self._lines() if _step_of(line) <= step]
        with replacing(self.path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def write(self, step: int, split: str, scores: list[Scores], **more: float) -> None:
        """Appends one line, and passes the scores to accelerate's trackers; a full disk is only reported.

        If the log already ends with the same evaluation, which an extended run repeats, nothing is written.
        """
        if not self.accelerator.is_main_process:
            return
        line = {
            "step": step,
            "split": split,
            "title": self.title,
            "seconds": round(time.perf_counter() - self.started, 3),
            "chance": self.chance,
            **more,
            "modules": [{"name": name, **module} for name, module in zip(self.row_names, scores, strict=True)],
        }
        values = {f"{split}/{name}": value for name, value in more.items()}
        for name, module in zip(self.row_names, scores, strict=True):
            values |= {f"{split}/{name}/{metric}": value for metric, value in module.items()}
        self.accelerator.log({name: value for name, value in values.items() if math.isfinite(value)}, step=step)
        latest = self._lines()[-1:] if split == "test" and self.path.exists() else []
        if latest and (_step_of(latest[0]), json.loads(latest[0])["split"]) == (step, split):
            return
        try:
            _append(self.path, (json.dumps(finite_or_none(line)) + "\n").encode())
        except OSError as error:
            self.say(f"could not log step {step} to {self.path.name} ({error}); training continues")

    def _lines(self) -> list[str]:
        return self.path.read_text(encoding="utf-8", errors="replace").splitlines()

    def say(self, sentence: str) -> None:
        """Prints a line above the progress bar, only in the main process; escapes nonprintable characters."""
        if self.accelerator.is_main_process:
            tqdm.write(printable(sentence))
            sys.stdout.flush()  # for readers that follow a log file


def or_dash(value: float, form: str) -> str:
    """A number as text, or a dash for NaN."""
    return "-" if math.isnan(value) else format(value, form)


def _step_of(line: str) -> float:
    """Step of a line of the log; infinite for an incomplete line of a killed run."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return math.inf


def _append(path: Path, line: bytes) -> None:
    """Appends a line to a file, completely or not at all.

    Raises:
        OSError: The disk is full.
    """
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        written = 0
        try:
            written = file.write(line)
        finally:
            if written != len(line):
                file.truncate(size)
    if written != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
