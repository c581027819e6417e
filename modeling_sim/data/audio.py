"""Reading audio: headers, whole recordings and crops, at one sampling rate and with one channel.

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

# How far soxr's "HQ" filter reaches, in samples of the lower of the two rates: with this margin on either side a
# resampled crop equals the same span of the resampled file to float32 rounding (measured from 8 to 48 kHz).
_RESAMPLER_REACH = 240


# Samples per second that a header may say. At 1 Hz, a file of 80 kB would last 11 hours.
MIN_RATE, MAX_RATE = 1_000, 1_000_000


# Largest sample that is clipped to 1. Floats that were mastered too loud and lossy codecs overshoot by less; whole
# numbers of 8 and more bits go beyond.
MAX_PEAK = 8.0


_MOST_SAMPLES = 2**48  # a FLAC that was written to a pipe leaves its length open, and counts 2^63 - 1


# Samples that are decoded before a crop of MP3: a frame may use the bits that up to 23 frames before it left over.
_MP3_LEAD = 24 * 576


_BLOCK = 2**22  # samples of all channels that are decoded at a time


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
    """Read a recording's header, and make sure that the file holds what it announces.

    The last sample is decoded, the container is looked through (see `data.containers`), and of a file of floats
    a second from the middle is read, whose samples may be out of range. Costs a fraction of a millisecond and a few
    reads whatever the length; FLAC, MP3 and Ogg are read from end to end, but not decoded.

    Raises:
        AudioError: The file is missing, empty, truncated, damaged, not audio, shorter than a millisecond, holds
            samples out of range, or its sampling rate is none of sound.
    """
    name = audio_name(audio)
    with _open(audio) as file:
        header = AudioHeader(file.frames, file.samplerate, file.channels)
        if header.num_samples <= 0:
            raise AudioError(f"{name}: holds no samples")
        if not MIN_RATE <= header.sampling_rate <= MAX_RATE:
            raise AudioError(
                f"{name}: its header says {header.sampling_rate} samples per second; sound has {MIN_RATE} to {MAX_RATE}"
            )
        if 1000 * header.num_samples < header.sampling_rate:
            raise AudioError(f"{name}: its {header.num_samples} samples are less than a millisecond")
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
    """Read a recording, or a crop of it, as float32 `(samples,)` in [-1, 1].

    A crop is sought: only its own span is decoded, and where the rates differ a margin for the resampling filter, so
    that the crop equals the same span of the whole recording. Several channels are averaged, with one warning. What
    little lossy codecs and resampling overshoot is clipped, as all decoders to whole numbers do.

    Args:
        audio: The recording.
        start: First sample, counted at `sampling_rate`.
        num_samples: Samples at `sampling_rate`; `None` for all that follow. Fewer come where the recording ends.
        sampling_rate: Samples a second of the result; the recording is resampled where its own rate differs.
        found: Samples and sampling rate that `read_header` found earlier; a file that has others by now is an error.
        average_channels: Average several channels; otherwise a recording that has them is an error.

    Raises:
        AudioError: The recording cannot be decoded, is truncated, empty, not as `found`, or holds samples that are
            NaN, infinite or far out of range.
        ValueError: `start` lies outside the recording, or `num_samples` is below 1.
    """
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
        length = resampled_length(file.frames, own_rate, sampling_rate)
        if length == 0:
            raise AudioError(f"{audio_name(audio)}: holds no samples")
        if not 0 <= start < length:
            raise ValueError(f"`start` is {start}, but {audio_name(audio)} has samples 0 to {length - 1}")
        if num_samples is not None and num_samples < 1:
            raise ValueError(f"`num_samples` is {num_samples}; give at least 1, or None for all that follow")
        stop = length if num_samples is None else min(start + num_samples, length)
        if own_rate == sampling_rate:
            samples = _read(file, audio, start, stop - start)
        else:
            # Sample i of the result stands at i * own_rate / sampling_rate. Decoding begins where both rates have a
            # sample at the same instant, so that the crop's sampling instants are those of the whole recording.
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
    """Log-mel spectrum in dB, `(frames, num_mels)` float32, on the label frames of `data.corpora.alignments`.

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


