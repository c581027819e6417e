"""Loads models, decoders and feature extractors by folder or Hub id, and shortens their names for tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)

from modeling_sim import SimConfig, SimDecoder, SimDecoderConfig, SimModel
from modeling_sim.text import in_one_line

# Model types whose encoder gives one latent per `hop_length` samples.
_CODECS = ("dac", "encodec", "mimi")

_HUB_TIMEOUT_SECONDS = 5


def feature_extractor_of(path: str) -> Any:
    """The feature extractor of a checkpoint; the image processor or the tokenizer, for a model of images or text.

    Raises:
        FileNotFoundError: The checkpoint is neither a folder nor a model in the cache or on the Hub.
    """
    kind = getattr(_config_of(path), "input_kind", "waveform")
    auto: Any = {"patches": AutoImageProcessor, "tokens": AutoTokenizer}.get(kind, AutoFeatureExtractor)
    return auto.from_pretrained(path)


def names_of(paths: Sequence[str]) -> list[str]:
    """Names for tables: Hub ids, and as many of the last parts of folders as distinguish them."""
    resolved = [Path(path).resolve().parts if Path(path).is_dir() else (path,) for path in paths]
    longest = max(map(len, resolved))
    for count in range(1, longest + 1):
        names = ["/".join(parts[-count:]) for parts in resolved]
        if len(set(names)) == len(set(resolved)):
            return names
    return names


def check_device(name: str) -> None:
    """Checks that a device is available.

    Raises:
        ValueError: This machine or this build of torch does not have the device.
    """
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"`device` is {name!r}, which cannot be used here ({str(error).splitlines()[0]}).") from error


def load_encoder(path: str) -> SimModel:
    """The encoder of waveforms of a checkpoint, in float32 and in evaluation mode.

    Raises:
        ValueError: The checkpoint has a different model type, for example that of a decoder, or reads images or text.
        FileNotFoundError: The checkpoint is neither a folder nor a model in the cache or on the Hub.
    """
    check_encoder(path)
    model = AutoModel.from_pretrained(path).float().eval()
    if model.config.input_kind != "waveform":
        raise ValueError(
            f"{path} has `input_kind` {model.config.input_kind!r}, but this command reads audio; load the model with "
            "`AutoModel.from_pretrained`."
        )
    return model


def load_audio_encoder(path: str) -> PreTrainedModel:
    """A SIM encoder, or an encoder of transformers whose frames can be aligned with the waveform.

    Raises:
        ValueError: The checkpoint is neither a SIM encoder, nor a speech encoder with a convolutional front end
            (wav2vec2, HuBERT, WavLM, data2vec-audio, ...), nor a codec (DAC, EnCodec, Mimi).
        FileNotFoundError: The checkpoint is neither a folder nor a model in the cache or on the Hub.
    """
    config = _config_of(path)
    if config.model_type == SimConfig.model_type:
        return load_encoder(path)
    has_convolutions = hasattr(config, "conv_kernel") and hasattr(config, "conv_stride")
    if not is_codec(config) and (config.is_encoder_decoder or not has_convolutions):
        raise ValueError(
            f"{path} has model type {config.model_type!r}; give a SIM encoder, a speech encoder such as wav2vec2, "
            f"HuBERT, WavLM or data2vec-audio, or a codec ({', '.join(_CODECS)})."
        )
    model: PreTrainedModel = AutoModel.from_pretrained(path).float().eval()
    return model


def is_codec(config: PreTrainedConfig) -> bool:
    """Whether a model is a codec whose encoder can be measured."""
    return config.model_type in _CODECS


def load_decoder(path: str) -> SimDecoder:
    """A decoder, in float32 and in evaluation mode; raises like `load_encoder`."""
    _check_type(path, SimDecoderConfig.model_type, "a decoder")
    return AutoModel.from_pretrained(path).float().eval()


def check_encoder(path: str) -> None:
    """Checks that a checkpoint holds an encoder, by its configuration; raises like `load_encoder`."""
    _check_type(path, SimConfig.model_type, "an encoder")


def _check_type(path: str, model_type: str, role: str) -> None:
    found = _config_of(path).model_type
    if found != model_type:
        raise ValueError(f"{path} has model type {found!r}, which is not {role} ({model_type!r}).")


def _config_of(path: str) -> PreTrainedConfig:
    _check_place(path)
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(path)
    except OSError as error:
        raise FileNotFoundError(f"{path} has no readable config.json: {in_one_line(error)}") from error
    return config


def _check_place(path: str) -> None:
    """Checks that a path is a folder, or a model in the cache or on the Hub.

    Sends one request: without a network, transformers sends six, with pauses.
    """
    if Path(path).is_dir():
        return
    if path.startswith(("/", ".", "~")):
        raise FileNotFoundError(f"{path} is not a folder; give a checkpoint's folder, or the id of a model on the Hub.")
    try:
        if not isinstance(try_to_load_from_cache(path, "config.json"), str):
            get_hf_file_metadata(hf_hub_url(path, "config.json"), timeout=_HUB_TIMEOUT_SECONDS)
    except (httpx2.HTTPError, OSError, HFValidationError) as error:
        raise FileNotFoundError(
            f"{path} is neither a folder nor a model available on the Hub ({in_one_line(error)}); give a checkpoint's "
            "folder, or the id of a model on the Hub, whose first use needs network access."
        ) from error


def module_numbers(config: SimConfig, modules: str) -> list[int]:
    """Parses a selection of modules: "all", or numbers and "context" separated by commas.

    Raises:
        ValueError: There is no such module.
    """
    names = {str(module): module for module in range(config.num_modules)}
    if config.context_size:
        names["context"] = config.num_modules - 1
    return chosen_numbers(names, modules)


def chosen_numbers(names: Mapping[str, int], chosen: str, setting: str = "modules") -> list[int]:
    """Parses a selection by names: "all", or names separated by commas.

    Args:
        names: Numbers by name.
        chosen: Value of the setting.
        setting: Name of the setting in the error message.

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
