"""Loads models, decoders and feature extractors by folder or Hub id, and shortens their names for tables."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.tokenization_utils_base import TOKENIZER_CONFIG_FILE
from transformers.utils import FEATURE_EXTRACTOR_NAME, SAFE_WEIGHTS_NAME, logging

import modeling_sim
from modeling_sim import SimConfig, SimDecoder, SimDecoderConfig, SimModel
from modeling_sim.files import read_json
from modeling_sim.settings import check_checkpoint, chosen_numbers
from modeling_sim.text import in_one_line

# Tensors that only masking in training needs, and that public checkpoints, for example of wav2vec2, lack.
_ONLY_FOR_TRAINING = r"(.*\.)?masked_spec_embed"

# Model types whose encoder returns one latent per `hop_length` samples.
_CODECS = ("dac", "encodec", "mimi")


def feature_extractor_of(path: str) -> Any:
    """The feature extractor of a checkpoint; the image processor or the tokenizer, for a model of images or text.

    Raises:
        FileNotFoundError: The checkpoint is neither a folder nor a model in the cache or on the Hub.
        OSError: The checkpoint has no feature extractor.
        ValueError: The file of the feature extractor is damaged.
    """
    kind = _input_kind(_config_of(path))
    auto: Any = {"patches": AutoImageProcessor, "tokens": AutoTokenizer}.get(kind, AutoFeatureExtractor)
    file = Path(path, TOKENIZER_CONFIG_FILE if kind == "tokens" else FEATURE_EXTRACTOR_NAME)
    if file.is_file():
        read_json(file)  # transformers reports damaged files like missing ones, or without their names
    return auto.from_pretrained(path)


def names_of(paths: Sequence[str]) -> list[str]:
    """Names for tables: Hub ids, and the last parts of folders, as many as are needed to tell them apart."""
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


def default_device(name: str | None) -> str:
    """The given device; for `None` a GPU if available, otherwise the CPU. Raises like `check_device`."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(name)
    return name


def load_encoder(path: str) -> SimModel:
    """The encoder of waveforms of a checkpoint, in float32 and in evaluation mode.

    Raises:
        ValueError: The checkpoint has a different model type, for example that of a decoder, or reads images or text;
            or its weights are damaged, incomplete or of other shapes than those of its configuration.
        FileNotFoundError: The checkpoint is neither a folder nor a model in the cache or on the Hub.
    """
    return _encoder(path, _config_of(path))


def load_audio_encoder(path: str) -> PreTrainedModel:
    """A SIM encoder, or an encoder of transformers whose frames can be aligned with the waveform.

    Raises:
        ValueError: The checkpoint is neither a SIM encoder, nor a speech encoder with a convolutional front end
            (wav2vec2, HuBERT, WavLM, data2vec-audio, ...), nor a codec (DAC, EnCodec, Mimi); or its weights are
            damaged, incomplete or of other shapes than those of its configuration.
        FileNotFoundError: The checkpoint is neither a folder nor a model in the cache or on the Hub.
    """
    config = _config_of(path)
    if config.model_type == SimConfig.model_type:
        return _encoder(path, config)
    has_convolutions = hasattr(config, "conv_kernel") and hasattr(config, "conv_stride")
    if not is_codec(config) and (config.is_encoder_decoder or not has_convolutions):
        raise ValueError(
            f"{path} has model type {config.model_type!r}; give a SIM encoder, a speech encoder such as wav2vec2, "
            f"HuBERT, WavLM or data2vec-audio, or a codec ({', '.join(_CODECS)})."
        )
    return _load(path, config)


def is_codec(config: PreTrainedConfig) -> bool:
    """Whether a model is a codec whose encoder can be measured."""
    return config.model_type in _CODECS


def is_classifier(config: PreTrainedConfig) -> bool:
    """Whether a model was saved as a classifier: its encoder was trained on a label and has no contrastive loss."""
    return any(name.endswith("Classification") for name in config.architectures or [])


def load_decoder(path: str) -> SimDecoder:
    """A decoder, in float32 and in evaluation mode; raises like `load_encoder`."""
    config = _config_of(path)
    _check_type(path, config, SimDecoderConfig.model_type, "a decoder")
    return _load(path, config)


def check_encoder(path: str) -> None:
    """Checks that a checkpoint holds an encoder, by its configuration; raises like `load_encoder`."""
    _check_type(path, _config_of(path), SimConfig.model_type, "an encoder")


def check_reads_audio(path: str) -> None:
    """Checks by its configuration that a checkpoint reads waveforms.

    Raises:
        ValueError: It reads images or text.
        FileNotFoundError: The checkpoint is neither a folder nor a model in the cache or on the Hub.
    """
    _check_reads_audio(path, _config_of(path))


