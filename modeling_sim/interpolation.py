"""Interpolation between latents, frame by frame."""

from typing import Literal, get_args

import torch

Path = Literal["linear", "slerp", "norm_corrected"]


def points_between(start: torch.Tensor, end: torch.Tensor, places: torch.Tensor, path: Path) -> torch.Tensor:
    """Points on a path from `start` (place 0) to `end` (place 1).

    The midpoint of a straight line between two independent standard normal vectors has 0.71 of their norm, where a
    decoder has seen no data. "slerp" (Shoemake 1985, White 2016) rotates one frame into the other within their plane;
    "norm_corrected" has the directions of the line and interpolates the norm linearly. Where two frames are parallel,
    opposite, or one of them is 0, "slerp" is linear.

    Args:
        start: `(..., channels)`.
        end: Same shape as `start`.
        places: Numbers in [0, 1]; all three broadcast against each other.
        path: "linear", "slerp" or "norm_corrected".

    Raises:
        ValueError: `path` is unknown.
    """
    if path not in get_args(Path):
        raise ValueError(f"`path` is {path!r}; choose 'linear', 'slerp' or 'norm_corrected'.")
    line = (1 - places) * start + places * end
    if path == "linear":
        return line
    start_norm, end_norm = start.norm(dim=-1, keepdim=True), end.norm(dim=-1, keepdim=True)
    if path == "norm_corrected":
        norm = (1 - places) * start_norm + places * end_norm
        return line * (norm / line.norm(dim=-1, keepdim=True).clamp(min=1e-12))
    product = start_norm * end_norm
    cosine = (start * end).sum(dim=-1, keepdim=True) / product.clamp(min=1e-12)
    angle = cosine.clamp(-1, 1).arccos()
    turned = (((1 - places) * angle).sin() * start + (places * angle).sin() * end) / angle.sin().clamp(min=1e-12)
    return torch.where((angle.sin() > 1e-3) & (product > 1e-12), turned, line)
