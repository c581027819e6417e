"""Terms of the Smooth InfoMax loss, as pure functions of tensors."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F

# Variance over frames above which a channel is active (Burda et al. 2016).
ACTIVE_UNIT_VARIANCE = 0.01

# Rows whose weighted sums differ by less than this fraction of their norm count as equal: rounding in float32 makes
# latents of equal audio differ that much. In half precision the tolerance is this many times the dtype's resolution,
# four standard deviations if every last bit differs.
_ROUNDING, _ROUNDING_OF_HALF = 1e-6, 2

# Keeps the score of the Gaussian critic finite, which divides by 1 - rho^2.
_LARGEST_CORRELATION = 0.99

# Values are clamped to this distance from 0 before a polynomial, so that outliers do not dominate a moment.
_LARGEST_DEVIATION = 3.0

# Anchors per block of `_BlockScores`: with 512 channels, their predictions and candidates fit into a processor's cache.
_ANCHORS_PER_BLOCK = 64

NegativeSource = Literal["any", "not_positive", "same_utterance", "other_utterances"]
NegativeSharing = Literal["anchor", "batch"]


class ContrastiveOutput(NamedTuple):
    """Loss and accuracy of `info_nce`, 0-dim float32 tensors; the accuracy carries no gradient."""

    loss: torch.Tensor
    accuracy: torch.Tensor


def info_nce(  # noqa: PLR0915 - one computation, read from top to bottom
    context: torch.Tensor,
    latents: torch.Tensor,
    weight: torch.Tensor,
    *,
    offsets: Sequence[int] | None = None,
    num_negatives: int = 10,
    negative_sharing: NegativeSharing = "anchor",
    window_start: torch.Tensor | None = None,
    frame_mask: torch.Tensor | None = None,
    negatives: NegativeSource = "any",
    negative_frames: torch.Tensor | None = None,
    other_latents: torch.Tensor | None = None,
    other_frame_mask: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
) -> ContrastiveOutput:
    r"""InfoNCE between a context and the latents of the frames that follow it (van den Oord et al. 2018).

    For an anchor, frame t of an utterance, and a step, an offset of k frames, the loss is the cross-entropy of picking
    the target t + k among itself and the anchor's negatives by their scores. It is averaged over the valid anchors of
    each step, then over the steps that have any. There are two critics, which score a candidate z by:

    - bilinear: `context_t^T W_k^T z`, which is invariant to rotations of the latents;
    - Gaussian: `sum_j (rho_kj context_tj z_j - rho_kj^2 z_j^2 / 2) / (1 - rho_kj^2)`, the log-ratio
      `ln p(z | context_t) / p(z)` of a stationary Gaussian process whose dimensions are independent and have the
      autocorrelations rho_kj, up to terms that all candidates share. Its optimum determines the axes of the latents;
      see `docs/theory.md`.

    Anchors and targets lie in a window of each utterance; negatives are drawn from the complete batch, with
    replacement. On a CPU, the bilinear critic has second derivatives, but no rules for `torch.func.vmap` and `jvp`.

    Args:
        context: `(batch, window, context_channels)`, the context of the window's frames.
        latents: `(batch, frames, channels)`, the latents of complete utterances.
        weight: `(steps, channels, context_channels)`, the matrix W_k of each step, or `(steps, channels)`, the
            autocorrelations rho_k in (-1, 1) of the Gaussian critic, whose context has as many channels as the latents.
        offsets: `(steps,)`, frames from the anchor to the target of each step, increasing; `None` for 1, 2, ...
            Offsets that do not fit into the window are skipped.
        num_negatives: Negatives per anchor, at least 1, shared by all of its steps.
        negative_sharing: "anchor": draw separate negatives for each anchor. "batch": all anchors share one draw, which
            computes the scores as one matrix product and makes hundreds of negatives cheap; needs `negatives` "any".
        window_start: `(batch,)`, the first frame of each utterance's window; `None` for frame 0.
        frame_mask: `(batch, frames)`, nonzero where a frame is real; `None` if all are. Padded frames are neither
            anchors nor targets nor negatives.
        negatives: Where negatives are drawn from. "any": all real frames of the batch, including the target, as in
            the SIM paper; "not_positive": all but the anchor's targets; "same_utterance"; "other_utterances".
        negative_frames: `(batch, anchors, num_negatives)` int64, indices `utterance * frames + frame` to use
            instead of drawing any, with `window - offsets[0]` anchors; `(num_negatives,)` if shared.
        other_latents: `(others, frames, channels)`, latents of further utterances, for example from other processes.
            Negatives are drawn from them too, but they have no anchors. They are numbered after the batch's utterances.
        other_frame_mask: `(others, frames)`, nonzero where a frame of `other_latents` is real; `None` if all are.
        generator: Random generator of the draws; the global one if `None`.

    Returns:
        The loss, and the fraction of (anchor, step) pairs whose target scores highest; a tie counts as a guess, so
        that chance is `1 / (num_negatives + 1)`. Logits and loss are float32 under any autocast.

    Raises:
        ValueError: No anchor has a target, shapes disagree, `offsets` are not increasing and positive, an option is
            unknown, or the negatives' source is empty.
    """
    used_offsets, is_gaussian = _usable_offsets(context, latents, weight, offsets), weight.ndim == 2
    if num_negatives < 1:
        raise ValueError(f"`num_negatives` is {num_negatives}; give at least 1.")
    _check_choice("negative_sharing", negative_sharing, get_args(NegativeSharing))
    is_shared = negative_sharing == "batch"
    if is_shared and negatives != "any":
        raise ValueError(
            f"`negative_sharing` 'batch' draws from all frames, but `negatives` is {negatives!r}; give 'any'."
        )
    (batch, window, _), (frames, channels), device = context.shape, latents.shape[1:], latents.device
    anchors = window - used_offsets[0]  # the window's last frames have no target
    if window_start is None:
        window_start = torch.zeros(batch, dtype=torch.long, device=device)
    first_frame = torch.arange(batch, device=device) * frames + window_start
    window_frames = first_frame[:, None] + torch.arange(window, device=device)  # (batch, window)

    # A pair is valid if its target lies in the window and both of its frames are real.
    step = torch.cat([torch.full((1,), offset, device=device) for offset in used_offsets])  # no copy from the host
    target = torch.arange(anchors, device=device)[:, None] + step  # (anchors, steps)
    valid = (target < window).expand(batch, -1, -1)
    target = target.clamp(max=window - 1)
    if frame_mask is not None:
        real = frame_mask.reshape(-1)[window_frames] != 0
        valid = valid & real[:, :anchors, None] & real[:, target]
        require(valid.any(), "no anchor has a target: every utterance has fewer than 2 real frames in its window.")
        context = context.masked_fill(~real[..., None], 0.0)
    pairs = valid.sum(dim=(0, 1))  # (steps,)

    all_latents, all_masks = _with_others(latents, frame_mask, other_latents, other_frame_mask)
    if negative_frames is None:
        drawing = window_frames[:1, :1] if is_shared else window_frames[:, :anchors]
        num_others, last = len(all_latents), len(weight) if offsets is None else offsets[-1]
        negative_frames = draw_negatives(
            drawing, frames, last, num_negatives, negatives, all_masks, generator, num_utterances=num_others
        )
        negative_frames = negative_frames[0, 0] if is_shared else negative_frames
    elif negative_frames.shape[:-1] != (() if is_shared else (batch, anchors)):
        raise ValueError(
            f"`negative_frames` has shape {tuple(negative_frames.shape)}; expected (batch, anchors, num_negatives), "
            f"({batch}, {anchors}, ...), or (num_negatives,) if they are shared."
        )

    context = context[:, :anchors]
    if not is_gaussian:
        predictions = F.linear(context, weight[: len(used_offsets)].flatten(0, 1))
    with full_precision(device):
        candidates, target_frames = all_latents.float().reshape(-1, channels), window_frames[:, target]
        # `embedding` gathers rows like an index does, with a backward pass that runs in parallel on a CPU.
        if is_gaussian:
            correlations, window_latents = weight[: len(used_offsets)].float(), F.embedding(window_frames, candidates)
            bank = F.embedding(negative_frames, candidates)
            positive, negative = _gaussian_scores(context.float(), correlations, window_latents, used_offsets, bank)
        else:
            predictions = predictions.unflatten(-1, (len(used_offsets), channels))
            # Shared negatives are one matrix product, which needs no blocks.
            in_blocks = device.type == "cpu" and not is_shared and not in_graph()
            scores = _BlockScores.apply if in_blocks else _bilinear_scores
            positive, negative = scores(predictions, candidates, target_frames, negative_frames)
        # cross-entropy of the positive among all = softplus(logsumexp(negatives) - positive)
        loss = _mean_of_steps(F.softplus(negative.logsumexp(dim=-1) - positive), valid, pairs)
        with torch.no_grad():
            # Equal candidates (the target itself, frames of silence) tie, even if their scores are rounded differently.
            rounding = max(_ROUNDING, _ROUNDING_OF_HALF * torch.finfo(latents.dtype).eps)
            is_equal = _are_equal(candidates, negative_frames, target_frames, rounding)
            lead = (negative - positive[..., None]).masked_fill_(is_equal, 0.0)
            highest, ties = (lead <= 0).all(dim=-1), (lead == 0).sum(dim=-1)
            accuracy = _mean_of_steps(highest / (1.0 + ties), valid, pairs)
    return ContrastiveOutput(loss, accuracy)


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Checks that an option has one of its values; raises a ValueError."""
    if value not in choices:
        raise ValueError(f"`{name}` is {value!r}; choose one of {', '.join(choices)}.")


