"""Smoothness of decoders whose answer is known: linear ones, steps and curves; log-mel spectra of known sounds."""

import math

import numpy as np
import pytest
import torch

from modeling_sim.analysis import (
    LabeledClassifier,
    LogMel,
    clean_transition_rate,
    interpolation_path,
    jump_ratio,
    local_lipschitz,
    path_ratio,
    smoothness,
    step_distances,
)

FRAMES, CHANNELS, SAMPLES = 3, 4, 50
PATHS = ["linear", "slerp", "norm_corrected"]


@pytest.fixture(scope="module")
def matrix(noise):
    return noise(FRAMES * CHANNELS, SAMPLES, dtype=torch.float64)


@pytest.fixture(scope="module")
def linear(matrix):
    """A decoder that multiplies all frames by one matrix."""
    return lambda latents: latents.flatten(1) @ matrix


@pytest.fixture(scope="module")
def latents(noise):
    return noise(40, FRAMES, CHANNELS, seed=1, dtype=torch.float64) * torch.tensor([1.0, 10.0, 0.1, 3.0]) + 2.0


def waveform(values):
    """Features that are the waveform itself."""
    return values


def stepped(latents):
    """A decoder that jumps where the first channel's mean crosses 0."""
    return (latents[:, :, 0].mean(dim=1, keepdim=True) > 0).to(latents) * torch.ones(SAMPLES).to(latents)


@pytest.mark.parametrize("path", PATHS)
def test_a_path_includes_its_ends_and_has_steps_in_between(path, latents):
    points = interpolation_path(latents[:5], latents[5:10], 7, path)
    assert points.shape == (5, 8, FRAMES, CHANNELS)
    torch.testing.assert_close(points[:, 0], latents[:5])
    torch.testing.assert_close(points[:, -1], latents[5:10])


def test_half_way_between_normal_vectors_only_the_straight_line_loses_norm(noise):
    start, end = noise(4, 6, 512), noise(4, 6, 512, seed=1)
    shell = (start.norm(dim=-1) + end.norm(dim=-1)) / 2
    ratios = {path: (interpolation_path(start, end, 2, path)[:, 1].norm(dim=-1) / shell) for path in PATHS}
    assert ratios["linear"].mean() == pytest.approx(0.5**0.5, abs=0.02)
    assert ratios["slerp"].mean() == pytest.approx(1, abs=0.02)
    torch.testing.assert_close(ratios["norm_corrected"], torch.ones(4, 6))


def test_slerp_goes_along_the_circle_at_one_speed():
    start = torch.tensor([[[1.0, 0.0]]])
    end = torch.tensor([[[0.0, 1.0]]])
    points = interpolation_path(start, end, 3, "slerp")[0, :, 0]
    angles = torch.tensor([0, 30, 60, 90]).deg2rad()
    torch.testing.assert_close(points, torch.stack([angles.cos(), angles.sin()], dim=1), atol=1e-6, rtol=0)
    torch.testing.assert_close(interpolation_path(start, start, 2, "slerp")[0, 1], start[0])
    assert interpolation_path(start, -start, 2, "slerp").isfinite().all()


def test_ratios_of_straight_bent_jumping_and_resting_paths_are_known():
    straight = torch.arange(5.0)[None, :, None]
    corner = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]])
    jump = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0])[None, :, None]
    rest, back = torch.zeros(1, 3, 1), torch.tensor([0.0, 1.0, 0.0])[None, :, None]
    assert [path_ratio(points).item() for points in (straight, corner, jump, rest, back)] == pytest.approx(
        [1, 2**0.5, 1, 1, math.inf]
    )
    assert [jump_ratio(points).item() for points in (straight, corner, jump, rest, back)] == pytest.approx(
        [1, 1, 4, 1, 1]
    )
    assert step_distances(jump).tolist() == [[0, 0, 1, 0]]


def test_the_lipschitz_constant_of_a_matrix_is_its_largest_singular_value(linear, matrix, latents):
    expected = torch.linalg.svdvals(matrix)[0]
    values = local_lipschitz(linear, latents[:6], tolerance=1e-7, max_iterations=1000)
    torch.testing.assert_close(values, expected.expand(6), rtol=1e-5, atol=0)


def test_the_local_lipschitz_constant_is_that_of_every_items_own_jacobian(matrix, latents):
    def decode(values):
        return (0.1 * values.flatten(1) @ matrix).tanh()

    values = local_lipschitz(decode, latents[:4], tolerance=1e-8, max_iterations=2000)
    jacobians = [torch.func.jacrev(decode)(item[None]).reshape(SAMPLES, -1) for item in latents[:4]]
    expected = torch.stack([torch.linalg.svdvals(jacobian)[0] for jacobian in jacobians])
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=0)
    assert expected.max() > 1.3 * expected.min()


