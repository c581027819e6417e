"""Sounds of the report: WAV files and spectrograms as data URIs; clips to compare share gain and color scale.

With a separate gain per clip, a quiet reconstruction would sound as loud as a loud one.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import soundfile
from matplotlib.image import imsave

from modeling_sim.data.audio import log_mel

# Peak that an item is scaled to, and the peak below which it counts as silence and is not scaled: -40 dB.
_PEAK = 0.9


_SILENCE = 0.01


# Window of `log_mel` in samples; shorter clips are padded to this length.
_WINDOW = 400


# Just noticeable difference of level in dB, for speech and noise of any loudness (Moore, An Introduction to the
# Psychology of Hearing, chapter 4: 0.5 to 1 dB). A change is measured in the fraction of frames and bands where it is
# largest; anything this many dB below the loudest is masked.
_AUDIBLE_DB, _WHERE_LARGEST, _MASKED_DB = 1.0, 0.05, 50


# Groups whose clips are changes of one unchanged clip: its relative position in the row.
_CHANGES_OF = {"traversal": 0.5, "interpolation": 0.0, "interpolation_k": 0.0}


# Color range in dB below the loudest cell, which is set to at least the level of a barely audible tone, so that silence
# is dark.
_RANGE_DB, _QUIETEST_TOP_DB = 65, -26


# Few levels, which a PNG compresses well.
_COLORS = mpl.colormaps["magma"].resampled(64)


# Color of the line at a marked time, different from all levels of `_COLORS`.
_MARK = (64, 224, 255, 255)


class Clip(NamedTuple):
    """A sound to play: label, seconds, WAV and spectrogram as data URIs, and its length relative to the longest clip.

    `note` explains why nothing is audible: silence, or no change.
    """

    label: str
    seconds: float
    audio: str
    spectrogram: str
    share: float
    note: str = ""


class Item(NamedTuple):
    """Clips to compare; `gain` describes their scaling, and `note` says if none of them differs audibly."""

    title: str
    kind: str
    model: str
    module: str
    gain: str
    clips: list[Clip]
    note: str = ""


class Sounds(NamedTuple):
    """Items of one group, by module in the order they appear."""

    anchor: str
    title: str
    sentence: str
    modules: list[tuple[str, list[Item]]]


def by_module(items: Sequence[Item]) -> list[tuple[str, list[Item]]]:
    """Items of every module, in the order they appear."""
    modules = dict.fromkeys(item.module for item in items)
    return [(module, [item for item in items if item.module == module]) for module in modules]


def load_item(item: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Item:
    """Encodes the clips of one entry of `media`.

    Raises:
        ValueError: A clip's array is missing, empty, not one-dimensional, or contains NaN or infinite samples.
    """
    waveforms = [_waveform(item["id"], clip["array"], arrays) for clip in item["clips"]]
    rate = item["sampling_rate"]
    gain = common_gain(waveforms)
    longest = max((len(samples) for samples in waveforms), default=1)
    spectrograms = _spectrograms(waveforms, rate, [clip.get("mark") for clip in item["clips"]])
    notes = _notes(item["group"], waveforms, rate, gain)
    clips = [
        Clip(clip["label"], len(samples) / rate, _wav(gain * samples, rate), picture, len(samples) / longest, note)
        for clip, samples, picture, note in zip(item["clips"], waveforms, spectrograms, notes, strict=True)
    ]
    unchanged = len(clips) > 1 and notes.count(_NO_CHANGE) == len(clips) - 1
    note = _NOTHING if unchanged else ""
    return Item(
        item["title"], item["kind"], item["representation"], item["module"], _describe(gain, waveforms), clips, note
    )


_NO_CHANGE, _SILENT = "no audible change", "silent"
_NOTHING = (
    "Nothing audible changes: even in the 5 % of frames and bands that differ most, spectra differ from that of the "
    "unchanged clip by less than 1 dB on average."
)


def _notes(group: str, waveforms: Sequence[np.ndarray], rate: int, gain: float) -> list[str]:
    """Note of each clip: whether it is silent, or not audibly different from the unchanged clip."""
    notes = [_SILENT if gain * float(np.abs(samples).max()) < _SILENCE else "" for samples in waveforms]
    if group in _CHANGES_OF:
        reference = int(_CHANGES_OF[group] * len(waveforms))
        for number, samples in enumerate(waveforms):
            if number != reference and level_change(waveforms[reference], samples, rate) < _AUDIBLE_DB:
                notes[number] = _NO_CHANGE
    return notes


def level_change(first: np.ndarray, second: np.ndarray, sampling_rate: int) -> float:
    """Difference of level between two sounds in dB: mean over the twentieth of frames and bands where it is largest.

    Frames and bands in which both are 50 dB below the loudest are masked and therefore skipped. Sounds are compared up
    to the end of the shorter one. Bands are those of `log_mel`; a change of a harmonic's frequency that changes no band
    by 1 dB, such as a change of pitch by less than a tenth of a semitone, is ignored.

    Args:
        first: Waveform, `(samples,)`.
        second: Waveform, `(samples,)`.
        sampling_rate: Sampling rate of both.
    """
    shorter = min(len(first), len(second))
    levels = np.stack([_levels(samples[:shorter], sampling_rate) for samples in (first, second)])
    audible = levels.max(axis=0) > levels.max() - _MASKED_DB
    changes = np.sort(np.abs(np.diff(levels, axis=0)[0][audible]))
    return float(changes[-max(1, round(_WHERE_LARGEST * len(changes))) :].mean())


def _levels(samples: np.ndarray, sampling_rate: int) -> np.ndarray:
    return log_mel(np.pad(samples, (0, max(0, _WINDOW - len(samples)))), sampling_rate=sampling_rate, window=_WINDOW)


def common_gain(waveforms: Sequence[np.ndarray]) -> float:
    """The factor that scales the loudest of some clips to a peak of 0.9; 1 if all of them are silent."""
    peak = max((float(np.abs(samples).max()) for samples in waveforms), default=0.0)
    return 1.0 if peak < _SILENCE else _PEAK / peak


def _describe(gain: float, waveforms: Sequence[np.ndarray]) -> str:
    if gain == 1.0:
        silent = all(np.abs(samples).max() < _SILENCE for samples in waveforms)
        return "silent, played as it is" if silent else "played as it is"
    return f"played with {20 * math.log10(gain):+.0f} dB"


def _waveform(item: str, name: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    if name not in arrays:
        raise ValueError(f"media.npz has no array {name!r}, which `media` entry {item!r} of analysis.json refers to.")
    samples = np.asarray(arrays[name], dtype=np.float32)
    if samples.ndim != 1 or len(samples) == 0:
        raise ValueError(f"array {name!r} of media.npz has shape {samples.shape}; give (samples,), at least one.")
    if not np.isfinite(samples).all():
        raise ValueError(f"array {name!r} of media.npz contains NaN or infinite samples.")
    return samples


def _wav(samples: np.ndarray, rate: int) -> str:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="PCM_16")
    return data_uri("audio/wav", buffer.getvalue())


def _spectrograms(waveforms: Sequence[np.ndarray], rate: int, marks: Sequence[float | None]) -> list[str]:
    """Log-mel spectrograms, low bands at the bottom, with one color scale and a line at the marked time."""
    mels = [_levels(samples, rate) for samples in waveforms]
    top = max([_QUIETEST_TOP_DB, *(float(np.percentile(each, 99.8)) for each in mels)])
    pictures = []
    for each, samples, mark in zip(mels, waveforms, marks, strict=True):
        buffer = io.BytesIO()
        colors = _COLORS(np.clip((each.T - top) / _RANGE_DB + 1, 0, 1), bytes=True)
        if mark is not None:
            colors[:, min(int(mark * rate / len(samples) * len(each)), len(each) - 1)] = _MARK
        imsave(buffer, colors, origin="lower", format="png")
        pictures.append(data_uri("image/png", buffer.getvalue()))
    return pictures


def data_uri(media_type: str, content: bytes) -> str:
    """A file as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
