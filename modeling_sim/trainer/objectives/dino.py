"""DINO (Caron et al. 2021): predict the momentum network's distribution over prototypes for a frame's other view."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from modeling_sim.trainer.objectives.contract import (
    FrameObjective,
    ObjectiveOutput,
    Positive,
    Projector,
    Several,
    Share,
    averaged,
)


def distillation(outputs: torch.Tensor, targets: torch.Tensor, temperature: float) -> torch.Tensor:
    """Mean cross-entropy between scores and the distributions of the other view, both `(frames, prototypes)`."""
    return -(targets * F.log_softmax(outputs / temperature, dim=1)).sum(dim=1).mean()


class _PrototypeHead(nn.Module):
    """A projector, the prototypes to compare its output with, and the center of the targets' scores."""

    center: torch.Tensor

    def __init__(self, channels: int, prototypes: int) -> None:
        super().__init__()
        self.projector = Projector(channels, 4 * channels, channels)
        self.prototypes = nn.Parameter(torch.randn(prototypes, channels))
        self.register_buffer("center", torch.zeros(prototypes))

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Projects to `(..., channels)`."""
        projections: torch.Tensor = self.projector(latents)
        return projections

    def scores(self, projections: torch.Tensor) -> torch.Tensor:
        """Cosine similarities with the prototypes, `(..., prototypes)`."""
        return F.normalize(projections, dim=-1) @ F.normalize(self.prototypes, dim=1).T


class DINO(FrameObjective):
    """Cross-entropy between the two networks' distributions over prototypes for different views, in both directions.

    Args:
        channels: See `Objective`.
        num_prototypes: Number of prototypes of each module.
        target_temperature: Temperature of the momentum network's softmax; lower than `temperature`, which sharpens its
            targets.
        temperature: Temperature of the trained network's softmax.
        centering: Momentum of the center, which is updated for every batch, also within `gradient_accumulation_steps`.
            It is subtracted from the momentum network's scores, so that no prototype dominates.
        momentum: Momentum of the momentum network's weights in the first step; it increases to 1.
        num_frames: See `FrameObjective`.
    """

    metrics = ("target_entropy", "prototypes_used")

    def __init__(
        self,
        channels: Mapping[int, int],
        *,
        num_prototypes: Several = 256,
        target_temperature: Positive = 0.04,
        temperature: Positive = 0.1,
        centering: Share = 0.9,
        momentum: Share = 0.996,
        num_frames: Several = 1024,
    ) -> None:
        super().__init__(channels, num_frames=num_frames)
        self.momentum = (momentum, 1.0)
        self.target_temperature, self.temperature, self.centering = target_temperature, temperature, centering
        self.heads = nn.ModuleDict(
            {str(module): _PrototypeHead(own, num_prototypes) for module, own in channels.items()}
        )

    def frame_loss(
        self, module: int, outputs: torch.Tensor, targets: torch.Tensor | None, generator: torch.Generator
    ) -> ObjectiveOutput:
        """Returns the cross-entropy, the mean entropy of targets in nats, and the fraction of prototypes in use."""
        assert targets is not None  # noqa: S101 - of the momentum network, which DINO has
        head: _PrototypeHead = self.heads[str(module)]  # type: ignore[assignment]
        target_head: _PrototypeHead = self.target_heads[str(module)]  # type: ignore[assignment]
        # In float32: a softmax at the temperature of targets amplifies an error 25 times.
        outputs, targets = head.scores(outputs), target_head.scores(targets)
        wanted = F.softmax((targets - head.center) / self.target_temperature, dim=2)
        loss = torch.stack([distillation(outputs[view], wanted[1 - view], self.temperature) for view in (0, 1)]).mean()
        if self.training:
            with torch.no_grad():
                head.center.lerp_(averaged(targets.mean(dim=(0, 1))), 1 - self.centering)
        entropy = torch.special.entr(wanted).sum(dim=2).mean()
        used = F.one_hot(wanted.argmax(dim=2), wanted.shape[2]).amax(dim=(0, 1)).float().mean()
        return ObjectiveOutput(loss, {"target_entropy": entropy, "prototypes_used": used})
