"""Layers of the convolutional modules: convolution, batch normalization and latent head on `(batch, frames, channels)`.

Convolutions are matrix products on rows of frames, so that no tensor is transposed from the waveform to the loss.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_sim import SimConfig, num_output_frames
from .objectives_sim import full_precision, in_graph, is_autocast, require

# Device types on which convolutions are computed as matrix products; all others use torch's own convolution.
# `benchmarks/gpu_benchmark.py` measures which is faster.
ROW_PRODUCT_DEVICES = {"cpu", "cuda"}


def _rows(hidden_states: torch.Tensor, taps: int, stride: int, padding: int, frames: int) -> torch.Tensor:
    """`(batch, rows, stride * channels)`, enough rows for every frame and every input."""
    batch, length, channels = hidden_states.shape
    rows = max(frames + taps - 1, -(-(padding + length) // stride))
    zeros = padding, rows * stride - length - padding
    padded = F.pad(hidden_states, (0, 0, *zeros)) if any(zeros) else hidden_states
    return padded.reshape(batch, rows, stride * channels)


def tap_weights(weight: torch.Tensor, stride: int) -> torch.Tensor:
    """`(out_channels, taps, stride * in_channels)` of a convolution's weight, see `_RowConvolution`.

    The last tap is padded with zeros if the kernel does not fill it. Only the last two axes of the weight are
    exchanged, which takes a tenth of the time of moving the output channels, too.
    """
    out_channels, in_channels, kernel = weight.shape
    taps = -(-kernel // stride)
    weight = F.pad(weight, (0, taps * stride - kernel)).transpose(1, 2)
    return weight.reshape(out_channels, taps, stride * in_channels)


def row_products(
    hidden_states: torch.Tensor,
    weights: Sequence[torch.Tensor],
    bias: torch.Tensor,
    stride: int,
    padding: int,
    frames: int,
) -> torch.Tensor:
    """A convolution's first `frames` outputs, `(batch, frames, out_channels)`, from the weights of its taps."""
    rows = _rows(hidden_states, len(weights), stride, padding, frames)
    matrix = rows.flatten(0, 1)
    outputs = matrix.new_empty(len(matrix), len(bias))
    products = len(outputs) - (len(weights) - 1)
    torch.addmm(bias, matrix[:products], weights[0].T, out=outputs[:products])
    for tap, weight in enumerate(weights[1:], start=1):
        outputs[:products].addmm_(matrix[tap : tap + products], weight.T)
    return outputs.view(*rows.shape[:2], -1)[:, :frames]


def waveform_rows(
    waveform: torch.Tensor, frame_mask: torch.Tensor | None, kernel: int, stride: int, padding: int
) -> torch.Tensor:
    """Patches of a `(batch, samples, 1)` waveform and a last column of ones, `(batch, frames, kernel + 1)`.

    The bias of a convolution is the weight of the last column. Rows are 0 where `frame_mask`, `(batch, frames)`, is
    false.
    """
    patches = F.pad(waveform[..., 0], (padding, padding)).unfold(1, kernel, stride)
    if frame_mask is None:
        return torch.cat([patches, patches.new_ones(*patches.shape[:2], 1)], dim=-1)
    real = frame_mask[..., None].to(patches)
    return torch.cat([patches * real, real], dim=-1)


