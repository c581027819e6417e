"""Takes the paths of the machine that trained a model out of what is uploaded."""

import json
import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

# Settings that name places on the machine, relative ones too.
_PLACES = ("data_dir", "output_dir", "resume", "init_from", "model", "alignments", "lists")
# An absolute path inside a text: from the root, from a home folder, or from a drive. Not the slashes of "a/b" and URLs.
_PATH = re.compile(r"(?<![\w:/.~\\-])(?:(?:~|[A-Za-z]:)?[/\\](?![/\\])|\\\\)[^\s'\"{}\[\],;:]+")


def scrub(value: Any) -> Any:
    """A value as JSON holds it, with only the last part of every local path.

    Absolute paths are cut wherever they are, in keys and inside texts too; the settings that name places are cut even
    where they are relative, except an `init_from` that is a Hub id, org/name, and no folder here.
    """
    if isinstance(value, dict):
        return {_scrub_text(name): _scrub_place(name, item) for name, item in value.items()}
    if isinstance(value, list):
        return [scrub(item) for item in value]
    return _scrub_text(value) if isinstance(value, str) else value


def scrub_file(path: Path) -> bytes:
    """The content of a `.json` or `.jsonl` file, scrubbed; unchanged if there is nothing to cut.

    Raises:
        ValueError: The file is not JSON.
    """
    content = path.read_bytes()
    try:
        if path.suffix == ".jsonl":
            lines = [json.loads(line) for line in content.decode().splitlines()]
            scrubbed = [scrub(line) for line in lines]
            return content if scrubbed == lines else "".join(f"{json.dumps(line)}\n" for line in scrubbed).encode()
        value = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    scrubbed = scrub(value)
    return content if scrubbed == value else (json.dumps(scrubbed, indent=2) + "\n").encode()


def _scrub_place(name: str, value: Any) -> Any:
    is_place = name in _PLACES and isinstance(value, str)
    return _last_part(value) if is_place and not _is_hub_id(name, value) else scrub(value)


def _is_hub_id(name: str, value: str) -> bool:
    """Whether a setting may name a model of the Hub, org/name, rather than a folder."""
    may = name in ("init_from", "model") and value.count("/") == 1
    return may and not value.startswith((".", "~")) and not Path(value).exists()


def _scrub_text(text: str) -> str:
    if PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute():
        return _last_part(text)
    return _PATH.sub(lambda found: _last_part(found.group()), text)


def _last_part(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]
