"""Interfaces of the trainer: a task, what is trained, and its schedule, in which order and by which processes."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed
from accelerate import Accelerator
from datasets import Dataset, IterableDataset
from transformers import PreTrainedModel, SequenceFeatureExtractor

from modeling_sim.data.batches import Batches, crop_batches, utterance_batches
from modeling_sim.modeling_sim import SimModuleOutput
from modeling_sim.provenance import own_settings
from modeling_sim.trainer.greedy import GradientAverages, Placement, backward, module_generator
from modeling_sim.trainer.log import Scores
from modeling_sim.trainer.optimization import Part
from modeling_sim.trainer.settings import DataArguments, RunArguments


class Schedule:
    """Order and processes in which the rows of a task are trained; this base class trains all rows in every process.

    Args:
        num_rows: Number of rows of scores.
        placement: Modules and data of this process.

    Attributes:
        num_stages: Number of stages; each runs `max_steps` steps and trains different rows.
        empty: Value of `Task.backward` for rows that this process does not train.
    """

    num_stages = 1
    empty = math.nan

    def __init__(self, num_rows: int, placement: Placement) -> None:
        self.num_rows, self.placement = num_rows, placement

    def notes(self) -> list[str]:
        """Messages to print when a run starts."""
        return []

    def rows_of_stage(self, stage: int) -> range:
        """Rows that a stage trains."""
        del stage
        return range(self.num_rows)

    def latents(self, trained: range, **share: int) -> Iterable[dict[str, Any]] | None:
        """Batches of latents of the modules below `trained`, if another process or a cache provides them; else `None`.

        Args:
            trained: Rows to train.
            **share: Batch size, seed, position and process indices, as in `crop_batches`.
        """
        del trained, share
        return None

    def handing_on(self, outputs: Iterable[SimModuleOutput]) -> Iterable[SimModuleOutput]:
        """Yields the outputs of this process' modules; a subclass may send them to other processes."""
        return outputs

    def check_resumable(self, settings: dict[str, Any]) -> None:
        """Checks that this schedule can resume a run with other settings.

        Raises:
            ValueError: The run used a schedule that this one cannot continue.
        """
        if settings.get("execution") == "sequential":
            raise ValueError(
                "the checkpoint is from a 'sequential' run, whose modules are at different steps; resume with "
                "`execution` 'sequential'."
            )

    def gather_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Collects the rows of all processes, if each has only some."""
        return rows

    def gather_optimization(self, state: dict[str, Any]) -> dict[str, Any] | None:
        """Collects the state of all parts in the main process, if each process has only some."""
        return state

    def share_model(self) -> None:
        """Updates the complete model in every process, if each trains only a part of it."""

    def close(self) -> None:
        """Called at the end of a run, also after an error."""


class Task(ABC):
    """What is trained, and how.

    Attributes:
        model: The model, saved in checkpoints.
        extractor: Its feature extractor, saved with it.
        train_data: Data to train on: a stream, or a data set with a length.
        test_data: Data to evaluate on.
        columns: Columns of the data in a batch in addition to the audio.
        accelerator: Provides processes and mixed precision.
        data: Settings of the data.
        settings: Settings of the training.
        title: Model and data of the run, for the log and figures.
        metrics: Names of the columns of `backward`.
        row_names: Names of the rows of scores.
        chance: Chance accuracy; `None` if the scores have no accuracy.
        schedule: Order and processes of the training.
        placement: Modules and data of this process.
    """

    model: PreTrainedModel
    extractor: SequenceFeatureExtractor
    train_data: Dataset | IterableDataset
    test_data: Dataset
    columns: Sequence[str] = ()
    accelerator: Accelerator
    data: DataArguments
    settings: RunArguments
    title: str
    metrics: tuple[str, ...]
    row_names: list[str]
    chance: float | None = None
    schedule: Schedule
    placement: Placement

    @property
    def num_rows(self) -> int:
        """Number of rows of scores."""
        return len(self.row_names)

    @abstractmethod
    def parts(self) -> list[Part]:
        """Parts of the model, each with its own optimizer."""

    def share(self, position: int) -> dict[str, int]:
        """Arguments of `crop_batches` for the crops that this process reads from a position of the stream on."""
        return {
            "batch_size": self.settings.batch_size,
            "seed": self.settings.seed,
            "start_position": position,
            "process_index": self.placement.replica,
            "num_processes": self.placement.num_replicas,
        }

    def batches(self, position: int) -> Iterable[dict[str, Any]]:
        """Endless batches of crops from a position of the stream on, each with `id` and `num_replaced`."""
        return crop_batches(
            self.train_data,
            self.extractor,
            crop_samples=self.data.crop_samples,
            num_workers=self.data.num_workers,
            reader_timeout=self.data.reader_timeout,
            pin_memory=self.accelerator.device.type == "cuda",
            on_bad_audio=self.data.on_bad_audio,
            keep_in_memory=self.data.keep_in_memory,
            columns=self.columns,
            **self.share(position),
        )

    def held_out_batches(self, **options: int) -> Batches:
        """This process' share of the held-out utterances; `options` are those of `utterance_batches`."""
        return utterance_batches(
            self.test_data,
            self.extractor,
            **{"batch_size": self.settings.eval_batch_size, **options},
            process_index=self.accelerator.process_index,
            num_processes=self.accelerator.num_processes,
            num_workers=self.data.num_workers,
            reader_timeout=self.data.reader_timeout,
            columns=self.columns,
            cut=True,
        )

    @abstractmethod
    def backward(self, batch: dict[str, Any], step: int, *, loss_scale: float, accumulating: bool) -> torch.Tensor:
        """Forward and backward pass; returns `(rows, metrics)` on the device, NaN for metrics that do not apply.

        Args:
            batch: An item of `batches`.
            step: Number of the batch, which keys all random draws.
            loss_scale: Factor on the loss.
            accumulating: More batches follow before the optimizer step.
        """

    @abstractmethod
    def evaluate(self) -> list[Scores]:
        """Scores of every row on held-out data, including `loss`."""

    @abstractmethod
    def summary(self, scores: list[Scores]) -> str:
        """Formats the scores in one line."""

    def comparable_config(self) -> dict[str, Any]:
        """Fields, JSON-serializable, that must match those of a checkpoint to resume it."""
        return own_settings(self.model.config)

    def results(self) -> dict[str, Any]:
        """Further entries of `results.json`."""
        return {}

    def begin(self) -> None:  # noqa: B027 - most tasks need nothing
        """Called once before a new run; a resumed run loads its effects on the model or on `state_dict`."""

    def begin_stage(self, stage: int, finished: int) -> list[int]:
        """Prepares to train the rows of a stage from `finished` on; returns the indices of the parts to optimize."""
        del stage, finished
        return list(range(len(self.parts())))

    def after_step(self, progress: float) -> None:
        """Called after every optimizer step, with the fraction of the stage's steps that are finished."""
        del progress

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers that a resumed run needs in addition to the model's."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a `state_dict`."""
        del state

    def snapshot(self) -> list[Scores]:
        """Further scores of the latest step, which are too expensive to compute in every step."""
        return [{} for _ in range(self.num_rows)]

    def warnings(self, scores: list[Scores], step: int) -> list[str]:
        """Warnings about the training, if any."""
        del scores, step
        return []


