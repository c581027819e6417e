"""Concentration of probes, on codes whose axes are known to mean something or nothing."""

import numpy as np
import pytest

from modeling_sim.analysis import (
    accuracy_by_dimensions,
    concentration,
    effective_dimensions,
    fit_linear_probe,
    gini,
    hoyer,
    random_rotation,
    rank_dimensions,
    rotation_gap,
    single_best_dimension,
    standardized_weights,
)
from modeling_sim.analysis.concentration import _bin_classes
from modeling_sim.analysis.gaussianity import generator_of

TRAIN, TEST = slice(0, 1500), slice(1500, 2000)


def normal_points(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.fixture(scope="module")
def aligned():
    """Four classes, each with a dimension of its own out of 32: `(2000, 32)` and labels."""
    generator = np.random.default_rng(0)
    features = generator.standard_normal((2000, 32))
    return features, (3 * features[:, :4] + generator.gumbel(size=(2000, 4))).argmax(axis=1)


@pytest.fixture(scope="module")
def rotated(aligned):
    """The same, its axes turned at random."""
    features, labels = aligned
    return features @ random_rotation(32, np.random.default_rng(1)), labels


def split(code):
    features, labels = code
    return features[TRAIN], labels[TRAIN], features[TEST], labels[TEST]


def test_gaussian_weights_have_the_nulls_of_the_documentation():
    weights = normal_points(200, 512)
    assert gini(weights) == pytest.approx(0.414, abs=0.002)
    assert hoyer(weights) == pytest.approx(0.211, abs=0.002)
    assert hoyer(weights[:, :64]) == pytest.approx(0.228, abs=0.005)
    spread = effective_dimensions(weights)
    assert spread.entropy == pytest.approx(385, abs=2)
    assert spread.participation_ratio == pytest.approx(172, abs=3)
    assert spread.energy_90 == pytest.approx(228, abs=2)


def test_equal_weights_and_a_single_one_are_the_bounds():
    equal, single = np.full(10, -0.3), np.eye(10)[4] * 7
    assert gini(equal) == pytest.approx(0)
    assert gini(single) == pytest.approx(0.9)
    assert hoyer(equal) == pytest.approx(0)
    assert hoyer(single) == pytest.approx(1)
    for weights, dims in ((equal, 10), (single, 1)):
        spread = effective_dimensions(weights)
        assert spread.entropy == pytest.approx(dims)
        assert spread.participation_ratio == pytest.approx(dims)
    assert effective_dimensions(single).energy_90 == 1
    assert effective_dimensions(np.array([3.1, 1.0, 0.0])).energy_90 == 1  # 0.906 of the squares


def test_gini_is_the_mean_difference_of_all_pairs():
    weights = normal_points(3, 20)
    naive = [np.abs(np.subtract.outer(abs(w), abs(w))).mean() / (2 * abs(w).mean()) for w in weights]
    assert gini(weights) == pytest.approx(np.mean(naive))


def test_a_class_counts_by_itself_whatever_the_size_of_its_weights():
    weights = normal_points(4, 100)
    scaled = weights * [[1], [10], [100], [0.1]]
    absent = np.concatenate([weights, np.zeros((1, 100))])
    for other in (scaled, absent):
        assert gini(other) == pytest.approx(gini(weights))
        assert hoyer(other) == pytest.approx(hoyer(weights))
        assert effective_dimensions(other).entropy == pytest.approx(effective_dimensions(weights).entropy)


def test_raw_weights_are_confounded_by_scale_and_standardized_ones_are_not(aligned, rotated):
    """Turned axes of unlike scales look more concentrated than axes that mean something, until standardized."""
    scale = np.exp(1.5 * normal_points(32, seed=2))
    on_axes = fit_linear_probe(*aligned, 4)
    turned = fit_linear_probe(rotated[0] * scale, rotated[1], 4)
    raw_on_axes, raw_turned = on_axes.weight / on_axes.scale, turned.weight / turned.scale
    assert gini(raw_turned) > gini(raw_on_axes)
    assert gini(turned.weight) < 0.45
    assert gini(on_axes.weight) > 0.6
    np.testing.assert_allclose(standardized_weights(raw_turned, turned.scale), turned.weight, rtol=1e-5)


def test_one_dimension_that_is_the_label_is_all_that_is_needed():
    generator = np.random.default_rng(3)
    labels = generator.integers(2, size=2000)
    features = generator.standard_normal((2000, 20))
    features[:, 13] = labels
    result = accuracy_by_dimensions(*split((features, labels)), 2)
    assert result.ranking[0] == 13
    assert result.k95 == 1
    assert result.ks.tolist() == [1, 2, 4, 8, 16, 20]
    assert result.accuracies.min() > 0.99
    assert result.area > 0.99
    single = single_best_dimension(*split((features, labels)), 2)
    assert single.dimension == 13
    assert single.accuracy == 1.0
    assert single.control == pytest.approx(0.5, abs=0.05)


def test_accuracy_by_dimensions_refits_and_scores_on_the_test_items(aligned):
    train, train_labels, test, test_labels = split(aligned)
    result = accuracy_by_dimensions(train, train_labels, test, test_labels, 4, ks=(2, 4))
    assert result.ks.tolist() == [2, 4, 32]
    assert set(result.ranking[:4]) == {0, 1, 2, 3}
    for k, accuracy in zip(result.ks, result.accuracies, strict=True):
        kept = result.ranking[:k]
        probe = fit_linear_probe(train[:, kept], train_labels, 4)
        assert accuracy == pytest.approx((probe.predict(test[:, kept]) == test_labels).mean(), abs=0.005)
    assert result.full_accuracy == result.accuracies[-1]
    assert result.k95 == 4
    first, second, third = result.accuracies
    by_hand = ((first + second) / 2 * np.log(2) + (second + third) / 2 * np.log(8)) / np.log(16)
    assert result.area == pytest.approx(by_hand)


def test_random_axes_and_a_random_ranking_need_more_dimensions(aligned, rotated):
    on_axes, turned = accuracy_by_dimensions(*split(aligned), 4), accuracy_by_dimensions(*split(rotated), 4)
    at_random = accuracy_by_dimensions(*split(aligned), 4, ranking=np.random.default_rng(4).permutation(32))
    assert turned.full_accuracy == pytest.approx(on_axes.full_accuracy, abs=0.01)
    for other in (turned, at_random):
        assert other.k95 > on_axes.k95
        assert other.area < on_axes.area - 0.05


def test_features_that_tell_nothing_have_chance_at_all_k():
    labels = np.random.default_rng(5).integers(3, size=2000)
    result = accuracy_by_dimensions(*split((normal_points(2000, 8), labels)), 3)
    np.testing.assert_allclose(result.accuracies, 1 / 3, atol=0.07)
    assert result.chance == pytest.approx((labels[TEST] == np.bincount(labels[TRAIN]).argmax()).mean())
    single = single_best_dimension(*split((normal_points(2000, 200), labels)), 3)
    assert single.accuracy == pytest.approx(1 / 3, abs=0.07)
    assert single.control == pytest.approx(single.chance, abs=0.07)


def test_the_single_best_dimension_reads_bins_as_a_naive_count_does():
    generator = np.random.default_rng(6)
    features = generator.standard_normal((400, 3)).round(1)  # ties
    labels = (np.abs(features[:, 1]) > 0.7).astype(int)
    train, train_labels, test, test_labels = features[:200], labels[:200], features[200:], labels[200:]
    result = single_best_dimension(train, train_labels, test, test_labels, 2, num_permutations=2)
    assert result.dimension == 1
    assert result.controls.shape == (2,)
    for dim in range(3):
        edges = np.quantile(train[:, dim], np.arange(1, 10) / 10)
        right = 0
        for value, label in zip(test[:, dim], test_labels, strict=True):
            members = train_labels[(train[:, dim, None] > edges).sum(axis=1) == (value > edges).sum()]
            ones = members.mean() if len(members) else 0.5
            reading = float(ones > 0.5) if ones != 0.5 else float(train_labels.mean() > 0.5)
            right += reading == label
        assert result.accuracies[dim] == pytest.approx(right / 200)
    # no line tells a middle interval from both sides; bins do
    linear = fit_linear_probe(train[:, 1:2], train_labels, 2).predict(test[:, 1:2])
    assert result.accuracy > (linear == test_labels).mean() + 0.2


def test_a_bin_without_a_most_frequent_class_is_read_as_the_overall_one():
    labels = np.array([2, 2, 2, 0, 1, 2])
    bins = np.array([0, 0, 0, 1, 3, 3])
    assert _bin_classes(bins, labels, num_bins=4, num_classes=3).tolist() == [2, 0, 2, 2]


def test_a_dimensions_scale_does_not_change_which_is_best(aligned):
    train, train_labels, test, test_labels = split(aligned)
    scale = np.exp(3 * normal_points(32, seed=7))
    plain = single_best_dimension(train, train_labels, test, test_labels, 4)
    scaled = single_best_dimension(train * scale, train_labels, test * scale, test_labels, 4)
    assert scaled.dimension == plain.dimension < 4
    np.testing.assert_allclose(scaled.accuracies, plain.accuracies, atol=0.005)


def kurtosis(points):
    """Mean over dims of the fourth moment of standardized points: large where axes are sparse."""
    return float((points**4).mean())


def test_a_rotation_is_orthogonal_and_uniform():
    rotation = random_rotation(40, np.random.default_rng(8))
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(40), atol=1e-12)
    generator = np.random.default_rng(9)
    draws = np.array([random_rotation(3, generator) for _ in range(3000)])
    # Of uniform ones every entry has mean 0 and mean square 1/3; without the signs the diagonal is mostly of one.
    np.testing.assert_allclose(draws.mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose((draws**2).mean(axis=0), 1 / 3, atol=0.03)
    assert np.linalg.det(draws).mean() == pytest.approx(0, abs=0.06)  # reflections too


def test_the_rotation_gap_is_that_of_the_naive_loop():
    points = np.random.default_rng(10).laplace(size=(300, 6)) * [1, 5, 1, 1, 0.1, 1]
    result = rotation_gap(kurtosis, points, num_rotations=4, seed=2)
    points = (points - points.mean(0)) / points.std(0)
    generator = generator_of(2, "rotations")
    turned = [points @ random_rotation(6, generator) for _ in range(4)]
    np.testing.assert_allclose(result.rotated, [((of / of.std(0)) ** 4).mean() for of in turned])
    assert result.aligned == pytest.approx((points**4).mean())
    assert result.gap == pytest.approx(result.aligned - result.rotated.mean())
    assert result.interval.value == result.gap
    other = rotation_gap(kurtosis, points, num_rotations=4, seed=3)
    assert (other.rotated != result.rotated).all()


def test_sparse_axes_have_a_gap_and_random_ones_have_none():
    points = np.random.default_rng(11).laplace(size=(2000, 12))
    gap = rotation_gap(kurtosis, points)
    assert gap.gap > 1
    assert gap.interval.low > 0
    turned = rotation_gap(kurtosis, points @ random_rotation(12, np.random.default_rng(12)))
    assert not turned.interval.excludes(0.0)


def test_the_interval_excludes_0_for_one_isotropic_code_in_twenty():
    excluded = 0
    for study in range(400):
        points = normal_points(60, 5, seed=study)
        excluded += rotation_gap(kurtosis, points, num_rotations=20, seed=study).interval.excludes(0.0)
    assert 0.02 <= excluded / 400 <= 0.09


def test_concentration_tells_axes_that_mean_something_from_random_ones(aligned, rotated):
    on_axes, turned = concentration(*split(aligned), 4), concentration(*split(rotated), 4)
    assert on_axes.gini > turned.gini + 0.1
    assert on_axes.hoyer > turned.hoyer
    assert on_axes.effective_dimensions.entropy < turned.effective_dimensions.entropy
    assert on_axes.by_dimensions.k95 < turned.by_dimensions.k95
    assert on_axes.single_best.accuracy > on_axes.single_best.control + 0.1
    assert on_axes.rotation_gap.interval.low > 0.1
    assert not turned.rotation_gap.interval.excludes(0.0)
    summary = on_axes.summary()
    assert summary["k95"] == 4
    assert summary["rotation_gap"] == on_axes.gini - on_axes.rotation_gap.rotated.mean()


def test_axes_that_mean_nothing_lie_below_0_where_dimensions_are_strongly_correlated():
    gaps = []
    for seed in range(3):
        generator = np.random.default_rng(seed)
        causes = generator.standard_normal((1500, 64))
        scores = causes @ generator.standard_normal((64, 6)) / 8 + 0.5 * generator.standard_normal((1500, 6))
        steep = causes / np.arange(1, 65) @ random_rotation(64, generator)
        labels = scores.argmax(axis=1)
        outcome = concentration(steep, labels, steep, labels, 6, ks=(), num_rotations=8, l2=1e-3)
        gaps.append(outcome.rotation_gap.gap)
    assert -0.05 < np.mean(gaps) < 0


def test_its_rotation_gap_is_that_of_probes_fitted_anew(aligned):
    """Correlated dims of unlike scales: the rotated probe stands for one fitted to rotated features."""
    features, labels = aligned
    features = features @ (np.eye(32) + 0.15 * normal_points(32, 32, seed=14)) * np.exp(normal_points(32, seed=15))
    train, train_labels, test, test_labels = split((features, labels))
    quick = concentration(train, train_labels, test, test_labels, 4, ks=(), num_rotations=5).rotation_gap
    refitted = rotation_gap(
        lambda points: gini(fit_linear_probe(points, train_labels, 4).weight), train, num_rotations=5
    )
    assert quick.aligned == pytest.approx(refitted.aligned, abs=0.002)
    np.testing.assert_allclose(quick.rotated, refitted.rotated, atol=0.005)


def test_dimensions_are_ranked_by_their_weights_over_all_classes():
    assert rank_dimensions(np.array([[0.0, -3, 1], [2, 0, 2.5]])).tolist() == [1, 2, 0]


@pytest.mark.parametrize("measure", [gini, hoyer, effective_dimensions])
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.zeros((2, 3)), "`weights`"),
        (np.ones((2, 1)), "`weights`"),
        (np.ones((2, 2, 2)), "`weights`"),
        (np.array([1.0, np.nan]), "NaN"),
    ],
)
def test_bad_weights_are_named(measure, weights, message):
    with pytest.raises(ValueError, match=message):
        measure(weights)


