"""Sounds of an analysis: reconstructions, interpolations, single dimensions, draws from the prior."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset

from modeling_sim import SimDecoder
from modeling_sim.analysis import loudest_moments, random_axes, temporal_components
from modeling_sim.analysis.sound_properties import sound_properties
from modeling_sim.data.audio import read_audio
from modeling_sim.evaluation.feature_store import Items
from modeling_sim.latents import decode, interpolate, traverse

_STEPS = 5


# Values of a changed dimension, as fractions of the range.
_PLACES = (-1.0, -0.5, 0.0, 0.5, 1.0)


# Number of frames that are decoded at a time on a CPU.
_DECODED_FRAMES = 512


# Number of frames of a dimension to play, and seconds around each.
_LARGEST, _SMALLEST, _AROUND = 4, 3, 0.35


Recorded = tuple[str, np.ndarray] | tuple[str, np.ndarray, float]


@dataclass
class Media:
    """Audio clips in groups, for the report."""

    items: list[dict[str, Any]] = field(default_factory=list)
    arrays: dict[str, Any] = field(default_factory=dict)

    def add(self, group: str, title: str, clips: Sequence[Recorded], sampling_rate: int, **of: str) -> None:
        """Adds clips that belong together: `(label, samples)`, or `(label, samples, second to mark in the picture)`."""
        rows: list[dict[str, Any]] = []
        for label, samples, *mark in clips:
            name = f"clip_{len(self.arrays)}"
            self.arrays[name] = np.asarray(samples, dtype=np.float32)
            rows.append({"label": label, "array": name} | ({"mark": mark[0]} if mark else {}))
        identity = "-".join([*of.values(), group, str(len(self.items))]).replace(" ", "-")
        self.items.append(
            {"id": identity, "group": group, "title": title, **of, "sampling_rate": sampling_rate, "clips": rows}
        )

    def extend(self, other: "Media") -> None:
        """Adds all clips of another."""
        for item in other.items:
            clips = [
                (clip["label"], other.arrays[clip["array"]], *([clip["mark"]] if "mark" in clip else []))
                for clip in item["clips"]
            ]
            of = {name: item[name] for name in ("kind", "representation", "module")}
            self.add(item["group"], item["title"], clips, item["sampling_rate"], **of)


@torch.no_grad()
def record(
    media: Media,
    decoder: SimDecoder,
    waveforms: torch.Tensor,
    latents: torch.Tensor,
    names: Sequence[str],
    order: Sequence[int],
    moved: Mapping[int, str],
    *,
    deviations: float = 3.0,
    seed: int = 0,
    few: int = 16,
    **of: str,
) -> None:
    """Adds the clips that the report plays through a decoder.

    Args:
        media: The clips are added to it.
        decoder: The decoder, in evaluation mode.
        waveforms: `(items, samples)`, at least 4 items.
        latents: Latents of the waveforms, `(items, frames, channels)`.
        names: Name of each item, for titles.
        order: Channels, most important first.
        moved: Channels to change one at a time, and the reason for each choice.
        deviations: Largest change of a channel, in standard deviations.
        seed: Seed of the draws from the prior.
        few: Number of channels for interpolations of only a few channels, at most a quarter of all.
        of: `kind`, `representation` and `module`, for the report.
    """
    rate, samples = decoder.config.sampling_rate, waveforms.shape[1]
    few = max(1, min(few, len(order) // 4))

    def decoded(of_latents: torch.Tensor) -> np.ndarray:
        return decode(decoder, of_latents, samples).cpu().numpy()

    for item in range(2):
        pair = [("spoken", waveforms[item].cpu().numpy()), ("decoded", decoded(latents[item : item + 1])[0])]
        media.add("reconstruction", names[item], pair, rate, **of)
    labels = [f"{100 * step / (_STEPS - 1):.0f} %" for step in range(_STEPS)]
    for first, second in ((0, 1), (2, 3)):
        way = f"{names[first]} to {names[second]}"
        for group, dims, what in (
            ("interpolation", None, "all dimensions"),
            ("interpolation_k", list(order[:few]), f"{few} of {len(order)} dimensions"),
        ):
            points = interpolate(latents[first], latents[second], steps=_STEPS, dims=dims)
            media.add(group, f"{way}, {what}", list(zip(labels, decoded(points), strict=True)), rate, **of)
    center, spread = latents.mean(dim=(0, 1)), latents.std(dim=(0, 1))
    for dim, reason in moved.items():
        values = [float(center[dim] + place * deviations * spread[dim]) for place in _PLACES]
        clips = [f"{place * deviations:+g} SD" if place else "mean" for place in _PLACES]
        points = traverse(latents[0], dim, values)
        title = f"{names[0]}, dimension {dim}, which {reason}"
        media.add("traversal", title, list(zip(clips, decoded(points), strict=True)), rate, **of)
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(3, *latents.shape[1:], generator=generator).to(latents)
    prior = [(f"draw {number + 1}", clip) for number, clip in enumerate(decoded(draws))]
    media.add("prior", "frames drawn independently from N(0, I)", prior, rate, **of)


def record_moments(
    media: Media, values: np.ndarray, items: Items, dataset: Dataset, title: str, sampling_rate: int, **of: str
) -> None:
    """Adds the speech around the frames in which a dimension is largest, and in which it is smallest.

    Args:
        media: The clips are added to it.
        values: Values of the dimension, `(items,)`.
        items: The frames.
        dataset: Utterances of the frames.
        title: Title of the row of clips.
        sampling_rate: Sampling rate of the clips.
        of: `kind`, `representation` and `module`, for the report.
    """
    row_of = {name: number for number, name in enumerate(dataset["id"][:])}
    clips: list[Recorded] = []
    for name, count in (("largest", _LARGEST), ("smallest", _SMALLEST)):
        smallest = name == "smallest"
        for moment in loudest_moments(values, items.utterances, items.seconds, count=count, smallest=smallest):
            waveform = read_audio(dataset[row_of[moment.utterance]]["audio"], sampling_rate=sampling_rate)
            start = max(0.0, moment.seconds - _AROUND)
            first, last = (round(second * sampling_rate) for second in (start, moment.seconds + _AROUND))
            clips.append((f"{name}, {moment.value:+.1f}", waveform[first:last], moment.seconds - start))
    media.add("moments", title, clips, sampling_rate, **of)


@torch.no_grad()
def traversal_changes(
    decoder: SimDecoder, latents: torch.Tensor, directions: torch.Tensor, num_samples: int
) -> np.ndarray:
    """Change of each of `PROPERTIES` of the decoded sound along each direction, `(directions, items, properties)`.

    The direction is added to the latents of all frames, and subtracted from them; the change is half the difference. It
    is NaN if a sound lacks the property, for example the pitch of silence.

    Args:
        decoder: The decoder, in evaluation mode.
        latents: `(items, frames, channels)`.
        directions: `(directions, channels)`, in the units of the latents.
        num_samples: Samples per decoded item.
    """
    there, back = (
        [decoded_properties(decoder, latents + sign * direction, num_samples) for direction in directions]
        for sign in (1.0, -1.0)
    )
    return (np.array(there) - np.array(back)) / 2


def temporal_moves(
    frames: torch.Tensor, lengths: Sequence[int], means: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Temporal components as directions for traversals.

    Args:
        frames: `(frames, channels)` to find them on, concatenated utterances.
        lengths: Frames of each utterance.
        means: `(utterances, channels)`, latents averaged over time.

    Returns:
        Coordinates of the means `(utterances, components)` in standard deviations of each component over frames, and
        directions `(components, channels)` of one standard deviation.

    Raises:
        ValueError: See `temporal_components`.
    """
    components = temporal_components(frames, lengths)
    scale = components.apply(frames).std(dim=0)
    return components.apply(means) / scale, components.inverse.to(scale) * scale[:, None]


