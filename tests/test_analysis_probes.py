"""Probes and their intervals on data where the answer is known."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from threadpoolctl import threadpool_info

from modeling_sim.analysis import (
    bootstrap_difference,
    bootstrap_interval,
    bootstrap_pairs,
    bootstrap_statistic,
    choose_l2,
    fit_linear_probe,
    fit_mlp_probe,
    knn_predictions,
    linear_r2,
)
from modeling_sim.analysis._arrays import minimized
from modeling_sim.analysis.intervals import Interval, accuracy, confusions, macro_f1
from modeling_sim.analysis.probes import control_labels


@pytest.fixture
def blobs():
    """Three overlapping clouds of 600 points, of features with unlike scales."""
    generator = np.random.default_rng(0)
    labels = generator.integers(3, size=600)
    centers = generator.normal(size=(3, 5))
    features = centers[labels] + generator.normal(size=(600, 5))
    return features * [1.0, 100.0, 0.01, 1.0, 1.0] + [0, 5, 0, 0, 1000], labels


def test_the_linear_probe_is_scikit_learns(blobs):
    features, labels = blobs
    probe = fit_linear_probe(features, labels, 3, l2=1e-2)
    standardized = (features - features.mean(0)) / features.std(0)
    # sklearn minimizes the sum of losses plus |w|^2 / (2 C)
    reference = LogisticRegression(C=1 / (2 * 1e-2 * len(labels)), tol=1e-8, max_iter=1000).fit(standardized, labels)
    np.testing.assert_allclose(probe.weight, reference.coef_, atol=2e-3)
    assert (probe.predict(features) == reference.predict(standardized)).mean() > 0.995


@pytest.mark.parametrize("l2", [1e-5, 1e-3])
def test_a_fit_comes_to_the_optimum_where_features_are_strongly_correlated(l2):
    """As those of a network are: in their own coordinates, 200 steps of L-BFGS end far from it at the smaller `l2`."""
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(60, 60)) * np.exp(-np.arange(60) / 5)[:, None]
    sources = generator.normal(size=(1200, 60))
    labels = (sources[:, :6] @ generator.normal(size=(6, 4)) + generator.gumbel(size=(1200, 4))).argmax(axis=1)
    features = sources @ mixing
    standardized = (features - features.mean(0)) / features.std(0)
    reference = LogisticRegression(
        C=1 / (2 * l2 * len(labels)), tol=1e-10, max_iter=10_000, solver="newton-cholesky"
    ).fit(standardized, labels)
    probe = fit_linear_probe(features, labels, 4, l2=l2)
    assert (probe.predict(features) == reference.predict(standardized)).mean() > 0.995
    assert np.abs(probe.weight - reference.coef_).max() < 0.02 * np.abs(reference.coef_).max()


def test_features_without_variance_and_no_penalty_are_no_obstacle():
    features = np.random.default_rng(5).normal(size=(200, 3))
    labels = (features[:, 0] + 0.5 * features[:, 1] > 0.3).astype(int)
    flat = np.concatenate([features, np.ones((200, 1)), features[:, :1]], axis=1)  # a constant, and a copy
    for l2 in (0.0, 1e-4):
        probe = fit_linear_probe(flat, labels, 2, l2=l2)
        assert np.isfinite(probe.weight).all()
        assert (probe.predict(flat) == labels).mean() > 0.99


def test_a_feature_that_is_the_label_gives_everything_and_noise_gives_chance():
    generator = np.random.default_rng(1)
    labels = generator.integers(4, size=2000)
    one_hot, noise = np.eye(4)[labels], generator.normal(size=(2000, 20))
    train, test = slice(0, 1000), slice(1000, 2000)
    for features, expected in ((one_hot, 1.0), (noise, 0.25)):
        linear = fit_linear_probe(features[train], labels[train], 4).predict(features[test])
        mlp = fit_mlp_probe(features[train], labels[train], 4, epochs=5)
        mlp_guesses = mlp(torch.from_numpy(features[test]).float()).argmax(1).numpy()
        knn = knn_predictions(features[train], labels[train], features[test])
        for guesses in (linear, mlp_guesses, knn):
            assert (guesses == labels[test]).mean() == pytest.approx(expected, abs=0.05)


def test_shuffled_labels_give_chance(blobs):
    features, labels = blobs
    shuffled = np.random.default_rng(2).permutation(labels)
    guesses = fit_linear_probe(features[:300], shuffled[:300], 3).predict(features[300:])
    assert (guesses == shuffled[300:]).mean() < 0.42


def test_an_mlp_learns_what_no_line_separates():
    generator = np.random.default_rng(3)
    features = generator.normal(size=(2000, 2))
    labels = (features.prod(axis=1) > 0).astype(int)
    linear = fit_linear_probe(features[:1500], labels[:1500], 2).predict(features[1500:])
    mlp = fit_mlp_probe(features[:1500], labels[:1500], 2)
    guesses = mlp(torch.from_numpy(features[1500:]).float()).argmax(1).numpy()
    assert (linear == labels[1500:]).mean() < 0.65
    assert (guesses == labels[1500:]).mean() > 0.9


def test_a_regression_is_scored_on_groups_that_it_did_not_see():
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 10)
    signal, of_group = generator.normal(size=(400, 3)), generator.normal(size=40)[groups]
    values = signal @ [1.0, 2.0, 0.0] + generator.normal(size=400)
    features = np.concatenate([100 * signal + 7, np.eye(40)[groups]], axis=1)
    found = linear_r2(features, values, groups)
    folds = np.unique(groups, return_inverse=True)[1] % 8  # others than those of the function
    rest = np.empty(400)
    for fold in range(8):
        train, inputs = folds != fold, np.column_stack([signal, np.ones(400)])
        weights = np.linalg.lstsq(inputs[train], values[train], rcond=None)[0]
        rest[~train] = (values - inputs @ weights)[~train]
    assert found == pytest.approx(1 - np.square(rest).mean() / values.var(), abs=0.02)
    assert linear_r2(np.eye(40)[groups], of_group, groups) < 0.1  # the group says nothing about other groups
    with pytest.raises(ValueError, match="groups"):
        linear_r2(features, values, np.zeros(400))
    with pytest.raises(ValueError, match="`values`"):
        linear_r2(features, np.full(400, 0.1), groups)


def test_l2_is_chosen_on_groups_held_out():
    """Every group has a feature of its own that tells its labels: only a split by groups sees that it is worthless."""
    generator = np.random.default_rng(4)
    groups = np.arange(200) // 10
    labels = generator.integers(2, size=200)
    own = 30.0 * np.eye(20)[groups] * (2 * labels[:, None] - 1)
    features = np.concatenate([labels[:, None] + 0.5 * generator.normal(size=(200, 1)), own], axis=1)
    names = np.unique(groups)
    held_out = np.isin(groups, np.random.default_rng(0).permutation(names)[:4])
    grid = (1e-1, 1e-6)
    scores = []
    for l2 in grid:
        probe = fit_linear_probe(features[~held_out], labels[~held_out], 2, l2=l2)
        scores.append((probe.predict(features[held_out]) == labels[held_out]).mean())
    assert choose_l2(features, labels, groups, 2, grid=grid) == grid[int(np.argmax(scores))]
    with pytest.raises(ValueError, match="`l2`"):
        choose_l2(features, labels, np.zeros(200), 2)


def test_a_penalty_is_chosen_whichever_group_is_drawn_first():
    features, groups = np.random.default_rng(0).normal(size=(60, 4)), np.repeat([0, 1, 2], 20)
    labels = (groups == 2).astype(np.int64)  # held out alone, it would leave one class
    labels[25:30] = 1
    for seed in range(6):
        assert choose_l2(features, labels, groups, 2, grid=(1e-2, 1.0), seed=seed) in (1e-2, 1.0)
    with pytest.raises(ValueError, match="`l2`"):
        choose_l2(features[:40], np.repeat([0, 1], 20), groups[:40], 2)


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (np.zeros((4, 2)), np.zeros(4, int), "`labels`"),
        (np.zeros((4, 2)), np.array([0, 1, 0]), "`labels`"),
        (np.full((4, 2), np.nan), np.array([0, 1, 0, 1]), "NaN"),
        (np.zeros((4, 2)), np.array([0, 1, 0, 3]), "`labels`"),
    ],
)
def test_bad_input_is_named(features, labels, message):
    with pytest.raises(ValueError, match=message):
        fit_linear_probe(features, labels, 3)


def test_a_class_without_items_is_never_predicted():
    features = np.random.default_rng(5).normal(size=(100, 3))
    probe = fit_linear_probe(features, (features[:, 0] > 0).astype(int) * 2, 3)
    assert set(probe.predict(features)) == {0, 2}


def test_scores_are_scikit_learns(blobs):
    _, labels = blobs
    guesses = np.random.default_rng(6).integers(3, size=len(labels))
    cells = confusions(labels, guesses, np.arange(len(labels)) % 7, 4)
    assert cells.shape == (7, 4, 4)
    assert accuracy(cells.sum(0)) == pytest.approx(accuracy_score(labels, guesses))
    assert macro_f1(cells.sum(0)) == pytest.approx(f1_score(labels, guesses, average="macro"))


def test_intervals_cover_at_their_rate():
    """Utterances of unlike difficulty: 95 % intervals over utterances hold the true accuracy about as often."""
    generator = np.random.default_rng(7)
    held = naive = 0
    for study in range(300):
        difficulty = generator.beta(4, 2, size=40)  # mean 2/3
        right = generator.random((40, 25)) < difficulty[:, None]
        labels = np.zeros(1000, int)
        cells = confusions(labels, 1 - right.reshape(-1).astype(int), np.repeat(np.arange(40), 25), 2)
        held += not bootstrap_interval(cells, resamples=300, seed=study).excludes(2 / 3)
        by_frame = confusions(labels, 1 - right.reshape(-1).astype(int), np.arange(1000), 2)
        naive += not bootstrap_interval(by_frame, resamples=100, seed=study).excludes(2 / 3)
    assert 0.90 <= held / 300 <= 0.98
    assert naive / 300 < 0.75  # frames are not independent: what the intervals are for


def test_a_paired_difference_is_sharper_than_two_intervals():
    generator = np.random.default_rng(8)
    difficulty = generator.beta(2, 2, size=60)
    labels, groups = np.zeros(1200, int), np.repeat(np.arange(60), 20)
    draws = generator.random(1200)
    better = confusions(labels, (draws > np.repeat(difficulty, 20) + 0.05).astype(int), groups, 2)
    worse = confusions(labels, (draws > np.repeat(difficulty, 20)).astype(int), groups, 2)
    difference = bootstrap_difference(better, worse)
    assert difference.excludes(0.0)
    assert difference.high - difference.low < bootstrap_interval(better).high - bootstrap_interval(better).low
    assert bootstrap_difference(better, better).low == bootstrap_difference(better, better).high == 0


def test_one_group_has_no_interval():
    with pytest.raises(ValueError, match="groups"):
        bootstrap_interval(np.ones((1, 2, 2)))


def test_a_bootstrapped_mean_has_the_standard_error_of_independent_groups():
    generator = np.random.default_rng(0)
    values = np.repeat(generator.standard_normal(400), 5)  # five equal items a group: 400 independent values
    groups = np.repeat(np.arange(400), 5)
    interval = bootstrap_statistic(lambda items: values[items].mean(), groups, resamples=500)
    half_width = (interval.high - interval.low) / 2
    assert interval.value == pytest.approx(values.mean())
    assert half_width == pytest.approx(1.96 * values.std() / 400**0.5, rel=0.1)
    with pytest.raises(ValueError, match="groups"):
        bootstrap_statistic(lambda items: values[items].mean(), np.zeros(len(values)))


def test_an_interval_of_pairs_covers_at_its_rate_and_one_that_takes_pairs_for_independent_does_not():
    """The mean distance of pairs of 40 items, all pairs: each item is in 78 of them."""
    first, second = np.nonzero(~np.eye(40, dtype=bool))
    truth, covered = 2 / np.pi**0.5, {"items": 0, "pairs": 0}
    for study in range(30):
        values = np.random.default_rng(study).normal(size=40)
        distance = np.abs(values[first] - values[second])
        intervals = {
            "items": bootstrap_pairs(lambda pairs, d=distance: float(d[pairs].mean()), first, second, seed=study),
            "pairs": bootstrap_statistic(
                lambda pairs, d=distance: float(d[pairs].mean()), np.arange(len(first)), seed=study
            ),
        }
        for name, interval in intervals.items():
            covered[name] += not interval.excludes(truth)
    assert covered["items"] >= 26
    assert covered["pairs"] <= 15


def test_a_pair_comes_as_often_as_both_of_its_ends():
    drawn = []
    interval = bootstrap_pairs(
        lambda pairs: drawn.append(np.bincount(pairs, minlength=3).tolist()) or 0.0,
        np.array(["a", "a", "b"]),
        np.array(["b", "c", "c"]),
        resamples=50,
    )
    assert interval.value == 0.0
    draws = drawn[:50]  # the last call is of the pairs as they are
    assert drawn[50] == [1, 1, 1]
    for times in draws:  # of a, b and c, three in all
        assert any(times == [a * b, a * (3 - a - b), b * (3 - a - b)] for a in range(4) for b in range(4 - a))
    assert all(sum(times) for times in draws)


def test_no_draws_and_no_value_make_no_interval():
    with pytest.raises(ValueError, match="`resamples`"):
        bootstrap_statistic(np.mean, np.arange(4), resamples=0)
    assert not Interval(np.nan, np.nan, np.nan).excludes(0.0)


def test_half_precision_features_are_probed_like_others():
    generator = np.random.default_rng(0)
    labels = generator.integers(2, size=30_000)
    features = (20 * generator.normal(size=(30_000, 2)) + 30 * labels[:, None]).astype(np.float16)
    accuracy_of = [
        (fit_linear_probe(values, labels, 2).predict(values) == labels).mean()
        for values in (features, features.astype(np.float64))
    ]
    assert accuracy_of[0] == pytest.approx(accuracy_of[1], abs=1e-3)


def test_neighbors_are_near_whatever_the_scales_of_features():
    generator = np.random.default_rng(0)
    labels = generator.integers(2, size=600)
    features = np.stack([labels + 0.2 * generator.normal(size=600), 1e4 * generator.normal(size=600)], axis=1)
    assert (knn_predictions(features[:400], labels[:400], features[400:]) == labels[400:]).mean() > 0.95


def test_a_control_task_renames_the_classes_of_each_speaker():
    labels, speakers = np.array([0, 0, 1, 2] * 30), np.repeat([3, 5, 9], 40)
    train, test = control_labels((labels, labels[::-1]), (speakers, speakers[::-1]), 3)
    np.testing.assert_array_equal(train, test[::-1])
    for speaker in (3, 5, 9):
        own = speakers == speaker
        assert all(len(set(train[own & (labels == label)])) == 1 for label in range(3))
    assert control_labels((labels, labels), (speakers, speakers + 10), 3) is None
    assert control_labels((labels, labels), (0 * speakers, 0 * speakers), 3) is None


def test_a_control_task_has_two_classes_or_is_none():
    labels, speakers = np.array([0, 1] * 20), np.repeat([0, 1], 20)
    found = [control_labels((labels, labels), (speakers, speakers), 2, seed=seed) for seed in range(50)]
    assert None in found
    assert all(len(np.unique(train)) == 2 for train, _ in filter(None, found))


def test_a_minimum_is_found_within_bounds_without_threads_that_compete_with_those_of_torch():
    seen = []

    def parabola(place):
        seen.extend(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        return float(np.square(place - 2).sum()), 2 * (place - 2)

    assert minimized(parabola, np.zeros(2), [(None, 1), (None, None)]) == pytest.approx([1, 2])
    assert set(seen) == {1}
