"""Features of a corpus for probes: of modules or of the spectrum, at labelled frames, in chunks or of utterances."""

import itertools
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from scipy.fft import dct
from tqdm.auto import tqdm
from transformers import SequenceFeatureExtractor
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from modeling_sim import SimModel
from modeling_sim.data.audio import AudioError
from modeling_sim.data.batches import utterance_batches
from modeling_sim.data.corpora.alignments import (
    IGNORED,
    LABEL_HOP,
    LABEL_RATE,
    LABEL_WINDOW,
    label_centers,
    num_label_frames,
)
from modeling_sim.data.corpora.contract import is_frame_label
from modeling_sim.evaluation.feature_store import FeatureWriter, Items, corpus_fingerprint, stored_items
from modeling_sim.provenance import model_fingerprint

Pooling = Literal["frame", "chunk", "mean"]


SPECTRAL = ("log-mel", "MFCC")


_NUM_MELS, _NUM_MFCC, _FFT = 80, 13, 512


def extract(
    dataset: Dataset,
    encoder: "Encoder",
    extractor: SequenceFeatureExtractor,
    *,
    label: str,
    pooling: Pooling,
    chunk_seconds: float = 0.5,
    frame_step: int = 4,
    max_items: int | None = None,
    seed: int = 0,
    batch_size: int = 8,
    cache_dir: Path,
    description: str = "features",
) -> Items:
    """Features of every labelled frame, chunk or utterance.

    Args:
        dataset: A corpus.
        encoder: Frames of a batch; see `ModelEncoder` and `SpectralEncoder`.
        extractor: Makes padded batches of waveforms.
        label: A column of classes: one an utterance, or a list with one each 10 ms label frame.
        pooling: "frame": at every `frame_step`-th label frame, the model's frame nearest in time, so that all modules
            and spectra are asked about the same moments. "chunk": the mean over pieces of `chunk_seconds`. "mean": the
            mean over the utterance.
        chunk_seconds: Length of a chunk; what is left at the end counts if it is at least half as long.
        frame_step: Label frames from one item to the next: 4 are 40 ms, as frames 10 ms apart are nearly the same.
        max_items: About how many items to keep, drawn evenly from all utterances; `None` for all.
        seed: Of the draw.
        batch_size: Utterances a batch.
        cache_dir: Where features are kept, so that they are made once; see `feature_store.py`.
        description: Word for the progress bar.

    Raises:
        ValueError: A label a frame is asked for of chunks or utterances, or there is not one a label frame.
        AudioError: A recording cannot be read, or changed while it was.
    """
    key = {
        "encoder": encoder.fingerprint(),
        "extractor": extractor.to_json_string(),
        "corpus": corpus_fingerprint(dataset, label),
        "label": [label, pooling, chunk_seconds, frame_step, max_items, seed],
        # Samples are drawn batch by batch.
        "batch_size": batch_size,
    }

    def write(writer: FeatureWriter) -> None:
        share = 1.0
        if max_items is not None:
            share = max_items / max(max_items, _count(dataset, label, pooling, chunk_seconds, frame_step))
        batches = _labelled_batches(dataset, extractor, label=label, batch_size=batch_size)
        for batch in tqdm(batches, desc=description, leave=False):
            _write_batch(
                writer, batch, encoder(batch), label=label, pooling=pooling, chunk_seconds=chunk_seconds,
                frame_step=frame_step, sampling_rate=extractor.sampling_rate, share=share, seed=seed,
            )  # fmt: skip
        if corpus_fingerprint(dataset, label) != key["corpus"]:
            raise AudioError("recordings changed while features were made of them; run the command again.")

    return stored_items(cache_dir, key, write)


def _labelled_batches(dataset: Dataset, extractor: SequenceFeatureExtractor, *, label: str, batch_size: int) -> Any:
    """Batches of whole utterances with their label and speaker."""
    columns = list(dict.fromkeys([label, *(["speaker_id"] if "speaker_id" in dataset.column_names else [])]))
    return utterance_batches(
        dataset, extractor, batch_size=batch_size, max_samples=batch_size * 20 * LABEL_RATE, columns=columns
    )


