"""What the dimensions of a representation encode: labels with evidence, lag profiles, and frames to show.

Everything is measured on one split, which the models were not trained on, and cached.

If the factors that generated the speech are known, `right_labels` determines which labels are correct, by a rule that
was fixed before any label was inspected. On utterances that were not used for labels, the lead of a factor is its
correlation with the dimension minus that of random axes. A label is correct if the factor with the largest lead is one
that the label means (`COUNTERPARTS`), or if its lead exceeds that of such a factor by at most 0.05. Factors are pitch
and the first two formants of each voiced frame, whether a frame is voiced, its phone, and the gain and the vocal-tract
length of the utterance, with the values used for synthesis, not measured from the sound.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from datasets import Dataset
from scipy.stats import rankdata

from modeling_sim.analysis import FrameMoments, LinearTransform
from modeling_sim.analysis.axes.dimension_labels import DimensionLabels, dimension_labels
from modeling_sim.analysis.axes.transforms import lag_profiles
from modeling_sim.data.corpora.alignments import LABEL_HOP, LABEL_RATE, LABEL_WINDOW
from modeling_sim.data.corpora.contract import class_label, is_frame_label
from modeling_sim.evaluation.factors import rows_of, sound_at
from modeling_sim.evaluation.feature_store import Items

# Maximum number of items to collect evidence from: every rotation ranks them in all dimensions.
_MOST_ITEMS = 2000

# Classes that are not speech.
_NO_PHONES = ("SIL", "SPN", "sil", "spn", "")

# Minimum number of items with a property, for the property to be tested.
_FEWEST_ITEMS = 100

LAG_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)
"""Lags of the lag profile, next to those of the axes."""

COUNTERPARTS = {
    "pitch": {"f0"},
    "loudness": {"gain", "voiced"},
    "spectral tilt": {"F1", "F2"},
    "first formant": {"F1"},
    "second formant": {"F2"},
    "voicing": {"voiced"},
    "phone": {"phones"},
    "speaker": {"vocal_tract_length", "f0"},
}
"""Generating factors that each label means."""

_AS_GOOD = 0.05


@dataclass(frozen=True)
class Evidence:
    """Labels and statistics of the dimensions of one feature in one set of axes.

    Args:
        labels: `(dims,)`, the property that each dimension is labeled with, or `None`.
        directions: `(dims,)`, meaning of large values; empty for dimensions without a label.
        correlations: Correlations, `(dims,)` by property.
        random_axes: Mean correlation of the best dimension of a random rotation, by property.
        limits: Correlation that a label must exceed, by property; see `dimension_labels`.
        num_rotations: Number of random rotations.
        num_items: Number of measured frames.
        lags: Lags of the profiles, in seconds.
        profiles: Autocorrelations, `(dims, lags)`.
        means: Means, `(dims,)`.
        deviations: Standard deviations, `(dims,)`.
    """

    labels: list[str | None]
    directions: list[str]
    correlations: dict[str, list[float]]
    random_axes: dict[str, float]
    limits: dict[str, float]
    num_rotations: int
    num_items: int
    lags: list[float]
    profiles: list[list[float]]
    means: list[float]
    deviations: list[float]

    @property
    def num_dims(self) -> int:
        """Number of dimensions."""
        return len(self.labels)

    def order(self) -> list[int]:
        """Dimensions, those with a label and most evidence first."""
        leads = np.max([np.array(values) - self.limits[name] for name, values in self.correlations.items()], axis=0)
        return sorted(range(self.num_dims), key=lambda dim: (self.labels[dim] is None, -leads[dim]))

    def words(self, dim: int) -> str:
        """The label of a dimension with its evidence, as "pitch, |rho| = .80; random axes .40", or "no label"."""
        name = self.labels[dim]
        if name is None:
            return "no label"
        own, rotated = self.correlations[name][dim], self.random_axes[name]
        return f"{name}, |rho| = {short(own)}; random axes {short(rotated)}"

    def time_constant(self, dim: int) -> float:
        """Seconds after which the autocorrelation of a dimension falls below 1/e; infinite if it never does."""
        profile, lags = np.array(self.profiles[dim]), np.array(self.lags)
        below = np.flatnonzero(profile < np.exp(-1))
        if not len(below):
            return float("inf")
        last = below[0]
        before, start = (1.0, 0.0) if last == 0 else (profile[last - 1], lags[last - 1])
        return float(start + (before - np.exp(-1)) / (before - profile[last]) * (lags[last] - start))

    def as_dict(self) -> dict[str, object]:
        """The fields as JSON types."""
        return asdict(self)


def short(value: float) -> str:
    """A correlation without the leading zero, as ".80"."""
    return f"{value:.2f}".removeprefix("0") if 0 <= value < 1 else f"{value:.2f}"


def properties_at(dataset: Dataset, items: Items, label: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Properties of frames with sound: of the sound itself, and phones and speakers if the corpus has them.

    Args:
        dataset: The utterances; their audio is read.
        items: Frames of these utterances.
        label: Column of the items' labels.

    Returns:
        Positions of the items, `(chosen,)`, and their properties by name, `(chosen,)` each: floats are amounts, NaN if
        a sound has no pitch; integers are classes.
    """
    sound = sound_at(dataset, items)
    chosen = np.flatnonzero(np.isfinite(sound[:, 1]))
    is_phone = is_frame_label(dataset, label)
    if is_phone:
        classes = class_label(dataset, label)
        ignored = [number for number, name in enumerate(classes.names) if name in _NO_PHONES] if classes else []
        chosen = chosen[~np.isin(items.labels[chosen], ignored)]
    pitch, level, brightness, first, second = sound[chosen].T
    voiced = np.isfinite(pitch)
    found = {
        "pitch": pitch,
        "loudness": level,
        "spectral tilt": brightness,
        "first formant": np.where(voiced, first, np.nan),
        "second formant": np.where(voiced, second, np.nan),
        "voicing": voiced.astype(np.float64),
    }
    if is_phone:
        found["phone"] = items.labels[chosen]
    if len(np.unique(items.speakers[chosen])) > 1:
        found["speaker"] = items.speakers[chosen]
    return chosen, found


