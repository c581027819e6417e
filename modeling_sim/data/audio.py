"""Reads audio: headers, complete recordings and crops, at one sampling rate and with one channel.

An `audio` argument is one value of a data set's `Audio(decode=False)` column: `{"path": ..., "bytes": ...}`, where
`bytes` hold the encoded file, or are `None` and `path` names it. soundfile decodes (WAV, FLAC, Ogg, MP3), soxr
resamples.
"""

import contextlib
import functools
import io
import math
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import soundfile
import soxr

from modeling_sim.data import containers

# Half the length of soxr's "HQ" filter, in samples of the lower of the two rates: with this margin on either side a
# resampled crop equals the same span of the resampled file up to float32 rounding (measured from 8 to 48 kHz).
_RESAMPLER_REACH = 240


# Valid sampling rates in Hz. At 1 Hz, a file of 80 kB would last 11 hours.
MIN_RATE, MAX_RATE = 1_000, 1_000_000


# Larger samples are an error; smaller ones are clipped to 1. Loud floats and lossy codecs overshoot by less, integers
# of 8 and more bits that were stored as floats by more.
MAX_PEAK = 8.0


_MOST_SAMPLES = 2**48  # libsndfile reports 2^63 - 1 for a FLAC written to a pipe, whose length is unknown


# Samples to decode before a crop of MP3: a frame may use spare bits of up to 23 frames before it.
_MP3_LEAD = 24 * 576


_BLOCK = 2**22  # samples of all channels that are decoded at a time


class AudioError(ValueError):
    """Unusable audio. The message names the file and the reason."""


class AudioHeader(NamedTuple):
    """Samples per channel, sampling rate in Hz and number of channels of a file."""

    num_samples: int
    sampling_rate: int
    num_channels: int


def resampled_length(num_samples: int, from_rate: int, to_rate: int) -> int:
    """Number of samples after resampling, rounded to the nearest integer, halves up."""
    return (2 * num_samples * to_rate + from_rate) // (2 * from_rate)


def audio_name(audio: Mapping[str, Any] | None) -> str:
    """Name of a recording in messages."""
    return str((audio or {}).get("path") or "audio given as bytes")


def as_recording(audio: Any, sampling_rate: int | None = None) -> dict[str, Any]:
    """Converts any usual form of a recording to a mapping: `path` or `bytes` of a file, or `array` and `sampling_rate`.

    Args:
        audio: A path; the bytes of a file; a mapping with `path` or `bytes`, or with `array` and `sampling_rate`; a
            decoder of `datasets`, which is read like that mapping; or samples, `(samples,)`.
        sampling_rate: Sampling rate of samples that come without one, in Hz; `None` if it is not known.
    """
    if isinstance(audio, (str, os.PathLike)):
        return {"path": os.fspath(audio)}
    if isinstance(audio, bytes):
        return {"bytes": audio}
    if isinstance(audio, (list, tuple)) or hasattr(audio, "shape"):
        return {"array": audio, "sampling_rate": sampling_rate}
    if isinstance(audio, Mapping):
        if audio.get("array") is None:
            return dict(audio)
        sampling_rate = audio.get("sampling_rate", sampling_rate)
    else:
        sampling_rate = audio["sampling_rate"]
    return {"array": audio["array"], "sampling_rate": sampling_rate}


