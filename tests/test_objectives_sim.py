import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from modeling_sim import SimConfig, info_nce, kl_to_standard_normal, objectives_sim
from modeling_sim.objectives_sim import (
    autocorrelations,
    count_active_units,
    covariance_penalty,
    draw_negatives,
    draw_window_start,
    independence_penalty,
    lagged_covariance_penalty,
)

# ---------------------------------------------------------------------- InfoNCE against a triple loop


def naive_scores(context, candidates, weight):
    """Scores of candidates `(candidates, channels)` by a bilinear or a Gaussian critic."""
    if weight.ndim == 2:
        return candidates @ (weight @ context)
    transition = Normal(weight * context, (1 - weight.square()).sqrt())
    return (transition.log_prob(candidates) - Normal(0.0, 1.0).log_prob(candidates)).sum(-1)


def naive_info_nce(context, latents, weight, negative_frames, window_start, frame_mask, offsets=None):
    """InfoNCE by its definition, one utterance, anchor and step at a time."""
    batch, window, _ = context.shape
    frames = latents.shape[1]
    offsets = offsets or range(1, len(weight) + 1)
    if negative_frames.ndim == 1:
        negative_frames = negative_frames.expand(batch, window, -1)
    losses, hits = {}, {}
    for utterance in range(batch):
        for anchor in range(window - 1):
            for step, offset in enumerate(offsets):
                first = int(window_start[utterance]) + anchor
                if anchor + offset >= window or not (
                    frame_mask[utterance, first] and frame_mask[utterance, first + offset]
                ):
                    continue
                drawn = [divmod(index, frames) for index in negative_frames[utterance, anchor].tolist()]
                candidates = torch.stack([latents[place] for place in [(utterance, first + offset), *drawn]])
                scores = naive_scores(context[utterance, anchor], candidates, weight[step])
                losses.setdefault(step, []).append(-scores.log_softmax(0)[0])
                is_equal = (candidates[1:] == candidates[0]).all(-1)
                won = ((scores[1:] <= scores[0]) | is_equal).all()
                tied = ((scores[1:] == scores[0]) | is_equal).sum()
                hits.setdefault(step, []).append(won / (1.0 + tied))
    by_step = [torch.stack([torch.stack(values[step]).mean() for step in sorted(values)]) for values in (losses, hits)]
    return by_step[0].mean(), by_step[1].mean()


