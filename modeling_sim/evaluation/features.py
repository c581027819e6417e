"""Features of a corpus: one vector per labeled frame, per chunk or per utterance."""

import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import Dataset

from modeling_sim.data.audio import AudioError
from modeling_sim.data.batches import utterance_batches
from modeling_sim.data.corpora.alignments import (
    LABEL_HOP,
    LABEL_RATE,
    label_centers,
    num_label_frames,
)
from modeling_sim.data.corpora.contract import IGNORED, is_frame_label
from modeling_sim.data.digests import corpus_fingerprint
from modeling_sim.evaluation.feature_store import FeatureWriter, Items, stored_items
from modeling_sim.evaluation.representations import Representation, TimedFrames
from modeling_sim.text import inner_bar

Pooling = Literal["frame", "chunk", "mean"]


def extract(
    dataset: Dataset,
    representation: Representation,
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
    """Computes features of every labeled frame, chunk or utterance, or reads them from the cache.

    Args:
        dataset: A corpus.
        representation: Makes frames of a batch; see `representations.py`.
        label: A column of classes: one per utterance, or a list with one per 10 ms label frame.
        pooling: "frame": at every `frame_step`-th label frame, the model's frame nearest in time, so that all
            representations are used at the same times. "chunk": the mean over pieces of `chunk_seconds`. "mean": the
            mean over the utterance.
        chunk_seconds: Length of a chunk; the remainder at the end counts if it is at least half as long.
        frame_step: Step between items in label frames. The default is 40 ms, because frames 10 ms apart are nearly
            equal.
        max_items: Approximate number of items to keep, drawn evenly from all utterances; `None` for all.
        seed: Seed of the draw.
        batch_size: Utterances per batch.
        cache_dir: Folder where features are kept, so that they are computed once; see `feature_store.py`.
        description: Label of the progress bar.

    Raises:
        ValueError: `pooling` is not "frame" for a frame label, or the label lacks a class for some label frame.
        AudioError: A recording cannot be read, or changed in the meantime.
    """
    key = {
        "encoder": representation.fingerprint(),
        "extractor": representation.extractor.to_json_string(),
        "corpus": corpus_fingerprint(dataset, "speaker_id", label),
        "label": [label, pooling, chunk_seconds, frame_step, max_items, seed],
        # Samples are drawn batch by batch.
        "batch_size": batch_size,
    }

    # By exact duration, so that the order of items does not depend on the sampling rate of a representation.
    seconds = np.divide(dataset["num_samples"][:], dataset["sampling_rate"][:])
    order = np.argsort(seconds, kind="stable")
    by_duration, seconds = dataset.select(order), seconds[order]

    def write(writer: FeatureWriter) -> None:
        share = 1.0
        if max_items is not None:
            share = max_items / max(max_items, _count(dataset, label, pooling, chunk_seconds, frame_step))
        columns = list(dict.fromkeys([label, *(["speaker_id"] if "speaker_id" in dataset.column_names else [])]))
        extractor = representation.extractor
        batches = utterance_batches(
            by_duration,
            extractor,
            batch_size=batch_size,
            max_samples=batch_size * 20 * extractor.sampling_rate,
            columns=columns,
        )
        for batch in inner_bar(batches, desc=description):
            _write_batch(
                writer,
                batch,
                representation.encode(batch),
                seconds[batch["index"].numpy()],
                label=label,
                pooling=pooling,
                chunk_seconds=chunk_seconds,
                frame_step=frame_step,
                share=share,
                seed=seed,
            )
        if corpus_fingerprint(dataset, "speaker_id", label) != key["corpus"]:
            raise AudioError("recordings changed while their features were computed; run the command again.")

    return stored_items(cache_dir, key, write)


def _count(dataset: Dataset, label: str, pooling: Pooling, chunk_seconds: float, frame_step: int) -> int:
    """Approximate number of items of a data set."""
    if is_frame_label(dataset, label):
        return sum(-(-len(row) // frame_step) for row in dataset[label][:] if row is not None)
    if pooling == "mean":
        return len(dataset)
    seconds = np.divide(dataset["num_samples"][:], dataset["sampling_rate"][:]).sum()
    return int(seconds / (chunk_seconds if pooling == "chunk" else frame_step * LABEL_HOP / LABEL_RATE))


def _write_batch(
    writer: FeatureWriter,
    batch: dict[str, Any],
    frames: dict[str, TimedFrames],
    seconds: np.ndarray,
    *,
    label: str,
    pooling: Pooling,
    chunk_seconds: float,
    frame_step: int,
    share: float,
    seed: int,
) -> None:
    """Writes the items of a batch."""
    for row, columns in enumerate(batch["columns"]):
        value, own_speaker = columns[label], columns.get("speaker_id", 0)
        if value is None or (isinstance(value, int) and value < 0):
            continue
        name = batch["id"][row]
        if isinstance(value, list):
            own, centers, pooled = _at_labels(row, value, frames, seconds[row], name, label, pooling, frame_step)
        else:
            edges = _edges(seconds[row], pooling, chunk_seconds, frame_step)
            own, centers = np.full(len(edges) - 1, value), (edges[:-1] + edges[1:]) / 2
            pooled = {feature: timed.means(row, edges) for feature, timed in frames.items()}
        if share < 1:
            kept = np.random.default_rng([seed, zlib.crc32(name.encode())]).random(len(own)) < share
            own, centers = own[kept], centers[kept]
            pooled = {feature: array[kept] for feature, array in pooled.items()}
        speaker = -1 if own_speaker is None else int(own_speaker)
        shared = {"utterances": np.full(len(own), name), "speakers": np.full(len(own), speaker)}
        writer.add(pooled, labels=own, seconds=centers, **shared)


def _at_labels(
    row: int,
    value: list[int],
    frames: dict[str, TimedFrames],
    seconds: float,
    name: str,
    label: str,
    pooling: Pooling,
    frame_step: int,
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Labels of every `frame_step`-th label frame of an utterance, their seconds, and the frames nearest to them."""
    if pooling != "frame":
        raise ValueError(f"`label` {label!r} has one class per frame; `pooling` must be 'frame'.")
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
    return own, moments, {feature: timed.at(row, moments) for feature, timed in frames.items()}


def _edges(seconds: float, pooling: Pooling, chunk_seconds: float, frame_step: int) -> np.ndarray:
    """Bounds in seconds of the pieces of an utterance."""
    if pooling == "mean":
        return np.array([0.0, seconds])
    length = chunk_seconds if pooling == "chunk" else frame_step * LABEL_HOP / LABEL_RATE
    count = max(1, int(seconds / length + 0.5))
    return np.append(length * np.arange(count), seconds)
