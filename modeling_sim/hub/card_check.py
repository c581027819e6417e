"""Checks a model card: its metadata, its links, and that every figure in it was measured."""

import html
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml
from huggingface_hub.errors import StrictDataclassError

from modeling_sim import SimConfig
from modeling_sim.data.licenses import known_licenses, refuse_looser
from modeling_sim.files import read_json
from modeling_sim.hub.card_parts import config_of_file, field_milliseconds, settings_of_file
from modeling_sim.text import decimal, printable

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


# Numbers that no file holds: the level of every interval, the chance of a triple, ranges of amplitudes, names of
# licences, versions, references, and the numbers of a list.
_FIXED_PHRASES = re.compile(
    r"95 % interval|chance is 50 %|\[-1, 1\]|N\(0, I\)|CC BY[A-Z-]* \d\.\d|Apache-2\.0"
    r"|\b(?:version|python|pytorch|torch|transformers|cuda)[ =<>]*\d+(?:\.\d+)*|\[\d+\]|\b(?:arxiv|doi):\S+"
    r"|^\s*\d+\. ",
    flags=re.IGNORECASE | re.MULTILINE,
)


# A bare number like 2019 is a year, unless it stands alone in a cell of a table or counts something ("2000 crops").
_YEAR = re.compile(r"(?<![\w.,-])(?:19|20)\d\d(?!\w|[.,]\d| %| points| [a-z]{4,}s\b| k?Hz| *\|)")


_NOT_PROSE = re.compile(
    r"```.*?```|`[^`\n]*`|<code>.*?</code>|\]\([^)]*\)|^\s*\[[^\]\n]+\]:\s*\S+|https?://\S+|<!--.*?-->|</?[A-Za-z][^>\n]*>",
    flags=re.DOTALL | re.MULTILINE,
)


_FIGURE = re.compile(r"(?<![\w.,-])([-+]?)(\d[\d,]*)(\.\d+)?(?!\.?\d)(?!\w)( ?(?:%|points|kHz))?")


_FACTORS = {"%": 100, "points": 100, "kHz": 1e-3}


_LINK = re.compile(
    r"\]\(<?([^)\s>]+)[^)]*\)|(?:src|href)=[\"']([^\"']+)[\"']|^\s*\[[^\]\n]+\]:\s*(\S+)|<([a-z]+:[^>\s]+)>",
    flags=re.MULTILINE,
)


# How a link starts that leads to no file beside the card.
_ELSEWHERE = re.compile(r"[A-Za-z]+:|[/~\\#]")


_WEB = ("http:", "https:", "mailto:", "#")