def _usable_offsets(
    context: torch.Tensor, latents: torch.Tensor, weight: torch.Tensor, offsets: Sequence[int] | None
) -> list[int]:
    """The offsets that fit into the window; arguments as in `info_nce`.

    Raises:
        ValueError: There are none, shapes disagree, or offsets are not increasing and positive.
    """
    batch, window, context_channels = context.shape
    frames, channels = latents.shape[1:]
    if len(latents) != batch or weight.shape[1:] not in ((channels, context_channels), (channels,)):
        raise ValueError(
            f"shapes disagree: `context` {tuple(context.shape)}, `latents` {tuple(latents.shape)}, `weight` "
            f"{tuple(weight.shape)}; expected (batch, window, context_channels), (batch, frames, channels) and "
            "(steps, channels, context_channels), or (steps, channels) for the Gaussian critic."
        )
    if window > frames:
        raise ValueError(f"`context` has {window} frames but `latents` only {frames}; give frames of one window.")
    if offsets is None:
        offsets = range(1, len(weight) + 1)
    if len(offsets) != len(weight):
        raise ValueError(f"`offsets` has {len(offsets)} entries but `weight` {len(weight)} steps; give one per step.")
    if list(offsets) != sorted({*offsets}) or min(offsets, default=1) < 1:
        raise ValueError(f"`offsets` is {list(offsets)}; give increasing positive integers, for example [1, 2, 4].")
    usable = [offset for offset in offsets if offset < window]
    if not usable:
        raise ValueError(
            f"no anchor has a target: `offsets` begin at {offsets[0]}, and the number of frames is {window}; give "
            "longer audio or smaller offsets."
        )
    return usable


