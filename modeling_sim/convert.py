"""Converts checkpoints of earlier code to models of this package; the command is `modeling-sim convert`.

Two code bases wrote checkpoints of these methods, both as the state dict of an `nn.DataParallel`. The prefix `module.`
is optional here, and so is an outer level, `{"state_dict": ...}` or `{"model": ...}`. `{m}` is the index of a module,
`{i}` that of a layer in it:

    method          code             names
    sim, gim, cpc   SIM's authors    fullmodel.{m}.encoder.encoder.{i}.0.* convolution, .{i}.1.* batch norm if any;
                                     until June 2024 `layer {i}` for `{i}`, with a space
                                     fullmodel.{m}.encoder.encoder_mu.*, .encoder_var.* (which sim alone uses)
    gim-lowe, cpc   Löwe et al.      fullmodel.{m}.encoder.model.layer {i}.0.* convolution
    all             both             fullmodel.{m}.autoregressor.gru.*, fullmodel.{m}.loss.predictor.weight

The GRU is a separate module after the convolutional ones, or, in cpc, part of the only module. Checkpoints of Löwe et
al.'s `--remove_BPTT`, in which the GRU's tensors have no suffix `_l0`, are supported too. Modules that are trained
together with a GRU (their `model_splits` 5 and `use_autoregressive`), supervised losses and the "extra layers" of the
SIM authors' CPC have no counterpart here and raise an error.

A converted model reads audio in [-1, 1], like the SIM authors' code. Löwe et al.'s code adds 1456218.75 to samples of a
32-bit scale and divides them by 135303504: 15.87 x + 0.01076 for x in [-1, 1]. Conversion folds this factor and shift
into the first convolution. The result is exact except for the zero padding, which their code adds after the shift:
there, a padded sample is 0.01076 smaller than here. In the first module this affects two samples of the first frame and
at most two of the last frame. In later modules it affects up to two frames at either end, and in the GRU all frames,
with decreasing effect. With untrained weights the difference is 0.5 % of a frame's norm in the first module, and
0.005 % in the GRU.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from huggingface_hub.errors import StrictDataclassError

from modeling_sim import SimConfig, SimFeatureExtractor, SimForPreTraining
from modeling_sim.files import MODEL_NAMES, replacing_folder
from modeling_sim.text import in_one_line

Method = Literal["sim", "gim", "gim-lowe", "cpc"]

# Kernels, strides and paddings of both code bases (van den Oord et al. 2018).
_KERNELS, _STRIDES, _PADDINGS = [10, 8, 4, 4, 4], [5, 4, 2, 2, 2], [2, 2, 2, 2, 1]
# Löwe et al.'s code maps a sample x in [-1, 1] to `(2**31 * x + 1456218.75) / 135303504`.
_LOWE_SCALE, _LOWE_SHIFT = 2**31 / 135303504, 1456218.75 / 135303504

_CONV_NAME = re.compile(r"fullmodel\.(\d+)\.encoder\.(encoder|model)\.(layer )?(\d+)\.(\d+)\.")
_GRU_NAME = re.compile(r"fullmodel\.(\d+)\.autoregressor\.")


@dataclass(frozen=True)
class _Layout:
    """Structure of a model, as read from the names in a checkpoint.

    Args:
        stack: Name of the convolutions' stack: "encoder" in the SIM authors' code, "model" in Löwe et al.'s.
        layer_prefix: Prefix of a layer's number, "layer " or "".
        num_layers: Convolutions of each module.
        use_batch_norm: Whether there is batch normalization.
        context: Module of the GRU; `None` if there is none.
        gru_suffix: Suffix of the names of the GRU's tensors, "_l0" or "".
    """

    stack: str
    layer_prefix: str
    num_layers: tuple[int, ...]
    use_batch_norm: bool
    context: int | None
    gru_suffix: str

    @property
    def is_lowe(self) -> bool:
        """Whether Löwe et al.'s code wrote it."""
        return self.stack == "model"


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Tensors of a checkpoint on the CPU, by name without `module.`; only tensors are unpickled.

    Raises:
        ValueError: The file is not a checkpoint, or holds more than tensors.
        OSError: The file cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"the checkpoint {path} does not exist or is not a file.")
    with path.open("rb") as file:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(_why_not_loaded(path, error)) from error
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path} holds no state dict, neither at the top level nor under 'state_dict' or 'model'.")
    others = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise ValueError(f"{path} holds entries that are not tensors: {', '.join(others)}; give a state dict.")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def convert_state_dict(state_dict: Mapping[str, torch.Tensor], method: Method, /, **settings: Any) -> SimForPreTraining:
    """Converts a state dict to a model, including predictors, in evaluation mode.

    Args:
        state_dict: The result of `read_state_dict`.
        method: The training method: "sim", "gim" in the SIM authors' version, "gim-lowe" or "cpc".
        settings: Fields of `SimConfig` that do not follow from the tensors.

    Raises:
        ValueError: Tensors are missing, unknown, not finite, or have shapes that do not match the method; or a setting
            is invalid or contradicts the tensors.
    """
    if method not in get_args(Method):
        raise ValueError(f"`method` is {method!r}; choose one of {', '.join(get_args(Method))}.")
    layout = _read_layout(state_dict)
    _check_method(layout, method)
    names = _source_names(layout, method)
    _check_names(state_dict, names, method)
    config = _make_config(layout, _infer_settings(layout, state_dict, names, method), method, settings)
    model = SimForPreTraining(config)
    shapes = {target: tuple(tensor.shape) for target, tensor in model.state_dict().items()}
    _check_shapes(state_dict, names, shapes)
    tensors = {
        target: _join([state_dict[source] for source in sources]).reshape(shapes[target])
        for target, sources in names.items()
    }
    if layout.is_lowe:
        first = "sim.conv_modules.0.layers.0.conv"
        weight, bias = tensors[f"{first}.weight"].double(), tensors[f"{first}.bias"].double()
        tensors[f"{first}.weight"] = _LOWE_SCALE * weight
        tensors[f"{first}.bias"] = bias + _LOWE_SHIFT * weight.sum(dim=(1, 2))
    model.load_state_dict(tensors)
    return model.eval()


