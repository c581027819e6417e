"""Configuration of the decoder of Smooth InfoMax latents."""

import math
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_sim import takes_numpy_numbers

HIGHEST_PITCH = 500.0
"""Highest pitch of a source-filter decoder in Hz."""


@takes_numpy_numbers
@strict
class SimDecoderConfig(PreTrainedConfig):
    r"""Configuration of a decoder from one module's latents to the waveform.

    The defaults decode module 2 of the paper's model; `SimDecoderConfig.for_module` builds the configuration of any
    module.

    Args:
        architecture: "convolutions": transposed convolutions and ReLUs, as in the paper. "source_filter": pulses of a
            pitch that is linear in the latents, and noise, each filtered by a spectral envelope per frame; the lists of
            layers then only determine the length of the waveform.
        sampling_rate: Sampling rate of the waveform in Hz.
        module: Module whose latents are decoded, from 0; the context comes last.
        latent_size: Channels of the latents.
        hidden_size: Channels between the layers.
        kernel_sizes: One per layer, from the latents to the waveform.
        strides: One per layer.
        paddings: One per layer: frames cut from both ends of the layer's output.
        output_paddings: One per layer: frames added at the end of the output. The encoder's convolutions round down, so
            several input lengths give the same number of frames; output paddings choose one of these lengths.
        encoder_fingerprint: Digest of the encoder's weights, which detects a decoder used with a different encoder;
            empty if unknown.
        trained_on: Whether the decoder was trained on the "mean" or on a "sample" of the latents.
        loss: Training loss, one of the choices of `modeling-sim train-decoder`; empty if unknown.
        noise: Standard deviation of the noise added to the latents in training, relative to each channel's standard
            deviation.

    Example:
        >>> from modeling_sim import SimConfig, SimDecoderConfig
        >>> SimDecoderConfig.for_module(SimConfig(), 2).num_samples(64)
        10240
    """

    model_type = "sim-decoder"

    architecture: Literal["convolutions", "source_filter"] = "convolutions"
    sampling_rate: int = 16_000
    module: int = 2
    latent_size: int = 512
    hidden_size: int = 512
    kernel_sizes: list[int] | tuple[int, ...] = (4, 4, 4, 8, 10)
    strides: list[int] | tuple[int, ...] = (2, 2, 2, 4, 5)
    paddings: list[int] | tuple[int, ...] = (1, 2, 2, 2, 2)
    output_paddings: list[int] | tuple[int, ...] = (1, 0, 1, 3, 4)
    encoder_fingerprint: str = ""
    trained_on: Literal["mean", "sample"] = "mean"
    loss: str = ""
    noise: float | int = 0.0

    def validate_layers(self) -> None:
        """The lists describe the same layers, and each layer is valid."""
        shapes = {name: len(getattr(self, name)) for name in ("kernel_sizes", "strides", "paddings", "output_paddings")}
        if len(set(shapes.values())) > 1 or not self.kernel_sizes:
            raise ValueError(f"the lists of layers have lengths {shapes}; give one number per layer in each.")
        for name in ("sampling_rate", "latent_size", "hidden_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; give at least 1.")
        if self.architecture == "source_filter" and self.sampling_rate < 2 * HIGHEST_PITCH:
            raise ValueError(
                f"`sampling_rate` is {self.sampling_rate} Hz; pulses need at least {2 * HIGHEST_PITCH:g} Hz."
            )
        for kernel, stride, padding, output_padding in self.layers():
            if kernel < 1 or stride < 1 or not 0 <= padding < kernel or not 0 <= output_padding < max(stride, 1):
                raise ValueError(
                    f"a layer of `kernel_sizes`, `strides`, `paddings`, `output_paddings` has kernel {kernel}, stride "
                    f"{stride}, padding {padding} and output padding {output_padding}; padding must be smaller than "
                    "the kernel, and output padding smaller than the stride."
                )

    @classmethod
    def for_module(cls, encoder: Any, module: int, **overrides: Any) -> "SimDecoderConfig":
        """Configuration of a decoder for a module of an encoder.

        It has the paper's layers for the modules of the paper's model. For any other encoder it mirrors the encoder's
        convolutions, with output paddings that restore exactly 10,240 samples, as in the paper.

        Args:
            encoder: A `SimConfig`.
            module: From 0; the context comes last and has the layers of the module it reads. Negative numbers count
                from the last.
            overrides: Fields to set differently, such as `hidden_size`.

        Raises:
            ValueError: The encoder has no such module.
        """
        if not -encoder.num_modules <= module < encoder.num_modules:
            raise ValueError(f"`module` is {module}; the encoder has modules 0 to {encoder.num_modules - 1}.")
        module %= encoder.num_modules
        layers = [layer for number in range(module + 1) for layer in _conv_layers(encoder, number)]
        latent_size = encoder.context_size if module == encoder.num_conv_modules else encoder.num_latents
        shapes = dict(_PAPER_MODULE_0) if layers == [(10, 5, 2), (8, 4, 2)] else _mirrored(layers)
        return cls(
            **{
                "sampling_rate": encoder.sampling_rate,
                "module": module,
                "latent_size": latent_size,
                "hidden_size": encoder.hidden_size,
                **shapes,
                **overrides,
            }
        )

    def layers(self) -> list[tuple[int, int, int, int]]:
        """Kernel size, stride, padding and output padding of every layer."""
        return list(zip(self.kernel_sizes, self.strides, self.paddings, self.output_paddings, strict=True))

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return math.prod(self.strides)

    def num_samples(self, num_frames: Any) -> Any:
        """Number of samples for a number of frames (an int, or a tensor of integers)."""
        length = num_frames
        for kernel, stride, padding, output_padding in self.layers():
            length = (length - 1) * stride - 2 * padding + kernel + output_padding
        return length * (num_frames > 0)


# The paper's decoder of the first module has layers of kernel 3 between those that change the rate.
_PAPER_MODULE_0: dict[str, Any] = {
    "kernel_sizes": (8, 3, 3, 10, 3, 3),
    "strides": (4, 1, 1, 5, 1, 1),
    "paddings": (2, 1, 1, 2, 1, 1),
    "output_paddings": (3, 0, 0, 4, 0, 0),
}
_REFERENCE_SAMPLES = 10_240


def _conv_layers(encoder: Any, module: int) -> list[tuple[int, int, int]]:
    """Kernel, stride and padding of a module's convolutions; empty for the context."""
    if module >= encoder.num_conv_modules:
        return []
    columns = (encoder.conv_kernel[module], encoder.conv_stride[module], encoder.conv_padding[module])
    return list(zip(*columns, strict=True))


def _mirrored(layers: list[tuple[int, int, int]]) -> dict[str, Any]:
    """The convolutions in reverse order, with output paddings that restore the reference length."""
    length, rounded_off = _REFERENCE_SAMPLES, []
    for kernel, stride, padding in layers:
        rounded_off.append((length + 2 * padding - kernel) % stride)
        length = (length + 2 * padding - kernel) // stride + 1
    kernels, strides, paddings = zip(*layers[::-1], strict=True)
    return {"kernel_sizes": kernels, "strides": strides, "paddings": paddings, "output_paddings": rounded_off[::-1]}


__all__ = ["HIGHEST_PITCH", "SimDecoderConfig"]
