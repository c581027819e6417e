"""Feature extractor of the Smooth InfoMax models: raw waveforms to padded batches."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.utils import logging

logger = logging.get_logger(__name__)

# The longest second axis that is taken for channels rather than samples.
_MOST_CHANNELS = 8


class SimFeatureExtractor(SequenceFeatureExtractor):
    r"""Checks waveforms and pads them to a batch with an attention mask.

    Args:
        feature_size: Dimension of a sample, always 1; `SequenceFeatureExtractor` requires it.
        sampling_rate: Sampling rate in Hz of the audio that the model was trained on.
        padding_value: Value of padded samples. The models mask padding, so it does not change their output.
        do_normalize: Shift and scale each utterance to mean 0 and variance 1. Off by default: the paper's models
            were trained on audio in [-1, 1] without normalization.
        min_samples: Minimum number of samples of an utterance; the default is the receptive field of one frame of the
            published models.
        return_attention_mask: Return the mask by default. The models need it for a padded batch.
        kwargs: Further arguments of `SequenceFeatureExtractor`.

    Example:
        >>> import numpy as np
        >>> from modeling_sim import SimFeatureExtractor
        >>> waveform = np.zeros(16000, dtype=np.float32)
        >>> batch = SimFeatureExtractor()(waveform, sampling_rate=16000, return_tensors="pt")
        >>> batch["input_values"].shape
        torch.Size([1, 16000])
    """

    model_input_names = ["input_values", "attention_mask"]

    def __init__(
        self,
        feature_size: int = 1,
        sampling_rate: int = 16_000,
        padding_value: float = 0.0,
        do_normalize: bool = False,
        min_samples: int = 465,
        return_attention_mask: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        if self.padding_side != "right":
            raise ValueError(
                f"`padding_side` is {self.padding_side!r}; set it to 'right': the models need padding after the audio."
            )
        self.do_normalize = do_normalize
        self.min_samples = min_samples
        self.return_attention_mask = return_attention_mask

    @classmethod
    def from_dict(cls, feature_extractor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """A feature extractor with saved settings.

        Raises:
            ValueError: They are those of an image processor, whose file has the same name.
        """
        if "image_processor_type" in feature_extractor_dict:
            saved = feature_extractor_dict["image_processor_type"]
            raise ValueError(f"preprocessor_config.json holds settings of {saved}; use `AutoImageProcessor`.")
        return super().from_dict(feature_extractor_dict, **kwargs)

    def __call__(
        self,
        raw_speech: Any,
        sampling_rate: int | None = None,
        padding: bool | str = False,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Converts one or several waveforms to a batch.

        Args:
            raw_speech: One waveform (a numpy array or torch tensor `(samples,)`, or a list of floats), or several
                (a list of these, or one array `(utterances, samples)`). Floats in [-1, 1], or int16 or int32, which
                are scaled to that range.
            sampling_rate: Sampling rate of `raw_speech` in Hz. Always give it: a wrong rate cannot be detected from
                the samples.
            padding: `True` or "longest": to the longest of the batch; "max_length": to `max_length`; `False`: none.
            max_length: Samples to pad or truncate to.
            truncation: Truncate waveforms longer than `max_length`.
            pad_to_multiple_of: Pad further, to a multiple of this number of samples.
            return_attention_mask: Override the extractor's default.
            return_tensors: "pt" for torch tensors, "np" for numpy arrays.
            kwargs: Ignored, as in transformers' extractors.

        Returns:
            `input_values` `(batch, samples)` float32 and `attention_mask` `(batch, samples)` int32, 1 for audio.

        Raises:
            ValueError: The sampling rate differs from the model's, a waveform is empty, stereo, not finite or shorter
                than `min_samples`, or `max_length` truncates to less than that.
            TypeError: Samples are neither floats nor int16 nor int32.
        """
        if sampling_rate is None:
            logger.warning_once(
                f"`sampling_rate` was not given; assuming {self.sampling_rate} Hz. Audio at another rate gives wrong "
                "results."
            )
        elif sampling_rate != self.sampling_rate:
            raise ValueError(
                f"`sampling_rate` is {sampling_rate} Hz, but the model was trained on {self.sampling_rate} Hz; "
                f"resample the audio, for example with `soxr.resample(audio, {sampling_rate}, {self.sampling_rate})`."
            )
        if truncation and max_length is not None and max_length < self.min_samples:
            raise ValueError(
                f"`max_length` is {max_length}, shorter than the model's receptive field of {self.min_samples} samples "
                "(`min_samples`); increase it."
            )

        waveforms = [self._check(waveform, place) for place, waveform in enumerate(_as_batch(raw_speech))]
        if truncation and max_length:  # `pad` would keep samples up to a multiple of `pad_to_multiple_of`
            waveforms = [waveform[:max_length] for waveform in waveforms]
        if self.do_normalize:
            waveforms = [_normalize(waveform) for waveform in waveforms]
        return self.pad(
            BatchFeature({"input_values": waveforms}),
            padding=padding,
            max_length=max_length,
            truncation=truncation,
            pad_to_multiple_of=pad_to_multiple_of,
            return_attention_mask=return_attention_mask,
            return_tensors=return_tensors,
        )

    def _check(self, waveform: np.ndarray, place: int) -> np.ndarray:
        """Converts a waveform to float32 in [-1, 1]; errors name its index in the batch."""
        name = f"waveform {place} of `raw_speech`"
        waveform = as_waveform(waveform, name)
        if len(waveform) < self.min_samples:
            raise ValueError(
                f"{name} has {len(waveform)} samples, fewer than the model's receptive field of {self.min_samples} "
                "(`min_samples`); remove it, or pad it with silence first."
            )
        return waveform


