"""Short steps of a stream: in 20 ms of a small encoder, calling its modules takes longer than its products."""

from collections.abc import Sequence
from typing import NamedTuple, Self, cast

import torch

from modeling_sim.inference.folding import FoldedConvLayer
from modeling_sim.layers_sim import gru_frames, gru_weights
from modeling_sim.modeling_sim import SimConvModule, SimModel, SimModuleLatents

# Samples up to which a step copies the patches of each convolution for a single product.
MAX_SAMPLES = 2048


class _Convolution(NamedTuple):
    weight: torch.Tensor
    """`(kernel * in_channels, out_channels)`."""
    bias: torch.Tensor
    kernel: int
    stride: int


class _Head(NamedTuple):
    weight: torch.Tensor
    """`(in_features, out_features)`."""
    bias: torch.Tensor
    is_gaussian: bool
    clamp: tuple[float, float] | None


class ShortSteps:
    """`SimModel.step` of a folded encoder on a CPU as a list of products, for few samples that are not the last.

    Args:
        model: The encoder. Build the steps again if its weights change.
    """

    def __init__(self, model: SimModel) -> None:
        self.modules: list[tuple[list[_Convolution], _Head | None]] = []
        for module in cast("list[SimConvModule]", list(model.conv_modules)):
            convolutions = []
            for layer in cast("list[FoldedConvLayer]", list(module.layers)):
                kernel, stride, _ = layer.sizes
                weight = layer.weight.flatten(0, -2)[: kernel * layer.in_channels]
                convolutions.append(_Convolution(weight, layer.bias, kernel, stride))
            head, clamp = module.latent_head, cast("tuple[float, float] | None", model.config.log_variance_clamp)
            product = head and _Head(head.weight.T.contiguous(), head.bias, module.is_gaussian, clamp)
            self.modules.append((convolutions, cast("_Head | None", product)))
        self.gru, self.gru_dtype = None, torch.float32
        if model.context is not None:
            self.gru, self.gru_dtype = gru_weights(model.context), next(model.context.parameters()).dtype

    @classmethod
    def of(cls, model: SimModel) -> Self | None:
        """The steps of an encoder; `None` if it is not on a CPU or not folded."""
        if model.device.type != "cpu":
            return None
        layers = [layer for module in model.conv_modules for layer in cast("SimConvModule", module).layers]
        return cls(model) if all(isinstance(layer, FoldedConvLayer) for layer in layers) else None

    def __call__(
        self, input_values: torch.Tensor, state: Sequence[torch.Tensor]
    ) -> tuple[list[SimModuleLatents], list[torch.Tensor]]:
        """As `SimModel.step`; `input_values` has the dtype of the state."""
        held, new, modules = iter(state), list[torch.Tensor](), list[SimModuleLatents]()
        batch, hidden_states = len(input_values), input_values[..., None]
        for convolutions, head in self.modules:
            for weight, bias, kernel, stride in convolutions:
                inputs = torch.cat([next(held), hidden_states], dim=1)
                _, length, channels = inputs.shape
                frames = max(0, (length - max(kernel, stride)) // stride + 1)  # see `SimConvLayer.resume`
                new.append(inputs[:, frames * stride :])
                if frames:
                    patches = inputs.flatten(1).unfold(1, kernel * channels, stride * channels)[:, :frames]
                    outputs = torch.addmm(bias, patches.flatten(0, 1), weight).relu_()
                else:
                    outputs = inputs.new_empty(0, len(bias))
                hidden_states = outputs.view(batch, frames, len(bias))
            log_variance = None
            if head is not None:
                hidden_states = torch.addmm(head.bias, outputs, head.weight).view(batch, frames, len(head.bias))
                if head.is_gaussian:
                    hidden_states, log_variance = hidden_states.chunk(2, dim=-1)
                    if head.clamp is not None:
                        log_variance = log_variance.clamp(*head.clamp)
            modules.append(SimModuleLatents(hidden_states, hidden_states, log_variance, None))
        if self.gru is not None:
            past = next(held)
            if frames:
                hidden_states, past = gru_frames(self.gru, hidden_states, past)
            else:
                hidden_states = hidden_states.new_empty(batch, 0, past.shape[2])
            hidden_states = hidden_states.to(self.gru_dtype)
            new.append(past)
            modules.append(SimModuleLatents(hidden_states, hidden_states, None, None))
        return modules, new


__all__ = ["MAX_SAMPLES", "ShortSteps"]