def front(
    config: SimConfig, values: torch.Tensor, mask: torch.Tensor | None, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The first module's input `(utterances, positions, input_channels)`, and the mask `(utterances, positions)`.

    It has no parameters: the first convolution embeds patches and tokens, so that the first module's loss trains them.

    Args:
        config: Configuration, which defines the input.
        values: Waveforms `(batch, samples)`, token ids `(batch, tokens)`, or images `(batch, channels, height, width)`,
            each column of whose patches becomes an utterance: row `image * columns + column`.
        mask: `(batch, samples)`, `(batch, tokens)` or `(batch, height)`, nonzero where real. A patch is real if all of
            its rows are.
        dtype: Data type of the weights, and of the result.

    Raises:
        ValueError: A token id is not in 0 to `vocab_size` - 1; see `require` for accelerators and graphs.
    """
    if config.input_kind == "tokens":
        require(
            ((values >= 0) & (values < config.vocab_size)).all(),
            f"`input_values` has token ids that are not in 0 to `vocab_size` - 1 = {config.vocab_size - 1}; give those "
            "of the model's `SimTokenizer`.",
        )
        return F.one_hot(values.long(), config.vocab_size).to(dtype), mask
    if config.input_kind == "waveform":
        return values[..., None].to(dtype), mask
    size, stride = config.patch_size, config.patch_stride
    patches = values.unfold(2, size, stride).unfold(3, size, stride)  # (batch, channels, rows, columns, size, size)
    if mask is not None:
        mask = mask.unfold(1, size, stride).amin(-1).repeat_interleave(patches.shape[3], dim=0)
    return patches.permute(0, 3, 2, 1, 4, 5).flatten(3).flatten(0, 1).to(dtype), mask


class _RowConvolution(torch.autograd.Function):
    """A convolution along frames as matrix products on rows of one stride each.

    A kernel spans `taps = ceil(kernel / stride)` strides. With the padded input cut into rows of one stride, output
    frame t is the sum over taps of row t + tap times that tap's part of the kernel: `taps` products on shifted views
    of one matrix, without the copies of an unfolded input. The utterances of a batch form one matrix; products across
    the border of two utterances fall on rows past an utterance's last frame and are dropped.

    Autograd of the same products would allocate a tensor of the input's size for each shifted view; here the taps
    accumulate into one.
    """

    @staticmethod
    def forward(
        hidden_states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, stride: int, padding: int
    ) -> torch.Tensor:
        taps = -(-weight.shape[2] // stride)
        frames = (hidden_states.shape[1] + 2 * padding - weight.shape[2]) // stride + 1
        weights = tap_weights(weight, stride)
        return row_products(hidden_states, [weights[:, tap] for tap in range(taps)], bias, stride, padding, frames)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        hidden_states, weight, _, ctx.stride, ctx.padding = inputs
        ctx.frames = output.shape[1]
        # The unpadded input, which the layer below saves anyway; a padded copy would be one more tensor.
        ctx.save_for_backward(hidden_states, weight)

    @staticmethod
    def backward(ctx: Any, grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_states, weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # `create_graph`: torch's own convolution has second derivatives
            tensors = grad_outputs.transpose(1, 2), hidden_states.transpose(1, 2), weight
            geometry = [weight.shape[0]], [ctx.stride], [ctx.padding], [1], False, [0], 1
            grad_input, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
                *tensors, *geometry, ctx.needs_input_grad[:3]
            )
            return None if grad_input is None else grad_input.transpose(1, 2), grad_weight, grad_bias, None, None
        taps = -(-weight.shape[2] // ctx.stride)
        rows = _rows(hidden_states, taps, ctx.stride, ctx.padding, ctx.frames)
        matrix = rows.flatten(0, 1)
        products = len(matrix) - (taps - 1)
        grads = F.pad(grad_outputs, (0, 0, 0, rows.shape[1] - ctx.frames)).flatten(0, 1)[:products]
        needs_input, needs_weight, needs_bias = ctx.needs_input_grad[:3]

        grad_input = grad_weight = grad_bias = None
        if needs_input:
            weights = tap_weights(weight, ctx.stride)
            grad_rows = torch.empty_like(matrix)
            grad_rows[products:] = 0
            torch.mm(grads, weights[:, 0], out=grad_rows[:products])
            for tap in range(1, taps):
                grad_rows[tap : tap + products].addmm_(grads, weights[:, tap])
            length = hidden_states.shape[1]
            grad_input = grad_rows.view(rows.shape[0], -1, hidden_states.shape[2])[:, ctx.padding :][:, :length]
        if needs_weight:
            grad_taps = torch.stack([grads.T @ matrix[tap : tap + products] for tap in range(taps)], dim=1)
            grad_weight = grad_taps.view(len(weight), -1, weight.shape[1]).transpose(1, 2)[..., : weight.shape[2]]
        if needs_bias:
            grad_bias = grads.sum(0)
        return grad_input, grad_weight, grad_bias, None, None


class SimConv1d(nn.Conv1d):
    """`nn.Conv1d` with `convolve_rows`, which is faster on `(batch, frames, channels)`.

    Calling the module runs `nn.Conv1d` on `(batch, channels, frames)`, as adapters such as LoRA and DoRA, hooks and
    quantization expect.
    """

    bias: nn.Parameter

    def convolve_rows(self, hidden_states: torch.Tensor, padding: int | None = None) -> torch.Tensor:
        """Convolves `(batch, frames, in_channels)` to `(batch, frames, out_channels)` without running hooks.

        `padding` overrides the module's own, for an input that is already padded.
        """
        padding = int(self.padding[0]) if padding is None else padding
        weight: torch.Tensor = self.weight
        bias: torch.Tensor = self.bias
        if is_autocast(hidden_states.device):
            dtype = torch.get_autocast_dtype(hidden_states.device.type)
            hidden_states, weight, bias = hidden_states.to(dtype), weight.to(dtype), bias.to(dtype)
        return _RowConvolution.apply(hidden_states, weight, bias, self.stride[0], padding)


class SimBatchNorm(nn.BatchNorm1d):
    """`nn.BatchNorm1d` on `(batch, frames, channels)`, with statistics over real frames only."""

    momentum: float
    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def forward(self, hidden_states: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Normalizes `hidden_states`; `frame_mask` `(batch, frames)` bool is true where a frame is real."""
        if frame_mask is None or not self.training:
            return super().forward(hidden_states.flatten(0, -2)).view_as(hidden_states)
        values = _at_least_float32(hidden_states)
        real = frame_mask[..., None].to(values.dtype)
        count = real.sum().clamp(min=1)
        mean = (values * real).sum(dim=(0, 1)) / count
        variance = ((values - mean).square() * real).sum(dim=(0, 1)) / count
        self.update_running_statistics(mean, variance, count)
        scale = self.weight.to(values.dtype) * torch.rsqrt(variance + self.eps)
        return torch.addcmul(self.bias.to(values.dtype), values - mean, scale).to(hidden_states.dtype)

    @torch.no_grad()
    def update_running_statistics(self, mean: torch.Tensor, variance: torch.Tensor, count: torch.Tensor) -> None:
        """Updates the running statistics with the mean and variance, `(channels,)`, of a batch of `count` frames."""
        unbiased = variance * count / (count - 1).clamp(min=1)
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)


