"""BYOL (Grill et al. 2020): predict the momentum network's projection of another view, without negatives."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from modeling_sim.trainer.objectives.contract import FrameObjective, ObjectiveOutput, Projector, Several, Share


def cosine_distance(predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of normalized rows, `2 - 2 cos`; arguments are `(..., size)`."""
    return 2 - 2 * F.cosine_similarity(predictions, targets, dim=-1).mean()


class _Head(nn.Module):
    """A projector, and a predictor that only the trained network uses."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.projector = Projector(channels, 4 * channels, channels)
        self.predictor = Projector(channels, 4 * channels, channels)


class BYOL(FrameObjective):
    """Distance between the prediction from one view and the momentum network's projection of the other.

    Args:
        channels: See `Objective`.
        momentum: Momentum of the momentum network's weights in the first step; it increases to 1.
        num_frames: See `FrameObjective`.
    """

    metrics = ("target_spread",)

    def __init__(self, channels: Mapping[int, int], *, momentum: Share = 0.99, num_frames: Several = 1024) -> None:
        super().__init__(channels, num_frames=num_frames)
        self.momentum = (momentum, 1.0)
        self.heads = nn.ModuleDict({str(module): _Head(own) for module, own in channels.items()})

    def project(self, module: int, latents: torch.Tensor) -> torch.Tensor:
        """Projects and predicts."""
        head: _Head = self.heads[str(module)]  # type: ignore[assignment]
        predictions: torch.Tensor = head.predictor(head.projector(latents))
        return predictions

    def project_targets(self, module: int, latents: torch.Tensor) -> torch.Tensor:
        """Projects."""
        head: _Head = self.target_heads[str(module)]  # type: ignore[assignment]
        projections: torch.Tensor = head.projector(latents)
        return projections

    def frame_loss(
        self, module: int, outputs: torch.Tensor, targets: torch.Tensor | None, generator: torch.Generator
    ) -> ObjectiveOutput:
        """Returns the mean distance of both directions, and the targets' spread: 0 if collapsed, 1 if isotropic."""
        assert targets is not None  # noqa: S101 - of the momentum network, which BYOL has
        directions = F.normalize(targets[0], dim=1)
        spread = (directions.var(dim=0, unbiased=False).sum()).sqrt()
        return ObjectiveOutput(cosine_distance(outputs, targets.flip(0)), {"target_spread": spread})
