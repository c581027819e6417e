"""What tasks share that train one model on crops, the same in all processes: data, mode, averages over processes."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed
from accelerate import Accelerator

from training.arguments import DataArguments, RunArguments
from training.batches import crop_batches
from training.greedy import GradientAverages, Placement, backward, module_generator
from training.trainer import Task


class CropTask(Task):
    """A task of one row and one part; every process has the whole model and crops of its own.

    A subclass sets what `Task` asks for, `module`, the module that randomness is keyed by, and `columns`.
    """

    columns: Sequence[str] = ()
    """Columns of the data that a batch holds beside the audio."""
    module: int

    def __init__(self, accelerator: Accelerator, data: DataArguments, settings: RunArguments) -> None:
        self.accelerator, self.data, self.settings = accelerator, data, settings
        self.num_replicas = accelerator.num_processes
        self.placement = Placement(range(0), accelerator.process_index, accelerator.num_processes)

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
            on_bad_audio=self.data.on_bad_audio,  # type: ignore[arg-type]
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

    def of_all_processes(self, found: Any) -> list[Any]:
        """What every process found."""
        everywhere: list[Any] = [found]
        if self.accelerator.num_processes > 1:
            everywhere = [None] * self.accelerator.num_processes
            torch.distributed.all_gather_object(everywhere, found)
        return everywhere