def check_weights(path: str) -> None:
    """Checks that a checkpoint loads as the class of this package that it was saved from; raises like `load_model`."""
    config = _config_of(path)
    load_model(getattr(modeling_sim, (config.architectures or [""])[0], AutoModel), path, config)


def load_model(model_class: Any, path: str, config: PreTrainedConfig, *, may_be_new: str = "") -> Any:
    """The model of a checkpoint, with all of its weights, in float32 and in evaluation mode.

    Args:
        model_class: Class of the model, or an Auto class.
        path: Folder or Hub id.
        config: Configuration of the model.
        may_be_new: Regular expression for the names of tensors that are initialized if the checkpoint lacks them or has
            them in another shape; by default none.

    Raises:
        ValueError: The weights are damaged or not finite, tensors are missing, or they have other shapes than those of
            `config`.
    """
    file = Path(path, SAFE_WEIGHTS_NAME)
    weights = str(file if file.is_file() else path)
    try:
        with _quiet():
            model, found = model_class.from_pretrained(
                path, config=config, output_loading_info=True, ignore_mismatched_sizes=True
            )
    except (SafetensorError, EOFError, RuntimeError, UnpicklingError) as error:  # the others are of torch.load
        raise ValueError(
            f"{weights} cannot be read ({in_one_line(error)}); save or download the model again."
        ) from error
    tensors = model.state_dict()
    required = [name for name in tensors if not re.fullmatch(may_be_new, name)]
    missing = [name for name in required if name in found["missing_keys"]]
    if missing:
        raise ValueError(
            f"{weights} lacks {_some(missing)}; save or download it again, or correct the settings of the model."
        )
    shapes = {name: f"{tuple(saved)} instead of {tuple(wanted)}" for name, saved, wanted in found["mismatched_keys"]}
    other = [f"{name} {shapes[name]}" for name in required if name in shapes]
    if other:
        raise ValueError(
            f"{weights} has tensors of other shapes than those of the configuration: {_some(other)}; correct "
            "config.json, or the settings that change it."
        )
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise ValueError(
            f"{weights} has NaN or infinity in {_some(broken)}; perhaps its training diverged. Train it again."
        )
    return model.float().eval()


def _encoder(path: str, config: PreTrainedConfig) -> SimModel:
    _check_type(path, config, SimConfig.model_type, "an encoder")
    _check_reads_audio(path, config)
    return _load(path, config)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the table in which transformers reports wrong tensors, and its progress bar outside of terminals."""
    verbosity = logging.get_verbosity()
    hook = logging.set_tqdm_hook(lambda bar, args, options: bar(*args, **{**options, "disable": None}))
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.set_tqdm_hook(hook)


def _some(names: Sequence[str], most: int = 4) -> str:
    """The first names, and how many others there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _load(path: str, config: PreTrainedConfig) -> Any:
    return load_model(AutoModel, path, config, may_be_new=_ONLY_FOR_TRAINING)


def _check_reads_audio(path: str, config: PreTrainedConfig) -> None:
    kind = _input_kind(config)
    if kind != "waveform":
        raise ValueError(
            f"{path} has `input_kind` {kind!r}, but this command is for models of audio; in Python, "
            "`AutoModel.from_pretrained` loads the model."
        )


def _input_kind(config: PreTrainedConfig) -> str:
    return str(getattr(config, "input_kind", "waveform"))


def _check_type(path: str, config: PreTrainedConfig, model_type: str, role: str) -> None:
    if config.model_type != model_type:
        raise ValueError(f"{path} has model type {config.model_type!r}, which is not {role} ({model_type!r}).")


def _config_of(path: str) -> PreTrainedConfig:
    check_checkpoint("model", path)
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(path)
    except OSError as error:
        raise FileNotFoundError(f"{path} has no readable config.json: {in_one_line(error)}") from error
    return config


def module_numbers(config: SimConfig, modules: str) -> list[int]:
    """Parses a selection of modules: "all", or numbers and "context" separated by commas.

    Raises:
        ValueError: There is no such module.
    """
    return chosen_numbers(_numbers_by_name(config), modules)


def module_number(config: SimConfig, module: str, setting: str = "module") -> int:
    """Parses the name of one module: a number, or "context".

    Args:
        config: Configuration of the encoder.
        module: The name.
        setting: Name of the setting in the error message.

    Raises:
        ValueError: There is no such module.
    """
    names = _numbers_by_name(config)
    if module not in names:
        raise ValueError(f"`{setting}` is {module!r}, which is not one of {', '.join(names)}.")
    return names[module]


def _numbers_by_name(config: SimConfig) -> dict[str, int]:
    names = {str(module): module for module in range(config.num_modules)}
    if config.context_size:
        names["context"] = config.num_modules - 1
    return names
