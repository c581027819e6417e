"""Images and texts of a corpus as arrays along their positions: rows of pixels, or token ids."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Image
from transformers import SequenceFeatureExtractor
from transformers.image_utils import SizeDict


def is_audio(processor: Any) -> bool:
    """Whether a processor reads audio, rather than images or text."""
    return isinstance(processor, SequenceFeatureExtractor)


def positions(signal: Any, processor: Any) -> np.ndarray:
    """A signal as `(height, width, channels)` uint8, or as `(tokens,)` int64.

    Args:
        signal: `{"path", "bytes"}` of an image, or a text.
        processor: The image processor or tokenizer of a model.
    """
    if isinstance(signal, str):
        return np.asarray(processor(signal)["input_ids"], dtype=np.int64)
    image = processor.process_image(Image().decode_example(signal))
    if processor.do_resize:
        size = processor.size if isinstance(processor.size, SizeDict) else SizeDict(**processor.size)
        image = processor.resize(image, size, resample=processor.resample)
    return np.moveaxis(image, 0, -1)


def padded(
    signals: Sequence[np.ndarray], processor: Any, *, padding: str, max_length: int | None = None
) -> dict[str, np.ndarray]:
    """A batch of what `positions` returns, padded with zeros at the end, as `input_values` and `attention_mask`.

    Args:
        signals: Images of equal width, or token ids.
        processor: The image processor or tokenizer of a model.
        padding: "longest", or "max_length".
        max_length: Positions to pad to, with "max_length".
    """
    lengths = np.array([len(signal) for signal in signals])
    length = max_length if padding == "max_length" and max_length is not None else int(lengths.max())
    mask = (np.arange(length) < lengths[:, None]).astype(np.int32)
    rows = np.stack([_extended(signal, length) for signal in signals])
    if rows.ndim > 2:
        images = list(np.moveaxis(rows, -1, 1))
        rows = processor(images, input_data_format="channels_first", do_resize=False, return_tensors="np")[
            "pixel_values"
        ]
    return {"input_values": rows, "attention_mask": mask}


def _extended(signal: np.ndarray, length: int) -> np.ndarray:
    return np.pad(signal, [(0, length - len(signal)), *[(0, 0)] * (signal.ndim - 1)])
