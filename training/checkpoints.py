"""Checkpoints that a run resumes from: whole or absent, checked before use, the newest few kept.

A checkpoint is a folder `checkpoint-STEP` in the output folder: the model as `from_pretrained` reads it, `trainer.pt`
with the optimiser's and the other tensors of the run, and `trainer_state.json` with its numbers and a digest of every
file. There are no states of random generators: everything random is keyed by seed, step and module.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel, SequenceFeatureExtractor

from training.files import write_json

_PREFIX = "checkpoint-"
_STATE_NAME = "trainer_state.json"
_TENSORS_NAME = "trainer.pt"


class Checkpoint(NamedTuple):
    """A checkpoint whose files are all there and as they were written."""

    path: Path
    numbers: dict[str, Any]
    """What the run put in: step, position in the data, settings, ..."""

    def load_model(self, model: PreTrainedModel) -> None:
        """Puts the weights and buffers into a model of the same configuration."""
        model.load_state_dict(load_file(self.path / "model.safetensors"))

    def load_tensors(self) -> dict[str, Any]:
        """States of the optimiser and the like, on the CPU."""
        return torch.load(self.path / _TENSORS_NAME, map_location="cpu", weights_only=True)


def save_model(model: PreTrainedModel, extractor: SequenceFeatureExtractor, folder: Path) -> None:
    """Writes what `from_pretrained` reads: weights, configurations and the code to load them without this package."""
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)


def save_checkpoint(
    output_dir: Path,
    model: PreTrainedModel,
    extractor: SequenceFeatureExtractor,
    *,
    step: int,
    numbers: dict[str, Any],
    tensors: dict[str, Any],
    limit: int,
) -> Path:
    """Writes a checkpoint beside its place, moves it there, and then removes all but the newest `limit`.

    Raises:
        OSError: The disk is full or the folder cannot be written; the checkpoints before are as they were.
    """
    path = output_dir / f"{_PREFIX}{step}"
    temporary = output_dir / f".{path.name}.{os.getpid()}"
    try:
        temporary.mkdir()
        save_model(model, extractor, temporary)
        torch.save(tensors, temporary / _TENSORS_NAME)
        files = {file.name: _digest(file) for file in sorted(temporary.iterdir())}
        write_json(temporary / _STATE_NAME, {**numbers, "step": step, "files": files})
        for file in temporary.iterdir():
            _flush(file)
        _flush(temporary)
        shutil.rmtree(path, ignore_errors=True)
        temporary.replace(path)
        _flush(output_dir)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in _checkpoint_folders(output_dir)[limit:]:
        shutil.rmtree(old)
    return path


def find_checkpoint(output_dir: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint of a run, and one sentence for each newer one that is broken."""
    broken = []
    for path in _checkpoint_folders(output_dir):
        try:
            return read_checkpoint(path), broken
        except ValueError as error:
            broken.append(str(error))
    return None, broken


def read_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint, after a check of all its files.

    Raises:
        ValueError: A file is missing or is not what was written; the message names it.
    """
    try:
        numbers = json.loads((path / _STATE_NAME).read_text())
        files = numbers.pop("files")
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is not a whole checkpoint: {_STATE_NAME} is missing or damaged") from error
    for name, digest in files.items():
        if not (path / name).is_file():
            raise ValueError(f"{path} is not a whole checkpoint: {name} is missing")
        if _digest(path / name) != digest:
            raise ValueError(f"{path} is not a whole checkpoint: {name} is not what was written")
    return Checkpoint(path, numbers)


def remove_checkpoints(output_dir: Path) -> None:
    """Removes all checkpoints, and what a killed run left of one."""
    for path in [*_checkpoint_folders(output_dir), *output_dir.glob(f".{_PREFIX}*")]:
        shutil.rmtree(path)


def _checkpoint_folders(output_dir: Path) -> list[Path]:
    """Folders named as checkpoints, newest first."""
    steps = {
        int(path.name.removeprefix(_PREFIX)): path
        for path in output_dir.glob(f"{_PREFIX}*")
        if path.name.removeprefix(_PREFIX).isdigit()
    }
    return [steps[step] for step in sorted(steps, reverse=True)]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Makes sure that a file or a folder's entries are on the disk before anything relies on them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
