"""Smooth InfoMax (SIM): Gaussian representations of speech, images and text, one local loss per module.

Tensors are `(batch, frames, channels)` throughout, including the convolutions of `layers_sim.py`.
"""

import functools
import importlib
import inspect
import math
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils.generic import ModelOutput, can_return_tuple

if __name__ == "modeling_sim":
    # Python runs in the folder of a checkpoint and imported its copy of this file instead of the package, which has the
    # same name. Import the package in its place; the classes below are then unused.
    _path, _here = sys.path[:], Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in _path if Path(entry).resolve() != _here]
    del sys.modules["modeling_sim"]
    try:
        importlib.import_module("modeling_sim")
    finally:
        sys.path[:] = _path
    __package__ = "modeling_sim"

from .configuration_sim import SimConfig
from .layers_sim import SimConvLayer, SimLatentHead, front, run_gru
from .objectives_sim import (
    autocorrelations,
    covariance_penalty,
    draw_window_start,
    in_graph,
    independence_penalty,
    info_nce,
    kl_to_standard_normal,
    lagged_covariance_penalty,
    require,
)

# Maps a process' latents `(batch, frames, channels)` and frame mask to those of the other processes' utterances.
GatherLatents = Callable[[torch.Tensor, torch.Tensor | None], tuple[torch.Tensor, torch.Tensor | None]]

# Seconds of audio above which an encoder at inference works in chunks of `CHUNK_SECONDS`, so that memory is bounded: a
# second of the preset "sim" takes 6.5 MB in its first layer alone.
LONG_SECONDS, CHUNK_SECONDS = 60, 20

# ---------------------------------------------------------------------- outputs


@dataclass
class SimModelOutput(ModelOutput):
    """Output of `SimModel`. Padded frames are 0 in every tensor.

    Args:
        last_hidden_state: `(batch, frames, context_size)`, the context; without a context module the latents of the
            last convolutional module, `(batch, frames, latent_size)`.
        hidden_states: With `output_hidden_states=True`, the output of each module, `(batch, frames_m, channels)`, the
            context last: samples if latents are sampled, means otherwise.
        means: Means of each convolutional module, `(batch, frames_m, latent_size)`; the latents if deterministic.
        log_variances: Same shapes as `means`; `None` if latents are deterministic.
        frame_mask: `(batch, frames)` int64, 1 where a frame of `last_hidden_state` is real.
    """

    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    means: tuple[torch.Tensor, ...] | None = None
    log_variances: tuple[torch.Tensor, ...] | None = None
    frame_mask: torch.Tensor | None = None


@dataclass
class SimForPreTrainingOutput(ModelOutput):
    """Output of `SimForPreTraining`. Losses are 0-dim float32 tensors, tuples have one entry per module.

    Args:
        loss: Sum of `module_losses`.
        module_losses: `contrastive_loss + kl_weight * kl_loss` of each module, plus the weighted penalties on its
            means.
        contrastive_losses: InfoNCE, in nats; chance is `ln(num_negatives + 1)`. 0 for a module without a
            contrastive loss.
        contrastive_accuracies: Fraction of targets that score above all negatives; chance is
            `1 / (num_negatives + 1)`. NaN for a module without a contrastive loss.
        kl_losses: KL divergence to N(0, I) in nats per frame of each convolutional module; 0 if deterministic.
        last_hidden_state: See `SimModelOutput`.
        hidden_states: See `SimModelOutput`.
    """

    loss: torch.Tensor | None = None
    module_losses: tuple[torch.Tensor, ...] | None = None
    contrastive_losses: tuple[torch.Tensor, ...] | None = None
    contrastive_accuracies: tuple[torch.Tensor, ...] | None = None
    kl_losses: tuple[torch.Tensor, ...] | None = None
    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


class SimModuleLatents(NamedTuple):
    """Output of one module of `SimModel`."""

    hidden_state: torch.Tensor
    """`(batch, frames, channels)`, the input of the next module: a sample, or the mean."""
    mean: torch.Tensor
    """`(batch, frames, channels)`; the hidden state for a context module."""
    log_variance: torch.Tensor | None
    """`(batch, frames, channels)`; `None` if deterministic."""
    lengths: torch.Tensor | None
    """`(batch,)`, number of real frames; `None` if all are."""


class SimModuleOutput(NamedTuple):
    """Output and losses of one module of `SimForPreTraining`; losses are 0-dim float32 tensors."""

    loss: torch.Tensor
    """`contrastive_loss + kl_weight * kl_loss`, plus the weighted penalties on the means."""
    contrastive_loss: torch.Tensor
    """InfoNCE in nats; 0 for a module without a contrastive loss."""
    contrastive_accuracy: torch.Tensor
    """Fraction of targets that score above all negatives; NaN for a module without a contrastive loss."""
    kl_loss: torch.Tensor
    """KL divergence to N(0, I) in nats per frame; 0 if deterministic."""
    hidden_state: torch.Tensor
    """`(batch, frames, channels)`, the input of the next module."""
    mean: torch.Tensor
    """`(batch, frames, channels)`, the mean of the latents; the hidden state for a context module."""
    lengths: torch.Tensor | None
    """`(batch,)`, number of real frames of `hidden_state`; `None` if all are."""