def as_waveform(samples: Any, name: str) -> np.ndarray:
    """Converts the samples of one recording to a float32 array `(samples,)` in [-1, 1].

    Args:
        samples: An array, a tensor or a list of numbers; floats in [-1, 1], or int16 or int32.
        name: Name of the samples in error messages.

    Raises:
        ValueError: They are stereo, empty or not finite.
        TypeError: They are neither floats nor int16 nor int32.
    """
    waveform = _to_array(samples)
    if waveform.ndim != 1:
        raise ValueError(
            f"{name} has shape {waveform.shape}; it must be mono, (samples,). Average the channels of stereo audio "
            "first, for example with `audio.mean(axis=1)` where channels are the last axis."
        )
    if waveform.size == 0:
        raise ValueError(f"{name} is empty; remove it.")
    waveform = waveform.astype(waveform.dtype.newbyteorder("="), copy=False)  # AIFF, RIFX, SPHERE: big-endian
    if waveform.dtype in (np.int16, np.int32):
        waveform = waveform / np.float32(-np.iinfo(waveform.dtype).min)
    elif not np.issubdtype(waveform.dtype, np.floating):
        raise TypeError(
            f"{name} has dtype {waveform.dtype}; give floats in [-1, 1], or an array of int16 or int32. The scale of "
            "other integers is unknown."
        )
    with np.errstate(over="ignore"):
        waveform = waveform.astype(np.float32, copy=False)
    if not np.isfinite(waveform).all():
        raise ValueError(
            f"{name} has samples that are NaN, infinite or out of range for float32; check how it was decoded."
        )
    return waveform


def _as_batch(raw_speech: Any) -> list[np.ndarray]:
    """One or several waveforms as a list of arrays."""
    if hasattr(raw_speech, "detach"):
        raw_speech = _to_array(raw_speech)
    if isinstance(raw_speech, np.ndarray) and raw_speech.dtype == object:
        raw_speech = raw_speech.tolist()  # numbers, or waveforms of several lengths
    if isinstance(raw_speech, (str, bytes, PathLike)):
        raise TypeError(
            f"`raw_speech` is {raw_speech!r:.60}; give samples instead of a file, for example those of "
            "`soundfile.read(path, dtype='float32')`."
        )
    if isinstance(raw_speech, np.ndarray):
        if raw_speech.ndim == 2 and raw_speech.shape[1] <= _MOST_CHANNELS < raw_speech.shape[0]:
            return [raw_speech]  # (samples, channels), as soundfile returns stereo audio
        return list(raw_speech) if raw_speech.ndim > 1 else [raw_speech]
    if not isinstance(raw_speech, Sequence):
        raise TypeError(
            f"`raw_speech` is a {type(raw_speech).__name__}; give an array, a tensor, or a list of them. For a row of "
            "`datasets` give its 'array' and 'sampling_rate'."
        )
    if len(raw_speech) == 0:
        raise ValueError("`raw_speech` is empty; give at least one waveform.")
    if isinstance(raw_speech[0], (str, bytes, PathLike, Mapping)):
        return _as_batch(raw_speech[0])  # raises the error of a single item
    if np.ndim(raw_speech[0]) == 0:
        return [_to_array(raw_speech)]
    return [_to_array(waveform) for waveform in raw_speech]


def _to_array(waveform: Any) -> np.ndarray:
    """Converts a torch tensor, an array or a list of numbers to an array; numpy has no bfloat16, so use float32."""
    if hasattr(waveform, "detach"):
        waveform = waveform.detach().cpu()
        return (waveform.float() if waveform.is_floating_point() else waveform).numpy()
    if isinstance(waveform, np.ndarray) and waveform.dtype == object:
        waveform = waveform.tolist()
    return np.asarray(waveform)


def _normalize(waveform: np.ndarray) -> np.ndarray:
    """Normalizes to mean 0 and variance 1; silence stays 0. In float64, where the square of a float32 is finite."""
    mean, variance = waveform.mean(dtype=np.float64), waveform.var(dtype=np.float64)
    return ((waveform - mean) / np.sqrt(variance + 1e-7)).astype(np.float32)


__all__ = ["SimFeatureExtractor"]
