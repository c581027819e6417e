"""Reconstruction curves of decoders whose answer is known, and the paper's curve against its plain loop."""

import numpy as np
import pytest
import torch

from benchmarks.reconstruction_curve import compare, pair_by_pair, small_decoder
from modeling_sim.analysis import (
    independent_components,
    principal_components,
    random_axes,
    reconstruction_controls,
    reconstruction_curve,
    single_replacement_ranking,
)
from modeling_sim.analysis.decoding import draw_pairs

ITEMS, FRAMES, DIMS = 10, 6, 16
KS = [0, 1, 2, 4, 8, 16]
PAPER = {"ranking": "pair", "standardize": False, "distance": "mse", "num_pairs": None}


@pytest.fixture(scope="module")
def latents(noise):
    """Items that differ most in dimensions of unlike scales."""
    scales = torch.linspace(0.1, 3, DIMS, dtype=torch.float64)
    items = noise(ITEMS, 1, DIMS, seed=1, dtype=torch.float64)
    return scales * (items + noise(ITEMS, FRAMES, DIMS, dtype=torch.float64))


@pytest.fixture(scope="module")
def curved(noise):
    """A decoder that mixes dimensions and is not linear."""
    weight = noise(DIMS, 40, seed=2, dtype=torch.float64) / 4
    return lambda values: (values @ weight).tanh().flatten(1)


def identity(values):
    """A decoder whose sound is the latents."""
    return values.flatten(1)


def test_the_papers_curve_is_that_of_a_loop_over_pairs(latents, curved):
    curve = reconstruction_curve(latents, curved, KS, **PAPER)
    np.testing.assert_allclose(curve.error, pair_by_pair(latents, curved, KS), rtol=1e-12, atol=1e-30)
    assert (curve.error[0], curve.error[-1]) == (1, 0)
    assert len(curve.first) == ITEMS * (ITEMS - 1)


def test_the_papers_curve_of_a_convolutional_decoder_is_that_of_the_loop():
    outcome = compare(items=3, dims=16, hidden_size=4, batch_size=5, seed=0)
    assert outcome["largest_difference"] < 1e-6
    assert outcome["loop_decodings"] == 11 * 6 * 5
    assert outcome["batched_decodings"] == 6 * 3 + 3
    assert small_decoder(16, 4, 0)(torch.zeros(2, 64, 16)).shape == (2, 10_240)


@pytest.mark.parametrize("batch_size", [1, 3, 1000])
def test_batches_do_not_change_a_curve(batch_size, latents, curved):
    expected = reconstruction_curve(latents, curved, KS, **PAPER)
    curve = reconstruction_curve(latents, curved, KS, batch_size=batch_size, **PAPER)
    np.testing.assert_allclose(curve.pair_errors, expected.pair_errors, rtol=1e-12)


def test_random_dimensions_of_a_sound_that_is_the_latents_leave_the_share_that_is_not_replaced(noise):
    even = noise(20, 1, DIMS, seed=3, dtype=torch.float64).expand(-1, FRAMES, -1)
    curve = reconstruction_curve(even, identity, KS, distance="mse", ranking="random", num_pairs=None)
    np.testing.assert_allclose(curve.error, 1 - np.array(KS) / DIMS, atol=0.06)


def test_a_global_ranking_finds_the_dimension_that_alone_is_heard_and_standardizing_decides_which(noise):
    values = noise(12, 1, 8, seed=4, dtype=torch.float64) + 0.1 * noise(12, FRAMES, 8, seed=5, dtype=torch.float64)
    values[:, :, 0] += 100 * noise(12, FRAMES, seed=6, dtype=torch.float64)  # large, and the same for all items

    def heard(latents):
        return latents[:, :, 3]

    def with_one(**settings):
        return reconstruction_curve(values, heard, [0, 1, 8], distance="mse", num_pairs=None, **settings).error[1]

    order = torch.tensor([3, 0, 1, 2, 4, 5, 6, 7])
    assert with_one(ranking=order) == 0
    assert with_one(ranking=order.flip(0)) == 1
    assert single_replacement_ranking(values, heard, distance="mse", num_pairs=3)[0] == 3
    # The loud dimension comes first unless it is divided by how much it varies anyway.
    seven = {"distance": "mse", "num_pairs": None, "ranking": "global"}
    raw = reconstruction_curve(values, lambda z: z[:, :, 0], [1], standardize=False, **seven)
    standardized = reconstruction_curve(values, lambda z: z[:, :, 0], [1, 7], standardize=True, **seven)
    assert raw.error[0] == 0
    np.testing.assert_allclose(standardized.error, [1, 1])


def test_area_is_the_mean_over_octaves(latents, curved):
    curve = reconstruction_curve(latents, curved, [0, 1, 2, 8], **PAPER)
    one, two, eight = curve.error[1:]
    assert curve.area == pytest.approx(((one + two) / 2 + 2 * (two + eight) / 2) / 3)
    assert curve.area_interval.low < curve.area < curve.area_interval.high
    single = reconstruction_curve(latents, curved, [4], **PAPER)
    assert single.area == single.error[0]


def test_median_ratio_is_over_pairs_and_not_ruled_by_the_loudest(latents):
    loud = latents.clone()
    loud[0] *= 1000
    curve = reconstruction_curve(loud, identity, [4], **PAPER)
    ratios = curve.pair_errors[:, 0] / curve.largest_errors
    assert curve.median_ratio[0] == pytest.approx(np.median(ratios))
    assert curve.error[0] == pytest.approx(ratios[(curve.first == 0) | (curve.second == 0)].mean(), rel=0.2)


