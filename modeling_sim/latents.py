"""Functions on latents: encode, decode, interpolate, traverse and swap.

    latents = encode(model, inputs["input_values"], module=2)     # (batch, frames, channels)
    path = interpolate(latents[:1], latents[1:2], steps=9)         # (9, frames, channels)
    waveforms = decode(decoder, path)                              # (9, samples)

Latents of two utterances can only be mixed if they have equally many frames: cut the audio to the same length first.
"""

import itertools
from collections.abc import Sequence
from typing import Literal, get_args

import torch

from modeling_sim.modeling_sim import SimModel
from modeling_sim.modeling_sim_decoder import SimDecoder

Path = Literal["linear", "slerp", "norm_corrected"]


@torch.no_grad()
def encode(
    model: SimModel,
    input_values: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    module: int = -1,
    sample: bool = False,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Latents of one module, `(batch, frames, channels)`; modules above it are not run.

    Args:
        model: The encoder, in evaluation mode.
        input_values: `(batch, samples)`.
        attention_mask: `(batch, samples)`; `None` for no padding. Latents of padding are 0.
        module: From 0, the context last; negative numbers count from the last.
        sample: Sample the Gaussians of this module and of those below, instead of using their means.
        generator: Random generator of the samples; the global one if `None`.

    Raises:
        ValueError: The model has no such module.
    """
    if not -model.config.num_modules <= module < model.config.num_modules:
        raise ValueError(f"`module` is {module}; the model has modules 0 to {model.config.num_modules - 1}.")
    modules = model.module_latents(input_values, attention_mask, sample=sample, generator=generator)
    return next(itertools.islice(modules, module % model.config.num_modules, None)).hidden_state


@torch.no_grad()
def decode(decoder: SimDecoder, latents: torch.Tensor, num_samples: int | None = None) -> torch.Tensor:
    """Decodes latents `(batch, frames, channels)` to waveforms `(batch, samples)`, with `num_samples` if given."""
    return decoder(latents, num_samples, return_dict=True).waveforms


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
    if start.dtype.itemsize < 4:  # small norms are 0 in float16
        return points_between(start.float(), end.float(), places.float(), path).to(start.dtype)
    start_norm, end_norm = start.norm(dim=-1, keepdim=True), end.norm(dim=-1, keepdim=True)
    if path == "norm_corrected":
        norm = (1 - places) * start_norm + places * end_norm
        return line * (norm / line.norm(dim=-1, keepdim=True).clamp(min=1e-12))
    product = start_norm * end_norm
    cosine = (start * end).sum(dim=-1, keepdim=True) / product.clamp(min=1e-12)
    angle = cosine.clamp(-1, 1).arccos()
    turned = (((1 - places) * angle).sin() * start + (places * angle).sin() * end) / angle.sin().clamp(min=1e-12)
    return torch.where((angle.sin() > 1e-3) & (product > 1e-12), turned, line)


def interpolate(
    start: torch.Tensor,
    end: torch.Tensor,
    *,
    steps: int = 9,
    dims: Sequence[int] | None = None,
    path: Path = "linear",
) -> torch.Tensor:
    """Interpolates between the latents of two utterances, `(steps, frames, channels)`, including both ends.

    Args:
        start: `(1, frames, channels)` or `(frames, channels)`.
        end: Same shape as `start`.
        steps: Number of points on the path.
        dims: Channels to interpolate; the others keep the values of `start`. `None` for all.
        path: "linear", or "slerp" or "norm_corrected", which keep the norms of the data; see `points_between`.

    Raises:
        ValueError: The shapes differ or hold several utterances, there are fewer than 2 steps, there is no such
            channel, or `path` is unknown.
    """
    start, end = _utterance(start, "start"), _utterance(end, "end")
    if start.shape != end.shape:
        raise ValueError(
            f"`start` has (frames, channels) {tuple(start.shape)} and `end` {tuple(end.shape)}; cut the audio to the "
            "same length."
        )
    if steps < 2:
        raise ValueError(f"`steps` is {steps}; give at least 2, the ends of the path.")
    moving = list(range(start.shape[1])) if dims is None else _channels("dims", dims, start)
    share = torch.linspace(0, 1, steps, device=start.device, dtype=start.dtype)[:, None, None]
    points = start.repeat(steps, 1, 1)
    points[..., moving] = points_between(start[:, moving], end[:, moving], share, path)
    return points


def traverse(latents: torch.Tensor, dim: int, values: Sequence[float] | torch.Tensor) -> torch.Tensor:
    """Sets one channel of all frames to each of the values, `(values, frames, channels)`.

    Args:
        latents: `(1, frames, channels)` or `(frames, channels)`.
        dim: The channel.
        values: New values of the channel, not standardized.

    Raises:
        ValueError: There is no such channel, or there are several utterances.
    """
    latents = _utterance(latents, "latents")
    _channels("dim", [dim], latents)
    values = torch.as_tensor(values, dtype=latents.dtype, device=latents.device)
    moved = latents.repeat(len(values), 1, 1)
    moved[..., dim] = values[:, None]
    return moved


def _utterance(latents: torch.Tensor, name: str) -> torch.Tensor:
    """Latents `(frames, channels)` of one utterance, which may be given as a batch of one."""
    if latents.ndim not in (2, 3) or (latents.ndim == 3 and len(latents) != 1):
        raise ValueError(
            f"`{name}` has shape {tuple(latents.shape)}; give one utterance: (frames, channels), or a batch of one."
        )
    return latents.reshape(latents.shape[-2:])


def _channels(name: str, dims: Sequence[int], latents: torch.Tensor) -> list[int]:
    """The channels as a list.

    Raises:
        ValueError: `latents`, `(..., channels)`, do not have them.
    """
    for dim in dims:
        if not 0 <= dim < latents.shape[-1]:
            raise ValueError(f"`{name}` has {dim}; the latents have channels 0 to {latents.shape[-1] - 1}.")
    return list(dims)


def swap(first: torch.Tensor, second: torch.Tensor, dims: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Exchanges channels between two latents; returns copies.

    Args:
        first: `(..., frames, channels)`.
        second: Same shape as `first`.
        dims: Channels to exchange.

    Raises:
        ValueError: The shapes differ, or there is no such channel.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"`first` has shape {tuple(first.shape)} and `second` {tuple(second.shape)}; they must be the same."
        )
    dims = _channels("dims", dims, first)
    swapped_first, swapped_second = first.clone(), second.clone()
    swapped_first[..., dims], swapped_second[..., dims] = second[..., dims], first[..., dims]
    return swapped_first, swapped_second


__all__ = ["Path", "decode", "encode", "interpolate", "points_between", "swap", "traverse"]
