"""How well a single dimension predicts each property, compared with random axes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from modeling_sim.analysis.concentration import RotationGap, rotation_gaps
from modeling_sim.analysis.disentanglement import (
    dci,
    mutual_information_gap,
    separated_attribute_predictability,
)
from modeling_sim.analysis.gaussianity import checked_points


@dataclass(frozen=True)
class BestDimensions:
    """Outcome of `best_dimensions`, by property.

    Args:
        dimension: The dimension whose ranks correlate most with the property.
        correlation: Correlation of that dimension, from 0 to 1.
        correlations: `(dims,)`, correlation of every dimension.
    """

    dimension: dict[str, int]
    correlation: dict[str, float]
    correlations: dict[str, np.ndarray]


def best_dimensions(codes: np.ndarray, factors: Mapping[str, np.ndarray]) -> BestDimensions:
    """For each property, the dimension with the largest rank correlation.

    For amounts it is the absolute value of Spearman's rank correlation. For classes it is the correlation ratio of
    ranks: the square root of the fraction of the variance of a dimension's ranks that is between classes. For two
    classes both are equal.

    The best of many dimensions correlates with anything by chance: compare with random axes, as `axis_gaps` does.

    Args:
        codes: `(items, dims)`.
        factors: `(items,)` by name: floats are amounts, of which NaN are skipped; other types are classes.

    Raises:
        ValueError: A code is not finite, lengths disagree, a property is constant, or it has more classes than half the
            number of items, so that any dimension would correlate with it.
    """
    codes = checked_points(codes, "codes")
    ranks: dict[bytes, np.ndarray] = {}  # by the items without NaN, which several factors share
    found = {}
    for name, factor in factors.items():
        values = np.asarray(factor)
        if values.shape != (len(codes),):
            raise ValueError(
                f"factor {name!r} has shape {values.shape}; give one value for each of {len(codes)} items."
            )
        has = np.isfinite(values) if values.dtype.kind == "f" else np.ones(len(codes), dtype=bool)
        if has.tobytes() not in ranks:
            ranks[has.tobytes()] = _unit(rankdata(codes[has], axis=0))
        found[name] = _agreement(ranks[has.tobytes()], values[has], name)
    dimension = {name: int(values.argmax()) for name, values in found.items()}
    return BestDimensions(dimension, {name: float(values.max()) for name, values in found.items()}, found)


def _agreement(ranks: np.ndarray, values: np.ndarray, name: str) -> np.ndarray:
    """Correlation `(dims,)` of ranks, of mean 0 and length 1 in each column, with amounts or classes."""
    if len(values) < 3 or (values == values[0]).all():
        raise ValueError(f"factor {name!r} is the same for all {len(values)} items; remove it.")
    if values.dtype.kind == "f":
        return np.abs(_unit(rankdata(values)[:, None])[:, 0] @ ranks)
    _, classes, counts = np.unique(values, return_inverse=True, return_counts=True)
    if 2 * len(counts) > len(values):
        raise ValueError(
            f"factor {name!r} has {len(counts)} classes in {len(values)} items; give floats for an amount, or at "
            "least 2 items per class on average."
        )
    members = np.eye(len(counts))[classes] / np.sqrt(counts)
    return np.sqrt(((members.T @ ranks) ** 2).sum(axis=0)).clip(max=1.0)


def _unit(values: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and length 1; 0 where constant."""
    values = values - values.mean(axis=0)
    length = np.linalg.norm(values, axis=0)
    return np.divide(values, length, out=np.zeros_like(values), where=length > 0)


def axis_scores(
    codes: np.ndarray,
    factors: Mapping[str, np.ndarray],
    groups: np.ndarray | None = None,
    properties: Mapping[str, np.ndarray] | None = None,
) -> dict[str, float]:
    """The scores of a code that depend on its axes, by name.

    These are "dci_disentanglement", "dci_completeness", "mutual_information_gap",
    "separated_attribute_predictability", "best_NAME" of each factor and property, and their mean, "best_dimension".

    Args:
        codes: `(items, dims)`.
        factors: At least 2, as in `best_dimensions`, without NaN.
        groups: `(items,)`, utterances, as in `disentanglement`.
        properties: Properties for which only the best dimension is measured, because they depend on the factors, as a
            formant depends on the vowel.

    Raises:
        ValueError: See `dci`.
    """
    outcome = dci(codes, factors, groups=groups)
    best = best_dimensions(codes, {**factors, **(properties or {})}).correlation
    return {
        "dci_disentanglement": outcome.disentanglement,
        "dci_completeness": outcome.completeness,
        "mutual_information_gap": mutual_information_gap(codes, factors).gap,
        "separated_attribute_predictability": separated_attribute_predictability(codes, factors, groups=groups).gap,
        "best_dimension": float(np.mean(list(best.values()))),
    } | {f"best_{name}": value for name, value in best.items()}


def axis_gaps(
    codes: np.ndarray,
    factors: Mapping[str, np.ndarray],
    groups: np.ndarray | None = None,
    properties: Mapping[str, np.ndarray] | None = None,
    *,
    num_rotations: int = 5,
    seed: int = 0,
) -> dict[str, RotationGap]:
    """`axis_scores` of a code and of its random rotations, and the difference between them.

    Scores are not comparable between codes: a redundant code is disentangled on any axes, because it has many copies of
    each property. The differences are comparable.

    Args:
        codes: `(items, dims)`.
        factors: See `axis_scores`.
        groups: See `axis_scores`.
        properties: See `axis_scores`.
        num_rotations: See `rotation_gap`.
        seed: Seed of the rotations.

    Raises:
        ValueError: See `dci`.
    """
    return rotation_gaps(
        lambda axes: axis_scores(axes, factors, groups, properties), codes, num_rotations=num_rotations, seed=seed
    )
