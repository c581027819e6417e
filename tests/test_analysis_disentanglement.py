"""Disentanglement of codes whose answer is known: perfect, copied, rotated, and with nothing in them."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import mutual_info_score

from modeling_sim.analysis import (
    dci,
    disentanglement,
    modularity_explicitness,
    mutual_information_gap,
    permuted_items,
    separated_attribute_predictability,
)
from modeling_sim.analysis.disentanglement import l1_logistic_regression

ITEMS = 3000


@pytest.fixture(scope="module")
def factors():
    """Two classes, four classes and an amount, independent of each other."""
    generator = np.random.default_rng(0)
    return {
        "voiced": generator.integers(2, size=ITEMS),
        "vowel": generator.integers(4, size=ITEMS),
        "pitch": generator.uniform(size=ITEMS),
    }


@pytest.fixture(scope="module")
def noise():
    """A code of eight dimensions that knows nothing."""
    return np.random.default_rng(1).normal(size=(ITEMS, 8))


@pytest.fixture(scope="module")
def perfect(factors, noise):
    """One dimension a factor, on unlike scales, then five of noise."""
    code = np.stack(list(factors.values()), axis=1) + 1e-3 * noise[:, :3]
    return np.hstack([code * [1.0, 100.0, 0.01], noise[:, 3:]])


def rotated(code):
    """Standardized dimensions, mixed by a random rotation."""
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(code.shape[1],) * 2))[0]
    return (code - code.mean(axis=0)) / code.std(axis=0) @ rotation


@pytest.mark.parametrize("model", ["l1_logistic", "forest"])
def test_a_perfect_code_has_dci_of_1_and_its_rotation_keeps_only_the_information(model, perfect, factors):
    straight = dci(perfect, factors, model=model)
    mixed = dci(rotated(perfect), factors, model=model)
    assert min(straight.disentanglement, straight.completeness, straight.informativeness) > 0.99
    np.testing.assert_allclose(straight.importance[:3], np.eye(3), atol=0.01)
    assert mixed.disentanglement < 0.6
    assert mixed.completeness < 0.6
    assert mixed.informativeness > (0.9 if model == "l1_logistic" else 0.6)


def test_a_code_of_noise_informs_at_chance_and_a_forest_finds_nothing_in_it(noise, factors):
    score = dci(noise, factors, model="forest")
    np.testing.assert_allclose(score.informativeness_of_factors, score.chance, atol=0.1)
    np.testing.assert_allclose(score.chance, [0.5, 0.25, 0.0], atol=0.05)
    assert score.disentanglement < 0.01
    assert score.completeness < 0.01
    linear = dci(noise, factors, l1=1.0)  # so strong that no weight is left
    assert linear.disentanglement == linear.completeness == linear.importance.sum() == 0


def test_disentanglement_and_completeness_are_the_entropies_of_their_paper(perfect, factors):
    score = dci(rotated(perfect), factors)
    importance = score.importance
    dims, count = importance.shape
    of_dims = [1 + sum(p * np.log(p) / np.log(count) for p in row / row.sum() if p) for row in importance]
    of_factors = [1 + sum(p * np.log(p) / np.log(dims) for p in row / row.sum() if p) for row in importance.T]
    weights = importance.sum(axis=1) / importance.sum()
    assert score.disentanglement == pytest.approx(np.dot(weights, of_dims))
    assert score.completeness == pytest.approx(np.mean(of_factors))


def test_l1_logistic_regression_meets_the_conditions_of_its_optimum(noise):
    generator = np.random.default_rng(3)
    labels = (noise[:, :3] + generator.normal(size=(ITEMS, 3))).argmax(axis=1)
    features = (noise - noise.mean(axis=0)) / noise.std(axis=0)
    l1 = 0.03
    weight, bias = l1_logistic_regression(features, labels, 3, l1=l1, tolerance=1e-3)
    residual = softmax(features @ weight.T + bias, axis=1) - np.eye(3)[labels]
    slope = residual.T @ features / ITEMS
    np.testing.assert_allclose(slope[weight != 0], -l1 * np.sign(weight[weight != 0]), atol=1e-4)
    assert (np.abs(slope[weight == 0]) <= l1 + 1e-4).all()
    np.testing.assert_allclose(residual.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_array_equal(weight != 0, np.eye(3, 8, dtype=bool))  # one weight a class is the cheapest answer


@pytest.mark.parametrize("binning", ["width", "count"])
def test_mutual_information_is_scikit_learns_dimension_by_dimension(binning, perfect, factors):
    score = mutual_information_gap(perfect, factors, bins=7, binning=binning)

    def cut(values):
        quantiles = np.linspace(0, 1, 8)
        edges = np.quantile(values, quantiles) if binning == "count" else np.histogram_bin_edges(values, 7)
        return np.digitize(values, edges[1:-1])

    known = [factors["voiced"], factors["vowel"], cut(factors["pitch"])]
    expected = [[mutual_info_score(cut(code), of) for of in known] for code in perfect.T]
    np.testing.assert_allclose(score.mutual_information, expected, atol=2e-3 if binning == "width" else 1e-12)
    gaps = [
        (np.sort(column)[-1] - np.sort(column)[-2]) / mutual_info_score(of, of)
        for column, of in zip(np.transpose(expected), known, strict=True)
    ]
    np.testing.assert_allclose(score.gap_of_factors, gaps, atol=2e-3)


def test_gaps_are_1_for_a_perfect_code_0_for_its_copy_and_0_for_noise(perfect, noise, factors):
    copied = perfect[:, [0, 0, 1, 1, 2, 2]]
    for measure in (mutual_information_gap, separated_attribute_predictability):
        assert measure(perfect, factors).gap > 0.95
        assert measure(copied, factors).gap == 0
        assert measure(noise, factors).gap < 0.03


def test_separated_predictability_is_that_of_a_plain_loop(perfect, factors):
    code = rotated(perfect)
    groups = np.arange(ITEMS) // 10
    score = separated_attribute_predictability(code, factors, groups=groups, bins=10, seed=4)
    from sklearn.model_selection import GroupShuffleSplit

    train, test = next(GroupShuffleSplit(1, test_size=0.2, random_state=4).split(groups, groups=groups))
    labels, dim = factors["vowel"], 5
    bins = np.digitize(code[:, dim], np.histogram_bin_edges(code[:, dim], 10)[1:-1])
    hits = [[] for _ in range(4)]
    for item in test:
        density = [
            ((bins[train] == bins[item]) & (labels[train] == of)).sum() / (labels[train] == of).sum() for of in range(4)
        ]
        hits[labels[item]].append(np.argmax(density) == labels[item])
    accuracy = np.mean([np.mean(of) for of in hits])
    assert score.scores[dim, 1] == pytest.approx((accuracy - 0.25) / 0.75)
    assert score.scores[dim, 2] == pytest.approx(np.corrcoef(code[:, dim], factors["pitch"])[0, 1] ** 2)


def test_rare_classes_weigh_as_much_as_frequent_ones_in_separated_predictability(noise):
    rare = (np.random.default_rng(5).random(ITEMS) < 0.05).astype(int)
    code = np.hstack([rare[:, None], noise])
    score = separated_attribute_predictability(code, {"rare": rare})
    assert score.scores[0, 0] == pytest.approx(1)
    assert np.abs(score.scores[1:]).max() < 0.2  # always the frequent class would be right in 95 % of items


def test_separated_predictability_of_noise_is_0_where_the_test_part_lacks_classes():
    """Ten speakers of two utterances each: few of them are in the test part."""
    utterances = np.repeat(np.arange(20), 30)
    gaps = []
    for seed in range(10):
        code = np.random.default_rng(seed).normal(size=(600, 4))
        score = separated_attribute_predictability(code, {"speaker": utterances // 2}, groups=utterances, seed=seed)
        gaps.append(score.scores.mean())
    assert abs(np.mean(gaps)) < 0.08


def test_modularity_is_1_for_a_perfect_code_and_noise_dimensions_do_not_count(perfect, noise, factors):
    score = modularity_explicitness(perfect, factors)
    assert score.modularity > 0.999
    assert score.explicitness > 0.98
    np.testing.assert_array_equal(score.informative, [True] * 3 + [False] * 5)
    shared = perfect[:, [0]] + perfect[:, [1]] / 100 * 2  # two factors in one dimension
    assert modularity_explicitness(np.hstack([shared, noise]), factors).modularity < 0.95
    nothing = modularity_explicitness(noise, factors)
    assert nothing.modularity == 0
    assert nothing.explicitness == pytest.approx(0.5, abs=0.03)


def test_modularity_is_the_formula_of_its_paper_over_informative_dimensions(perfect, factors):
    code = rotated(perfect)
    score = modularity_explicitness(code, factors)
    information = mutual_information_gap(code, factors).mutual_information
    terms, weights = [], []
    for row in information[score.informative]:
        best = row.argmax()
        others = sum(row[f] ** 2 for f in range(3) if f != best)
        terms.append(1 - others / (row[best] ** 2 * 2))
        weights.append(row[best])
    assert score.modularity == pytest.approx(np.average(terms, weights=weights))


def test_explicitness_of_an_amount_is_the_share_of_pairs_in_order(noise):
    amount = noise[:, 0] + noise[:, 1]
    score = modularity_explicitness(noise[:, 1:], {"amount": amount, "copy": amount})
    # Two normal variables with correlation r agree in order in 1/2 + arcsin(r) / pi of pairs.
    assert score.explicitness == pytest.approx(0.5 + np.arcsin(0.5**0.5) / np.pi, abs=0.03)


def test_permuted_items_keep_groups_together_and_leave_none_in_place():
    groups = np.repeat([3, 1, 2, 0], [5, 5, 5, 5])
    order = permuted_items(groups, 0)
    assert sorted(order) == list(range(20))
    assert (groups[order] != groups).all()
    assert (np.diff(order.reshape(4, 5), axis=1) == 1).all()
    unequal = np.repeat(np.arange(50), np.random.default_rng(0).integers(1, 9, size=50))
    order = permuted_items(unequal, 1)
    assert (unequal[order] != unequal).all()
    assert all(len(np.unique(unequal[order[unequal == group]])) == 1 for group in range(50))
    assert all((np.diff(order[unequal == group]) >= 0).all() for group in range(50))


def test_groups_of_unequal_length_are_no_more_informative_than_their_null():
    """Blocks that slipped against the borders of groups called noise informative in most studies."""
    found = 0
    for study in range(40):
        generator = np.random.default_rng(study)
        groups = np.repeat(np.arange(60), generator.integers(5, 25, size=60))
        code, factors = generator.normal(size=(60, 3))[groups], generator.integers(2, size=(60, 2))[groups]
        score = modularity_explicitness(code, factors, groups=groups, bins=5)
        found += bool(score.informative.any())
    assert found <= 8


def test_all_measures_fall_to_their_nulls_with_permuted_factors(perfect, factors):
    score = disentanglement(perfect, factors, groups=np.arange(ITEMS) // 10, resamples=20)
    assert score.dci.informativeness > 0.99
    assert score.mutual_information_gap.gap > 0.95
    null = score.permuted
    np.testing.assert_allclose(null.dci.informativeness_of_factors, null.dci.chance, atol=0.05)
    assert null.mutual_information_gap.gap < 0.03
    assert null.separated_attribute_predictability.gap < 0.05
    assert null.modularity_explicitness.modularity in (0, pytest.approx(1, abs=0.1))
    assert null.modularity_explicitness.informative.sum() <= 1
    assert null.modularity_explicitness.explicitness == pytest.approx(0.5, abs=0.04)
    for name, value in (
        ("mutual_information_gap", score.mutual_information_gap.gap),
        ("modularity", score.modularity_explicitness.modularity),
    ):
        interval = score.intervals[name]
        assert interval.value == pytest.approx(value)
        assert interval.high - interval.low < 0.05


def test_slow_factors_need_groups_for_their_null():
    # 40 utterances whose code and factor are both constant within each, and unrelated.
    generator = np.random.default_rng(6)
    groups = np.repeat(np.arange(40), 50)
    code = np.repeat(generator.normal(size=(40, 6)), 50, axis=0)
    factor = np.repeat(generator.normal(size=40), 50)
    real = mutual_information_gap(code, {"slow": factor}).mutual_information.mean()
    by_frame = mutual_information_gap(code, {"slow": factor[permuted_items(np.arange(2000), 0)]})
    by_group = mutual_information_gap(code, {"slow": factor[permuted_items(groups, 0)]})
    assert by_group.mutual_information.mean() == pytest.approx(real, rel=0.2)
    assert by_frame.mutual_information.mean() < real / 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"codes": np.full((ITEMS, 2), np.nan)}, "`codes`"),
        ({"codes": np.zeros((ITEMS, 1))}, "`codes`"),
        ({"factors": {"a": np.zeros(ITEMS, int), "b": np.arange(ITEMS) % 2}}, "'a'"),
        ({"factors": {"a": np.arange(5), "b": np.arange(ITEMS) % 2}}, "'a'"),
        ({"factors": {"a": np.full(ITEMS, np.nan), "b": np.arange(ITEMS) % 2}}, "'a'"),
        ({"factors": np.arange(ITEMS)[:, None] % 2}, "`factors`"),
        ({"factors": np.arange(ITEMS) % 2}, "`factors`"),
        ({"groups": np.zeros(ITEMS)}, "`groups`"),
        ({"groups": np.zeros(3)}, "`groups`"),
        ({"model": "boosting"}, "`model`"),
    ],
)
@pytest.mark.parametrize("measure", [dci, disentanglement])
def test_bad_input_is_reported_by_name(measure, change, words, perfect, factors):
    with pytest.raises(ValueError, match=words):
        measure(**{"codes": perfect, "factors": factors, **change})


def test_a_speaker_cannot_be_told_from_others_speech(perfect):
    speaker = np.arange(ITEMS) // 300
    with pytest.raises(ValueError, match="'speaker'"):
        dci(perfect, {"speaker": speaker, "parity": np.arange(ITEMS) % 2}, groups=speaker)


def test_an_array_of_factors_is_a_dictionary_of_its_columns(perfect, factors):
    classes = np.stack([factors["voiced"], factors["vowel"]], axis=1)
    array, named = dci(perfect, classes), dci(perfect, {"a": classes[:, 0], "b": classes[:, 1]})
    np.testing.assert_array_equal(array.importance, named.importance)
    assert array.names == ("factor 0", "factor 1")


def test_amounts_of_two_levels_that_are_read_perfectly_are_fully_explicit(noise):
    level = np.repeat([0.0, 1.0], ITEMS // 2)
    code = np.concatenate([level[:, None], noise[:, :2]], axis=1)
    score = modularity_explicitness(code, {"level": level, "other": noise[:, 3]})
    assert score.explicitness_of_factors[0] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.int8])
def test_narrow_types_say_what_wide_ones_do(dtype):
    generator = np.random.default_rng(0)
    labels = generator.integers(3, size=20_000)
    code = np.round(30 * generator.normal(size=(20_000, 3)) / 4 + 15 * np.eye(3)[labels]).astype(dtype)
    factors = {"label": labels, "amount": labels + generator.normal(size=20_000)}
    narrow, wide = (disentanglement(codes, factors) for codes in (code, code.astype(np.float64)))
    assert narrow.dci.informativeness == pytest.approx(wide.dci.informativeness, abs=0.01)
    assert narrow.separated_attribute_predictability.gap == pytest.approx(
        wide.separated_attribute_predictability.gap, abs=0.01
    )
    assert narrow.mutual_information_gap.gap == pytest.approx(wide.mutual_information_gap.gap, abs=0.01)


def test_a_factor_that_a_draw_of_utterances_lacks_does_not_end_the_bootstrap(noise):
    groups = np.arange(ITEMS) // (ITEMS // 20)
    rare = np.isin(groups, [3, 8, 12, 15]).astype(int)  # none of them is in one draw of 90
    score = disentanglement(noise, {"rare": rare, "other": np.arange(ITEMS) % 2}, groups=groups, resamples=200, seed=2)
    assert np.isfinite([score.intervals["mutual_information_gap"].low, score.intervals["modularity"].high]).all()


def test_explicitness_is_of_items_that_were_not_fitted():
    """With as many dimensions as items any labels can be learnt by heart, and nothing of them told."""
    generator = np.random.default_rng(0)
    code = generator.normal(size=(100, 80))
    factors = {"class": generator.integers(2, size=100), "amount": generator.normal(size=100)}
    score = modularity_explicitness(code, factors, l2=1e-4, test_share=0.4)
    np.testing.assert_allclose(score.explicitness_of_factors, 0.5, atol=0.25)
