"""Files and folders that are written complete or not at all, and with the permissions that the umask gives."""

import contextlib
import difflib
import itertools
import json
import math
import os
import shutil
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def ends_with_its_reader() -> Iterator[None]:
    """Ends a command quietly once nobody reads what it prints, as behind `| head -1`.

    Raises:
        SystemExit: With the code that a shell gives to commands that end so.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # What is left to print goes nowhere: Python flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None


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


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """The end of an error message that names the nearest known word, if one is near.

    Args:
        word: What was given.
        known: What could have been given.
        cutoff: Least similarity, from 0 to 1, of a word that is named.
    """
    matches = difflib.get_close_matches(word, known, n=1, cutoff=cutoff)
    return f"; did you mean {matches[0]!r}?" if matches else "."


# ---------------------------------------------------------------------- results


SCHEMA = 1
"""Version of the fields of the files of a training run; it is raised when a field changes its meaning."""


def save_results(path: str | Path, results: Mapping[str, Any], *, schema: int = SCHEMA) -> None:
    """Writes results, or the settings of a run, as `write_json` does, with the number of their schema."""
    write_json(path, {"schema": schema, **results})


def read_results(path: Path, *, schema: int = SCHEMA) -> dict[str, Any]:
    """Results that `save_results` wrote; a file without a schema number, of an earlier version, has schema 1.

    Raises:
        ValueError: It is not JSON, holds something else than a mapping, or has another schema.
    """
    results = read_json(path)
    found = results.get("schema", 1)
    if found != schema:
        raise ValueError(
            f"{path} has `schema` {found!r}, and this version of modeling_sim reads {schema}: update the package, or "
            "measure again with this one."
        )
    return results


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds a mapping.

    Raises:
        ValueError: It is not JSON, or holds something else.
    """
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of the encoding too
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(read, dict):
        raise ValueError(f"{path} holds a {type(read).__name__}, not a mapping.")
    return read
