"""Axes of known sources, what single dimensions say of known properties, and whether codes share axes."""

import numpy as np
import pytest
import torch
from scipy.signal import lfilter
from scipy.stats import spearmanr

from modeling_sim.analysis import (
    FrameMoments,
    axis_gaps,
    best_dimensions,
    joint_diagonalization,
    loudest_moments,
    mean_correlation_coefficient,
    principal_components,
    random_rotation,
    rotation_gap,
    seed_consistency,
    slow_features,
    temporal_components,
)

RHO = np.array([0.99, 0.97, 0.94, 0.9, 0.8, 0.65, 0.5, 0.3])
LENGTHS = [3000, 1, 2500, 4, 4000, 2495]


@pytest.fixture(scope="module")
def sources():
    """Gaussian autoregressive processes of variance 1, the slowest first, `(frames, 8)`."""
    noise = np.random.default_rng(0).standard_normal((12_000, len(RHO)))
    return np.stack([lfilter([(1 - rho**2) ** 0.5], [1, -rho], of) for rho, of in zip(RHO, noise.T, strict=True)], 1)


def mixing(orthogonal):
    generator = np.random.default_rng(1)
    return random_rotation(8, generator) if orthogonal else generator.standard_normal((8, 8)) + 2 * np.eye(8)


@pytest.mark.parametrize("orthogonal", [True, False])
@pytest.mark.parametrize("find", [temporal_components, slow_features])
def test_sources_that_differ_in_their_time_scale_are_found_in_the_order_of_it(find, orthogonal, sources):
    mixed = sources @ mixing(orthogonal) + 3
    transform = find(mixed, LENGTHS, keep=1.0)
    found = transform.apply(mixed)
    match = mean_correlation_coefficient(sources, found)
    assert match.value > 0.95
    np.testing.assert_array_equal(match.second, np.arange(8))
    np.testing.assert_allclose(transform.invert(found), mixed, atol=1e-8)
    assert mean_correlation_coefficient(sources, principal_components(mixed).apply(mixed)).value < 0.8


def test_components_have_the_size_and_sign_of_what_they_move(sources):
    mixed = (sources @ mixing(orthogonal=False)).astype(np.float32)
    transform = temporal_components(mixed, LENGTHS, keep=1.0)
    moves = transform.inverse.numpy() / mixed.std(axis=0)
    np.testing.assert_allclose(np.linalg.norm(moves, axis=1), 1, rtol=1e-4)
    assert (np.take_along_axis(moves, np.abs(moves).argmax(axis=1)[:, None], axis=1) > 0).all()
    # The same axes whatever sign, scale or order the dimensions come in.
    again = temporal_components(mixed[:, ::-1] * np.float32(-2), LENGTHS, keep=1.0)
    correlation = np.corrcoef(transform.apply(mixed).T, again.apply(mixed[:, ::-1] * np.float32(-2)).T)[:8, 8:]
    np.testing.assert_allclose(np.abs(np.diagonal(correlation)), 1, atol=1e-3)


def test_utterances_are_not_joined(sources):
    # Utterances of 2 frames: across their borders everything is new, so that only lag 1 within them has a meaning.
    pairs = np.stack([sources[::20], sources[1::20]], axis=1)
    mixed = pairs @ mixing(orthogonal=True)
    apart = temporal_components(mixed, keep=1.0)
    flat = temporal_components(mixed.reshape(-1, 8), [2] * len(mixed), keep=1.0)
    torch.testing.assert_close(apart.matrix, flat.matrix)
    torch.testing.assert_close(apart.matrix, temporal_components(mixed, lags=[1], keep=1.0).matrix)