def test_derivatives_of_a_network_leave_its_weights_alone(noise):
    network = torch.nn.Sequential(torch.nn.ConvTranspose1d(CHANNELS, 8, 4, 2), torch.nn.Tanh(), torch.nn.Flatten())
    items = noise(3, FRAMES, CHANNELS)

    def decode(values):
        return network(values.transpose(1, 2))

    values = local_lipschitz(decode, items, tolerance=1e-6, max_iterations=500)
    assert not values.requires_grad
    assert network[0].weight.grad is None
    jacobian = torch.func.jacrev(lambda item: decode(item[None])[0])(items[1]).flatten(1)
    assert values[1].item() == pytest.approx(torch.linalg.svdvals(jacobian)[0].item(), rel=1e-3)


def test_derivatives_go_through_log_mel_spectra(noise):
    weight = noise(FRAMES * CHANNELS, 800, dtype=torch.float64)
    items = noise(3, FRAMES, CHANNELS, seed=2, dtype=torch.float64)

    def decode(values):
        return values.flatten(1) @ weight

    values = local_lipschitz(decode, items, features=LogMel(), tolerance=1e-8, max_iterations=2000)

    def whole(values):
        return LogMel()(decode(values)).flatten(1)

    for value, item in zip(values, items, strict=True):
        jacobian = torch.func.jacrev(whole)(item[None]).flatten(0, 1).flatten(1)
        assert value.item() == pytest.approx(torch.linalg.svdvals(jacobian)[0].item(), rel=1e-4)


def test_places_where_all_units_are_off_are_flat_and_no_error(noise):
    """One item a batch: nothing changes to first order at half of the places of a decoder that clips at 0."""
    latents = noise(12, FRAMES, CHANNELS)
    settings = {"features": waveform, "num_pairs": 8, "lipschitz_pairs": 8, "resamples": 20}

    def clipped(values):
        return (values[:, :, :1].mean(dim=1) * torch.ones(50, dtype=values.dtype)).clamp(min=0)

    single, together = (smoothness(clipped, latents, batch_size=size, **settings) for size in (1, 32))
    assert single.lipschitz_median.value == pytest.approx(together.lipschitz_median.value, rel=1e-3)


def test_a_decoder_without_gradients_is_an_error_and_not_smooth(linear, latents):
    def silent(values):
        with torch.no_grad():
            return linear(values)

    with pytest.raises(ValueError, match=r"torch\.no_grad"):
        local_lipschitz(silent, latents)


def test_a_linear_decoder_is_perfectly_smooth_and_its_lipschitz_constant_is_that_of_standardized_latents(
    linear, matrix, latents
):
    score = smoothness(linear, latents, features=waveform, num_pairs=30, lipschitz_pairs=5, resamples=50)
    for interval in (score.path_ratio, score.jump_ratio):
        assert [interval.value, interval.low, interval.high] == pytest.approx([1, 1, 1])
    scale = latents.flatten(0, 1).std(dim=0, correction=0)
    expected = torch.linalg.svdvals(scale.repeat(FRAMES)[:, None] * matrix)[0].item() / score.mean_distance
    assert score.lipschitz_median.value == pytest.approx(expected, rel=0.01)
    assert score.lipschitz_95.value == pytest.approx(expected, rel=0.01)


def test_smoothness_does_not_depend_on_scales_of_latents_or_of_sound(linear, latents):
    scales = torch.tensor([5.0, 0.3, 1.0, 20.0])
    settings = {"features": waveform, "num_pairs": 30, "lipschitz_pairs": 8, "path": "slerp", "resamples": 20}

    def curved(values):
        return linear(values).tanh()

    def other(values):
        return 7 * curved((values - 1) / scales)

    one, two = smoothness(curved, latents, **settings), smoothness(other, latents * scales + 1, **settings)
    for name in ("path_ratio", "jump_ratio", "lipschitz_median", "lipschitz_95"):
        assert getattr(one, name).value == pytest.approx(getattr(two, name).value, rel=1e-5)
    assert one.path_ratio.value > 1.05


def test_a_decoder_with_a_step_jumps_and_a_sharper_one_has_a_larger_lipschitz_constant(latents):
    points = interpolation_path(-torch.ones(1, FRAMES, CHANNELS), torch.ones(1, FRAMES, CHANNELS), 21)
    assert jump_ratio(stepped(points[0])[None]).item() == pytest.approx(21)

    def sigmoid(sharpness):
        return lambda values: (sharpness * (values[:, :, 0].mean(dim=1, keepdim=True) - 2)).sigmoid().expand(-1, 50)

    settings = {"features": waveform, "num_pairs": 60, "lipschitz_pairs": 60, "resamples": 50}
    soft, sharp = (smoothness(sigmoid(sharpness), latents, **settings) for sharpness in (0.5, 50.0))
    assert sharp.jump_ratio.low > 2 * soft.jump_ratio.high
    assert sharp.lipschitz_95.value > 3 * soft.lipschitz_95.high
    assert sharp.lipschitz_median.value < soft.lipschitz_median.value  # it is flat away from the step


