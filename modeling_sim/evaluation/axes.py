"""Other axes of representations: found on training utterances, applied to features, saved to a file.

Example:
    >>> from modeling_sim.evaluation.axes import load_axes
    >>> transform = load_axes("runs/evaluation/axes.safetensors")["sim-small + SOBI, module 2"]  # doctest: +SKIP
    >>> components = transform.apply(frames)  # (frames, channels) to (frames, components)  # doctest: +SKIP
"""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm.auto import tqdm

from modeling_sim.analysis import (
    FrameMoments,
    LinearTransform,
    independent_components,
    principal_components,
    slow_features,
    temporal_components,
)
from modeling_sim.analysis.axes.transforms import LAGS
from modeling_sim.analysis.scorecard import features_name
from modeling_sim.data.batches import utterance_batches
from modeling_sim.evaluation.cache import Analysis
from modeling_sim.evaluation.representations import Representation, TimedFrames
from modeling_sim.evaluation.settings import AXES
from modeling_sim.evaluation.task import LabelTask
from modeling_sim.files import replacing
from modeling_sim.text import inner_bar

AXES_NAME = "axes.safetensors"
"""File of axes, in the results of an evaluation and next to the weights of a checkpoint."""

# Key of the file's metadata, a single one for all facts: safetensors writes several keys in random order.
_META = "modeling_sim"

# Bytes after the 8 bytes of the header's length.
_START = f'{{"__metadata__":{{"{_META}":'.encode()

# Number of frames of a feature for finding independent components.
_DRAWN_FRAMES = 10_000

# Components with less variation than this, relative to the largest one, are only rounding errors.
_NO_VARIATION = 1e-3


def fit_axes(analysis: Analysis, task: LabelTask, representation: Representation, axes: Sequence[str]) -> None:
    """Adds a transform for each feature and name of `AXES`, found on training utterances, to `analysis.transforms`.

    Axes that cannot be found, for example because utterances are shorter than a lag, are skipped with a message.
    """
    arguments = task.arguments
    dataset = drawn_utterances(task.splits["train"], arguments.axes_minutes * 60, arguments.seed)
    moments, drawn = frame_moments(dataset, representation, arguments.batch_size, draw="independent" in axes)
    for feature, place in representation.places().items():
        for name in axes:
            in_axes = place_in_axes(place, name)
            features = features_name(in_axes["representation"], in_axes["module"])
            try:
                transform = find_axes(name, moments[feature], drawn.get(feature, []), arguments.seed)
            except ValueError as error:
                tqdm.write(f"{features} is skipped: {error}")
            else:
                analysis.transforms[features] = transform


def place_in_axes(place: Mapping[str, str], axes: str) -> dict[str, str]:
    """Place in results of a feature in other axes; `axes` is a name of `AXES`."""
    return {**place, **{name: f"{place[name]} + {AXES[axes]}" for name in ("kind", "representation")}}


def find_axes(axes: str, moments: FrameMoments, drawn: Sequence[np.ndarray] = (), seed: int = 0) -> LinearTransform:
    """The transform to the axes with a name of `AXES`, without components that are only rounding errors.

    Args:
        axes: The name.
        moments: Moments of the feature's frames; see `frame_moments`.
        drawn: Frames, needed for "independent".
        seed: Seed of independent components.

    Raises:
        ValueError: The axes cannot be found, for example because utterances are shorter than a lag.
    """
    if axes == "independent":
        from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415 - of the extra `analysis`

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # still a good control
            found = independent_components(np.concatenate(drawn), max_frames=_DRAWN_FRAMES, seed=seed)
    elif axes == "principal":
        found = principal_components(moments)
    else:
        find = {"temporal": temporal_components, "slow": slow_features}[axes]
        found = find(moments, complete=True)
    deviations = (found.matrix * (moments.covariance() @ found.matrix)).sum(dim=0).clamp(min=0).sqrt()
    kept = deviations > _NO_VARIATION * deviations.max()
    # Half the size on disk; distances between components stay exact to six digits.
    return LinearTransform(found.matrix[:, kept].float(), found.inverse[kept].float(), found.center.float())


def drawn_utterances(dataset: Dataset, seconds: float, seed: int) -> Dataset:
    """Random utterances, at least one, with about `seconds` in total, in the order of the data set."""
    lengths = np.divide(dataset["num_samples"][:], dataset["sampling_rate"][:])
    order = np.random.default_rng(seed).permutation(len(dataset))
    count = 1 + int(np.searchsorted(np.cumsum(lengths[order]), seconds))
    return dataset.select(np.sort(order[:count]))