def test_bad_scales_are_named():
    with pytest.raises(ValueError, match="`scale`"):
        standardized_weights(np.ones((2, 3)), np.ones(2))
    with pytest.raises(ValueError, match="`scale`"):
        standardized_weights(np.ones(3), np.array([1, -1, 1]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_features": np.zeros((4, 3))}, "`train_features`"),
        ({"test_labels": np.zeros(3, int)}, "`test_features`"),
        ({"test_features": np.full((4, 2), np.nan)}, "`test_features`"),
        ({"train_features": np.full((6, 2), np.nan)}, "features`"),
        ({"train_labels": np.zeros(5, int)}, "labels`"),
        ({"train_labels": np.full(6, 9)}, "labels`"),
    ],
)
@pytest.mark.parametrize("function", [accuracy_by_dimensions, single_best_dimension, concentration])
def test_bad_items_are_named(function, changes, message):
    arguments = {
        "train_features": normal_points(6, 2),
        "train_labels": np.array([0, 1, 0, 1, 0, 1]),
        "test_features": normal_points(4, 2),
        "test_labels": np.array([0, 1, 0, 1]),
    }
    with pytest.raises(ValueError, match=message):
        function(**{**arguments, **changes}, num_classes=2)


def test_bad_settings_are_named(aligned):
    items = split(aligned)
    with pytest.raises(ValueError, match="`ks`"):
        accuracy_by_dimensions(*items, 4, ks=(1, 64))
    with pytest.raises(ValueError, match="`ranking`"):
        accuracy_by_dimensions(*items, 4, ranking=np.zeros(32, int))
    with pytest.raises(ValueError, match="`num_permutations`"):
        single_best_dimension(*items, 4, num_permutations=0)
    with pytest.raises(ValueError, match="`num_rotations`"):
        rotation_gap(kurtosis, items[0], num_rotations=1)
