"""Total correlation of data whose total correlation is known."""

import numpy as np
import pytest
from scipy import stats

from modeling_sim.analysis import bootstrap_statistic, stratified_total_correlation, total_correlation
from modeling_sim.analysis.dependence import _mixture_total_correlation


def normal_points(items, dims, seed=0):
    return np.random.default_rng(seed).standard_normal((items, dims))


def equicorrelated(items, dims, correlation, seed=0):
    covariance = np.full((dims, dims), correlation) + (1 - correlation) * np.eye(dims)
    points = normal_points(items, dims, seed) @ np.linalg.cholesky(covariance).T
    return points, -0.5 * np.linalg.slogdet(covariance)[1]


def test_it_is_the_formula_whatever_the_scales():
    points, _ = equicorrelated(500, 4, 0.6)
    points = points * [1, 100, 0.01, 1] + [0, 0, 0, 50]
    covariance = np.cov(points.T)
    naive = 0.5 * (np.log(np.diagonal(covariance)).sum() - np.log(np.linalg.det(covariance)))
    assert total_correlation(points).value == pytest.approx(naive)


@pytest.mark.parametrize("copula", [False, True])
def test_a_correlated_gaussian_has_its_analytic_value(copula):
    points, truth = equicorrelated(20_000, 10, 0.5)
    result = total_correlation(points, copula=copula)
    assert result.corrected == pytest.approx(truth, rel=0.02)
    assert result.per_dimension == pytest.approx(truth / 10, rel=0.02)
    assert result.corrected == result.value - result.null


@pytest.mark.parametrize(("items", "dims"), [(2000, 20), (4000, 64), (4000, 128)])
def test_independent_dims_have_the_documented_bias_and_the_null_takes_it_off(items, dims):
    bias = dims * (dims - 1) / (4 * items)
    for copula in (False, True):
        result = total_correlation(normal_points(items, dims), copula=copula)
        scatter = (dims * (dims - 1)) ** 0.5 / (2 * items)
        assert result.value == pytest.approx(bias, abs=4 * scatter + 0.05 * bias)
        assert result.null == pytest.approx(bias, abs=2 * scatter + 0.05 * bias)
        assert result.corrected == pytest.approx(0, abs=4 * scatter)


def test_the_copula_does_not_depend_on_the_marginals_and_the_plain_estimate_does():
    points, truth = equicorrelated(10_000, 4, 0.7)
    bent = np.exp(2 * points)
    assert total_correlation(bent, copula=True) == total_correlation(points, copula=True)
    assert total_correlation(bent).corrected < 0.6 * truth


def test_the_copula_is_of_normal_scores():
    points, _ = equicorrelated(60, 3, 0.5)
    scores = stats.norm.ppf(stats.rankdata(points, axis=0) / 61)
    assert total_correlation(points, copula=True).value == pytest.approx(total_correlation(scores).value)


def test_ties_share_their_rank():
    """ReLU features: half of the values are 0, and which of the zeros comes first must not matter."""
    points = normal_points(2000, 5).clip(min=0)
    result = total_correlation(points, copula=True)
    assert total_correlation(points[::-1], copula=True).value == pytest.approx(result.value)
    assert result.corrected == pytest.approx(0, abs=0.01)


def test_data_of_deficient_rank_names_the_fix_and_shrinkage_is_one():
    points = normal_points(500, 4)
    copies = np.concatenate([points, points[:, :1]], axis=1)
    with pytest.raises(ValueError, match="`shrinkage`"):
        total_correlation(copies)
    with pytest.raises(ValueError, match="`points`"):
        total_correlation(normal_points(10, 10))
    with pytest.raises(ValueError, match="`points`"):
        total_correlation(np.concatenate([points, np.full((500, 1), 0.1)], axis=1))
    # a pair with correlation (1 - shrinkage), the rest nearly independent
    expected = -0.5 * np.log(1 - 0.9**2)
    assert total_correlation(copies, shrinkage=0.1).corrected == pytest.approx(expected, abs=0.02)
    assert np.isfinite(total_correlation(normal_points(10, 10), shrinkage=0.1).value)
    with pytest.raises(ValueError, match="`shrinkage`"):
        total_correlation(points, shrinkage=1)
    with pytest.raises(ValueError, match="`num_shuffles`"):
        total_correlation(points, num_shuffles=0)
    with pytest.raises(ValueError, match="NaN"):
        total_correlation(np.full((10, 2), np.nan))


