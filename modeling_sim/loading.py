"""Checkpoints by folder or Hub id: models, decoders, extractors, and their names in tables."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, SequenceFeatureExtractor

from modeling_sim import SimConfig, SimDecoder, SimDecoderConfig, SimModel


def feature_extractor_of(path: str) -> SequenceFeatureExtractor:
    """The feature extractor of a checkpoint.

    Raises:
        FileNotFoundError: A path that looks like a folder is none.
    """
    _check_place(path)
    return AutoFeatureExtractor.from_pretrained(path)


def names_of(paths: Sequence[str]) -> list[str]:
    """Names for tables: a Hub id as it is, of a folder as many of its last parts as tell it from the others."""
    resolved = [Path(path).resolve().parts if Path(path).is_dir() else (path,) for path in paths]
    longest = max(map(len, resolved))
    for count in range(1, longest + 1):
        names = ["/".join(parts[-count:]) for parts in resolved]
        if len(set(names)) == len(set(resolved)):
            return names
    return names


def check_device(name: str) -> None:
    """Refuses a device that this machine or this build of torch does not have.

    Raises:
        ValueError: The message names it.
    """
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"`device` is {name!r}, which cannot be used here ({str(error).splitlines()[0]}).") from error


def load_encoder(path: str) -> SimModel:
    """The encoder of a checkpoint, in float32 and in evaluation mode.

    Raises:
        ValueError: The checkpoint is of something else, a decoder for instance.
        FileNotFoundError: A path that looks like a folder is none.
    """
    check_encoder(path)
    return AutoModel.from_pretrained(path).float().eval()


def load_decoder(path: str) -> SimDecoder:
    """A decoder, in float32 and in evaluation mode; raises as `load_encoder`."""
    _check_kind(path, SimDecoderConfig.model_type, "a decoder")
    return AutoModel.from_pretrained(path).float().eval()


def check_encoder(path: str) -> None:
    """Refuses what is no checkpoint of an encoder, by its configuration alone; raises as `load_encoder`."""
    _check_kind(path, SimConfig.model_type, "an encoder")


def _check_kind(path: str, model_type: str, kind: str) -> None:
    _check_place(path)
    try:
        found = AutoConfig.from_pretrained(path).model_type
    except OSError as error:
        reason = " ".join(str(error).split())
        raise FileNotFoundError(
            f"{path} is no checkpoint's folder here, and no model that can be read from the Hub now: {reason}"
        ) from error
    if found != model_type:
        raise ValueError(f"{path} is a model of type {found!r}, not {kind} ({model_type!r}).")


def _check_place(path: str) -> None:
    if path.startswith(("/", ".", "~")) and not Path(path).is_dir():
        raise FileNotFoundError(f"{path} is not a folder; give a checkpoint's folder, or a Hub id as org/name.")


def module_numbers(config: SimConfig, modules: str) -> list[int]:
    """Modules that a flag names: "all", or numbers and "context" with commas between.

    Raises:
        ValueError: There is no such module.
    """
    if modules == "all":
        return list(range(config.num_modules))
    names = {str(module): module for module in range(config.num_modules)}
    if config.context_size:
        names["context"] = config.num_modules - 1
    wanted = [name.strip() for name in modules.split(",")]
    for name in wanted:
        if name not in names:
            raise ValueError(f"`modules` names {name!r}; this model has {', '.join(names)}, or give 'all'.")
    return [names[name] for name in wanted]
