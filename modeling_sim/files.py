"""Reads text and JSON, and writes files and folders completely or not at all, with the permissions of the umask."""

import codecs
import contextlib
import difflib
import itertools
import json
import math
import os
import shutil
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from modeling_sim.text import printable


@contextlib.contextmanager
def ends_with_its_reader() -> Iterator[None]:
    """Ends a command silently when the reader of its output closes the pipe, for example `| head -1`.

    Raises:
        SystemExit: The pipe was closed; the exit code is that of SIGPIPE.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more on exit; discard that output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path next to `path` to write to, and moves the file to `path` if no error occurs."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # some libraries write files that only their owner can read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_folder(path: str | Path) -> Iterator[Path]:
    """Yields a new folder next to `path`, to be filled and moved; removes what is left of it at the end.

    Call `follow_umask` before moving files: some libraries write files that only their owner can read.
    """
    path = Path(path)
    for number in itertools.count():
        temporary = path.with_name(f".{path.name}.{os.getpid()}" + (f"-{number}" if number else ""))
        try:
            temporary.mkdir()  # unlike `tempfile`, with the permissions of the umask
        except FileExistsError:  # left by a killed process with the same id, which is common in containers
            continue
        break
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


CONFIGURATION_NAMES = (
    "config.json",
    "preprocessor_config.json",
    "configuration_sim.py",
    "configuration_sim_decoder.py",
    "modeling_sim.py",
    "modeling_sim_decoder.py",
    "layers_sim.py",
    "objectives_sim.py",
    "feature_extraction_sim.py",
    "processing_sim.py",
    "tokenizer_config.json",
    "vocabulary.json",
)
"""Names of the files of a saved model, except its weights."""


MODEL_NAMES = (
    *CONFIGURATION_NAMES,
    "model.safetensors",
    "model-[0-9]*-of-[0-9]*.safetensors",
    "model.safetensors.index.json",
)
"""Names of the files of a saved model, as `fnmatch` patterns."""


def check_output_dir(output_dir: str | Path, names: Sequence[str], *, overwrite_output_dir: bool) -> None:
    """Checks that a folder may be written, or replaced.

    Args:
        output_dir: Folder to write.
        names: Names of all files that are written, or `fnmatch` patterns.
        overwrite_output_dir: Whether an earlier folder with these files may be replaced.

    Raises:
        OSError: It is a file, or a folder that is not empty and may not be replaced, has other files, or no model of
            this package.
    """
    output_dir = Path(output_dir).resolve()
    if output_dir.exists() and not output_dir.is_dir():
        raise NotADirectoryError(f"`output_dir` {output_dir} is a file; give a folder.")
    found = sorted(path.name for path in output_dir.iterdir()) if output_dir.exists() else []
    if not found:
        return
    others = [name for name in found if not any(fnmatch(name, each) for each in names)]
    try:
        is_own = not others and read_json(output_dir / "config.json").get("model_type") == "sim"
    except (OSError, ValueError):
        is_own = False
    if not is_own:
        named = ", ".join((others or found)[:3])
        raise FileExistsError(f"`output_dir` {output_dir} holds other files ({named}); choose another folder.")
    if not overwrite_output_dir:
        raise FileExistsError(
            f"`output_dir` {output_dir} is not empty; choose another folder, or set `overwrite_output_dir`."
        )


@contextlib.contextmanager
def replacing_folder(
    output_dir: str | Path, names: Sequence[str], *, overwrite_output_dir: bool = False
) -> Iterator[Path]:
    """Yields a temporary folder to fill, and moves it to `output_dir` if no error occurs.

    Args:
        output_dir: See `check_output_dir`.
        names: See `check_output_dir`.
        overwrite_output_dir: See `check_output_dir`.

    Raises:
        OSError: See `check_output_dir`; or a folder cannot be written. `output_dir` is then unchanged.
    """
    output_dir = Path(output_dir).resolve()
    check_output_dir(output_dir, names, overwrite_output_dir=overwrite_output_dir)
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(output_dir) as temporary:
        written, replaced = temporary / "written", temporary / "replaced"
        written.mkdir()
        yield written
        follow_umask(temporary)
        if output_dir.exists():
            output_dir.replace(replaced)
        try:
            written.replace(output_dir)
        except BaseException:
            if replaced.exists():
                replaced.replace(output_dir)
            raise


def follow_umask(folder: Path) -> None:
    """Sets the permissions of all files in a folder made by `temporary_folder` to those of the umask."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


