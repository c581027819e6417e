"""Checkpoints by folder or Hub id: models, decoders, extractors, and their names in tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx2
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    PreTrainedConfig,
    PreTrainedModel,
    SequenceFeatureExtractor,
)

from modeling_sim import SimConfig, SimDecoder, SimDecoderConfig, SimModel

# Types of models whose encoder makes a latent per `hop_length` samples.
_CODECS = ("dac", "encodec", "mimi")

# How long the Hub may take to say whether it has a model.
_HUB_TIMEOUT_SECONDS = 5


def feature_extractor_of(path: str) -> SequenceFeatureExtractor:
    """The feature extractor of a checkpoint.

    Raises:
        FileNotFoundError: There is no such folder, and no such model in the cache or on the Hub.
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
        FileNotFoundError: There is no such folder, and no such model in the cache or on the Hub.
    """
    check_encoder(path)
    return AutoModel.from_pretrained(path).float().eval()


def load_audio_encoder(path: str) -> PreTrainedModel:
    """An encoder of this family, or another one of transformers whose frames have a known place in time.

    Raises:
        ValueError: The checkpoint is neither a SIM encoder, nor a speech encoder with a convolutional front end
            (wav2vec2, HuBERT, WavLM, data2vec-audio, ...), nor a codec (DAC, EnCodec, Mimi).
        FileNotFoundError: There is no such folder, and no such model in the cache or on the Hub.
    """
    config = _config_of(path)
    if config.model_type == SimConfig.model_type:
        return load_encoder(path)
    has_convolutions = hasattr(config, "conv_kernel") and hasattr(config, "conv_stride")
    if not is_codec(config) and (config.is_encoder_decoder or not has_convolutions):
        raise ValueError(
            f"{path} is a model of type {config.model_type!r}; give a SIM encoder, a speech encoder such as wav2vec2, "
            f"HuBERT, WavLM or data2vec-audio, or a codec ({', '.join(_CODECS)})."
        )
    model: PreTrainedModel = AutoModel.from_pretrained(path).float().eval()
    return model


def is_codec(config: PreTrainedConfig) -> bool:
    """Whether a configuration is of a codec whose encoder can be measured."""
    return config.model_type in _CODECS


def load_decoder(path: str) -> SimDecoder:
    """A decoder, in float32 and in evaluation mode; raises as `load_encoder`."""
    _check_kind(path, SimDecoderConfig.model_type, "a decoder")
    return AutoModel.from_pretrained(path).float().eval()


def check_encoder(path: str) -> None:
    """Refuses what is no checkpoint of an encoder, by its configuration alone; raises as `load_encoder`."""
    _check_kind(path, SimConfig.model_type, "an encoder")


def _check_kind(path: str, model_type: str, kind: str) -> None:
    found = _config_of(path).model_type
    if found != model_type:
        raise ValueError(f"{path} is a model of type {found!r}, not {kind} ({model_type!r}).")


def _config_of(path: str) -> PreTrainedConfig:
    _check_place(path)
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(path)
    except OSError as error:
        raise FileNotFoundError(f"{path} has no configuration that can be read: {_one_line(error)}") from error
    return config


def _check_place(path: str) -> None:
    """Refuses what is neither a folder nor a model that is in the cache or on the Hub.

    The Hub is asked once: transformers asks six times, with pauses, when there is no network.
    """
    if Path(path).is_dir():
        return
    if path.startswith(("/", ".", "~")):
        raise FileNotFoundError(f"{path} is not a folder; give a checkpoint's folder, or a Hub id as org/name.")
    try:
        if not isinstance(try_to_load_from_cache(path, "config.json"), str):
            get_hf_file_metadata(hf_hub_url(path, "config.json"), timeout=_HUB_TIMEOUT_SECONDS)
    except (httpx2.HTTPError, OSError, HFValidationError) as error:
        raise FileNotFoundError(
            f"{path} is not a folder, and not a model that the Hub gives now ({_one_line(error)}); give a checkpoint's "
            "folder, or the id of a model on the Hub as org/name, which needs the network the first time."
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def module_numbers(config: SimConfig, modules: str) -> list[int]:
    """Modules that a flag names: "all", or numbers and "context" with commas between.

    Raises:
        ValueError: There is no such module.
    """
    names = {str(module): module for module in range(config.num_modules)}
    if config.context_size:
        names["context"] = config.num_modules - 1
    return chosen_numbers(names, modules)


def chosen_numbers(names: Mapping[str, int], chosen: str, setting: str = "modules") -> list[int]:
    """Numbers that a setting names: "all", or some of the names with commas between.

    Args:
        names: Numbers by name.
        chosen: Value of the setting.
        setting: Name of the setting, for the message.

    Raises:
        ValueError: A name is unknown.
    """
    if chosen == "all":
        return list(dict.fromkeys(names.values()))
    wanted = [name.strip() for name in chosen.split(",")]
    for name in wanted:
        if name not in names:
            raise ValueError(f"`{setting}` names {name!r}; choose from {', '.join(names)}, or give 'all'.")
    return [names[name] for name in wanted]
