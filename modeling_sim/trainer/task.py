"""What a trainer trains, a task, and in which order and by which processes: its schedule."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed
from accelerate import Accelerator
from datasets import Dataset, IterableDataset
from transformers import PreTrainedModel, SequenceFeatureExtractor

from modeling_sim.data.batches import crop_batches
from modeling_sim.modeling_sim import SimModuleOutput
from modeling_sim.provenance import own_settings
from modeling_sim.trainer.greedy import GradientAverages, Placement, backward, module_generator
from modeling_sim.trainer.log import Scores
from modeling_sim.trainer.optimization import Part
from modeling_sim.trainer.settings import DataArguments, RunArguments


class Schedule:
    """Which rows of a task are trained when, and by which processes; this one trains all at once in every process.

    Args:
        num_rows: Rows of scores.
        placement: Modules and data of this process.

    Attributes:
        num_stages: Times that `max_steps` steps are run, each time training other rows.
        empty: What `Task.backward` puts into rows that this process does not train.
    """

    num_stages = 1
    empty = math.nan

    def __init__(self, num_rows: int, placement: Placement) -> None:
        self.num_rows, self.placement = num_rows, placement

    def notes(self) -> list[str]:
        """Sentences on it for the start of a run."""
        return []

    def rows_of_stage(self, stage: int) -> range:
        """Rows that a stage trains."""
        del stage
        return range(self.num_rows)

    def latents(self, trained: range, **share: int) -> Iterable[dict[str, Any]] | None:
        """Batches of what modules below `trained` hand on, where another process or the disk holds it; else `None`.

        Args:
            trained: Rows that are trained.
            **share: Batch size, seed, position and place among the processes, as `crop_batches` takes them.
        """
        del trained, share
        return None

    def handing_on(self, outputs: Iterable[SimModuleOutput]) -> Iterable[SimModuleOutput]:
        """The outputs of this process' modules, which other processes may want."""
        return outputs

    def check_resumable(self, settings: dict[str, Any]) -> None:
        """Refuses to resume from a checkpoint of a run with other settings.

        Raises:
            ValueError: It was trained in an order that this schedule cannot continue.
        """
        if settings.get("execution") == "sequential":
            raise ValueError(
                "the checkpoint is of a 'sequential' run, whose modules are at different steps; continue with "
                "`execution` 'sequential'."
            )

    def gather_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows of all processes, where each has only some."""
        return rows

    def gather_optimization(self, state: dict[str, Any]) -> dict[str, Any] | None:
        """State of all parts in the main process, where each process has only some."""
        return state

    def share_model(self) -> None:
        """Makes the whole model the newest in every process, where each trains only some of it."""

    def close(self) -> None:
        """Called at the end, whichever it is."""


class Task(ABC):
    """What is trained.

    Attributes:
        model: Saved in checkpoints.
        extractor: Saved beside it.
        train_data: What is trained on; a stream, or a data set with a length.
        test_data: What is evaluated on.
        title: What is trained, on what.
        metrics: Names of the columns of `backward`.
        row_names: Names of the rows of scores.
        chance: Accuracy of a guess; `None` where the scores have no accuracy.
        schedule: When and where the rows are trained.
    """

    model: PreTrainedModel
    extractor: SequenceFeatureExtractor
    train_data: Dataset | IterableDataset
    test_data: Dataset
    title: str
    metrics: tuple[str, ...]
    row_names: list[str]
    chance: float | None = None
    schedule: Schedule

    @property
    def num_rows(self) -> int:
        """Rows of scores."""
        return len(self.row_names)

    @abstractmethod
    def parts(self) -> list[Part]:
        """What is optimized on its own."""

    @abstractmethod
    def batches(self, position: int) -> Iterable[dict[str, Any]]:
        """Endless batches from a position of the stream on; each has `id` and `num_replaced`."""

    @abstractmethod
    def backward(self, batch: dict[str, Any], step: int, *, loss_scale: float, accumulating: bool) -> torch.Tensor:
        """Forward and backward pass; returns `(rows, metrics)` on the device, NaN where there is nothing to say.

        Args:
            batch: Of `batches`.
            step: Key of everything random in it.
            loss_scale: Factor on the loss.
            accumulating: More batches follow before the optimizer's step.
        """

    @abstractmethod
    def evaluate(self) -> list[Scores]:
        """Scores of every row on held-out data, with a `loss` each."""

    @abstractmethod
    def summary(self, scores: list[Scores]) -> str:
        """The scores in one line."""

    def comparable_config(self) -> dict[str, Any]:
        """What makes the model another one, as JSON holds it: a checkpoint that differs in it is not resumed."""
        return own_settings(self.model.config)

    def results(self) -> dict[str, Any]:
        """Further entries of the results."""
        return {}

    def begin_stage(self, stage: int, finished: int) -> list[int]:
        """Gets ready to train, with the rows below `finished` trained no more; returns the parts to optimize."""
        del stage, finished
        return list(range(len(self.parts())))

    def snapshot(self) -> list[Scores]:
        """Further scores of the latest step alone, which cost too much for every step."""
        return [{} for _ in range(self.num_rows)]

    def warnings(self, scores: list[Scores], step: int) -> list[str]:
        """Sentences on what goes wrong, if anything does."""
        del scores, step
        return []


class CropTask(Task):
    """A task of one row and one part; every process has the whole model and crops of its own.

    A subclass sets what `Task` asks for, `module`, the module that randomness is keyed by, and `columns`.
    """

    columns: Sequence[str] = ()
    """Columns of the data that a batch holds beside the audio."""
    module: int

    def __init__(self, accelerator: Accelerator, data: DataArguments, settings: RunArguments) -> None:
        self.accelerator, self.data, self.settings = accelerator, data, settings
        self.placement = Placement(range(1), accelerator.process_index, accelerator.num_processes)
        self.schedule = Schedule(1, self.placement)

    def begin_stage(self, stage: int, finished: int) -> list[int]:
        """Training mode."""
        del stage, finished
        self.model.train()
        return [0]

    def batches(self, position: int) -> Iterable[dict[str, Any]]:
        """Crops, and the columns."""
        return crop_batches(
            self.train_data,
            self.extractor,
            crop_samples=self.data.crop_samples,
            batch_size=self.settings.batch_size,
            seed=self.settings.seed,
            start_position=position,
            process_index=self.placement.replica,
            num_processes=self.placement.num_replicas,
            num_workers=self.data.num_workers,
            reader_timeout=self.data.reader_timeout,
            pin_memory=self.accelerator.device.type == "cuda",
            on_bad_audio=self.data.on_bad_audio,
            keep_in_memory=self.data.keep_in_memory,
            columns=self.columns,
        )

    def generator(self, step: int, number: int | None = None) -> torch.Generator:
        """The generator of everything random in a step of this process, or in a numbered part of it."""
        process = self.placement.replica if number is None else number
        return module_generator(self.settings.seed, step, self.module, process, self.accelerator.device)

    def backward_pass(self, loss: torch.Tensor, *, loss_scale: float, accumulating: bool) -> None:
        """Backward pass, and once a step the average of the gradients over the processes."""
        backward(self.accelerator, loss, loss_scale)
        if not accumulating:
            averages = GradientAverages(self.placement)
            averages.start([parameter for parameter in self.model.parameters() if parameter.requires_grad])
            averages.finish()

    def gather_objects(self, found: Any) -> list[Any]:
        """What every process found."""
        everywhere: list[Any] = [found]
        if self.accelerator.num_processes > 1:
            everywhere = [None] * self.accelerator.num_processes
            torch.distributed.all_gather_object(everywhere, found)
        return everywhere
