"""Traversal: does changing the best dimension for a property of the sound change only that property?"""

from dataclasses import dataclass

import numpy as np

from ._arrays import deviations
from .intervals import Interval, bootstrap_statistic


@dataclass(frozen=True)
class Traversal:
    """Outcome of `traversal`.

    Args:
        effects: `(directions, properties)`, median change over items, divided by `spread`; 0 if no item has the
            property.
        selectivity: Mean over directions of the target's share of all effects: 1 if each direction only changes its
            target, `1 / properties` if it changes all properties equally. With an interval over items.
        selectivity_of_directions: `(directions,)`, the share for each direction; 0 if it changes nothing.
    """

    effects: np.ndarray
    selectivity: Interval
    selectivity_of_directions: np.ndarray


def traversal(
    changes: np.ndarray, spread: np.ndarray, targets: np.ndarray, *, resamples: int = 1000, seed: int = 0
) -> Traversal:
    """How selectively each direction of the latent space changes its target property.

    Correlated properties, such as the brightness of a vowel and its formants, always change together. The null is
    therefore not `1 / properties`, but the selectivity of random axes that are chosen by the same rule: pass their
    changes to a second call.

    Args:
        changes: `(directions, items, properties)`, change of each property of each item when the direction is changed;
            NaN if an item does not have the property.
        spread: `(properties,)`, standard deviation of each property over original utterances, to compare properties of
            different units. A property with 0 or NaN is skipped.
        targets: `(directions,)`, index of the property that each direction should change.
        resamples: Number of resamples of items for the interval.
        seed: Seed of the resamples.

    Raises:
        ValueError: Shapes disagree, a target is out of range or does not vary, or nothing changes.
    """
    changes, spread = np.asarray(changes, dtype=np.float64), np.asarray(spread, dtype=np.float64)
    targets = np.asarray(targets)
    if changes.ndim != 3 or not changes.size or spread.shape != changes.shape[2:] or targets.shape != changes.shape[:1]:
        raise ValueError(
            f"`changes` has shape {changes.shape}, `spread` {spread.shape} and `targets` {targets.shape}; give "
            "(directions, items, properties), (properties,) and (directions,)."
        )
    if not np.isin(targets, np.arange(len(spread))).all():
        raise ValueError(f"`targets` are {targets.tolist()}; give indices of properties, 0 to {len(spread) - 1}.")
    varies = spread > 0
    if not varies[targets].all():
        raise ValueError(f"`targets` has properties without spread: {np.unique(targets[~varies[targets]]).tolist()}.")
    relative = np.divide(changes, spread, out=np.zeros_like(changes), where=varies)

    def effects_of(items: np.ndarray) -> np.ndarray:
        chosen = np.ma.masked_invalid(relative[:, items])
        return np.asarray(np.ma.median(chosen, axis=1).filled(0.0))

    def shares_of(effects: np.ndarray) -> np.ndarray:
        sizes = np.abs(effects)
        total = sizes.sum(axis=1)
        return np.divide(sizes[np.arange(len(sizes)), targets], total, out=np.zeros(len(sizes)), where=total > 0)

    items = np.arange(changes.shape[1])
    effects = effects_of(items)
    if not effects.any():
        raise ValueError("`changes` is 0 for every property that varies; is the decoder constant?")
    return Traversal(
        effects,
        bootstrap_statistic(
            lambda drawn: float(shares_of(effects_of(drawn)).mean()), items, resamples=resamples, seed=seed
        ),
        shares_of(effects),
    )