@pytest.fixture
def case(noise):
    """Makes arguments of `info_nce`, leaves of autograd, with fixed negatives among the real frames."""

    def make(*, batch=3, frames=9, window=9, steps=4, channels=6, context_channels=5, num_negatives=3, lengths=None):
        lengths = torch.tensor(lengths or [frames] * batch)
        frame_mask = (torch.arange(frames) < lengths[:, None]).long()
        real_frames = frame_mask.flatten().nonzero().flatten()
        generator = torch.Generator().manual_seed(5)
        picks = torch.randint(len(real_frames), (batch, window - 1, num_negatives), generator=generator)
        return SimpleNamespace(
            context=noise(batch, window, context_channels, seed=1).requires_grad_(),
            latents=noise(batch, frames, channels, seed=2).requires_grad_(),
            weight=noise(steps, channels, context_channels, seed=3).mul_(0.3).requires_grad_(),
            negative_frames=real_frames[picks],
            window_start=draw_window_start(lengths, window, generator),
            frame_mask=frame_mask,
        )

    return make


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"window": 5},
        {"lengths": [9, 4, 6]},
        {"window": 5, "lengths": [9, 3, 6]},
        {"window": 5, "lengths": [9, 1, 0]},
        {"lengths": [3, 2, 0]},  # steps that no anchor has
        {"frames": 3, "window": 3},
        {"frames": 2, "window": 2},
        {"batch": 1, "num_negatives": 1},
        {"context_channels": 6, "steps": 1},
    ],
    ids=str,
)
def test_info_nce_equals_its_definition_in_value_and_gradient(shape, case):
    arguments = case(**shape)
    leaves = [arguments.context, arguments.latents, arguments.weight]
    output = info_nce(**vars(arguments), num_negatives=3)
    gradients = torch.autograd.grad(output.loss, leaves)
    loss, accuracy = naive_info_nce(**vars(arguments))
    torch.testing.assert_close(output.loss, loss)
    torch.testing.assert_close(output.accuracy, accuracy)
    for gradient, expected in zip(gradients, torch.autograd.grad(loss, leaves), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("anchors", [3, 64])
def test_scores_in_blocks_equal_those_of_the_complete_batch(anchors, dtype, noise, monkeypatch):
    monkeypatch.setattr(objectives_sim, "_ANCHORS_PER_BLOCK", anchors)
    generator = torch.Generator().manual_seed(0)
    targets, negatives = (torch.randint(24, (2, 8, number), generator=generator) for number in (4, 5))
    predictions, candidates = noise(2, 8, 4, 6).to(dtype).requires_grad_(), noise(24, 6, seed=1).requires_grad_()
    gradients = noise(2, 8, 4, seed=2), noise(2, 8, 4, 5, seed=3)
    found = []
    for scores in (objectives_sim._BlockScores.apply, objectives_sim._bilinear_scores):
        outputs = scores(predictions, candidates, targets, negatives)
        found.append((*outputs, *torch.autograd.grad(outputs, (predictions, candidates), gradients)))
    for blocks, complete in zip(*found, strict=True):
        assert blocks.dtype == complete.dtype
        torch.testing.assert_close(blocks, complete)


def test_what_scores_in_blocks_cannot_be_transformed_to_is_an_error(case):
    arguments = vars(case())

    def loss(context):
        return info_nce(**{**arguments, "context": context}).loss

    context = arguments["context"].detach()
    expected = torch.autograd.grad(loss(arguments["context"]), arguments["context"])[0]
    torch.testing.assert_close(torch.func.grad(loss)(context), expected)
    with pytest.raises(RuntimeError, match="vmap"):
        torch.func.vmap(loss)(context[None])
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(loss, (context,), (context,))


@pytest.mark.parametrize("names", [("context", "latents", "weight"), ("context", "weight"), ("latents",)], ids=str)
def test_info_nce_has_second_derivatives(names, case):
    arguments = case()
    for name in {"context", "latents", "weight"} - {*names}:
        getattr(arguments, name).requires_grad_(False)
    leaves, found = [getattr(arguments, name) for name in names], []
    for loss in (info_nce(**vars(arguments)).loss, naive_info_nce(**vars(arguments))[0]):
        slopes = torch.autograd.grad(loss, leaves, create_graph=True)
        found.append(torch.autograd.grad(sum(slope.square().sum() for slope in slopes), leaves))
    for ours, naive in zip(*found, strict=True):
        torch.testing.assert_close(ours, naive, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("offsets", [None, [1, 3], [2, 4, 7], [1, 20]], ids=str)
@pytest.mark.parametrize("shape", [{}, {"window": 5}, {"lengths": [9, 4, 6]}], ids=str)
@pytest.mark.parametrize("critic", ["bilinear", "gaussian"])
@pytest.mark.parametrize("sharing", ["anchor", "batch"])
def test_every_critic_equals_its_definition_in_value_and_gradient(critic, sharing, shape, offsets, case, noise):
    steps = len(offsets or range(4))
    arguments = case(**shape, steps=steps, context_channels=6)
    if critic == "gaussian":
        arguments.weight = noise(steps, 6, seed=3).mul_(0.5).tanh().requires_grad_()
    if sharing == "batch":
        arguments.negative_frames = arguments.negative_frames[0, :3].flatten()
    else:
        arguments.negative_frames = arguments.negative_frames[:, : arguments.context.shape[1] - (offsets or [1])[0]]
    leaves = [arguments.context, arguments.latents, arguments.weight]
    output = info_nce(**vars(arguments), offsets=offsets, negative_sharing=sharing)
    gradients = torch.autograd.grad(output.loss, leaves)
    loss, accuracy = naive_info_nce(**vars(arguments), offsets=offsets)
    torch.testing.assert_close(output.loss, loss)
    torch.testing.assert_close(output.accuracy, accuracy)
    for gradient, expected in zip(gradients, torch.autograd.grad(loss, leaves), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_offsets_and_shared_negatives_are_drawn_by_the_model_as_well(case):
    arguments = case()
    arguments.negative_frames = None
    outputs = [
        info_nce(
            **vars(arguments), num_negatives=5000, negative_sharing=sharing, generator=torch.Generator().manual_seed(0)
        )
        for sharing in ("anchor", "batch")
    ]
    assert outputs[0].loss.item() == pytest.approx(outputs[1].loss.item(), rel=0.02)  # both near the expectation
    with pytest.raises(ValueError, match="negative_sharing"):
        info_nce(**vars(arguments), negative_sharing="batch", negatives="same_utterance")
    with pytest.raises(ValueError, match="negative_sharing"):
        info_nce(**vars(arguments), negative_sharing="bach")
    for offsets in ([0, 1, 2, 3], [1, 3, 2, 4], [1, 1, 2, 3]):
        with pytest.raises(ValueError, match="offsets"):
            info_nce(**vars(arguments), offsets=offsets)


@pytest.mark.parametrize("lengths", [[40, 25, 3], [40, 40, 40]])
def test_autocorrelations_are_those_of_pairs_of_real_frames(lengths, noise):
    context, latents = noise(3, 40, 5, seed=1) + 1, noise(3, 40, 5, seed=2) + 1
    mask = torch.arange(40) < torch.tensor(lengths)[:, None]
    expected = []
    for offset in (1, 4):
        pairs = [(row, time) for row in range(3) for time in range(lengths[row] - offset)]
        first = torch.stack([context[row, time] for row, time in pairs])
        second = torch.stack([latents[row, time + offset] for row, time in pairs])
        expected.append((first * second).mean(0) / (first.square().mean(0) * second.square().mean(0)).sqrt())
    garbage = [tensor.masked_fill(~mask[..., None], torch.nan) for tensor in (context, latents)]
    found = autocorrelations(*garbage, [1, 4, 50], mask)
    torch.testing.assert_close(found, torch.stack([*expected, torch.zeros(5)]))
    assert autocorrelations(latents, latents, [1])[0].abs().max() < 1
    assert autocorrelations(torch.ones(1, 9, 2), torch.ones(1, 9, 2), [3]).max() == pytest.approx(0.99)


def test_autocorrelations_leave_out_pairs_with_padding_between_frames(noise):
    latents, mask = noise(1, 5, 3, seed=1), torch.tensor([[1, 1, 0, 1, 1]])
    first, second = latents[0, [0, 3]], latents[0, [1, 4]]
    expected = (first * second).sum(0) / (first.square().sum(0) * second.square().sum(0)).sqrt()
    torch.testing.assert_close(autocorrelations(latents, latents, [1], mask)[0], expected)


@pytest.mark.parametrize("lengths", [[40, 25, 3], [40, 40, 40]])
def test_penalties_on_moments_equal_their_definitions(lengths, noise):
    latents = noise(3, 40, 5, seed=1) + 1
    mask = torch.arange(40) < torch.tensor(lengths)[:, None]
    rows = [(first, second) for first in range(3) for second in range(lengths[first])]
    second_moments = sum(torch.outer(latents[row], latents[row]) for row in rows) / len(rows)
    expected = (second_moments - torch.eye(5)).square().sum() / 5
    torch.testing.assert_close(covariance_penalty(latents, mask), expected)
    expected = 0
    for lag in (1, 4):
        pairs = [(latents[row, t], latents[row, t + lag]) for row in range(3) for t in range(lengths[row] - lag)]
        moments = sum(torch.outer(first, second) for first, second in pairs) / len(pairs)
        moments = (moments + moments.T) / 2
        expected += (moments - moments.diag().diag()).square().sum() / 5
    torch.testing.assert_close(lagged_covariance_penalty(latents, [1, 4, 80], mask), expected)
    expected = 0
    for degree in (2, 3):
        hermite = np.polynomial.hermite_e.HermiteE.basis(degree)
        bounded = hermite(latents.numpy().clip(-3, 3)) / math.factorial(degree) ** 0.5
        moments = sum(np.outer(bounded[row], latents[row]) for row in rows) / len(rows)
        expected += (np.square(moments).sum() - np.square(moments.diagonal()).sum()) / 5
    torch.testing.assert_close(independence_penalty(latents, mask), torch.tensor(expected, dtype=torch.float32))
    garbage = latents.masked_fill(~mask[..., None], torch.nan).requires_grad_()
    penalty = covariance_penalty(garbage, mask) + lagged_covariance_penalty(garbage, [1, 4], mask)
    penalty = penalty + independence_penalty(garbage, mask)
    (gradient,) = torch.autograd.grad(penalty, garbage)
    assert not gradient[~mask].any()
    assert gradient.isfinite().all()


def test_penalties_are_small_for_white_independent_noise_and_large_for_copies(noise):
    white = noise(8, 500, 4, seed=2)
    copies = white[..., :1].expand(-1, -1, 4)
    slow = torch.stack([white[..., 0], white[..., 0].roll(1, 1)], -1)  # a channel that follows another
    assert covariance_penalty(white) < 0.05 < covariance_penalty(copies)
    assert lagged_covariance_penalty(white, [1]) < 0.05 < lagged_covariance_penalty(slow, [1])
    first = white[..., 0]
    for harmonic in ((first.square() - 1) / 2**0.5, (first**3 - 3 * first) / 6**0.5):  # uncorrelated with `first`
        harmonics = torch.stack([first, harmonic], -1)
        assert covariance_penalty(harmonics) < 0.05
        assert independence_penalty(white) < 0.05 < independence_penalty(harmonics)


def test_without_a_mask_or_a_window_all_frames_count_from_the_first(case):
    arguments = case()
    explicit = info_nce(**vars(arguments))
    arguments.frame_mask = arguments.window_start = None
    assert torch.equal(info_nce(**vars(arguments)).loss, explicit.loss)


@pytest.mark.parametrize("num_negatives", [1, 10])
@pytest.mark.parametrize("lengths", [None, [9, 4, 6]])
def test_a_predictor_of_zeros_is_at_chance(num_negatives, lengths, case):
    arguments = case(num_negatives=num_negatives, lengths=lengths)
    arguments.weight = torch.zeros_like(arguments.weight)
    output = info_nce(**vars(arguments))
    assert output.loss.item() == pytest.approx(math.log(num_negatives + 1))
    assert output.accuracy.item() == pytest.approx(1 / (num_negatives + 1))


def test_latents_that_predict_themselves_are_found():
    latents = 10 * torch.eye(8)[None]
    follows = torch.eye(8).roll(1, dims=0)[None]  # W_1 e_t = e_(t + 1)
    output = info_nce(latents, latents, follows, negatives="not_positive", generator=torch.Generator().manual_seed(0))
    assert output.loss < 1e-6
    assert output.accuracy == 1
    assert not output.accuracy.requires_grad


# ---------------------------------------------------------------------- masks


@pytest.mark.parametrize("garbage", [100.0, float("inf"), float("nan")])
@pytest.mark.parametrize("window", [9, 5])
def test_what_padding_holds_changes_neither_loss_nor_gradient(garbage, window, case):
    results = []
    for value in (0.0, garbage):
        arguments = case(lengths=[9, 4, 6], window=window)
        padded = arguments.frame_mask == 0
        window_frames = arguments.window_start[:, None] + torch.arange(window)
        with torch.no_grad():
            arguments.latents[padded] = value
            arguments.context[padded.gather(1, window_frames)] = value
        # negatives drawn, not given: padding must not be among them
        arguments.negative_frames = None
        output = info_nce(**vars(arguments), generator=torch.Generator().manual_seed(0))
        gradients = torch.autograd.grad(output.loss, [arguments.context, arguments.latents, arguments.weight])
        assert not gradients[1][padded].any()
        results.append([*output, *gradients])
    for clean, dirty in zip(*results, strict=True):
        assert torch.equal(clean, dirty)


def test_longer_padding_changes_nothing(case, noise):
    arguments = case(lengths=[9, 4, 6], window=5)
    loss = info_nce(**vars(arguments)).loss
    longer = SimpleNamespace(**vars(arguments))
    longer.latents = torch.cat([arguments.latents, noise(3, 7, 6)], dim=1)
    longer.frame_mask = torch.nn.functional.pad(arguments.frame_mask, (0, 7))
    longer.negative_frames = arguments.negative_frames + 7 * (arguments.negative_frames // 9)
    assert torch.equal(info_nce(**vars(longer)).loss, loss)


# ---------------------------------------------------------------------- negatives

FRAMES, STEPS, LENGTHS = 6, 2, [6, 3, 5]


def allowed_frames(source, utterance, frame, lengths):
    """Frames `(utterance, frame)` that a source allows for an anchor."""
    for other, length in enumerate(lengths):
        for candidate in range(length):
            is_target = other == utterance and 1 <= candidate - frame <= STEPS
            if {
                "any": True,
                "not_positive": not is_target,
                "same_utterance": other == utterance,
                "other_utterances": other != utterance,
            }[source]:
                yield other * FRAMES + candidate


@pytest.mark.parametrize("lengths", [LENGTHS, [FRAMES] * 3], ids=["padded", "unpadded"])
@pytest.mark.parametrize("source", ["any", "not_positive", "same_utterance", "other_utterances"])
def test_negatives_are_uniform_over_exactly_the_frames_of_their_source(source, lengths):
    frame_mask = (torch.arange(FRAMES) < torch.tensor(lengths)[:, None]).long() if lengths is LENGTHS else None
    anchors, draws = torch.arange(3 * FRAMES).view(3, FRAMES), 4000
    generator = torch.Generator().manual_seed(0)
    negatives = draw_negatives(anchors, FRAMES, STEPS, draws, source, frame_mask, generator)
    assert negatives.shape == (3, FRAMES, draws)
    for utterance, length in enumerate(lengths):
        for frame in range(length):
            allowed = list(allowed_frames(source, utterance, frame, lengths))
            counts = negatives[utterance, frame].bincount(minlength=3 * FRAMES)
            assert counts.nonzero().flatten().tolist() == allowed
            # chi-square of its degrees of freedom, six standard deviations wide
            expected, freedom = draws / len(allowed), len(allowed) - 1
            chi_square = ((counts[allowed] - expected).square() / expected).sum().item()
            assert chi_square < freedom + 6 * math.sqrt(2 * freedom)


@pytest.mark.parametrize(("source", "at_least", "at_most"), [("same_utterance", 0, 0.6), ("other_utterances", 1, 1)])
def test_info_nce_draws_from_the_source_it_is_given(source, at_least, at_most, case):
    """Two utterances far apart, each of near-equal frames: only frames of the other differ from the target."""
    arguments = case(batch=2, channels=5)
    arguments.negative_frames = None
    apart = torch.tensor([1.0, -1.0])[:, None, None]
    with torch.no_grad():
        arguments.latents.mul_(1e-6).add_(apart)
        arguments.context.mul_(1e-6).add_(apart)
        arguments.weight.copy_(torch.eye(5).expand(4, 5, 5))
    accuracy = info_nce(**vars(arguments), negatives=source, generator=torch.Generator().manual_seed(0)).accuracy
    assert at_least <= accuracy <= at_most


def test_negatives_of_every_anchor_and_call_are_their_own():
    anchors, generator = torch.arange(40)[None], torch.Generator().manual_seed(0)
    first, second = (draw_negatives(anchors, 40, 3, 8, generator=generator) for _ in range(2))
    assert len(set(map(tuple, torch.cat([first, second], dim=1)[0].tolist()))) == 80
    again = draw_negatives(anchors, 40, 3, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(first, again)


def test_windows_start_anywhere_they_fit():
    lengths = torch.tensor([10, 7, 5, 2]).repeat(500, 1)
    starts = draw_window_start(lengths.flatten(), 5, torch.Generator().manual_seed(0)).view(500, 4)
    assert [starts[:, column].unique().tolist() for column in range(4)] == [list(range(6)), [0, 1, 2], [0], [0]]
    assert starts[:, 0].bincount().min() > 50  # of 83 expected


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("shape", "changes", "message"),
    [
        ({"frames": 1, "window": 1}, {}, "frame"),
        ({"lengths": [1, 1, 0]}, {}, "frame"),
        ({}, {"context": torch.zeros(3, 10, 5)}, "`context`"),
        ({}, {"context": torch.zeros(2, 9, 5)}, "`weight`"),
        ({}, {"weight": torch.zeros(4, 5, 6)}, "`weight`"),
        ({}, {"num_negatives": 0}, "`num_negatives`"),
        ({"batch": 1}, {"negatives": "other_utterances"}, "'other_utterances'"),
        ({"lengths": [9, 0, 0]}, {"negatives": "other_utterances"}, "'other_utterances'"),
        ({}, {"negatives": "others"}, "`negatives`"),
        ({}, {"negative_frames": torch.zeros(3, 9, 3).long()}, "`negative_frames`"),
    ],
)
def test_what_cannot_be_computed_says_why(shape, changes, message, case):
    arguments = vars(case(**shape)) | {"negative_frames": None} | changes
    with pytest.raises(ValueError, match=message):
        info_nce(**arguments)


# ---------------------------------------------------------------------- precision and memory


@pytest.mark.parametrize("critic", ["bilinear", "gaussian"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_are_float32_under_autocast(dtype, critic, case):
    """Scores of some hundred, close together: half precision would give integers and losses of ln(N + 1)."""
    arguments = case(channels=6, context_channels=6, steps=1)
    with torch.no_grad():
        arguments.weight = torch.eye(6)[None] if critic == "bilinear" else torch.full((1, 6), 0.9)
        arguments.context.fill_(8.0)
        arguments.latents.copy_(8.0 + arguments.latents / 64)
    full = info_nce(**vars(arguments)).loss
    with torch.autocast("cpu", dtype=dtype):
        output = info_nce(**vars(arguments))
    assert output.loss.dtype == output.accuracy.dtype == torch.float32
    torch.testing.assert_close(output.loss, full, rtol=1e-5, atol=1e-5)
    assert abs(full - math.log(4)) > 1e-3


def test_no_tensor_of_all_frames_times_negatives_is_made():
    batch, frames, window, channels, steps, negatives = 2, 2000, 16, 8, 2, 50
    latents = torch.randn(batch, frames, channels, requires_grad=True)
    largest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            largest.extend(t.numel() for t in torch.utils._pytree.tree_leaves(result) if isinstance(t, torch.Tensor))
            return result

    with Watch():
        info_nce(
            latents[:, :window], latents, torch.randn(steps, channels, channels), num_negatives=negatives
        ).loss.backward()
    # negatives are gathered for the window's anchors alone
    assert max(largest) == max(batch * frames * channels, batch * (window - 1) * negatives * channels)
    assert max(largest) < batch * frames * negatives


# ---------------------------------------------------------------------- KL divergence


def test_kl_equals_that_of_torch_distributions(noise):
    mean, log_variance = noise(3, 7, 5, seed=1), noise(3, 7, 5, seed=2)
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(-1).mean()
    torch.testing.assert_close(kl_to_standard_normal(mean, log_variance), expected)
    frame_mask = (torch.arange(7) < torch.tensor([7, 3, 5])[:, None]).long()
    divergence = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(
        kl_to_standard_normal(mean, log_variance, frame_mask), divergence[frame_mask == 1].mean()
    )


@pytest.mark.parametrize("crop", [20_480, 10_240])
@pytest.mark.parametrize("module", range(3))
def test_kl_is_the_authors_times_channels_over_frames(crop, module, noise):
    config = SimConfig()
    frames, channels = config.num_frames(crop, module), config.hidden_size
    mean, log_variance = noise(2, frames, channels, seed=1), noise(2, frames, channels, seed=2)
    # theirs: summed over time, averaged over batch and channels
    elements = -0.5 * (1 + log_variance - mean.square() - log_variance.exp())
    authors = elements.sum(dim=1).mean(dim=0).mean()
    torch.testing.assert_close(kl_to_standard_normal(mean, log_variance), authors * channels / frames)


@pytest.mark.parametrize("scale", [1e-2, 1e-4, 1e-6])
def test_kl_near_zero_is_not_drowned_in_rounding(scale, noise):
    mean, log_variance = scale * noise(1, 4, 8, seed=1), scale * noise(1, 4, 8, seed=2)
    exact = 0.5 * (mean.double().square() + log_variance.double().expm1() - log_variance.double()).sum(-1).mean()
    assert kl_to_standard_normal(mean, log_variance).item() == pytest.approx(
        exact.item(), rel=0.2 if scale < 1e-5 else 1e-3
    )


def test_kl_of_the_prior_is_zero():
    assert kl_to_standard_normal(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3)) == 0


@pytest.mark.parametrize("garbage", [1e4, float("inf"), float("nan")])
def test_kl_does_not_see_padding(garbage, noise):
    frame_mask = (torch.arange(7) < torch.tensor([7, 3])[:, None]).long()
    mean, log_variance = noise(2, 7, 5, seed=1), noise(2, 7, 5, seed=2)
    expected = kl_to_standard_normal(mean, log_variance, frame_mask)
    for tensor in (mean, log_variance):
        tensor[frame_mask == 0] = garbage
        tensor.requires_grad_()
    divergence = kl_to_standard_normal(mean, log_variance, frame_mask)
    assert torch.equal(divergence, expected)
    divergence.backward()
    for tensor in (mean, log_variance):
        assert tensor.grad.isfinite().all()
        assert not tensor.grad[frame_mask == 0].any()


def test_free_bits_are_a_floor_a_channel_without_gradient():
    mean = torch.tensor([0.1, 2.0]).expand(1, 6, 2).clone().requires_grad_()  # 0.005 and 2 nats
    divergence = kl_to_standard_normal(mean, torch.zeros(1, 6, 2), free_bits=0.5)
    assert divergence.item() == pytest.approx(0.5 + 2.0)
    divergence.backward()
    assert not mean.grad[..., 0].any()
    assert mean.grad[..., 1].all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_kl_is_float32_under_autocast_and_for_half_precision(dtype, noise):
    mean, log_variance = noise(2, 50, 64, seed=1).to(dtype), noise(2, 50, 64, seed=2).to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        divergence = kl_to_standard_normal(mean, log_variance)
    assert divergence.dtype == torch.float32
    torch.testing.assert_close(divergence, kl_to_standard_normal(mean.float(), log_variance.float()), rtol=0, atol=0)


# ---------------------------------------------------------------------- active units


def test_active_units_are_channels_whose_mean_moves(noise):
    mean = noise(2, 50, 4) * torch.tensor([1.0, 0.2, 0.05, 0.0]) + 3
    assert count_active_units(mean) == 2
    assert count_active_units(mean, threshold=0.5) == 1
    frame_mask = (torch.arange(50) < torch.tensor([50, 20])[:, None]).long()
    mean[frame_mask == 0] = 100.0
    assert count_active_units(mean) == 4
    assert count_active_units(mean, frame_mask) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_candidates_that_are_equal_but_for_rounding_are_at_chance(scale, dtype, case, noise):
    """Like frames of silence, which only differ in the last bit."""
    arguments = case(channels=64, context_channels=64, num_negatives=10)
    rounding = 1 + torch.finfo(dtype).eps * noise(3, 9, 64).sign().relu()
    arguments.latents = (noise(64, seed=7) * rounding).to(dtype)
    arguments.weight, arguments.context = scale * noise(4, 64, 64, seed=3), noise(3, 9, 64, seed=1)
    output = info_nce(**vars(arguments))
    assert output.accuracy.item() == pytest.approx(1 / 11, abs=0.02 if dtype == torch.bfloat16 else 1e-6)
