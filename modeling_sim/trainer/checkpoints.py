"""Checkpoints to resume a run from: written completely or not at all, verified before use, the newest few kept.

A checkpoint is a folder `checkpoint-STEP` in the output folder: the model for `from_pretrained`, `trainer.pt` with the
optimizer's and other tensors of the run, and `trainer_state.json` with its numbers and a checksum of every file,
including itself. There are no states of random generators: all randomness is keyed by seed, step and module.
"""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel, SequenceFeatureExtractor

from modeling_sim.files import finite_or_none, follow_umask, remove_folder, temporary_folder, write_json

_PREFIX = "checkpoint-"


STATE_NAME = "trainer_state.json"


_TENSORS_NAME = "trainer.pt"


_SEAL = "sha256"


_UNSEALED = {"counts", "early_stopping", "untrained", "settings", "comparable_config", "step", "files"}


class Checkpoint(NamedTuple):
    """A verified checkpoint."""

    path: Path
    numbers: dict[str, Any]
    """State of the run: step, position in the data, settings, ..."""

    def load_model(self, model: PreTrainedModel) -> None:
        """Loads the weights and buffers into a model with the same configuration."""
        model.load_state_dict(load_file(self.path / "model.safetensors"))

    def load_tensors(self) -> dict[str, Any]:
        """Loads the other tensors, such as the optimizer's state, on the CPU."""
        return torch.load(self.path / _TENSORS_NAME, map_location="cpu", weights_only=True)


def save_model(model: PreTrainedModel, extractor: SequenceFeatureExtractor, folder: Path) -> None:
    """Writes weights, configurations, and the code to load them without this package."""
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
    """Writes a checkpoint to a temporary folder, moves it into place, and removes all but the newest `limit`.

    Raises:
        OSError: The disk is full, the folder cannot be written, or a folder of another program has this name; earlier
            checkpoints are unchanged.
    """
    path = output_dir / f"{_PREFIX}{step}"
    if path.exists() and not is_own_checkpoint(path):
        raise FileExistsError(f"{path} exists but is not a checkpoint of modeling_sim")
    with temporary_folder(path) as temporary:
        save_model(model, extractor, temporary)
        torch.save(tensors, temporary / _TENSORS_NAME)
        files = {file.name: _digest(file) for file in sorted(temporary.iterdir())}
        write_json(temporary / STATE_NAME, sealed({**numbers, "step": step, "files": files}))
        follow_umask(temporary)
        for file in temporary.iterdir():
            _flush(file)
        _flush(temporary)
        if path.exists():
            remove_folder(path)
        temporary.replace(path)
        _flush(output_dir)
    for old in own_checkpoints(output_dir)[limit:]:
        remove_folder(old)
    return path


def find_checkpoint(output_dir: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest complete checkpoint of a run, and the error message of each newer, corrupt one."""
    broken: list[str] = []
    for path in _checkpoint_folders(output_dir):
        try:
            return read_checkpoint(path), broken
        except ValueError as error:
            broken.append(str(error))
    return None, broken


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint and verifies all of its files.

    Raises:
        ValueError: A file is missing or corrupt; the message names it.
    """
    try:
        numbers = unsealed(json.loads((path / STATE_NAME).read_bytes()))
        files = numbers.pop("files")
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"corrupt checkpoint {path}: {STATE_NAME} is missing or damaged") from error
    for name, digest in files.items():
        if not (path / name).is_file():
            raise ValueError(f"corrupt checkpoint {path}: {name} is missing")
        if _digest(path / name) != digest:
            raise ValueError(f"corrupt checkpoint {path}: checksum mismatch for {name}")
    return Checkpoint(path, numbers)


def read_kept(path: Path, output_dir: Path) -> Checkpoint:
    """Reads a checkpoint like `read_checkpoint`, unless clearing a folder would remove it.

    Raises:
        ValueError: It is corrupt, or in that folder.
    """
    if path.resolve().is_relative_to(output_dir.resolve()):
        raise ValueError(
            f"`resume` is {path}, which `overwrite_output_dir` would remove; copy the checkpoint to another folder, or "
            "remove one of the two settings."
        )
    return read_checkpoint(path)


def check_is_last(checkpoint: Checkpoint, output_dir: Path) -> None:
    """Checks that a folder has no checkpoints of later steps, which would be used as the newest ones.

    Raises:
        FileExistsError: It has some.
    """
    newest = max((_step_of(path) for path in own_checkpoints(output_dir)), default=-1)
    if newest > checkpoint.numbers["step"]:
        raise FileExistsError(
            f"`resume` is {checkpoint.path}, but `output_dir` {output_dir} has checkpoints up to step {newest}; remove "
            "`resume` to resume from the newest, choose another folder, or delete the later ones."
        )


def sealed(numbers: dict[str, Any]) -> dict[str, Any]:
    """Adds a checksum of the content of a state file, or replaces it."""
    numbers = json.loads(json.dumps(finite_or_none({**numbers, _SEAL: None})))
    del numbers[_SEAL]
    return {**numbers, _SEAL: _seal(numbers)}


def unsealed(state: Any) -> dict[str, Any]:
    """Verifies and removes the checksum of a state file.

    Raises:
        ValueError: The checksum does not match.
    """
    if not isinstance(state, dict):
        raise ValueError(f"{STATE_NAME} has no entries")
    numbers = {name: value for name, value in state.items() if name != _SEAL}
    # Earlier versions wrote exactly these entries and no checksum.
    if _SEAL not in state and numbers.keys() == _UNSEALED:
        return numbers
    if state.get(_SEAL) != _seal(numbers):
        raise ValueError(f"checksum mismatch for {STATE_NAME}")
    return numbers


def own_checkpoints(output_dir: Path) -> list[Path]:
    """Folders of checkpoints of this package, newest first; they may be corrupt."""
    return [path for path in _checkpoint_folders(output_dir) if is_own_checkpoint(path)]


def is_own_checkpoint(path: Path) -> bool:
    """Whether a folder is a checkpoint of this package, by the entries of its state file.

    Other trainers use the same names. One entry is enough, so that corrupt checkpoints are recognized too.
    """
    try:
        content = (path / STATE_NAME).read_bytes()
    except OSError:
        return False
    return any(f'"{entry}"'.encode() in content for entry in ("stage_step", "comparable_config", _TENSORS_NAME))


def _checkpoint_folders(output_dir: Path) -> list[Path]:
    """Folders with names of checkpoints, newest first."""
    named = output_dir.glob(f"{_PREFIX}*")
    found = [path for path in named if re.fullmatch(r"[1-9][0-9]*|0", path.name.removeprefix(_PREFIX))]
    return sorted(found, key=_step_of, reverse=True)


def _step_of(path: Path) -> int:
    """The step in the name of a checkpoint's folder."""
    return int(path.name.removeprefix(_PREFIX))


def _seal(numbers: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Flushes a file or the entries of a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
