"""Traversals where it is known what a direction moves."""

import numpy as np
import pytest

from modeling_sim.analysis import traversal


def changes_of(effects, items=40, noise=0.0, seed=0):
    """Changes `(directions, items, properties)` that scatter around effects `(directions, properties)`."""
    effects = np.asarray(effects, dtype=float)
    return effects[:, None] + noise * np.random.default_rng(seed).normal(size=(len(effects), items, effects.shape[1]))


def test_a_direction_for_each_property_is_wholly_selective_and_one_for_all_alike_not_at_all():
    assert traversal(changes_of(np.diag([1.0, -2.0, 3.0])), np.ones(3)).selectivity.value == 1.0
    assert traversal(changes_of(np.ones((2, 5))), np.ones(5)).selectivity.value == pytest.approx(1 / 5)


def test_it_is_what_the_formula_says():
    generator = np.random.default_rng(0)
    changes, spread = generator.normal(size=(4, 9, 3)), generator.uniform(0.5, 2, size=3)
    largest = total = 0.0
    for direction in changes:
        effects = [abs(np.median(direction[:, number]) / spread[number]) for number in range(3)]
        largest, total = largest + max(effects), total + sum(effects)
    outcome = traversal(changes, spread)
    assert outcome.selectivity.value == pytest.approx(largest / total)
    assert outcome.selectivity.low <= outcome.selectivity.value <= outcome.selectivity.high


def test_units_of_properties_do_not_matter():
    changes, units = changes_of(np.random.default_rng(0).normal(size=(6, 4)), noise=0.1), np.array([1, 10, 0.1, 1000])
    plain, scaled = traversal(changes, np.ones(4)), traversal(changes * units, units)
    assert scaled.selectivity.value == pytest.approx(plain.selectivity.value)
    np.testing.assert_allclose(scaled.effects, plain.effects)


def test_random_directions_of_properties_that_change_together_are_not_at_one_by_their_number():
    """Why the null is that of random directions: here any direction moves two properties and hardly the others."""
    loadings = np.array([[1.0, 1.0, 0.05, 0.05], [1.0, 1.0, -0.05, 0.05]])
    random = np.random.default_rng(0).normal(size=(50, 2)) @ loadings
    assert traversal(changes_of(random), np.ones(4)).selectivity.value > 1.5 / 4


def test_a_property_that_some_items_lack_is_taken_of_the_others_and_one_that_none_has_of_none():
    changes = changes_of([[1.0, 0.5, 7.0]])
    changes[0, ::2, 1] = np.nan
    changes[0, :, 2] = np.nan
    outcome = traversal(changes, np.array([1.0, 1.0, np.nan]))
    np.testing.assert_allclose(outcome.effects, [[1.0, 0.5, 0.0]])
    assert outcome.selectivity.value == pytest.approx(2 / 3)


def test_a_direction_that_changes_nothing_weighs_nothing():
    outcome = traversal(changes_of([[1.0, 0.0], [0.0, 0.0]]), np.ones(2))
    assert outcome.selectivity.value == 1.0
    assert np.isnan(outcome.selectivity_of_directions[1])


@pytest.mark.parametrize(
    ("changes", "spread", "message"),
    [
        (np.zeros((2, 3)), np.ones(3), "shape"),
        (np.ones((2, 3, 4)), np.ones(3), "shape"),
        (np.zeros((2, 3, 4)), np.ones(4), "no change"),
        (np.ones((2, 3, 4)), np.zeros(4), "no change"),
    ],
)
def test_changes_that_say_nothing_are_refused(changes, spread, message):
    with pytest.raises(ValueError, match=message):
        traversal(changes, spread)
