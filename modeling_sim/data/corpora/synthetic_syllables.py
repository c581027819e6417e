"""Syllables synthesized on the fly, with the exact value of every generating factor.

A source-filter synthesizer after Klatt (1980, "Software for a cascade/parallel formant synthesizer"): a band-limited
glottal pulse train and noise pass through a cascade of formant resonators that move along the syllables.
Six factors are drawn independently of each other:

| factor | where |
| --- | --- |
| vocal-tract length | of the speaker; divides every formant; `vocal_tract_length`, 1 for a tract of 17.5 cm |
| pitch | drawn in the speaker's range, low or high; `f0`, Hz, and `f0_track`, Hz per frame, 0 where unvoiced |
| vowel | of each syllable; `vowel` |
| vowel formants | of each syllable, F1 and F2 shifted by up to 6 % each; `formants`, F1 to F3 per frame, Hz |
| consonant | of each syllable; `consonant` |
| gain | of the utterance; `gain`, dB relative to the loudest; does not change the background noise |

Speakers are all pairs of a vocal-tract length and a pitch range. Frames are the label frames of
`data.corpora.alignments`. An utterance of one syllable has single classes in `vowel`, `consonant`, `syllable`; a
longer one has one class per syllable. Utterance i of a split only depends on the seed, the split and i.
"""

import functools
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import soundfile
from datasets import Dataset

from modeling_sim.data.corpora.alignments import label_centers, labels_from_segments, num_label_frames
from modeling_sim.data.corpora.contract import CorpusInfo, make_dataset, size_of_split
from modeling_sim.files import follow_umask, temporary_folder

INFO = CorpusInfo(
    description="Syllables from a formant synthesizer, with the exact generating factors of every frame.",
    license="apache-2.0",
    generated=True,
    splits=("train", "test"),
)


# Part of the cache key: increment it when the same settings give different rows.
_VERSION = 2


_SAMPLING_RATE = 16_000


# F1 to F3 in Hz of vowels of a male speaker (Peterson and Barney 1952, rounded).
_VOWELS = {
    "a": (730, 1090, 2440),
    "i": (270, 2290, 3010),
    "u": (300, 870, 2240),
    "e": (530, 1840, 2480),
    "o": (570, 840, 2410),
}


# Formants above F3 hardly change in speech; these are of a uniform tube of 17.5 cm.
_HIGHER_FORMANTS = (3500, 4500, 5500, 6500)


_BANDWIDTHS = (60, 90, 130, 180, 250, 300, 400)


@dataclass(frozen=True)
class _Consonant:
    """Parameters of a consonant; times in seconds, frequencies in Hz, amplitudes relative to the vowel's voicing.

    The second formant at a vowel's onset is `locus + slope * (F2 of the vowel - locus)`, the locus equation of
    Lindblom (1963), with slopes of the order that Sussman et al. (1991) report for b, d, g.
    """

    stop: bool
    duration: float
    voicing: float
    locus: float
    slope: float
    f3: float
    noise: float = 0
    noise_time: float = 0
    noise_center: float = 0
    noise_width: float = 0

    @functools.cached_property
    def noise_filter(self) -> np.ndarray:
        """Second-order sections of the burst's or friction's band."""
        from scipy.signal import butter  # noqa: PLC0415 - takes a second

        band = (self.noise_center - self.noise_width / 2, self.noise_center + self.noise_width / 2)
        return butter(1, band, "bandpass", fs=_SAMPLING_RATE, output="sos")


_CONSONANTS = {
    #               stop   seconds voicing locus slope F3    noise seconds center width
    "b": _Consonant(True, 0.070, 0.0, 700, 0.80, 2200, 0.25, 0.008, 900, 1500),
    "d": _Consonant(True, 0.070, 0.0, 1800, 0.45, 2700, 0.35, 0.012, 3800, 1600),
    "g": _Consonant(True, 0.070, 0.0, 1900, 0.75, 2300, 0.45, 0.020, 2000, 700),
    "m": _Consonant(False, 0.075, 0.45, 900, 0.80, 2200),
    "n": _Consonant(False, 0.075, 0.45, 1700, 0.45, 2700),
    "s": _Consonant(False, 0.110, 0.0, 1800, 0.45, 2700, 0.30, 0.110, 5600, 1800),
}


_CLOSED_F1 = 220.0  # Hz, the first formant behind a closure


_TRANSITION = 0.045  # seconds from a consonant's formants to the vowel's


_VOICE_BAR = 0.12  # RMS of the hum of a closed tract, relative to vowels


_LOUDEST = -23.0  # RMS of the loudest speech, dB relative to full scale


