"""Checks a model card: its metadata, its license, its links and pictures, and that its template was filled in."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

from modeling_sim.data.licenses import known_licenses, refuse_looser
from modeling_sim.evaluation.results import SCHEMA, Results
from modeling_sim.files import read_json, read_results

_LINK = re.compile(
    r"\]\(<?([^)\s>]+)[^)]*\)|(?:src|href)=[\"']([^\"']+)[\"']|^\s*\[[^\]\n]+\]:\s*(\S+)|<([a-z]+:[^>\s]+)>",
    flags=re.MULTILINE,
)


# How a link starts that leads to no file next to the card.
_ELSEWHERE = re.compile(r"[A-Za-z]+:|[/~\\#]")


_WEB = ("http:", "https:", "mailto:", "#")


def check_card(card: str | Path, folder: str | Path | None = None) -> list[str]:
    """The faults of a card, one sentence each; an empty list for a correct card.

    Faults are metadata that is not YAML or has no license, metrics that are not finite numbers, a license that is
    looser than the linked results allow, text of a template that was not filled in, and links and pictures that are
    dead or lead to this machine. Whether licenses, tags and languages exist is checked by the Hub, before an upload.

    Args:
        card: The text, or the path of the file that holds it.
        folder: What relative links start from; the card's own folder if `None`.

    Raises:
        FileNotFoundError: The card is not there.
        ValueError: A text is given without a folder.
    """
    if isinstance(card, Path):
        folder = Path(folder or card.parent)
        try:
            text = card.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            return [f"the card is not text in UTF-8: {error}"]
    elif folder is None:
        raise ValueError("`folder` is needed to follow the links of a card that is given as text.")
    else:
        text, folder = card, Path(folder)
    header = re.match(r"---\n(.*?)\n---\n", text, flags=re.DOTALL)
    if header is None:
        return ["the card has no metadata between lines of ---"]
    try:
        metadata = yaml.safe_load(header[1])
    except yaml.YAMLError as error:
        return [f"the metadata is not YAML: {' '.join(str(error).split())}"]
    if not isinstance(metadata, dict):
        return ["the metadata is not a list of `key: value` lines"]
    body = text[header.end() :]
    problems = [*_metric_problems(metadata), *_license_problems(metadata, body, folder), *_link_problems(body, folder)]
    if "More Information Needed" in body:
        problems.append("'[More Information Needed]' was not filled in")
    return problems


def _metric_problems(metadata: dict[str, Any]) -> Iterator[str]:
    try:
        metrics = [
            (metric.get("name") or metric.get("type"), metric.get("value"))
            for model in metadata.get("model-index") or []
            for result in model.get("results") or []
            for metric in result.get("metrics") or []
        ]
    except (AttributeError, TypeError):  # a text or number where a list or mapping belongs
        yield "`model-index` is not a list of models with a list of `results`, each with a list of `metrics`"
        return
    for name, value in metrics:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            yield f"the metric {name!r} of `model-index` is {value!r}, not a finite number"


def _license_problems(metadata: dict[str, Any], body: str, folder: Path) -> Iterator[str]:
    """A license that is missing, or looser than that of linked results of training."""
    license_id = metadata.get("license")
    if not isinstance(license_id, str):
        yield f"`license` is {license_id!r}; give the id of one license, as the Hub writes it"
        return
    if license_id == "other" and not metadata.get("license_name"):
        yield "`license` is 'other', which needs a `license_name`"
    for link in _relative_links(body):
        path = folder / link
        if path.suffix != ".json" or not path.is_file():
            continue
        try:
            results = read_json(path)
            if results.get("schema") == SCHEMA:
                Results.read(path)
                continue
            results = read_results(path)
        except (ValueError, OSError) as error:
            yield f"the linked file {link} cannot be read: {' '.join(str(error).split())}"
            continue
        try:
            refuse_looser(license_id, known_licenses(results) if "modules" in results else [])
        except ValueError as error:
            yield f"`license` is not what {link} allows: {error}"


def _link_problems(body: str, folder: Path) -> Iterator[str]:
    for link in _links(body):
        if _ELSEWHERE.match(link) and not link.startswith(_WEB):
            yield f"the link to {link} leads to a place on this machine, and nowhere from the Hub"
    for link in _relative_links(body):
        if not (folder / link).exists():
            yield f"the link to {link} is dead"


def _links(body: str) -> list[str]:
    """Targets of links and pictures, each once."""
    prose = re.sub(r"```.*?```|`[^`\n]*`|<code>.*?</code>", " ", body, flags=re.DOTALL)
    return list(dict.fromkeys(next(filter(None, found)) for found in _LINK.findall(prose)))


def _relative_links(body: str) -> list[str]:
    """Targets of links and pictures that are files next to the card, each once."""
    links = [link for link in _links(body) if not _ELSEWHERE.match(link)]
    return list(dict.fromkeys(unquote(link.split("#")[0]) for link in links))
