"""Reading audio: headers, whole recordings and crops, at one sampling rate and with one channel.

An `audio` argument is one value of a data set's `Audio(decode=False)` column: `{"path": ..., "bytes": ...}`, where
`bytes` hold the encoded file, or are `None` and `path` names it. soundfile decodes (WAV, FLAC, Ogg, MP3), soxr
resamples.
"""

import functools
import io
import math
import os
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import soxr

# How far soxr's "HQ" filter reaches, in samples of the lower of the two rates: with this margin on either side a
# resampled crop equals the same span of the resampled file to float32 rounding (measured from 8 to 48 kHz).
_RESAMPLER_REACH = 240


class AudioError(ValueError):
    """Audio that cannot be used. The message names the file and what is wrong with it."""


class AudioHeader(NamedTuple):
    """What a file says about itself: samples a channel, samples a second, channels."""

    num_samples: int
    sampling_rate: int
    num_channels: int


def resampled_length(num_samples: int, from_rate: int, to_rate: int) -> int:
    """Samples that `num_samples` at `from_rate` become at `to_rate`: the nearest whole number, halves upwards."""
    return (2 * num_samples * to_rate + from_rate) // (2 * from_rate)


def audio_name(audio: Mapping[str, Any] | None) -> str:
    """Name of a recording for messages."""
    return str((audio or {}).get("path") or "audio given as bytes")


def read_header(audio: Mapping[str, Any]) -> AudioHeader:
    """Read a recording's header and its last sample, which a truncated file does not have.

    Costs a fraction of a millisecond, whatever the length.

    Raises:
        AudioError: The file is missing, empty, truncated, or not audio.
    """
    with _open(audio) as file:
        header = AudioHeader(file.frames, file.samplerate, file.channels)
        if header.num_samples <= 0:
            raise AudioError(f"{audio_name(audio)}: holds no samples")
        _read(file, audio, header.num_samples - 1, 1)
    if _is_truncated_wav(audio):
        raise AudioError(f"{audio_name(audio)}: truncated, its header announces more bytes than there are")
    return header


