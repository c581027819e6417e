"""VICReg (Bardes et al. 2022): invariance to views, variance of channels, and no covariance between channels."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F

from modeling_sim.trainer.objectives.contract import FrameObjective, NotNegative, ObjectiveOutput, Several, projectors


class VICRegTerms(NamedTuple):
    """The terms of VICReg, 0-dim."""

    invariance: torch.Tensor
    """Mean squared difference of the two views."""
    variance: torch.Tensor
    """Hinge loss `max(0, 1 - standard deviation)` of channels: mean over channels and views."""
    covariance: torch.Tensor
    """Sum of the squared covariances of different channels, per channel; sum over the views."""


def vicreg_terms(first: torch.Tensor, second: torch.Tensor, epsilon: float = 1e-4) -> VICRegTerms:
    """The terms for two views `(frames, size)` of the same frames; `epsilon` is added to variances.

    A single frame has variances and covariances of 0.
    """
    variances, covariances = [], []
    for view in (first, second):
        centered = view - view.mean(dim=0)
        covariance = centered.T @ centered / max(1, len(view) - 1)
        variances.append(F.relu(1 - (covariance.diagonal() + epsilon).sqrt()).mean())
        squares = covariance.square()
        covariances.append((squares.sum() - squares.diagonal().sum()) / view.shape[1])
    return VICRegTerms(F.mse_loss(first, second), torch.stack(variances).mean(), torch.stack(covariances).sum())


class VICReg(FrameObjective):
    """Weighted sum of the terms for projected frames.

    Each process computes variances and covariances of its own frames, and gradients are averaged. More processes
    therefore do not make these estimates more precise; a larger `num_frames` does.

    Args:
        channels: See `Objective`.
        invariance_weight: Weight of the difference between views.
        variance_weight: Weight of the variance term.
        covariance_weight: Weight of the covariance term.
        num_frames: See `FrameObjective`.
    """

    metrics = ("invariance", "variance", "covariance")

    def __init__(
        self,
        channels: Mapping[int, int],
        *,
        invariance_weight: NotNegative = 1.0,
        variance_weight: NotNegative = 1.0,
        covariance_weight: NotNegative = 0.1,
        num_frames: Several = 1024,
    ) -> None:
        super().__init__(channels, num_frames=num_frames)
        self.weights = (invariance_weight, variance_weight, covariance_weight)
        self.heads = projectors(channels)

    def frame_loss(
        self, module: int, outputs: torch.Tensor, targets: torch.Tensor | None, generator: torch.Generator
    ) -> ObjectiveOutput:
        """Returns the weighted sum, and the terms."""
        terms = vicreg_terms(outputs[0], outputs[1])
        loss = torch.stack([weight * term for weight, term in zip(self.weights, terms, strict=True)]).sum()
        return ObjectiveOutput(loss, terms._asdict())