@dataclass(frozen=True)
class _Settings:
    """Everything that determines an utterance, except its split and its index."""

    num_speakers: int
    num_syllables: int
    vowels: tuple[str, ...]
    consonants: tuple[str, ...]
    noise_level: float
    seed: int

    def __post_init__(self) -> None:
        for name in ("num_speakers", "num_syllables"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; give at least 1.")
        for name, known in (("vowels", _VOWELS), ("consonants", _CONSONANTS)):
            unknown = [phone for phone in getattr(self, name) if phone not in known]
            if unknown or not getattr(self, name):
                raise ValueError(f"`{name}` is {getattr(self, name)}; choose some of {', '.join(known)}.")

    @property
    def phones(self) -> list[str]:
        return ["SIL", *self.consonants, *self.vowels]

    @property
    def syllables(self) -> list[str]:
        return [consonant + vowel for consonant in self.consonants for vowel in self.vowels]


def load(
    *,
    split: str = "train",
    num_train: int = 512,
    num_test: int = 128,
    num_speakers: int = 8,
    num_syllables: int = 4,
    vowels: Sequence[str] = ("a", "i", "u"),
    consonants: Sequence[str] = ("b", "d", "g"),
    noise_level: float = -60.0,
    seed: int = 0,
    cache: bool = True,
) -> Dataset:
    """Generates a split, or reads it from the cache of `datasets` (`HF_DATASETS_CACHE`).

    Args:
        split: "train" or "test"; both have all speakers.
        num_train: Utterances of the training split.
        num_test: Utterances of the test split.
        num_speakers: Number of speakers; utterance i has speaker i modulo this number.
        num_syllables: Syllables per utterance. The default, 4, gives 1.3 to 1.6 s, enough for crops of 20480 samples.
        vowels: Some of a i u e o.
        consonants: Some of b d g m n s.
        noise_level: White background noise, RMS in dB relative to full scale; speech has between -33 and -23.
        seed: Seed of all random draws.
        cache: Keep the split on disk under a hash of these settings, 2 MB per minute.

    Raises:
        ValueError: A setting is out of range, or the split is unknown.
    """
    size = size_of_split("synthetic_syllables", split, num_train=num_train, num_test=num_test)
    settings = _Settings(num_speakers, num_syllables, tuple(vowels), tuple(consonants), float(noise_level), seed)
    if not cache:
        return _make_split(settings, split, size)
    key = json.dumps([_VERSION, asdict(settings), split, size], sort_keys=True)
    folder = (
        Path(datasets.config.HF_DATASETS_CACHE) / "synthetic_syllables" / hashlib.sha256(key.encode()).hexdigest()[:20]
    )
    if not folder.is_dir():
        _save(_make_split(settings, split, size), folder)
    return datasets.load_from_disk(str(folder))


def _save(dataset: Dataset, folder: Path) -> None:
    """Writes a data set completely or not at all; if two processes write it, the folder of the first one is kept."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary_folder(folder) as temporary:
            dataset.save_to_disk(str(temporary))
            follow_umask(temporary)
            temporary.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _make_split(settings: _Settings, split: str, size: int) -> Dataset:
    rows = [_make_utterance(settings, split, index) for index in range(size)]
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
    speakers = [str(speaker) for speaker in range(settings.num_speakers)]
    labels = {"speaker_id": speakers}
    sequence_labels = {"phones": settings.phones}
    per_syllable = {
        "syllable": settings.syllables,
        "consonant": list(settings.consonants),
        "vowel": list(settings.vowels),
    }
    if settings.num_syllables == 1:
        labels |= per_syllable
        columns |= {name: [row[0] for row in columns[name]] for name in per_syllable}
    else:
        sequence_labels |= per_syllable
    return make_dataset(columns, labels=labels, sequence_labels=sequence_labels)


def _speaker(settings: _Settings, speaker: int) -> tuple[float, tuple[float, float]]:
    """Vocal-tract length of a speaker, and lowest and highest pitch in Hz; every length has both pitch ranges."""
    num_lengths = (settings.num_speakers + 1) // 2
    lengths = np.linspace(0.85, 1.15, num_lengths) if num_lengths > 1 else np.ones(1)
    return float(lengths[speaker // 2]), ((90.0, 140.0), (150.0, 230.0))[speaker % 2]


def _make_utterance(settings: _Settings, split: str, index: int) -> dict[str, Any]:
    """Generates one row: draws the factors, plans the times of the phones, and synthesizes."""
    generator = np.random.default_rng([settings.seed, INFO.splits.index(split), index])
    speaker = index % settings.num_speakers
    vocal_tract_length, pitch_range = _speaker(settings, speaker)
    f0 = float(generator.uniform(*pitch_range))
    gain = float(generator.uniform(-10, 0))
    vowels = generator.integers(len(settings.vowels), size=settings.num_syllables)
    consonants = generator.integers(len(settings.consonants), size=settings.num_syllables)

    plan = _lay_out([settings.consonants[c] for c in consonants], [settings.vowels[v] for v in vowels], generator)
    voiced = _amplitude(plan, plan.voicing) + _amplitude(plan, plan.voice_bar) > 0
    pitch = _pitch_track(voiced, f0, settings.num_syllables, generator)
    formants = _formant_tracks(plan, vocal_tract_length)
    speech = _synthesize(plan, pitch, formants, generator)
    speech *= 10 ** ((_LOUDEST + gain) / 20) / np.sqrt(np.mean(speech**2))
    noise = 10 ** (settings.noise_level / 20) * generator.standard_normal(plan.num_samples)
    file = io.BytesIO()
    soundfile.write(file, np.clip(speech + noise, -1, 1), _SAMPLING_RATE, format="WAV", subtype="PCM_16")

    name = f"{split}-{index:06d}"
    centers = label_centers(num_label_frames(plan.num_samples)).astype(int)
    phones = np.array([settings.phones.index(phone) for phone in plan.phones])
    return {
        "id": name,
        "audio": {"path": f"{name}.wav", "bytes": file.getvalue()},
        "num_samples": plan.num_samples,
        "sampling_rate": _SAMPLING_RATE,
        "speaker_id": speaker,
        "phones": labels_from_segments(np.array(plan.phone_ends), phones, plan.num_samples),
        "syllable": consonants * len(settings.vowels) + vowels,
        "consonant": consonants,
        "vowel": vowels,
        "vocal_tract_length": vocal_tract_length,
        "f0": f0,
        "gain": gain,
        "f0_track": np.where(voiced[centers], pitch[centers], 0).astype(np.float32),
        "formants": list(formants[:3, centers].T.astype(np.float32)),
    }


@dataclass
class _Plan:
    """Time plan of an utterance. Breakpoints are interpolated linearly; all times are in samples."""

    phones: list[str] = field(default_factory=list)
    phone_ends: list[int] = field(default_factory=list)
    voicing: list[tuple[float, float]] = field(default_factory=list)  # time, amplitude of the glottal pulses
    voice_bar: list[tuple[float, float]] = field(default_factory=list)  # time, amplitude of the hum behind a closure
    formants: list[tuple[float, Sequence[float]]] = field(default_factory=list)  # time, F1 to F3 in Hz at length 1
    noises: list[tuple[int, _Consonant]] = field(default_factory=list)  # start of the burst or friction
    num_samples: int = 0

    def add(self, phone: str, seconds: float) -> tuple[int, int]:
        """Appends a phone; returns its start and end."""
        start = self.num_samples
        self.num_samples += round(seconds * _SAMPLING_RATE)
        self.phones.append(phone)
        self.phone_ends.append(self.num_samples)
        return start, self.num_samples


def _lay_out(consonants: Sequence[str], vowels: Sequence[str], generator: np.random.Generator) -> _Plan:
    """Plans silence, syllables of a consonant and a vowel, and silence."""
    plan = _Plan()
    transition, ramp = _TRANSITION * _SAMPLING_RATE, 0.010 * _SAMPLING_RATE
    plan.add("SIL", generator.uniform(0.10, 0.15))
    for number, (name, vowel) in enumerate(zip(consonants, vowels, strict=True)):
        consonant = _CONSONANTS[name]
        target = np.array(_VOWELS[vowel]) * [*generator.uniform(0.94, 1.06, size=2), 1]
        onset = (_CLOSED_F1, consonant.locus + consonant.slope * (target[1] - consonant.locus), consonant.f3)
        seconds = generator.uniform(0.28, 0.33)

        closure, release = plan.add(name, consonant.duration)
        _, end = plan.add(vowel, seconds - consonant.duration)
        plan.formants += [
            (closure, onset),
            (release, onset),
            (release + transition, target),
            (end - transition, target),
        ]
        plan.noises.append((release if consonant.stop else closure, consonant))
        # Voicing starts after the burst, and the last vowel fades.
        voice = release + (consonant.noise_time if consonant.stop else 0) * _SAMPLING_RATE
        fade = 5 * ramp if number == len(vowels) - 1 else ramp
        before = 0 if number == 0 else consonant.voicing
        plan.voicing += [(closure, before), (closure + ramp, consonant.voicing), (voice, consonant.voicing)]
        plan.voicing += [(voice + 1.5 * ramp, 1), (end - fade, 1)]
        bar = _VOICE_BAR if consonant.stop else 0
        plan.voice_bar += [(closure, 0), (closure + ramp, bar), (release - ramp, bar), (release, 0)]
    plan.voicing.append((plan.num_samples, 0))
    plan.add("SIL", generator.uniform(0.10, 0.15))
    return plan


def _amplitude(plan: _Plan, breakpoints: Sequence[tuple[float, float]]) -> np.ndarray:
    """Linear interpolation between breakpoints, 0 outside, `(samples,)`."""
    times, amplitudes = zip(*breakpoints, strict=True)
    return np.interp(np.arange(plan.num_samples), times, amplitudes, left=0, right=0)


def _pitch_track(voiced: np.ndarray, f0: float, num_syllables: int, generator: np.random.Generator) -> np.ndarray:
    """Pitch in Hz, `(samples,)`: falls, and rises with each syllable; `f0` is the geometric mean of the voiced part."""
    time = np.linspace(0, 1, len(voiced))
    swing = np.sin(2 * np.pi * (num_syllables * time + generator.uniform()))
    octaves = -0.2 * time + 0.04 * swing
    return f0 * 2 ** (octaves - octaves[voiced].mean())


def _formant_tracks(plan: _Plan, vocal_tract_length: float) -> np.ndarray:
    """F1 to F7 in Hz, `(7, samples)`."""
    times, targets = zip(*plan.formants, strict=True)
    samples = np.arange(plan.num_samples)
    tracks = np.empty((len(_BANDWIDTHS), plan.num_samples))
    tracks[:3] = [np.interp(samples, times, values) for values in np.array(targets).T]
    tracks[3:] = np.array(_HIGHER_FORMANTS)[:, None]
    return tracks / vocal_tract_length


def _resonate(samples: np.ndarray, frequency: np.ndarray, bandwidth: float) -> np.ndarray:
    """Klatt's second-order resonator with a gain of 1 at 0 Hz, with a frequency in Hz per sample.

    `y[n] = b[n] x[n] - c1[n] y[n-1] - c2 y[n-2]` is a triangular system with three bands, which BLAS solves in C.
    """
    from scipy.linalg.blas import dtbsv  # noqa: PLC0415 - takes a second

    radius = np.exp(-np.pi * bandwidth / _SAMPLING_RATE)
    bands = np.ones((3, len(samples)), order="F")
    c1 = -2 * radius * np.cos(2 * np.pi * frequency / _SAMPLING_RATE)
    bands[1, :-1] = c1[1:]
    bands[2] = radius**2
    return dtbsv(2, bands, samples * (1 + c1 + radius**2), lower=1, diag=1)


def _synthesize(plan: _Plan, pitch: np.ndarray, formants: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The waveform, `(samples,)`, with vowels at an RMS of 1."""
    from scipy.signal import lfilter, sosfilt  # noqa: PLC0415 - takes a second

    # A band-limited pulse train in closed form: the sum of 2 cos(h phase) over its harmonics h.
    half_phase = np.pi * np.cumsum(pitch) / _SAMPLING_RATE
    order = 2 * int(0.475 * _SAMPLING_RATE / pitch.max()) + 1
    below = np.sin(half_phase)
    pulses = (
        np.divide(np.sin(order * half_phase), below, out=np.full_like(below, order), where=np.abs(below) > 1e-6) - 1
    )
    # Glottal flow falls by 12 dB per octave and lip radiation adds 6 dB per octave: one pole remains.
    flow = lfilter([1], [1, -0.97], pulses)
    voicing = _amplitude(plan, plan.voicing)
    speech = voicing * (flow + 0.3 * generator.standard_normal(len(flow)))

    for track, bandwidth in zip(formants, _BANDWIDTHS, strict=True):
        speech = _resonate(speech, track, bandwidth)
    speech /= np.sqrt(np.mean(speech[voicing == 1] ** 2))

    # Only a hum passes through the walls of a closed tract.
    hum = _resonate(flow, np.full_like(flow, _CLOSED_F1), _BANDWIDTHS[0])
    speech += _amplitude(plan, plan.voice_bar) * hum / np.sqrt(np.mean(hum**2))

    # Bursts and friction arise at the constriction, so they bypass the tract behind it.
    for start, consonant in plan.noises:
        length = round(consonant.noise_time * _SAMPLING_RATE)
        if length:
            noise = sosfilt(consonant.noise_filter, generator.standard_normal(length))
            noise *= np.exp(-3 * np.arange(length) / length) if consonant.stop else np.hanning(length + 2)[1:-1]
            speech[start : start + length] += consonant.noise * noise / np.sqrt(np.mean(noise**2))
    return speech
