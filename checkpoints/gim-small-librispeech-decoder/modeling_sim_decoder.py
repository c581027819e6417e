"""Decoder from the latents of one Smooth InfoMax module to the waveform, to listen to what they represent."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils.generic import ModelOutput, can_return_tuple

from .configuration_sim_decoder import HIGHEST_PITCH, SimDecoderConfig

# Source-filter synthesis. Length and hop of the filtered windows in seconds.
_WINDOW, _HOP = 0.032, 0.008
# Points of a spectral envelope on the mel scale, and kernel size of the convolutions that predict it.
_POINTS, _KERNEL = 64, 5
# Natural logarithm of the gain at 0: pulses and noise have a variance of 1, speech has less.
_GAIN, _HIGHEST_GAIN = -3.0, 3.0
# Seconds over which latents are averaged for the pitch, which changes slowly; its lowest value in Hz, and its initial
# value.
_PITCH_SECONDS = 0.1
_LOWEST_PITCH = 50.0
_START_OF_PITCH = math.log2(150.0)


@dataclass
class SimDecoderOutput(ModelOutput):
    """Output of `SimDecoder`.

    Args:
        waveforms: `(batch, samples)`, at the configuration's `sampling_rate`; 0 past the end of an utterance.
    """

    waveforms: torch.Tensor | None = None


class SimDecoder(PreTrainedModel):
    """Decoder from standardized latents to the waveform: transposed convolutions as in the SIM paper, or source-filter.

    The decoder first standardizes each channel with a mean and a scale that the checkpoint stores, so that training
    does not depend on the scale of the latents. They are 0 and 1 until `set_standardization` sets them.

    Transposed convolutions may encode the pitch in any way. With `architecture="source_filter"` the pitch is one number
    per frame, a linear function of the latents averaged over 0.1 seconds, which `set_pitch` sets. Pulses of that pitch
    and noise pass through filters, whose spectral envelopes are computed from the latents by convolutions (harmonic
    plus noise synthesis, as in Engel et al. 2020, DDSP). Changing a dimension therefore changes the pitch by a known
    factor.
    """

    config: SimDecoderConfig
    config_class = SimDecoderConfig
    base_model_prefix = "decoder"
    main_input_name = "latents"
    input_modalities = "audio"
    _no_split_modules: list[str] = []
    mean: torch.Tensor
    scale: torch.Tensor
    pitch_weight: torch.Tensor
    pitch_bias: torch.Tensor

    def __init__(self, config: SimDecoderConfig) -> None:
        config.validate()  # `from_pretrained` sets fields after the configuration has validated itself
        super().__init__(config)
        self.register_buffer("mean", torch.zeros(config.latent_size))
        self.register_buffer("scale", torch.ones(config.latent_size))
        if config.architecture == "source_filter":
            self.register_buffer("pitch_weight", torch.zeros(config.latent_size))
            self.register_buffer("pitch_bias", torch.tensor(_START_OF_PITCH))
            sizes = (config.latent_size, config.hidden_size, config.hidden_size, 2 * _POINTS)
            self.layers = nn.ModuleList(
                nn.Conv1d(inputs, outputs, _KERNEL, padding=_KERNEL // 2)
                for inputs, outputs in itertools.pairwise(sizes)
            )
        else:
            channels = [config.latent_size, *[config.hidden_size] * (len(config.kernel_sizes) - 1), 1]
            self.layers = nn.ModuleList(
                nn.ConvTranspose1d(channels[number], channels[number + 1], kernel, stride, padding, output_padding)
                for number, (kernel, stride, padding, output_padding) in enumerate(config.layers())
            )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """PyTorch's default initialization, as in the paper."""
        if isinstance(module, (nn.ConvTranspose1d, nn.Conv1d)):
            bound = 1 / math.sqrt(module.weight.shape[1] * module.weight.shape[2])
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)
        elif module is self:
            init.zeros_(self.mean)
            init.ones_(self.scale)
            if self.config.architecture == "source_filter":
                init.zeros_(self.pitch_weight)
                init.constant_(self.pitch_bias, _START_OF_PITCH)

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

    def set_pitch(self, weight: torch.Tensor, bias: float) -> None:
        """Sets the linear function from latents to the pitch, in octaves above 1 Hz.

        Args:
            weight: `(channels,)`, octaves per standardized unit of each channel.
            bias: Octaves at the mean of all channels.

        Raises:
            ValueError: The decoder has no such function, or these are not finite numbers, one per channel.
        """
        if self.config.architecture != "source_filter":
            raise ValueError('only a decoder with `architecture="source_filter"` has a pitch to set.')
        if weight.shape != self.pitch_weight.shape or not bool(weight.isfinite().all()) or not math.isfinite(bias):
            raise ValueError(f"`weight` must be {len(self.mean)} finite numbers, and `bias` a finite one.")
        self.pitch_weight.copy_(weight)
        self.pitch_bias.fill_(bias)

    def averaged(self, latents: torch.Tensor) -> torch.Tensor:
        """Standardized latents averaged over 0.1 seconds around each frame, the input of the pitch; same shape."""
        return self._means(self.standardized(latents).float().transpose(1, 2), _PITCH_SECONDS).transpose(1, 2)

    def standardized(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents `(..., channels)` minus the mean, divided by the scale."""
        return (latents - self.mean) / self.scale

    def _means(self, values: torch.Tensor, seconds: float) -> torch.Tensor:
        """Means of values `(batch, channels, frames)` over `seconds` around each frame."""
        half = round(seconds * self.config.sampling_rate / self.config.hop_length / 2)
        return F.avg_pool1d(values, 2 * half + 1, 1, half, count_include_pad=False)

    def pitch(self, latents: torch.Tensor) -> torch.Tensor:
        """Pitch of each frame in Hz, `(batch, frames)`, from 50 to 500, of latents `(batch, frames, channels)`."""
        octaves = self.averaged(latents) @ self.pitch_weight.float() + self.pitch_bias.float()
        return torch.exp2(octaves.clamp(math.log2(_LOWEST_PITCH), math.log2(HIGHEST_PITCH)))

    @can_return_tuple
    def forward(
        self,
        latents: torch.Tensor,
        num_samples: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> SimDecoderOutput:
        """Decodes latents.

        Args:
            latents: `(batch, frames, channels)` of the module that the decoder was trained on. They are converted to
                the dtype of the weights.
            num_samples: Length of every utterance; waveforms are truncated or padded with zeros. Or one length each,
                `(batch,)`, if latents are padded with frames of 0, as encoders pad them: these are skipped. `None`:
                the length of the layers' output, `config.num_samples(frames)`.
            kwargs: `return_dict`; other arguments are ignored.

        Raises:
            TypeError: `latents` is not a tensor.
            ValueError: `latents` is empty, or not `(batch, frames, channels)` with the configuration's channels;
                `num_samples` is negative, or neither a number nor one per utterance; or `torch.export` exports a
                source-filter decoder for any number of frames.
        """
        if not isinstance(latents, torch.Tensor):
            raise TypeError(f"`latents` is a {type(latents).__name__}; give a tensor: `torch.as_tensor(latents)`.")
        if latents.ndim != 3 or latents.shape[2] != self.config.latent_size or latents.numel() == 0:
            raise ValueError(
                f"`latents` has shape {tuple(latents.shape)}; it must be (batch, frames, {self.config.latent_size}), "
                "and not empty."
            )
        latents = latents.to(self.mean.dtype)
        if num_samples is not None and not isinstance(num_samples, int):
            lengths = torch.as_tensor(num_samples)
            if lengths.ndim:
                return SimDecoderOutput(waveforms=self._decoded_apart(latents, lengths))
            num_samples = int(lengths)
        if num_samples is not None and num_samples < 0:
            raise ValueError(f"`num_samples` is {num_samples}; give a length of at least 0.")
        frames: Any = latents.shape[1]
        if self.config.architecture == "source_filter" and isinstance(frames, torch.SymInt):
            raise ValueError(
                "a decoder with `architecture` 'source_filter' can only be exported for a fixed number of frames in "
                "`latents`; the batch may vary."
            )
        hidden_states = self.standardized(latents).transpose(1, 2)
        for number, layer in enumerate(self.layers):
            hidden_states = layer(hidden_states if number == 0 else F.relu(hidden_states))
        if self.config.architecture == "source_filter":
            with torch.autocast(latents.device.type, enabled=False):  # in bfloat16 a pitch is off by a semitone
                waveforms = synthesize(
                    self.pitch(latents),
                    self._means(hidden_states.float(), _HOP),
                    self.config.num_samples(latents.shape[1]),
                    self.config.hop_length,
                    self.config.sampling_rate,
                )
        else:
            waveforms = hidden_states[:, 0]
        if num_samples is None:
            return SimDecoderOutput(waveforms=waveforms)
        waveforms = F.pad(waveforms, (0, num_samples - waveforms.shape[1]))  # negative padding truncates
        return SimDecoderOutput(waveforms=waveforms)

    def _decoded_apart(self, latents: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Waveforms `(batch, samples)` of padded utterances, one at a time: layers would mix them with the padding."""
        if lengths.shape != latents.shape[:1]:
            raise ValueError(
                f"`num_samples` has shape {tuple(lengths.shape)}; give a number, or one per utterance: {len(latents)}."
            )
        waveforms = []
        for row, length in zip(latents, lengths.tolist(), strict=True):
            real = row.any(dim=-1).nonzero()
            frames = real[-1] + 1 if len(real) else 1
            waveforms.append(self(row[None, :frames], length, return_dict=True).waveforms[0])
        return nn.utils.rnn.pad_sequence(waveforms, batch_first=True)


def synthesize(
    frequencies: torch.Tensor, envelopes: torch.Tensor, num_samples: int, hop_length: int, sampling_rate: int
) -> torch.Tensor:
    """Pulses and noise of variance 1, each filtered by its spectral envelopes, `(batch, num_samples)`.

    The noise is the same in each call.

    Args:
        frequencies: `(batch, frames)`, pitch of the pulses in Hz.
        envelopes: `(batch, 2 * points, frames)`, natural logarithms of the gains of pulses, then of noise, at
            frequencies with equal distances on the mel scale, from 0 to half the sampling rate.
        num_samples: Length of the waveforms.
        hop_length: Samples per frame; values between the centers of frames are interpolated.
        sampling_rate: Samples per second.
    """
    size, hop = round(_WINDOW * sampling_rate), round(_HOP * sampling_rate)
    places = torch.arange(num_samples, device=frequencies.device)
    pulses = _pulses(_at(frequencies[:, None], places / hop_length - 0.5)[:, 0], sampling_rate)
    noise = torch.randn(num_samples, generator=torch.Generator().manual_seed(0)).to(pulses)
    window = torch.hann_window(size, device=pulses.device)
    spectra = torch.stft(
        torch.cat([pulses, noise[None]]), size, hop, window=window, pad_mode="constant", return_complex=True
    )
    gains = _at(envelopes, torch.arange(spectra.shape[2], device=pulses.device) * (hop / hop_length) - 0.5)
    points = gains.shape[1] // 2
    mels = torch.log1p(torch.fft.rfftfreq(size, 1 / sampling_rate, device=pulses.device) / 700.0)
    gains = _at(gains.unflatten(1, (2, points)).transpose(2, 3), mels / mels[-1] * (points - 1)).transpose(2, 3)
    of_pulses, of_noise = (gains.clamp(max=_HIGHEST_GAIN - _GAIN) + _GAIN).exp().unbind(1)
    parts = torch.fft.irfft(spectra[:-1] * of_pulses + spectra[-1:] * of_noise, size, dim=1) * window[:, None]
    weights = window.square()[None, :, None].expand(1, -1, parts.shape[2])
    # Same as `torch.istft`, which `torch.func.linearize` cannot trace because it checks values.
    waveforms = _overlapped(parts, hop) / _overlapped(weights, hop).clamp(min=1e-8)
    return waveforms[:, size // 2 : size // 2 + num_samples]


def _overlapped(windows: torch.Tensor, hop: int) -> torch.Tensor:
    """Sums of windows `(batch, samples per window, windows)`, `hop` samples apart, `(batch, samples)`."""
    size, count = windows.shape[1:]
    return F.fold(windows, (1, (count - 1) * hop + size), (1, size), stride=(1, hop))[:, 0, 0]


def _pulses(frequencies: torch.Tensor, sampling_rate: int) -> torch.Tensor:
    """Cosines of all multiples of a frequency up to half the sampling rate, of variance 1, `(batch, samples)`."""
    # In float32 the sum over a minute is too coarse for high harmonics; MPS does not support float64.
    exact = torch.float32 if frequencies.device.type == "mps" else torch.float64
    phases = (frequencies / sampling_rate).cumsum(dim=-1, dtype=exact)
    phases = torch.pi * (phases - phases.detach().floor()).to(frequencies.dtype)
    count = (sampling_rate / 2 / frequencies).detach().floor()
    # The sum of cos(2 k phase) over k = 1 to `count` is (sin((2 count + 1) phase) / sin(phase) - 1) / 2.
    sines = phases.sin()
    at_peak = sines.abs() < 1e-4
    sums = ((2 * count + 1) * phases).sin() / torch.where(at_peak, 1.0, sines)
    return torch.where(at_peak, count, (sums - 1) / 2) * (2 / count).sqrt()


def _at(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Linear interpolation of values at fractional indices of the last axis; constant beyond the ends."""
    places = places.clamp(0, values.shape[-1] - 1)
    before = places.long().clamp(max=max(0, values.shape[-1] - 2))
    after = (before + 1).clamp(max=values.shape[-1] - 1)
    return torch.lerp(values[..., before], values[..., after], (places - before).to(values.dtype))


__all__ = ["SimDecoder", "SimDecoderOutput"]
