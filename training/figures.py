"""Figures: how a card writes them, and which of them a file holds.

A card is checked by rounding every number of its sources as the card's writer does, so both use `decimal`.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modeling_sim import SimConfig
from training.arguments import DataArguments, ModelArguments, PretrainingArguments, read_settings

# Counts for every class and pair of classes would let nearly any number pass.
_NOT_FIGURES = ("confusion", "recall_by_class", "precision_by_class", "classes")


def decimal(value: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """A number with a fixed count of decimals, a dash for none; the check rounds the same way."""
    if value is None:
        return "-"
    return f"{value:{'+' if signed else ''}.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share in percent."""
    return "-" if value is None else f"{decimal(100 * value, digits)} %"


def points(value: float | None, digits: int = 1) -> str:
    """A difference of shares in percentage points, with its sign."""
    return "-" if value is None else f"{decimal(100 * value, digits, signed=True)} points"


def count(value: float | None) -> str:
    """A whole number with thousands apart; other numbers in as many digits as they have."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if float(value).is_integer() else repr(value)


# ---------------------------------------------------------------------- figures of files


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


def settings_of_file(path: Path) -> dict[str, Any]:
    """Every setting of a run that a settings file starts: its own, and defaults."""
    return {**asdict(DataArguments()), **asdict(PretrainingArguments()), **read_settings(path)}


def config_of_file(path: Path) -> SimConfig:
    """The configuration of the model that a settings file trains."""
    settings = read_settings(path)
    return SimConfig.preset(settings.get("preset", ModelArguments.preset), **settings.get("model_settings", {}))


def field_milliseconds(config: SimConfig, module: int) -> float:
    """Receptive field of a module in milliseconds."""
    return 1000 * config.receptive_field(module) / config.sampling_rate


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
