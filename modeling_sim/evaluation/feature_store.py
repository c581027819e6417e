"""Features on disk: computed once per model, corpus and settings, and mapped into memory when needed.

Features need not fit into memory, and are reused when the same label is measured again, also next to further models.
Weights, recordings, labels and settings are identified by their content, never by names or dates.
"""

import hashlib
import json
import shutil
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from modeling_sim.data.audio import AudioError

_META = "meta.json"


_COLUMNS = ("labels", "utterances", "speakers", "seconds")


# Part of every key: raise it whenever the same key would mean different features.
_VERSION = 3


# Seconds after a change in which a file may change again without a new time stamp: some file systems store times in
# steps of one or two seconds.
_SAME_TIME = 2.5


_digests: dict[str, tuple[tuple[int, ...], str]] = {}
"""Digests of files by path, with the system's data about each file when it was read: see `file_digest`."""


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
    """Reads the items of a key from the cache, or writes them there first, complete or not at all.

    Damaged features are written again. Files and folders follow the umask, since a cache may be shared.

    Args:
        cache_dir: Folder of all features; anything in it can be deleted.
        key: All that the features depend on, in types of JSON.
        write: Writes them.

    Raises:
        OSError: The cache cannot be written or read.
    """
    folder = cache_dir / key_name([_VERSION, dict(key)])
    if (folder / _META).is_file():
        try:
            return _read(folder)
        except (ValueError, KeyError, EOFError, FileNotFoundError, zipfile.BadZipFile) as error:
            tqdm.write(f"the features in {folder} cannot be read and are made again: {error}")
            shutil.rmtree(folder)
    cache_dir.mkdir(parents=True, exist_ok=True)
    temporary = cache_dir / f".{folder.name}.{uuid4().hex}"
    temporary.mkdir()  # unlike `tempfile`, with the permissions that the umask gives
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


def key_name(key: Any) -> str:
    """Name in the cache for a key in types of JSON."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]


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


def corpus_fingerprint(dataset: Dataset, label: str) -> str:
    """Digest of a corpus' recordings, by id, length, speaker and content, and of their labels.

    Args:
        dataset: A corpus.
        label: The column of classes that is read.

    Raises:
        AudioError: A recording cannot be read.
    """
    rows, paths = _rows_digest(dataset, label)
    return key_name([rows, *map(file_digest, paths)])


@lru_cache(maxsize=4)  # a train and a test split are asked for with every model
def _rows_digest(dataset: Dataset, label: str) -> tuple[str, list[str]]:
    """Digest of what the data set itself holds, which does not change, and the files that it names."""
    digest, paths = hashlib.sha256(), []
    names = dict.fromkeys(["id", "num_samples", "sampling_rate", "audio", "speaker_id", label])
    columns = dataset.with_format(None).select_columns([name for name in names if name in dataset.column_names])
    for row in columns:  # one at a time: some corpora hold the audio itself
        audio = row.pop("audio")
        content = audio["bytes"]
        if content is None:
            paths.append(audio["path"])
        held = None if content is None else hashlib.sha256(content).hexdigest()
        digest.update(json.dumps([row, held], sort_keys=True).encode())
    return digest.hexdigest(), paths


def file_digest(path: str) -> str:
    """SHA-256 of a file's content; the file is read again only if its time stamps, size or inode have changed.

    Raises:
        AudioError: It cannot be read.
    """
    try:
        stat = Path(path).stat()
        found = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        known = _digests.get(path)
        if known is not None and known[0] == found:
            return known[1]
        with Path(path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({error.strerror})") from error
    if time.time() - max(stat.st_mtime, stat.st_ctime) > _SAME_TIME:
        _digests[path] = (found, digest)
    return digest
