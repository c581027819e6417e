"""Traversals where it is known what a direction moves."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from modeling_sim.analysis import most_telling, oracle_directions, rank_correlations, traversal


def changes_of(effects, items=40, noise=0.0, seed=0):
    """Changes `(directions, items, properties)` that scatter around effects `(directions, properties)`."""
    effects = np.asarray(effects, dtype=float)
    return effects[:, None] + noise * np.random.default_rng(seed).normal(size=(len(effects), items, effects.shape[1]))


def test_a_direction_for_each_property_is_wholly_selective_and_one_for_all_alike_not_at_all():
    each = traversal(changes_of(np.diag([1.0, -2.0, 3.0])), np.ones(3), np.arange(3))
    assert each.selectivity.value == 1.0
    assert traversal(changes_of(np.ones((2, 5))), np.ones(5), np.array([0, 3])).selectivity.value == pytest.approx(0.2)


def test_moving_another_property_than_the_one_that_is_meant_does_not_count():
    assert traversal(changes_of(np.diag([1.0, -2.0])), np.ones(2), np.array([1, 0])).selectivity.value == 0


def test_it_is_what_the_formula_says():
    generator = np.random.default_rng(0)
    changes, spread, targets = generator.normal(size=(4, 9, 3)), generator.uniform(0.5, 2, size=3), [2, 0, 1, 1]
    shares = []
    for direction, target in zip(changes, targets, strict=True):
        effects = [abs(np.median(direction[:, number]) / spread[number]) for number in range(3)]
        shares.append(effects[target] / sum(effects))
    outcome = traversal(changes, spread, np.array(targets))
    assert outcome.selectivity.value == pytest.approx(sum(shares) / 4)
    np.testing.assert_allclose(outcome.selectivity_of_directions, shares)
    assert outcome.selectivity.low <= outcome.selectivity.value <= outcome.selectivity.high


def test_units_of_properties_do_not_matter():
    changes, units = changes_of(np.random.default_rng(0).normal(size=(4, 4)), noise=0.1), np.array([1, 10, 0.1, 1000])
    plain, scaled = (traversal(changes * unit, unit, np.arange(4)) for unit in (np.ones(4), units))
    assert scaled.selectivity.value == pytest.approx(plain.selectivity.value)
    np.testing.assert_allclose(scaled.effects, plain.effects)


def test_aimless_directions_are_at_one_by_the_number_of_properties():
    random = np.random.default_rng(0).normal(size=(4000, 4))
    outcome = traversal(changes_of(random, items=2), np.ones(4), np.arange(4000) % 4, resamples=1)
    assert outcome.selectivity.value == pytest.approx(1 / 4, abs=0.01)


def test_a_property_that_some_items_lack_is_taken_of_the_others_and_one_that_none_has_of_none():
    changes = changes_of([[1.0, 0.5, 7.0]])
    changes[0, ::2, 1] = np.nan
    changes[0, :, 2] = np.nan
    outcome = traversal(changes, np.array([1.0, 1.0, np.nan]), np.array([0]))
    np.testing.assert_allclose(outcome.effects, [[1.0, 0.5, 0.0]])
    assert outcome.selectivity.value == pytest.approx(2 / 3)


def test_a_direction_that_changes_nothing_does_not_move_its_property():
    outcome = traversal(changes_of([[1.0, 0.0], [0.0, 0.0]]), np.ones(2), np.array([0, 1]))
    assert outcome.selectivity_of_directions.tolist() == [1.0, 0.0]
    assert outcome.selectivity.value == 0.5


@pytest.mark.parametrize(
    ("changes", "spread", "targets", "message"),
    [
        (np.zeros((2, 3)), np.ones(3), [0, 1], "`changes`"),
        (np.ones((2, 3, 4)), np.ones(3), [0, 1], "`changes`"),
        (np.ones((2, 3, 4)), np.ones(4), [0], "`changes`"),
        (np.ones((2, 3, 4)), np.ones(4), [0, -1], "`targets`"),
        (np.ones((2, 3, 4)), np.ones(4), [0, 4], "`targets`"),
        (np.zeros((2, 3, 4)), np.ones(4), [0, 1], "`changes`"),
        (np.ones((2, 3, 4)), np.array([1.0, 0.0, np.nan, 1.0]), [1, 3], r"`targets`.*\[1\]"),
    ],
)
def test_changes_that_say_nothing_are_refused(changes, spread, targets, message):
    with pytest.raises(ValueError, match=message):
        traversal(changes, spread, np.array(targets))


def test_the_coordinate_that_a_property_follows_is_found_whatever_its_sign_or_scale():
    coordinates = np.random.default_rng(0).normal(size=(60, 7))
    properties = np.stack([np.exp(coordinates[:, 4]), -(coordinates[:, 1] ** 3), np.ones(60), np.full(60, np.nan)], 1)
    properties[::3, 0] = np.nan
    chosen, correlations = most_telling(coordinates, properties)
    assert chosen.tolist() == [4, 1, -1, -1]
    np.testing.assert_allclose(correlations, [1.0, -1.0, np.nan, np.nan])


@pytest.mark.parametrize(("items", "expected"), [(256, 0.17), (40, 0.44)])
def test_the_best_of_many_coordinates_correlates_with_anything(items, expected):
    generator = np.random.default_rng(0)
    _, correlations = most_telling(generator.normal(size=(items, 128)), generator.normal(size=(items, 50)))
    assert np.abs(correlations).mean() == pytest.approx(expected, abs=0.02)


def test_correlations_of_ranks_are_those_of_scipy_with_ties_too():
    generator = np.random.default_rng(0)
    coordinates = np.c_[generator.normal(size=(30, 2)), generator.integers(0, 4, 30), np.zeros(30)]
    values = coordinates[:, 0] + generator.integers(0, 3, 30)
    expected = [spearmanr(column, values).statistic for column in coordinates.T[:3]]
    np.testing.assert_allclose(rank_correlations(coordinates, values), [*expected, 0.0], atol=1e-12)
    np.testing.assert_array_equal(rank_correlations(coordinates, np.ones(30)), 0.0)


@pytest.mark.parametrize(
    ("coordinates", "properties", "message"),
    [
        (np.ones((3, 2)), np.ones((4, 2)), "`coordinates`"),
        (np.ones(3), np.ones((3, 1)), "`coordinates`"),
        (np.full((3, 2), np.nan), np.ones((3, 1)), "`coordinates`"),
    ],
)
def test_coordinates_that_do_not_fit_are_refused(coordinates, properties, message):
    with pytest.raises(ValueError, match=message):
        most_telling(coordinates, properties)


def test_oracle_directions_are_those_that_latents_were_made_with_however_properties_hang_together():
    generator = np.random.default_rng(0)
    axes = np.linalg.qr(generator.standard_normal((6, 6)))[0][:2]
    properties = generator.standard_normal((500, 2)) @ np.array([[1.0, 0.8], [0.0, 1.0]]) * [1, 100] + [7, 3]
    latents = properties / [1, 100] @ axes + 0.1 * generator.standard_normal((500, 6))
    partial = np.column_stack([properties, np.full(500, 5.0), np.full(500, np.nan)])
    partial[::7, 0] = np.nan  # items without pitch
    directions, targets = oracle_directions(latents, partial)
    np.testing.assert_array_equal(targets, [0, 1])
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    assert (np.diagonal(directions @ axes.T) > 0.99).all()
    # The dimension that correlates most with one property moves the other, too.
    correlated = np.corrcoef(properties.T, (latents @ axes.T).T)[:2, 2:]
    assert np.abs(correlated).min() > 0.5
    with pytest.raises(ValueError, match="complete for 2 items"):
        oracle_directions(latents[:2], properties[:2])
    with pytest.raises(ValueError, match="of the same items"):
        oracle_directions(latents[:-1], properties)


def test_regression_directions_tell_a_decoder_that_cannot_from_axes_that_do_not():
    """Of linear decoders, whose answer is known: 1 if each property has a direction, and a share if all move as one."""
    generator = np.random.default_rng(0)
    latents = generator.standard_normal((4000, 6))
    readout = generator.standard_normal((6, 3))
    spoken = latents @ readout
    directions, targets = oracle_directions(latents, spoken)
    best = np.eye(6)[most_telling(latents, spoken)[0]]
    settings = {"spread": spoken.std(axis=0), "targets": targets, "resamples": 2}

    def selectivity(moves, decoder):
        changes = np.repeat((moves @ decoder)[:, None], 2, axis=1)
        return traversal(changes, **settings).selectivity.value

    assert selectivity(directions, readout) > 0.99
    assert selectivity(best, readout) < 0.8
    as_one = generator.standard_normal((6, 1)) * spoken.std(axis=0)
    assert selectivity(directions, as_one) == pytest.approx(1 / 3, abs=1e-6)
    # Turned axes change nothing about either answer.
    turn = np.linalg.qr(generator.standard_normal((6, 6)))[0]
    turned, _ = oracle_directions(latents @ turn, spoken)
    assert selectivity(turned, turn.T @ readout) > 0.99