def frame_moments(
    dataset: Dataset,
    representation: Representation,
    batch_size: int,
    *,
    draw: bool = False,
    seconds: Sequence[float] = (),
) -> tuple[dict[str, FrameMoments], dict[str, list[np.ndarray]]]:
    """Moments of the frames of each feature, by its name, and about 10,000 frames of each if `draw`.

    Args:
        dataset: Utterances.
        representation: Makes the frames.
        batch_size: Utterances per batch.
        draw: Return frames for independent components.
        seconds: Further lags of the moments in seconds, in addition to `LAGS`.
    """
    moments: dict[str, FrameMoments] = {}
    drawn: dict[str, list[np.ndarray]] = {}
    most = -(-_DRAWN_FRAMES // len(dataset))
    for feature, hop, utterances in _utterances(dataset, representation, batch_size):
        if feature not in moments:
            moments[feature] = FrameMoments([*LAGS, *(max(1, round(lag / hop)) for lag in seconds)])
        moments[feature].add(np.concatenate(utterances), [len(utterance) for utterance in utterances])
        for utterance in utterances if draw else []:
            drawn.setdefault(feature, []).append(utterance[:: max(1, len(utterance) // most)])
    return moments, drawn


def _utterances(
    dataset: Dataset, representation: Representation, batch_size: int
) -> Iterator[tuple[str, float, list[np.ndarray]]]:
    """Name, hop and frames of each feature of a batch, without the digital silence around utterances.

    Long recordings are cut, as all frames of all modules of an hour take gigabytes.
    """
    extractor = representation.extractor
    most = batch_size * 20 * extractor.sampling_rate
    batches = utterance_batches(dataset, extractor, batch_size=batch_size, max_samples=most, cut=True)
    for batch in inner_bar(batches, desc=f"axes of {representation.name}"):
        sounding = [np.flatnonzero(samples.numpy()) for samples in batch["input_values"]]
        for feature, timed in representation.encode(batch).items():
            found = [_sounding(timed, row, at / extractor.sampling_rate) for row, at in enumerate(sounding)]
            found = [utterance for utterance in found if len(utterance)]
            if found:
                yield feature, timed.hop, found


def _sounding(timed: TimedFrames, row: int, seconds: np.ndarray) -> np.ndarray:
    """Frames whose centers are between the first and the last of some times."""
    frames = timed.values[row, : timed.lengths[row]]
    if not len(seconds):
        return frames[:0]
    first, last = np.rint((seconds[[0, -1]] - timed.start) / timed.hop).astype(int)
    return frames[max(0, first) : max(0, last) + 1]


def save_axes(
    path: str | Path, transforms: Mapping[str, LinearTransform], facts: Mapping[str, Any] | None = None
) -> None:
    """Writes transforms by name to one safetensors file, with facts about them as JSON in its metadata."""
    tensors = {
        f"{name}.{part}": tensor.contiguous()
        for name, transform in transforms.items()
        for part, tensor in vars(transform).items()
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, None if facts is None else {_META: json.dumps(facts)})


def starts_like_axes(path: str | Path) -> bool:
    """Whether a file starts like one written by `save_axes` with facts, even if the rest is damaged, or is empty."""
    with Path(path).open("rb") as file:
        start = file.read(8 + len(_START))
    return not start or start[8:] == _START


def load_axes(path: str | Path) -> dict[str, LinearTransform]:
    """Transforms that `save_axes` wrote, by the name of the resulting features, as in results.

    Raises:
        ValueError: The file is damaged, or `save_axes` did not write it.
    """
    return read_axes(path)[0]


def read_axes(path: str | Path) -> tuple[dict[str, LinearTransform], dict[str, Any]]:
    """Transforms that `save_axes` wrote, and the facts about them; raises like `load_axes`."""
    parts: dict[str, dict[str, Any]] = {}
    try:
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118 - the file has no other iterator
                name, part = key.rsplit(".", 1)
                parts.setdefault(name, {})[part] = file.get_tensor(key)
            facts: dict[str, Any] = dict(json.loads((file.metadata() or {}).get(_META, "{}")))
        return {name: LinearTransform(**found) for name, found in parts.items()}, facts
    except (SafetensorError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged, or not a file of axes ({error}).") from error
