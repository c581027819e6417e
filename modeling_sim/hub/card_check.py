"""Checks a model card: its metadata, its license, its links and images, and whether its template is filled in."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

from modeling_sim.data.licenses import check_license
from modeling_sim.evaluation.results import SCHEMA, Results
from modeling_sim.files import read_json, read_results
from modeling_sim.text import in_one_line

_LINK = re.compile(
    r"\]\(<?([^)\s>]+)[^)]*\)|(?:src|href)=[\"']([^\"']+)[\"']|^\s*\[[^\]\n]+\]:\s*(\S+)|<([a-z]+:[^>\s]+)>",
    flags=re.MULTILINE,
)


# Start of a link that is not a path relative to the card.
_ELSEWHERE = re.compile(r"[A-Za-z]+:|[/~\\#]")


_WEB = ("http:", "https:", "mailto:", "#")


def check_card(card: str | Path, folder: str | Path | None = None) -> list[str]:
    """Lists the problems of a card, one sentence each; an empty list for a valid card.

    Problems are invalid YAML, a missing license, metrics that are not finite numbers, a license that is less strict
    than the linked results require, placeholders of the template, and links and images that are broken or point to this
    machine. The Hub checks before an upload whether licenses, tags and languages exist.

    Args:
        card: The text, or the path of its file.
        folder: Base of relative links; by default the folder of the card.

    Raises:
        FileNotFoundError: The card does not exist.
        ValueError: A text is given without a folder.
    """
    if isinstance(card, Path):
        folder = Path(folder or card.parent)
        try:
            text = card.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            return [f"the card is not UTF-8 text: {error}"]
    elif folder is None:
        raise ValueError("a card given as text needs `folder`, the base of its links.")
    else:
        text, folder = card, Path(folder)
    header = re.match(r"---\n(.*?)\n---\n", text, flags=re.DOTALL)
    if header is None:
        return ["the card has no metadata between `---` lines"]
    try:
        metadata = yaml.safe_load(header[1])
    except yaml.YAMLError as error:
        return [f"the metadata is not valid YAML: {in_one_line(error)}"]
    if not isinstance(metadata, dict):
        return ["the metadata does not consist of `key: value` lines"]
    body = text[header.end() :]
    problems = [*_metric_problems(metadata), *_license_problems(metadata, body, folder), *_link_problems(body, folder)]
    if "More Information Needed" in body:
        problems.append("a placeholder '[More Information Needed]' is not filled in")
    return problems


def _metric_problems(metadata: dict[str, Any]) -> Iterator[str]:
    try:
        metrics = [
            (metric.get("name") or metric.get("type"), metric.get("value"))
            for model in metadata.get("model-index") or []
            for result in model.get("results") or []
            for metric in result.get("metrics") or []
        ]
    except (AttributeError, TypeError):  # a text or number instead of a list or mapping
        yield "`model-index` is not a list of models with a list of `results`, each with a list of `metrics`"
        return
    for name, value in metrics:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            yield f"the metric {name!r} of `model-index` is {value!r}; it must be a finite number"


def _license_problems(metadata: dict[str, Any], body: str, folder: Path) -> Iterator[str]:
    """Reports a license that is missing, or less strict than that of linked training results."""
    license_id = metadata.get("license")
    if not isinstance(license_id, str):
        yield f"`license` is {license_id!r}; give one license identifier of the Hub"
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
            yield f"cannot read the linked file {link}: {in_one_line(error)}"
            continue
        try:
            if "modules" in results:
                check_license(license_id, results)
        except ValueError as error:
            yield f"`license` conflicts with {link}: {error}"


def _link_problems(body: str, folder: Path) -> Iterator[str]:
    for link in _links(body):
        if _ELSEWHERE.match(link) and not link.startswith(_WEB):
            yield f"the link to {link} points to this machine; use a relative path or a web address"
    for link in _relative_links(body):
        if not (folder / link).exists():
            yield f"the link to {link} is broken"


def _links(body: str) -> list[str]:
    """Targets of links and images, each once."""
    prose = re.sub(r"```.*?```|`[^`\n]*`|<code>.*?</code>", " ", body, flags=re.DOTALL)
    return list(dict.fromkeys(next(filter(None, found)) for found in _LINK.findall(prose)))


def _relative_links(body: str) -> list[str]:
    """Targets of links and images relative to the card, each once."""
    links = [link for link in _links(body) if not _ELSEWHERE.match(link)]
    return list(dict.fromkeys(unquote(link.split("#")[0]) for link in links))
