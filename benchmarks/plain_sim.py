"""A straightforward implementation of Smooth InfoMax, as the baseline of `benchmarks/training_step.py`.

It follows the formulas of the paper directly: (batch, channels, frames) convolutions, a head for the mean and one for
the log-variance, N permutations of all frames of the batch as negatives, a loop over the prediction steps with batched
vector products, and one backward pass over the summed loss. Only benchmarks use it.
"""

import torch
import torch.nn.functional as F
from torch import nn

from modeling_sim import SimConfig


class PlainInfoNCE(nn.Module):
    """Contrastive loss of one module."""

    def __init__(self, context_channels: int, config: SimConfig) -> None:
        super().__init__()
        self.num_steps = config.num_prediction_steps
        self.num_negatives = config.num_negatives
        self.window = config.loss_window
        self.channels = config.hidden_size
        self.predictor = nn.Linear(context_channels, config.hidden_size * self.num_steps, bias=False)

    def forward(self, latents: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Loss of context `(batch, frames, context channels)` on latents `(batch, frames, channels)`."""
        everything = latents.reshape(-1, self.channels)
        if latents.shape[1] > self.window:
            start = int(torch.randint(latents.shape[1] - self.window + 1, ()))
            latents = latents[:, start : start + self.window]
            context = context[:, start : start + self.window]
        orders = [torch.randperm(len(everything), device=everything.device) for _ in range(self.num_negatives)]
        negatives = torch.stack([everything[order] for order in orders], dim=-1)  # (all frames, channels, negatives)
        loss = latents.new_zeros(())
        for step in range(1, self.num_steps + 1):
            weight = self.predictor.weight[(step - 1) * self.channels : step * self.channels]
            prediction = F.linear(context[:, :-step], weight).reshape(-1, 1, self.channels)
            positive = latents[:, step:].reshape(-1, self.channels, 1)
            scores = torch.cat((prediction @ positive, prediction @ negatives[-len(prediction) :]), dim=-1)
            loss = loss - F.log_softmax(scores[:, 0], dim=-1)[:, 0].mean()
        return loss / self.num_steps


class PlainModule(nn.Module):
    """Convolutions, two heads, two samples, one loss."""

    def __init__(self, in_channels: int, module: int, config: SimConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = config.hidden_size
        for kernel, stride, padding in zip(
            config.conv_kernel[module], config.conv_stride[module], config.conv_padding[module], strict=True
        ):
            layers.append(nn.Conv1d(in_channels, channels, kernel, stride, padding))
            if config.use_batch_norm:
                layers.append(nn.BatchNorm1d(channels))
            layers.append(nn.ReLU())
            in_channels = channels
        self.layers = nn.Sequential(*layers)
        self.mean_head = nn.Conv1d(channels, channels, 1)
        self.log_variance_head = nn.Conv1d(channels, channels, 1)
        self.contrastive = PlainInfoNCE(channels, config)
        self.kl_weight = config.kl_weights[module]

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and next input of `(batch, channels, frames)`."""
        hidden = self.layers(inputs)
        mean = self.mean_head(hidden).transpose(1, 2)
        log_variance = self.log_variance_head(hidden).transpose(1, 2)
        context = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        latents = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        divergence = (-0.5 * (1 + log_variance - mean**2 - torch.exp(log_variance))).sum(dim=-1).mean()
        loss = self.contrastive(latents, context) + self.kl_weight * divergence
        return loss, latents.transpose(1, 2).detach()


class PlainSim(nn.Module):
    """The complete model: its forward pass is the summed loss of `input_values` `(batch, samples)`."""

    def __init__(self, config: SimConfig) -> None:
        super().__init__()
        self.conv_modules = nn.ModuleList(
            PlainModule(config.hidden_size if module else 1, module, config)
            for module in range(config.num_conv_modules)
        )
        self.gru = nn.GRU(config.hidden_size, config.context_size, batch_first=True)
        self.contrastive = PlainInfoNCE(config.context_size, config)

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        """Summed loss."""
        inputs, total = input_values[:, None], input_values.new_zeros(())
        for module in self.conv_modules:
            loss, inputs = module(inputs)
            total = total + loss
        latents = inputs.transpose(1, 2)
        return total + self.contrastive(latents, self.gru(latents)[0])
