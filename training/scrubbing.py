"""Takes the paths of the machine that trained a model out of what is uploaded."""

import json
import os
import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from training.provenance import hub_id

# Settings that name places on the machine, relative ones too; those of the second line may name a Hub id instead.
_PLACES = ("data_dir", "output_dir", "resume", "alignments", "lists", "manifest")
_PLACES_OR_HUB_IDS = ("init_from", "model", "dataset_id", "dataset_name")
# Addresses that mean the same on every machine.
_URL = r"(?:git\+)?(?:https?|hf|s3|gs)://[^\s'\"<>,;]+"
# How a place starts: at the root, a home folder, this folder or the one above, a drive, or another machine, which
# `file:` is taken for as well.
_START = r"(?:[\w.-]+@[\w.-]+:[^\s'\"/\\]*|[\w.+-]+:|~(?:[A-Za-z_][\w.-]*)?|\.{1,2})?[/\\]+"
_END = r"[^\s'\"{}\[\],;:]+"
# Spaces end a place unless quotes hold it, or what follows has a slash and is no ratio.
_MORE = r"(?: (?!\d+/\d|and/or\b)\w[^\s'\"{}\[\],;:=/\\]*[/\\][^\s'\"{}\[\],;:]*)*"
# Not the slashes of "a/b". A colon may come before a place, as in a list of them.
_PLACE = re.compile(
    rf"(?P<url>{_URL})|(?P<quote>['\"`])(?P<quoted>{_START}.+?)(?P=quote)|(?<![\w/.~@\\+-])(?P<place>{_START}{_END}{_MORE})"
)


def scrub(value: Any, *, of_corpus: bool = False) -> Any:
    """A value as JSON holds it, with only the last part of every local path.

    Absolute paths and those that start with a dot or a tilde are cut wherever they are, in keys and inside texts too.
    The settings that name places are cut even where they are relative, except those that are a Hub id, org/name, and no
    folder here; so are those of a corpus that are a folder or file here.

    Args:
        value: Anything made of dicts, lists and texts.
        of_corpus: It is the settings of a corpus.
    """
    if isinstance(value, dict):
        return {_scrub_text(name): _scrub_place(name, item, of_corpus=of_corpus) for name, item in value.items()}
    if isinstance(value, list):
        return [scrub(item, of_corpus=of_corpus) for item in value]
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


def _scrub_place(name: str, value: Any, *, of_corpus: bool) -> Any:
    """A setting's value; one of a corpus may name a place whatever it is called."""
    if isinstance(value, list):
        return [_scrub_place(name, item, of_corpus=of_corpus) for item in value]
    if not isinstance(value, str):
        return scrub(value, of_corpus=name == "corpus_settings")
    is_place = name in _PLACES or (name in _PLACES_OR_HUB_IDS and hub_id(value) is None)
    return _last_part(value) if is_place or (of_corpus and _is_here(value)) else _scrub_text(value)


def _is_here(value: str) -> bool:
    """Whether a text is the path of something on this machine, and not a name alone."""
    return re.search(r"[/\\]", value) is not None and os.path.exists(value)  # noqa: PTH110 - takes any text


def _scrub_text(text: str) -> str:
    if PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute():
        return _last_part(text)
    return _PLACE.sub(_scrub_found, text)


def _scrub_found(found: re.Match[str]) -> str:
    if found["url"]:
        return found["url"]
    quote = found["quote"] or ""
    return f"{quote}{_last_part(found['quoted'] or found['place'])}{quote}"


def _last_part(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]
