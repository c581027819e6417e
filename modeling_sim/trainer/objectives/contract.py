"""Interface of an objective: a loss of one or more views of the same crops, which may have parameters.

An objective trains a `SimModel`, which does not depend on it. Heads, queues and momentum networks belong to the
objective: they are saved in the checkpoints of a run, but not with the model. The setting `objective` names one of
`OBJECTIVES`, or any subclass of `Objective` by its import path, `my_package.my_module:MyObjective`.
"""

import copy
import importlib
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
import torch.distributed
from torch import nn

from modeling_sim import SimModel
from modeling_sim.files import nearest
from modeling_sim.objectives_sim import full_precision
from modeling_sim.trainer.settings import INFONCE

_HERE = "modeling_sim.trainer.objectives"

OBJECTIVES = {
    "simclr": f"{_HERE}.simclr:SimCLR",
    "moco": f"{_HERE}.moco:MoCo",
    "byol": f"{_HERE}.byol:BYOL",
    "vicreg": f"{_HERE}.vicreg:VICReg",
    "lejepa": f"{_HERE}.lejepa:LeJEPA",
    "dino": f"{_HERE}.dino:DINO",
}


class Range(NamedTuple):
    """Range of a setting of an objective; part of the annotation of the argument."""

    least: float
    most: float = math.inf
    is_open: bool = False
    """Whether `least` itself is excluded."""

    def __str__(self) -> str:
        """In words."""
        if self.most < math.inf:
            return f"from {self.least:g} to {self.most:g}"
        return f"above {self.least:g}" if self.is_open else f"of at least {self.least:g}"

    def __contains__(self, value: object) -> bool:
        """Whether a number is in the range; infinity and NaN are not."""
        return (
            isinstance(value, int | float)
            and self.least <= value <= self.most
            and value < math.inf
            and not (self.is_open and value == self.least)
        )


Positive = Annotated[float, Range(0, is_open=True)]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Count = Annotated[int, Range(1)]
Several = Annotated[int, Range(2)]


class View(NamedTuple):
    """One module's output for one view of the crops of a batch."""

    latents: torch.Tensor
    """`(batch, frames, channels)`: samples of Gaussian latents, or deterministic latents."""
    target: torch.Tensor | None
    """Latents of the momentum network, without gradient and sampling; `None` if there is no such network."""


class ObjectiveOutput(NamedTuple):
    """Loss of one module, a 0-dim float32 tensor, and the values of `Objective.metrics`, without gradient."""

    loss: torch.Tensor
    metrics: dict[str, torch.Tensor]


class Objective(nn.Module):
    """A loss of each module, given views of the same crops. A subclass sets the attributes and defines `loss`.

    Args:
        channels: Channels of the latents of each module with a loss, by the module's number. The setting
            `objective_settings` gives further arguments of a subclass. Those whose annotation has a `Range`, such as
            `Positive` or `Share`, are checked.

    Attributes:
        num_views: Number of views of each crop, augmented independently (setting `augmentation`).
        metrics: Names of the metrics of `loss`, for the log.
        changed_settings: Further arguments that differ from their defaults; they must be the same in a resumed run.
        shared_generator: Random generator of draws that must be the same in all processes, set before each `loss`.
        momentum: Momentum of the momentum network's weights at the start and at the end of the training; `None` for no
            momentum network.
        heads: Networks and buffers of each module, `heads[str(module)]`, trained together with it. The momentum network
            has its own, `target_heads`, with averaged parameters and independent buffers.
    """

    num_views: ClassVar[int] = 2
    metrics: ClassVar[tuple[str, ...]] = ()

    def __init__(self, channels: Mapping[int, int]) -> None:
        super().__init__()
        self.channels = dict(channels)
        self.changed_settings: dict[str, Any] = {}
        self.shared_generator = torch.Generator()
        self.momentum: tuple[float, float] | None = None
        self.heads = nn.ModuleDict()
        self.target_heads = nn.ModuleDict()
        self.target_network: SimModel | None = None

    def loss(
        self, module: int, views: Sequence[View], frame_mask: torch.Tensor | None, generator: torch.Generator
    ) -> ObjectiveOutput:
        """Returns the loss of one module. It may update buffers, such as a queue, only in training mode.

        With `gradient_accumulation_steps` it is called for each batch of a step, so buffers are updated per batch.

        Args:
            module: Number of the module.
            views: The module's output for each view; frame t of all views covers the same samples.
            frame_mask: `(batch, frames)` bool, true where a frame is real; `None` if all are.
            generator: Random generator, different in each process.
        """
        raise NotImplementedError

    def attach(self, model: SimModel) -> None:
        """Creates the momentum network, if there is one; called once before training, with a new model."""
        if self.momentum is None:
            return
        self.target_network = copy.deepcopy(model).requires_grad_(False)
        self.target_heads = copy.deepcopy(self.heads).requires_grad_(False)

    @torch.no_grad()
    def after_step(self, model: SimModel, progress: float) -> None:
        """Called after each optimizer step with the fraction of finished steps; updates the momentum network.

        The momentum has a cosine schedule from its start to its end (Grill et al. 2020).
        """
        if self.momentum is None or self.target_network is None:
            return
        first, last = self.momentum
        kept = last - (last - first) * (math.cos(math.pi * progress) + 1) / 2
        pairs = [(self.target_network, model), (self.target_heads, self.heads)]
        for target, source in pairs:
            averages, weights = list[torch.Tensor](target.parameters()), list[torch.Tensor](source.parameters())
            if averages:
                torch._foreach_lerp_(averages, weights, 1 - kept)

    def module_buffers(self, module: int) -> list[torch.Tensor]:
        """Buffers that the loss of a module changes."""
        name = str(module)
        return [
            buffer for heads in (self.heads, self.target_heads) if name in heads for buffer in heads[name].buffers()
        ]


