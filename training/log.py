"""What a run says of itself: a JSON line for machines, a sentence for the reader of the terminal."""

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from modeling_sim import SimConfig
from modeling_sim.modeling_sim import SimModuleOutput
from modeling_sim.objectives_sim import count_active_units
from training.evaluation import ModuleScores
from training.files import finite_or_none, replacing

LOG_NAME = "log.jsonl"


class MetricMeans:
    """Means of a run's losses over the steps since they were last read; they stay on the device until then."""

    def __init__(self) -> None:
        self.sums: torch.Tensor | None = None
        self.steps = 0

    def add(self, outputs: list[SimModuleOutput]) -> None:
        """Counts one step."""
        values = torch.stack(
            [
                torch.stack([output.loss, output.contrastive_loss, output.contrastive_accuracy, output.kl_loss])
                for output in outputs
            ]
        )
        self.sums = values if self.sums is None else self.sums + values
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """Sums and steps up to now."""
        return {"sums": self.sums, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Goes on from a `state_dict`."""
        self.sums = None if state["sums"] is None else state["sums"].to(device)
        self.steps = state["steps"]

    def scores(self, outputs: list[SimModuleOutput]) -> list[ModuleScores]:
        """Means of the losses, and active units of the latest step; starts anew."""
        if self.sums is None:
            raise ValueError("no step was added since the last reading.")
        active = torch.stack([count_active_units(output.mean) for output in outputs])
        means, self.sums, steps, self.steps = self.sums, None, self.steps, 0
        return [
            ModuleScores(*row, active_units=count)
            for row, count in zip((means / steps).tolist(), active.tolist(), strict=True)
        ]


class Log:
    """A run's record: one JSON line for the machine in `log.jsonl`, sentences for the reader of the terminal."""

    def __init__(self, path: Path, accelerator: Accelerator, config: SimConfig, *, title: str) -> None:
        self.path, self.accelerator, self.config, self.title = path, accelerator, config, title
        self.chance = 1 / (config.num_negatives + 1)
        self.started = time.perf_counter()

    def keep_until(self, step: int) -> None:
        """Drops the lines of later steps, which a resumed run writes again."""
        if not self.accelerator.is_main_process or not self.path.exists():
            return
        lines = [line for line in self.path.read_text().splitlines() if _step_of(line) <= step]
        with replacing(self.path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines))

    def write(self, step: int, split: str, scores: list[ModuleScores], **more: float) -> None:
        """Appends one line."""
        if not self.accelerator.is_main_process:
            return
        line = {
            "step": step,
            "split": split,
            "title": self.title,
            "seconds": round(time.perf_counter() - self.started, 3),
            "chance": self.chance,
            **more,
            "modules": [
                {"name": name, **module.as_dict()}
                for name, module in zip(self.config.module_names, scores, strict=True)
            ],
        }
        with self.path.open("a") as file:
            file.write(json.dumps(finite_or_none(line)) + "\n")

    def summary(self, scores: list[ModuleScores]) -> str:
        """Contrastive accuracy of every module beside chance, KL and active units, in one line."""
        accuracies = " ".join(
            "-" if math.isnan(module.contrastive_accuracy) else f"{module.contrastive_accuracy:.2f}"
            for module in scores
        )
        parts = [f"accuracy {accuracies} (chance {self.chance:.2f})"]
        if self.config.latent_distribution == "gaussian":
            divergences = " ".join(f"{module.kl:.1f}" for module in scores[: self.config.num_conv_modules])
            parts.append(f"KL {divergences}")
        parts.append("active " + " ".join(str(module.active_units) for module in scores))
        return ", ".join(parts)

    def say(self, sentence: str) -> None:
        """Prints a line above the progress bar, once for all processes."""
        if self.accelerator.is_main_process:
            tqdm.write(sentence)


def _step_of(line: str) -> float:
    """Step of a line of the log; one that a killed run left unfinished lies after all others."""
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:
        return math.inf