def most_telling(coordinates: np.ndarray, properties: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The coordinate with the largest absolute rank correlation with each property, and that correlation.

    The best of many coordinates correlates with anything by chance: the best of 128 unrelated coordinates has about
    0.17 over 256 items, and 0.44 over 40.

    Args:
        coordinates: `(items, coordinates)`.
        properties: `(items, properties)`, NaN if an item does not have the property.

    Returns:
        Indices of coordinates `(properties,)`, -1 for a property that does not vary or that fewer than 3 items have,
        and their Spearman correlations `(properties,)`, NaN for these properties.

    Raises:
        ValueError: The numbers of items differ, or a coordinate is NaN.
    """
    coordinates, properties = np.asarray(coordinates, dtype=np.float64), np.asarray(properties, dtype=np.float64)
    if coordinates.ndim != 2 or properties.ndim != 2 or len(coordinates) != len(properties):
        raise ValueError(
            f"`coordinates` has shape {coordinates.shape} and `properties` {properties.shape}; give (items, "
            "coordinates) and (items, properties) of the same items."
        )
    if not np.isfinite(coordinates).all():
        raise ValueError("`coordinates` contains values that are not finite.")
    chosen, correlations = np.full(properties.shape[1], -1), np.full(properties.shape[1], np.nan)
    for number, values in enumerate(properties.T):
        has = np.isfinite(values)
        if has.sum() >= 3 and np.ptp(values[has]) > 0:
            of_coordinates = rank_correlations(coordinates[has], values[has])
            chosen[number] = np.abs(of_coordinates).argmax()
            correlations[number] = of_coordinates[chosen[number]]
    return chosen, correlations


def oracle_directions(coordinates: np.ndarray, properties: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Directions in which the latents change if one property changes and the others do not.

    Coordinates are regressed on all properties at once, by least squares: each row of coefficients is the change of the
    latents per unit of one property, with the others fixed. It does not depend on a choice of axes, so it shows the
    limit of the decoder: if even this direction changes other properties, the decoder is the limit and not the axes.

    Args:
        coordinates: `(items, dims)`, of comparable scales.
        properties: `(items, properties)`, NaN if an item does not have the property. Items that lack a varying property
            are skipped.

    Returns:
        Directions `(targets, dims)` of length 1, and the indices of their properties `(targets,)`. There is none for a
        property that does not vary or does not affect the coordinates.

    Raises:
        ValueError: The numbers of items differ, or there are not more complete items than properties.
    """
    coordinates, properties = np.asarray(coordinates, dtype=np.float64), np.asarray(properties, dtype=np.float64)
    if coordinates.ndim != 2 or properties.ndim != 2 or len(coordinates) != len(properties):
        raise ValueError(
            f"`coordinates` has shape {coordinates.shape} and `properties` {properties.shape}; give (items, dims) "
            "and (items, properties) of the same items."
        )
    varies = np.array([len(np.unique(values[np.isfinite(values)])) > 1 for values in properties.T])
    known = properties[:, varies]
    complete = np.isfinite(known).all(axis=1)
    if complete.sum() <= known.shape[1] + 1:
        raise ValueError(f"`properties` are complete for {complete.sum()} items; give more than {known.shape[1] + 1}.")
    known, latents = known[complete], coordinates[complete]
    known, latents = known - known.mean(axis=0), latents - latents.mean(axis=0)
    changes = np.linalg.lstsq(known / deviations(known), latents, rcond=None)[0]
    lengths = np.linalg.norm(changes, axis=1)
    found = lengths > 0
    return changes[found] / lengths[found, None], np.flatnonzero(varies)[found]


def rank_correlations(coordinates: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each coordinate with the values, `(coordinates,)`; 0 if either is constant.

    Args:
        coordinates: `(items, coordinates)`, finite.
        values: `(items,)`, finite.
    """
    from scipy.stats import rankdata  # noqa: PLC0415 - of the extra `analysis`

    of_coordinates, of_values = rankdata(coordinates, axis=0), rankdata(values)
    of_coordinates, of_values = of_coordinates - of_coordinates.mean(axis=0), of_values - of_values.mean()
    scale = np.sqrt((of_coordinates**2).sum(axis=0) * (of_values**2).sum())
    return np.divide(of_values @ of_coordinates, scale, out=np.zeros(len(scale)), where=scale > 0)