class FrameObjective(Objective):
    """An objective of single frames: a positive pair is the same frame of two views; frames are drawn from the batch.

    A subclass defines `frame_loss`. A batch has too many frames for some losses: 32 crops of 0.64 s have 16,000 frames
    in module 0, and SimCLR compares all pairs. Therefore a fixed number of frames is drawn for each module.

    Args:
        channels: See `Objective`.
        num_frames: Number of frames drawn from a batch, the same frames for both views.
    """

    def __init__(self, channels: Mapping[int, int], *, num_frames: Several = 1024) -> None:
        super().__init__(channels)
        self.num_frames = num_frames

    def loss(
        self, module: int, views: Sequence[View], frame_mask: torch.Tensor | None, generator: torch.Generator
    ) -> ObjectiveOutput:
        """Draws frames, and applies the heads under autocast and `frame_loss` in full precision.

        Raises:
            ValueError: The batch of a training step has a single frame, which has no variance.
        """
        device = views[0].latents.device
        chosen = chosen_frames(views[0].latents, frame_mask, self.num_frames, generator)
        if self.training and len(chosen) < 2:
            raise ValueError(
                f"module {module} has a single frame in a batch, but this objective compares several; raise "
                "`batch_size` or `crop_samples`."
            )
        latents = torch.stack([view.latents.flatten(0, 1)[chosen] for view in views])
        found = [view.target.flatten(0, 1)[chosen] for view in views if view.target is not None]
        outputs = self.project(module, latents)
        targets = None
        if found:
            with torch.no_grad():
                targets = self.project_targets(module, torch.stack(found)).float()
        with full_precision(device):
            return self.frame_loss(module, outputs.float(), targets, generator)

    def project(self, module: int, latents: torch.Tensor) -> torch.Tensor:
        """Applies the head of a module to `(views, frames, channels)`."""
        outputs: torch.Tensor = self.heads[str(module)](latents)
        return outputs

    def project_targets(self, module: int, latents: torch.Tensor) -> torch.Tensor:
        """Applies the head of the momentum network to its latents `(views, frames, channels)`."""
        outputs: torch.Tensor = self.target_heads[str(module)](latents)
        return outputs

    def frame_loss(
        self, module: int, outputs: torch.Tensor, targets: torch.Tensor | None, generator: torch.Generator
    ) -> ObjectiveOutput:
        """Returns the loss of projected frames and the values of `metrics`.

        Args:
            module: Number of the module.
            outputs: `(2, frames, size)` float32, the output of `project`.
            targets: `(2, frames, size)` float32, the output of `project_targets`; `None` without a momentum network.
            generator: Random generator of all draws.
        """
        raise NotImplementedError


