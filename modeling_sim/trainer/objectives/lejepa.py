"""LeJEPA (Balestriero and LeCun 2025): invariance to views, and SIGReg, which makes embeddings isotropic Gaussian."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from modeling_sim.trainer.objectives.contract import Count, FrameObjective, ObjectiveOutput, Several, Share, projectors


def sigreg(
    embeddings: torch.Tensor, directions: torch.Tensor, *, knots: int = 17, largest: float = 3.0
) -> torch.Tensor:
    """Mean over directions of the Epps-Pulley statistic of normality, 0-dim.

    For projections x_n it is `N * integral |mean_n exp(i t x_n) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt`, by the
    trapezoidal rule over `[-largest, largest]`. The integrand is even in t, so only one half is computed.

    Args:
        embeddings: `(frames, size)`.
        directions: `(size, directions)`, unit vectors.
        knots: Number of values of t from 0 to `largest`.
        largest: Largest t.
    """
    t = torch.linspace(0, largest, knots, device=embeddings.device)
    normal = torch.exp(-t.square() / 2)  # both the characteristic function of N(0, 1) and the weight
    angles = (embeddings @ directions)[..., None] * t  # (frames, directions, knots)
    squares = (angles.cos().mean(dim=0) - normal).square() + angles.sin().mean(dim=0).square()
    return len(embeddings) * (2 * torch.trapezoid(squares * normal, t, dim=-1)).mean()


class LeJEPA(FrameObjective):
    """`(1 - weight) * invariance + weight * SIGReg` of projected frames.

    Each process computes SIGReg of its own frames, and gradients are averaged. SIGReg is proportional to the number of
    frames of one process, so `weight` has the same meaning for any number of processes.

    Args:
        channels: See `Objective`.
        weight: Weight of SIGReg.
        num_slices: Number of random directions, drawn for each batch, the same in all processes.
        num_frames: See `FrameObjective`; by default fewer than for other objectives, because SIGReg computes
            `17 * num_frames * num_slices` sines and cosines.
    """

    metrics = ("invariance", "sigreg")

    def __init__(
        self, channels: Mapping[int, int], *, weight: Share = 0.05, num_slices: Count = 1024, num_frames: Several = 256
    ) -> None:
        super().__init__(channels, num_frames=num_frames)
        self.weight, self.num_slices, self.heads = weight, num_slices, projectors(channels)

    def frame_loss(
        self, module: int, outputs: torch.Tensor, targets: torch.Tensor | None, generator: torch.Generator
    ) -> ObjectiveOutput:
        """Returns the weighted sum and its terms; invariance is the mean squared distance to the mean of the views."""
        shared = self.shared_generator
        directions = torch.randn(outputs.shape[2], self.num_slices, generator=shared, device=shared.device)
        directions = F.normalize(directions.to(outputs.device), dim=0)
        invariance = (outputs - outputs.mean(dim=0)).square().mean()
        normality = torch.stack([sigreg(view, directions) for view in outputs]).mean()
        loss = (1 - self.weight) * invariance + self.weight * normality
        return ObjectiveOutput(loss, {"invariance": invariance, "sigreg": normality})