def check_card(card: str | Path, folder: str | Path | None = None) -> list[str]:
    """What is wrong with a card, one sentence each; nothing if all is well.

    Checked are the licence, pipeline tag and languages, a licence that is looser than the linked results allow, metrics
    that are missing or not finite, text of a template that was left in, links and pictures that are dead or lead to
    this machine, and figures: every number of the text and every metric must be a value in a JSON file or settings file
    that the card links to. Decimals and percentages may be rounded, as may whole numbers from 10 on. Years, versions,
    names of modules and whatever stands as code are no figures.
    A figure that stands in the wrong place of a card is not found: cards are rendered, not typed, for that.

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
    sources, problems = _read_sources(body, folder)
    return [
        *_metadata_problems(metadata),
        *_license_problems(metadata, sources),
        *_metric_problems(metadata, sources.values),
        *_link_problems(body, folder),
        *problems,
        *_figure_problems(body, sources),
    ]


@dataclass
class _Sources:
    """What the files that a card links to hold."""

    values: list[float]
    texts: list[str]
    licenses: dict[str, list[str]]
    """What binds the model, by the name of the results that say so."""


def _read_sources(body: str, folder: Path) -> tuple[_Sources, list[str]]:
    sources, problems = _Sources([], [], {}), []
    for link in dict.fromkeys(_relative_links(body)):
        path = folder / link
        if path.suffix not in (".json", ".yaml") or not path.is_file():
            continue
        try:
            if path.suffix == ".yaml":
                sources.values += values_of_settings(path)
                continue
            read = read_json(path)
            sources.values += values_of(read, path)
            sources.texts += texts_of(read)
            if "modules" in read:
                sources.licenses[link] = known_licenses(read)
        except (ValueError, TypeError, KeyError, OSError, StrictDataclassError) as error:
            problems.append(f"the linked file {link} cannot be read: {' '.join(str(error).split())}")
    return sources, problems


def _metadata_problems(metadata: dict[str, Any]) -> Iterator[str]:
    license_id, tag = metadata.get("license"), metadata.get("pipeline_tag")
    if not isinstance(license_id, str) or license_id not in _LICENSES:
        yield f"`license` is {license_id!r}, which the Hub does not know"
    if license_id == "other" and not metadata.get("license_name"):
        yield "`license` is 'other', which needs a `license_name`"
    if not isinstance(tag, str) or tag not in _PIPELINE_TAGS:
        yield f"`pipeline_tag` is {tag!r}; choose one of {', '.join(sorted(_PIPELINE_TAGS))}"
    languages = metadata.get("language") or []
    for language in languages if isinstance(languages, list) else [languages]:
        if not isinstance(language, str) or language not in _KNOWN_LANGUAGES:
            yield f"`language` has {language!r}, which is not a language code such as en"


def _license_problems(metadata: dict[str, Any], sources: _Sources) -> Iterator[str]:
    license_id = metadata.get("license")
    if not isinstance(license_id, str) or license_id not in _LICENSES:
        return  # said already
    for link, known in sources.licenses.items():
        try:
            refuse_looser(license_id, known)
        except ValueError as error:
            yield f"`license` is not what {link} allows: {error}"


def _metric_problems(metadata: dict[str, Any], values: Sequence[float]) -> Iterator[str]:
    try:
        metrics = [
            (metric.get("name") or metric.get("type"), metric.get("value"))
            for model in metadata.get("model-index") or []
            for result in model.get("results") or []
            for metric in result.get("metrics") or [{}]
        ]
    except (AttributeError, TypeError):  # a text or number where a list or mapping belongs
        yield "`model-index` is not a list of models with a list of `results`, each with a list of `metrics`"
        return
    if not metrics:
        yield "`model-index` has no metric"
    for name, value in metrics:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            yield f"the metric {name!r} of `model-index` is {value!r}, not a finite number"
        elif not any(round(known, 4) == round(value, 4) for known in values):
            yield f"the metric {name!r} of `model-index` is {value}, which no linked file holds"


def _link_problems(body: str, folder: Path) -> Iterator[str]:
    for link in dict.fromkeys(_links(body)):
        if _ELSEWHERE.match(link) and not link.startswith(_WEB):
            yield f"the link to {link} leads to a place on this machine, and nowhere from the Hub"
    for link in dict.fromkeys(_relative_links(body)):
        if not (folder / link).exists():
            yield f"the link to {link} is dead"


def _figure_problems(body: str, sources: _Sources) -> Iterator[str]:
    if "More Information Needed" in body:
        yield "'[More Information Needed]' was left in"
    known: dict[tuple[int, str], set[str]] = {}
    for found in _FIGURE.finditer(_prose(body, sources.texts)):
        sign, whole, fraction, unit = found.groups()
        digits, unit = len(fraction or ".") - 1, (unit or "").strip()
        if (digits, unit) not in known:
            known[digits, unit] = _written(sources.values, digits, unit)
        figure = f"{'-' if sign == '-' else ''}{whole.replace(',', '')}{fraction or ''}"
        if figure not in known[digits, unit]:
            yield f"the figure {found.group().strip()} is in no linked file"


def _written(values: Sequence[float], digits: int, unit: str) -> set[str]:
    """How cards write values with so many decimals, in a unit."""
    scaled = [value * _FACTORS.get(unit, 1) for value in values]
    if digits == 0 and not unit:  # rounded to nothing, any share would be a 0 or a 1
        scaled = [value for value in scaled if abs(value) >= 10 or float(value).is_integer()]
    return {decimal(value, digits) for value in scaled}


def _prose(body: str, texts: Sequence[str]) -> str:
    """The text of a card without code, targets of links, and numbers that are no figures."""
    prose = html.unescape(_NOT_PROSE.sub(" ", body))
    for text in sorted(set(map(printable, texts)), key=len, reverse=True):
        if text in prose:
            prose = re.sub(rf"(?<!\w){re.escape(text)}(?!\w)", " ", prose)
    return _YEAR.sub(" ", _FIXED_PHRASES.sub(" ", prose))


def _links(body: str) -> list[str]:
    """Targets of links and pictures."""
    prose = re.sub(r"```.*?```|`[^`\n]*`|<code>.*?</code>", " ", body, flags=re.DOTALL)
    return [next(filter(None, found)) for found in _LINK.findall(prose)]


def _relative_links(body: str) -> list[str]:
    """Targets of links and pictures that are files beside the card."""
    links = [link for link in _links(body) if not _ELSEWHERE.match(link)]
    return [unquote(link.split("#")[0]) for link in links]


# Counts for every class and pair of classes would let nearly any number pass.
_NOT_FIGURES = ("confusion", "recall_by_class", "precision_by_class", "classes")


def values_of_settings(path: Path) -> Iterator[float]:
    """Every number that a card may take from a settings file."""
    settings, config = settings_of_file(path), config_of_file(path)
    yield settings["crop_samples"] / config.sampling_rate
    yield from _numbers(settings)
    yield from _config_values(config)


def values_of(read: Mapping[str, Any], path: Path) -> Iterator[float]:
    """Every number that a card may take from what a JSON file at `path` holds."""
    yield from _numbers(read)
    yield from _derived_values(read)
    if read.get("model_type") == SimConfig.model_type:
        yield from _config_values(SimConfig.from_dict(dict(read)))
    if isinstance(settings := read.get("settings"), dict) and "crop_samples" in settings:
        config_path = path.with_name("config.json")
        rate = read_json(config_path)["sampling_rate"] if config_path.is_file() else SimConfig.sampling_rate
        yield settings["crop_samples"] / rate


def _derived_values(read: Mapping[str, Any]) -> Iterator[float]:
    """What cards count in results: all utterances of a run, and classes."""
    train, test = read.get("train_utterances"), read.get("test_utterances")
    if isinstance(train, int) and isinstance(test, int):
        yield train + test
    if isinstance(classes := read.get("classes"), list):
        yield len(classes)


def _config_values(config: SimConfig) -> Iterator[float]:
    yield from _numbers(config.to_dict())
    yield from config.kl_weights
    yield config.num_modules
    yield from (len(kernels) for kernels in config.conv_kernel)
    for module in range(config.num_modules):
        yield from (config.frame_rate(module), field_milliseconds(config, module))
        yield from (config.receptive_field(module), config.hop_length(module))


def _numbers(value: Any) -> Iterator[float]:
    """Numbers anywhere in a value as JSON holds it."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            if name not in _NOT_FIGURES:
                yield from _numbers(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        yield value


def texts_of(value: Any) -> Iterator[str]:
    """Texts anywhere in a value as JSON holds it that have a number in them, such as the name of a module or device."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from texts_of(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from texts_of(item)
    elif isinstance(value, str) and re.search(r"\d", value) and re.search(r"[^\W\d_]", value):
        yield value