@pytest.mark.parametrize("transform", [random_axes, principal_components, independent_components])
@pytest.mark.parametrize("standardize", [True, False])
def test_replacing_every_coordinate_of_a_transform_gives_the_other_item(transform, standardize, latents, curved):
    arguments = (3,) if transform is random_axes else ()
    change = transform(latents, *arguments, standardize=standardize)
    torch.testing.assert_close(change.matrix @ change.inverse, torch.eye(DIMS, dtype=torch.float64))
    curve = reconstruction_curve(
        latents, curved, [0, 15, 16], transform=change, standardize=standardize, distance="mse", num_pairs=None
    )
    assert (curve.error[0], curve.error[-1]) == (1, 0)
    assert 0 < curve.error[1] < 0.2


def test_a_transformed_curve_is_that_of_transformed_latents_and_a_decoder_that_undoes_it(latents, curved):
    change = random_axes(latents, 5, standardize=False)
    curve = reconstruction_curve(latents, curved, KS, transform=change, **PAPER)
    expected = reconstruction_curve(change.apply(latents), lambda values: curved(change.invert(values)), KS, **PAPER)
    np.testing.assert_allclose(curve.error, expected.error, rtol=1e-9)


def test_rotating_sources_flattens_the_curve_principal_and_independent_components_bring_it_back(noise):
    # Items differ in 2 of 8 sources, none of which is normal.
    sources = (noise(30, 20, 8, seed=7, dtype=torch.float64) ** 3) * torch.linspace(0.3, 0.5, 8)
    sources[:, :, :2] += 5 * noise(30, 1, 2, seed=8, dtype=torch.float64)
    rotation = random_axes(sources, 9, standardize=False)
    mixed = sources @ rotation.matrix

    def heard(values):
        return (values @ rotation.inverse)[:, :, :2].flatten(1)

    def with_two(**settings):
        return reconstruction_curve(
            mixed, heard, [2], standardize=False, distance="mse", num_pairs=None, **settings
        ).error[0]

    plain = with_two()
    pca = with_two(transform=principal_components(mixed, standardize=False))
    ica = with_two(transform=independent_components(mixed, standardize=False))
    assert plain > 0.2
    assert pca < 0.05
    assert ica < 0.05


def test_independent_components_find_rotated_sources_and_survive_directions_without_variance(noise):
    sources = noise(20, 100, 4, seed=10, dtype=torch.float64) ** 3
    rotation = random_axes(sources, 11, standardize=False)
    mixed = torch.cat([sources @ rotation.matrix, torch.zeros(20, 100, 1, dtype=torch.float64)], dim=2)
    change = independent_components(mixed, standardize=False)
    found = (mixed @ change.matrix).flatten(0, 1)
    correlation = np.corrcoef(sources.flatten(0, 1).numpy().T, found.numpy()[:, :4].T)[:4, 4:]
    np.testing.assert_allclose(np.abs(correlation).max(axis=1), 1, atol=0.02)
    torch.testing.assert_close(change.inverse[:4].norm(dim=1), torch.ones(4, dtype=torch.float64))
    assert change.inverse.isfinite().all()


def test_controls_share_pairs_and_the_oracle_finds_the_dimension_that_is_heard(noise):
    values = noise(8, 4, 4, seed=12) + noise(8, 1, 4, seed=13)
    wave = torch.sin(torch.arange(800) * 0.3)

    def decode(latents):
        return latents[:, :, 2].mean(dim=1, keepdim=True).exp() * wave

    curves = reconstruction_controls(values, decode, num_pairs=30, oracle_pairs=2, resamples=20)
    assert list(curves) == ["dimensions", "random", "rotation", "pca", "ica", "temporal", "oracle"]
    for curve in curves.values():
        assert curve.ks == (1, 2, 4)
        np.testing.assert_array_equal(curve.first, curves["random"].first)
        assert curve.error[-1] == 0
    assert curves["oracle"].error[0] == pytest.approx(0, abs=1e-9)
    assert curves["random"].error[0] > 0.4


def test_pairs_are_ordered_different_and_drawn_by_seed():
    first, second = draw_pairs(5, None, 0)
    assert sorted(zip(first, second, strict=True)) == [(i, j) for i in range(5) for j in range(5) if i != j]
    some = draw_pairs(1000, 50, 0)
    assert len(set(zip(*some, strict=True))) == 50
    assert (some[0] != some[1]).all()
    np.testing.assert_array_equal(some, draw_pairs(1000, 50, 0))
    assert (some[0] != draw_pairs(1000, 50, 1)[0]).any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ks": [3, 17]}, "`ks`"),
        ({"ks": [0]}, "`ks`"),
        ({"ranking": "best"}, "`ranking`"),
        ({"ranking": torch.zeros(DIMS, dtype=torch.long)}, "`ranking`"),
        ({"distance": "l1"}, "`distance`"),
        ({"latents": torch.full((3, 4, DIMS), torch.nan)}, "`latents`"),
        ({"latents": torch.zeros(3, 4, DIMS)}, "pairs"),
        ({"num_pairs": 0}, "`num_pairs`"),
        ({"decode": lambda values: values}, "`decode`"),
    ],
)
def test_bad_input_is_reported(change, words, latents):
    settings = {"latents": latents, "decode": identity, "ks": KS, "distance": "mse", **change}
    with pytest.raises(ValueError, match=words):
        reconstruction_curve(**settings)


def test_a_transform_of_another_size_is_reported(latents, noise):
    with pytest.raises(ValueError, match="`transform`"):
        reconstruction_curve(latents, identity, transform=random_axes(noise(2, 2, 3), 0), distance="mse")
