"""Files and folders that are written complete or not at all, and with the permissions that the umask gives."""

import contextlib
import itertools
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path next to `path` to write to, and moves it there if nothing went wrong."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # some writers make files that only their owner can read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_folder(path: str | Path) -> Iterator[Path]:
    """Gives a new folder next to `path` to fill and then move; what is left of it at the end is removed.

    Call `follow_umask` before files are moved: some writers make files that only their owner can read.
    """
    path = Path(path)
    for number in itertools.count():
        temporary = path.with_name(f".{path.name}.{os.getpid()}" + (f"-{number}" if number else ""))
        try:
            temporary.mkdir()  # unlike `tempfile`, with the permissions that the umask gives
        except FileExistsError:  # of a process that was killed and had the same id, as in a container
            continue
        break
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def follow_umask(folder: Path) -> None:
    """Gives all files of a folder that `temporary_folder` made the permissions that new files get."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


def remove_folder(folder: Path) -> None:
    """Removes a folder in one step, so that a kill leaves no part of it under its name."""
    with temporary_folder(folder) as temporary:
        folder.replace(temporary / folder.name)


def write_json(path: str | Path, value: Any) -> None:
    """Writes a value as indented JSON; NaN and infinity, which JSON does not have, become null."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(finite_or_none(value), indent=2) + "\n", encoding="utf-8")


def finite_or_none(value: Any) -> Any:
    """A value made of dicts, lists and numbers with every number that is not finite replaced by `None`."""
    if isinstance(value, dict):
        return {key: finite_or_none(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_or_none(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
