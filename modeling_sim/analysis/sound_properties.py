"""Properties of a sound that one can hear and measure directly: pitch, level, brightness, the first two formants."""

import numpy as np
from scipy.signal import lfilter

PROPERTIES = ("pitch, semitones", "level, dB", "brightness, semitones", "F1, semitones", "F2, semitones")


_LOWEST_PITCH, _HIGHEST_PITCH = 70.0, 400.0


_WINDOW, _HOP = 0.04, 0.01


# Share of a frame's energy that repeats with the pitch's period, from which a frame counts as voiced.
_VOICED = 0.5


def sound_properties(waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Medians over the voiced frames, or over the loud ones where none is voiced, `(5,)`; NaN for silence.

    NaN, too, if a sample is not finite. Pitch is the period with the largest normalised autocorrelation; brightness the
    centre of gravity of the spectrum; formants are the two lowest resonances of a linear prediction of order
    `2 + sampling_rate / 1000`. Frequencies are semitones above 1 Hz, so that differences are those of hearing.

    Args:
        waveform: `(samples,)`.
        sampling_rate: Samples a second.
    """
    size, hop = int(_WINDOW * sampling_rate), int(_HOP * sampling_rate)
    if len(waveform) < size:
        waveform = np.pad(waveform, (0, size - len(waveform)))
    frames = np.lib.stride_tricks.sliding_window_view(waveform.astype(np.float64), size)[::hop]
    energy = (frames**2).mean(axis=1)
    if not np.isfinite(energy).all() or energy.max() < 1e-10:
        return np.full(len(PROPERTIES), np.nan)
    loud = energy > 0.05 * energy.max()
    frames, energy = frames[loud], energy[loud]
    pitches, voicing = _pitch(frames, sampling_rate)
    voiced = voicing > _VOICED
    pitches = np.where(voiced, pitches, np.nan)
    if voiced.any():
        frames, energy, pitches = frames[voiced], energy[voiced], pitches[voiced]
    columns = (
        _semitones(pitches),
        10 * np.log10(energy),
        _semitones(_center_of_gravity(frames, sampling_rate)),
        *_semitones(_formants(frames, sampling_rate)).T,
    )
    return np.array([np.nanmedian(column) if np.isfinite(column).any() else np.nan for column in columns])


def _semitones(frequencies: np.ndarray) -> np.ndarray:
    positive = np.where(frequencies > 0, frequencies, np.nan)
    return np.asarray(12 * np.log2(positive))


def _autocorrelation(frames: np.ndarray) -> np.ndarray:
    """Of lags from 0 on, `(frames, samples)`."""
    length = frames.shape[1]
    spectrum = np.fft.rfft(frames, 2 * length)
    return np.fft.irfft(np.abs(spectrum) ** 2)[:, :length]


def _pitch(frames: np.ndarray, sampling_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Frequency of the strongest period of each frame, and how much of the energy repeats with it."""
    centred = frames - frames.mean(axis=1, keepdims=True)
    length = frames.shape[1]
    lags = np.arange(int(sampling_rate / _HIGHEST_PITCH), min(int(sampling_rate / _LOWEST_PITCH), length - 2) + 1)
    squares = np.cumsum(centred**2, axis=1)
    # Energies of the two parts that a lag compares.
    first, second = squares[:, length - 1 - lags], squares[:, -1:] - squares[:, lags - 1]
    normalised = _autocorrelation(centred)[:, lags] / np.sqrt(first * second).clip(min=1e-12)
    frequencies, voicing = np.full(len(frames), np.nan), np.zeros(len(frames))
    for number, row in enumerate(normalised):
        highest = row.max()
        if highest <= 0:
            continue
        # The shortest period that is nearly as good: twice a period fits as well.
        best = int(np.flatnonzero(row >= 0.9 * highest)[0])
        while best + 1 < len(row) and row[best + 1] > row[best]:
            best += 1
        frequencies[number] = sampling_rate / (lags[best] + _offset_of_peak(row, best))
        voicing[number] = row[best]
    return frequencies, voicing


def _offset_of_peak(values: np.ndarray, highest: int) -> float:
    """Where the top of a parabola through a highest value and its neighbours lies, in steps from it.

    A whole number of samples is too coarse a period: at 16 kHz and 200 Hz, one sample is a fifth of a semitone.
    """
    if not 0 < highest < len(values) - 1:
        return 0.0
    before, at, after = values[highest - 1 : highest + 2]
    bend = before - 2 * at + after
    return float(0.5 * (before - after) / bend) if bend < 0 else 0.0


def _center_of_gravity(frames: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Of the power spectrum of each frame, in Hz."""
    power = np.abs(np.fft.rfft(frames * np.hanning(frames.shape[1]))) ** 2
    frequencies = np.fft.rfftfreq(frames.shape[1], 1 / sampling_rate)
    return np.asarray(power @ frequencies / power.sum(axis=1).clip(min=1e-12))


def _formants(frames: np.ndarray, sampling_rate: int) -> np.ndarray:
    """The two lowest resonances narrower than 500 Hz and above 150 Hz, `(frames, 2)` in Hz; NaN where there is none."""
    emphasised = lfilter([1, -0.97], [1], frames) * np.hamming(frames.shape[1])
    order = 2 + sampling_rate // 1000
    correlation = _autocorrelation(emphasised)[:, : order + 1]
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
