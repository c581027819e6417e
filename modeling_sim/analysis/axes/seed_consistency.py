"""Do two models have the same axes? Correlations of matched dimensions, and their upper bound for any linear map."""

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
        first: `(matches,)`, dimensions of the first code, ascending.
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
        rotated: `(rotations, matches)`, |correlations| with matched random axes of the second code: the level that
            matching many dimensions reaches by chance.
        pairs: The matched dimensions.
        multiple: `(2, matches)`, multiple correlations of `pairs.first` with all dimensions of the second code, and of
            `pairs.second` with all of the first.
    """

    matched: float
    rotated: np.ndarray
    pairs: MatchedDimensions
    multiple: np.ndarray

    @property
    def linear(self) -> float:
        """Mean of `multiple`, the upper bound of `matched`: the information that both codes share, on any axes."""
        return float(self.multiple.mean())

    @property
    def share(self) -> float:
        """`matched` divided by `linear`: 1 if the axes agree as much as the codes do; 0 if the codes share nothing."""
        return self.matched / self.linear if self.linear > 0 else 0.0


def mean_correlation_coefficient(first: np.ndarray, second: np.ndarray) -> MatchedDimensions:
    """Mean |correlation| of the dimensions of two codes under the best one-to-one match (Hungarian algorithm).

    If one of the codes is the known sources, it is the MCC of nonlinear independent component analysis. Constant
    dimensions have correlation 0.

    Args:
        first: `(items, dims)`.
        second: `(items, other dims)`, of the same items. If the numbers of dims differ, the smaller number is matched.

    Raises:
        ValueError: A value is not finite, or the numbers of items differ.
    """
    first, second = _checked(first, second)
    correlations = np.abs(standardized(first).T @ standardized(second)) / len(first)
    rows, columns = linear_sum_assignment(correlations, maximize=True)
    matched = correlations[rows, columns].clip(max=1.0)
    return MatchedDimensions(float(matched.mean()), rows, columns, matched)


def seed_consistency(
    first: np.ndarray, second: np.ndarray, *, num_rotations: int = 5, seed: int = 0
) -> SeedConsistency:
    """Whether two models, for example of two seeds, have the same axes; needs no labels.

    Models may encode the same information on different axes. Therefore the mean |correlation| of matched dimensions is
    returned with the multiple correlations of the same dimensions with the other code (the square root of R^2, in both
    directions), which do not depend on a rotation of that code. Redundant codes match well on any axes: compare with
    `rotated`. Give many times more items than dims, because multiple correlations are computed on the items that they
    are fitted on.

    Args:
        first: `(items, dims)`.
        second: `(items, other dims)`, of the same items.
        num_rotations: Number of random rotations of the second code.
        seed: Seed of the rotations.

    Raises:
        ValueError: See `mean_correlation_coefficient`; or there are not more items than dims, so that a linear map of
            one code fits anything.
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
    """Correlation `(dims,)` of each target with its best linear prediction from the codes."""
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