def save_folder(model: SimForPreTraining, output_dir: str | Path, *, overwrite_output_dir: bool = False) -> None:
    """Writes model, configuration and feature extractor to a folder, complete or not at all.

    Args:
        model: The model.
        output_dir: Folder to write; must be empty or not exist.
        overwrite_output_dir: Replace an earlier model of this package.

    Raises:
        OSError: The folder is not empty or holds other files, or cannot be written; it is then unchanged.
    """
    config = model.config
    extractor = SimFeatureExtractor(sampling_rate=config.sampling_rate, min_samples=config.receptive_field())
    with replacing_folder(output_dir, MODEL_NAMES, overwrite_output_dir=overwrite_output_dir) as folder:
        model.save_pretrained(folder)
        extractor.save_pretrained(folder)


# ---------------------------------------------------------------------- what a checkpoint holds


def _why_not_loaded(path: Path, error: Exception) -> str:
    """The error message for a file that `torch.load` does not read."""
    refused = re.search(r"GLOBAL (\S+)", str(error))
    if refused is None and not _looks_saved_by_torch(path):
        return f"{path} is not a checkpoint that `torch.save` wrote; give the file of a state dict."
    if refused is None:
        return f"{path} is corrupt, or not a checkpoint that `torch.load` can read ({type(error).__name__})."
    return (
        f"{path} holds more than tensors ({refused[1]}), and loading it could run arbitrary code; save only the "
        "model's `state_dict()` where the checkpoint comes from."
    )


def _looks_saved_by_torch(path: Path) -> bool:
    """Whether a file starts like a zip archive or a pickle, the two formats of `torch.save`."""
    with path.open("rb") as file:
        return file.read(2).startswith((b"PK", b"\x80"))


def _read_layout(state_dict: Mapping[str, torch.Tensor]) -> _Layout:
    """Derives the layout from the names; `_check_names` reports names that are missing in it."""
    found = [match for match in map(_CONV_NAME.match, state_dict) if match]
    styles = {(match[2], match[3] or "") for match in found}
    if len(styles) != 1:
        raise ValueError(
            "the checkpoint has no convolutions with the names of one of the two known code bases, for example "
            "`fullmodel.0.encoder.encoder.0.0.weight` or `fullmodel.0.encoder.model.layer 0.0.weight`; the first of "
            f"its {len(state_dict)} names are {', '.join(list(state_dict)[:3])}."
        )
    stack, layer_prefix = styles.pop()
    contexts = {int(match[1]) for match in map(_GRU_NAME.match, state_dict) if match}
    # Assume one layer for a module without tensors between or below others, so that it is reported as missing.
    num_layers = [1] * max(1 + max(int(match[1]) for match in found), *contexts)
    for match in found:
        num_layers[int(match[1])] = max(num_layers[int(match[1])], 1 + int(match[4]))
    if len(contexts) > 1 or (len(num_layers) > 1 and contexts and min(contexts) < len(num_layers)):
        raise ValueError(
            f"modules {', '.join(map(str, sorted(contexts)))} of the checkpoint hold a GRU, and some of them also "
            "convolutions; a GRU must be the last module, or part of the only one (Löwe et al.'s `model_splits` 6 "
            "without `use_autoregressive`, or 1)."
        )
    return _Layout(
        stack=stack,
        layer_prefix=layer_prefix,
        num_layers=tuple(num_layers),
        use_batch_norm=any(match[5] == "1" for match in found),
        context=contexts.pop() if contexts else None,
        gru_suffix="" if any(name.endswith(".gru.weight_ih") for name in state_dict) else "_l0",
    )


