"""Features on disk: computed once per model, corpus and settings, and mapped into memory when needed.

Features do not need to fit into memory, and are reused when the same label is measured again, also with further models.
Weights, recordings, labels and settings are identified by their content, never by names or dates.
"""

import json
import shutil
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import numpy as np
from tqdm.auto import tqdm

from modeling_sim.data.digests import key_name

ARCHIVE_ERRORS = (
    *(ValueError, TypeError, KeyError, EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error),
    *(SyntaxError, tokenize.TokenError),  # NumPy parses headers as Python
)
"""Errors of reading a damaged `.npy` or `.npz` file."""


_META = "meta.json"


_COLUMNS = ("labels", "utterances", "speakers", "seconds")


# Part of every key: increase it whenever the same key would refer to different features.
_VERSION = 3


@dataclass(frozen=True)
class Items:
    """Items to classify; labels and positions are the same for all features.

    Args:
        features: `(items, channels)` float32 by the name of the module or spectrum, mapped from disk.
        labels: `(items,)`.
        utterances: Id of each item's utterance, `(items,)`.
        speakers: Speaker of each item, `(items,)`.
        seconds: Center of each item in its utterance, `(items,)`.
    """

    features: dict[str, np.ndarray]
    labels: np.ndarray
    utterances: np.ndarray
    speakers: np.ndarray
    seconds: np.ndarray


class FeatureWriter:
    """Appends items to files of a folder, batch by batch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, BinaryIO] = {}
        self.channels: dict[str, int] = {}
        self.columns: dict[str, list[np.ndarray]] = {name: [] for name in _COLUMNS}

    def add(self, features: Mapping[str, np.ndarray], **columns: np.ndarray) -> None:
        """Appends items; each of the features and of the other columns of `Items` has a row per item."""
        for name, array in features.items():
            if name not in self.files:
                self.files[name] = (self.folder / _file_name(name)).open("wb")
                self.channels[name] = array.shape[1]
            self.files[name].write(np.ascontiguousarray(array, dtype=np.float32).tobytes())
        for column in _COLUMNS:
            self.columns[column].append(columns[column])

    def close(self) -> None:
        """Completes the folder.

        Raises:
            ValueError: Nothing was written.
        """
        for file in self.files.values():
            file.close()
        if not sum(map(len, self.columns["labels"])):
            raise ValueError("no item has a label.")
        columns: dict[str, Any] = {name: np.concatenate(values) for name, values in self.columns.items()}
        np.savez(self.folder / "columns.npz", **columns)
        meta = {"items": len(columns["labels"]), "channels": self.channels}
        (self.folder / _META).write_text(json.dumps(meta))


def stored_items(cache_dir: Path, key: Mapping[str, Any], write: Callable[[FeatureWriter], None]) -> Items:
    """Reads the items of a key from the cache; if missing, writes them first, complete or not at all.

    Damaged features are written again. Files and folders follow the umask, since a cache may be shared.

    Args:
        cache_dir: Folder of all features; anything in it can be deleted.
        key: Everything that the features depend on, as JSON types.
        write: Function that writes them.

    Raises:
        OSError: The cache cannot be written or read.
    """
    folder = cache_dir / key_name([_VERSION, dict(key)])
    if (folder / _META).is_file():
        try:
            return _read(folder)
        except ARCHIVE_ERRORS as error:
            tqdm.write(f"the features in {folder} cannot be read and are computed again: {error}")
            shutil.rmtree(folder)
    cache_dir.mkdir(parents=True, exist_ok=True)
    temporary = cache_dir / f".{folder.name}.{uuid4().hex}"
    temporary.mkdir()  # unlike `tempfile`, with the permissions of the umask
    try:
        writer = FeatureWriter(temporary)
        write(writer)
        writer.close()
        temporary.rename(folder)
    except OSError:
        if not (folder / _META).is_file():  # else another process was faster
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return _read(folder)


def _read(folder: Path) -> Items:
    meta = json.loads((folder / _META).read_text())
    features: dict[str, np.ndarray] = {
        name: np.memmap(folder / _file_name(name), dtype=np.float32, mode="r", shape=(meta["items"], channels))
        for name, channels in meta["channels"].items()
    }
    with np.load(folder / "columns.npz") as columns:
        found = {name: columns[name] for name in _COLUMNS}
    return Items(features, **{**found, "labels": found["labels"].astype(np.int64)})


def _file_name(feature: str) -> str:
    return f"{feature.replace(' ', '_')}.float32"