def rotated_moves(coordinates: torch.Tensor, moves: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Coordinates and directions like those of `temporal_moves`, after a random rotation of their axes.

    If the axes are correlated, a rotated direction is not one standard deviation of its axis.
    """
    rotation = random_axes(coordinates, seed, standardize=False).matrix.to(moves)
    return coordinates @ rotation, rotation.T @ moves


@torch.no_grad()
def decoded_properties(decoder: SimDecoder, latents: torch.Tensor, num_samples: int) -> np.ndarray:
    """`PROPERTIES` of each decoded item, `(items, properties)`."""
    waveforms = decoded_in_parts(decoder, latents, num_samples).cpu().numpy()
    return properties_of(waveforms, decoder.config.sampling_rate)


def decoded_in_parts(decoder: SimDecoder, latents: torch.Tensor, num_samples: int) -> torch.Tensor:
    """Waveforms `(items, samples)` of any number of latents `(items, frames, channels)`, with gradients.

    On a CPU, transposed convolutions decode few frames at a time, so that values between layers stay in its cache, and
    are matrix products: a quarter of the time of `torch.conv_transpose1d` on all items.
    """
    layered = isinstance(decoder, SimDecoder) and decoder.config.architecture == "convolutions"
    if latents.device.type != "cpu" or not layered:
        return torch.cat([decoder(part, num_samples, return_dict=True).waveforms for part in latents.split(32)])
    few = max(1, _DECODED_FRAMES // latents.shape[1])
    return torch.cat([_decoded(decoder, part, num_samples) for part in latents.split(few)])


def _decoded(decoder: SimDecoder, latents: torch.Tensor, num_samples: int) -> torch.Tensor:
    """The output of the decoder's `forward`, computed with `upsampled`."""
    frames = decoder.standardized(latents)
    for number, layer in enumerate(decoder.layers):
        frames = upsampled(layer, frames.relu() if number else frames)  # type: ignore[arg-type]
    return F.pad(frames[..., 0], (0, num_samples - frames.shape[1]))  # negative padding truncates


def upsampled(layer: torch.nn.ConvTranspose1d, frames: torch.Tensor) -> torch.Tensor:
    """A transposed convolution of frames `(batch, frames, channels)`, `(batch, more frames, channels)`.

    With a stride of s, output n s + p is the product of frame n with tap p of the kernel, plus that of frame n - 1 with
    tap s + p, and so on: one matrix product computes all s outputs of a frame.
    """
    kernel, stride, cut = layer.kernel_size[0], layer.stride[0], int(layer.padding[0])
    batch, count, channels = frames.shape
    reach = -(-kernel // stride)
    outputs = layer.out_channels
    length = (count - 1) * stride - 2 * cut + kernel + layer.output_padding[0]
    taps = F.pad(layer.weight, (0, reach * stride - kernel)).view(channels, outputs, reach, stride)
    if outputs < channels // 2:  # sums of products need less memory than the frames
        products = frames @ taps.permute(0, 2, 3, 1).reshape(channels, -1)
        shifted = products.view(batch, count, reach, -1).unbind(2)
        # Not in place: `torch.func.linearize` computes wrong derivatives of in-place sums into a slice.
        found = sum(F.pad(part, (0, 0, number, reach - 1 - number)) for number, part in enumerate(shifted))
    else:
        padded = F.pad(frames, (0, 0, reach - 1, reach - 1))
        seen = [padded[:, reach - 1 - number : padded.shape[1] - number] for number in range(reach)]
        found = torch.cat(seen, dim=2) @ taps.permute(2, 0, 3, 1).reshape(reach * channels, -1)
    found = found.reshape(batch, -1, outputs)[:, cut : cut + length]
    if found.shape[1] < length:
        found = F.pad(found, (0, 0, 0, length - found.shape[1]))
    return found if layer.bias is None else found + layer.bias


def properties_of(waveforms: np.ndarray, sampling_rate: int) -> np.ndarray:
    """`PROPERTIES` of waveforms `(items, samples)`, `(items, properties)`."""
    return np.array([sound_properties(waveform, sampling_rate) for waveform in waveforms])
