"""Audible properties of a sound that can be measured directly: pitch, level, brightness, the first two formants."""

import numpy as np
from scipy.signal import lfilter

PROPERTIES = ("pitch, semitones", "level, dB", "brightness, semitones", "F1, semitones", "F2, semitones")


_LOWEST_PITCH, _HIGHEST_PITCH = 70.0, 400.0


_WINDOW, _HOP = 0.04, 0.01


# Normalized autocorrelation at the pitch period from which a frame counts as voiced.
_VOICED = 0.5


# Energy relative to the loudest frame of the utterance above which a frame counts as speech.
_LOUD = 0.05


# Maximum number of windows for the medians of a sound. Windows 10 ms apart share three quarters of their samples; in a
# sound of 5 seconds they are adjacent, which takes a quarter of the time.
_MOST_WINDOWS = 128


# Number of frames that are measured at a time: formants need a matrix of `order ** 2` numbers per frame.
_TOGETHER = 4096


def sound_properties(waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Medians of `frame_properties` over the voiced frames, or over the loud frames if none is voiced, `(5,)`.

    Frames are 10 ms apart, or more in a sound of more than 1.3 s, so that there are at most 128. All properties are NaN
    for silence, or if a sample is not finite.

    Args:
        waveform: `(samples,)`.
        sampling_rate: Samples per second.
    """
    size, hop = int(_WINDOW * sampling_rate), int(_HOP * sampling_rate)
    last = max(0, len(waveform) - size)
    starts = np.arange(0, last + 1, max(hop, -(-last // _MOST_WINDOWS)))[:_MOST_WINDOWS]
    values = frame_properties(waveform, sampling_rate, (starts + size / 2) / sampling_rate)
    voiced = np.isfinite(values[:, 0])
    columns = (values[voiced] if voiced.any() else values).T
    return np.array([np.nanmedian(column) if np.isfinite(column).any() else np.nan for column in columns])


def frame_properties(waveform: np.ndarray, sampling_rate: int, seconds: np.ndarray) -> np.ndarray:
    """Each of `PROPERTIES` in windows of 40 ms around given times, `(times, 5)`.

    Pitch is the period with the largest normalized autocorrelation; brightness the center of gravity of the spectrum;
    formants are the two lowest resonances of a linear prediction of order `2 + sampling_rate / 1000`. Frequencies are
    in semitones above 1 Hz, so that differences are perceptual. Pitch is NaN in unvoiced frames, and all properties in
    frames with less than a twentieth of the energy of the loudest one.

    Args:
        waveform: `(samples,)`; all properties are NaN if a sample is not finite.
        sampling_rate: Samples per second.
        seconds: `(times,)`, centers of the windows; the waveform is padded with zeros.
    """
    values = np.full((len(seconds), len(PROPERTIES)), np.nan)
    frames, loud = _windows(waveform, sampling_rate, seconds)
    for first in range(0, len(loud), _TOGETHER):
        part = loud[first : first + _TOGETHER]
        values[part] = _of_frames(frames[part], sampling_rate)
    return values


def frame_pitch(waveform: np.ndarray, sampling_rate: int, seconds: np.ndarray) -> np.ndarray:
    """Only the pitch of `frame_properties`, `(times,)`, which is faster without the formants."""
    values = np.full(len(seconds), np.nan)
    frames, loud = _windows(waveform, sampling_rate, seconds)
    values[loud] = _voiced_pitch(frames[loud], sampling_rate)
    return values


def _windows(waveform: np.ndarray, sampling_rate: int, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Windows around times, `(times, samples)`, and the indices of those that are loud enough for speech."""
    size = int(_WINDOW * sampling_rate)
    padded = np.pad(waveform.astype(np.float64), size)
    starts = np.rint(np.asarray(seconds) * sampling_rate - size / 2).astype(int) + size
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[starts.clip(0, len(padded) - size)]
    energy = (frames**2).mean(axis=1)
    if not len(energy) or not np.isfinite(padded).all() or energy.max() < 1e-10:
        return frames, np.empty(0, dtype=int)
    return frames, np.flatnonzero(energy > _LOUD * energy.max())


def _voiced_pitch(frames: np.ndarray, sampling_rate: int) -> np.ndarray:
    pitches, voicing = _pitch(frames, sampling_rate)
    return _semitones(np.where(voicing > _VOICED, pitches, np.nan))


def _of_frames(frames: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Each of `PROPERTIES` of windows `(frames, samples)`."""
    columns = (
        _voiced_pitch(frames, sampling_rate),
        10 * np.log10((frames**2).mean(axis=1)),
        _semitones(_center_of_gravity(frames, sampling_rate)),
        *_semitones(_formants(frames, sampling_rate)).T,
    )
    return np.stack(columns, axis=1)


def _semitones(frequencies: np.ndarray) -> np.ndarray:
    positive = np.where(frequencies > 0, frequencies, np.nan)
    return np.asarray(12 * np.log2(positive))


def _autocorrelation(frames: np.ndarray) -> np.ndarray:
    """Autocorrelation of each frame at lags from 0 on, `(frames, samples)`."""
    length = frames.shape[1]
    spectrum = np.fft.rfft(frames, 2 * length)
    return np.fft.irfft(np.abs(spectrum) ** 2)[:, :length]


def _pitch(frames: np.ndarray, sampling_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Frequency of the strongest period of each frame, and its normalized autocorrelation."""
    centered = frames - frames.mean(axis=1, keepdims=True)
    length = frames.shape[1]
    lags = np.arange(int(sampling_rate / _HIGHEST_PITCH), min(int(sampling_rate / _LOWEST_PITCH), length - 2) + 1)
    squares = np.cumsum(centered**2, axis=1)
    # Energies of the two parts that a lag compares.
    first, second = squares[:, length - 1 - lags], squares[:, -1:] - squares[:, lags - 1]
    normalized = _autocorrelation(centered)[:, lags] / np.sqrt(first * second).clip(min=1e-12)
    highest = normalized.max(axis=1, keepdims=True)
    # Use the shortest period that is nearly as good as the best, because multiples of a period fit as well, and move
    # from there to the next peak.
    good = (normalized >= 0.9 * highest).argmax(axis=1)
    falls = np.diff(normalized, axis=1, append=-np.inf) <= 0
    best = (falls & (np.arange(len(lags)) >= good[:, None])).argmax(axis=1)
    periods = lags[best] + _offset_of_peak(normalized, best)
    repeats = highest[:, 0] > 0
    voicing = normalized[np.arange(len(frames)), best]
    return np.where(repeats, sampling_rate / periods, np.nan), np.where(repeats, voicing, 0.0)


def _offset_of_peak(values: np.ndarray, highest: np.ndarray) -> np.ndarray:
    """Offset in steps from the highest value of a row to the peak of a parabola through it and its neighbors.

    An integer number of samples is too coarse a period: at 16 kHz and 200 Hz, one sample is a fifth of a semitone.

    Args:
        values: `(rows, steps)`.
        highest: `(rows,)`, step of the highest value; the offset is 0 for the first and the last step.
    """
    padded = np.pad(values, ((0, 0), (1, 1)), mode="edge")
    before, at, after = (padded[np.arange(len(values)), highest + step] for step in range(3))
    bend = before - 2 * at + after
    inside = (highest > 0) & (highest < values.shape[1] - 1) & (bend < 0)
    return np.divide(0.5 * (before - after), bend, out=np.zeros(len(values)), where=inside)


def _center_of_gravity(frames: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Center of gravity of the power spectrum of each frame, in Hz."""
    power = np.abs(np.fft.rfft(frames * np.hanning(frames.shape[1]))) ** 2
    frequencies = np.fft.rfftfreq(frames.shape[1], 1 / sampling_rate)
    return np.asarray(power @ frequencies / power.sum(axis=1).clip(min=1e-12))


def _formants(frames: np.ndarray, sampling_rate: int) -> np.ndarray:
    """The two lowest resonances narrower than 500 Hz and above 150 Hz, `(frames, 2)` in Hz; NaN where there is none."""
    emphasized = lfilter([1, -0.97], [1], frames) * np.hamming(frames.shape[1])
    order = 2 + sampling_rate // 1000
    correlation = _autocorrelation(emphasized)[:, : order + 1]
    matrices = correlation[:, np.abs(np.subtract.outer(np.arange(order), np.arange(order)))]
    matrices = matrices + (1e-6 * correlation[:, :1, None] + 1e-12) * np.eye(order)
    coefficients = np.linalg.solve(matrices, correlation[:, 1:, None])[..., 0]
    # The roots of the prediction's polynomial are the eigenvalues of its companion matrix.
    companions = np.zeros_like(matrices)
    companions[:, 0] = coefficients
    companions[:, np.arange(1, order), np.arange(order - 1)] = 1
    roots = np.linalg.eigvals(companions)
    frequencies = np.angle(roots) * sampling_rate / (2 * np.pi)
    widths = -np.log(np.abs(roots).clip(min=1e-12)) * sampling_rate / np.pi
    is_formant = (roots.imag > 0) & (widths < 500) & (frequencies > 150)
    return np.sort(np.where(is_formant, frequencies, np.nan))[:, :2]  # NaN is sorted last
