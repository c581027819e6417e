"""MoCo (He et al. 2020): identify a frame's other view among a queue of frames of earlier batches."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from modeling_sim.trainer.objectives.contract import (
    Count,
    FrameObjective,
    ObjectiveOutput,
    Positive,
    Projector,
    Several,
    Share,
    gathered,
)

# Cosine similarities of equal vectors differ by less than this.
_ROUNDING = 1e-5


def queue_info_nce(
    queries: torch.Tensor, keys: torch.Tensor, queue: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of picking each query's key among the key and the queue, and the accuracy.

    Args:
        queries: `(frames, size)`.
        keys: `(frames, size)`, normalized.
        queue: `(entries, size)`, normalized.
        temperature: Divides the cosine similarities.
    """
    queries = F.normalize(queries, dim=1)
    logits = torch.cat([(queries * keys).sum(dim=1, keepdim=True), queries @ queue.T], dim=1) / temperature
    loss = F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))
    lead = (logits[:, 1:] - logits[:, :1]) * temperature
    ties = (lead.abs() <= _ROUNDING).sum(dim=1)  # as in `info_nce`, a tie counts as a guess
    return loss, ((lead <= _ROUNDING).all(dim=1) / (1.0 + ties)).mean()


class _QueuedProjector(Projector):
    """A projector with the queue of its module; entries are random directions until frames replace them."""

    queue: torch.Tensor
    place: torch.Tensor

    def __init__(self, channels: int, entries: int) -> None:
        super().__init__(channels, 4 * channels, channels)
        self.register_buffer("queue", F.normalize(torch.randn(entries, channels), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, keys: torch.Tensor) -> None:
        """Replaces the oldest entries."""
        keys = keys[: len(self.queue)]
        places = (self.place + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue[places] = keys
        self.place.copy_((self.place + len(keys)) % len(self.queue))


class MoCo(FrameObjective):
    """InfoNCE between a frame and the momentum network's projection of its other view, in both directions.

    Args:
        channels: See `Objective`.
        queue_size: Number of negatives: the latest frames that the momentum network has projected, from all processes.
            The queue is updated after every batch, also within `gradient_accumulation_steps`.
        momentum: Momentum of the momentum network's weights.
        temperature: Temperature of the softmax.
        num_frames: See `FrameObjective`.
    """

    metrics = ("accuracy",)

    def __init__(
        self,
        channels: Mapping[int, int],
        *,
        queue_size: Count = 4096,
        momentum: Share = 0.99,
        temperature: Positive = 0.1,
        num_frames: Several = 1024,
    ) -> None:
        super().__init__(channels, num_frames=num_frames)
        self.momentum, self.temperature = (momentum, momentum), temperature
        self.heads = nn.ModuleDict({str(module): _QueuedProjector(own, queue_size) for module, own in channels.items()})

    def frame_loss(
        self, module: int, outputs: torch.Tensor, targets: torch.Tensor | None, generator: torch.Generator
    ) -> ObjectiveOutput:
        """Returns the mean of both directions; in training, then adds the keys of the first view to the queue."""
        assert targets is not None  # noqa: S101 - of the momentum network, which MoCo has
        head: _QueuedProjector = self.heads[str(module)]  # type: ignore[assignment]
        keys, queue = F.normalize(targets, dim=2), head.queue.clone()
        pairs = [queue_info_nce(outputs[view], keys[1 - view], queue, self.temperature) for view in (0, 1)]
        if self.training:
            head.push(gathered(keys[0]))
        loss, accuracy = (torch.stack(values).mean() for values in zip(*pairs, strict=True))
        return ObjectiveOutput(loss, {"accuracy": accuracy})
