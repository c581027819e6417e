"""Encoders for inference with weights that are prepared once: faster, with the same frames up to rounding."""

import copy
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from modeling_sim.configuration_sim import SimConfig
from modeling_sim.layers_sim import (
    SimBatchNorm,
    SimConv1d,
    SimConvLayer,
    SimLatentHead,
    is_own,
    row_products,
    tap_weights,
    waveform_rows,
)
from modeling_sim.modeling_sim import SimConvModule, SimModel

# Number of channels added to a module's last layer for the one that is always 1: a multiple of the vector length of
# CPUs.
_ONES = 16


class FoldedConvLayer(SimConvLayer):
    """A convolution without batch norm, and its ReLU, with the weight in the layout of `row_products`.

    Args:
        layer: The layer to replace, which determines the sizes.
        weight: `(out_channels, in_channels, kernel)`.
        bias: `(out_channels,)`.
        dtype: Data type of the matrix products.
    """

    def __init__(self, layer: SimConvLayer, weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.sizes = layer.sizes
        self.out_channels, self.in_channels, _ = weight.shape
        # Output channels come last: for a few frames, products with the transpose take up to three times as long.
        if self.in_channels == 1:  # the bias is the weight of a column of ones, see `SimConvLayer`
            weight = torch.cat([weight[:, 0], bias[:, None]], dim=1).T
        else:
            weight = tap_weights(weight, self.sizes[1]).permute(1, 2, 0)
        self.weight = _frozen(weight, dtype)
        self.bias = _frozen(bias, dtype)

    def margins(self, following: SimConvLayer | None, frames: int, device: torch.device) -> tuple[int, int] | None:
        """See `SimConvLayer.margins`; `device` is ignored."""
        if following is None or self.in_channels > 1 or following.in_channels == 1:
            return None
        return following.zeros_around(frames)

    def forward(
        self,
        hidden_states: torch.Tensor,
        frame_mask: torch.Tensor | None = None,
        *,
        is_padded: bool = False,
        margins: tuple[int, int] | None = None,
    ) -> torch.Tensor:
        """See `SimConvLayer.forward`."""
        kernel, stride, padding = self.sizes
        padding = 0 if is_padded else padding
        hidden_states = hidden_states.to(self.bias.dtype)
        if self.in_channels == 1:
            rows = waveform_rows(hidden_states, frame_mask, kernel, stride, padding)
            return torch.matmul(F.pad(rows, (0, 0, *margins)) if margins else rows, self.weight).relu_()
        frames = (hidden_states.shape[1] + 2 * padding - kernel) // stride + 1
        weights = [weight.T for weight in self.weight]
        hidden_states = row_products(hidden_states, weights, self.bias, stride, padding, frames).relu_()
        return hidden_states if frame_mask is None else hidden_states.mul_(frame_mask[..., None])


def fold(model: SimModel, module: int | None = None, *, dtype: torch.dtype | None = None) -> SimModel:
    """An encoder for inference with a copy of the weights of `model`, faster and with the same frames up to rounding.

    Batch norm is merged into the convolutions. With `module`, the encoder ends there and returns that module's means:
    heads of log-variances are dropped, and the mean heads of earlier modules are merged into the next convolution (they
    are a fifth of the multiplications of the preset "sim"). Padding stays zero after the merge, so the biases of merged
    heads are carried by an extra channel that is 1 at real frames.

    Args:
        model: The encoder, which is not changed. A model with hooks, adapters or replaced layers is copied without
            folding, and calls the same hooks.
        module: The last module to compute, counted from 0; `None` for all, with log-variances.
        dtype: Data type of the convolutions, by default that of `model`. A GRU on a CPU keeps its own, because the
            products of one frame are too small to gain.

    Returns:
        A `SimModel` in evaluation mode, on the device of `model`, that ends with `module`.
    """
    config = model.config if module is None else _ending_at(model.config, module)
    if not all(_is_foldable(part) for part in model.modules()):
        return _copy(model, config, dtype)
    dtype = dtype or model.dtype
    folded = _empty(config)
    carried: SimLatentHead | None = None  # the head of the module below, if it is merged into the next convolution
    for number, target in enumerate(cast("list[SimConvModule]", list(folded.conv_modules))):
        source = cast("SimConvModule", model.conv_modules[number])
        layers = cast("list[SimConvLayer]", list(source.layers))
        weights = [layer.folded() for layer in layers]
        if carried is not None:
            weights[0] = _behind(carried, *weights[0])
        head, carried = source.latent_head, None
        if module is not None and head is not None:
            head = _mean_head(head, model.config.num_latents)
            if number < len(folded.conv_modules) - 1:
                following = cast("SimConvLayer", cast("SimConvModule", model.conv_modules[number + 1]).layers[0])
                if _is_cheaper(head, following):
                    head, carried = None, head
                    weights[-1] = _with_ones(*weights[-1])
            elif folded.context is not None and head.in_features <= head.out_features:
                head, carried = None, head
        target.latent_head = None if head is None else copy.deepcopy(head).to(dtype)
        target.layers = nn.ModuleList(
            FoldedConvLayer(layer, *weight, dtype) for layer, weight in zip(layers, weights, strict=True)
        )
    if folded.context is not None:
        folded.context = _gru(cast("nn.GRU", model.context), carried)
        if model.device.type != "cpu":
            folded.context.to(dtype)
    return cast("SimModel", folded.to(model.device).eval().requires_grad_(False))  # type: ignore[arg-type]


def _ending_at(config: SimConfig, module: int) -> SimConfig:
    """The configuration of a model that ends with a module and returns its means."""
    ending = copy.deepcopy(config)
    module %= config.num_modules
    for name in ("conv_kernel", "conv_stride", "conv_padding"):
        setattr(ending, name, getattr(config, name)[: module + 1])
    if module < config.num_conv_modules:
        ending.context_size = 0
    ending.latent_distribution, ending.kl_weight = "deterministic", 0.0
    ending.contrastive_modules, ending.probe_module = "all", -1  # valid without the modules above
    return ending


def _copy(model: SimModel, config: SimConfig, dtype: torch.dtype | None) -> SimModel:
    """A copy of a model in evaluation mode with the modules of `config`, which calls the hooks of the model."""
    parts = list(model.modules())
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    hooks = [hook for part in parts for name in names for hook in getattr(part, name).values()]
    # Copies of hooks that are methods or partial functions would be bound to copies of their objects.
    memo: dict[int, Any] = {id(hook): hook for hook in hooks if not isinstance(hook, nn.Module)}
    # Pruning keeps a product of parameters as an attribute, which cannot be copied with its gradient.
    computed = [value for part in parts for value in vars(part).values() if isinstance(value, torch.Tensor)]
    memo |= {id(value): value.detach().clone() for value in computed}
    copied = copy.deepcopy(model, memo)
    copied.config = config
    del copied.conv_modules[config.num_conv_modules :]
    if not config.context_size:
        copied.context = None
    if dtype is not None:
        SimModel.to(copied, dtype)  # accelerate replaces the method `to` of a model; its copy would change the model
    return copied.eval()


def _empty(config: SimConfig) -> SimModel:
    """A model without memory for weights and without batch norm."""
    settings = {name: getattr(config, name) for name in type(config).__annotations__}
    with torch.device("meta"):
        return SimModel(SimConfig(**{**settings, "use_batch_norm": False}))


def _is_foldable(part: nn.Module) -> bool:
    """Whether a module has a class of this package, and no hooks."""
    known = (SimModel, nn.ModuleList, SimConvModule, SimConvLayer, SimConv1d, SimBatchNorm, SimLatentHead, nn.GRU)
    return any(is_own(part, own_class) for own_class in known)


def _mean_head(head: SimLatentHead, num_latents: int) -> SimLatentHead:
    """The part of a head that computes means, in float64."""
    mean = SimLatentHead(head.in_features, num_latents).double()
    mean.load_state_dict({name: value[:num_latents] for name, value in head.state_dict().items()})
    return mean


def _is_cheaper(head: SimLatentHead, following: SimConvLayer) -> bool:
    """Whether a convolution that reads what a head reads has fewer products than both one after the other."""
    kernel, stride, _ = following.sizes
    products = following.out_channels * kernel / stride  # per input frame and channel
    return (head.in_features + _ONES) * products <= head.in_features * head.out_features + head.out_features * products


def _behind(head: SimLatentHead, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a convolution that reads the input of a head, and channels of which the first is 1."""
    merged = torch.einsum("oik,ij->ojk", weight, head.weight.detach())
    of_bias = torch.einsum("oik,i->ok", weight, head.bias.detach())[:, None]
    return torch.cat([merged, F.pad(of_bias, (0, 0, 0, _ONES - 1))], dim=1), bias


def _with_ones(weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias with further channels, of which the first is 1 and the others, for speed alone, are 0."""
    one = F.pad(bias.new_ones(1), (0, _ONES - 1))
    return F.pad(weight, (0, 0, 0, 0, 0, _ONES)), torch.cat([bias, one])


def _gru(context: nn.GRU, head: SimLatentHead | None) -> nn.GRU:
    """A copy of a GRU, with the head in front of it as part of its weights."""
    if head is None:
        return copy.deepcopy(context)
    merged = nn.GRU(head.in_features, context.hidden_size, batch_first=True, dtype=context.weight_ih_l0.dtype)
    state = {name: value.double() for name, value in context.state_dict().items()}
    state["bias_ih_l0"] = state["bias_ih_l0"] + state["weight_ih_l0"] @ head.bias.detach()
    state["weight_ih_l0"] = state["weight_ih_l0"] @ head.weight.detach()
    merged.load_state_dict(state)
    return merged


def _frozen(value: torch.Tensor, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(value.detach().to(dtype, copy=True).contiguous(), requires_grad=False)


__all__ = ["FoldedConvLayer", "fold"]