@dataclass
class SimClassifierOutput(ModelOutput):
    """Output of the classification heads.

    Args:
        loss: `SimClassifier.classification_loss`, 0-dim, if labels were given.
        logits: `(batch, num_labels)` or `(batch, frames, num_labels)`, before a softmax or sigmoid.
        hidden_states: See `SimModelOutput`.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


# ---------------------------------------------------------------------- modules


class SimConvModule(nn.Module):
    """A stack of convolutions and a head that computes the latents of every frame."""

    def __init__(self, config: SimConfig, module: int) -> None:
        super().__init__()
        self.config = config
        self.is_gaussian = config.latent_distribution == "gaussian"
        trains_log_variance = config.sample_latents or config.kl_weights[module] > 0
        channels = config.hidden_size
        layers = zip(config.conv_kernel[module], config.conv_stride[module], config.conv_padding[module], strict=True)
        self.layers = nn.ModuleList(
            SimConvLayer(config, channels if layer else config.num_latents if module else config.input_channels, *sizes)
            for layer, sizes in enumerate(layers)
        )
        self.latent_head = (
            SimLatentHead(channels, 2 * config.num_latents, in_halves=not trains_log_variance)
            if self.is_gaussian
            else SimLatentHead(channels, config.num_latents)
            if config.latent_head == "linear"
            else None
        )

    def forward(
        self,
        hidden_states: torch.Tensor,
        lengths: torch.Tensor | None = None,
        held: list[torch.Tensor] | None = None,
        *,
        last: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Returns the mean, log-variance and lengths of this module's frames.

        Args:
            hidden_states: `(batch, frames, channels)`, the output of the module below.
            lengths: `(batch,)`, number of real frames of `hidden_states`; `None` if all are.
            held: The frames that each layer keeps from one call of a stream to the next; updated, see `SimModel.step`.
            last: Whether no further frames of a stream follow.
        """
        frame_mask = None
        if held is None:
            hidden_states, frame_mask, lengths = self._convolve(hidden_states, lengths)
        else:
            for number, layer in enumerate(cast("list[SimConvLayer]", list(self.layers))):
                hidden_states, held[number] = layer.resume(hidden_states, held[number], last=last)
        if self.latent_head is None:
            return hidden_states, None, lengths
        latents = self.latent_head(hidden_states)
        if frame_mask is not None:
            latents = latents * frame_mask[..., None]
        if not self.is_gaussian:
            return latents, None, lengths
        mean, log_variance = latents.chunk(2, dim=-1)
        if self.config.log_variance_clamp is not None:
            log_variance = log_variance.clamp(*self.config.log_variance_clamp)
        return mean, log_variance, lengths

    def _convolve(
        self, hidden_states: torch.Tensor, lengths: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Frames of the last layer, their mask and lengths, `None` where all are real."""
        frame_mask, margins, frames = None, None, hidden_states.shape[1]
        layers = cast("list[SimConvLayer]", list(self.layers))
        for layer, following in zip(layers, [*layers[1:], None], strict=True):
            frames, is_padded = layer.num_frames(frames), margins is not None
            if lengths is not None:
                lengths = layer.num_frames(lengths)
                frame_mask = real_frames(lengths, frames)
            margins = layer.margins(following, frames, hidden_states.device)
            hidden_states = layer(hidden_states, frame_mask, is_padded=is_padded, margins=margins)
        return hidden_states, frame_mask, lengths


class SimPredictor(nn.Module):
    """The matrices W_k of a module's bilinear critic: `weight` is `(steps, channels, context_channels)`."""

    def __init__(self, num_steps: int, channels: int, context_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_steps, channels, context_channels))

    def forward(self) -> torch.Tensor:
        """Returns the weight; the call runs the hooks that load offloaded weights."""
        return self.weight


def _audio_lengths(attention_mask: torch.Tensor) -> torch.Tensor:
    """Number of audio samples of each utterance, `(batch,)`.

    Raises:
        ValueError: There is padding before or within the audio; see `require` for accelerators and graphs.
    """
    is_audio = attention_mask != 0
    require(
        (is_audio[:, 1:] <= is_audio[:, :-1]).all(),
        "`attention_mask` has padding before or within the audio; pad on the right, as `SimFeatureExtractor` does, and "
        "encode the parts around a gap as separate utterances.",
    )
    return is_audio.sum(-1)


def real_frames(lengths: torch.Tensor, frames: int) -> torch.Tensor:
    """`(batch, frames)` bool, true at the first `lengths` frames."""
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