def _count(dataset: Dataset, label: str, pooling: Pooling, chunk_seconds: float, frame_step: int) -> int:
    """About how many items a data set has."""
    if is_frame_label(dataset, label):
        return sum(-(-len(row) // frame_step) for row in dataset[label][:] if row is not None)
    if pooling == "mean":
        return len(dataset)
    seconds = np.divide(dataset["num_samples"][:], dataset["sampling_rate"][:]).sum()
    return int(seconds / (chunk_seconds if pooling == "chunk" else frame_step * LABEL_HOP / LABEL_RATE))


def _write_batch(
    writer: FeatureWriter,
    batch: dict[str, Any],
    frames: "dict[str, _Frames]",
    *,
    label: str,
    pooling: Pooling,
    chunk_seconds: float,
    frame_step: int,
    sampling_rate: int,
    share: float,
    seed: int,
) -> None:
    """Writes the items of a batch."""
    for row, columns in enumerate(batch["columns"]):
        value, own_speaker = columns[label], columns.get("speaker_id", 0)
        if value is None or (isinstance(value, int) and value < 0):
            continue
        seconds = int(batch["attention_mask"][row].sum()) / sampling_rate
        name = batch["id"][row]
        if isinstance(value, list):
            own, pooled = _at_labels(row, value, frames, seconds, name, label, pooling, frame_step)
        else:
            edges = _edges(seconds, pooling, chunk_seconds, frame_step)
            own = np.full(len(edges) - 1, value)
            pooled = {feature: of.means(row, edges) for feature, of in frames.items()}
        if share < 1:
            kept = np.random.default_rng([seed, zlib.crc32(name.encode())]).random(len(own)) < share
            own, pooled = own[kept], {feature: array[kept] for feature, array in pooled.items()}
        speaker = -1 if own_speaker is None else int(own_speaker)
        writer.add(pooled, own, np.full(len(own), name), np.full(len(own), speaker))


def _at_labels(
    row: int,
    value: list[int],
    frames: "dict[str, _Frames]",
    seconds: float,
    name: str,
    label: str,
    pooling: Pooling,
    frame_step: int,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Labels of every `frame_step`-th label frame of an utterance, and the model's frames nearest to them."""
    if pooling != "frame":
        raise ValueError(f"`label` {label!r} has one class a frame; `pooling` must be 'frame'.")
    expected = num_label_frames(int(seconds * LABEL_RATE + 0.5))
    if abs(len(value) - expected) > 1:  # an aligner may count one window more or less
        raise ValueError(
            f"`label` {label!r} has {len(value)} classes for {name}, which has {expected} label frames of 10 ms; it is "
            "not a label of frames, or of another recording."
        )
    chosen = np.arange(0, len(value), frame_step)
    own = np.asarray(value)[chosen]
    chosen, own = chosen[own != IGNORED], own[own != IGNORED]
    moments = label_centers(len(value))[chosen] / LABEL_RATE
    return own, {feature: of.at(row, moments) for feature, of in frames.items()}


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
        self.model, self.modules, self.sample, self.seed = model, list(modules), sample, seed

    def _generator(self, utterance: str) -> torch.Generator:
        """Noise of a batch, by its first utterance: the same whatever was encoded before."""
        state = np.random.SeedSequence([self.seed, zlib.crc32(utterance.encode())]).generate_state(1, np.uint64)[0]
        return torch.Generator(self.model.device).manual_seed(int(state >> 1))

    def fingerprint(self) -> Any:
        """All that the frames depend on beside the audio."""
        return [model_fingerprint(self.model), self.modules, self.sample, self.seed if self.sample else None]

    @torch.no_grad()
    def __call__(self, batch: dict[str, Any]) -> dict[str, _Frames]:
        """Frames of each module, by its name."""
        model, config = self.model, self.model.config
        mask = batch["attention_mask"]
        outputs = model(
            batch["input_values"].to(model.device),
            None if bool(mask.all()) else mask.to(model.device),
            sample=self.sample,
            generator=self._generator(batch["id"][0]) if self.sample else None,
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


class SpectralEncoder:
    """Log-mel energies (80 bands) and 13 MFCCs of the label frames' windows: 25 ms every 10 ms, at 16 kHz."""

    def fingerprint(self) -> Any:
        """All that the frames depend on beside the audio."""
        return ["spectra", _NUM_MELS, _NUM_MFCC, _FFT, LABEL_WINDOW, LABEL_HOP]

    def __call__(self, batch: dict[str, Any]) -> dict[str, _Frames]:
        """Frames of both, by name."""
        window, filters = _spectrum()
        frames: dict[str, list[np.ndarray]] = {name: [] for name in SPECTRAL}
        for samples, mask in zip(batch["input_values"], batch["attention_mask"], strict=True):
            waveform = samples[mask != 0].numpy()
            waveform = np.pad(waveform, (0, max(0, LABEL_WINDOW - len(waveform))))
            mel = spectrogram(
                waveform, window, LABEL_WINDOW, LABEL_HOP, fft_length=_FFT, power=2.0, center=False,
                mel_filters=filters, mel_floor=1e-10, log_mel="log",
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


Encoder = ModelEncoder | SpectralEncoder


@lru_cache(maxsize=1)
def _spectrum() -> tuple[np.ndarray, np.ndarray]:
    """Window and mel filters."""
    window = window_function(LABEL_WINDOW, "hann", periodic=True)
    return window, mel_filter_bank(
        _FFT // 2 + 1, _NUM_MELS, 0.0, LABEL_RATE / 2, LABEL_RATE, mel_scale="slaney", norm="slaney"
    )
