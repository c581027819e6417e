"""Encoding while audio arrives: any number of samples in, the frames that are complete out."""

from collections.abc import Sequence
from typing import Any, Self

import torch

from modeling_sim.inference.folding import fold
from modeling_sim.inference.steps import MAX_SAMPLES, ShortSteps
from modeling_sim.modeling_sim import SimModel, SimModelOutput, SimModuleLatents


class SimStream:
    """Streams of audio through an encoder: `feed` samples, get frames, `finish` at the end.

    Concatenated over all calls, the frames of each module equal those of `SimModel` on the complete audio up to
    rounding, however it is divided. The state is a few frames per convolution and the GRU's hidden state;
    `SimModel.step` is the same with the state as tensors.

    Args:
        model: The encoder, or a model with one as `sim`. It is copied now and not changed; later changes of it have
            no effect on this stream.
        batch_size: Streams that are fed together.

    Example:
        >>> import torch
        >>> from modeling_sim import SimConfig, SimModel, SimStream
        >>> stream = SimStream(SimModel(SimConfig.preset("sim-small")))
        >>> [stream.feed(torch.zeros(320)).last_hidden_state.shape[1] for _ in range(3)]
        [1, 2, 2]
        >>> stream.finish().last_hidden_state.shape
        torch.Size([1, 1, 64])
    """

    def __init__(self, model: Any, batch_size: int = 1) -> None:
        if batch_size < 1:
            raise ValueError(f"`batch_size` is {batch_size}; give at least 1.")
        sim = getattr(model, "sim", model)
        if sim.config.input_kind != "waveform":
            raise ValueError(f"the model has `input_kind` {sim.config.input_kind!r}; only waveforms can be streamed.")
        self.model: SimModel = fold(sim)
        self.batch_size = batch_size
        self.reset()

    @property
    def latency(self) -> dict[str, float]:
        """Latency of each module in milliseconds, by its name.

        It is the time from the first to the last sample in a frame's receptive field. Computation time and the length
        of the chunks are added to it.
        """
        config = self.model.config
        milliseconds = {}
        for module, name in enumerate(config.module_names):
            # The same as `config.receptive_field`, unless a stride leaves inputs out: see `SimConvLayer.resume`.
            size, hop = 1, 1
            for conv_module in list(self.model.conv_modules)[: module + 1]:
                for kernel, stride, _ in (layer.sizes for layer in conv_module.layers):
                    size, hop = size + (max(kernel, stride) - 1) * hop, hop * stride
            milliseconds[name] = 1000 * size / config.sampling_rate
        return milliseconds

    def reset(self) -> None:
        """Restarts all streams."""
        self._state: list[torch.Tensor] = self.model.initial_state(self.batch_size)
        self._short_steps = ShortSteps.of(self.model)
        self._is_finished = False

    def copy(self) -> Self:
        """A copy of this stream in its current state, which continues independently; both share the weights."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)  # steps make new tensors and leave the old ones as they are
        return other

    def feed(self, samples: Any) -> SimModelOutput:
        """Frames that these samples complete.

        Args:
            samples: The next samples, `(batch_size, samples)`, of one stream also `(samples,)`; a tensor, an array or a
                list of floats in [-1, 1], at the model's `sampling_rate`; of any length, 0 too.

        Returns:
            Like `SimModel` with `output_hidden_states=True`, without a mask: all frames are real, and a module without
            a complete frame returns 0 frames.

        Raises:
            ValueError: `samples` has another shape or is not finite, or the streams were finished.
            TypeError: `samples` is not of floats.
        """
        samples = torch.as_tensor(samples)
        if samples.ndim == 1:
            samples = samples[None]
        if samples.ndim != 2 or len(samples) != self.batch_size:
            raise ValueError(
                f"`samples` has shape {tuple(samples.shape)}; it must be (batch_size, samples), where `batch_size` is "
                f"{self.batch_size}."
            )
        if not samples.is_floating_point():
            raise TypeError(f"`samples` is {samples.dtype}; give floats in [-1, 1], of int16 by dividing by 32768.")
        return self._step(samples, last=False)

    def finish(self) -> SimModelOutput:
        """Returns the last frames, whose receptive field includes padding; `reset` restarts the streams."""
        return self._step(torch.zeros(self.batch_size, 0), last=True)

    @torch.inference_mode()
    def _step(self, samples: torch.Tensor, *, last: bool) -> SimModelOutput:
        if self._is_finished:
            raise ValueError("`finish` was called; call `reset` to restart.")
        samples = samples.to(self._state[0])
        if not samples.isfinite().all():  # the GRU would keep it to the end of the stream
            raise ValueError("`samples` contains NaN or infinity.")
        if self._short_steps is None or last or samples.shape[1] > MAX_SAMPLES:
            modules, self._state = self.model.step(samples, self._state, last=last)
        else:
            modules, self._state = self._short_steps(samples, self._state)
        self._is_finished = last
        return _output(modules, len(self.model.conv_modules))


def _output(modules: Sequence[SimModuleLatents], num_conv_modules: int) -> SimModelOutput:
    latents = modules[:num_conv_modules]
    return SimModelOutput(
        last_hidden_state=modules[-1].hidden_state,
        hidden_states=tuple(module.hidden_state for module in modules),
        means=tuple(module.mean for module in latents),
        log_variances=tuple(module.log_variance for module in latents if module.log_variance is not None) or None,
    )


__all__ = ["SimStream"]