def test_moments_of_utterances_one_by_one_are_those_of_a_loop_and_give_the_same_components(sources):
    mixed = (sources @ mixing(orthogonal=False) + 30).astype(np.float32)
    utterances = np.split(mixed, np.cumsum(LENGTHS)[:-1])
    moments = FrameMoments()
    for utterance in utterances:
        moments.add(utterance)
    center = mixed.mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(moments.center, center, rtol=1e-7)
    for lag in (0, 1, 64):
        naive = sum(
            np.outer(before - center, after - center)
            for utterance in utterances
            for before, after in zip(utterance[: len(utterance) - lag].astype(float), utterance[lag:], strict=False)
        ) / len(mixed)
        np.testing.assert_allclose(moments.covariance(lag), (naive + naive.T) / 2, atol=1e-4)
    # Products are float32, and their rounding depends on the processor and on how frames are divided.
    for find in (temporal_components, slow_features):
        torch.testing.assert_close(find(moments).matrix, find(mixed, LENGTHS).matrix, atol=1e-4, rtol=1e-4)
    expected = principal_components(mixed).matrix
    torch.testing.assert_close(principal_components(moments).matrix, expected, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="lags"):
        temporal_components(moments, lags=[3])


def test_directions_without_variance_are_skipped_or_kept_as_they_are(sources):
    mixed = sources @ mixing(orthogonal=True)
    wide = np.column_stack([mixed, mixed @ np.ones((8, 2)), np.full(len(mixed), 7.0)])
    for find in (temporal_components, slow_features):
        transform = find(wide, LENGTHS, keep=1.0)
        assert transform.matrix.shape == (11, 8)
        assert mean_correlation_coefficient(sources, transform.apply(wide)).value > 0.95
        np.testing.assert_allclose(transform.invert(transform.apply(wide)), wide, atol=1e-6)
        complete = find(wide, LENGTHS, keep=0.5, complete=True)
        assert complete.matrix.shape == (11, 11)
        torch.testing.assert_close(complete.inverse @ complete.matrix, torch.eye(11, dtype=torch.float64))
        np.testing.assert_allclose(complete.invert(complete.apply(wide)), wide, atol=1e-8)


def test_principal_components_of_constant_dimensions_are_as_many_as_dims():
    frames = np.random.default_rng(0).standard_normal((50, 3)) @ np.eye(3, 5) + 1
    transform = principal_components(frames)
    assert transform.matrix.shape == (5, 5)
    np.testing.assert_allclose(transform.invert(transform.apply(frames + np.arange(5))), frames + np.arange(5))


def test_a_share_of_the_variance_is_held_by_as_few_components_as_do(sources):
    loud = sources * np.array([10, 10, 10, 1, 1, 1, 1, 1])
    assert principal_components(loud, standardize=False, keep=0.98).matrix.shape == (8, 3)
    assert temporal_components(loud, standardize=False, keep=0.98).matrix.shape == (8, 3)
    assert temporal_components(sources, keep=0.3).matrix.shape == (8, 3)


def test_few_frames_give_components(sources):
    for frames in (sources[:3], sources[:9]):
        transform = temporal_components(frames)
        assert transform.matrix.isfinite().all()
        assert transform.matrix.shape[1] < len(frames)


