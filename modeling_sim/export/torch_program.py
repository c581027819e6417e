"""The convolutional modules as a program of `torch.export`, for any batch and length."""

import copy
from typing import cast

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from modeling_sim import SimModel


class _Convolutions(nn.Module):
    """All modules of an encoder except the context; outputs have the same names as in ONNX files."""

    def __init__(self, model: SimModel) -> None:
        super().__init__()
        self.sim = copy.deepcopy(model).requires_grad_(False)  # or the program would compute gradients

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns means, log-variances and frame masks of every module."""
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
    """The convolutional modules as a program of `torch.export`; each module reads the means of the one below.

    It takes `input_values` and `attention_mask`, `(batch, samples)`, and returns a dict of those outputs of
    `encoder_graph` that are numbered by module.

    `torch.export` unrolls a GRU for a fixed number of frames, so the program does not contain the context: run
    `model.context` on the last means, or use the ONNX file, in which the GRU is one operation.
    """
    samples = 20 * model.config.receptive_field()
    inputs = torch.zeros(2, samples), torch.ones(2, samples, dtype=torch.long)
    any_size = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    return torch.export.export(_Convolutions(model).eval(), inputs, dynamic_shapes=(any_size, any_size), strict=False)
