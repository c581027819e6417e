"""Removes paths of the training machine from uploaded files.

Only settings contain paths, so only settings are changed. Names of classes, rows and modules are kept, even if they
look like paths: "/a/" and "a" are two phonemes.
"""

import functools
import json
import os
import re
from pathlib import Path
from typing import Any

import yaml

from modeling_sim.data.corpora import corpus_info, corpus_names
from modeling_sim.provenance import hub_id

# Settings of commands with a file or folder, and those with a Hub id or a folder; see `CorpusInfo.path_settings` for
# the settings of corpora.
_PATHS = ("output_dir", "resume", "cache_dir")


_PATHS_OR_HUB_IDS = ("init_from", "model", "decoder", "dataset_id", "dataset_name", "base_model", "_name_or_path")


# Fields with settings; as text, they are YAML.
_SETTINGS = ("settings", "corpus_settings", "model_settings")


# Start of a path, in a text or a word of it: the root with a folder below it, a home folder, this folder or its parent,
# a drive, or another machine. The slashes of a URL do not start a path.
_LOCAL = re.compile(
    r"(?<![\w/\\.~@-])(?:/[^/]+/[^/]|~[\w.-]*[/\\]|\.{1,2}[/\\]|\\\\|[A-Za-z]:[/\\]|file:"
    r"|[\w.-]+@[\w.-]+:|[\w.-]+:[/\\](?!/)|ssh://|sftp://)"
)


def scrub(value: Any) -> Any:
    """Shortens every local path in the settings of a results or settings file to its last part.

    Settings for paths are shortened even if the path is relative, except a Hub id, org/name, that is not a local
    folder. Any other setting is shortened if it looks like a local path or exists on this machine. Other fields are
    unchanged.

    Args:
        value: The content of a JSON file, or the settings themselves.
    """
    if not isinstance(value, dict):
        return value
    return {name: _named(name, item, within=name in _SETTINGS) for name, item in value.items()}


def scrub_file(path: Path) -> bytes:
    """The scrubbed content of a `.json` or `.jsonl` file; unchanged if it has no paths.

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
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    scrubbed = scrub(value)
    return content if scrubbed == value else (json.dumps(scrubbed, indent=2) + "\n").encode()


def _settings(value: Any) -> Any:
    """Scrubs settings, or a part of them, in which every text and every key may be a path."""
    if isinstance(value, dict):
        return {_text(name): _named(name, item, within=True) for name, item in value.items()}
    if isinstance(value, list):
        return [_settings(item) for item in value]
    return _text(value) if isinstance(value, str) else value


def _named(name: str, value: Any, *, within: bool = False) -> Any:
    """Scrubs the value of a field; outside of settings, only fields with names of path settings."""
    if isinstance(value, list):
        return [_named(name, item, within=within) for item in value]
    if not isinstance(value, str):
        return _settings(value) if within else value
    if name in _path_settings() or (name in _PATHS_OR_HUB_IDS and hub_id(value) is None):
        return _last_part(value)
    if within and name in _SETTINGS:
        return _yaml(value)
    return _text(value) if within else value


@functools.cache
def _path_settings() -> frozenset[str]:
    """Path settings of all commands and corpora."""
    return frozenset(_PATHS).union(*(corpus_info(corpus).path_settings for corpus in corpus_names()))


def _yaml(text: str) -> str:
    """Scrubs settings in YAML; invalid YAML is scrubbed as text."""
    try:
        read = yaml.safe_load(text)
    except yaml.YAMLError:
        return _text(text)
    scrubbed = _settings(read)
    return text if scrubbed == read else json.dumps(scrubbed)


def _text(text: str) -> str:
    return _last_part(text) if _LOCAL.search(text) or _is_here(text) else text


def _is_here(text: str) -> bool:
    """Whether a text is an existing path on this machine with more than one part."""
    return re.search(r"[/\\]", text) is not None and os.path.exists(text)  # noqa: PTH110 - takes any text


def _last_part(path: str) -> str:
    return re.split(r"[/\\:]", path.rstrip("/\\:"))[-1] if path else path
