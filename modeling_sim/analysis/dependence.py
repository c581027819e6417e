"""How much the dimensions of a latent depend on each other: total correlation in nats, 0 if they do not.

Total correlation is the KL divergence of a joint distribution to the product of its marginals (Watanabe 1960). Every
estimate of it from finite data is too high, the more so the more dimensions there are. Therefore it is returned with
the estimate of the same data after each dimension was shuffled independently.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from .gaussianity import checked_points, generator_of

# With more dimensions, the densities of `stratified_total_correlation` depend on a sample's own Gaussian alone.
MAX_STRATIFIED_DIMENSIONS = 16
# Number of samples for which the components of the mixture are evaluated at a time.
_CHUNK = 256


@dataclass(frozen=True)
class TotalCorrelation:
    """Outcome of `total_correlation` and `stratified_total_correlation`, in nats.

    Args:
        value: The estimate.
        null: Mean of the same estimator on data with every dimension shuffled independently: its bias if the true value
            is 0.
        corrected: `value - null`; about 0 for independent dimensions, and it may be negative.
        per_dimension: `corrected / dims`, to compare latents of different widths.
    """

    value: float
    null: float
    corrected: float
    per_dimension: float


def total_correlation(
    points: np.ndarray, *, copula: bool = False, shrinkage: float = 0.0, num_shuffles: int = 5, seed: int = 0
) -> TotalCorrelation:
    """Total correlation of the Gaussian with the points' covariance S, `(sum_j log S_jj - log |S|) / 2`.

    It only measures linear dependence, and is a lower bound of the true value if the marginals are normal. On n
    independent items with independent dimensions it is about `dims (dims - 1) / (4 n)`: 1.3 for 512 dimensions and
    50,000 items. Subtracting the null corrects this bias. Consecutive frames are not independent, so that the bias is
    larger than the null: use frames at least about 10 apart, and the same number for every model. A bootstrap repeats
    items, which increases the bias of each draw but not its null: its interval is only useful if the null is small
    compared with the value.

    Args:
        points: `(items, dims)`, with more items than dimensions.
        copula: Whether values are first replaced by the normal quantiles of their ranks. The result then does not
            change with monotone functions of a dimension, so outliers and non-normal marginals have no effect.
        shrinkage: Weight of the identity in the correlation matrix, which makes it invertible for rank-deficient
            points; it lowers the estimates, including the null.
        num_shuffles: Number of shuffles that the null is averaged over.
        seed: Seed of the shuffles.

    Raises:
        ValueError: A dimension is constant or depends linearly on others, so that the result is infinite; a value is
            not finite; an argument is out of its range.
    """
    points = checked_points(points, "points")
    items, dims = points.shape
    if not 0 <= shrinkage < 1:
        raise ValueError(f"`shrinkage` is {shrinkage}; give at least 0 and less than 1.")
    if items <= dims and not shrinkage:
        raise ValueError(
            f"`points` holds {items} items of {dims} dims, so their covariance is singular; give more items, "
            "project on fewer dims, or give a `shrinkage` above 0."
        )
    rows = np.ascontiguousarray(points.T, dtype=np.float64)
    rows = _unit_rows(_normal_scores(rows) if copula else rows)
    value = _gaussian_total_correlation(rows, shrinkage)
    return _with_null(
        value,
        lambda generator: _gaussian_total_correlation(generator.permuted(rows, axis=1), shrinkage),
        dims,
        num_shuffles,
        seed,
    )


def stratified_total_correlation(
    means: np.ndarray, log_variances: np.ndarray, *, max_items: int = 2000, num_shuffles: int = 3, seed: int = 0
) -> TotalCorrelation:
    """Total correlation of the aggregate posterior, the mixture of the Gaussians of all frames.

    It is the mean over samples z of `log q(z) - sum_j log q(z_j)`, where q is the mixture of N Gaussians. The Gaussian
    that z was drawn from has weight 1 / N, and a random subset represents all others: the simplest form of the
    stratified weights of Chen et al. (2018, appendix C). If N is at most `max_items`, all Gaussians are used, and q is
    exact. The estimate includes nonlinear dependence.

    If few Gaussians have density at z, its own Gaussian makes `log q(z)` too high, and a subset without its neighbors
    makes it too low. This bias is larger for the null, because shuffled Gaussians are further apart: `corrected`
    underestimates dependence, by half for 16 correlated dimensions and 2000 items. The bias increases with the number
    of dimensions and with smaller variances; if the null is about as large as the value, use fewer dimensions or more
    items.

    Args:
        means: `(frames, dims)`, at most 16 dims, for example those with the largest KL divergence.
        log_variances: Natural logarithms, `(frames, dims)`.
        max_items: Maximum number of Gaussians, drawn if there are more; the cost is quadratic in it.
        num_shuffles: Number of shuffles that the null is averaged over; each mean is shuffled together with its
            variance.
        seed: Seed of samples, draws and shuffles.

    Raises:
        ValueError: There are more than 16 dims, shapes disagree, a value is not finite, or an argument is out of range.
    """
    means = checked_points(means, "means").astype(np.float64)
    log_variances = checked_points(log_variances, "log_variances").astype(np.float64)
    if means.shape != log_variances.shape:
        raise ValueError(f"`means` has shape {means.shape} but `log_variances` {log_variances.shape}; give the same.")
    dims = means.shape[1]
    if dims > MAX_STRATIFIED_DIMENSIONS:
        raise ValueError(
            f"`means` has {dims} dims, but densities estimated from samples are meaningless above "
            f"{MAX_STRATIFIED_DIMENSIONS}; take a block of the dims, or `total_correlation`."
        )
    if max_items < 2:
        raise ValueError(f"`max_items` is {max_items}; give at least 2.")

    def estimate(of_means: np.ndarray, of_log_variances: np.ndarray, generator: np.random.Generator) -> float:
        chosen = generator.permutation(len(means))[:max_items]
        return _mixture_total_correlation(of_means[chosen], of_log_variances[chosen], len(means), generator)

    def shuffled(generator: np.random.Generator) -> float:
        order = generator.permuted(np.tile(np.arange(len(means))[:, None], dims), axis=0)
        return estimate(
            np.take_along_axis(means, order, axis=0), np.take_along_axis(log_variances, order, axis=0), generator
        )

    value = estimate(means, log_variances, generator_of(seed, "estimate"))
    return _with_null(value, shuffled, dims, num_shuffles, seed)


def _with_null(
    value: float, shuffled: Callable[[np.random.Generator], float], dims: int, num_shuffles: int, seed: int
) -> TotalCorrelation:
    if num_shuffles < 1:
        raise ValueError(f"`num_shuffles` is {num_shuffles}; give at least 1.")
    generator = generator_of(seed, "shuffles")
    null = float(np.mean([shuffled(generator) for _ in range(num_shuffles)]))
    return TotalCorrelation(value, null, value - null, (value - null) / dims)


def _normal_scores(rows: np.ndarray) -> np.ndarray:
    """Normal quantiles of the ranks in every row; equal values get their mean rank."""
    from scipy.special import ndtri  # noqa: PLC0415 - of the extra `analysis`
    from scipy.stats import rankdata  # noqa: PLC0415

    # Row by row: with an axis, scipy takes twice as long.
    ranks = np.array([rankdata(row) for row in rows])
    return np.asarray(ndtri(ranks / (rows.shape[1] + 1)))


def _unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows of mean 0 and norm 1, whose products are correlations."""
    largest = np.abs(rows).max(axis=1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    constant = np.flatnonzero(norm[:, 0] <= 1e-12 * rows.shape[1] ** 0.5 * largest)
    if len(constant):
        raise ValueError(f"`points` has constant dims, {_some(constant)}; remove them.")
    rows /= norm
    return rows


def _gaussian_total_correlation(rows: np.ndarray, shrinkage: float) -> float:
    correlation = (1 - shrinkage) * (rows @ rows.T)
    np.fill_diagonal(correlation, 1.0)
    eigenvalues = np.linalg.eigvalsh(correlation)
    if eigenvalues[0] <= len(rows) * np.finfo(np.float64).eps * eigenvalues[-1]:
        raise ValueError(
            "`points` has dims that are linear combinations of others, so their total correlation is infinite; "
            "remove copies, project on principal components, or give a `shrinkage` above 0."
        )
    return float(-0.5 * np.log(eigenvalues).sum())


def _mixture_total_correlation(
    means: np.ndarray, log_variances: np.ndarray, num_components: int, generator: np.random.Generator
) -> float:
    """Estimate from a subset `(items, dims)` of the `num_components` equally weighted components of a mixture."""
    items, dims = means.shape
    samples = torch.from_numpy(means + np.exp(log_variances / 2) * generator.standard_normal(means.shape))
    # One row per dimension, `(dims, items)`: densities are computed for one dimension at a time.
    centers, log_scales = torch.from_numpy(means.T.copy()), torch.from_numpy(log_variances.T / 2)
    precisions, offsets = torch.exp(-2 * log_scales), log_scales + 0.5 * math.log(2 * math.pi)
    own = -math.log(num_components)
    others = math.log((num_components - 1) / num_components / (items - 1))
    total = 0.0
    for start in range(0, items, _CHUNK):
        chunk = samples[start : start + _CHUNK]
        log_weight = torch.full((len(chunk), items), others, dtype=torch.float64)
        log_weight.diagonal(offset=start).fill_(own)
        joint, marginals = log_weight.clone(), 0.0
        for dim in range(dims):
            # of every sample in every component, `(chunk, items)`
            log_density = (chunk[:, dim, None] - centers[dim]).square_().mul_(-0.5 * precisions[dim]).sub_(offsets[dim])
            joint += log_density
            marginals += float(log_density.add_(log_weight).logsumexp(dim=1).sum())
        total += float(joint.logsumexp(dim=1).sum()) - marginals
    return total / items


def _some(numbers: np.ndarray, most: int = 5) -> str:
    return ", ".join(map(str, numbers[:most])) + (", ..." if len(numbers) > most else "")
