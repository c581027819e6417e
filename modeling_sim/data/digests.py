"""Digests of recordings by their content, never by their paths or dates."""

import hashlib
import json
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from datasets import Dataset

from modeling_sim.data.audio import AudioError

# Seconds after a change in which a file may change again without a new time stamp: some file systems store times in
# steps of one or two seconds.
_SAME_TIME = 2.5


_digests: dict[str, tuple[tuple[int, ...], str]] = {}
"""Digests of files by path, with the system's data about each file when it was read: see `file_digest`."""


def key_name(key: Any) -> str:
    """Digest of a key in types of JSON, short enough for a file name."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]


def corpus_fingerprint(dataset: Dataset, *columns: str, skip_unreadable: bool = False) -> str:
    """Digest of a corpus' recordings, by id, length and content, and of further columns.

    Args:
        dataset: A corpus.
        columns: The further columns; those that it does not have are skipped.
        skip_unreadable: Count recordings that cannot be read as having no content, instead of an error.

    Raises:
        AudioError: A recording cannot be read.
    """
    rows, paths = _rows_digest(dataset, columns)
    return key_name([rows, *(_content_digest(path, skip_unreadable=skip_unreadable) for path in paths)])


@lru_cache(maxsize=4)  # it is called for a train and a test split with every model
def _rows_digest(dataset: Dataset, columns: tuple[str, ...]) -> tuple[str, list[str]]:
    """Digest of the content of the data set itself, which does not change, and the files that it refers to."""
    digest, paths = hashlib.sha256(), []
    names = dict.fromkeys(["id", "num_samples", "sampling_rate", "audio", *columns])
    selected = dataset.with_format(None).select_columns([name for name in names if name in dataset.column_names])
    for row in selected:  # one at a time: some corpora contain the audio itself
        audio = row.pop("audio") or {}
        content = audio.get("bytes")
        if content is None:
            paths.append(str(audio.get("path")))
        held = None if content is None else hashlib.sha256(content).hexdigest()
        digest.update(json.dumps([row, held], sort_keys=True).encode())
    return digest.hexdigest(), paths


def _content_digest(path: str, *, skip_unreadable: bool) -> str | None:
    try:
        return file_digest(path)
    except AudioError:
        if not skip_unreadable:
            raise
        return None


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