@pytest.mark.parametrize("dims", [1, 2, 3, 16, 33, 70])
def test_matrices_that_share_axes_are_made_diagonal(dims):
    generator = np.random.default_rng(dims)
    axes, values = random_rotation(dims, generator), generator.standard_normal((5, dims))
    matrices = torch.from_numpy((axes * values[:, None]) @ axes.T)
    rotation, diagonals = joint_diagonalization(matrices)
    torch.testing.assert_close(rotation.T @ rotation, torch.eye(dims, dtype=torch.float64))
    torch.testing.assert_close(rotation.T @ matrices @ rotation, torch.diag_embed(diagonals), atol=1e-6, rtol=0)
    np.testing.assert_allclose(np.abs(rotation.numpy().T @ axes).max(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("dims", [9, 40])
def test_no_plane_can_be_turned_to_a_better_diagonal(dims):
    """Against the naive criterion: squares off the diagonals after any turn of any plane."""
    matrices = np.random.default_rng(3).standard_normal((4, dims, dims))
    matrices = torch.from_numpy(matrices + matrices.transpose(0, 2, 1))
    rotation, diagonals = joint_diagonalization(matrices, tolerance=1e-12)
    torch.testing.assert_close(torch.diagonal(rotation.T @ matrices @ rotation, dim1=1, dim2=2), diagonals)
    best = float(diagonals.square().sum())
    for first, second in [(0, 1), (3, dims - 1), (2, 7)]:
        for angle in (-0.5, -0.01, 0.01, 0.5):
            turn = torch.eye(dims, dtype=torch.float64)
            turn[[first, second], [first, second]] = np.cos(angle)
            turn[first, second], turn[second, first] = np.sin(angle), -np.sin(angle)
            axes = rotation @ turn
            assert float(torch.diagonal(axes.T @ matrices @ axes, dim1=1, dim2=2).square().sum()) < best


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"lags": [0]}, "lags"),
        ({"lags": [1.5]}, "lags"),
        ({"lags": []}, "lags"),
        ({"lags": [64], "lengths": [50, 50]}, "lags"),
        ({"lengths": [50, 49]}, "lengths"),
        ({"lengths": [-1, 101]}, "lengths"),
        ({"lengths": [50.5, 49.5]}, "lengths"),
        ({"keep": 0.0}, "keep"),
        ({"frames": np.full((10, 2), np.nan)}, "frames"),
        ({"frames": np.ones((100, 2))}, "frames"),
        ({"frames": np.ones(10)}, "frames"),
        ({"frames": FrameMoments()}, "frames"),
    ],
)
def test_bad_input_is_refused(change, error):
    settings = {"frames": np.random.default_rng(0).standard_normal((100, 3)), **change}
    with pytest.raises(ValueError, match=error):
        temporal_components(**settings)
    with pytest.raises(ValueError, match="lengths"):
        slow_features(np.random.default_rng(0).standard_normal((4, 2)), [1, 1, 1, 1])


