"""Distances to a standard normal, on points whose distance is known."""

import sys

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad
from sklearn.decomposition import PCA

from modeling_sim.analysis import gaussianity, maximum_mean_discrepancy, standardized, whitened
from modeling_sim.analysis.gaussianity import ACTIVE_UNIT_VARIANCE, generator_of
from modeling_sim.objectives_sim import ACTIVE_UNIT_VARIANCE as TRAINING_ACTIVE_UNIT_VARIANCE

# The package exports the function by the module's name.
gaussianity_module = sys.modules["modeling_sim.analysis.gaussianity"]


def normal_points(items, dims, seed=0):
    return np.random.default_rng(seed).standard_normal((items, dims))


@pytest.fixture
def unlike():
    """Dimensions of many shapes, more than are computed at a time: `(300, 70)`."""
    generator = np.random.default_rng(1)
    points = generator.standard_normal((300, 70)) * generator.uniform(0.1, 3, 70) + generator.uniform(-2, 2, 70)
    points[:, 0] = generator.exponential(size=300)
    points[:, 1] = points[:, 1].clip(min=0)  # ties
    points[:, 2] = 40.0
    points[:, 69] = generator.laplace(size=300)
    return points


def test_statistics_are_scipys(unlike):
    result = gaussianity(unlike)
    varies = np.arange(70) != 2
    for dim, values in enumerate(unlike.T):
        assert result.kolmogorov_smirnov[dim] == pytest.approx(stats.kstest(values, "norm").statistic)
    np.testing.assert_allclose(result.mean, unlike.mean(0))
    np.testing.assert_allclose(result.variance, unlike.var(0))
    np.testing.assert_allclose(result.skewness[varies], stats.skew(unlike[:, varies]), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(result.excess_kurtosis[varies], stats.kurtosis(unlike[:, varies]), rtol=1e-6, atol=1e-9)
    assert np.isnan(result.skewness[2])
    assert np.isnan(result.excess_kurtosis[2])


def test_w1_is_the_integral_between_quantiles(unlike):
    result = gaussianity(unlike[:40])
    for dim in (0, 1, 2, 69):
        ordered = np.sort(unlike[:40, dim])
        edges = stats.norm.ppf(np.arange(41) / 40).clip(-12, 12)
        expected = sum(
            quad(lambda q, x=x: abs(x - q) * stats.norm.pdf(q), low, high, points=[float(np.clip(x, low, high))])[0]
            for x, low, high in zip(ordered, edges[:-1], edges[1:], strict=True)
        )
        assert result.wasserstein[dim] == pytest.approx(expected, abs=1e-7)


def test_w1_is_scipys_to_a_fine_grid_of_normal_quantiles(unlike):
    result = gaussianity(unlike)
    grid = stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    for dim in (0, 1, 2, 69):
        assert result.wasserstein[dim] == pytest.approx(stats.wasserstein_distance(unlike[:, dim], grid), abs=1e-4)


def test_the_w1_of_a_shift_is_the_shift():
    assert gaussianity(normal_points(20_000, 1) + 0.7).wasserstein[0] == pytest.approx(0.7, abs=0.02)


def test_normal_points_have_the_nulls_of_the_documentation():
    result = gaussianity(normal_points(4000, 200))
    assert result.wasserstein.mean() == pytest.approx(1.29 / 4000**0.5, rel=0.1)
    assert result.kolmogorov_smirnov.mean() == pytest.approx(0.87 / 4000**0.5, rel=0.1)
    summary = result.summary()
    for name in ("absolute_mean", "absolute_skewness", "excess_kurtosis", "mmd"):
        assert summary[name] == pytest.approx(0, abs=0.1)
    assert summary["variance"] == pytest.approx(1, abs=0.05)


def test_kl_and_active_units_of_a_model_with_two_dims_in_use():
    """Dims 0 and 1 tell of the frame, the others are N(0, 1) whatever the frame."""
    means = normal_points(5000, 6, seed=2) * np.array([0.8, 0.6, 0.01, 0, 0, 0])
    log_variances = np.log(np.array([0.36, 0.64, 1, 1, 1, 1])) + np.zeros_like(means)
    result = gaussianity(means, log_variances)
    variances = np.exp(log_variances)
    naive = [0.5 * np.mean(m**2 + v - 1 - np.log(v)) for m, v in zip(means.T, variances.T, strict=True)]
    np.testing.assert_allclose(result.kl_per_dimension, naive, atol=1e-12)
    assert result.active_units == 2
    assert result.active.tolist() == [True, True, False, False, False, False]
    assert result.active_kl_share == pytest.approx(sum(naive[:2]) / sum(naive))
    # mean's variance + variance = 1: the aggregate is N(0, I), and samples show it where means do not
    np.testing.assert_allclose(result.variance, 1, atol=0.08)
    assert result.wasserstein.max() < 0.05
    assert gaussianity(means).wasserstein[0] == pytest.approx(0.2 * (2 / np.pi) ** 0.5, abs=0.02)
    assert gaussianity(means).kl_per_dimension is None


def test_a_summary_takes_the_median_over_active_dims():
    means = np.concatenate([normal_points(2000, 3) + np.array([0.5, 1.0, 2.0]), np.zeros((2000, 9))], axis=1)
    result = gaussianity(means, np.zeros_like(means), samples=means)
    assert result.active_units == 3
    assert result.summary()["absolute_mean"] == pytest.approx(1.0, abs=0.1)
    collapsed = gaussianity(np.zeros((50, 3)), np.zeros((50, 3)))
    assert collapsed.active_kl_share is None
    assert collapsed.summary()["wasserstein"] is None
    assert collapsed.summary()["kl"] == 0


def test_active_units_are_those_of_the_training_logs():
    assert ACTIVE_UNIT_VARIANCE == TRAINING_ACTIVE_UNIT_VARIANCE


def test_given_samples_are_what_is_compared_and_drawn_ones_follow_the_seed():
    means, log_variances = normal_points(200, 3), np.full((200, 3), -1.0)
    samples = normal_points(200, 3, seed=5) + 3
    result = gaussianity(means, log_variances, samples=samples)
    np.testing.assert_allclose(result.mean, samples.mean(0))
    np.testing.assert_allclose(result.kl_per_dimension, gaussianity(means, log_variances).kl_per_dimension)
    first, again, other = (gaussianity(means, log_variances, seed=seed).mean for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).all()


def test_drawn_noise_is_independent_of_points_made_with_the_same_seed():
    means = np.random.default_rng(0).standard_normal((20_000, 2), dtype=np.float32)
    result = gaussianity(means, np.zeros_like(means), seed=0)
    np.testing.assert_allclose(result.variance, 2, atol=0.1)


def test_mmd_is_the_naive_double_sum():
    points = normal_points(12, 5) + 1

    def kernel(x, y):
        return np.mean([10 * s / (10 * s + ((x - y) ** 2).sum()) for s in (0.1, 0.2, 0.5, 1, 2, 5, 10)])

    drawn = generator_of(3, "normal points").standard_normal((12, 5))
    pairs = [(i, j) for i in range(12) for j in range(12) if i != j]
    within = np.mean([kernel(points[i], points[j]) + kernel(drawn[i], drawn[j]) for i, j in pairs])
    between = np.mean([kernel(x, y) for x in points for y in drawn])
    assert maximum_mean_discrepancy(points, seed=3) == pytest.approx(within - 2 * between)


def test_mmd_is_0_on_average_for_normal_points_and_grows_with_a_shift():
    nulls = np.array([maximum_mean_discrepancy(normal_points(200, 8, seed), seed=seed) for seed in range(60)])
    assert abs(nulls.mean()) < 3 * nulls.std() / 60**0.5
    assert (nulls < 0).any()  # unbiased
    shifted = [maximum_mean_discrepancy(normal_points(1000, 8, seed=1) + shift) for shift in (0.0, 0.2, 0.5, 1.0, 2.0)]
    assert (np.diff(shifted) > 0).all()
    assert shifted[1] > 3 * nulls.std()
    assert maximum_mean_discrepancy(0.8 * normal_points(1000, 8)) > 3 * nulls.std()


def test_mmd_takes_no_more_than_max_items_from_anywhere(monkeypatch):
    points = np.concatenate([normal_points(500, 4), normal_points(500, 4) + 4])
    shapes, kernel = [], gaussianity_module._kernel
    monkeypatch.setattr(gaussianity_module, "_kernel", lambda *of: shapes.append(kernel(*of).shape) or kernel(*of))
    maximum_mean_discrepancy(points, max_items=200)
    assert set(shapes) == {(200, 200)}
    assert maximum_mean_discrepancy(points, max_items=200) == pytest.approx(maximum_mean_discrepancy(points), rel=0.3)


def test_standardizing_reaches_the_moments_and_not_the_shape():
    points = np.random.default_rng(3).exponential(size=(5000, 4)) * [1, 10, 0.01, 1] + 5
    points[:, 3] = 7.0
    result = standardized(points)
    np.testing.assert_allclose(result[:, :3].mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(result[:, :3].std(0), 1)
    assert (result[:, 3] == 0).all()
    assert (gaussianity(result).skewness[:3] > 1.5).all()


def test_whitening_is_scikit_learns_and_makes_any_gaussian_normal():
    mixing = np.random.default_rng(4).normal(size=(6, 6))
    points = normal_points(3000, 6) @ mixing + 3
    result = whitened(points)
    np.testing.assert_allclose(result.T @ result / 3000, np.eye(6), atol=1e-9)
    reference = PCA(whiten=True).fit_transform(points)
    np.testing.assert_allclose(np.abs(result), np.abs(reference) * (3000 / 2999) ** 0.5, rtol=1e-6, atol=1e-9)
    assert maximum_mean_discrepancy(result) < 0.01 * maximum_mean_discrepancy(points)


def test_whitening_skips_directions_without_variance():
    """5 directions in 20 dims, one dim constant, all in float32: nothing is scaled up from rounding."""
    points = (normal_points(500, 5) @ normal_points(5, 20, seed=1) + 100).astype(np.float32)
    points[:, 7] = 1.0
    result = whitened(points)
    assert result.shape == (500, 5)
    np.testing.assert_allclose(result.T @ result / 500, np.eye(5), atol=1e-4)
    assert whitened(normal_points(10, 50)).shape == (10, 9)
    for constant in (2.0, 0.1, 3.3):  # the mean of the last two is rounded
        with pytest.raises(ValueError, match="`points`"):
            whitened(np.full((50, 5), constant))
    assert whitened(normal_points(50, 3) + 1e7).shape == (50, 3)


@pytest.mark.parametrize(
    ("means", "log_variances", "message"),
    [
        (np.zeros(5), None, "`means`"),
        (np.zeros((5, 0)), None, "`means`"),
        (np.zeros((1, 3)), None, "`means`"),
        (np.full((5, 2), np.nan), None, "`means`"),
        (np.zeros((5, 2)), np.zeros((5, 3)), "`log_variances`"),
        (np.zeros((5, 2)), np.full((5, 2), np.inf), "`log_variances`"),
    ],
)
def test_bad_input_is_named(means, log_variances, message):
    with pytest.raises(ValueError, match=message):
        gaussianity(means, log_variances)


def test_samples_alone_are_means_and_mmd_needs_two_items():
    with pytest.raises(ValueError, match="`samples`"):
        gaussianity(np.zeros((5, 2)), samples=np.zeros((5, 2)))
    with pytest.raises(ValueError, match="`max_items`"):
        maximum_mean_discrepancy(normal_points(5, 2), max_items=1)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_points_are_left_as_they_were(order, dtype):
    """Points in Fortran order are the very memory that a dimension is described in."""
    points = np.array(np.random.default_rng(0).normal(size=(50, 3)), dtype=dtype, order=order)
    before = points.copy()
    gaussianity(points)
    np.testing.assert_array_equal(points, before)
