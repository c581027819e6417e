"""Features of a corpus for probes: of modules or of the spectrum, at labelled frames, in chunks or of utterances."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from scipy.fft import dct
from tqdm.auto import tqdm
from transformers import SequenceFeatureExtractor
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from modeling_sim import SimConfig, SimModel
from training.batches import utterance_batches
from training.corpora.alignments import IGNORED, LABEL_HOP, LABEL_RATE, LABEL_WINDOW, label_centers, num_label_frames
from training.corpora.contract import class_label

Pooling = Literal["frame", "chunk", "mean"]
SPECTRAL = ("log-mel", "MFCC")
_NUM_MELS, _NUM_MFCC, _FFT = 80, 13, 512


@dataclass(frozen=True)
class Items:
    """What is classified, the same for all features.

    Args:
        features: By the name of the module or spectrum, `(items, channels)` float32 each.
        labels: `(items,)`.
        utterances: Id of each item's utterance, `(items,)`.
        speakers: Its speaker, `(items,)`.
    """

    features: dict[str, np.ndarray]
    labels: np.ndarray
    utterances: np.ndarray
    speakers: np.ndarray


def label_classes(dataset: Dataset, label: str) -> list[str]:
    """Names of a label's classes.

    Raises:
        ValueError: The corpus has no such column, or it holds no classes; the message lists those that do.
    """
    known = [name for name in dataset.column_names if class_label(dataset, name) is not None]
    feature = class_label(dataset, label) if label in dataset.column_names else None
    if feature is None:
        raise ValueError(f"`label` is {label!r}, which is no column of classes of this corpus; choose of {known}.")
    return list(feature.names)


def extract(
    dataset: Dataset,
    encoder: "Callable[[dict[str, Any]], dict[str, _Frames]]",
    extractor: SequenceFeatureExtractor,
    *,
    label: str,
    pooling: Pooling,
    chunk_seconds: float = 0.5,
    frame_step: int = 4,
    batch_size: int = 8,
    description: str = "features",
) -> Items:
    """Features of every labelled frame, chunk or utterance.

    Args:
        dataset: A corpus.
        encoder: Frames of a batch; see `ModelEncoder` and `spectral_encoder`.
        extractor: Makes padded batches of waveforms.
        label: A column of classes: one an utterance, or a list with one each 10 ms label frame.
        pooling: "frame": at every `frame_step`-th label frame, the model's frame nearest in time, so that all modules
            and spectra are asked about the same moments. "chunk": the mean over pieces of `chunk_seconds`. "mean": the
            mean over the utterance.
        chunk_seconds: Length of a chunk; what is left at the end counts if it is at least half as long.
        frame_step: Label frames from one item to the next: 4 are 40 ms, as frames 10 ms apart are nearly the same.
        batch_size: Utterances a batch.
        description: Word for the progress bar.

    Raises:
        ValueError: A label a frame is asked for of chunks or utterances, or there is not one a label frame.
    """
    has_speakers = "speaker_id" in dataset.column_names
    columns = list(dict.fromkeys([label, *(["speaker_id"] if has_speakers else [])]))
    collected: dict[str, list[np.ndarray]] = {}
    labels: list[np.ndarray] = []
    utterances: list[np.ndarray] = []
    speakers: list[np.ndarray] = []
    batches = utterance_batches(
        dataset, extractor, batch_size=batch_size, max_samples=batch_size * 20 * LABEL_RATE, columns=columns
    )
    for batch in tqdm(batches, desc=description, leave=False):
        frames = encoder(batch)
        values = batch[label].tolist() if isinstance(batch[label], torch.Tensor) else batch[label]
        for row, value in enumerate(values):
            seconds = int(batch["attention_mask"][row].sum()) / extractor.sampling_rate
            if value is None or (isinstance(value, int) and value < 0):
                continue
            if isinstance(value, list):
                if pooling != "frame":
                    raise ValueError(f"`label` {label!r} has one class a frame; `pooling` must be 'frame'.")
                expected = num_label_frames(int(seconds * LABEL_RATE + 0.5))
                if abs(len(value) - expected) > 1:  # an aligner may count one window more or less
                    raise ValueError(
                        f"`label` {label!r} has {len(value)} classes for {batch['id'][row]}, which has {expected} "
                        "label frames of 10 ms; it is not a label of frames, or of another recording."
                    )
                chosen = np.arange(0, len(value), frame_step)
                own = np.asarray(value)[chosen]
                chosen, own = chosen[own != IGNORED], own[own != IGNORED]
                moments = label_centers(len(value))[chosen] / LABEL_RATE
                pooled = {name: of.at(row, moments) for name, of in frames.items()}
            else:
                edges = _edges(seconds, pooling, chunk_seconds, frame_step)
                own = np.full(len(edges) - 1, value)
                pooled = {name: of.means(row, edges) for name, of in frames.items()}
            for name, array in pooled.items():
                collected.setdefault(name, []).append(array)
            labels.append(own)
            utterances.append(np.full(len(own), batch["id"][row]))
            speaker = batch["speaker_id"][row] if has_speakers else 0
            speakers.append(np.full(len(own), int(speaker) if isinstance(speaker, torch.Tensor) else speaker))
    if not labels:
        raise ValueError(f"no utterance of this split has a {label!r}.")
    return Items(
        {name: np.concatenate(arrays) for name, arrays in collected.items()},
        np.concatenate(labels).astype(np.int64),
        np.concatenate(utterances),
        np.concatenate(speakers),
    )


def _edges(seconds: float, pooling: Pooling, chunk_seconds: float, frame_step: int) -> np.ndarray:
    """Bounds in seconds of the pieces of an utterance."""
    if pooling == "mean":
        return np.array([0.0, seconds])
    length = chunk_seconds if pooling == "chunk" else frame_step * LABEL_HOP / LABEL_RATE
    count = max(1, int(seconds / length + 0.5))
    return np.append(length * np.arange(count), seconds)


class _Frames:
    """Frames `(batch, frames, channels)` of a batch, and where they stand in time.

    Args:
        values: Padded frames may hold anything.
        lengths: Real frames of each utterance.
        start: Centre of the first frame, in seconds.
        hop: Seconds from one to the next.
    """

    def __init__(self, values: np.ndarray, lengths: Sequence[int], start: float, hop: float) -> None:
        self.values, self.lengths, self.start, self.hop = values, lengths, start, hop

    def at(self, row: int, moments: np.ndarray) -> np.ndarray:
        """The frames nearest to moments in seconds."""
        index = np.rint((moments - self.start) / self.hop).astype(int)
        return self.values[row, index.clip(0, self.lengths[row] - 1)]

    def means(self, row: int, edges: np.ndarray) -> np.ndarray:
        """Means over the frames between edges in seconds; the nearest frame where none lies between."""
        bounds = np.rint((edges - self.start) / self.hop).astype(int).clip(0, self.lengths[row])
        bounds[0], bounds[-1] = 0, self.lengths[row]
        real = self.values[row, : self.lengths[row]]
        return np.stack(
            [
                real[min(low, len(real) - 1) : max(high, low + 1)].mean(axis=0)
                for low, high in itertools.pairwise(bounds)
            ]
        )


class ModelEncoder:
    """Frames of a model's modules.

    Args:
        model: In evaluation mode.
        modules: Numbers of the modules, the context last.
        sample: Samples of the latents instead of their means.
        seed: Of the samples.
    """

    def __init__(self, model: SimModel, modules: Sequence[int], *, sample: bool = False, seed: int = 0) -> None:
        self.model, self.modules, self.sample = model, list(modules), sample
        self.generator = torch.Generator(model.device).manual_seed(seed)

    @torch.no_grad()
    def __call__(self, batch: dict[str, Any]) -> dict[str, _Frames]:
        """Frames of each module, by its name."""
        model, config = self.model, self.model.config
        mask = batch["attention_mask"]
        outputs = model(
            batch["input_values"].to(model.device),
            None if bool(mask.all()) else mask.to(model.device),
            sample=self.sample,
            generator=self.generator,
            output_hidden_states=True,
        )
        samples = mask.sum(dim=1)
        return {
            config.module_names[module]: _Frames(
                outputs.hidden_states[module].float().cpu().numpy(),
                config.num_frames(samples, module).tolist(),
                float(config.frame_centers(1, module)[0]) / config.sampling_rate,
                config.hop_length(module) / config.sampling_rate,
            )
            for module in self.modules
        }


def spectral_encoder(batch: dict[str, Any]) -> dict[str, _Frames]:
    """Log-mel energies (80 bands) and 13 MFCCs of the label frames' windows: 25 ms every 10 ms, at 16 kHz."""
    window, filters = _spectrum()
    frames: dict[str, list[np.ndarray]] = {name: [] for name in SPECTRAL}
    for samples, mask in zip(batch["input_values"], batch["attention_mask"], strict=True):
        waveform = samples[mask != 0].numpy()
        waveform = np.pad(waveform, (0, max(0, LABEL_WINDOW - len(waveform))))
        mel = spectrogram(
            waveform, window, LABEL_WINDOW, LABEL_HOP, fft_length=_FFT, power=2.0, center=False, mel_filters=filters,
            mel_floor=1e-10, log_mel="log",
        ).T.astype(np.float32)  # fmt: skip
        frames["log-mel"].append(mel)
        frames["MFCC"].append(dct(mel, type=2, norm="ortho", axis=1)[:, :_NUM_MFCC])
    lengths = [len(mel) for mel in frames["log-mel"]]
    return {
        name: _Frames(
            np.stack([np.pad(array, ((0, max(lengths) - len(array)), (0, 0))) for array in arrays]),
            lengths,
            LABEL_WINDOW / 2 / LABEL_RATE,
            LABEL_HOP / LABEL_RATE,
        )
        for name, arrays in frames.items()
    }


@lru_cache(maxsize=1)
def _spectrum() -> tuple[np.ndarray, np.ndarray]:
    """Window and mel filters."""
    window = window_function(LABEL_WINDOW, "hann", periodic=True)
    return window, mel_filter_bank(
        _FFT // 2 + 1, _NUM_MELS, 0.0, LABEL_RATE / 2, LABEL_RATE, mel_scale="slaney", norm="slaney"
    )


def module_numbers(config: SimConfig, modules: str) -> list[int]:
    """Modules that a flag names: "all", or numbers and "context" with commas between.

    Raises:
        ValueError: There is no such module.
    """
    if modules == "all":
        return list(range(config.num_modules))
    names = {str(module): module for module in range(config.num_modules)}
    if config.context_size:
        names["context"] = config.num_modules - 1
    wanted = [name.strip() for name in modules.split(",")]
    for name in wanted:
        if name not in names:
            raise ValueError(f"`modules` names {name!r}; this model has {', '.join(names)}, or give 'all'.")
    return [names[name] for name in wanted]
