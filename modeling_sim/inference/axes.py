"""Temporal axes of a checkpoint: found once without labels, and saved in a file next to the weights."""

import shlex
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset
from transformers.utils.hub import cached_file

from modeling_sim import SimModel
from modeling_sim.analysis import LinearTransform
from modeling_sim.analysis.axes.transforms import lag_profiles
from modeling_sim.evaluation.axes import AXES_NAME, drawn_utterances, find_axes, frame_moments, read_axes
from modeling_sim.evaluation.representations import SimModules
from modeling_sim.inference.embedding import say_resampled
from modeling_sim.provenance import weights_fingerprint
from modeling_sim.text import counted, in_one_line, say

SCHEMA = 1
"""Version of the facts in the file; incremented when one changes its meaning."""


class ModuleAxes(NamedTuple):
    """Temporal components of a module.

    Args:
        transform: Transform from frames of the module to components, sorted as in `temporal_components`: most
            predictable first.
        lags: Lags in seconds.
        autocorrelations: `(components, lags)`.
    """

    transform: LinearTransform
    lags: list[float]
    autocorrelations: np.ndarray


def find_temporal_axes(
    model: SimModel,
    feature_extractor: Any,
    dataset: Dataset,
    *,
    data: str,
    minutes: float = 20.0,
    batch_size: int = 8,
    seed: int = 0,
) -> tuple[dict[str, ModuleAxes], dict[str, Any]]:
    """Temporal components of each module, by its name, on recordings without labels, and facts for `save_axes`.

    Args:
        model: The encoder, in evaluation mode.
        feature_extractor: Feature extractor of the model.
        dataset: Recordings, with the columns of a corpus.
        data: Name of the recordings, without paths; it appears on cards.
        minutes: Approximate minutes of recordings to draw.
        batch_size: Recordings per batch.
        seed: Seed of the draw.

    Raises:
        ValueError: `minutes` are not positive, or the number of frames of a module does not exceed the number of its
            dimensions.
    """
    if not minutes > 0:  # NaN as well
        raise ValueError(f"`minutes` is {minutes}; it must be above 0.")
    drawn = drawn_utterances(dataset, minutes * 60, seed) if len(dataset) else dataset
    say_resampled(drawn["sampling_rate"][:], model.config.sampling_rate)
    config, of = model.config, SimModules("the model", model, feature_extractor)
    moments = frame_moments(drawn, of, batch_size)[0] if len(drawn) else {}
    found = {}
    for module, name in enumerate(config.module_names):
        dims = config.num_channels(module)
        frames = moments[name].count if name in moments else 0
        if frames <= dims:
            raise ValueError(
                f"`data` has {frames} frames of {name} that are not silent, which are too few for its {dims} "
                "dimensions; give more recordings."
            )
        transform = find_axes("temporal", moments[name])
        if (kept := transform.matrix.shape[1]) < dims / 2:
            say(
                f"warning: {name} has only {counted(kept, 'component')} for its {dims} dimensions, as the frames of "
                "`data` hardly vary in the other directions; give more varied recordings"
            )
        lags, profiles = lag_profiles(moments[name], transform)
        found[name] = ModuleAxes(transform, [lag / config.frame_rate(module) for lag in lags], profiles)
    seconds = float(np.divide(drawn["num_samples"][:], drawn["sampling_rate"][:]).sum())
    return found, {
        "schema": SCHEMA,
        "encoder_fingerprint": weights_fingerprint(model),
        "data": data,
        "minutes": round(seconds / 60, 3),
    }


def read_temporal_axes(
    folder: str, fingerprint: str, *, model: str | None = None
) -> tuple[dict[str, LinearTransform], dict[str, Any]]:
    """Transforms by the name of the module, and facts about them, from a checkpoint or another folder.

    Args:
        folder: The folder, or Hub id of the checkpoint.
        fingerprint: `weights_fingerprint` of the encoder that the axes must belong to.
        model: Folder or Hub id of this encoder, for error messages; by default `folder`.

    Raises:
        FileNotFoundError: The checkpoint has no file of axes.
        ValueError: The file is damaged, or its axes were found for other weights.
    """
    model = folder if model is None else model
    path, problem = None, ""
    try:
        path = cached_file(folder, AXES_NAME, _raise_exceptions_for_missing_entries=False)
    except OSError as error:  # of the Hub
        problem = f" ({in_one_line(error)})"
    if path is None:
        raise FileNotFoundError(f"{folder} has no {AXES_NAME}{problem}; {_remedy(folder, model)}")
    remedy = _remedy(folder, model, replace=True)
    try:
        transforms, facts = read_axes(path)
    except ValueError as error:
        raise ValueError(f"{error} To find axes again, {remedy}") from error
    if facts.get("schema", SCHEMA) != SCHEMA:
        raise ValueError(
            f"{path} has `schema` {facts['schema']!r}, but this version of modeling_sim reads {SCHEMA}; update the "
            f"package, or {remedy}"
        )
    if facts.get("encoder_fingerprint") != fingerprint:
        raise ValueError(f"{path} has axes for other weights; {remedy}")
    return transforms, facts


def _remedy(folder: str, model: str, *, replace: bool = False) -> str:
    """The end of an error message: the command that finds axes of `model`, in its own folder if that is `folder`."""
    model = model or "MODEL"
    command = shlex.join(["modeling-sim", "axes", model, "DATA"])
    # Another folder may contain the axes of its own model; a repository on the Hub is read-only.
    if not Path(folder).is_dir() or Path(folder).resolve() != Path(model).resolve():
        return f"run `{command} --output_dir FOLDER` and give FOLDER, a new folder, as `axes`."
    return f"run `{command}{' --overwrite_output_dir' if replace else ''}`."
