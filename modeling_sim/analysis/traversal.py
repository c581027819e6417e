"""Traversal: does moving one dimension of the latents change one property of the sound, and nothing else?"""

from dataclasses import dataclass

import numpy as np

from .intervals import Interval, bootstrap_statistic


@dataclass(frozen=True)
class Traversal:
    """Outcome of `traversal`.

    Args:
        effects: `(directions, properties)`, median change over items, by the property's spread; 0 where no item has it.
        selectivity: Share of all effects that is the largest one of its direction: 1 if each direction changes one
            property alone, `1 / properties` if each changes all alike. With an interval over items.
        selectivity_of_directions: `(directions,)`, the same of each; NaN for one that changes nothing.
    """

    effects: np.ndarray
    selectivity: Interval
    selectivity_of_directions: np.ndarray


def traversal(changes: np.ndarray, spread: np.ndarray, *, resamples: int = 1000, seed: int = 0) -> Traversal:
    """How selectively directions of the latent space change measured properties.

    Properties that hang together, as the brightness of a vowel and its formants, change together whatever is moved, and
    an effect that is nothing but scatter falls on one property more than on others. So the null is not `1 / properties`
    but what the same function says of random directions of the same length: give their changes to a second call.

    Args:
        changes: `(directions, items, properties)`, change of each property of each item by a move; NaN where an item
            does not have the property.
        spread: `(properties,)`, standard deviation of each property among items that are not moved, to compare
            properties of different units. One that does not vary, or NaN, is left out.
        resamples: Draws of items for the interval.
        seed: Of the draws.

    Raises:
        ValueError: Shapes disagree, or nothing changes.
    """
    changes, spread = np.asarray(changes, dtype=np.float64), np.asarray(spread, dtype=np.float64)
    if changes.ndim != 3 or not changes.size or spread.shape != changes.shape[2:]:
        raise ValueError(
            f"`changes` is of shape {changes.shape} and `spread` of {spread.shape}; give (directions, items, "
            "properties) and (properties,)."
        )
    varies = spread > 0
    relative = np.divide(changes, spread, out=np.zeros_like(changes), where=varies)

    def effects_of(items: np.ndarray) -> np.ndarray:
        chosen = np.ma.masked_invalid(relative[:, items])
        return np.asarray(np.ma.median(chosen, axis=1).filled(0.0))

    def selectivity_of(items: np.ndarray) -> float:
        sizes = np.abs(effects_of(items))
        # A draw in which nothing changes singles nothing out.
        return float(sizes.max(axis=1).sum() / sizes.sum()) if sizes.any() else 1 / sizes.shape[1]

    effects = effects_of(np.arange(changes.shape[1]))
    sizes = np.abs(effects)
    if not sizes.any():
        raise ValueError("`changes` holds no change of any property that varies; is the decoder constant?")
    total = sizes.sum(axis=1)
    return Traversal(
        effects,
        bootstrap_statistic(selectivity_of, np.arange(changes.shape[1]), resamples=resamples, seed=seed),
        np.divide(sizes.max(axis=1), total, out=np.full(len(total), np.nan), where=total > 0),
    )
