"""Changes of a crop that keep its timing: each sound stays at its samples.

They make the two views of objectives such as SimCLR, see `modeling_sim.trainer.objectives`. What is drawn for a crop
depends only on the seed, the position of the crop in the stream, and the number of the view. Therefore the views of a
crop are the same in a resumed run, or with another batch size.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

AUGMENTATIONS = ("pitch", "filter", "room", "noise", "gain")
"""Names of the changes, in the order in which they are made."""

# Last entry of the seed, which makes these draws independent of those of `batches.py`.
_VIEW = 4

# Each change is made to this share of the crops.
_SHARE = 0.5

_PITCH_SEMITONES = 1.5
_FILTER_POINTS, _FILTER_DECIBELS = 8, 6.0
_ROOM_SECONDS, _ROOM_RATIO = (0.05, 0.4), (0.1, 0.7)
_NOISE_DECIBELS, _NOISE_SLOPE = (5.0, 30.0), (0.0, 2.0)
_GAIN_DECIBELS = 10.0

# Window of the pitch shift: 32 ms with four frames per window at 16 kHz.
_WINDOW_SECONDS, _OVERLAP = 0.032, 4


class _Draws(NamedTuple):
    """Random draws for every crop of a batch; a change that is not made has a value without effect."""

    ratio: torch.Tensor
    """`(batch,)`, factor on all frequencies."""
    response: torch.Tensor
    """`(batch, points)`, gain in decibels at frequencies that are equally spaced on a logarithmic axis."""
    decay: torch.Tensor
    """`(batch,)`, seconds in which the sound of the room falls by 60 dB."""
    reverberation: torch.Tensor
    """`(batch,)`, energy of the room's response relative to the direct sound."""
    echoes: torch.Tensor
    """`(batch, samples)`, white noise from which the room's response is made."""
    hiss: torch.Tensor
    """`(batch, samples)`, white noise from which the noise is made."""
    slope: torch.Tensor
    """`(batch,)`, exponent of the noise's power over frequency: 0 white, 1 pink, 2 brown."""
    level: torch.Tensor
    """`(batch,)`, amplitude of the noise relative to the crop's."""
    gain: torch.Tensor
    """`(batch,)`, factor on the amplitude."""


def augmentation_names(text: str, input_kind: str = "waveform") -> tuple[str, ...]:
    """The changes that a setting names.

    Args:
        text: "all", "none", or some of `AUGMENTATIONS` separated by commas.
        input_kind: What the model reads, as in `SimConfig`.

    Raises:
        ValueError: There is no such change, or the model does not read waveforms.
    """
    if text == "none":
        return ()
    if input_kind != "waveform":
        raise ValueError(f"`augmentation` changes audio, but `input_kind` is {input_kind!r}; set it to 'none'.")
    if text == "all":
        return AUGMENTATIONS
    names = {name.strip() for name in text.split(",")}
    if unknown := sorted(names - {*AUGMENTATIONS}):
        raise ValueError(
            f"`augmentation` names {unknown[0]!r}; give 'all', 'none' or some of {','.join(AUGMENTATIONS)}."
        )
    return tuple(name for name in AUGMENTATIONS if name in names)