def _check_method(layout: _Layout, method: Method) -> None:
    """Raises if the names do not match the method."""
    code, fitting = ("Löwe et al.", ["gim-lowe"]) if layout.is_lowe else ("the SIM authors", ["sim", "gim"])
    has_gru = layout.context == 0
    if has_gru:
        fitting = ["cpc"]
    if method not in fitting:
        raise ValueError(
            f"`method` is {method!r}, but the names in the checkpoint are those of {code}'s code, and its first module "
            f"has {'a' if has_gru else 'no'} GRU; choose {' or '.join(map(repr, fitting))}."
        )


def _source_names(layout: _Layout, method: Method) -> dict[str, tuple[str, ...]]:
    """Maps each tensor of our model to the names of the checkpoint's tensors that it consists of."""
    names: dict[str, tuple[str, ...]] = {}

    def add(target: str, sources: Sequence[str], tensors: Sequence[str] = ("weight", "bias")) -> None:
        for tensor in tensors:
            names[f"{target}.{tensor}"] = tuple(f"{source}.{tensor}" for source in sources)

    for module, num_layers in enumerate(layout.num_layers):
        target, encoder = f"sim.conv_modules.{module}", f"fullmodel.{module}.encoder"
        for layer in range(num_layers):
            block = f"{encoder}.{layout.stack}.{layout.layer_prefix}{layer}"
            add(f"{target}.layers.{layer}.conv", [f"{block}.0"])
            if layout.use_batch_norm:
                statistics = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
                add(f"{target}.layers.{layer}.norm", [f"{block}.1"], statistics)
        if not layout.is_lowe:
            heads = ("encoder_mu", "encoder_var") if method == "sim" else ("encoder_mu",)
            add(f"{target}.latent_head", [f"{encoder}.{head}" for head in heads])
        if method != "cpc":
            add(f"predictors.{module}", [f"fullmodel.{module}.loss.predictor"], ("weight",))
    if layout.context is not None:
        for tensor in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            source = f"fullmodel.{layout.context}.autoregressor.gru.{tensor}{layout.gru_suffix}"
            names[f"sim.context.{tensor}_l0"] = (source,)
        context_predictor = f"predictors.{len(layout.num_layers)}"
        add(context_predictor, [f"fullmodel.{layout.context}.loss.predictor"], ("weight",))
    return names


def _check_names(state_dict: Mapping[str, torch.Tensor], names: Mapping[str, tuple[str, ...]], method: Method) -> None:
    """Raises unless the checkpoint has exactly the expected tensors, all finite."""
    expected = {source for sources in names.values() for source in sources}
    missing = sorted(expected - set(state_dict))
    # The SIM authors' code has a log-variance head next to every mean, and uses it only in SIM.
    unused = {name.replace(".encoder_mu.", ".encoder_var.") for name in expected}
    unknown = sorted(set(state_dict) - expected - unused)
    if missing or unknown:
        parts = [f"missing {', '.join(missing)}"] * bool(missing) + [f"unknown {', '.join(unknown)}"] * bool(unknown)
        raise ValueError(f"the checkpoint does not match `method` {method!r}: {'; '.join(parts)}.")
    not_finite = sorted(name for name in expected if not torch.isfinite(state_dict[name]).all())
    if not_finite:
        raise ValueError(f"the checkpoint has NaN or infinite values in {', '.join(not_finite)}.")


