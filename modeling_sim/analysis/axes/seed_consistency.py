"""Do two models have the same axes? Matched correlations of dimensions, next to what any linear map can match."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from modeling_sim.analysis._arrays import principal_axes
from modeling_sim.analysis.concentration import rotation_gaps
from modeling_sim.analysis.gaussianity import checked_points, standardized


@dataclass(frozen=True)
class MatchedDimensions:
    """Outcome of `mean_correlation_coefficient`.

    Args:
        value: Mean of `correlations`: 1 if every dimension has a counterpart, up to sign and scale.
        first: `(matches,)`, dimensions of the first code, in rising order.
        second: `(matches,)`, their counterparts in the second.
        correlations: `(matches,)`, |correlation| of each pair.
    """

    value: float
    first: np.ndarray
    second: np.ndarray
    correlations: np.ndarray


@dataclass(frozen=True)
class SeedConsistency:
    """Outcome of `seed_consistency`.

    Args:
        matched: Mean |correlation| of matched dimensions.
        rotated: `(rotations, matches)`, |correlations| with matched random axes of the second code: what the choice
            among many dimensions reaches by chance.
        pairs: The match.
        multiple: `(2, matches)`, multiple correlations of `pairs.first` with all dimensions of the second code, and of
            `pairs.second` with all of the first.
    """

    matched: float
    rotated: np.ndarray
    pairs: MatchedDimensions
    multiple: np.ndarray

    @property
    def linear(self) -> float:
        """Mean of `multiple`, the upper bound of `matched`: what both codes hold, on whatever axes."""
        return float(self.multiple.mean())

    @property
    def share(self) -> float:
        """`matched` by `linear`: 1 if axes agree as far as the codes do; 0 where the codes share nothing."""
        return self.matched / self.linear if self.linear > 0 else 0.0


def mean_correlation_coefficient(first: np.ndarray, second: np.ndarray) -> MatchedDimensions:
    """Mean |correlation| of the dimensions of two codes under the best one-to-one match (Hungarian algorithm).

    With known sources as one of the codes it is the MCC of nonlinear independent component analysis. Constant
    dimensions correlate with nothing.

    Args:
        first: `(items, dims)`.
        second: `(items, other dims)`, of the same items; of unlike numbers of dims, the fewer are matched.

    Raises:
        ValueError: A value is not finite, or the items are not as many.
    """
    first, second = _checked(first, second)
    correlations = np.abs(standardized(first).T @ standardized(second)) / len(first)
    rows, columns = linear_sum_assignment(correlations, maximize=True)
    matched = correlations[rows, columns].clip(max=1.0)
    return MatchedDimensions(float(matched.mean()), rows, columns, matched)


def seed_consistency(
    first: np.ndarray, second: np.ndarray, *, num_rotations: int = 5, seed: int = 0
) -> SeedConsistency:
    """Whether two models, as of two seeds, have the same axes: a test that needs no labels.

    Models may encode the same information on different axes. So the mean |correlation| of matched dimensions is given
    next to the multiple correlations of the same dimensions with the other code (the root of R^2, both ways), which no
    rotation of that code changes. Redundant codes match well on any axes: compare with `rotated`. Give many times more
    items than dims, as multiple correlations are of the items that they are fitted on.

    Args:
        first: `(items, dims)`.
        second: `(items, other dims)`, of the same items.
        num_rotations: Random rotations of the second code.
        seed: Seed of the rotations.

    Raises:
        ValueError: See `mean_correlation_coefficient`; or there are no more items than dims, so that a linear map of
            one code gives anything.
    """
    first, second = _checked(first, second)
    for name, codes in (("first", first), ("second", second)):
        if len(codes) <= codes.shape[1]:
            raise ValueError(
                f"`{name}` has {len(codes)} items of {codes.shape[1]} dims; give many more items than dims."
            )
    pairs = mean_correlation_coefficient(first, second)
    gaps = rotation_gaps(
        lambda axes: {str(n): value for n, value in enumerate(mean_correlation_coefficient(first, axes).correlations)},
        second,
        num_rotations=num_rotations,
        seed=seed,
    )
    rotated = np.stack([gap.rotated for gap in gaps.values()], axis=1)
    multiple = [_multiple_correlations(first, second)[pairs.first], _multiple_correlations(second, first)[pairs.second]]
    return SeedConsistency(pairs.value, rotated, pairs, np.stack(multiple))


def _multiple_correlations(targets: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Correlation `(dims,)` of each target with the best linear read-out of the codes."""
    points = torch.from_numpy(standardized(codes))
    axes, variances = principal_axes(points)
    varying = variances > 1e-9 * variances[0]
    white = points @ axes[:, varying] / variances[varying].sqrt()
    explained = (white.T @ torch.from_numpy(standardized(targets)) / len(points)).square().sum(dim=0)
    return explained.clamp(0.0, 1.0).sqrt().numpy()


def _checked(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = checked_points(first, "first"), checked_points(second, "second")
    if len(first) != len(second):
        raise ValueError(f"`first` has {len(first)} items and `second` {len(second)}; give the same items of both.")
    return first, second