def _sample_gaussian(mean: torch.Tensor, log_variance: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """A sample of N(mean, exp(log_variance)) in the dtype of `mean`; noise and exponential are float32."""
    device = generator.device if generator is not None else mean.device
    noise = torch.empty(mean.shape, device=device).normal_(generator=generator).to(mean.device)
    return torch.addcmul(mean.float(), noise, torch.exp(0.5 * log_variance.float())).to(mean.dtype)


def draw_latents(
    mean: torch.Tensor,
    log_variance: torch.Tensor | None,
    lengths: torch.Tensor | None,
    generator: torch.Generator | None,
) -> torch.Tensor:
    """The input of the next module: the mean, or a sample if `log_variance` is given; 0 in padding."""
    if log_variance is None:
        return mean
    latents = _sample_gaussian(mean, log_variance, generator)
    return latents if lengths is None else latents * real_frames(lengths, latents.shape[1])[..., None]


# ---------------------------------------------------------------------- models


def _takes_any_input(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Accepts `input_values` also as `pixel_values` and `input_ids`, transformers' names for images and tokens."""
    names = ("pixel_values", "input_ids")

    @functools.wraps(forward)
    def call(self: Any, input_values: torch.Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        for name in names:
            given = kwargs.pop(name, None)
            input_values = given if input_values is None else input_values
        return forward(self, input_values, *args, **kwargs)

    # `Trainer` drops columns of the data that the signature does not name.
    signature = inspect.signature(forward)
    *parameters, rest = signature.parameters.values()
    extra = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in names]
    call.__signature__ = signature.replace(parameters=[*parameters, *extra, rest])  # type: ignore[attr-defined]
    return call


class SimPreTrainedModel(PreTrainedModel):
    """Base class of the models: initialization, loading and saving."""

    config: SimConfig
    base_model_prefix = "sim"
    main_input_name = "input_values"
    input_modalities = "audio"
    # `forward` takes arguments that it ignores; `Trainer` must not pass `num_items_in_batch`.
    accepts_loss_kwargs = False
    _no_split_modules = ["SimConvModule", "GRU"]
    # Set by the package: the class of a saved folder for each Auto class.
    auto_map: dict[str, str] = {}

    def __init__(self, config: SimConfig) -> None:
        config.validate()  # `from_pretrained` sets fields after the configuration has validated itself
        super().__init__(config)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """PyTorch's default initialization, as in the paper."""
        if isinstance(module, (nn.Conv1d, nn.Linear)):
            bound = 1 / math.sqrt(module.weight[0].numel())  # fan-in
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.GRU):
            bound = 1 / math.sqrt(module.hidden_size)
            for parameter in module.parameters():
                init.uniform_(parameter, -bound, bound)
        elif isinstance(module, SimPredictor):
            bound = 1 / math.sqrt(module.weight.shape[-1])
            init.uniform_(module.weight, -bound, bound)
        else:
            super()._init_weights(module)
        if (
            isinstance(module, SimLatentHead)
            and self.config.latent_distribution == "gaussian"
            and self.config.initial_log_variance is not None
            and not getattr(module.bias, "_is_hf_initialized", False)  # a slice loses the mark of a loaded parameter
        ):
            module.bias[self.config.num_latents :] = float(self.config.initial_log_variance)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Saves the model; the code in the folder then supports all Auto classes, not only the saved one."""
        if self.auto_map:
            self.config.auto_map = {**(getattr(self.config, "auto_map", None) or {}), **self.auto_map}
        super().save_pretrained(save_directory, *args, **kwargs)


class SimModel(SimPreTrainedModel):
    """The encoder: convolutional modules with Gaussian or deterministic latents, then a GRU context.

    Gradients flow through all modules to the waveform, so the model supports fine-tuning and attribution.
    `SimForPreTraining` isolates the modules from each other.
    """

    # Checkpoints of models with a head also hold the head's weights.
    _keys_to_ignore_on_load_unexpected = [r"^predictors\.", r"^classifier\."]

    def __init__(self, config: SimConfig) -> None:
        super().__init__(config)
        self.conv_modules = nn.ModuleList(SimConvModule(config, module) for module in range(config.num_conv_modules))
        self.context = (
            nn.GRU(config.num_latents, config.context_size, batch_first=True) if config.context_size else None
        )
        self.post_init()

    def _get_feat_extract_output_lengths(self, input_lengths: Any, module: int = -1) -> Any:
        """Number of frames of a module for a number of samples; tools of transformers look for this name."""
        return self.config.num_frames(input_lengths, module)

    def get_frame_mask(self, attention_mask: torch.Tensor, module: int = -1) -> torch.Tensor:
        """Mask of a module's frames, `(batch, frames_m)` int64, from the mask of the samples, `(batch, samples)`."""
        lengths = self.config.num_frames(_audio_lengths(attention_mask), module)
        return real_frames(lengths, self.config.num_frames(attention_mask.shape[-1], module)).long()

    def prepare_inputs(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns the first module's input `(batch, samples, 1)`, 0 in padding, and lengths `(batch,)` in samples.

        For images and text see `front` in `layers_sim.py`.

        Raises:
            TypeError: `input_values` or `attention_mask` is not a tensor, or `input_values` is integer where floats are
                expected, or the reverse, or float64 while the weights have lower precision. Other floats are converted
                to the weights' dtype.
            ValueError: `input_values` has another shape, no rows, or is too short for one frame of the last module, or
                `attention_mask` has padding before or within the audio (see `require` for accelerators).
        """
        for name, given in (("input_values", input_values), ("attention_mask", attention_mask)):
            if not (isinstance(given, torch.Tensor) or (given is None and name == "attention_mask")):
                raise TypeError(
                    f"`{name}` is a {type(given).__name__}; give a tensor, as `SimFeatureExtractor` and the other "
                    "processors return with `return_tensors='pt'`."
                )
        kind, shape, is_float = self.config.input_kind, tuple(input_values.shape), input_values.is_floating_point()
        if is_float == (kind == "tokens") or (input_values.dtype == torch.float64 != self.dtype):
            raise TypeError(
                f"`input_values` is {input_values.dtype} but the model is {self.dtype}; give floats in [-1, 1], as "
                "`SimFeatureExtractor` returns, or integers for `input_kind` 'tokens'."
            )
        if len(shape) != (4 if kind == "patches" else 2) or (
            kind == "patches" and shape[1] != self.config.image_channels
        ):
            raise ValueError(
                f"`input_values` has shape {shape}; it must be (batch, samples), or for `input_kind` 'patches' (batch, "
                "`image_channels`, height, width)."
            )
        if shape[0] == 0:
            raise ValueError("`input_values` has no rows; give a batch of at least 1.")
        length = shape[2 if kind == "patches" else 1]
        if self.config.num_frames(length) < 1 or (kind == "patches" and shape[3] < self.config.patch_size):
            raise ValueError(
                f"`input_values` has {min(length, shape[-1])} samples, too few for one frame of the last module; "
                f"give at least {self.config.receptive_field()}."
            )
        if attention_mask is not None and attention_mask.shape != (shape[0], length):
            raise ValueError(
                f"`attention_mask` has shape {tuple(attention_mask.shape)} but `input_values` {shape}; give one value "
                "per sample, or per row of an image."
            )
        hidden_states, mask = front(self.config, input_values, attention_mask, self.dtype)
        if mask is None:
            return hidden_states, None
        return hidden_states.masked_fill((mask == 0)[..., None], 0.0), _audio_lengths(mask)

    def encode_module(
        self,
        module: int,
        hidden_states: torch.Tensor,
        lengths: torch.Tensor | None = None,
        held: list[torch.Tensor] | None = None,
        *,
        last: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Returns the mean, log-variance (`None` if deterministic) and lengths of one module's frames.

        Args:
            module: Index from 0; the context is the last.
            hidden_states: `(batch, frames, channels)`, the output of the module below.
            lengths: `(batch,)`, number of real frames of `hidden_states`; `None` if all are.
            held: The module's part of a stream's state, which is updated; see `step`.
            last: Whether no further frames of a stream follow.
        """
        if self.context is None or module < len(self.conv_modules):
            return self.conv_modules[module](hidden_states, lengths, held, last=last)
        if held is not None and not hidden_states.shape[1]:
            return hidden_states.new_zeros(len(hidden_states), 0, self.config.context_size), None, None
        # Padding follows the audio and the GRU runs forward, so padding does not affect real frames.
        context, state = run_gru(self.context, hidden_states, None if held is None else held[0])
        if held is not None:
            held[0] = state
        if lengths is not None:
            context = context * real_frames(lengths, context.shape[1])[..., None]
        return context, None, lengths

    def initial_state(self, batch_size: int = 1) -> list[torch.Tensor]:
        """State of streams before their first sample, for `step`.

        Returns:
            A tensor per convolution, zeros `(batch, padding, in_channels)` as its padding at the start, and for a
            context module its hidden state `(1, batch, context_size)`.
        """
        layers = [layer for module in self.conv_modules for layer in cast("SimConvModule", module).layers]
        shapes = [(batch_size, layer.sizes[2], layer.in_channels) for layer in cast("list[SimConvLayer]", layers)]
        if self.context is not None:
            shapes.append((1, batch_size, self.context.hidden_size))
        return [torch.zeros(shape, dtype=self.dtype, device=self.device) for shape in shapes]

    def step(
        self, input_values: torch.Tensor, state: Sequence[torch.Tensor], *, last: bool = False
    ) -> tuple[list[SimModuleLatents], list[torch.Tensor]]:
        """Encodes the next samples of streams: returns the frames that they complete, and the state for the next call.

        Concatenated over calls, the frames are those of the complete audio, however it is divided. The model must be in
        evaluation mode, since batch statistics in training mode are those of complete utterances.

        Args:
            input_values: `(batch, samples)`, at the configuration's `sampling_rate`, in [-1, 1]; of any length, 0 too.
            state: State from the last call, or `initial_state`. For a convolution it contains the last input frames,
                fewer than the kernel size; always the same number after a multiple of `config.hop_length()` samples.
            last: Whether the audio ends here, which completes the frames whose receptive field includes the padding at
                its end.

        Returns:
            The output of each module, the context last, `(batch, frames, channels)`, with 0 frames if none is complete
            (each module reads the means of the one below); and the new state. The old state is not changed.
        """
        hidden_states, modules = front(self.config, input_values, None, state[0].dtype)[0], []
        old, new = list(state), list[torch.Tensor]()
        counts = [len(cast("SimConvModule", module).layers) for module in self.conv_modules]
        for module, count in enumerate(counts if self.context is None else [*counts, 1]):
            held, old = old[:count], old[count:]
            hidden_states, log_variance, _ = self.encode_module(module, hidden_states, None, held, last=last)
            modules.append(SimModuleLatents(hidden_states, hidden_states, log_variance, None))
            new += held
        return modules, new

    def latents_in_chunks(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        modules: Collection[int] | None = None,
    ) -> dict[int, SimModuleLatents]:
        """Encodes long audio chunk by chunk with `step`, with little more memory than the input and the result need.

        Args:
            input_values: See `forward`.
            attention_mask: See `forward`.
            modules: The modules to keep, counted from 0; `None` for all. An hour of the preset "sim" has 12 GB of means
                and log-variances in module 0, and 0.4 GB in the context.

        Returns:
            The output of each module as from `module_latents`, by module index, with means as `hidden_state`.
        """
        waveforms, lengths = self.prepare_inputs(input_values, attention_mask)
        batch, total = input_values.shape
        config, chunk = self.config, int(CHUNK_SECONDS * self.config.sampling_rate)
        each = torch.full((batch,), total, device=waveforms.device) if lengths is None else lengths
        wanted = range(config.num_modules) if modules is None else modules
        kept: dict[int, SimModuleLatents] = {}
        for length in each.unique().tolist():
            rows = (each == length).nonzero()[:, 0]
            state, done = self.initial_state(len(rows)), [0] * config.num_modules
            for start in range(0, length, chunk):
                samples = waveforms[rows, start : min(start + chunk, length), 0]
                latents, state = self.step(samples, state, last=start + chunk >= length)
                for module in wanted:
                    mean, log_variance = latents[module].mean, latents[module].log_variance
                    if module not in kept:
                        shape = batch, config.num_frames(total, module), mean.shape[2]
                        means = mean.new_zeros(shape)
                        log_variances = None if log_variance is None else log_variance.new_zeros(shape)
                        frames = None if lengths is None else config.num_frames(lengths, module)
                        kept[module] = SimModuleLatents(means, means, log_variances, frames)
                    place = slice(done[module], done[module] + mean.shape[1])
                    kept[module].mean[rows, place] = mean
                    if log_variance is not None:
                        cast("torch.Tensor", kept[module].log_variance)[rows, place] = log_variance
                    done[module] = place.stop
        if not kept:  # all rows are padding
            latents = list(self.module_latents(input_values, attention_mask))
            return {module: latents[module] for module in wanted}
        return kept

    def takes_chunks(self, input_values: torch.Tensor) -> bool:
        """Whether `forward` goes through `latents_in_chunks`: for long audio, at inference and outside of graphs."""
        if self.config.input_kind != "waveform" or self.training or torch.is_grad_enabled() or in_graph():
            return False
        return input_values.shape[-1] > LONG_SECONDS * self.config.sampling_rate

    def module_latents(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        sample: bool = False,
        generator: torch.Generator | None = None,
    ) -> Iterator[SimModuleLatents]:
        """Runs the modules one by one and yields the output of each; arguments as in `forward`."""
        hidden_states, lengths = self.prepare_inputs(input_values, attention_mask)
        for module in range(self.config.num_modules):
            mean, log_variance, lengths = self.encode_module(module, hidden_states, lengths)
            hidden_states = draw_latents(mean, log_variance if sample else None, lengths, generator)
            yield SimModuleLatents(hidden_states, mean, log_variance, lengths)

    @_takes_any_input
    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        sample: bool | None = None,
        generator: torch.Generator | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> SimModelOutput:
        """Encodes waveforms; at inference, audio of more than a minute in chunks (see `latents_in_chunks`).

        Args:
            input_values: `(batch, samples)`, at the configuration's `sampling_rate`, in [-1, 1].
            attention_mask: `(batch, samples)`, 1 for audio and 0 for the padding after it; `None` for no padding.
            sample: Pass samples of the latents (`True`) or their means (`False`) to the next module. `None`: samples
                in training mode if the configuration sets `sample_latents`, means in evaluation mode.
            generator: Random generator of the noise; the global one if `None`.
            output_hidden_states: Return `hidden_states`.
            kwargs: `return_dict`; other arguments of transformers' models are ignored.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if sample is None:
            sample = self.training and self.config.sample_latents

        if not sample and self.takes_chunks(input_values):
            in_chunks = self.latents_in_chunks(input_values, attention_mask)
            modules = [in_chunks[module] for module in range(self.config.num_modules)]
        else:
            modules = list(self.module_latents(input_values, attention_mask, sample=sample, generator=generator))
        conv_modules = modules[: self.config.num_conv_modules]
        hidden_states, _, _, lengths = modules[-1]
        batch, frames, _ = hidden_states.shape
        frame_mask = (
            torch.ones(batch, frames, dtype=torch.long, device=hidden_states.device)
            if lengths is None
            else real_frames(lengths, frames).long()
        )
        return SimModelOutput(
            last_hidden_state=hidden_states,
            hidden_states=tuple(module.hidden_state for module in modules) if output_hidden_states else None,
            means=tuple(module.mean for module in conv_modules),
            log_variances=tuple(module.log_variance for module in conv_modules if module.log_variance is not None)
            or None,
            frame_mask=frame_mask,
        )


class SimForPreTraining(SimPreTrainedModel):
    """The encoder with the loss of every module.

    `forward` sums the losses; one backward pass on the sum trains all modules, and no gradient passes between modules
    unless `gradient_isolation` is off. `module_objective` computes the loss of one module, for training that keeps
    only one module's activations in memory.
    """

    def __init__(self, config: SimConfig) -> None:
        super().__init__(config)
        self.sim = SimModel(config)
        self.predictors = nn.ModuleDict(
            {
                str(module): SimPredictor(
                    len(config.offsets),
                    config.num_latents,
                    config.num_channels(module),
                )
                for module in range(config.num_modules)
                if self.is_contrastive(module) and not self._measures_correlations(module)
            }
        )
        self.post_init()

    def is_contrastive(self, module: int) -> bool:
        """Whether a module has a contrastive loss."""
        return self.config.contrastive_modules == "all" or module == self.config.num_conv_modules

    def _measures_correlations(self, module: int) -> bool:
        """Whether a module has the Gaussian critic, which measures autocorrelations and has no parameters."""
        return self.config.critic == "gaussian" and module < self.config.num_conv_modules

    def module_parameters(self, module: int) -> list[nn.Parameter]:
        """Parameters that a module's loss trains: its layers and its predictor."""
        parts = [self._encoder_module(module)]
        if str(module) in self.predictors:
            parts.append(self.predictors[str(module)])
        return [parameter for part in parts for parameter in part.parameters()]

    def module_buffers(self, module: int) -> list[torch.Tensor]:
        """Batch-norm statistics of a module."""
        return list(self._encoder_module(module).buffers())

    def _encoder_module(self, module: int) -> nn.Module:
        if module < self.config.num_conv_modules:
            return self.sim.conv_modules[module]
        return cast("nn.Module", self.sim.context)

    def module_objective(
        self,
        module: int,
        hidden_states: torch.Tensor,
        lengths: torch.Tensor | None = None,
        sample: bool | None = None,
        generator: torch.Generator | None = None,
        kl_weight_scale: float = 1.0,
        gather_latents: GatherLatents | None = None,
    ) -> SimModuleOutput:
        """Runs one module on the output of the module below and computes its loss.

        With `gradient_isolation` the input is detached: the backward pass of this loss only reaches this module.

        Args:
            module: Index from 0; the context is the last.
            hidden_states: `(batch, frames, channels)`; for module 0 the result of `SimModel.prepare_inputs`.
            lengths: `(batch,)`, number of real frames of `hidden_states`; `None` if all are.
            sample: See `SimModel.forward`.
            generator: Random generator of noise, windows and negatives. `None`: the global one in training mode, one
                with a fixed seed in evaluation mode, so that the loss only depends on the batch.
            kl_weight_scale: Factor on the module's KL weight, for a warm-up.
            gather_latents: Maps the latents and frame mask of this process to those of the other processes, from which
                negatives are then drawn too; `None` draws them only from this batch.
        """
        if sample is None:
            sample = self.training and self.config.sample_latents
        if generator is None and not self.training:
            generator = torch.Generator().manual_seed(0)
        inputs = hidden_states.detach() if self.config.gradient_isolation else hidden_states
        mean, log_variance, lengths = self.sim.encode_module(module, inputs, lengths)
        frame_mask = None if lengths is None else real_frames(lengths, mean.shape[1])

        hidden_state = draw_latents(mean, log_variance if sample else None, lengths, generator)

        kl_loss = mean.new_zeros((), dtype=torch.float32)
        loss = kl_loss
        if log_variance is not None:
            kl_loss = kl_to_standard_normal(mean, log_variance, frame_mask)
            regularizer = (
                kl_to_standard_normal(mean, log_variance, frame_mask, free_bits=self.config.free_bits)
                if self.config.free_bits
                else kl_loss
            )
            loss = kl_weight_scale * self.config.kl_weights[module] * regularizer

        if not self.is_contrastive(module):
            contrastive_loss, accuracy = torch.zeros_like(kl_loss), torch.full_like(kl_loss, torch.nan)
        else:
            # The context module predicts the latents it reads; a convolutional module predicts its own.
            latents = inputs if module == self.config.num_conv_modules else hidden_state
            contrastive_loss, accuracy = self._contrastive(
                module,
                mean,
                log_variance if sample else None,
                latents,
                lengths,
                frame_mask,
                generator,
                gather_latents,
            )
            loss = loss + contrastive_loss
        if module < self.config.num_conv_modules:
            loss = loss + self._moment_penalties(mean, frame_mask)
        return SimModuleOutput(
            loss=loss,
            contrastive_loss=contrastive_loss,
            contrastive_accuracy=accuracy,
            kl_loss=kl_loss,
            hidden_state=hidden_state,
            mean=mean,
            lengths=lengths,
        )

    def _moment_penalties(self, mean: torch.Tensor, frame_mask: torch.Tensor | None) -> torch.Tensor:
        """The weighted penalties on moments of a module's means, 0-dim float32; 0 if none is set.

        Samples are not used, because pure noise already has the identity as its covariance.
        """
        config, penalty = self.config, torch.zeros((), device=mean.device)
        if config.covariance_weight:
            penalty = penalty + config.covariance_weight * covariance_penalty(mean, frame_mask)
        if config.lagged_covariance_weight:
            # As many frames as in the contrastive loss; the first ones suffice, because training crops start at random.
            window = slice(config.loss_window)
            mask = None if frame_mask is None else frame_mask[:, window]
            lagged = lagged_covariance_penalty(mean[:, window], config.offsets, mask)
            penalty = penalty + config.lagged_covariance_weight * lagged
        if config.independence_weight:
            penalty = penalty + config.independence_weight * independence_penalty(mean, frame_mask)
        return penalty

    def _contrastive(
        self,
        module: int,
        mean: torch.Tensor,
        log_variance: torch.Tensor | None,
        latents: torch.Tensor,
        lengths: torch.Tensor | None,
        frame_mask: torch.Tensor | None,
        generator: torch.Generator | None,
        gather_latents: GatherLatents | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Contrastive loss and accuracy on a window of each utterance; `log_variance` is `None` without sampling."""
        config = self.config
        batch, frames, _ = mean.shape
        window = min(config.loss_window, frames)
        if lengths is None:
            lengths = torch.full((batch,), frames, device=mean.device)
        start = draw_window_start(lengths, window, generator)
        window_frames = (start[:, None] + torch.arange(window, device=mean.device))[..., None]

        def in_window(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.gather(1, window_frames.expand(-1, -1, tensor.shape[-1]))

        if log_variance is None:
            context = in_window(mean)
        elif config.shared_noise:
            context = in_window(latents)
        else:  # a second, independent sample, drawn only for the window
            context = _sample_gaussian(in_window(mean), in_window(log_variance), generator)
        other_latents = other_frame_mask = None
        if gather_latents is not None:
            other_latents, other_frame_mask = gather_latents(latents, frame_mask)
        if self._measures_correlations(module):
            mask = None if frame_mask is None else in_window(frame_mask[..., None])[..., 0]
            weight = autocorrelations(context, in_window(latents), config.offsets, mask)
        else:
            weight = self.predictors[str(module)]()
        return info_nce(
            context,
            latents,
            weight,
            offsets=config.offsets,
            num_negatives=config.num_negatives,
            negative_sharing=config.negative_sharing,
            window_start=start,
            frame_mask=frame_mask,
            negatives=config.negatives,
            other_latents=other_latents,
            other_frame_mask=other_frame_mask,
            generator=generator,
        )

    @_takes_any_input
    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        sample: bool | None = None,
        generator: torch.Generator | None = None,
        output_hidden_states: bool | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> SimForPreTrainingOutput:
        """Encodes waveforms and computes every module's loss.

        Args:
            input_values: `(batch, samples)`, at the configuration's `sampling_rate`, in [-1, 1].
            attention_mask: `(batch, samples)`, 1 for audio and 0 for the padding after it; `None` for no padding.
            sample: See `SimModel.forward`.
            generator: Random generator of noise, windows and negatives. `None`: the global one in training mode, one
                with a fixed seed in evaluation mode, so that the loss only depends on the batch.
            output_hidden_states: Return `hidden_states`.
            return_loss: Return `loss`. `Trainer` needs this argument to evaluate a loss without labels.
            kwargs: `return_dict`; other arguments of transformers' models are ignored.

        Raises:
            ValueError: A module has fewer than 2 frames, too few to predict one from another.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden_states, lengths = self.sim.prepare_inputs(input_values, attention_mask)
        outputs: list[SimModuleOutput] = []
        for module in range(self.config.num_modules):
            outputs.append(self.module_objective(module, hidden_states, lengths, sample, generator))
            hidden_states, lengths = outputs[-1].hidden_state, outputs[-1].lengths
        module_losses = tuple(output.loss for output in outputs)
        return SimForPreTrainingOutput(
            loss=torch.stack(module_losses).sum() if return_loss else None,
            module_losses=module_losses,
            contrastive_losses=tuple(output.contrastive_loss for output in outputs),
            contrastive_accuracies=tuple(output.contrastive_accuracy for output in outputs),
            kl_losses=tuple(output.kl_loss for output in outputs[: self.config.num_conv_modules]),
            last_hidden_state=hidden_states,
            hidden_states=tuple(output.hidden_state for output in outputs) if output_hidden_states else None,
        )


# The label that losses skip, as in `F.cross_entropy`.
_IGNORED = -100


class SimClassifier(SimPreTrainedModel):
    """A linear classifier on the frames of one module, `config.probe_module`; base of the classification heads."""

    def __init__(self, config: SimConfig) -> None:
        super().__init__(config)
        self.sim = SimModel(config)
        self.probe_module = config.probe_module % config.num_modules
        channels = config.num_channels(self.probe_module)
        self.classifier = nn.Linear(channels, cast("int", config.num_labels))
        self.post_init()
        self._freeze_what_never_learns()

    def classification_loss(
        self, logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Loss of `logits` for `config.problem_type`, averaged over the labels that are not ignored.

        If the problem type is unset, the first labels set it, as in transformers' heads, so that pipelines can read it:
        "regression" if `num_labels` is 1, "single_label_classification" for one integer per row of logits, and
        "multi_label_classification" otherwise.

        Args:
            logits: `(..., num_labels)`.
            labels: Single label: `(...)` integers, -100 for none. Multi-label: `(..., num_labels)`, 0 or 1, -100 or
                NaN for none. Regression: `(..., num_labels)`, or `(...)` for a single label, NaN for none.
            mask: `(...)`, 0 where labels are ignored; `None` to ignore none.

        Raises:
            ValueError: `labels` has a different shape or dtype.
        """
        logits, rows = logits.float(), logits.shape[:-1]
        are_integers = not (labels.is_floating_point() or labels.dtype == torch.bool)
        if self.config.problem_type is None:
            is_single = are_integers and labels.shape != logits.shape
            self.config.problem_type = (
                "regression"
                if logits.shape[-1] == 1
                else "single_label_classification"
                if is_single
                else "multi_label_classification"
            )
        problem_type = self.config.problem_type
        is_single = problem_type == "single_label_classification"
        if problem_type == "regression" and labels.shape == rows and logits.shape[-1] == 1:
            labels = labels[..., None]
        if labels.shape != (rows if is_single else logits.shape) or (is_single and not are_integers):
            raise ValueError(
                f"`labels` of {labels.dtype} with shape {tuple(labels.shape)} do not match `config.problem_type` "
                f"{problem_type!r} and `config.num_labels` {logits.shape[-1]}: 'single_label_classification' takes "
                f"integers of shape {tuple(rows)}, 'multi_label_classification' and 'regression' numbers of shape "
                f"{tuple(logits.shape)}."
            )
        counts = torch.ones(rows, dtype=torch.bool, device=logits.device) if mask is None else mask != 0
        if is_single:
            labels = labels.long().masked_fill(~counts, _IGNORED)
            total = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="sum")
            return total / (labels != _IGNORED).sum().clamp(min=1)  # 0 without a label
        labels = labels.float()
        is_regression = problem_type == "regression"
        missing = labels.isnan() if is_regression else labels.isnan() | (labels == _IGNORED)
        known = counts[..., None] & ~missing
        loss = F.mse_loss if is_regression else F.binary_cross_entropy_with_logits
        losses = loss(logits, labels.masked_fill(~known, 0.0), reduction="none")
        return (losses * known).sum() / known.sum().clamp(min=1)

    def freeze_base_model(self) -> None:
        """Freezes the encoder: its weights get no gradient, and its batch-norm statistics no updates."""
        self.config.freeze_encoder = True
        self.sim.requires_grad_(requires_grad=False).eval()

    def _freeze_what_never_learns(self) -> None:
        """Disables gradients for the modules above the probed one, and for a frozen encoder."""
        above = list(self.sim.conv_modules[self.probe_module + 1 :])
        if self.sim.context is not None and self.probe_module < self.config.num_conv_modules:
            above.append(self.sim.context)
        for module in above:
            module.requires_grad_(requires_grad=False)
        if self.config.freeze_encoder:
            self.freeze_base_model()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Loads the model; loading creates new parameters, so they are frozen again."""
        loaded = super().from_pretrained(*args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded)._freeze_what_never_learns()  # noqa: SLF001 - of this class
        return loaded

    def train(self, mode: bool = True) -> "SimClassifier":
        """Sets the training mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.config.freeze_encoder:
            self.sim.eval()
        return self

    def probed_frames(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None,
        output_hidden_states: bool | None,
        generator: torch.Generator | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, tuple[torch.Tensor, ...] | None]:
        """Returns the probed module's frames `(batch, frames, channels)`, their mask, and hidden states on request.

        The frames of an image are those of all of its columns.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        frame_mask = None
        if attention_mask is not None:
            frame_mask = self.sim.get_frame_mask(attention_mask, self.probe_module)
        if not output_hidden_states and self.sim.takes_chunks(input_values):
            modules = self.sim.latents_in_chunks(input_values, attention_mask, [self.probe_module])
            return modules[self.probe_module].mean, frame_mask, None
        outputs = self.sim(
            input_values, attention_mask, generator=generator, output_hidden_states=True, return_dict=True
        )
        hidden_states = outputs.hidden_states if output_hidden_states else None
        frames = outputs.hidden_states[self.probe_module]
        frames = frames.reshape(len(input_values), -1, frames.shape[-1])
        if frame_mask is not None:
            frame_mask = frame_mask.repeat(1, frames.shape[1] // frame_mask.shape[1])
        return frames, frame_mask, hidden_states


class SimForSequenceClassification(SimClassifier):
    """Utterance classification: a linear layer on the mean of the real frames of one module."""

    @_takes_any_input
    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        generator: torch.Generator | None = None,
        **kwargs: Any,
    ) -> SimClassifierOutput:
        """Classifies utterances.

        Args:
            input_values: `(batch, samples)`, at the configuration's `sampling_rate`, in [-1, 1].
            attention_mask: `(batch, samples)`, 1 for audio and 0 for the padding after it; `None` for no padding.
            labels: `(batch,)` int64, in `[0, num_labels)`; utterances with -100 do not enter the loss. For multi-label
                classification and regression see `classification_loss`.
            output_hidden_states: Return `hidden_states`.
            generator: Random generator of the noise of sampled latents, in training mode; `None` for the global one.
            kwargs: `return_dict`; other arguments of transformers' models are ignored.
        """
        frames, frame_mask, hidden_states = self.probed_frames(
            input_values, attention_mask, output_hidden_states, generator
        )
        # Padded frames are 0. Sums and counts of long audio are beyond float16.
        total = frames.sum(dim=1, dtype=torch.promote_types(frames.dtype, torch.float32))
        count = frames.shape[1] if frame_mask is None else frame_mask.sum(dim=1, keepdim=True).clamp(min=1)
        logits = self.classifier((total / count).to(frames.dtype))
        loss = None if labels is None else self.classification_loss(logits, labels)
        return SimClassifierOutput(loss=loss, logits=logits, hidden_states=hidden_states)


class SimForAudioFrameClassification(SimClassifier):
    """Frame classification: a linear layer on the frames of one module."""

    @_takes_any_input
    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        generator: torch.Generator | None = None,
        **kwargs: Any,
    ) -> SimClassifierOutput:
        """Classifies frames.

        Args:
            input_values: `(batch, samples)`, at the configuration's `sampling_rate`, in [-1, 1].
            attention_mask: `(batch, samples)`, 1 for audio and 0 for the padding after it; `None` for no padding.
            labels: `(batch, frames)` int64 in `[0, num_labels)`, with `config.num_frames(samples,
                config.probe_module)` frames; padding and frames with -100 do not enter the loss. For multi-label
                classification and regression, `(batch, frames, num_labels)`, see `classification_loss`.
            output_hidden_states: Return `hidden_states`.
            generator: Random generator of the noise of sampled latents, in training mode; `None` for the global one.
            kwargs: `return_dict`; other arguments of transformers' models are ignored.

        Raises:
            ValueError: `labels` and the probed module have different numbers of frames.
        """
        frames, frame_mask, hidden_states = self.probed_frames(
            input_values, attention_mask, output_hidden_states, generator
        )
        logits = self.classifier(frames)
        loss = None
        if labels is not None:
            if labels.shape[:2] != logits.shape[:2]:
                raise ValueError(
                    f"`labels` has shape {tuple(labels.shape)}, but the frames of module {self.probe_module} have "
                    f"shape {tuple(logits.shape[:2])}; align the labels with these frames by `config.frame_centers`."
                )
            loss = self.classification_loss(logits, labels, frame_mask)
        return SimClassifierOutput(loss=loss, logits=logits, hidden_states=hidden_states)


__all__ = [
    "SimClassifierOutput",
    "SimForAudioFrameClassification",
    "SimForPreTraining",
    "SimForPreTrainingOutput",
    "SimForSequenceClassification",
    "SimModel",
    "SimModelOutput",
    "SimModuleOutput",
    "SimPreTrainedModel",
    "draw_latents",
    "real_frames",
]
