"""Decoders from the latents of one Smooth InfoMax module to the waveform, to hear what they hold."""

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
        waveforms: `(batch, samples)`, at the configuration's sampling rate; 0 past the end of an utterance.
    """

    waveforms: torch.Tensor | None = None


class SimDecoder(PreTrainedModel):
    """Transposed convolutions from standardized latents to the waveform, as the SIM paper's decoders.

    Latents are standardized first, with a mean and a scale of each channel that the checkpoint holds, so that decoders
    of models whose latents differ in size are trained alike; until they are set the latents come as they are.
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
        """PyTorch's own defaults, which the paper's decoders start from."""
        if isinstance(module, nn.ConvTranspose1d):
            bound = 1 / math.sqrt(module.weight.shape[1] * module.weight.shape[2])
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)
        elif module is self:
            init.zeros_(self.mean)
            init.ones_(self.scale)

    def set_standardization(self, mean: torch.Tensor, scale: torch.Tensor) -> None:
        """Sets what latents are centred by and divided by, `(channels,)` each.

        Raises:
            ValueError: They are not one finite number a channel, or a scale is not above 0.
        """
        for name, values in (("mean", mean), ("scale", scale)):
            if values.shape != self.mean.shape or not bool(values.isfinite().all()):
                raise ValueError(f"`{name}` must be {len(self.mean)} finite numbers, one a channel.")
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
            latents: `(batch, frames, channels)` of the module that the decoder is for.
            num_samples: Samples of every utterance, a number or `(batch,)`; the waveforms are as long as the longest,
                cut or padded with zeros where the layers make more or fewer. `None`: what the layers make of the
                frames, `config.num_samples(frames)`.
            kwargs: `return_dict`; nothing else is read.

        Raises:
            TypeError: `latents` is no tensor.
            ValueError: `latents` is not `(batch, frames, channels)` with the configuration's channels.
        """
        if not isinstance(latents, torch.Tensor):
            raise TypeError(f"`latents` is a {type(latents).__name__}; give a tensor, as `torch.as_tensor(latents)`.")
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
        waveforms = F.pad(waveforms, (0, longest - waveforms.shape[1]))  # a negative padding cuts
        if lengths is not None and lengths.ndim:
            is_audio = torch.arange(longest, device=waveforms.device) < lengths[:, None]
            waveforms = waveforms * is_audio
        return SimDecoderOutput(waveforms=waveforms)


__all__ = ["SimDecoder", "SimDecoderOutput"]