def augmented(
    waveforms: torch.Tensor,
    positions: Sequence[int],
    *,
    names: Sequence[str],
    seed: int,
    view: int,
    sampling_rate: int,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """A view of each crop, `(batch, samples)`; every change is made to half of the crops.

    Args:
        waveforms: `(batch, samples)` float.
        positions: The position of every crop in the stream, or another number that identifies it.
        names: Changes to make, of `AUGMENTATIONS`.
        seed: Seed of the run.
        view: Number of the view, from 0.
        sampling_rate: Sampling rate in Hz.
        mask: `(batch, samples)`, 1 where a sample is real and 0 where it is padding; `None` if all are real.
    """
    num_samples = waveforms.shape[1]
    real = torch.ones_like(waveforms) if mask is None else mask.to(waveforms)
    rows = [_draw(np.random.default_rng([seed, position, view, _VIEW]), names, num_samples) for position in positions]
    draws = _Draws(*(torch.from_numpy(np.stack(values)).to(waveforms) for values in zip(*rows, strict=True)))
    changes: dict[str, Callable[[torch.Tensor, _Draws, int], torch.Tensor]] = {
        "pitch": _with_pitch,
        "filter": _filtered,
        "room": _in_room,
        "noise": partial(_with_noise, real=real),
        "gain": _with_gain,
    }
    for name in (name for name in AUGMENTATIONS if name in names):
        waveforms = changes[name](waveforms, draws, sampling_rate)
    return waveforms


def _draw(random: np.random.Generator, names: Sequence[str], num_samples: int) -> tuple[np.ndarray, ...]:
    """One crop's entries of `_Draws`. Everything is drawn, so that no draw depends on which changes are made."""
    made = {
        name: name in names and happens for name, happens in zip(AUGMENTATIONS, random.random(5) < _SHARE, strict=True)
    }
    semitones = random.uniform(-_PITCH_SEMITONES, _PITCH_SEMITONES)
    response = random.uniform(-_FILTER_DECIBELS, _FILTER_DECIBELS, _FILTER_POINTS)
    decay, reverberation = random.uniform(*_ROOM_SECONDS), random.uniform(*_ROOM_RATIO)
    slope, decibels = random.uniform(*_NOISE_SLOPE), random.uniform(*_NOISE_DECIBELS)
    gain = random.uniform(-_GAIN_DECIBELS, _GAIN_DECIBELS)
    noises = [random.standard_normal(num_samples, dtype=np.float32) for _ in range(2)]
    values = (
        2 ** (made["pitch"] * semitones / 12),
        made["filter"] * response,
        decay,
        made["room"] * reverberation,
        noises[0],
        noises[1],
        slope,
        made["noise"] * 10 ** (-decibels / 20),
        10 ** (made["gain"] * gain / 20),
    )
    return tuple(np.asarray(value, dtype=np.float32) for value in values)


# ---------------------------------------------------------------------- changes


def _with_gain(waveforms: torch.Tensor, draws: _Draws, sampling_rate: int) -> torch.Tensor:  # noqa: ARG001 - as all
    return waveforms * draws.gain[:, None]


def _filtered(waveforms: torch.Tensor, draws: _Draws, sampling_rate: int) -> torch.Tensor:
    """Multiplies the spectrum by a smooth random response, which has no phase and so no delay."""
    num_samples = waveforms.shape[1]
    spectrum = torch.fft.rfft(waveforms, 2 * num_samples)
    frequencies = torch.linspace(0, sampling_rate / 2, spectrum.shape[1], device=waveforms.device)
    # Points from 60 Hz to half the sampling rate, linear in between.
    octaves = (frequencies.clamp(min=60) / 60).log2()
    places = octaves / octaves[-1] * (draws.response.shape[1] - 1)
    left = places.long().clamp(max=draws.response.shape[1] - 2)
    decibels = torch.lerp(draws.response[:, left], draws.response[:, left + 1], places - left)
    return torch.fft.irfft(spectrum * 10 ** (decibels / 20), 2 * num_samples)[:, :num_samples]


def _in_room(waveforms: torch.Tensor, draws: _Draws, sampling_rate: int) -> torch.Tensor:
    """Adds decaying random reflections (Moorer 1979) to the direct sound, which stays where it is."""
    num_samples = waveforms.shape[1]
    time = torch.arange(num_samples, device=waveforms.device) / sampling_rate
    response = draws.echoes * torch.exp(-math.log(1e3) * time / draws.decay[:, None])
    response = response * (draws.reverberation / response.square().sum(dim=1)).sqrt()[:, None]
    response[:, 0] += 1
    spectrum = torch.fft.rfft(waveforms, 2 * num_samples) * torch.fft.rfft(response, 2 * num_samples)
    return torch.fft.irfft(spectrum, 2 * num_samples)[:, :num_samples]


def _with_noise(waveforms: torch.Tensor, draws: _Draws, sampling_rate: int, real: torch.Tensor) -> torch.Tensor:
    """Adds noise from white to brown at a signal-to-noise ratio, which is that of the real samples."""
    spectrum = torch.fft.rfft(draws.hiss)
    frequencies = torch.linspace(0, sampling_rate / 2, spectrum.shape[1], device=waveforms.device).clamp(min=60)
    noise = torch.fft.irfft(spectrum * frequencies ** (-draws.slope[:, None] / 2), waveforms.shape[1])
    noise = noise / noise.square().mean(dim=1, keepdim=True).sqrt()
    energy = (waveforms.square() * real).sum(dim=1, keepdim=True)
    loudness = (energy / real.sum(dim=1, keepdim=True).clamp(min=1)).sqrt()
    return waveforms + loudness * draws.level[:, None] * noise


def _with_pitch(waveforms: torch.Tensor, draws: _Draws, sampling_rate: int) -> torch.Tensor:
    """Multiplies all frequencies by a factor, frame by frame with a phase vocoder (Bernsee 1999), so time is kept."""
    shifted = (draws.ratio - 1).abs() > 1e-6
    if not shifted.any():
        return waveforms
    num_samples = waveforms.shape[1]
    size = 1 << round(math.log2(_WINDOW_SECONDS * sampling_rate))
    if num_samples <= size:
        return waveforms
    hop, window = size // _OVERLAP, torch.hann_window(size, device=waveforms.device)
    stft: dict[str, Any] = {"n_fft": size, "hop_length": hop, "window": window}
    frames = torch.stft(waveforms[shifted], **stft, return_complex=True)  # (rows, bins, frames)
    magnitude, phase = frames.abs(), frames.angle()
    bins = torch.arange(frames.shape[1], device=waveforms.device, dtype=phase.dtype)
    expected = 2 * math.pi * hop / size * bins[:, None]
    # Phase that each bin's sinusoid gains in a hop: its center's, and how much it deviates from that.
    gained = torch.diff(phase, dim=2, prepend=phase[:, :, :1]) - expected
    gained = gained - 2 * math.pi * torch.round(gained / (2 * math.pi)) + expected
    gained[:, :, 0] = phase[:, :, 0]
    # A bin of the result takes the sinusoid whose frequency is shifted to it.
    source = bins / draws.ratio[shifted, None]
    nearest = source.round().long().clamp(max=len(bins) - 1)
    columns = nearest[:, :, None].expand_as(magnitude)
    gained = gained.gather(1, columns)
    gained[:, :, 1:] *= draws.ratio[shifted, None, None]
    # Neighboring bins of a sinusoid have opposite phases, also where a bin was taken twice or not at all.
    gained[:, :, 0] += math.pi * (bins - nearest)
    magnitude = magnitude.gather(1, columns) * (source <= bins[-1])[:, :, None]
    changed = waveforms.clone()
    changed[shifted] = torch.istft(torch.polar(magnitude, gained.cumsum(dim=2)), **stft, length=num_samples)
    return changed
