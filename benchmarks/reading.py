"""Speed of reading speech: a crop compared with the complete file, and crops per second with worker processes."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import SequenceFeatureExtractor

from modeling_sim.data.audio import read_audio, read_header
from modeling_sim.data.batches import crop_batches

_RATE = 16_000


def crop_against_file(audio: dict[str, Any], *, crop_samples: int = 20_480, repeats: int = 50) -> dict[str, float]:
    """Time to read one random crop, and the complete recording, with a warm disk cache.

    Args:
        audio: The recording, as in the column `audio`.
        crop_samples: Length of a crop, in samples at 16 kHz.
        repeats: Number of repetitions; medians are returned, on which other programs have little effect.

    Returns:
        `file_seconds` (its length), `crop_milliseconds`, `file_milliseconds`, and `share`, the first time
        divided by the second.
    """
    header = read_header(audio)
    length = len(read_audio(audio, sampling_rate=_RATE))
    starts = np.random.default_rng(0).integers(max(1, length - crop_samples), size=repeats)
    crop = _median_seconds(
        [
            lambda start=int(start): read_audio(audio, start=start, num_samples=crop_samples, sampling_rate=_RATE)
            for start in starts
        ]
    )
    file = _median_seconds([lambda: read_audio(audio, sampling_rate=_RATE)] * repeats)
    return {
        "file_seconds": header.num_samples / header.sampling_rate,
        "crop_milliseconds": 1000 * crop,
        "file_milliseconds": 1000 * file,
        "share": crop / file,
    }


def crops_per_second(
    dataset: Dataset,
    feature_extractor: SequenceFeatureExtractor,
    *,
    crop_samples: int = 20_480,
    batch_size: int = 8,
    num_workers: int = 0,
    num_batches: int = 100,
    keep_in_memory: bool = False,
    seed: int = 0,
) -> float:
    """Crops per second of a loader, including reading, resampling and collating.

    The first batch, which starts the workers, is not timed; with `keep_in_memory` the first epoch, which decodes, is
    not timed.

    Args:
        dataset: A corpus.
        feature_extractor: See `crop_batches`.
        crop_samples: See `crop_batches`.
        batch_size: See `crop_batches`.
        num_workers: See `crop_batches`.
        num_batches: Number of batches to time.
        keep_in_memory: See `crop_batches`.
        seed: See `crop_batches`.
    """
    batches = iter(
        crop_batches(
            dataset,
            feature_extractor,
            crop_samples=crop_samples,
            batch_size=batch_size,
            seed=seed,
            num_workers=num_workers,
            keep_in_memory=keep_in_memory,
        )
    )
    for _ in range(-(-len(dataset) // batch_size) if keep_in_memory else 1):
        next(batches)
    begin = time.perf_counter()
    for _ in range(num_batches):
        next(batches)
    return num_batches * batch_size / (time.perf_counter() - begin)


def _median_seconds(calls: list[Callable[[], Any]]) -> float:
    seconds = []
    for call in calls:
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))