def _tested(properties: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Properties that vary and that enough items have."""
    kept = {}
    for name, values in properties.items():
        has = values[np.isfinite(values)]
        if len(has) >= _FEWEST_ITEMS and (has != has[0]).any():
            kept[name] = values
    return kept


def drawn_moments(count: int, seed: int) -> np.ndarray:
    """Positions of the items to collect evidence from, `(chosen,)` out of `count`, in order."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:_MOST_ITEMS])


def find_evidence(
    codes: np.ndarray,
    properties: Mapping[str, np.ndarray],
    classes: Mapping[str, Sequence[str]],
    moments: FrameMoments,
    hop: float,
    transform: LinearTransform | None,
    seed: int,
) -> Evidence:
    """Labels, lag profiles and scales of the dimensions of a feature.

    Args:
        codes: Values of the dimensions, `(items, dims)`.
        properties: `(items,)` each; see `properties_at`.
        classes: Names of the classes, for properties that are classes.
        moments: Statistical moments of the feature's frames, in its own axes.
        hop: Seconds from frame to frame.
        transform: Transform to the axes of `codes`; `None` for the feature's own.
        seed: Seed of draws and rotations.

    Raises:
        ValueError: There are too few frames with sound to test any property.
    """
    chosen = drawn_moments(len(codes), seed)
    codes = np.asarray(codes[chosen], dtype=np.float64)
    tested = _tested({name: values[chosen] for name, values in properties.items()})
    if not tested:
        raise ValueError(
            f"the split has {len(codes)} frames with sound; evidence needs {_FEWEST_ITEMS}: give more `minutes`, or a "
            "larger corpus."
        )
    outcome = dimension_labels(codes, tested, seed=seed)
    lags, profiles = lag_profiles(moments, transform)
    covariance, center = moments.covariance(), moments.center
    if transform is None:
        means, variances = center, covariance.diagonal()
    else:
        matrix = transform.matrix.double()
        means = (center - transform.center.double()) @ matrix
        variances = (matrix * (covariance @ matrix)).sum(dim=0)
    return Evidence(
        labels=outcome.labels,
        directions=[
            "" if name is None else direction(codes[:, dim], tested[name], name, classes.get(name, ()))
            for dim, name in enumerate(outcome.labels)
        ],
        correlations={name: [round(float(each), 4) for each in row] for name, row in outcome.correlations.items()},
        random_axes={name: round(value, 4) for name, value in outcome.random_axes.items()},
        limits={name: round(value, 4) for name, value in outcome.limits.items()},
        num_rotations=outcome.num_rotations,
        num_items=len(codes),
        lags=[lag * hop for lag in lags],
        profiles=[[round(float(each), 4) for each in row] for row in profiles],
        means=means.tolist(),
        deviations=variances.clamp(min=1e-12).sqrt().tolist(),
    )


def direction(values: np.ndarray, amounts: np.ndarray, name: str, classes: Sequence[str]) -> str:
    """Whether an amount increases with a dimension, or the classes at its extremes; both arguments are `(items,)`."""
    has = np.isfinite(amounts)
    ranks, amounts = rankdata(values[has]), amounts[has]
    if amounts.dtype.kind == "f":
        rises = np.corrcoef(ranks, rankdata(amounts))[0, 1] > 0
        if name == "voicing":
            return f"{'voiced' if rises else 'unvoiced'} where large"
        return "rises with it" if rises else "falls with it"
    known, counts = np.unique(amounts, return_counts=True)
    known = known[counts >= max(5, 0.005 * len(amounts))]
    order = known[np.argsort([-ranks[amounts == each].mean() for each in known])]
    names = [classes[each] if each < len(classes) else str(each) for each in order]
    few = min(3, len(names) // 2)
    return f"large in {', '.join(names[:few])}; small in {', '.join(names[::-1][:few])}" if few else ""


# ---------------------------------------------------------------------- labels where the truth is known


def planted_factors(dataset: Dataset, items: Items) -> dict[str, np.ndarray]:
    """The generating factors of some frames of `synthetic_syllables`, `(items,)` each."""
    rows = rows_of(dataset, items.utterances)
    frames = np.rint((items.seconds * LABEL_RATE - LABEL_WINDOW / 2) / LABEL_HOP).astype(int)
    tracks, formants = dataset["f0_track"][:], dataset["formants"][:]
    places = [
        (row, min(max(frame, 0), len(tracks[row]) - 1))
        for row, frame in zip(rows.tolist(), frames.tolist(), strict=True)
    ]
    f0 = np.array([tracks[row][frame] for row, frame in places], dtype=np.float64)
    voiced = f0 > 0
    first, second = np.array([formants[row][frame][:2] for row, frame in places], dtype=np.float64).T
    of_utterances = {
        name: np.array(dataset[name][:], dtype=np.float64)[rows] for name in ("gain", "vocal_tract_length")
    }
    return {
        "f0": np.where(voiced, f0, np.nan),
        "F1": np.where(voiced, first, np.nan),
        "F2": np.where(voiced, second, np.nan),
        "voiced": voiced.astype(np.float64),
        "phones": items.labels,
        **of_utterances,
    }


def right_labels(labels: Sequence[str | None], planted: DimensionLabels) -> list[bool | None]:
    """Whether each label is correct, `(dims,)`, by the rule at the top of this file; `None` without a label.

    Args:
        labels: Labels of the dimensions, `(dims,)`.
        planted: Correlations of the same dimensions with the generating factors, on other utterances.
    """
    leads = planted.leads
    return [
        None
        if name is None
        else max(float(leads[factor][dim]) for factor in COUNTERPARTS[name])
        >= max(float(lead[dim]) for lead in leads.values()) - _AS_GOOD
        for dim, name in enumerate(labels)
    ]