def test_transitions_are_clean_where_the_class_flips_once():
    def sign(values):
        return (values[:, :, 0].mean(dim=1) > 0).long()

    def striped(values):  # 0, 1, 0, 1 on the way
        return (values[:, :, 0].mean(dim=1) * 1.5 + 10).floor().long() % 2

    start, end = -torch.ones(4, FRAMES, CHANNELS), torch.ones(4, FRAMES, CHANNELS)
    zeros, ones = np.zeros(4, int), np.ones(4, int)
    assert clean_transition_rate(sign, start, end, zeros, ones) == 1
    assert clean_transition_rate(sign, start, end, ones, zeros) == 0  # the other way round
    assert clean_transition_rate(striped, start, end, zeros, ones) == 0
    half = end.clone()
    half[:2] = start[:2]  # these never leave their class
    assert clean_transition_rate(sign, start, half, zeros, ones) == 0.5
    with pytest.raises(ValueError, match="class"):
        clean_transition_rate(sign, start, end, zeros, zeros)


def test_smoothness_reports_transitions_between_labels_that_differ(linear, latents):
    labels = (latents[:, :, 0].mean(dim=1) > 2).long().numpy()

    def predict(values):
        return (values[:, :, 0].mean(dim=1) > 2).long()

    settings = {"features": waveform, "num_pairs": 100, "lipschitz_pairs": 2, "resamples": 20}
    score = smoothness(linear, latents, classifier=LabeledClassifier(predict, labels), **settings)
    assert score.transitions.rate.value == score.transitions.recognized == 1
    assert 20 < score.transitions.num_paths < 80
    blind = LabeledClassifier(lambda values: torch.zeros(len(values), dtype=torch.long), labels)
    assert smoothness(linear, latents, classifier=blind, **settings).transitions.rate.value == 0
    with pytest.raises(ValueError, match="labels"):
        smoothness(linear, latents, classifier=LabeledClassifier(predict, np.zeros(40)), **settings)
    with pytest.raises(ValueError, match="`classifier`"):
        smoothness(linear, latents, classifier=LabeledClassifier(predict, labels[:3]), **settings)


def test_smoothness_is_the_same_from_the_same_seed_and_in_any_batches(linear, latents):
    def curved(values):
        return linear(values).tanh()

    settings = {"features": waveform, "num_pairs": 20, "lipschitz_pairs": 5, "resamples": 20}
    one, two = (smoothness(curved, latents, batch_size=size, **settings) for size in (64, 64))
    small = smoothness(curved, latents, batch_size=7, **settings)
    assert one == two
    assert small.path_ratio.value == pytest.approx(one.path_ratio.value)
    assert smoothness(curved, latents, seed=1, **settings).path_ratio.value != one.path_ratio.value


def test_log_mel_bands_hold_frequencies_and_a_tone_lies_in_its_band():
    features = LogMel()
    assert (features.filters.sum(dim=0) > 0).all()
    time = torch.arange(16_000) / 16_000
    spectra = features(torch.stack([(2 * math.pi * hertz * time).sin() for hertz in (200.0, 1000.0, 4000.0)]))
    mels = torch.linspace(2595 * math.log10(1 + 20 / 700), 2595 * math.log10(1 + 8000 / 700), 66)
    centers = 700 * (10 ** (mels[1:-1] / 2595) - 1)
    for spectrum, hertz in zip(spectra.mean(dim=1), (200.0, 1000.0, 4000.0), strict=True):
        assert centers[spectrum.argmax()].item() == pytest.approx(hertz, rel=0.1)
    assert features(torch.zeros(1, 400)).max().item() == pytest.approx(math.log(1e-6))
    white = features(torch.randn(1, 160_000, generator=torch.Generator().manual_seed(0))).exp().mean(dim=(0, 1))
    torch.testing.assert_close(white, features.filters.sum(dim=0).float(), rtol=0.2, atol=0)
    with pytest.raises(ValueError, match="400"):
        features(torch.zeros(1, 399))


@pytest.mark.parametrize(
    ("latents", "words"),
    [
        (torch.zeros(4, 3), "`latents`"),
        (torch.full((4, 3, 2), torch.nan), "`latents`"),
        (torch.ones(4, 3, 2, dtype=torch.float16), "`latents`"),
        (torch.zeros(1, 3, 2), "1 item"),
        (torch.zeros(4, 3, 2), "decode"),
    ],
)
def test_bad_latents_are_reported(latents, words):
    with pytest.raises(ValueError, match=words):
        smoothness(lambda values: values.flatten(1), latents, features=waveform)


def test_a_wrong_path_or_decoder_is_reported(latents):
    with pytest.raises(ValueError, match="`path`"):
        interpolation_path(latents, latents, 3, "cubic")
    with pytest.raises(ValueError, match="`steps`"):
        interpolation_path(latents, latents, 0)
    with pytest.raises(ValueError, match="`decode`"):
        smoothness(lambda values: values, latents, features=waveform)
