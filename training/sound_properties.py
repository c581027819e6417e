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

    Pitch is the period with the largest normalised autocorrelation; brightness the centre of gravity of the spectrum;
    formants are the two lowest resonances of a linear prediction of order `2 + sampling_rate / 1000`. Frequencies are
    semitones above 1 Hz, so that differences are those of hearing.

    Args:
        waveform: `(samples,)`.
        sampling_rate: Samples a second.
    """
    size, hop = int(_WINDOW * sampling_rate), int(_HOP * sampling_rate)
    if len(waveform) < size:
        waveform = np.pad(waveform, (0, size - len(waveform)))
    frames = np.lib.stride_tricks.sliding_window_view(waveform.astype(np.float64), size)[::hop]
    energy = (frames**2).mean(axis=1)
    loud = energy > 0.05 * energy.max()
    if energy.max() < 1e-10:
        return np.full(len(PROPERTIES), np.nan)
    pitches, voicing = zip(*(_pitch(frame, sampling_rate) for frame in frames), strict=True)
    voiced = loud & (np.array(voicing) > _VOICED)
    chosen = voiced if voiced.any() else loud
    rows = [
        (
            _semitones(pitches[number]) if voiced[number] else np.nan,
            10 * np.log10(energy[number]),
            _semitones(_center_of_gravity(frames[number], sampling_rate)),
            *(_semitones(formant) for formant in _formants(frames[number], sampling_rate)),
        )
        for number in np.flatnonzero(chosen)
    ]
    columns = np.array(rows).T
    return np.array([np.nanmedian(column) if np.isfinite(column).any() else np.nan for column in columns])


def _semitones(frequency: float) -> float:
    return float(12 * np.log2(frequency)) if np.isfinite(frequency) and frequency > 0 else np.nan


def _pitch(frame: np.ndarray, sampling_rate: int) -> tuple[float, float]:
    """Frequency of the strongest period, and how much of the energy repeats with it."""
    centred = frame - frame.mean()
    spectrum = np.fft.rfft(centred, 2 * len(centred))
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[: len(centred)]
    squares = np.cumsum(centred**2)
    lags = np.arange(int(sampling_rate / _HIGHEST_PITCH), min(int(sampling_rate / _LOWEST_PITCH), len(centred) - 2) + 1)
    # Energies of the two parts that a lag compares.
    first, second = squares[len(centred) - 1 - lags], squares[-1] - squares[lags - 1]
    normalised = correlation[lags] / np.sqrt(first * second).clip(min=1e-12)
    best = int(normalised.argmax())
    if normalised[best] <= 0:
        return np.nan, 0.0
    # The shortest period that is nearly as good: twice a period fits as well.
    best = int(np.flatnonzero(normalised >= 0.9 * normalised[best])[0])
    while best + 1 < len(normalised) and normalised[best + 1] > normalised[best]:
        best += 1
    return sampling_rate / (lags[best] + _offset_of_peak(normalised, best)), float(normalised[best])


def _offset_of_peak(values: np.ndarray, highest: int) -> float:
    """Where the top of a parabola through a highest value and its neighbours lies, in steps from it.

    A whole number of samples is too coarse a period: at 16 kHz and 200 Hz, one sample is a fifth of a semitone.
    """
    if not 0 < highest < len(values) - 1:
        return 0.0
    before, at, after = values[highest - 1 : highest + 2]
    bend = before - 2 * at + after
    return float(0.5 * (before - after) / bend) if bend < 0 else 0.0


def _center_of_gravity(frame: np.ndarray, sampling_rate: int) -> float:
    power = np.abs(np.fft.rfft(frame * np.hanning(len(frame)))) ** 2
    frequencies = np.fft.rfftfreq(len(frame), 1 / sampling_rate)
    return float((power * frequencies).sum() / power.sum().clip(min=1e-12))


def _formants(frame: np.ndarray, sampling_rate: int) -> tuple[float, float]:
    """The two lowest resonances narrower than 500 Hz and above 150 Hz."""
    emphasised = lfilter([1, -0.97], [1], frame) * np.hamming(len(frame))
    order = 2 + sampling_rate // 1000
    correlation = np.correlate(emphasised, emphasised, "full")[len(frame) - 1 : len(frame) + order]
    matrix = correlation[np.abs(np.subtract.outer(np.arange(order), np.arange(order)))]
    matrix[np.diag_indices(order)] *= 1 + 1e-6
    coefficients = np.linalg.solve(matrix + 1e-12 * np.eye(order), correlation[1:])
    roots = np.roots([1, *-coefficients])
    roots = roots[roots.imag > 0]
    frequencies = np.angle(roots) * sampling_rate / (2 * np.pi)
    widths = -np.log(np.abs(roots).clip(min=1e-12)) * sampling_rate / np.pi
    found = np.sort(frequencies[(widths < 500) & (frequencies > 150)])
    return tuple([*found[:2], np.nan, np.nan][:2])  # type: ignore[return-value]
