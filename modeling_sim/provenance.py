"""Provenance of a result: package versions, commit of the checkout, hardware, data."""

import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset, IterableDataset
from transformers import PreTrainedConfig, PreTrainedModel

from modeling_sim.data.corpora import corpus_info
from modeling_sim.data.corpora.overlap import named_speakers


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for package in ("modeling_sim", "torch", "transformers", "datasets", "accelerate", "numpy", "soundfile", "soxr"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def own_settings(config: PreTrainedConfig) -> dict[str, Any]:
    """The fields of a configuration's own class, which define the model, without paths and versions."""
    return {name: value for name, value in config.to_dict().items() if name in type(config).__annotations__}


def hub_dataset(corpus: str, data_dir: str | None, corpus_settings: Mapping[str, Any]) -> str | None:
    """Hub id of the data set that a corpus is read from; `None` for a folder or for generated speech.

    Call it on the machine with the data, where "a/b" may be a folder; elsewhere it looks like an id.
    """
    given = corpus_settings.get("dataset_id", corpus_info(corpus).hub_id)
    return None if data_dir is not None or given is None else hub_id(str(given))


def hub_id(name: str | None) -> str | None:
    """The name, if it looks like a Hub id, org/name, and is not a local folder; else `None`."""
    if name is None or not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name):
        return None
    return name if not os.path.exists(name) else None  # noqa: PTH110 - takes a name of any length


def hours(dataset: Dataset | IterableDataset) -> float | None:
    """Hours of speech of a data set; `None` for a stream, whose length is unknown."""
    if isinstance(dataset, IterableDataset):
        return None
    seconds = np.asarray(dataset["num_samples"][:]) / np.asarray(dataset["sampling_rate"][:])
    return round(float(seconds.sum()) / 3600, 4)


def held_out_speakers(train: Dataset | IterableDataset, test: Dataset) -> dict[str, int] | None:
    """Number of held-out speakers, and of those also in the training split; `None` if speakers are unknown."""
    if isinstance(train, IterableDataset):
        return None
    trained_on, held_out = named_speakers(train), named_speakers(test)
    if not (trained_on and held_out):
        return None
    return {"speakers": len(held_out), "heard_in_training": len(held_out & trained_on)}


def hardware(accelerator: Accelerator) -> dict[str, Any]:
    """Hardware of a run: device, number of processes, threads per process, cores of the machine."""
    device = accelerator.device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }


def git_revision() -> str | None:
    """Commit of the checkout, with "+changes" if tracked files differ from it; `None` outside a checkout."""
    root = Path(__file__).resolve().parents[1]
    if not (root / "pyproject.toml").is_file():  # an installed package, perhaps in the checkout of another project
        return None
    try:
        revision = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607 - the user's git
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],  # noqa: S607
            cwd=root,
            capture_output=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return revision + ("+changes" if changed else "")


def model_fingerprint(model: PreTrainedModel) -> str:
    """Digest of a model's weights and of its configuration's own fields, which determine its features.

    It excludes the path that a model was loaded from and the version of transformers, which a configuration also has.
    """
    return _digest(model, json.dumps(own_settings(model.config), sort_keys=True))


def weights_fingerprint(model: PreTrainedModel) -> str:
    """Digest of a model's weights, by which decoders and results identify their encoder."""
    return _digest(model, "")


def _digest(model: PreTrainedModel, text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
