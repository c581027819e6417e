"""Decoder from the latents of one Smooth InfoMax module to the waveform, to listen to what they represent."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils.generic import ModelOutput, can_return_tuple

from .configuration_sim_decoder import SimDecoderConfig


@dataclass
class SimDecoderOutput(ModelOutput):
    """Output of `SimDecoder`.

    Args:
        waveforms: `(batch, samples)`, at the configuration's `sampling_rate`; 0 past the end of an utterance.
    """

    waveforms: torch.Tensor | None = None


class SimDecoder(PreTrainedModel):
    """Transposed convolutions from standardized latents to the waveform, as in the SIM paper.

    The decoder first standardizes each channel with a mean and a scale that the checkpoint stores, so that training
    does not depend on the scale of the latents. They are 0 and 1 until `set_standardization` sets them.
    """

    config: SimDecoderConfig
    config_class = SimDecoderConfig
    base_model_prefix = "decoder"
    main_input_name = "latents"
    input_modalities = "audio"
    _no_split_modules: list[str] = []
    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, config: SimDecoderConfig) -> None:
        super().__init__(config)
        self.register_buffer("mean", torch.zeros(config.latent_size))
        self.register_buffer("scale", torch.ones(config.latent_size))
        channels = [config.latent_size, *[config.hidden_size] * (len(config.kernel_sizes) - 1), 1]
        self.layers = nn.ModuleList(
            nn.ConvTranspose1d(channels[number], channels[number + 1], kernel, stride, padding, output_padding)
            for number, (kernel, stride, padding, output_padding) in enumerate(config.layers())
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """PyTorch's default initialization, as in the paper."""
        if isinstance(module, nn.ConvTranspose1d):
            bound = 1 / math.sqrt(module.weight.shape[1] * module.weight.shape[2])
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)
        elif module is self:
            init.zeros_(self.mean)
            init.ones_(self.scale)

    def set_standardization(self, mean: torch.Tensor, scale: torch.Tensor) -> None:
        """Sets the mean and scale, `(channels,)` each, that standardize the latents.

        Raises:
            ValueError: They are not one finite number per channel, or a scale is not above 0.
        """
        for name, values in (("mean", mean), ("scale", scale)):
            if values.shape != self.mean.shape or not bool(values.isfinite().all()):
                raise ValueError(f"`{name}` must be {len(self.mean)} finite numbers, one per channel.")
        if not bool((scale > 0).all()):
            raise ValueError("`scale` must be above 0 in every channel.")
        self.mean.copy_(mean)
        self.scale.copy_(scale)

    @can_return_tuple
    def forward(
        self,
        latents: torch.Tensor,
        num_samples: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> SimDecoderOutput:
        """Decodes latents.

        Args:
            latents: `(batch, frames, channels)` of the module that the decoder was trained on.
            num_samples: Length of every utterance, a number or `(batch,)`; waveforms are truncated or padded with zeros
                to the longest. `None`: the length that the layers give, `config.num_samples(frames)`.
            kwargs: `return_dict`; other arguments are ignored.

        Raises:
            TypeError: `latents` is not a tensor.
            ValueError: `latents` is not `(batch, frames, channels)` with the configuration's channels.
        """
        if not isinstance(latents, torch.Tensor):
            raise TypeError(f"`latents` is a {type(latents).__name__}; give a tensor: `torch.as_tensor(latents)`.")
        if latents.ndim != 3 or latents.shape[2] != self.config.latent_size or latents.shape[1] < 1:
            raise ValueError(
                f"`latents` has shape {tuple(latents.shape)}; it must be (batch, frames, {self.config.latent_size})."
            )
        hidden_states = ((latents - self.mean) / self.scale).transpose(1, 2)
        for number, layer in enumerate(self.layers):
            hidden_states = layer(hidden_states if number == 0 else F.relu(hidden_states))
        waveforms = hidden_states[:, 0]
        if num_samples is None:
            return SimDecoderOutput(waveforms=waveforms)
        lengths = None if isinstance(num_samples, int) else torch.as_tensor(num_samples, device=waveforms.device)
        longest = int(num_samples if lengths is None else lengths.max())
        waveforms = F.pad(waveforms, (0, longest - waveforms.shape[1]))  # negative padding truncates
        if lengths is not None and lengths.ndim:
            is_audio = torch.arange(longest, device=waveforms.device) < lengths[:, None]
            waveforms = waveforms * is_audio
        return SimDecoderOutput(waveforms=waveforms)


__all__ = ["SimDecoder", "SimDecoderOutput"]