def remove_folder(folder: Path) -> None:
    """Removes a folder atomically: a killed process does not leave a part of it under its name."""
    with temporary_folder(folder) as temporary:
        folder.replace(temporary / folder.name)


def write_json(path: str | Path, value: Any) -> None:
    """Writes a value as indented JSON; NaN and infinity become null."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(finite_or_none(value), indent=2) + "\n", encoding="utf-8")


def finite_or_none(value: Any) -> Any:
    """Replaces NaN and infinity by `None` in nested dicts and lists."""
    if isinstance(value, dict):
        return {key: finite_or_none(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_or_none(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """The end of an error message, which suggests the closest known word, or up to three that a word abbreviates.

    An abbreviation is initials (`lr` of `learning_rate`), a beginning, or a part between underscores. Case and the
    dashes of flags do not count.

    Args:
        word: The given word.
        known: The valid words.
        cutoff: Minimum similarity of the closest word, from 0 to 1.
    """
    plain = _plain(word)
    names: dict[str, str] = {}
    for name in known:
        names.setdefault(_plain(name), name)
    parts = {name: name.split("_") for name in names}
    abbreviated = len(plain) > 1
    matches = (
        difflib.get_close_matches(plain, names, n=1, cutoff=0.8)
        or [name for name in names if abbreviated and plain == "".join(part[:1] for part in parts[name])]
        or [name for name in names if abbreviated and name.startswith(plain)]
        or [name for name in names if abbreviated and plain in parts[name]]
        or difflib.get_close_matches(plain, names, n=1, cutoff=cutoff)
    )
    return f"; did you mean {' or '.join(repr(names[name]) for name in matches[:3])}?" if matches else "."


def _plain(word: str) -> str:
    return word.lstrip("-").replace("-", "_").lower()


# ---------------------------------------------------------------------- results


SCHEMA = 1
"""Version of the fields in the files of a training run; incremented when a field changes its meaning."""


def save_results(path: str | Path, results: Mapping[str, Any], *, schema: int = SCHEMA) -> None:
    """Writes results, or the settings of a run, as JSON with their schema number; see `write_json`."""
    write_json(path, {"schema": schema, **results})


def read_results(path: Path, *, schema: int = SCHEMA) -> dict[str, Any]:
    """Reads results written by `save_results`; files of earlier versions have no schema number and count as schema 1.

    Raises:
        ValueError: The file is not JSON, does not hold a mapping, or has a different schema.
    """
    results = read_json(path)
    found = results.get("schema", 1)
    if found != schema:
        raise ValueError(
            f"{path} has `schema` {found!r}, but this version of modeling_sim reads {schema}; update the package, or "
            "measure again with this version."
        )
    return results


def read_text(path: str | Path) -> str:
    r"""Text of a file in UTF-8, or in UTF-16 with a byte order mark; without such marks, and with "\n" as line ends.

    Raises:
        OSError: The file cannot be read.
        ValueError: It has another encoding.
    """
    return decode_text(Path(path).read_bytes(), path)


def decode_text(content: bytes, path: str | Path) -> str:
    """Decodes the bytes of a file like `read_text`."""
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"
    try:
        text = content.decode(encoding)
        reason = "it has zero bytes" if "\0" in text else None
    except UnicodeDecodeError as error:
        text, reason = "", str(error)
    if reason is not None:
        raise ValueError(f"{printable(path)} is not UTF-8 text ({reason}); save it in that encoding")
    # Concatenated files have byte order marks in the middle.
    return text.replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON file that holds a mapping.

    Raises:
        ValueError: The file is not JSON, or does not hold a mapping.
    """
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # or UnicodeDecodeError, which is a ValueError
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(read, dict):
        raise ValueError(f"{path} holds a {type(read).__name__}, not a mapping.")
    return read
