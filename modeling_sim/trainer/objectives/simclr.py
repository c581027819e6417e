"""SimCLR (Chen et al. 2020): identify a frame's other view among all other frames of the batch."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from modeling_sim.trainer.objectives.contract import FrameObjective, ObjectiveOutput, Positive, Several, projectors


def nt_xent(first: torch.Tensor, second: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of picking the other view by cosine similarity, and the accuracy.

    Args:
        first: `(frames, size)`.
        second: `(frames, size)`, the other view of the same frames.
        temperature: Divides the similarities.
    """
    rows = F.normalize(torch.cat([first, second]), dim=1)
    logits = (rows @ rows.T / temperature).fill_diagonal_(-torch.inf)
    other = torch.arange(len(rows), device=rows.device).roll(len(first))
    return F.cross_entropy(logits, other), (logits.argmax(dim=1) == other).float().mean()


class SimCLR(FrameObjective):
    """NT-Xent of projected frames.

    Each process only compares its own frames: more processes reduce the noise of the gradient, but do not add
    negatives.

    Args:
        channels: See `Objective`.
        temperature: Temperature of the softmax.
        num_frames: See `FrameObjective`; all other frames, of both views, are negatives.
    """

    metrics = ("accuracy",)

    def __init__(self, channels: Mapping[int, int], *, temperature: Positive = 0.1, num_frames: Several = 1024) -> None:
        super().__init__(channels, num_frames=num_frames)
        self.temperature, self.heads = temperature, projectors(channels)

    def frame_loss(
        self, module: int, outputs: torch.Tensor, targets: torch.Tensor | None, generator: torch.Generator
    ) -> ObjectiveOutput:
        """Returns NT-Xent, and the accuracy of identifying the other view."""
        loss, accuracy = nt_xent(outputs[0], outputs[1], self.temperature)
        return ObjectiveOutput(loss, {"accuracy": accuracy})
