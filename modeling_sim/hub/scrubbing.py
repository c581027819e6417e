"""Takes the paths of the machine that trained a model out of what is uploaded.

Places are named by settings, and by nothing else that commands write: so only settings are changed. Names of classes,
rows and modules stay as they are, whatever they look like: "/a/" and "a" are two phonemes.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import yaml

from modeling_sim.provenance import hub_id

# Settings that name places on the machine, relative ones too; those of the second line may name a Hub id instead.
_PLACES = ("data_dir", "output_dir", "resume", "alignments", "lists", "manifest", "cache_dir")


_PLACES_OR_HUB_IDS = ("init_from", "model", "decoder", "dataset_id", "dataset_name", "base_model", "_name_or_path")


# Fields of a file that hold settings; as text, they are YAML.
_SETTINGS = ("settings", "corpus_settings", "model_settings")


# How a place begins, at the beginning of a text or of a word in it: at the root and with a folder below it, in a home
# folder, in this folder or the one above, on a drive, or on another machine. The slashes of a URL are none.
_LOCAL = re.compile(
    r"(?<![\w/\\.~@-])(?:/[^/]+/[^/]|~[\w.-]*[/\\]|\.{1,2}[/\\]|\\\\|[A-Za-z]:[/\\]|file:"
    r"|[\w.-]+@[\w.-]+:|[\w.-]+:[/\\](?!/)|ssh://|sftp://)"
)


def scrub(value: Any) -> Any:
    """What a results or settings file holds, with only the last part of every local path that its settings name.

    Settings that name places are cut even where they are relative, except those that are a Hub id, org/name, and no
    folder here. Any other setting is cut where it looks like a path of a machine or is one here. What is not a setting
    is left as it is.

    Args:
        value: The content of a JSON file, or the settings themselves.
    """
    if not isinstance(value, dict):
        return value
    return {name: _named(name, item, within=name in _SETTINGS) for name, item in value.items()}


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


def _settings(value: Any) -> Any:
    """Settings, or a part of them: every text in it may name a place, and so may every key."""
    if isinstance(value, dict):
        return {_text(name): _named(name, item, within=True) for name, item in value.items()}
    if isinstance(value, list):
        return [_settings(item) for item in value]
    return _text(value) if isinstance(value, str) else value


def _named(name: str, value: Any, *, within: bool = False) -> Any:
    """The value of a field; one that is not within settings is a setting only if its name is one of a place."""
    if isinstance(value, list):
        return [_named(name, item, within=within) for item in value]
    if not isinstance(value, str):
        return _settings(value) if within else value
    if name in _PLACES or (name in _PLACES_OR_HUB_IDS and hub_id(value) is None):
        return _last_part(value)
    if within and name in _SETTINGS:
        return _yaml(value)
    return _text(value) if within else value


def _yaml(text: str) -> str:
    """Settings as YAML; what is none is cut as any text."""
    try:
        read = yaml.safe_load(text)
    except yaml.YAMLError:
        return _text(text)
    scrubbed = _settings(read)
    return text if scrubbed == read else json.dumps(scrubbed)


def _text(text: str) -> str:
    return _last_part(text) if _LOCAL.search(text) or _is_here(text) else text


def _is_here(text: str) -> bool:
    """Whether a text is the path of something on this machine, and not a name alone."""
    return re.search(r"[/\\]", text) is not None and os.path.exists(text)  # noqa: PTH110 - takes any text


def _last_part(path: str) -> str:
    return re.split(r"[/\\:]", path.rstrip("/\\:"))[-1] if path else path