def test_the_best_dimension_is_that_of_a_loop_over_rank_correlations():
    generator = np.random.default_rng(0)
    codes = generator.standard_normal((400, 6))
    pitch = np.exp(-codes[:, 4]) + 0.1 * generator.standard_normal(400)
    found = best_dimensions(codes, {"pitch": pitch, "loud": (codes[:, 2] > 0.3).astype(int)})
    naive = [abs(spearmanr(column, pitch).statistic) for column in codes.T]
    np.testing.assert_allclose(found.correlations["pitch"], naive)
    assert found.dimension == {"pitch": 4, "loud": 2}
    # Of two classes, the correlation ratio is the correlation with their numbers.
    classes = (codes[:, 2] > 0.3).astype(float)
    ratio = abs(np.corrcoef(codes[:, 2].argsort().argsort(), classes)[0, 1])
    assert found.correlation["loud"] == pytest.approx(ratio)
    thirds = np.digitize(codes[:, 1], [-0.4, 0.4])
    assert best_dimensions(codes, {"thirds": (thirds + 1) % 3}).correlation["thirds"] > 0.9  # no order of classes
    with_gaps = np.where(np.arange(400) % 2, pitch, np.nan)
    expected = best_dimensions(codes[1::2], {"pitch": pitch[1::2]}).correlation
    assert best_dimensions(codes, {"pitch": with_gaps}).correlation == expected
    by_name = best_dimensions(codes, {"thirds": np.array(["low", "middle", "high"])[thirds]}).correlation
    assert by_name == best_dimensions(codes, {"thirds": thirds}).correlation
    with pytest.raises(ValueError, match="pitch"):
        best_dimensions(codes, {"pitch": np.ones(400)})
    with pytest.raises(ValueError, match="pitch"):
        best_dimensions(codes, {"pitch": np.ones((400, 2))})
    with pytest.raises(ValueError, match="utterance"):  # any dimension would follow it
        best_dimensions(codes, {"utterance": np.arange(400) * 3 // 5})


def test_own_axes_are_ahead_of_random_ones_only_where_they_hold_the_factors():
    generator = np.random.default_rng(0)
    factors = {name: generator.standard_normal(1000) for name in ("pitch", "gain")}
    factors["vowel"] = generator.integers(3, size=1000)
    known = np.column_stack([factors["pitch"], factors["gain"], factors["vowel"], generator.standard_normal((1000, 3))])
    gaps = axis_gaps(known, factors)
    assert {"best_pitch", "best_gain", "best_vowel", "dci_completeness", "mutual_information_gap"} <= set(gaps)
    for name, gap in gaps.items():
        assert gap.gap > 0.1, name
        assert len(gap.rotated) == 5
    turned = axis_gaps(known @ random_rotation(6, generator), factors)
    assert all(gap.gap < gaps[name].gap / 2 for name, gap in turned.items())
    assert rotation_gap(
        lambda axes: best_dimensions(axes, factors).correlation["pitch"], known, num_rotations=5
    ).gap == (pytest.approx(gaps["best_pitch"].gap))


def test_matching_undoes_order_sign_and_scale_and_takes_the_best_pairs():
    codes = np.random.default_rng(0).standard_normal((500, 5))
    order = np.array([3, 0, 4, 1, 2])
    match = mean_correlation_coefficient(codes, codes[:, order] * np.array([1, -2, 3, -4, 5]))
    assert match.value == pytest.approx(1)
    np.testing.assert_array_equal(order[match.second], np.arange(5))
    fewer = mean_correlation_coefficient(codes, codes[:, :2] + 10)
    np.testing.assert_array_equal(fewer.first, [0, 1])
    assert fewer.value == pytest.approx(1)


def test_seeds_agree_on_axes_only_as_far_as_the_best_linear_map_does():
    generator = np.random.default_rng(0)
    shared = generator.standard_normal((4000, 6))
    first, second = (shared + 0.5 * generator.standard_normal(shared.shape) for _ in range(2))
    same = seed_consistency(first, second[:, ::-1])
    assert same.matched == pytest.approx(0.8, abs=0.02)
    assert same.linear == pytest.approx(same.matched, abs=0.02)
    turned = seed_consistency(first, second @ random_rotation(6, generator))
    assert turned.linear == pytest.approx(same.linear, abs=0.01)
    assert turned.share < 0.85
    assert turned.rotated.mean() < 0.85 * turned.linear
    # Against least squares.
    read = np.linalg.lstsq(second - second.mean(axis=0), first - first.mean(axis=0), rcond=None)[0]
    back = np.linalg.lstsq(first - first.mean(axis=0), second - second.mean(axis=0), rcond=None)[0]
    naive = [np.corrcoef((second @ read)[:, dim], first[:, dim])[0, 1] for dim in range(6)]
    naive += [np.corrcoef((first @ back)[:, dim], second[:, dim])[0, 1] for dim in range(6)]
    pairs = same.pairs
    np.testing.assert_allclose(same.multiple[0], np.array(naive[:6])[pairs.first], atol=1e-6)
    np.testing.assert_allclose(same.multiple[1], np.array(naive[6:])[::-1][pairs.second], atol=1e-6)
    assert same.linear == pytest.approx(np.mean(naive), abs=1e-6)
    with pytest.raises(ValueError, match="first"):
        seed_consistency(first, second[:-1])
    for codes, error in (((first[:4, :3], second[:4, :4]), "second"), ((first[:4, :4], second[:4, :3]), "first")):
        with pytest.raises(ValueError, match=error):
            seed_consistency(*codes)


def test_loudest_moments_are_apart_within_an_utterance_alone():
    values = np.array([1.0, 9.0, 8.0, 2.0, 7.0, 3.0])
    names = np.array(["a", "a", "a", "a", "b", "b"])
    seconds = np.array([0.0, 0.1, 0.2, 0.9, 0.1, 0.15])
    found = loudest_moments(values, names, seconds, count=3)
    assert [(of.utterance, of.seconds, of.value) for of in found] == [("a", 0.1, 9.0), ("b", 0.1, 7.0), ("a", 0.9, 2.0)]
    lowest = loudest_moments(values, names, seconds, count=10, smallest=True)
    assert [of.value for of in lowest] == [1.0, 2.0, 3.0]
    for change, error in (
        ({"count": 0}, "count"),
        ({"apart": np.nan}, "apart"),
        ({"values": np.full(6, np.nan)}, "values"),
    ):
        with pytest.raises(ValueError, match=error):
            loudest_moments(**{"values": values, "utterances": names, "seconds": seconds, **change})
