"""Ways from one latent to another, frame by frame."""

from typing import Literal, get_args

import torch

Path = Literal["linear", "slerp", "norm_corrected"]


def points_between(start: torch.Tensor, end: torch.Tensor, places: torch.Tensor, path: Path) -> torch.Tensor:
    """Points on the way, at places from 0, the start, to 1, the end.

    Half way on a straight line between two independent standard normal vectors the norm is 0.71 of theirs, where a
    decoder has seen nothing. "slerp" (Shoemake 1985, White 2016) turns one frame into the other within their plane;
    "norm_corrected" takes the line's directions, with norms that go evenly from one end's to the other's. Where two
    frames are parallel, opposite, or one of them is 0, "slerp" is linear.

    Args:
        start: `(..., channels)`.
        end: As `start`.
        places: Numbers in [0, 1]; all three broadcast against each other.
        path: Which of the three.

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
