"""The convolutional modules as a program of `torch.export`, for any batch and length."""

import copy
from typing import cast

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from modeling_sim import SimModel


class _Convolutions(nn.Module):
    """All modules of an encoder but the context, with the names that the outputs have in ONNX files too."""

    def __init__(self, model: SimModel) -> None:
        super().__init__()
        self.sim = copy.deepcopy(model).requires_grad_(False)  # a program has gradients where its parameters have

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Means and log-variances of every module, and which frames are real."""
        hidden_states, lengths = self.sim.prepare_inputs(input_values, attention_mask)
        outputs = {}
        for number, module in enumerate(self.sim.conv_modules):
            hidden_states, log_variance, lengths = module(hidden_states, lengths)
            outputs[f"means.{number}"] = hidden_states
            if log_variance is not None:
                outputs[f"log_variances.{number}"] = log_variance
            frames = torch.arange(hidden_states.shape[1], device=hidden_states.device)
            outputs[f"frame_masks.{number}"] = (frames < cast("torch.Tensor", lengths)[:, None]).long()
        return outputs


def convolutions_program(model: SimModel) -> ExportedProgram:
    """The convolutional modules, which hand on means, as a program of `torch.export`.

    It takes `input_values` and `attention_mask`, `(batch, samples)`, and gives a dict of the outputs of `encoder_graph`
    that have a module's number.

    `torch.export` takes a GRU apart into its steps, as many as there are frames at the time, so the context is not in
    the program: run `model.context` on the last means, or use the ONNX file, in which the GRU is one operation.
    """
    samples = 20 * model.config.receptive_field()
    inputs = torch.zeros(2, samples), torch.ones(2, samples, dtype=torch.long)
    any_size = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    return torch.export.export(_Convolutions(model).eval(), inputs, dynamic_shapes=(any_size, any_size), strict=False)
