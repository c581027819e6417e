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
    must have the model's rate. All other columns but `labels` are ignored. Give `Trainer` the setting
    `remove_unused_columns=False`: it would remove the waveforms.

    Args:
        feature_extractor: Checks, scales and pads the waveforms.
        crop_samples: Longest waveform; a random part is taken of longer ones. `None`, the default, takes all, as
            evaluation and labels of frames need it.
        column: Column of the waveforms.

    Raises:
        KeyError: On a call: a row has no such column.
        ValueError: `crop_samples` is too short for a frame. On a call: the audio has another rate, or is not what
            `SimFeatureExtractor` takes.

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
            raise ValueError(f"`crop_samples` is {crop_samples}; one frame of the model sees {least}.")
        self.feature_extractor, self.crop_samples, self.column = feature_extractor, crop_samples, column

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """A batch of rows; crops are drawn from torch's random numbers, which `Trainer` seeds and restores."""
        if self.column not in rows[0]:
            raise KeyError(
                f"rows have no column {self.column!r} but {', '.join(rows[0]) or 'none'}; name the waveforms' with "
                "`column`, and give `Trainer` the setting `remove_unused_columns=False`."
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
        if "labels" in rows[0]:
            tensors["labels"] = _stacked([np.asarray(row["labels"]) for row in rows])
        return tensors

    def _crop(self, samples: Any) -> Any:
        if self.crop_samples is None or len(samples) <= self.crop_samples:
            return samples
        extra = len(samples) - self.crop_samples
        start = int(torch.randint(extra + 1, ()))
        return samples[start : start + self.crop_samples]


def _stacked(labels: Sequence[np.ndarray]) -> torch.Tensor:
    """Labels of a batch; those of frames end with -100 where an utterance is shorter than the longest."""
    if labels[0].ndim == 0:
        return torch.from_numpy(np.stack(labels))
    longest, more = max(map(len, labels)), [(0, 0)] * (labels[0].ndim - 1)
    padded = [np.pad(label, [(0, longest - len(label)), *more], constant_values=-100) for label in labels]
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