def test_an_interval_over_utterances_holds_the_truth():
    points, truth = equicorrelated(2000, 3, 0.4)
    interval = bootstrap_statistic(
        lambda items: total_correlation(points[items], num_shuffles=1).corrected, np.arange(2000) // 20, resamples=100
    )
    assert not interval.excludes(truth)
    assert interval.excludes(0.0)


def test_the_stratified_estimate_is_the_naive_one():
    items, dims, components = 12, 3, 40
    means, log_variances = normal_points(items, dims), normal_points(items, dims, seed=1)
    result = _mixture_total_correlation(means, log_variances, components, np.random.default_rng(2))
    scales = np.exp(log_variances / 2)
    samples = means + scales * np.random.default_rng(2).standard_normal((items, dims))
    total = 0.0
    for i in range(items):
        weights = np.full(items, (components - 1) / components / (items - 1))
        weights[i] = 1 / components
        assert weights.sum() == pytest.approx(1)
        densities = stats.norm.pdf(samples[i], means, scales)
        joint = (weights * densities.prod(axis=1)).sum()
        total += np.log(joint) - np.log(weights @ densities).sum()
    assert result == pytest.approx(total / items)


@pytest.mark.parametrize("dims", [2, 4])
def test_independent_posterior_dims_have_none(dims):
    means = 0.8 * normal_points(1500, dims)
    result = stratified_total_correlation(means, np.full_like(means, np.log(0.36)))
    assert result.value == pytest.approx(0, abs=0.05)
    assert result.corrected == pytest.approx(0, abs=0.05)


def test_a_correlated_aggregate_has_its_analytic_value():
    """Means N(0, C - 0.3 I) and variances 0.3: the aggregate is N(0, C)."""
    covariance = np.full((3, 3), 0.6) + 0.4 * np.eye(3)
    truth = -0.5 * np.linalg.slogdet(covariance)[1]
    means = normal_points(2000, 3) @ np.linalg.cholesky(covariance - 0.3 * np.eye(3)).T
    result = stratified_total_correlation(means, np.full_like(means, np.log(0.3)))
    assert result.corrected == pytest.approx(truth, abs=0.1)
    drawn = stratified_total_correlation(np.tile(means, (5, 1)), np.full((10_000, 3), np.log(0.3)), max_items=1000)
    assert drawn.corrected == pytest.approx(truth, abs=0.15)


def test_it_sees_dependence_without_correlation():
    first = normal_points(1500, 1)
    means = np.concatenate([first, (first**2 - 1) / 2**0.5], axis=1)
    log_variances = np.full_like(means, np.log(0.1))
    assert stratified_total_correlation(means, log_variances).corrected > 0.3
    assert total_correlation(means).corrected < 0.02


def test_variances_that_dims_share_are_dependence_too_and_the_null_has_none():
    """Means of 0 and one variance a frame, 0.01 or 4: a large value in one dim foretells one in the other."""
    scales = np.tile([[0.1], [2.0]], (750, 2))
    result = stratified_total_correlation(np.zeros((1500, 2)), 2 * np.log(scales))
    points = scales[:, :1] * normal_points(1500, 2, seed=1)
    densities = stats.norm.pdf(points[:, None], 0, [[0.1], [2.0]])  # (items, components, dims)
    truth = (np.log(densities.prod(axis=2).mean(axis=1)) - np.log(densities.mean(axis=1)).sum(axis=1)).mean()
    assert result.corrected == pytest.approx(truth, abs=0.06)
    assert result.null == pytest.approx(0, abs=0.05)


def test_the_null_has_the_bias_of_many_dims_with_small_variances():
    """16 independent dims: samples see hardly any Gaussian but their own, so the estimate alone says dependent."""
    means = normal_points(800, 16)
    result = stratified_total_correlation(means, np.full_like(means, np.log(0.05)))
    assert result.value > 5
    assert abs(result.corrected) < 0.05 * result.value


def test_more_than_16_dims_are_refused():
    with pytest.raises(ValueError, match="`means`"):
        stratified_total_correlation(np.zeros((50, 17)), np.zeros((50, 17)))


def test_bad_input_of_the_stratified_estimate_is_named():
    with pytest.raises(ValueError, match="`log_variances`"):
        stratified_total_correlation(np.zeros((50, 3)), np.zeros((50, 2)))
    with pytest.raises(ValueError, match="`max_items`"):
        stratified_total_correlation(np.zeros((50, 3)), np.zeros((50, 3)), max_items=1)
    with pytest.raises(ValueError, match="`means`"):
        stratified_total_correlation(np.full((50, 3), np.nan), np.zeros((50, 3)))