class SimConvLayer(nn.Module):
    """Convolution, optional batch normalization, ReLU."""

    def __init__(self, config: SimConfig, in_channels: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.sizes = kernel, stride, padding
        self.in_channels, self.out_channels = in_channels, config.hidden_size
        self.conv = SimConv1d(in_channels, config.hidden_size, kernel, stride, padding)
        self.norm: nn.Module | None = (
            SimBatchNorm(config.hidden_size, config.batch_norm_eps, config.batch_norm_momentum)
            if config.use_batch_norm
            else None
        )

    def num_frames(self, length: Any) -> Any:
        """Number of output frames for a number of input frames (an int, or a tensor of integers)."""
        return num_output_frames(length, *self.sizes)

    @torch.no_grad()
    def folded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias, in float64, of one convolution that includes the batch normalization of evaluation mode."""
        weight, bias = self.conv.weight.double(), self.conv.bias.double()
        if self.norm is None:
            return weight, bias
        norm = cast("SimBatchNorm", self.norm)
        scale = norm.weight.double() * torch.rsqrt(norm.running_var.double() + norm.eps)
        return weight * scale[:, None, None], (bias - norm.running_mean) * scale + norm.bias.double()

    def resume(
        self, hidden_states: torch.Tensor, held: torch.Tensor, *, last: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Output frames that are complete, and the input frames that later ones need.

        Args:
            hidden_states: `(batch, frames, channels)`, the next input frames of a stream; may have none.
            held: `(batch, frames, channels)`, the input frames that the last call returned; at the start, the zeros of
                the padding.
            last: No input follows: the padding at the end is added, which completes all frames.
        """
        kernel, stride, padding = self.sizes
        inputs = torch.cat([held, hidden_states], dim=1)
        if last:
            inputs = F.pad(inputs, (0, 0, 0, padding))
        # With a stride longer than the kernel, a frame is computed once the skipped inputs after it have arrived, so
        # that they need not be skipped in a later call.
        frames = max(0, (inputs.shape[1] - (kernel if last else max(kernel, stride))) // stride + 1)
        if not frames:
            return inputs.new_zeros(len(inputs), 0, self.out_channels), inputs
        held = inputs[:, frames * stride :].clone()  # a view would keep all inputs in memory
        needed = (frames - 1) * stride + kernel
        return self(inputs[:, :needed], is_padded=True), held

    def margins(self, following: "SimConvLayer | None", frames: int, device: torch.device) -> tuple[int, int] | None:
        """Zeros to write before and after this layer's output `frames`, so that the next layer need not pad them.

        Only the first layer, which has the most frames, does so; `None` for the others. A negative number drops frames
        that the next layer does not read.
        """
        if following is None or not (self._reads_waveform(device) and is_own(self, SimConvLayer)):
            return None
        if not (is_own(following, SimConvLayer) and is_own(following.conv, SimConv1d)):
            return None
        if following.conv.in_channels == 1:  # it pads its own input, like a waveform
            return None
        return following.zeros_around(frames)

    def zeros_around(self, frames: int) -> tuple[int, int]:
        """Zeros before and after `frames` input frames that make them rows of `row_products` without padding."""
        kernel, stride, padding = self.sizes
        rows = self.num_frames(frames) + -(-kernel // stride) - 1
        return padding, rows * stride - padding - frames

    def forward(
        self,
        hidden_states: torch.Tensor,
        frame_mask: torch.Tensor | None = None,
        *,
        is_padded: bool = False,
        margins: tuple[int, int] | None = None,
    ) -> torch.Tensor:
        """Returns `(batch, frames, channels)`.

        Args:
            hidden_states: `(batch, input frames, in_channels)`.
            frame_mask: `(batch, frames)` bool, true where an output frame is real; the output is 0 elsewhere.
            is_padded: The input already has the padding of this layer, or frames of a stream in its place.
            margins: Zeros to add before and after the output, see `margins`.
        """
        # A submodule with hooks or an adapter is called as a module, and neither fused nor changed in place.
        if self._reads_waveform(hidden_states.device):
            padding = 0 if is_padded else self.sizes[2]
            return self._waveform_features(hidden_states, frame_mask, padding, margins or (0, 0))
        conv_is_own = is_own(self.conv, SimConv1d)
        if conv_is_own and _takes_row_products(hidden_states.device):
            hidden_states = self.conv.convolve_rows(hidden_states, 0 if is_padded else None)
        elif is_padded and not conv_is_own:
            hidden_states = self._without_padding(hidden_states)
        elif is_padded:  # a compiled graph starts at this layer
            weight, bias, stride = self.conv.weight, self.conv.bias, self.conv.stride
            hidden_states = F.conv1d(hidden_states.transpose(1, 2), weight, bias, stride).transpose(1, 2)
        else:
            hidden_states = self.conv(hidden_states.transpose(1, 2)).transpose(1, 2)
        if self.norm is not None:
            hidden_states = _normalize(self.norm, hidden_states, frame_mask)
        # In place only without gradients: autograd copies a view that is changed in place.
        in_place = (
            conv_is_own and (self.norm is None or is_own(self.norm, SimBatchNorm)) and not torch.is_grad_enabled()
        )
        if frame_mask is not None:
            # The next convolution must read zeros past the end, as for an utterance without padding.
            real = frame_mask[..., None]
            hidden_states = hidden_states.mul_(real) if in_place else hidden_states * real
        hidden_states = F.relu(hidden_states, inplace=in_place)
        # Only a compiled layer whose caller is not compiled gets here with margins.
        return hidden_states if margins is None else F.pad(hidden_states, (0, 0, *margins))

    def _without_padding(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Calls the convolution, which adds its padding, and returns the frames that do not read any of it."""
        kernel, stride, padding = self.sizes
        before = -padding % stride  # zeros, so that a frame starts where the input does
        first, frames = (padding + before) // stride, (hidden_states.shape[1] - kernel) // stride + 1
        padded = F.pad(hidden_states, (0, 0, before, 0))
        return self.conv(padded.transpose(1, 2)).transpose(1, 2)[:, first : first + frames]

    def _reads_waveform(self, device: torch.device) -> bool:
        """Whether this layer uses `_waveform_features`."""
        return (
            is_own(self.conv, SimConv1d)
            and self.conv.in_channels == 1
            and (self.norm is None or is_own(self.norm, SimBatchNorm))
            and _takes_row_products(device)
        )

    def _waveform_features(
        self, waveform: torch.Tensor, frame_mask: torch.Tensor | None, padding: int, margins: tuple[int, int]
    ) -> torch.Tensor:
        """Convolution, optional batch normalization and ReLU of a `(batch, samples, 1)` waveform in one product.

        The first layer has the most frames and the smallest input. Its output is affine in a patch of about ten
        samples, so its batch statistics follow from the mean and covariance of the patches, and normalization is a
        change of weights: the largest tensor of the model is written and kept only once. The bias is the weight of a
        column of ones, so that rows of zeros give zeros past an utterance's end and in the margins.
        """
        rows = waveform_rows(waveform, frame_mask, *self.sizes[:2], padding)
        weight: torch.Tensor = self.conv.weight[:, 0]
        bias: torch.Tensor = self.conv.bias
        if self.norm is not None:
            with full_precision(waveform.device):
                weight, bias = self._normalized_weights(_at_least_float32(rows), weight, bias)
        rows = F.pad(rows, (0, 0, *margins))
        weights = torch.cat([weight, bias[:, None]], dim=1).to(rows.dtype)
        # Autograd computes a weight's gradient in the weight's own layout. With so few columns, `rows^T grad` is four
        # times as fast on a CPU as `grad^T rows`.
        return F.relu(F.linear(rows, weights.T.contiguous().T), inplace=True)

    def _normalized_weights(
        self, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Folds batch normalization over the patches of `waveform_rows` into `weight` and `bias`."""
        norm = cast("SimBatchNorm", self.norm)
        weight, bias = weight.to(rows.dtype), bias.to(rows.dtype)
        if norm.training:
            patches, real = rows[..., :-1].flatten(0, 1), rows[..., -1:].flatten(0, 1)
            count = real.sum().clamp(min=1)
            center = patches.sum(dim=0) / count
            centered = (patches - center) * real
            covariance = centered.T @ centered / count
            mean = weight @ center + bias
            # Rounding can make a variance near 0 negative.
            variance = ((weight @ covariance) * weight).sum(dim=1).clamp(min=0)
            norm.update_running_statistics(mean, variance, count)
        else:
            mean, variance = norm.running_mean.to(rows.dtype), norm.running_var.to(rows.dtype)
        scale = norm.weight.to(rows.dtype) * torch.rsqrt(variance + norm.eps)
        return scale[:, None] * weight, scale * (bias - mean) + norm.bias.to(rows.dtype)


def _takes_row_products(device: torch.device) -> bool:
    """Whether convolutions are matrix products; a compiled, exported or traced graph uses torch's own convolution."""
    return device.type in ROW_PRODUCT_DEVICES and not in_graph()


def is_own(module: nn.Module, own_class: type[nn.Module]) -> bool:
    """Whether a layer is unmodified: no adapter, parametrization, hook or replaced `forward`."""
    return (
        type(module) is own_class
        and "forward" not in module.__dict__
        and not (module._forward_hooks or module._forward_pre_hooks)  # noqa: SLF001 - torch has no public name
        and not (module._backward_hooks or module._backward_pre_hooks)  # noqa: SLF001
    )


def _normalize(norm: nn.Module, hidden_states: torch.Tensor, frame_mask: torch.Tensor | None) -> torch.Tensor:
    """Applies a `SimBatchNorm`, or a replacement such as `nn.SyncBatchNorm`, which only takes rows of frames."""
    if isinstance(norm, SimBatchNorm):
        return cast("torch.Tensor", norm(hidden_states, frame_mask))
    if frame_mask is None or not norm.training:
        return cast("torch.Tensor", norm(hidden_states.flatten(0, 1))).view_as(hidden_states)
    normalized = norm(hidden_states[frame_mask])
    return torch.zeros_like(hidden_states, dtype=normalized.dtype).masked_scatter(frame_mask[..., None], normalized)


class SimLatentHead(nn.Linear):
    """Linear map from a module's last ReLU to its latents; for Gaussians, to the mean and then the log-variance.

    With `in_halves` mean and log-variance are two products, so that the mean and its gradient equal GIM's exactly.
    """

    def __init__(self, in_features: int, out_features: int, *, in_halves: bool = False) -> None:
        super().__init__(in_features, out_features)
        self.in_halves = in_halves

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Returns `(batch, frames, out_features)`, for Gaussians the mean and then the log-variance."""
        if not self.in_halves:
            return super().forward(hidden_states)
        halves = zip(self.weight.chunk(2), self.bias.chunk(2), strict=True)
        return torch.cat([F.linear(hidden_states, weight, bias) for weight, bias in halves], dim=-1)


def gru_weights(gru: nn.GRU) -> list[torch.Tensor]:
    """Weights of a GRU of one layer for `gru_frames`, in float32 at least."""
    return [_at_least_float32(weight) for weight in gru.parameters()]


def gru_frames(
    weights: list[torch.Tensor], hidden_states: torch.Tensor, state: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Like `run_gru`, with the weights that `gru_weights` prepared, and in their dtype."""
    dtype = weights[0].dtype
    if state is None:
        state = hidden_states.new_zeros(1, len(hidden_states), weights[1].shape[1], dtype=dtype)
    return torch.gru(hidden_states.to(dtype), state.to(dtype), weights, True, 1, 0.0, False, False, True)


def run_gru(
    gru: nn.GRU, hidden_states: torch.Tensor, state: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames of a GRU, `(batch, frames, hidden_size)`, and its state after them, `(1, batch, hidden_size)`.

    Autocast is off, as on a GPU it would compute a GRU in float16 even where it is set to bfloat16. Outside graphs, a
    CPU computes in float32 at least, also with weights in half precision: the products of one frame are too small to
    gain from it, and bfloat16 takes several times as long. The state then stays in float32.
    """
    on_cpu, dtype = hidden_states.device.type == "cpu", next(gru.parameters()).dtype
    with full_precision(hidden_states.device):
        if on_cpu and is_own(gru, nn.GRU) and not in_graph():
            frames, state = gru_frames(gru_weights(gru), hidden_states, state)
            return frames.to(dtype), state
        hidden_states, state = hidden_states.to(dtype), None if state is None else state.to(dtype)
        # cuDNN only supports the backward pass in training mode; without dropout the mode changes nothing else.
        was_training = gru.training
        gru.training = was_training or torch.is_grad_enabled()
        try:
            return cast("tuple[torch.Tensor, torch.Tensor]", gru(hidden_states, state))
        finally:
            gru.training = was_training


def _at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Converts half precision to float32; float64 stays."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


__all__ = [
    "SimBatchNorm",
    "SimConv1d",
    "SimConvLayer",
    "SimLatentHead",
    "front",
    "gru_frames",
    "gru_weights",
    "is_own",
    "row_products",
    "run_gru",
    "tap_weights",
    "waveform_rows",
]
