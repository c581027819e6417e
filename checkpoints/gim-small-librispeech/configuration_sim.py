"""Configuration of the Smooth InfoMax model family."""

import difflib
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal, TypeVar

import numpy as np
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# Nominal positions per second of images (rows of pixels) and text (symbols), which have no time. A position thus lasts
# one label frame of 10 ms, and limits in seconds, such as those of `utterance_batches`, correspond to thousands of
# positions.
POSITION_RATE = 100

Config = TypeVar("Config", bound=PreTrainedConfig)


def plain_numbers(value: Any) -> Any:
    """Converts numbers and arrays of numpy and torch, also nested ones, to Python's own, and tuples to lists."""
    if type(value) in (list, tuple):
        return [plain_numbers(entry) for entry in value]
    if type(value) is dict:
        return {plain_numbers(key): plain_numbers(entry) for key, entry in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value


def takes_numpy_numbers(config_class: type[Config]) -> type[Config]:
    """Class decorator that converts values before `@strict` checks them, as it accepts only Python's own numbers.

    A sweep over `np.array([64, 128])` gives `np.int64`. Tuples become lists, as in the reloaded copy of a config.
    """
    strict_setattr = config_class.__setattr__

    def set_plain(self: Any, name: str, value: Any) -> None:
        strict_setattr(self, name, plain_numbers(value))

    config_class.__setattr__ = set_plain  # type: ignore[method-assign]
    return config_class


@takes_numpy_numbers
@strict
class SimConfig(PreTrainedConfig):
    r"""Configuration of Smooth InfoMax (SIM), Greedy InfoMax (GIM) and Contrastive Predictive Coding (CPC) models.

    The three methods are settings of one model. The defaults are the LibriSpeech model of the SIM paper
    (arXiv 2408.12936); `SimConfig.preset(name)` returns the others.

    A *module* is a stack of convolutions with its own loss; the last module may be a GRU, the *context*.
    A *frame* is one output position of a module.

    Args:
        sampling_rate: Sampling rate of the waveform in Hz; 100 for images and text, see `POSITION_RATE`.
        input_kind: "waveform"; "patches": images, whose columns of patches are separate utterances, predicted from top
            to bottom (Löwe et al. 2019); "tokens": text, one symbol per position. The first convolution embeds patches
            and tokens. For images, a "sample" below is a row of pixels, for text it is a symbol.
        image_channels: Channels of an image, 1 for gray and 3 for color.
        patch_size: Height and width of a patch in pixels.
        patch_stride: Pixels from one patch to the next, down and to the right; patches overlap if it is smaller than
            `patch_size`, and `prediction_offsets` should then begin beyond the overlap.
        vocabulary: Symbols of a text, with ids from 1. Id 0 is for padding and for symbols that are not listed. Symbols
            of several characters, such as phones, are separated by spaces. Empty for the 256 bytes.
        hidden_size: Channels of every convolution.
        latent_size: Channels of every latent; `None` for `hidden_size`.
        context_size: Channels of the GRU that reads the last convolutional module; 0 for no GRU.
        conv_kernel: Kernel sizes, one list per module, in frames of the layer below.
        conv_stride: Strides, in the shape of `conv_kernel`.
        conv_padding: Zeros added at each end before each convolution, in the shape of `conv_kernel`.
        use_batch_norm: Batch normalization between each convolution and its ReLU.
        batch_norm_eps: Added to the variance in batch normalization.
        batch_norm_momentum: Weight of the newest batch in the running statistics.
        latent_distribution: "gaussian": each frame has a mean and a log-variance. "deterministic": it has one vector.
        latent_head: "linear": latents are a linear map of the last ReLU. "identity": they are that ReLU's output.
        sample_latents: Sample Gaussian latents in training; `False` uses their means ("SIM, mean").
        shared_noise: Use one sample as both context and target of a module, instead of two independent samples.
        initial_log_variance: Initial bias of the log-variance head; `None` for the initialization of other layers (the
            paper).
        log_variance_clamp: Lowest and highest log-variance; `None` for no limits (the paper).
        kl_weight: Weight of the KL divergence to N(0, I), summed over channels and averaged over frames; one
            number, or one per convolutional module. The default corresponds to 1e-3 in the authors' code, which sums
            over time.
        free_bits: Nats per dimension that the KL term does not penalize (Kingma et al. 2016); 0 for none.
        critic: How the convolutional modules score candidates: "bilinear" (the paper), or "gaussian", which scores by
            the autocorrelation of each channel at each offset, measured on the batch, and determines the axes of the
            latents (see `info_nce`). The context module always uses the bilinear critic.
        num_prediction_steps: Frames ahead that each frame, the anchor, predicts (K).
        prediction_offsets: Frames from an anchor to each of its targets, increasing; `None` for 1, ..., K.
        num_negatives: Negatives per pair of anchor and target (N).
        negatives: Frames of the batch that negatives are drawn from: "any" (the paper), "not_positive" (any but the
            target), "same_utterance", "other_utterances".
        negative_sharing: "anchor": draw separate negatives for each anchor (the paper). "batch": draw once for all
            anchors, which makes hundreds of negatives cheap.
        covariance_weight: Weight of `covariance_penalty`, which whitens the means of a module's latents.
        lagged_covariance_weight: Weight of `lagged_covariance_penalty` of the means, at the prediction offsets, over
            the first `loss_window` frames.
        independence_weight: Weight of `independence_penalty` of the means, which keeps channels from being functions of
            each other.
        loss_window: Frames per utterance that the contrastive loss uses: one random window per step.
        gradient_isolation: Stop gradients between modules (GIM, SIM).
        contrastive_modules: "all": a contrastive loss at every module. "context": only at the GRU (CPC).
        probe_module: Index of the module that the classification heads read; negative indices count from the last.
        freeze_encoder: Train only the classification head; the encoder stays in evaluation mode.

    Example:
        >>> from modeling_sim import SimConfig
        >>> SimConfig.preset("sim", num_negatives=20).num_negatives
        20
    """

    model_type = "sim"
    # `Trainer` gathers every other output of an evaluation as a prediction; these have one value per batch.
    keys_to_ignore_at_inference = ["module_losses", "contrastive_losses", "contrastive_accuracies", "kl_losses"]

    sampling_rate: int = 16_000
    input_kind: Literal["waveform", "patches", "tokens"] = "waveform"
    image_channels: int = 1
    patch_size: int = 16
    patch_stride: int = 8
    vocabulary: list[str] | tuple[str, ...] = ()
    hidden_size: int = 512
    latent_size: int | None = None
    context_size: int = 256
    conv_kernel: list[list[int]] | tuple[tuple[int, ...], ...] = ((10, 8), (4, 4), (4,))
    conv_stride: list[list[int]] | tuple[tuple[int, ...], ...] = ((5, 4), (2, 2), (2,))
    conv_padding: list[list[int]] | tuple[tuple[int, ...], ...] = ((2, 2), (2, 2), (1,))
    use_batch_norm: bool = True
    batch_norm_eps: float = 1e-5
    batch_norm_momentum: float = 0.1
    latent_distribution: Literal["gaussian", "deterministic"] = "gaussian"
    latent_head: Literal["linear", "identity"] = "linear"
    sample_latents: bool = True
    shared_noise: bool = False
    initial_log_variance: float | int | None = None
    log_variance_clamp: list[float | int] | tuple[float | int, float | int] | None = None
    kl_weight: float | int | list[float | int] | tuple[float | int, ...] = (2.0e-3, 5.0e-4, 2.5e-4)
    free_bits: float | int = 0.0
    critic: Literal["bilinear", "gaussian"] = "bilinear"
    num_prediction_steps: int = 10
    prediction_offsets: list[int] | tuple[int, ...] | None = None
    num_negatives: int = 10
    negatives: Literal["any", "not_positive", "same_utterance", "other_utterances"] = "any"
    negative_sharing: Literal["anchor", "batch"] = "anchor"
    covariance_weight: float | int = 0.0
    lagged_covariance_weight: float | int = 0.0
    independence_weight: float | int = 0.0
    loss_window: int = 128
    gradient_isolation: bool = True
    contrastive_modules: Literal["all", "context"] = "all"
    probe_module: int = -1
    freeze_encoder: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        num_hidden_layers = kwargs.pop("num_hidden_layers", self.num_modules)  # some tools save the property
        logit_scale = kwargs.pop("logit_scale", "one")  # of earlier versions
        super().__post_init__(**kwargs)
        if logit_scale != "one":
            raise ValueError(f"`logit_scale` is {logit_scale!r}, which was removed; train the model again without it.")
        if num_hidden_layers != self.num_modules:
            raise ValueError(
                f"`num_hidden_layers` is {num_hidden_layers}, but the settings describe {self.num_modules} modules; "
                "set `conv_kernel` and `context_size`, which determine it."
            )

    # ------------------------------------------------------------------ validation

    def validate_sizes(self) -> None:
        """Counts are positive, rates are in range."""
        sizes = ("sampling_rate", "hidden_size", "num_prediction_steps", "num_negatives")
        for name in (*sizes, "image_channels", "patch_size", "patch_stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; give an integer of at least 1.")
        if self.input_kind != "waveform" and self.sampling_rate != POSITION_RATE:
            raise ValueError(
                f"`sampling_rate` is {self.sampling_rate}; set it to {POSITION_RATE} for `input_kind` "
                f"{self.input_kind!r}, which does not have a sampling rate."
            )
        if self.context_size < 0:
            raise ValueError(
                f"`context_size` is {self.context_size}; give the channels of the context module, or 0 for none."
            )
        if not 0 < self.batch_norm_eps < math.inf:  # NaN as well
            raise ValueError(
                f"`batch_norm_eps` is {self.batch_norm_eps}; it must be above 0 and finite, for example 1e-5."
            )
        if not 0 < self.batch_norm_momentum <= 1:
            raise ValueError(f"`batch_norm_momentum` is {self.batch_norm_momentum}; it must be in (0, 1].")
        if self.loss_window < 2:
            raise ValueError(f"`loss_window` is {self.loss_window}; give at least 2 frames: a context and its target.")

    def validate_vocabulary(self) -> None:
        """The symbols of a text can be told apart."""
        check_vocabulary(self.vocabulary)

    def validate_convolutions(self) -> None:
        """Kernels, strides and paddings describe the same layers."""
        if not self.conv_kernel or not all(self.conv_kernel):
            raise ValueError("`conv_kernel` is empty or has an empty module; give one non-empty list per module.")
        shape = [len(layers) for layers in self.conv_kernel]
        for name in ("conv_stride", "conv_padding"):
            if [len(layers) for layers in getattr(self, name)] != shape:
                raise ValueError(
                    f"`{name}` {getattr(self, name)} does not describe the same layers as `conv_kernel` "
                    f"{self.conv_kernel}; give one list per module with {shape} entries."
                )
        for kernel, stride, padding in self._layers()[-sum(shape) :]:  # without the patches
            if kernel < 1 or stride < 1 or not 0 <= padding < kernel:
                raise ValueError(
                    f"a layer of `conv_kernel`, `conv_stride`, `conv_padding` has kernel {kernel}, stride {stride} and "
                    f"padding {padding}; kernel and stride must be at least 1, and padding smaller than the kernel."
                )

    def validate_latents(self) -> None:
        """The latent's size, distribution, head and KL settings are compatible."""
        if self.latent_size is not None and self.latent_size < 1:
            raise ValueError(f"`latent_size` is {self.latent_size}; give at least 1, or None for `hidden_size`.")
        if self.latent_head == "identity" and self.num_latents != self.hidden_size:
            raise ValueError(
                f"`latent_head` 'identity' returns `hidden_size` {self.hidden_size} channels, but `latent_size` is "
                f"{self.latent_size}; set `latent_head` to 'linear' or `latent_size` to None."
            )
        if self.latent_distribution == "gaussian" and self.latent_head == "identity":
            raise ValueError(
                "`latent_head` 'identity' returns one tensor, but `latent_distribution` 'gaussian' needs a mean and a "
                "log-variance; set `latent_head` to 'linear' or `latent_distribution` to 'deterministic'."
            )
        if isinstance(self.kl_weight, list) and len(self.kl_weight) != self.num_conv_modules:
            raise ValueError(
                f"`kl_weight` has {len(self.kl_weight)} entries for {self.num_conv_modules} convolutional modules; "
                "give one number, or one per module."
            )
        if not all(math.isfinite(weight) and weight >= 0 for weight in self.kl_weights):
            raise ValueError(f"`kl_weight` is {self.kl_weight}; weights must be finite and not below 0.")
        if not (math.isfinite(self.free_bits) and self.free_bits >= 0):
            raise ValueError(f"`free_bits` is {self.free_bits}; give nats per dimension, or 0 for none.")
        if self.initial_log_variance is not None and not math.isfinite(self.initial_log_variance):
            raise ValueError(f"`initial_log_variance` is {self.initial_log_variance}; give a finite number, or None.")
        clamp = self.log_variance_clamp
        if clamp is not None and (len(clamp) != 2 or not clamp[0] < clamp[1]):
            raise ValueError(
                f"`log_variance_clamp` is {clamp}; give the lowest and the highest value, for example [-10, 10], or "
                "None."
            )

    def validate_objective(self) -> None:
        """Every module is trained by some loss."""
        if self.contrastive_modules == "context" and self.context_size == 0:
            raise ValueError(
                "`contrastive_modules` 'context' needs a context module; set `context_size` above 0 or "
                "`contrastive_modules` to 'all'."
            )
        if self.contrastive_modules == "context" and self.gradient_isolation:
            raise ValueError(
                "`contrastive_modules` 'context' with `gradient_isolation` leaves the convolutional modules without a "
                "contrastive loss; set `gradient_isolation` to False (CPC) or `contrastive_modules` to 'all'."
            )

    def validate_critic(self) -> None:
        """Offsets and negatives are compatible, whatever the critic."""
        if self.prediction_offsets is not None and not self.prediction_offsets:
            raise ValueError("`prediction_offsets` is empty; give at least one, or None for 1 to K.")
        if self.offsets != sorted({*self.offsets}) or min(self.offsets, default=1) < 1:
            raise ValueError(
                f"`prediction_offsets` is {self.offsets}; give increasing positive integers, for example [1, 2, 4]."
            )
        if self.prediction_offsets and self.offsets[-1] >= self.loss_window:
            raise ValueError(
                f"`prediction_offsets` end at {self.offsets[-1]}, but `loss_window` has only {self.loss_window} "
                "frames, which must hold a context and its target; give smaller offsets or a longer window."
            )
        if self.negative_sharing == "batch" and self.negatives != "any":
            raise ValueError(
                f"`negative_sharing` 'batch' draws from all frames, but `negatives` is {self.negatives!r}; set 'any'."
            )

    def validate_gaussian_critic(self) -> None:
        """The settings of the Gaussian critic are compatible."""
        if self.critic == "gaussian" and self.contrastive_modules == "context":
            raise ValueError(
                "`critic` 'gaussian' only scores latents of convolutional modules; set `contrastive_modules` to 'all'."
            )
        for name in ("covariance_weight", "lagged_covariance_weight", "independence_weight"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"`{name}` is {getattr(self, name)}; it must be finite and not below 0.")

    def validate_probe_module(self) -> None:
        """The probed module exists."""
        if not -self.num_modules <= self.probe_module < self.num_modules:
            raise ValueError(
                f"`probe_module` is {self.probe_module}; the model has modules 0 to {self.num_modules - 1} "
                "(or -1, -2, ... from the last)."
            )

    # ------------------------------------------------------------------ presets

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> "SimConfig":
        """Configuration of a published model, or of a small one, by name.

        Args:
            name: One of `SimConfig.preset_names()`.
            overrides: Fields to set differently.

        Raises:
            ValueError: The name, or that of an override, is unknown.
            StrictDataclassError: The value of an override is invalid.
        """
        if name not in _PRESETS:
            raise ValueError(f"no preset {name!r}{_nearest(name, _PRESETS)} Choose one of {', '.join(_PRESETS)}.")
        cls.check_names(overrides)
        return cls(**{**_PRESETS[name], **overrides})

    @classmethod
    def check_names(cls, names: Iterable[str]) -> None:
        """Checks names of fields, which the constructor keeps as attributes if it does not know them.

        Raises:
            ValueError: There is no such field.
        """
        known = {*cls.__dataclass_fields__, "num_labels"}  # a property of transformers
        for name in names:
            if name not in known:
                raise ValueError(f"`SimConfig` has no field {name!r}{_nearest(name, known)} See `help(SimConfig)`.")

    @staticmethod
    def preset_names() -> list[str]:
        """Names that `preset` accepts."""
        return list(_PRESETS)

    # ------------------------------------------------------------------ geometry

    @property
    def num_conv_modules(self) -> int:
        """Number of convolutional modules."""
        return len(self.conv_kernel)

    @property
    def num_modules(self) -> int:
        """Number of modules, including the context."""
        return self.num_conv_modules + (self.context_size > 0)

    @property
    def num_hidden_layers(self) -> int:
        """Alias of `num_modules` that tools of transformers read; not saved, as it follows from other fields."""
        return self.num_modules

    @property
    def module_names(self) -> list[str]:
        """Names for tables and figures: "module 0", ..., "context"."""
        names = [f"module {module}" for module in range(self.num_conv_modules)]
        return names + ["context"] * (self.context_size > 0)

    @property
    def input_channels(self) -> int:
        """Channels of the first module's input: 1 for a waveform, the values of a patch, or one per token id."""
        if self.input_kind == "patches":
            return self.image_channels * self.patch_size**2
        return self.vocab_size if self.input_kind == "tokens" else 1

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return 1 + (len(self.vocabulary) or 256)

    @property
    def num_latents(self) -> int:
        """Channels of every latent: `latent_size`, or `hidden_size`."""
        return self.latent_size or self.hidden_size

    @property
    def offsets(self) -> list[int]:
        """Frames from an anchor to each of its targets."""
        return list(self.prediction_offsets or range(1, self.num_prediction_steps + 1))

    @property
    def kl_weights(self) -> list[float]:
        """KL weight of each convolutional module."""
        if isinstance(self.kl_weight, (int, float)):
            return [float(self.kl_weight)] * self.num_conv_modules
        return [float(weight) for weight in self.kl_weight]

    def num_channels(self, module: int = -1) -> int:
        """Channels of a module's frames: `context_size` for the context, `num_latents` for the others."""
        is_context = module % self.num_modules == self.num_conv_modules
        return self.context_size if is_context else self.num_latents

    def hop_length(self, module: int = -1) -> int:
        """Samples from one frame of a module to the next."""
        return math.prod(stride for _, stride, _ in self._layers(module))

    def frame_rate(self, module: int = -1) -> float:
        """Frames per second of a module."""
        return self.sampling_rate / self.hop_length(module)

    def receptive_field(self, module: int = -1) -> int:
        """Receptive field in samples of one frame of a convolutional module; for the context, of its input frame."""
        size, hop = 1, 1
        for kernel, stride, _ in self._layers(module):
            size += (kernel - 1) * hop
            hop *= stride
        return size

    def frame_centers(self, num_frames: int, module: int = -1) -> np.ndarray:
        """Centers of a module's first frames, in samples, `(num_frames,)` float64.

        Sample i covers the interval from i to i + 1. A frame's center is the middle of its receptive field, including
        padding, so the first frames of a padded stack may be centered before sample 0. A frame of the context has the
        center of its input frame.
        """
        start, hop = 0, 1
        for _, stride, padding in self._layers(module):
            start -= padding * hop
            hop *= stride
        return start + self.receptive_field(module) / 2 + hop * np.arange(num_frames, dtype=np.float64)

    def num_frames(self, num_samples: Any, module: int = -1) -> Any:
        """Number of frames of a module for a number of samples (an int, or a tensor of integers)."""
        frames = num_samples
        for kernel, stride, padding in self._layers(module):
            frames = num_output_frames(frames, kernel, stride, padding)
        return frames

    def _layers(self, module: int = -1) -> list[tuple[int, int, int]]:
        """Kernel, stride and padding of every convolution up to and including a module, patches as the first one."""
        if not -self.num_modules <= module < self.num_modules:
            raise ValueError(f"`module` is {module}; the model has modules 0 to {self.num_modules - 1}.")
        last = min(module % self.num_modules, self.num_conv_modules - 1) + 1
        patches = [(self.patch_size, self.patch_stride, 0)] if self.input_kind == "patches" else []
        return patches + [
            layer
            for kernels, strides, paddings in zip(
                self.conv_kernel[:last], self.conv_stride[:last], self.conv_padding[:last], strict=True
            )
            for layer in zip(kernels, strides, paddings, strict=True)
        ]


def check_vocabulary(vocabulary: Iterable[str]) -> None:
    """Checks that every symbol of a text has one id; see `SimConfig.vocabulary`.

    Raises:
        ValueError: A symbol is empty or there twice, or has a space although symbols are separated by spaces.
    """
    symbols = Counter(vocabulary)
    separated = any(len(symbol) > 1 for symbol in symbols)
    for symbol, count in symbols.items():
        if not symbol or count > 1 or (separated and symbol.split() != [symbol]):
            raise ValueError(
                f"`vocabulary` has the symbol {symbol!r}, which is empty, there twice, or has a space although symbols "
                "of several characters are separated by spaces."
            )


def _nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error message, which suggests the closest known word, if any is similar."""
    matches = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else "."


def num_output_frames(length: Any, kernel: int, stride: int, padding: int) -> Any:
    """Number of output frames of a convolution for a number of input frames (an int, or a tensor of integers).

    An empty input gives no frames, even if its padding alone is as long as the kernel.
    """
    frames = (length + 2 * padding - kernel) // stride + 1
    return frames * ((length > 0) & (frames > 0))


# Greedy InfoMax with SIM's modules, the baseline of SIM's authors: no distribution, no KL.
_GIM: dict[str, Any] = {"latent_distribution": "deterministic", "kl_weight": 0.0}
# A quarter of the paper's width, for CPUs.
_SMALL: dict[str, Any] = {"hidden_size": 128, "context_size": 64}

# Posteriors start narrow (standard deviation 0.14): if they start at the prior, as in the paper, the upper modules
# receive little but noise until the first one has learned. Log-variances stay far from the clamp in training; it only
# keeps one loud frame from filling a batch with noise.
_NARROW: dict[str, Any] = {"initial_log_variance": -4.0, "log_variance_clamp": (-10.0, 2.0)}
# Latents whose axes the loss determines, see `docs/theory.md`. Measured at the small width, on crops of .64 s, whose 64
# frames of module 2 have 63 as their longest offset.
_READABLE: dict[str, Any] = {
    **_NARROW,
    "latent_size": 64,
    "critic": "gaussian",
    "prediction_offsets": (1, 2, 4, 8, 16, 32, 63),
    "num_negatives": 255,
    "negative_sharing": "batch",
    "kl_weight": 1.0e-3,
    "covariance_weight": 1.0,
    "lagged_covariance_weight": 0.3,
    "independence_weight": 1.0,
}

_PRESETS: dict[str, dict[str, Any]] = {
    "sim": {},
    "sim-artificial": {"use_batch_norm": False, "kl_weight": (1.0e-2, 2.5e-3, 1.25e-3)},
    "gim": _GIM,
    # Löwe et al. 2019: one module per convolution, the ReLU's output is the latent, 12 steps ahead.
    "gim-lowe": {
        **_GIM,
        "conv_kernel": ((10,), (8,), (4,), (4,), (4,)),
        "conv_stride": ((5,), (4,), (2,), (2,), (2,)),
        "conv_padding": ((2,), (2,), (2,), (2,), (1,)),
        "use_batch_norm": False,
        "latent_head": "identity",
        "num_prediction_steps": 12,
        "negatives": "any",
    },
    # van den Oord et al. 2018, with the linear head that the SIM authors keep in it.
    "cpc": {
        **_GIM,
        "conv_kernel": ((10, 8, 4, 4, 4),),
        "conv_stride": ((5, 4, 2, 2, 2),),
        "conv_padding": ((2, 2, 2, 2, 1),),
        "gradient_isolation": False,
        "contrastive_modules": "context",
    },
    "sim-readable": _READABLE,
    "sim-small": {**_SMALL, **_NARROW},
    "sim-readable-small": {**_SMALL, **_READABLE},
    "gim-small": {**_GIM, **_SMALL},
}

__all__ = ["POSITION_RATE", "SimConfig", "num_output_frames", "takes_numpy_numbers"]