def read_header(audio: Mapping[str, Any]) -> AudioHeader:
    """Reads a recording's header, and checks that the file is complete.

    Decodes the last sample, checks the container (see `data.containers`), and reads one second from the middle of a
    file of floats, whose samples may be out of range. Takes a fraction of a millisecond and a few reads for any length;
    FLAC, MP3 and Ogg are read from start to end, but not decoded.

    Raises:
        AudioError: The file is missing, empty, truncated, damaged, not audio or shorter than a millisecond, or its
            samples or sampling rate are out of range.
    """
    name = audio_name(audio)
    with _open(audio) as file:
        header = AudioHeader(file.frames, file.samplerate, file.channels)
        if header.num_samples <= 0:
            raise AudioError(f"{name}: has no samples")
        if not MIN_RATE <= header.sampling_rate <= MAX_RATE:
            raise AudioError(
                f"{name}: sampling rate {header.sampling_rate} Hz is not in the range of {MIN_RATE} to {MAX_RATE} Hz"
            )
        if 1000 * header.num_samples < header.sampling_rate:
            raise AudioError(f"{name}: shorter than a millisecond ({header.num_samples} samples)")
        with _errors_named(audio), _content(audio) as content:
            reason = containers.problem(content, header.num_samples)
        if reason is not None:
            raise AudioError(f"{name}: {reason}")
        _read(file, audio, header.num_samples - 1, 1)
        if file.subtype in ("FLOAT", "DOUBLE"):
            middle = max(0, (header.num_samples - header.sampling_rate) // 2)
            _read(file, audio, middle, min(header.sampling_rate, header.num_samples))
    return header


def read_audio(
    audio: Mapping[str, Any],
    *,
    start: int = 0,
    num_samples: int | None = None,
    sampling_rate: int = 16_000,
    found: tuple[int, int] | None = None,
    average_channels: bool = True,
) -> np.ndarray:
    """Reads a recording, or a crop of it, as float32 `(samples,)` in [-1, 1].

    Only the span of the crop is decoded, plus a margin for the resampling filter if the rates differ, so that the crop
    equals the same span of the complete recording. Several channels are averaged, with one warning. Small overshoots
    of lossy codecs and resampling are clipped.

    Args:
        audio: The recording.
        start: First sample, counted at `sampling_rate`.
        num_samples: Samples at `sampling_rate`; `None` for all that follow. Fewer at the end of the recording.
        sampling_rate: Sampling rate of the result in Hz; the recording is resampled if its own rate differs.
        found: Number of samples and sampling rate from an earlier `read_header`; raises if the file has changed.
        average_channels: Average several channels; otherwise a recording with several raises.

    Raises:
        AudioError: The recording cannot be decoded, is truncated or empty, differs from `found`, or has samples that
            are NaN, infinite or far out of range.
        ValueError: `start` is outside the recording, `num_samples` is below 1, or `sampling_rate` is not a positive
            integer.
    """
    if not float(sampling_rate).is_integer() or sampling_rate < 1:
        raise ValueError(f"`sampling_rate` is {sampling_rate}; give a positive integer, in Hz.")
    sampling_rate = int(sampling_rate)
    with _open(audio) as file:
        own_rate = file.samplerate
        if file.channels > 1 and not average_channels:
            raise AudioError(
                f"{audio_name(audio)}: has {file.channels} channels; set `average_channels`, or choose one first"
            )
        if found is not None and (file.frames, own_rate) != tuple(found):
            raise AudioError(
                f"{audio_name(audio)}: changed since the corpus was read, from {found[0]} samples at {found[1]} Hz to "
                f"{file.frames} at {own_rate} Hz"
            )
        if file.channels > 1:
            _warn_of_channels()
        length = resampled_length(file.frames, own_rate, sampling_rate)
        if length == 0:
            raise AudioError(f"{audio_name(audio)}: has no samples")
        if not 0 <= start < length:
            raise ValueError(f"`start` is {start}, but {audio_name(audio)} has samples 0 to {length - 1}")
        if num_samples is not None and num_samples < 1:
            raise ValueError(f"`num_samples` is {num_samples}; give at least 1, or None for all that follow")
        stop = length if num_samples is None else min(start + num_samples, length)
        if own_rate == sampling_rate:
            samples = _read(file, audio, start, stop - start)
        else:
            # Sample i of the result is at i * own_rate / sampling_rate. Decoding starts where both rates have a sample
            # at the same time, so that the crop is sampled at the same times as the complete recording.
            common = math.gcd(own_rate, sampling_rate)
            own_block, block = own_rate // common, sampling_rate // common
            margin = math.ceil(_RESAMPLER_REACH * max(1.0, own_rate / sampling_rate))
            first_block = max(0, (start * own_rate // sampling_rate - margin) // own_block)
            first_own = first_block * own_block
            stop_own = min(file.frames, math.ceil(stop * own_rate / sampling_rate) + margin)
            own_samples = _read(file, audio, first_own, stop_own - first_own)
            with _errors_named(audio):
                samples = soxr.resample(own_samples, own_rate, sampling_rate)
            first = first_block * block
            samples = samples[start - first : stop - first]
    return np.clip(samples, -1, 1, out=samples)


def log_mel(
    samples: np.ndarray, *, sampling_rate: int = 16_000, num_mels: int = 80, window: int = 400, hop: int = 160
) -> np.ndarray:
    """Log-mel spectrogram in dB, `(frames, num_mels)` float32, on the label frames of `data.corpora.alignments`.

    Power spectra of Hann windows without padding, summed with triangular filters that are evenly spaced on the mel
    scale from 20 Hz to half the sampling rate. The floor is -100 dB.

    Args:
        samples: Waveform, `(samples,)`.
        sampling_rate: Sampling rate of the waveform in Hz.
        num_mels: Number of mel bands.
        window: Samples per window, 25 ms by default.
        hop: Samples from one window to the next, 10 ms by default.

    Raises:
        ValueError: The waveform is shorter than a window.
    """
    if len(samples) < window:
        raise ValueError(f"`samples` has {len(samples)} entries, fewer than one window of {window}")
    frames = np.lib.stride_tricks.sliding_window_view(samples, window)[::hop]
    size = 1 << (window - 1).bit_length()
    power = np.abs(np.fft.rfft(frames * np.hanning(window).astype(np.float32), size)) ** 2 / window
    edges = np.linspace(mel(20), mel(sampling_rate / 2), num_mels + 2)
    places = mel(np.fft.rfftfreq(size, 1 / sampling_rate))
    rising = (places[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - places[:, None]) / (edges[2:] - edges[1:-1])
    return (10 * np.log10(power @ np.maximum(0, np.minimum(rising, falling)) + 1e-10)).astype(np.float32)


def mel(frequency: Any) -> Any:
    """Converts a frequency in Hz to mel: 2595 log10(1 + f / 700) (O'Shaughnessy 1987)."""
    return 2595 * np.log10(1 + np.asarray(frequency) / 700)


@contextlib.contextmanager
def _errors_named(audio: Mapping[str, Any] | None, where: str = "") -> Iterator[None]:
    """Turns any error of libsndfile, the resampler or the file system into an `AudioError` that names the recording."""
    try:
        yield
    except AudioError:
        raise
    except PermissionError as error:
        raise AudioError(f"{audio_name(audio)}: no permission to read it") from error
    except Exception as error:
        reason = getattr(error, "error_string", None) or str(error) or type(error).__name__
        raise AudioError(f"{audio_name(audio)}: not decodable{where} ({reason}); truncated or corrupt") from error


def file_path(path: str | os.PathLike[str]) -> str | bytes:
    """Encodes a data set's UTF-8 path for the file system, independent of the locale."""
    return os.fspath(path) if os.name == "nt" else os.fspath(path).encode("utf-8", "surrogateescape")


def _content(audio: Mapping[str, Any]) -> BinaryIO:
    """The encoded file."""
    content = audio.get("bytes")
    return open(file_path(audio["path"]), "rb") if content is None else io.BytesIO(content)  # noqa: PTH123


def _look(audio: Mapping[str, Any], what: Callable[[BinaryIO], Any]) -> Any:
    """Calls a function on the encoded file; results for a file on disk are cached until it changes."""
    if audio.get("bytes") is not None:
        return what(io.BytesIO(audio["bytes"]))
    path = file_path(audio["path"])
    status = os.stat(path)  # noqa: PTH116 - of bytes
    return _look_once(path, status.st_size, status.st_mtime_ns, what)


@functools.lru_cache(maxsize=2**16)
def _look_once(path: str | bytes, _size: int, _changed: int, what: Callable[[BinaryIO], Any]) -> Any:
    with open(path, "rb") as file:  # noqa: PTH123 - of bytes
        return what(file)


@contextlib.contextmanager
def _open(audio: Mapping[str, Any] | None) -> Iterator[soundfile.SoundFile]:
    """Opens a recording; every error becomes an `AudioError`."""
    if audio is None:
        raise AudioError("the row has no audio")
    content, path = audio.get("bytes"), audio.get("path")
    if content is None and path is None:
        raise AudioError("the row has neither `path` nor `bytes`")
    with contextlib.ExitStack() as opened:
        with _errors_named(audio):
            if content is None:
                _check_file(str(path))
            elif len(content) == 0:
                raise AudioError(f"{audio_name(audio)}: `bytes` is empty")
            mended = _look(audio, containers.mended)
            source: Any = file_path(str(path)) if content is None else io.BytesIO(content)
            if mended is not None:
                source = mended.of(opened.enter_context(_content(audio)))
            file = opened.enter_context(soundfile.SoundFile(source))
        if file.frames > _MOST_SAMPLES:
            raise AudioError(
                f"{audio_name(audio)}: truncated or damaged, its header gives no length and its last frame is "
                "incomplete"
            )
        yield file


def _check_file(path: str) -> None:
    try:
        status = os.stat(file_path(path))  # noqa: PTH116 - of bytes
    except FileNotFoundError:
        status = None
    if status is None or not stat.S_ISREG(status.st_mode):
        raise AudioError(f"{path}: no such file")
    if status.st_size == 0:
        raise AudioError(f"{path}: the file is empty")


def _first_decoded(file: soundfile.SoundFile, audio: Mapping[str, Any], start: int) -> int:
    """Sample to start decoding at, so that the samples from `start` on equal those of the complete recording."""
    if file.format == "MP3":
        return max(0, start - _MP3_LEAD)
    if file.subtype == "VORBIS" and start > 0:
        # libsndfile seeks to wrong positions in the last page, which may be shortened.
        return max(0, min(start, _look(audio, containers.last_page_start) - 1))
    return start


def _read(file: soundfile.SoundFile, audio: Mapping[str, Any], start: int, num_samples: int) -> np.ndarray:
    """Decodes a span at the file's own rate, averaged over channels."""
    blocks = []
    with _errors_named(audio, f" at sample {start}"):
        # In blocks: a header may announce more samples than fit into memory.
        most, left = max(1, _BLOCK // file.channels), num_samples
        while left:
            place = start + num_samples - left
            first = _first_decoded(file, audio, place)
            file.seek(first)
            # A single read, since soundfile seeks after each.
            block = file.read(place - first + min(most, left), dtype="float32", always_2d=False)[place - first :]
            blocks.append(block if block.ndim == 1 else block.mean(axis=1, dtype=np.float32))
            left -= len(block)
            if len(block) == 0:
                break
        samples = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    if left:
        raise AudioError(
            f"{audio_name(audio)}: truncated, its header announces {file.frames} samples but it ends after "
            f"{start + len(samples)}"
        )
    peak = float(max(samples.max(), -samples.min()))
    if not np.isfinite(peak):
        raise AudioError(f"{audio_name(audio)}: has NaN or infinite samples")
    if peak > MAX_PEAK:
        raise AudioError(
            f"{audio_name(audio)}: samples of up to {peak:g} are out of the range [-1, 1]; divide 16-bit integers by "
            "32768"
        )
    return samples


@functools.cache  # one warning per process, not one per file
def _warn_of_channels() -> None:
    warnings.warn("Some recordings have several channels; they are averaged into one.", stacklevel=3)