def _bilinear_scores(
    predictions: torch.Tensor, candidates: torch.Tensor, targets: torch.Tensor, negatives: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of targets `(batch, anchors, steps)` and negatives `(batch, anchors, steps, negatives)`, in float32.

    Args:
        predictions: `(batch, anchors, steps, channels)`, W_k applied to the context.
        candidates: `(rows, channels)`, float32.
        targets: `(batch, anchors, steps)`, rows of each anchor's targets.
        negatives: `([batch, anchors,] negatives)`, rows of each anchor's negatives.
    """
    predictions = predictions.float()
    positive = (predictions * F.embedding(targets, candidates)).sum(dim=-1)
    return positive, predictions @ F.embedding(negatives, candidates).transpose(-1, -2)


class _BlockScores(torch.autograd.Function):
    """`_bilinear_scores` of a few anchors at a time, for negatives per anchor on a CPU.

    There, reading and writing the gathered candidates and their gradients limits the speed. A block of them stays in
    the cache, and is gathered again in the backward pass instead of being saved; on one thread that takes half of the
    time.
    """

    @staticmethod
    def forward(
        predictions: torch.Tensor, candidates: torch.Tensor, targets: torch.Tensor, negatives: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        positive = candidates.new_empty(targets.shape)
        negative = candidates.new_empty(*targets.shape, negatives.shape[-1])
        for predicted, target, drawn, score, scores in _blocks(predictions, targets, negatives, positive, negative):
            values = predicted.float()
            torch.sum(F.embedding(target, candidates).mul_(values), dim=-1, out=score)
            torch.bmm(values, F.embedding(drawn, candidates).transpose(1, 2), out=scores)
        return positive, negative

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004 - torch's interface
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad_positive: torch.Tensor, grad_negative: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        predictions, candidates, targets, negatives = ctx.saved_tensors
        if torch.is_grad_enabled():  # `create_graph`: autograd differentiates the single operations
            inputs = [tensor for tensor in (predictions, candidates) if tensor.requires_grad]
            outputs = _bilinear_scores(predictions, candidates, targets, negatives)
            found = iter(torch.autograd.grad(outputs, inputs, (grad_positive, grad_negative), create_graph=True))
            return *(next(found) if tensor.requires_grad else None for tensor in (predictions, candidates)), None, None
        grad_predictions = predictions.new_empty(predictions.shape)
        grad_candidates = torch.zeros_like(candidates)
        tensors = predictions, targets, negatives, grad_positive[..., None], grad_negative, grad_predictions
        for predicted, target, drawn, to_score, to_scores, grad_predicted in _blocks(*tensors):
            values = predicted.float()
            of_target, of_drawn = F.embedding(target, candidates), F.embedding(drawn, candidates)
            grad_predicted.copy_(of_target.mul_(to_score).baddbmm_(to_scores, of_drawn))
            torch.mul(values, to_score, out=of_target)
            torch.bmm(to_scores.transpose(1, 2), values, out=of_drawn)
            grad_candidates.index_add_(0, target.flatten(), of_target.flatten(0, 1))
            grad_candidates.index_add_(0, drawn.flatten(), of_drawn.flatten(0, 1))
        return grad_predictions, grad_candidates, None, None


def _blocks(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Parts `(anchors, ...)` of `(batch, anchors, ...)` tensors, a few anchors at a time."""
    return zip(*(tensor.flatten(0, 1).split(_ANCHORS_PER_BLOCK) for tensor in tensors), strict=True)


def _gaussian_scores(
    context: torch.Tensor,
    correlations: torch.Tensor,
    latents: torch.Tensor,
    offsets: Sequence[int],
    bank: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of targets and negatives, as `_bilinear_scores` returns them.

    Args:
        context: `(batch, anchors, channels)`.
        correlations: `(steps, channels)`.
        latents: `(batch, window, channels)`, the latents of the window.
        offsets: `(steps,)`.
        bank: `([batch, anchors,] negatives, channels)`, the latents of the negatives.
    """
    anchors, window = context.shape[1], latents.shape[1]
    linear = correlations / (1 - correlations.square())  # coefficient of c z
    quadratic = -0.5 * correlations * linear  # coefficient of z^2
    of_squares = latents.square() @ quadratic.T  # (batch, window, steps)
    of_pairs = [
        F.pad(
            (context[:, : window - offset] * latents[:, offset:]) @ linear[step] + of_squares[:, offset:, step],
            (0, anchors - window + offset),
        )
        for step, offset in enumerate(offsets)
    ]
    if bank.ndim == 2:  # one product for all steps: scaling the few negatives is cheapest
        of_negatives = (context @ (linear[:, None] * bank).flatten(0, 1).T).unflatten(-1, (len(linear), len(bank)))
    else:
        of_negatives = (linear * context[:, :, None]) @ bank.transpose(-1, -2)
    return torch.stack(of_pairs, dim=2), of_negatives + quadratic @ bank.square().transpose(-1, -2)


def _with_others(
    latents: torch.Tensor,
    frame_mask: torch.Tensor | None,
    other_latents: torch.Tensor | None,
    other_frame_mask: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Appends the latents and mask of further utterances to those of the batch; padded frames become 0."""
    if other_latents is not None:
        if frame_mask is not None or other_frame_mask is not None:
            masks = ((latents, frame_mask), (other_latents, other_frame_mask))
            frame_mask = torch.cat(
                [of.new_ones(of.shape[:2], dtype=torch.bool) if mask is None else mask != 0 for of, mask in masks]
            )
        latents = torch.cat([latents, other_latents])
    if frame_mask is not None:  # padding, even NaN, must reach neither the loss nor a gradient
        latents = latents.masked_fill((frame_mask == 0)[..., None], 0.0)
    return latents, frame_mask


def _are_equal(
    candidates: torch.Tensor, negatives: torch.Tensor, targets: torch.Tensor, rounding: float
) -> torch.Tensor:
    """Whether negatives equal targets up to rounding, `(batch, anchors, steps, negatives)`.

    Rows are compared by two weighted sums, which agree by chance in less than one of a million pairs, and in about one
    of a thousand for bfloat16 latents.

    Args:
        candidates: `(rows, channels)`.
        negatives: `([batch, anchors,] negatives)`, rows of each anchor's negatives.
        targets: `(batch, anchors, steps)`, rows of each anchor's targets.
        rounding: Tolerance for the difference of the sums, as a fraction of the target's norm.
    """
    places = torch.arange(1, candidates.shape[1] + 1, device=candidates.device)
    widths = rounding * candidates.norm(dim=-1)
    is_equal = torch.ones((), dtype=torch.bool, device=candidates.device)
    for weights in (places.cos(), places.sin()):
        sums = candidates.mv(weights)
        low, high = (bound[targets][..., None] for bound in (sums - widths, sums + widths))
        of_negatives = sums[negatives][..., None, :]
        is_equal = is_equal & (of_negatives >= low) & (of_negatives <= high)
    return is_equal


def _mean_of_steps(values: torch.Tensor, valid: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """Mean over the valid anchors of each step, then over the steps that have any."""
    sums = torch.where(valid, values, 0.0).sum(dim=(0, 1))
    return (sums / pairs.clamp(min=1)).sum() / (pairs > 0).sum()


def draw_negatives(
    anchors: torch.Tensor,
    frames: int,
    num_steps: int,
    num_negatives: int,
    source: NegativeSource = "any",
    frame_mask: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    *,
    num_utterances: int | None = None,
) -> torch.Tensor:
    """Draws negatives for every anchor, uniformly and with replacement.

    Args:
        anchors: `(batch, anchors)`, indices `utterance * frames + frame`.
        frames: Frames per utterance, including padding.
        num_steps: Targets per anchor: the frames that follow it, which "not_positive" excludes.
        num_negatives: Draws per anchor.
        source: `negatives` of `info_nce`.
        frame_mask: `(num_utterances, frames)`, nonzero where a frame is real.
        generator: Random generator of the draws.
        num_utterances: Utterances that negatives are drawn from, starting with those of the anchors; `None` for only
            those.

    Returns:
        `(batch, anchors, num_negatives)` indices `utterance * frames + frame`.

    Raises:
        ValueError: The source is unknown, or it is "other_utterances" and only one utterance has real frames.
    """
    _check_choice("negatives", source, get_args(NegativeSource))
    batch, device = len(anchors), anchors.device
    if num_utterances is None:
        num_utterances = batch
    if source == "other_utterances" and num_utterances == 1:
        raise ValueError("`negatives` 'other_utterances' needs a batch of at least 2 utterances.")
    if frame_mask is None:
        frame_mask = torch.ones(num_utterances, frames, dtype=torch.bool, device=device)

    # Real frames first, in order: the r-th real frame of the batch is real_frames[r]. Every source is then a range of r
    # without one subrange (the hole), and no count has to be copied to the host.
    real = frame_mask.reshape(-1) != 0
    real_frames = torch.argsort(~real, stable=True)
    rank = real.cumsum(0)  # number of real frames up to and including each frame
    length = real.view(num_utterances, frames).sum(1)[:, None]
    utterance_start = (length.cumsum(0) - length)[:batch]
    length = length[:batch]

    low, size = torch.zeros_like(anchors), rank[-1].expand_as(anchors)
    hole_start, hole = low, torch.zeros_like(anchors)
    if source == "same_utterance":
        low, size = utterance_start.expand_as(anchors), length.expand_as(anchors)
    elif source == "other_utterances":
        hole_start, hole = utterance_start.expand_as(anchors), length.expand_as(anchors)
        require((size > hole).all(), "`negatives` 'other_utterances' needs real frames in at least 2 utterances.")
    elif source == "not_positive":
        utterance_end = torch.arange(1, batch + 1, device=device)[:, None] * frames - 1
        hole_start = rank[anchors]
        hole = rank[torch.minimum(anchors + num_steps, utterance_end)] - hole_start

    # An anchor that is padding may have an empty source; its draws are never used.
    bits = _random_bits((*anchors.shape, num_negatives), device, generator)
    draw = bits % (size - hole).clamp(min=1)[..., None] + low[..., None]
    draw = draw + hole[..., None] * (draw >= hole_start[..., None])
    return real_frames[draw.clamp(max=len(real_frames) - 1)]


def draw_window_start(lengths: torch.Tensor, window: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Draws the first frame of a window for each utterance, uniformly over all positions where the window fits.

    Args:
        lengths: `(batch,)`, real frames of each utterance.
        window: Frames per window; in shorter utterances it starts at 0.
        generator: Random generator of the draws.

    Returns:
        `(batch,)` int64.
    """
    return _random_bits(lengths.shape, lengths.device, generator) % (lengths - window + 1).clamp(min=1)


def kl_to_standard_normal(
    mean: torch.Tensor,
    log_variance: torch.Tensor,
    frame_mask: torch.Tensor | None = None,
    *,
    free_bits: float = 0.0,
) -> torch.Tensor:
    r"""KL divergence of N(mean, diag(exp(log_variance))) to N(0, I), in nats per frame (Kingma & Welling 2014).

    It is summed over channels and averaged over the real frames of the batch, so that it depends neither on the
    length of the audio nor on padding: `mean_frames sum_channels (mean^2 + exp(log_variance) - 1 - log_variance) / 2`.

    Args:
        mean: `(batch, frames, channels)`.
        log_variance: Same shape as `mean`.
        frame_mask: `(batch, frames)`, nonzero where a frame is real; `None` if all are.
        free_bits: Lower bound in nats per channel on the divergence, averaged over frames; a channel below it has no
            gradient (Kingma et al. 2016).

    Returns:
        A 0-dim float32 tensor, computed in float32 under any autocast.
    """
    with full_precision(mean.device):
        mean, log_variance = mean.float(), log_variance.float()
        if frame_mask is not None:  # padding becomes N(0, I): no divergence and no gradient
            padded = (frame_mask == 0)[..., None]
            mean, log_variance = mean.masked_fill(padded, 0.0), log_variance.masked_fill(padded, 0.0)
        # expm1: rounding of exp(log_variance) - 1 would exceed a divergence near 0
        doubled = torch.addcmul(torch.expm1(log_variance) - log_variance, mean, mean)
        if frame_mask is None:
            per_channel = doubled.mean(dim=(0, 1))
        else:
            per_channel = doubled.sum(dim=(0, 1)) / (frame_mask != 0).sum().clamp(min=1)
        per_channel = 0.5 * per_channel
        if free_bits > 0:
            per_channel = per_channel.clamp(min=free_bits)
        return per_channel.sum()


@torch.no_grad()
def autocorrelations(
    context: torch.Tensor,
    latents: torch.Tensor,
    offsets: Sequence[int],
    frame_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Correlation of each channel of a context with the latents some frames later, `E[c z] / sqrt(E[c^2] E[z^2])`.

    These are the optimal autocorrelations of the Gaussian critic for white latents (see `docs/theory.md`). Since they
    are measured rather than learned, they match the latents from the first step on.

    Args:
        context: `(batch, frames, channels)`.
        latents: Same shape and frames as `context`.
        offsets: `(steps,)`, in frames.
        frame_mask: `(batch, frames)`, nonzero where a frame is real; `None` if all are.

    Returns:
        `(steps, channels)` float32 without gradient, within ±0.99 so that scores stay finite; 0 for an offset without
        a pair of frames.
    """
    with full_precision(latents.device):
        context, latents = context.float(), latents.float()
        if frame_mask is not None:
            padded = (frame_mask == 0)[..., None]
            context, latents = context.masked_fill(padded, 0.0), latents.masked_fill(padded, 0.0)
        found = []
        for offset in offsets:
            first, second = context[:, :-offset], latents[:, offset:]
            if frame_mask is not None:  # both frames of a pair are real
                first, second = first.masked_fill(padded[:, offset:], 0.0), second.masked_fill(padded[:, :-offset], 0.0)
            norms = first.square().sum(dim=(0, 1)) * second.square().sum(dim=(0, 1))
            found.append((first * second).sum(dim=(0, 1)) / norms.sqrt().clamp(min=torch.finfo(norms.dtype).tiny))
        return torch.stack(found).clamp(-_LARGEST_CORRELATION, _LARGEST_CORRELATION)


def covariance_penalty(latents: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Distance of the latents' second moments from the identity, `||E[z z^T] - I||^2 / channels`, 0-dim float32.

    The Gaussian critic assumes white latents; without this penalty channels may copy each other.

    Args:
        latents: `(batch, frames, channels)`.
        frame_mask: `(batch, frames)`, nonzero where a frame is real; `None` if all are.
    """
    with full_precision(latents.device):
        rows, count = _real_rows(latents, frame_mask)
        moments = rows.T @ rows / count
        return (moments - torch.eye(len(moments), device=moments.device)).square().sum() / len(moments)


def lagged_covariance_penalty(
    latents: torch.Tensor, offsets: Sequence[int], frame_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Distance of lagged second moments from diagonal: `sum_k ||offdiag(sym(E[z_t z_{t+k}^T]))||^2 / channels`.

    For independent dimensions they are diagonal at every lag (Molgedey & Schuster 1994; SOBI, Belouchrani et al. 1997).

    Args:
        latents: `(batch, frames, channels)`.
        offsets: The lags k in frames; lags without a pair of frames are skipped.
        frame_mask: See `covariance_penalty`.

    Returns:
        A 0-dim float32 tensor.
    """
    total = latents.new_zeros((), dtype=torch.float32)
    with full_precision(latents.device):
        for offset in offsets:
            if offset >= latents.shape[1]:
                continue
            both = None if frame_mask is None else (frame_mask[:, :-offset] != 0) & (frame_mask[:, offset:] != 0)
            first, count = _real_rows(latents[:, :-offset], both)
            moments = first.T @ _real_rows(latents[:, offset:], both)[0] / count
            total = total + _off_diagonal(0.5 * (moments + moments.T))
    return total


def independence_penalty(latents: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
    """How well polynomials of a channel predict other channels: `sum_d ||offdiag(E[h_d(z) z^T])||^2 / channels`.

    The h_d are the normalized Hermite polynomials of degrees 2 and 3, orthogonal to z and to each other for a standard
    normal z. Channels that are uncorrelated at every lag can still be functions of each other, as a slow property and
    its square are (the harmonics of slow feature analysis, Wiskott 2003); for independent channels this is 0.

    Args:
        latents: `(batch, frames, channels)`, about white.
        frame_mask: See `covariance_penalty`.

    Returns:
        A 0-dim float32 tensor.
    """
    with full_precision(latents.device):
        rows, count = _real_rows(latents, frame_mask)
        bounded = rows.clamp(-_LARGEST_DEVIATION, _LARGEST_DEVIATION)
        total = rows.new_zeros(())
        for polynomial in ((bounded.square() - 1) / 2**0.5, (bounded**3 - 3 * bounded) / 6**0.5):
            total = total + _off_diagonal(polynomial.T @ rows / count)  # rows of padding are 0 and add nothing
        return total


def _real_rows(latents: torch.Tensor, frame_mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | int]:
    """Frames in float32, `(batch * frames, channels)`, 0 where they are padding, and the number of real ones."""
    rows = latents.float()
    if frame_mask is None:
        return rows.flatten(0, 1), rows.shape[0] * rows.shape[1]
    real = (frame_mask != 0)[..., None]
    return rows.masked_fill(~real, 0.0).flatten(0, 1), real.sum().clamp(min=1)


def _off_diagonal(moments: torch.Tensor) -> torch.Tensor:
    """Sum of the squares off the diagonal, over channels."""
    return (moments.square().sum() - moments.diagonal().square().sum()) / len(moments)


def count_active_units(
    mean: torch.Tensor, frame_mask: torch.Tensor | None = None, *, threshold: float = ACTIVE_UNIT_VARIANCE
) -> torch.Tensor:
    """Number of channels whose variance over frames is above a threshold (Burda et al. 2016).

    Args:
        mean: `(batch, frames, channels)`, posterior means or deterministic latents.
        frame_mask: `(batch, frames)`, nonzero where a frame is real; `None` if all are.
        threshold: Variance above which a channel is active; by default that of Burda et al.

    Returns:
        A 0-dim int64 tensor.
    """
    mean = mean.detach().float()
    if frame_mask is None:
        variance = mean.var(dim=(0, 1), correction=0)
    else:
        real = (frame_mask != 0).to(mean.dtype)[..., None]
        count = real.sum().clamp(min=1)
        center = (mean * real).sum(dim=(0, 1)) / count
        variance = ((mean - center).square() * real).sum(dim=(0, 1)) / count
    return (variance > threshold).sum()


def _random_bits(shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None) -> torch.Tensor:
    """62 random bits per entry, int64; modulo a count they are uniform up to a bias below 1e-12.

    Drawn in place, as `torch.randint` with a generator cannot be compiled for dynamic shapes.
    """
    drawing_device = device if generator is None else generator.device
    return torch.empty(shape, dtype=torch.long, device=drawing_device).random_(2**62, generator=generator).to(device)


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Disables autocast on a device where it is enabled."""
    return torch.autocast(device.type, enabled=False) if is_autocast(device) else nullcontext()


def is_autocast(device: torch.device) -> bool:
    """Whether autocast chooses the dtype of operations on a device."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def in_graph() -> bool:
    """Whether a graph is being compiled, exported or traced."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def require(condition: torch.Tensor, message: str) -> None:
    """Raises if a 0-dim tensor is false, without a synchronization between host and accelerator.

    Raises:
        ValueError: The condition is false. On an accelerator and in a compiled or exported graph it is a RuntimeError;
            a graph recorded by `torch.jit.trace` checks nothing.
    """
    if condition.device.type == "meta" or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return
    if condition.device.type != "cpu" or torch.compiler.is_compiling():
        torch._assert_async(condition, message)  # noqa: SLF001 - the only check that neither synchronizes nor branches
    elif not condition:
        raise ValueError(message)


__all__ = [
    "ACTIVE_UNIT_VARIANCE",
    "ContrastiveOutput",
    "NegativeSharing",
    "NegativeSource",
    "autocorrelations",
    "count_active_units",
    "covariance_penalty",
    "draw_negatives",
    "draw_window_start",
    "full_precision",
    "in_graph",
    "independence_penalty",
    "info_nce",
    "kl_to_standard_normal",
    "lagged_covariance_penalty",
    "require",
]
