"""Labels for single dimensions: the property that each correlates with more than random axes do."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from modeling_sim.analysis._arrays import random_rotation
from modeling_sim.analysis.axes.best_dimensions import best_dimensions
from modeling_sim.analysis.gaussianity import generator_of, standardized


@dataclass(frozen=True)
class DimensionLabels:
    """Outcome of `dimension_labels`.

    Args:
        labels: `(dims,)`, the property that each dimension is named after; `None` for no label.
        correlations: `(dims,)` by property, from 0 to 1; see `best_dimensions`.
        random_axes: Correlation of the best dimension of a random rotation, averaged over rotations, by property.
        limits: Correlation above which a dimension is significant, by property.
        num_rotations: Number of random rotations.
    """

    labels: list[str | None]
    correlations: dict[str, np.ndarray]
    random_axes: dict[str, float]
    limits: dict[str, float]
    num_rotations: int

    @property
    def leads(self) -> dict[str, np.ndarray]:
        """`correlations` minus `limits`, `(dims,)` by property; positive if significant."""
        return {name: values - self.limits[name] for name, values in self.correlations.items()}


def dimension_labels(
    codes: np.ndarray,
    properties: Mapping[str, np.ndarray],
    *,
    level: float = 0.05,
    smallest: float = 0.5,
    seed: int = 0,
) -> DimensionLabels:
    """Labels each dimension with the property whose correlation exceeds its limit most.

    The p-value of a dimension and a property is the fraction of the dimensions of random rotations of the same
    standardized space that correlate with the property at least as much. Over all dimensions and properties, the false
    discovery rate is held at `level` (Benjamini & Hochberg 1995): in a space whose axes are like random ones, the
    probability of any label is about `level`; in any other space, at most about that fraction of the labels is due to
    chance. Rotations use the same items as the space, so the test holds for any number of utterances and any dependence
    between items.

    Args:
        codes: `(items, dims)`, of utterances that the model was not trained on.
        properties: `(items,)` by name: floats are amounts, integers classes; amounts may be NaN.
        level: False discovery rate.
        smallest: Minimum correlation of a label. A weaker correlation may be significant, but it explains less than a
            quarter of the variance of the dimension, and something else may explain more.
        seed: Seed of the rotations.

    Raises:
        ValueError: See `best_dimensions`; there are no properties, or `level` is not in (0, 1).
    """
    if not properties or not 0 < level < 1:
        raise ValueError(
            f"give at least one of `properties` ({len(properties)}), and a `level` in (0, 1), not {level}."
        )
    correlations = best_dimensions(codes, properties).correlations
    names, dims = list(properties), np.shape(codes)[1]
    # Enough rotations that the smallest p-value, 1 / (rotations * dims + 1), passes the strictest test, level / tests.
    num_rotations = math.ceil(len(names) / level)
    generator, points = generator_of(seed, "rotations"), standardized(np.asarray(codes))
    null = np.empty((len(names), num_rotations, dims))
    for number in range(num_rotations):
        rotated = standardized(points @ random_rotation(dims, generator))
        found = best_dimensions(rotated, properties).correlations
        null[:, number] = [found[name] for name in names]
    pooled = np.sort(null.reshape(len(names), -1), axis=1)
    own = np.array([correlations[name] for name in names])
    reached = np.stack([np.searchsorted(row, values) for row, values in zip(pooled, own, strict=True)])
    ps = (pooled.shape[1] - reached + 1) / (pooled.shape[1] + 1)
    steps = level * np.arange(1, ps.size + 1) / ps.size
    passed = np.flatnonzero(np.sort(ps, axis=None) <= steps)
    largest_p = steps[passed[-1]] if len(passed) else steps[0]
    # The largest correlation of random axes whose p-value is too large.
    limits = pooled[:, pooled.shape[1] - math.floor(largest_p * (pooled.shape[1] + 1) + 1e-9)]
    leads = np.where(own >= smallest, own - limits[:, None], -1.0)
    best = leads.argmax(axis=0)
    return DimensionLabels(
        labels=[names[name] if leads[name, dim] > 0 else None for dim, name in enumerate(best)],
        correlations=correlations,
        random_axes={name: float(rows.max(axis=1).mean()) for name, rows in zip(names, null, strict=True)},
        limits={name: float(limit) for name, limit in zip(names, limits, strict=True)},
        num_rotations=num_rotations,
    )
