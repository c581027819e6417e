"""Batches for the `Trainer` of transformers, of any data set whose rows hold waveforms."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import SequenceFeatureExtractor

from modeling_sim.data.audio import as_recording, read_audio


class SimDataCollator:
    """Makes a padded batch of rows: `input_values` and `attention_mask`, and `labels` where rows have them.

    A row is a dict with a waveform in `column`, in any form of `as_recording`. Files are read and resampled; samples
    must have the model's rate. All columns except this and `labels` are ignored. Amounts must be floats. Set
    `remove_unused_columns=False` in `TrainingArguments`: otherwise `Trainer` removes the waveforms.

    Args:
        feature_extractor: Checks, scales and pads the waveforms.
        crop_samples: Maximum length of a waveform; longer ones are randomly cropped. `None`, the default, does not
            crop, as evaluation and frame labels require.
        column: Column of the waveforms.

    Raises:
        KeyError: When called: a row has no such column.
        ValueError: `crop_samples` is too short for a frame. When called: there are no rows, the audio has another rate,
            `SimFeatureExtractor` does not accept it, or `labels` are not numbers.

    Example:
        >>> import numpy as np
        >>> from modeling_sim import SimFeatureExtractor
        >>> collate = SimDataCollator(SimFeatureExtractor(), crop_samples=4000)
        >>> rows = [{"audio": np.zeros(length, np.float32), "labels": 1} for length in (8000, 3000)]
        >>> {name: tuple(tensor.shape) for name, tensor in collate(rows).items()}
        {'input_values': (2, 4000), 'attention_mask': (2, 4000), 'labels': (2,)}
    """

    def __init__(
        self,
        feature_extractor: SequenceFeatureExtractor,
        *,
        crop_samples: int | None = None,
        column: str = "audio",
    ) -> None:
        least = getattr(feature_extractor, "min_samples", 1)
        if crop_samples is not None and crop_samples < least:
            raise ValueError(f"`crop_samples` is {crop_samples}; one frame of the model needs {least}.")
        self.feature_extractor, self.crop_samples, self.column = feature_extractor, crop_samples, column

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """A batch of rows; crops are drawn with torch's global generator, which `Trainer` seeds and restores."""
        if not rows:
            raise ValueError("the batch has no rows.")
        if self.column not in rows[0]:
            raise KeyError(
                f"rows have no column {self.column!r} but {', '.join(rows[0]) or 'none'}; set `column` to that of the "
                "waveforms, and `remove_unused_columns=False` in `TrainingArguments`."
            )
        rate = self.feature_extractor.sampling_rate
        batch = self.feature_extractor(  # type: ignore[operator]
            [self._crop(_samples(row[self.column], rate)) for row in rows],
            sampling_rate=rate,
            padding=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        tensors = dict(batch)
        if any("labels" in row for row in rows):
            tensors["labels"] = _stacked([row.get("labels") for row in rows])
        return tensors

    def _crop(self, samples: Any) -> Any:
        if self.crop_samples is None or len(samples) <= self.crop_samples:
            return samples
        extra = len(samples) - self.crop_samples
        start = int(torch.randint(extra + 1, ()))
        return samples[start : start + self.crop_samples]


def _stacked(labels: Sequence[Any]) -> torch.Tensor:
    """Labels of a batch, int64 or float32.

    Missing labels (`None`), and the padding of frame labels, are -100, or NaN in a batch of floats; losses ignore both.
    """
    rows = [np.asarray(label) for label in labels]
    given = [value for row in rows if row.dtype == object for value in row.flat if value is not None]
    kinds = {row.dtype.kind for row in rows if row.size and row.dtype != object}
    kinds |= {np.asarray(given).dtype.kind} if given else set()
    if not kinds <= set("biuf"):
        raise ValueError("`labels` are not numbers; `dataset.class_encode_column` converts names of classes.")
    dtype, missing = (np.float32, np.nan) if "f" in kinds else (np.int64, -100)
    rows = [
        np.array([missing if value is None else value for value in row.flat], dtype).reshape(row.shape)
        if row.dtype == object
        else row.astype(dtype)
        for row in rows
    ]
    lists = [row for row in rows if row.ndim]
    if not lists:
        return torch.from_numpy(np.stack(rows))
    if any(row.ndim == 0 and label is not None for row, label in zip(rows, labels, strict=True)):
        raise ValueError("`labels` are numbers in some rows and lists in others; give the same in all rows.")
    none = np.empty((0, *max((row.shape[1:] for row in lists), key=len)), dtype)
    rows = [row if row.ndim and row.size else none for row in rows]
    longest, more = max(map(len, rows)), [(0, 0)] * (none.ndim - 1)
    padded = [np.pad(row, [(0, longest - len(row)), *more], constant_values=missing) for row in rows]
    return torch.from_numpy(np.stack(padded))


def _samples(audio: Any, rate: int) -> Any:
    """The waveform of a row."""
    recording = as_recording(audio)
    if "array" not in recording:
        return read_audio(recording, sampling_rate=rate)
    own_rate = recording["sampling_rate"]
    if own_rate not in (None, rate):
        raise ValueError(
            f"the audio has `sampling_rate` {own_rate}, but the model reads {rate}: "
            f'`dataset.cast_column("audio", Audio(sampling_rate={rate}))` resamples it.'
        )
    return recording["array"]