class CropTask(Task):
    """A task with one row and one part; every process has the complete model and its own crops.

    A subclass sets the attributes of `Task`, and `module`, which keys random draws.
    """

    module: int

    def __init__(self, accelerator: Accelerator, data: DataArguments, settings: RunArguments) -> None:
        self.accelerator, self.data, self.settings = accelerator, data, settings
        self.placement = Placement(range(1), accelerator.process_index, accelerator.num_processes)
        self.schedule = Schedule(1, self.placement)

    def begin_stage(self, stage: int, finished: int) -> list[int]:
        """Sets the model to training mode."""
        del stage, finished
        self.model.train()
        return [0]

    def generator(self, step: int, number: int | None = None) -> torch.Generator:
        """The generator for all random draws in a step of this process, or in a numbered part of a step."""
        process = self.placement.replica if number is None else number
        return module_generator(self.settings.seed, step, self.module, process, self.accelerator.device)

    def backward_pass(self, loss: torch.Tensor, *, loss_scale: float, accumulating: bool) -> None:
        """Backward pass, and once per step the average of the gradients over the processes."""
        backward(self.accelerator, loss, loss_scale)
        if not accumulating:
            self.average_gradients()

    def average_gradients(self) -> None:
        """Averages the gradients of all parts over the processes."""
        averages = GradientAverages(self.placement)
        averages.start([parameter for part in self.parts() for parameter in part.parameters])
        averages.finish()

    def gather_objects(self, found: Any) -> list[Any]:
        """Gathers the objects of all processes."""
        everywhere: list[Any] = [found]
        if self.accelerator.num_processes > 1:
            everywhere = [None] * self.accelerator.num_processes
            torch.distributed.all_gather_object(everywhere, found)
        return everywhere