def read_audio(
    audio: Mapping[str, Any], *, start: int = 0, num_samples: int | None = None, sampling_rate: int = 16_000
) -> np.ndarray:
    """Read a recording, or a crop of it, as float32 `(samples,)` in [-1, 1].

    A crop is sought: only its own span is decoded, and where the rates differ a margin for the resampling filter, so
    that the crop equals the same span of the whole recording. Several channels are averaged, with one warning.

    Args:
        audio: The recording.
        start: First sample, counted at `sampling_rate`.
        num_samples: Samples at `sampling_rate`; `None` for all that follow. Fewer come where the recording ends.
        sampling_rate: Samples a second of the result; the recording is resampled where its own rate differs.

    Raises:
        AudioError: The recording cannot be decoded, is truncated, empty, or holds NaN or infinite samples.
        ValueError: `start` lies outside the recording, or `num_samples` is below 1.
    """
    with _open(audio) as file:
        own_rate = file.samplerate
        length = resampled_length(file.frames, own_rate, sampling_rate)
        if length == 0:
            raise AudioError(f"{audio_name(audio)}: holds no samples")
        if not 0 <= start < length:
            raise ValueError(f"`start` is {start}, but {audio_name(audio)} has samples 0 to {length - 1}")
        if num_samples is not None and num_samples < 1:
            raise ValueError(f"`num_samples` is {num_samples}; give at least 1, or None for all that follow")
        stop = length if num_samples is None else min(start + num_samples, length)
        if own_rate == sampling_rate:
            first = start
            samples = _read(file, audio, first, stop - first)
        else:
            # Sample i of the result stands at i * own_rate / sampling_rate. Decoding begins where both rates have a
            # sample at the same instant, so that the crop's sampling instants are those of the whole recording.
            common = math.gcd(own_rate, sampling_rate)
            own_block, block = own_rate // common, sampling_rate // common
            margin = math.ceil(_RESAMPLER_REACH * max(1.0, own_rate / sampling_rate))
            first_block = max(0, (start * own_rate // sampling_rate - margin) // own_block)
            first_own = first_block * own_block
            stop_own = min(file.frames, math.ceil(stop * own_rate / sampling_rate) + margin)
            samples = soxr.resample(_read(file, audio, first_own, stop_own - first_own), own_rate, sampling_rate)
            first = first_block * block
            samples = samples[start - first : stop - first]
    if not np.isfinite(samples).all():
        raise AudioError(f"{audio_name(audio)}: holds NaN or infinite samples")
    return samples


def log_mel(
    samples: np.ndarray, *, sampling_rate: int = 16_000, num_mels: int = 80, window: int = 400, hop: int = 160
) -> np.ndarray:
    """Log-mel spectrum in dB, `(frames, num_mels)` float32, on the label frames of `training.corpora.alignments`.

    Power spectra of Hann windows that never leave the signal, summed under triangles that are evenly spaced on the mel
    scale from 20 Hz to half the sampling rate. The floor is -100 dB.

    Args:
        samples: Waveform, `(samples,)`.
        sampling_rate: Its samples a second.
        num_mels: Bands.
        window: Samples of a window, 25 ms by default.
        hop: Samples from one window to the next, 10 ms by default.

    Raises:
        ValueError: The waveform is shorter than a window.
    """
    if len(samples) < window:
        raise ValueError(f"`samples` has {len(samples)} entries, fewer than the {window} of one window")
    frames = np.lib.stride_tricks.sliding_window_view(samples, window)[::hop]
    size = 1 << (window - 1).bit_length()
    power = np.abs(np.fft.rfft(frames * np.hanning(window).astype(np.float32), size)) ** 2 / window
    edges = np.linspace(mel(20), mel(sampling_rate / 2), num_mels + 2)
    places = mel(np.fft.rfftfreq(size, 1 / sampling_rate))
    rising = (places[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - places[:, None]) / (edges[2:] - edges[1:-1])
    return (10 * np.log10(power @ np.maximum(0, np.minimum(rising, falling)) + 1e-10)).astype(np.float32)


def mel(frequency: Any) -> Any:
    """Place of a frequency in Hz on the mel scale: 2595 log10(1 + f / 700), O'Shaughnessy 1987."""
    return 2595 * np.log10(1 + np.asarray(frequency) / 700)


def _open(audio: Mapping[str, Any] | None) -> soundfile.SoundFile:
    """Open a recording, with every failure as an `AudioError`."""
    if audio is None:
        raise AudioError("the row has no audio")
    content, path = audio.get("bytes"), audio.get("path")
    if content is None and path is None:
        raise AudioError("the row has neither `path` nor `bytes`")
    if content is None:
        if not Path(path).is_file():
            raise AudioError(f"{path}: no such file")
        if Path(path).stat().st_size == 0:
            raise AudioError(f"{path}: an empty file")
        if not os.access(path, os.R_OK):
            raise AudioError(f"{path}: no permission to read it")
    elif len(content) == 0:
        raise AudioError(f"{audio_name(audio)}: no bytes")
    try:
        return soundfile.SoundFile(path if content is None else io.BytesIO(content))
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{audio_name(audio)}: not decodable ({error.error_string})") from error


def _read(file: soundfile.SoundFile, audio: Mapping[str, Any], start: int, num_samples: int) -> np.ndarray:
    """Decode a span at the file's own rate, averaged over channels."""
    try:
        file.seek(start)
        samples = file.read(num_samples, dtype="float32", always_2d=False)
    except soundfile.LibsndfileError as error:
        raise AudioError(
            f"{audio_name(audio)}: not decodable at sample {start} ({error.error_string}); truncated or corrupt"
        ) from error
    if len(samples) < num_samples:
        raise AudioError(
            f"{audio_name(audio)}: truncated, its header announces {file.frames} samples and it ends at "
            f"{start + len(samples)}"
        )
    if samples.ndim == 2:
        _warn_of_channels()
        samples = samples.mean(axis=1, dtype=np.float32)
    return samples


@functools.cache  # one warning a process, not one a file
def _warn_of_channels() -> None:
    warnings.warn("Some recordings have several channels; they are averaged into one.", stacklevel=4)


def _is_truncated_wav(audio: Mapping[str, Any]) -> bool:
    """Whether a RIFF header announces more bytes than there are; libsndfile silently shortens such files."""
    content = audio.get("bytes")
    if content is None:
        size = Path(audio["path"]).stat().st_size
        with Path(audio["path"]).open("rb") as file:
            head = file.read(8)
    else:
        size, head = len(content), content[:8]
    if len(head) < 8 or head[:4] != b"RIFF":
        return False
    announced = struct.unpack("<I", head[4:])[0]
    # Writers that stream do not know the size and leave 0 or all ones.
    return announced not in (0, 0xFFFFFFFF) and announced + 8 > size + 1
