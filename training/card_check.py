"""Checks a model card: its metadata, its links, and that every figure in it was measured."""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from training.figures import decimal, values_of

_LICENSES = frozenset(
    {
        "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause", "cc",
        "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0",
        "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0",
        "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "gpl", "gpl-2.0", "gpl-3.0", "lgpl",
        "lgpl-2.1", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "isc", "odc-by", "odbl", "pddl", "unlicense", "wtfpl",
        "unknown", "other",
    }
)  # fmt: skip
_PIPELINE_TAGS = frozenset(
    {
        "feature-extraction", "audio-classification", "automatic-speech-recognition", "audio-to-audio",
        "text-to-speech", "text-to-audio", "voice-activity-detection", "other",
    }
)  # fmt: skip
_KNOWN_LANGUAGES = frozenset(
    {
        "ar", "bg", "bn", "ca", "cs", "cy", "da", "de", "el", "en", "es", "et", "eu", "fa", "fi", "fr", "ga",
        "gl", "he", "hi", "hr", "hu", "id", "is", "it", "ja", "ka", "ko", "lt", "lv", "mk", "mn", "mr", "ms",
        "mt", "nb", "nl", "nn", "no", "pl", "pt", "ro", "ru", "sk", "sl", "sq", "sr", "sv", "sw", "ta", "te",
        "th", "tr", "uk", "ur", "vi", "yue", "zh", "multilingual",
    }
)  # fmt: skip
# Numbers that no file holds: the level of every interval, the chance of a triple, names of licences.
_FIXED_PHRASES = re.compile(r"95 % interval|chance is 50 %|CC BY[A-Z-]* \d\.\d|Apache-2\.0")
_NOT_PROSE = re.compile(r"```.*?```|`[^`\n]*`|\]\([^)]*\)|https?://\S+|<!--.*?-->", flags=re.DOTALL)
_FIGURE = re.compile(r"(?<![\w.,-])([-+]?)(\d[\d,]*)(\.\d+)?(?!\.?\d)(?!\w)( ?(?:%|points))?")
_LINK = re.compile(r"\]\(([^)\s]+)[^)]*\)|(?:src|href)=[\"']([^\"']+)[\"']")


def check_card(card: str | Path, folder: str | Path | None = None) -> list[str]:
    """What is wrong with a card, one sentence each; nothing if all is well.

    Checked are the licence, pipeline tag and languages, metrics that are missing or not finite, text of a template that
    was left in, relative links and pictures, and figures: every number with a decimal point, every percentage and every
    metric must be a value, rounded, in a JSON file or settings file that the card links to.
    A figure that stands in the wrong place of a card is not found: cards are rendered, not typed, for that.

    Args:
        card: The text, or the path of the file that holds it.
        folder: What relative links start from; the card's own folder if `None`.

    Raises:
        FileNotFoundError: The card is not there.
        ValueError: A text is given without a folder.
    """
    if isinstance(card, Path):
        text, folder = card.read_text(encoding="utf-8"), Path(folder or card.parent)
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
    values = [value for path in _linked_files(body, folder) for value in values_of(path)]
    return [
        *_metadata_problems(metadata),
        *_metric_problems(metadata, values),
        *_link_problems(body, folder),
        *_figure_problems(body, values),
    ]


def _metadata_problems(metadata: dict[str, Any]) -> Iterator[str]:
    license_id = metadata.get("license")
    if license_id not in _LICENSES:
        yield f"`license` is {license_id!r}, which the Hub does not know"
    if license_id == "other" and not metadata.get("license_name"):
        yield "`license` is 'other', which needs a `license_name`"
    if metadata.get("pipeline_tag") not in _PIPELINE_TAGS:
        yield f"`pipeline_tag` is {metadata.get('pipeline_tag')!r}; choose one of {', '.join(sorted(_PIPELINE_TAGS))}"
    languages = metadata.get("language") or []
    for language in [languages] if isinstance(languages, str) else languages:
        if language not in _KNOWN_LANGUAGES:
            yield f"`language` has {language!r}, which is not a language code such as en"


def _metric_problems(metadata: dict[str, Any], values: Sequence[float]) -> Iterator[str]:
    metrics = [
        (metric.get("name") or metric.get("type"), metric.get("value"))
        for model in metadata.get("model-index") or []
        for result in model.get("results") or []
        for metric in result.get("metrics") or [{}]
    ]
    if not metrics:
        yield "`model-index` has no metric"
    for name, value in metrics:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            yield f"the metric {name!r} of `model-index` is {value!r}, not a finite number"
        elif not any(round(known, 4) == round(value, 4) for known in values):
            yield f"the metric {name!r} of `model-index` is {value}, which no linked file holds"


def _link_problems(body: str, folder: Path) -> Iterator[str]:
    for link in _relative_links(body):
        if not (folder / link).exists():
            yield f"the link to {link} is dead"


def _figure_problems(body: str, values: Sequence[float]) -> Iterator[str]:
    if "More Information Needed" in body:
        yield "'[More Information Needed]' was left in"
    prose = _FIXED_PHRASES.sub(" ", _NOT_PROSE.sub(" ", body))
    known: dict[tuple[int, bool], set[str]] = {}
    for found in _FIGURE.finditer(prose):
        sign, whole, fraction, unit = found.groups()
        if fraction is None and unit is None:
            continue
        digits, is_share = len(fraction or ".") - 1, unit is not None
        if (digits, is_share) not in known:
            known[digits, is_share] = {decimal(100 * value if is_share else value, digits) for value in values}
        figure = f"{'-' if sign == '-' else ''}{whole.replace(',', '')}{fraction or ''}"
        if figure not in known[digits, is_share]:
            yield f"the figure {found.group().strip()} is in no linked file"


def _relative_links(body: str) -> list[str]:
    """Targets of links and pictures that are files beside the card."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", " ", body, flags=re.DOTALL)
    links = [markdown or html for markdown, html in _LINK.findall(prose)]
    return [link.split("#")[0] for link in links if not re.match(r"[a-z]+:|#", link)]


def _linked_files(body: str, folder: Path) -> list[Path]:
    """JSON and settings files that a card links to and that are there."""
    paths = [folder / link for link in dict.fromkeys(_relative_links(body))]
    return [path for path in paths if path.suffix in (".json", ".yaml") and path.is_file()]