@contextlib.contextmanager
def _errors_named(audio: Mapping[str, Any] | None, where: str = "") -> Iterator[None]:
    """Whatever libsndfile, the resampler or the file system throws, as an `AudioError` that names the recording."""
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
    """A data set's path, which is UTF-8, as the file system takes it in every locale."""
    return os.fspath(path) if os.name == "nt" else os.fspath(path).encode("utf-8", "surrogateescape")


def _content(audio: Mapping[str, Any]) -> BinaryIO:
    """The encoded file."""
    content = audio.get("bytes")
    return open(file_path(audio["path"]), "rb") if content is None else io.BytesIO(content)  # noqa: PTH123


def _look(audio: Mapping[str, Any], what: Callable[[BinaryIO], Any]) -> Any:
    """What a function finds in the encoded file; it is called once for a file on disk, as long as that is the same."""
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
    """Open a recording, with every failure as an `AudioError`."""
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
                raise AudioError(f"{audio_name(audio)}: no bytes")
            mended = _look(audio, containers.mended)
            source: Any = file_path(str(path)) if content is None else io.BytesIO(content)
            if mended is not None:
                source = mended.of(opened.enter_context(_content(audio)))
            file = opened.enter_context(soundfile.SoundFile(source))
        if file.frames > _MOST_SAMPLES:
            raise AudioError(
                f"{audio_name(audio)}: truncated or damaged, its header leaves its length open and its last frame is "
                "not complete"
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
        raise AudioError(f"{path}: an empty file")


def _first_decoded(file: soundfile.SoundFile, audio: Mapping[str, Any], start: int) -> int:
    """Sample to decode from, so that those from `start` on are what they are in the whole recording."""
    if file.format == "MP3":
        return max(0, start - _MP3_LEAD)
    if file.subtype == "VORBIS" and start > 0:
        # libsndfile is wrong about the samples of the last page, which may be cut.
        return max(0, min(start, _look(audio, containers.last_page_start) - 1))
    return start


def _read(file: soundfile.SoundFile, audio: Mapping[str, Any], start: int, num_samples: int) -> np.ndarray:
    """Decode a span at the file's own rate, averaged over channels."""
    blocks = []
    with _errors_named(audio, f" at sample {start}"):
        # In blocks: a header may announce more than memory holds.
        most, left = max(1, _BLOCK // file.channels), num_samples
        while left:
            place = start + num_samples - left
            first = _first_decoded(file, audio, place)
            file.seek(first)
            # One reading, since soundfile seeks after each.
            block = file.read(place - first + min(most, left), dtype="float32", always_2d=False)[place - first :]
            blocks.append(block if block.ndim == 1 else block.mean(axis=1, dtype=np.float32))
            left -= len(block)
            if len(block) == 0:
                break
        samples = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    if left:
        raise AudioError(
            f"{audio_name(audio)}: truncated, its header announces {file.frames} samples and it ends at "
            f"{start + len(samples)}"
        )
    if file.channels > 1:
        _warn_of_channels()
    peak = float(max(samples.max(), -samples.min()))
    if not np.isfinite(peak):
        raise AudioError(f"{audio_name(audio)}: holds NaN or infinite samples")
    if peak > MAX_PEAK:
        raise AudioError(
            f"{audio_name(audio)}: holds samples up to {peak:g}, but floats of audio lie in [-1, 1]; divide whole "
            "numbers of 16 bits by 32768"
        )
    return samples


@functools.cache  # one warning a process, not one a file
def _warn_of_channels() -> None:
    warnings.warn("Some recordings have several channels; they are averaged into one.", stacklevel=4)
