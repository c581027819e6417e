"""How close latents are to a standard normal distribution, per dimension and jointly.

The hypothesis of SIM is that its latents follow N(0, I). For deterministic latents nothing enforces this; compare with
them raw, `standardized` and `whitened`, because rescaling alone may bring them as close.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from modeling_sim.text import counted

from ._arrays import principal_axes
from .probes import _standardization

# Variance over frames above which a dimension is active (Burda et al. 2016), as in the training logs.
ACTIVE_UNIT_VARIANCE = 0.01
# Widths of the kernels of `maximum_mean_discrepancy`, as in Tolstikhin et al. (2018).
_KERNEL_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
# Number of dimensions that are computed at a time, so that temporary arrays stay small.
_CHUNK = 64


@dataclass(frozen=True)
class Gaussianity:
    """Outcome of `gaussianity`; arrays have one entry per dimension.

    Args:
        kl_per_dimension: KL divergence of the frames' Gaussians to N(0, 1), in nats, averaged over frames; 0 means that
            a dimension contains no information about its frame. `None` for deterministic points.
        active: Whether the variance of the mean over frames is above 0.01; meaningless for standardized points.
        wasserstein: Distance W1 of the values to N(0, 1), the mean difference of quantiles. Values drawn from N(0, 1)
            have about `1.29 / sqrt(frames)`.
        kolmogorov_smirnov: Largest difference between their distribution function and the normal one, in [0, 1]. Values
            drawn from N(0, 1) have about `0.87 / sqrt(frames)`. No p-values: with many frames any difference has a
            small one, and frames are not independent of each other.
        mean: 0 for N(0, 1).
        variance: 1 for N(0, 1).
        skewness: 0 for N(0, 1); NaN where a dimension is constant.
        excess_kurtosis: 0 for N(0, 1); NaN where a dimension is constant.
        mmd: See `maximum_mean_discrepancy`; 0 for N(0, I) on average, so that it may be negative.
    """

    kl_per_dimension: np.ndarray | None
    active: np.ndarray
    wasserstein: np.ndarray
    kolmogorov_smirnov: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    skewness: np.ndarray
    excess_kurtosis: np.ndarray
    mmd: float

    @property
    def active_units(self) -> int:
        """Active dimensions."""
        return int(self.active.sum())

    @property
    def active_kl_share(self) -> float | None:
        """Fraction of the KL divergence in active dimensions; `None` if the divergence is 0."""
        if self.kl_per_dimension is None or self.kl_per_dimension.sum() <= 0:
            return None
        return float(self.kl_per_dimension[self.active].sum() / self.kl_per_dimension.sum())

    def summary(self) -> dict[str, float | None]:
        """Scalar results: sums and counts, and medians over active dimensions, `None` if there are none.

        Inactive dimensions of a Gaussian model are N(0, 1) for every frame: they would hide the others.
        """
        return {
            "kl": None if self.kl_per_dimension is None else float(self.kl_per_dimension.sum()),
            "active_units": self.active_units,
            "active_kl_share": self.active_kl_share,
            "wasserstein": self._median(self.wasserstein),
            "kolmogorov_smirnov": self._median(self.kolmogorov_smirnov),
            "absolute_mean": self._median(np.abs(self.mean)),
            "variance": self._median(self.variance),
            "absolute_skewness": self._median(np.abs(self.skewness)),
            "excess_kurtosis": self._median(self.excess_kurtosis),
            "mmd": self.mmd,
        }

    def _median(self, values: np.ndarray) -> float | None:
        return float(np.median(values[self.active])) if self.active.any() else None


def gaussianity(
    means: np.ndarray,
    log_variances: np.ndarray | None = None,
    *,
    samples: np.ndarray | None = None,
    seed: int = 0,
    max_items: int = 2000,
) -> Gaussianity:
    """Compares latents with N(0, I).

    With `log_variances`, one sample per frame is compared, so that values follow the aggregate posterior; without, the
    points themselves are compared. For a Gaussian model, report both: its means alone have too little variance.

    Args:
        means: `(frames, dims)`, posterior means, or deterministic points.
        log_variances: Natural logarithms, of the shape of `means`; `None` for deterministic points.
        samples: Samples of the Gaussians, of the shape of `means`, instead of drawing them; only with `log_variances`.
        seed: Seed of the samples, and of the draws of `maximum_mean_discrepancy`.
        max_items: Maximum number of frames for `maximum_mean_discrepancy`, whose cost is quadratic in it.

    Raises:
        ValueError: Shapes disagree, a value is not finite, or there are fewer than 2 frames.
    """
    means = checked_points(means, "means")
    generator = generator_of(seed, "samples")
    values = means
    if log_variances is not None:
        log_variances = _like(log_variances, means, "log_variances")
        values = _draw(means, log_variances, generator) if samples is None else _like(samples, means, "samples")
    elif samples is not None:
        raise ValueError("`samples` needs `log_variances`; pass samples alone as `means`.")
    columns = [_describe(chunk) for chunk in _chunks(values)]
    wasserstein, kolmogorov_smirnov, mean, variance, skewness, excess_kurtosis = (
        np.concatenate(parts) for parts in zip(*columns, strict=True)
    )
    return Gaussianity(
        kl_per_dimension=None if log_variances is None else _kl_per_dimension(means, log_variances),
        active=np.concatenate([chunk.var(axis=1) for chunk in _chunks(means)]) > ACTIVE_UNIT_VARIANCE,
        wasserstein=wasserstein,
        kolmogorov_smirnov=kolmogorov_smirnov,
        mean=mean,
        variance=variance,
        skewness=skewness,
        excess_kurtosis=excess_kurtosis,
        mmd=maximum_mean_discrepancy(values, max_items=max_items, seed=seed),
    )


def maximum_mean_discrepancy(points: np.ndarray, *, max_items: int = 2000, seed: int = 0) -> float:
    """Squared maximum mean discrepancy to N(0, I), unbiased (Gretton et al. 2012).

    The kernel is the mean of inverse multiquadrics `c / (c + |x - y|^2)` with `c = 2 dims s` for several scales s, so
    that it is sensitive to the distances that occur in any number of dimensions (Tolstikhin et al. 2018). For N(0, I)
    it is 0 on average. Its standard deviation decreases with `max_items`: at 512 dimensions and 2000 items it is about
    1e-5. Items that a bootstrap repeats have distance 0 and make it too high; estimate its variation with other seeds
    or halves of the data.

    Args:
        points: `(items, dims)`.
        max_items: Maximum number of items, drawn if there are more; the same number is drawn from N(0, I).
        seed: Seed of both draws.

    Raises:
        ValueError: A value is not finite, or there are fewer than 2 items, of points or of `max_items`.
    """
    points = checked_points(points, "points")
    if max_items < 2:
        raise ValueError(f"`max_items` is {max_items}; give at least 2.")
    generator = generator_of(seed, "normal points")
    if len(points) > max_items:
        points = points[np.sort(generator.choice(len(points), max_items, replace=False))]
    points = points.astype(np.float64)
    normal = generator.standard_normal(points.shape)
    items = len(points)
    within = (_kernel(points, points).sum() + _kernel(normal, normal).sum() - 2 * items) / (items * (items - 1))
    return float(within - 2 * _kernel(points, normal).mean())


def standardized(points: np.ndarray) -> np.ndarray:
    """Points with mean 0 and variance 1 in every dimension, float64; a constant dimension becomes 0.

    Args:
        points: `(items, dims)`.
    """
    points = checked_points(points, "points").astype(np.float64)
    mean, scale = _standardization(points)
    points -= mean
    points /= scale
    return points


def whitened(points: np.ndarray, *, tolerance: float = 1e-6) -> np.ndarray:
    """Principal components with variance 1, float64: their mean is 0 and their covariance is the identity.

    Principal components mix dimensions, and mixtures of many dimensions are close to normal for any dimensions.

    Args:
        points: `(items, dims)`, with many more items than dimensions; otherwise any points become white.
        tolerance: Components with a variance below this fraction of the largest are dropped: in rank-deficient data
            they contain only rounding errors. The result then has fewer columns than `points`.

    Raises:
        ValueError: Every dimension is constant.
    """
    points = checked_points(points, "points").astype(np.float64)
    if (points == points[0]).all():
        raise ValueError("`points` are all the same; there is nothing to whiten.")
    points -= points.mean(axis=0)
    directions, variances = (part.numpy() for part in principal_axes(torch.from_numpy(points)))
    kept = variances > tolerance * variances[0]
    return points @ (directions[:, kept] / np.sqrt(variances[kept]))


def checked_points(points: np.ndarray, name: str) -> np.ndarray:
    """Returns finite points `(items, dims)` of at least 2 items; otherwise raises a ValueError with their `name`."""
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] == 0:
        raise ValueError(f"`{name}` has shape {points.shape}; expected (items, dims).")
    if len(points) < 2:
        raise ValueError(f"`{name}` holds {counted(len(points), 'item')}; give at least 2.")
    if not np.isfinite(points).all():
        raise ValueError(f"`{name}` contains NaN or infinity.")
    return points


def generator_of(seed: int, purpose: str) -> np.random.Generator:
    """A generator for one purpose; `numpy.random.default_rng(seed)` may have generated the points themselves."""
    return np.random.default_rng([seed, *purpose.encode()])


def _like(array: np.ndarray, means: np.ndarray, name: str) -> np.ndarray:
    array = checked_points(array, name)
    if array.shape != means.shape:
        raise ValueError(f"`{name}` has shape {array.shape} but `means` {means.shape}; give the same frames and dims.")
    return array


def _draw(means: np.ndarray, log_variances: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """One sample of every Gaussian."""
    noise = generator.standard_normal(means.shape, dtype=np.float32)
    noise *= np.exp(log_variances / 2)
    return noise + means


def _chunks(points: np.ndarray) -> Iterator[np.ndarray]:
    """Yields some dimensions at a time as contiguous arrays `(dims, items)` in float64."""
    for start in range(0, points.shape[1], _CHUNK):
        yield np.ascontiguousarray(points[:, start : start + _CHUNK].T, dtype=np.float64)


def _kl_per_dimension(means: np.ndarray, log_variances: np.ndarray) -> np.ndarray:
    # expm1: the rounding error of exp(log_variance) - 1 would exceed a divergence near 0
    return np.concatenate(
        [
            0.5 * (mean**2 + np.expm1(log_variance) - log_variance).mean(axis=1)
            for mean, log_variance in zip(_chunks(means), _chunks(log_variances), strict=True)
        ]
    )


def _describe(values: np.ndarray) -> tuple[np.ndarray, ...]:
    """W1, Kolmogorov-Smirnov statistic, mean, variance, skewness and excess kurtosis of `(dims, items)`."""
    center = values.mean(axis=1)
    deviation = values - center[:, None]
    squares = deviation**2
    variance = squares.mean(axis=1)
    third, fourth = np.einsum("di,di->d", squares, deviation), np.einsum("di,di->d", squares, squares)
    # A constant minus its mean is only a rounding error.
    varies = variance > (1e-12 * np.abs(values).max(axis=1)) ** 2
    root = np.sqrt(np.where(varies, variance, np.nan))
    items = values.shape[1]
    return (
        *_distances_to_normal(np.sort(values, axis=1)),  # not in place: `values` may be the caller's own memory
        center,
        variance,
        third / items / root**3,
        fourth / items / root**4 - 3.0,
    )


def _distances_to_normal(ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""W1 and the Kolmogorov-Smirnov statistic of `(dims, items)`, rows ascending, to N(0, 1).

    W1 is the integral over u of `|x(u) - q(u)|`, where q is the normal quantile function and x that of the values,
    which is constant between multiples of 1 / items. The integral of q(u) is `-density(q(u))`, so each interval is
    integrated exactly after splitting it where q crosses x.
    """
    from scipy.special import ndtr, ndtri  # noqa: PLC0415 - of the extra `analysis`

    level = np.arange(ordered.shape[1] + 1) / ordered.shape[1]
    quantile = ndtri(level)
    below, above = level[:-1], level[1:]
    cumulative = ndtr(ordered)
    kolmogorov_smirnov = np.maximum(above - cumulative, cumulative - below).max(axis=1)
    cut = np.clip(cumulative, below, above)
    density_at_cut = _normal_density(np.clip(ordered, quantile[:-1], quantile[1:]))
    density = _normal_density(quantile)
    steps = ordered * (2 * cut - below - above) + 2 * density_at_cut - density[:-1] - density[1:]
    return steps.sum(axis=1), kolmogorov_smirnov


def _normal_density(values: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * values**2) / np.sqrt(2 * np.pi)


def _kernel(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Mean inverse multiquadric of all pairs, `(left items, right items)`."""
    squares = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1) - 2 * left @ right.T
    squares.clip(min=0.0, out=squares)
    kernel = np.zeros_like(squares)
    for scale in _KERNEL_SCALES:
        width = 2 * left.shape[1] * scale
        kernel += width / (width + squares)
    return kernel / len(_KERNEL_SCALES)