class Projector(nn.Sequential):
    """Linear map, batch normalization, ReLU and linear map of the last dimension of a tensor."""

    def __init__(self, channels: int, hidden_size: int, size: int) -> None:
        super().__init__(
            nn.Linear(channels, hidden_size), nn.BatchNorm1d(hidden_size), nn.ReLU(), nn.Linear(hidden_size, size)
        )

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Returns `(..., size)`; the statistics of the normalization are those of all rows."""
        outputs: torch.Tensor = super().forward(latents.flatten(0, -2))
        return outputs.view(*latents.shape[:-1], -1)


def projectors(channels: Mapping[int, int], size: int | None = None) -> nn.ModuleDict:
    """A projector for each module, with 4 times the channels in the hidden layer; `size` defaults to the channels."""
    return nn.ModuleDict({str(module): Projector(own, 4 * own, size or own) for module, own in channels.items()})


def chosen_frames(
    latents: torch.Tensor, frame_mask: torch.Tensor | None, count: int, generator: torch.Generator
) -> torch.Tensor:
    """Indices of `count` different real frames in the flattened batch, or of all real frames if there are fewer."""
    priority = torch.rand(latents.shape[0] * latents.shape[1], generator=generator, device=generator.device)
    priority = priority.to(latents.device)
    if frame_mask is not None:
        priority = priority.masked_fill(~frame_mask.flatten(), -1.0)
        count = min(count, int(frame_mask.sum()))
    return priority.topk(min(count, len(priority))).indices


# ---------------------------------------------------------------------- several processes


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """The rows of all processes, in their order, so that a queue is the same in all of them; without gradient.

    Processes may have different numbers of rows because of padding: the smallest number is taken from each.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return tensor
    fewest = torch.tensor(len(tensor), device=tensor.device)
    torch.distributed.all_reduce(fewest, torch.distributed.ReduceOp.MIN)
    tensor = tensor[: int(fewest)]
    parts = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def averaged(tensor: torch.Tensor) -> torch.Tensor:
    """The mean over all processes; without gradient."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(tensor)
        tensor = tensor / torch.distributed.get_world_size()
    return tensor


# ---------------------------------------------------------------------- by name


def load_objective(name: str, channels: Mapping[int, int], settings: Mapping[str, Any]) -> Objective:
    """An objective, by a name of `OBJECTIVES` or by import path.

    Args:
        name: The setting `objective`.
        channels: Channels of each module with a loss.
        settings: Further arguments of the objective.

    Raises:
        ValueError: The name or a setting is unknown, a setting has the wrong type or is out of its range, or the import
            path does not name a subclass of `Objective`.
    """
    if name not in OBJECTIVES and ":" not in name:
        raise ValueError(
            f"`objective` is {name!r}{nearest(name, [INFONCE, *OBJECTIVES])} Give one of "
            f"{', '.join([INFONCE, *OBJECTIVES])}, or an import path such as 'my_package.my_module:MyObjective'."
        )
    path, _, attribute = OBJECTIVES.get(name, name).partition(":")
    try:
        found = getattr(importlib.import_module(path), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"`objective` {name!r} cannot be imported ({error}); check the path.") from error
    if not (isinstance(found, type) and issubclass(found, Objective)):
        raise ValueError(f"`objective` {name!r} is not a subclass of `{_HERE}.contract.Objective`.")
    known = {key: each for key, each in inspect.signature(found).parameters.items() if key != "channels"}
    for key, value in settings.items():
        if key not in known:
            raise ValueError(
                f"`objective_settings` has {key!r}, which {name!r} does not have{nearest(key, known)} It takes "
                f"{', '.join(known) or 'none'}."
            )
        annotation = known[key].annotation
        for allowed in getattr(annotation, "__metadata__", ()):
            if isinstance(allowed, Range) and not (type(value) in (int, annotation.__origin__) and value in allowed):
                kind = "an integer" if annotation.__origin__ is int else "a number"
                raise ValueError(f"`{key}` in `objective_settings` is {value!r}; it must be {kind} {allowed}.")
    objective = found(channels, **settings)
    objective.changed_settings = {key: value for key, value in settings.items() if value != known[key].default}
    return objective
