"""What a run says of itself: a JSON line for machines, a sentence for the reader of the terminal."""

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from training.files import finite_or_none, replacing

LOG_NAME = "log.jsonl"


# Scores of one module, by name; NaN where there is nothing to say.
Scores = dict[str, float]


class MetricMeans:
    """Means of a run's scores over the steps since they were last read; they stay on the device until then."""

    def __init__(self) -> None:
        self.sums: torch.Tensor | None = None
        self.steps = 0

    def add(self, rows: torch.Tensor) -> None:
        """Counts one step's `(rows, metrics)`."""
        self.sums = rows if self.sums is None else self.sums + rows
        self.steps += 1

    def state_dict(self, gather: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
        """Sums and steps up to now; `gather` completes the rows of this process."""
        return {"sums": None if self.sums is None else gather(self.sums), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Goes on from a `state_dict`."""
        self.sums = None if state["sums"] is None else state["sums"].to(device)
        self.steps = state["steps"]

    def read(self, metrics: Sequence[str], gather: Callable[[torch.Tensor], torch.Tensor]) -> list[Scores]:
        """Means of the scores; starts anew.

        Raises:
            ValueError: No step was added.
        """
        if self.sums is None:
            raise ValueError("no step was added since the last reading.")
        means = gather(self.sums / self.steps)
        self.sums, self.steps = None, 0
        return [dict(zip(metrics, row, strict=True)) for row in means.tolist()]


class Log:
    """A run's record: one JSON line for the machine in `log.jsonl`, sentences for the reader of the terminal.

    Args:
        path: The file.
        accelerator: Knows the main process, which alone writes.
        title: What is trained, on what.
        row_names: Names of the rows of scores.
        chance: Accuracy of a guess; `None` where the scores have no accuracy.
    """

    def __init__(
        self, path: Path, accelerator: Accelerator, *, title: str, row_names: Sequence[str], chance: float | None
    ) -> None:
        self.path, self.accelerator, self.title = path, accelerator, title
        self.row_names, self.chance = list(row_names), chance
        self.started = time.perf_counter()

    def keep_until(self, step: int) -> None:
        """Drops the lines of later steps, which a resumed run writes again."""
        if not self.accelerator.is_main_process or not self.path.exists():
            return
        lines = [line for line in self.path.read_text().splitlines() if _step_of(line) <= step]
        with replacing(self.path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines))

    def write(self, step: int, split: str, scores: list[Scores], **more: float) -> None:
        """Appends one line, and tells accelerate's trackers."""
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
        with self.path.open("a") as file:
            file.write(json.dumps(finite_or_none(line)) + "\n")

    def say(self, sentence: str) -> None:
        """Prints a line above the progress bar, once for all processes."""
        if self.accelerator.is_main_process:
            tqdm.write(sentence)


def or_dash(value: float, form: str) -> str:
    """A number as text, or a dash for NaN."""
    return "-" if math.isnan(value) else format(value, form)


def _step_of(line: str) -> float:
    """Step of a line of the log; one that a killed run left unfinished lies after all others."""
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:
        return math.inf