def _shape(state_dict: Mapping[str, torch.Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    """Shape of a tensor; raises if it is empty or has another number of dimensions."""
    shape = tuple(state_dict[name].shape)
    if len(shape) != dimensions or 0 in shape:
        raise ValueError(f"{name} has shape {shape}; expected a tensor with {dimensions} dimensions.")
    return shape


# ---------------------------------------------------------------------- the model it becomes


def _infer_settings(
    layout: _Layout, state_dict: Mapping[str, torch.Tensor], names: Mapping[str, tuple[str, ...]], method: Method
) -> dict[str, Any]:
    """The fields of `SimConfig` that follow from the tensors and the method."""

    def conv_shape(module: int, layer: int) -> tuple[int, ...]:
        return _shape(state_dict, names[f"sim.conv_modules.{module}.layers.{layer}.conv.weight"][0], 3)

    hidden_size = conv_shape(0, 0)[0]
    kernels = [
        [conv_shape(module, layer)[2] for layer in range(count)] for module, count in enumerate(layout.num_layers)
    ]
    if any(1 in module for module in kernels):
        raise ValueError(
            f"the checkpoint has convolutions with kernel 1 (kernels {kernels}) like the SIM authors' 'extra layers' "
            "CPC, which has no ReLU after them; such layers are not supported."
        )
    predictors = [sources[0] for target, sources in names.items() if target.startswith("predictors.")]
    outputs = {name: _shape(state_dict, name, 2)[0] for name in predictors}
    if len(set(outputs.values())) != 1 or outputs[predictors[0]] % hidden_size:
        listed = ", ".join(f"{name} {rows}" for name, rows in outputs.items())
        raise ValueError(
            f"the predictors have these numbers of outputs: {listed}; each must have {hidden_size} (the channels) per "
            "prediction step, and all the same number of steps."
        )
    context_size = 0
    if layout.context is not None:
        context_size = _shape(state_dict, names["sim.context.weight_hh_l0"][0], 2)[1]
    return {
        "hidden_size": hidden_size,
        "context_size": context_size,
        "conv_kernel": kernels,
        "use_batch_norm": layout.use_batch_norm,
        "latent_distribution": "gaussian" if method == "sim" else "deterministic",
        "latent_head": "identity" if layout.is_lowe else "linear",
        "num_prediction_steps": outputs[predictors[0]] // hidden_size,
        "contrastive_modules": "context" if method == "cpc" else "all",
    }


def _make_config(
    layout: _Layout, inferred: Mapping[str, Any], method: Method, settings: Mapping[str, Any]
) -> SimConfig:
    """The configuration: the method's preset, overridden by the inferred settings and by the user's."""
    for name in sorted(inferred.keys() & settings.keys()):
        if settings[name] != inferred[name]:
            raise ValueError(
                f"`{name}` cannot be set to {settings[name]!r}: the checkpoint and its method have {inferred[name]!r}."
            )
    geometry: dict[str, Any] = {}
    if [kernel for module in inferred["conv_kernel"] for kernel in module] == _KERNELS:
        geometry = {"conv_stride": _by_module(_STRIDES, layout), "conv_padding": _by_module(_PADDINGS, layout)}
    elif not {"conv_stride", "conv_padding"} <= settings.keys():
        raise ValueError(
            f"the checkpoint has kernels {inferred['conv_kernel']}, whose strides and paddings are unknown; set "
            "`conv_stride` and `conv_padding`, one list per module, in the same shape."
        )
    preset = "sim-artificial" if method == "sim" and not layout.use_batch_norm else method
    try:
        return SimConfig.preset(preset, **{**geometry, **inferred, **settings})
    except StrictDataclassError as error:  # its message has several indented lines
        raise ValueError(in_one_line(error)) from error


def _by_module(layers: Sequence[int], layout: _Layout) -> list[list[int]]:
    """Splits numbers, one per convolution, into one list per module."""
    remaining = iter(layers)
    return [[next(remaining) for _ in range(count)] for count in layout.num_layers]


def _check_shapes(
    state_dict: Mapping[str, torch.Tensor], names: Mapping[str, tuple[str, ...]], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises, naming the checkpoint's tensors, if some do not match the model's shapes."""
    wrong = []
    for target, sources in names.items():
        expected = _source_shape(target, shapes[target], len(sources))
        found = {source: tuple(state_dict[source].shape) for source in sources}
        wrong += [f"{source} is {shape}, not {expected}" for source, shape in found.items() if shape != expected]
    if wrong:
        raise ValueError(f"shapes do not match those of the other tensors: {'; '.join(wrong)}.")


def _source_shape(target: str, shape: tuple[int, ...], num_sources: int) -> tuple[int, ...]:
    """Shape of each of the checkpoint's tensors that form a tensor of our model with a given shape."""
    if ".latent_head." in target:  # mean, then log-variance, each a convolution of one frame
        return (shape[0] // num_sources, *shape[1:], *[1] * (len(shape) - 1))
    if target.startswith("predictors."):  # W_1, ..., W_K are stacked
        return (shape[0] * shape[1], shape[2])
    return shape


def _join(sources: Sequence[torch.Tensor]) -> torch.Tensor:
    """Concatenates tensors; a single one may be 0-dim."""
    return sources[0] if len(sources) == 1 else torch.cat(list(sources))


__all__ = ["Method", "convert_state_dict", "read_state_dict", "save_folder"]
