"""Models of this package from checkpoints of earlier code; `modeling-sim convert` is the command.

Two codes wrote checkpoints of these methods, both a state dict of `nn.DataParallel`: its prefix `module.` is optional
here, and so is a level above, `{"state_dict": ...}` or `{"model": ...}`. `{m}` counts modules, `{i}` the layers of one:

    method          code             names
    sim, gim, cpc   SIM's authors    fullmodel.{m}.encoder.encoder.{i}.0.* convolution, .{i}.1.* batch norm if any;
                                     until June 2024 `layer {i}` for `{i}`, with a space
                                     fullmodel.{m}.encoder.encoder_mu.*, .encoder_var.* (which sim alone uses)
    gim-lowe, cpc   Löwe et al.      fullmodel.{m}.encoder.model.layer {i}.0.* convolution
    all             both             fullmodel.{m}.autoregressor.gru.*, fullmodel.{m}.loss.predictor.weight

The GRU is a module of its own after the convolutional ones, or, in cpc, a part of the only module. Löwe et al.'s
`--remove_BPTT`, which names the GRU's tensors without `_l0`, is read too; modules that are trained together with a GRU
(their `model_splits` 5 and `use_autoregressive`), supervised losses and the "extra layers" of the SIM authors' CPC
have no counterpart here and are refused.

A converted model reads audio in [-1, 1]. The SIM authors' code reads just that. Löwe et al.'s reads samples of a 32-bit
scale, plus 1456218.75 and then over 135303504: 15.87 x + 0.01076 for x in [-1, 1]. The first convolution takes in that
factor and shift. This is exact but for the zeros that the convolution pads with, which their code adds after the shift:
a padded sample is 0.01076 less there than here. In the first module the first frame sees two such samples, the last
frame two at most. In a later module up to two frames at either end depend on those, and in the GRU all frames do, less
and less from the first on. With untrained weights the difference is 0.5 % of a frame's norm in the first module, and
0.005 % in the GRU.
"""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from huggingface_hub.errors import StrictDataclassError

from modeling_sim import SimConfig, SimFeatureExtractor, SimForPreTraining

Method = Literal["sim", "gim", "gim-lowe", "cpc"]

# Both codes' strides and paddings, van den Oord et al.'s (2018).
_KERNELS, _STRIDES, _PADDINGS = [10, 8, 4, 4, 4], [5, 4, 2, 2, 2], [2, 2, 2, 2, 1]
# What Löwe et al.'s code does to the audio: `(2**31 * x + 1456218.75) / 135303504` of a sample x in [-1, 1].
_LOWE_SCALE, _LOWE_SHIFT = 2**31 / 135303504, 1456218.75 / 135303504

_CONV_NAME = re.compile(r"fullmodel\.(\d+)\.encoder\.(encoder|model)\.(layer )?(\d+)\.(\d+)\.")
_GRU_NAME = re.compile(r"fullmodel\.(\d+)\.autoregressor\.")


@dataclass(frozen=True)
class _Layout:
    """What the names in a checkpoint say of its model.

    Args:
        stack: Name of the convolutions' stack: "encoder" by the SIM authors' code, "model" by Löwe et al.'s.
        layer_prefix: Stands before a layer's number, "layer " or nothing.
        num_layers: Convolutions of each module.
        use_batch_norm: Whether there is batch normalisation.
        context: Module of the GRU; `None` if there is none.
        gru_suffix: Ends the names of the GRU's tensors, "_l0" or nothing.
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
    """Tensors of a checkpoint on the CPU, by name without `module.`; nothing but tensors is ever unpickled.

    Raises:
        ValueError: The file is no checkpoint, or holds more than tensors.
        OSError: The file cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"the checkpoint {path} is not a file.")
    with path.open("rb") as file:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(_why_not_loaded(path, error)) from error
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path} holds no state dict, at its top or under 'state_dict' or 'model'.")
    others = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise ValueError(f"{path} holds entries that are not tensors: {', '.join(others)}; give a state dict.")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def convert_state_dict(state_dict: Mapping[str, torch.Tensor], method: Method, /, **settings: Any) -> SimForPreTraining:
    """The model of a checkpoint, its predictors included, in evaluation mode.

    Args:
        state_dict: As `read_state_dict` gives it.
        method: What was trained: "sim", "gim" as the SIM authors have it, "gim-lowe" or "cpc".
        settings: Fields of `SimConfig` that the tensors do not tell.

    Raises:
        ValueError: Tensors are missing, unknown, of other shapes than their method has, or not finite; or a setting is
            invalid, or contradicts the tensors.
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


def check_output_dir(output_dir: str | Path, *, overwrite: bool) -> None:
    """Refuses a folder that may not be written.

    Args:
        output_dir: Folder for the model.
        overwrite: Whether a saved model in it may be replaced.

    Raises:
        OSError: It is a file, or holds something; with `overwrite`, something else than a saved model.
    """
    output_dir = Path(output_dir).resolve()
    if output_dir.exists() and not output_dir.is_dir():
        raise NotADirectoryError(f"the output {output_dir} is a file; give a folder.")
    if not output_dir.exists() or not any(output_dir.iterdir()):
        return
    if not overwrite:
        raise FileExistsError(
            f"the output {output_dir} is not empty; give another folder, or --overwrite_output_dir to replace the "
            "saved model in it."
        )
    if not (output_dir / "config.json").is_file():
        raise FileExistsError(
            f"the output {output_dir} holds something else than a saved model (no config.json), and is not replaced; "
            "give another folder."
        )


def save_folder(model: SimForPreTraining, output_dir: str | Path, *, overwrite: bool = False) -> None:
    """Writes model, configuration and feature extractor beside `output_dir`, and moves them there when they are whole.

    Args:
        model: The model.
        output_dir: Folder to write; must not be there, or be empty.
        overwrite: Replace the folder of a saved model that is there, with everything in it.

    Raises:
        OSError: The folder is there, or cannot be written; what was there before is as it was.
    """
    output_dir = Path(output_dir).resolve()
    check_output_dir(output_dir, overwrite=overwrite)
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    temporary = output_dir.with_name(f".{output_dir.name}.{os.getpid()}")
    replaced = output_dir.with_name(f".{output_dir.name}.{os.getpid()}.replaced")
    config = model.config
    extractor = SimFeatureExtractor(sampling_rate=config.sampling_rate, min_samples=config.receptive_field())
    try:
        temporary.mkdir()
        model.save_pretrained(temporary)
        extractor.save_pretrained(temporary)
        if output_dir.exists():
            output_dir.replace(replaced)
        temporary.replace(output_dir)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if replaced.exists():
            replaced.replace(output_dir)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


# ---------------------------------------------------------------------- what a checkpoint holds


def _why_not_loaded(path: Path, error: Exception) -> str:
    """What to do about a file that `torch.load` refuses, or breaks at in any of many ways."""
    refused = re.search(r"GLOBAL (\S+)", str(error))
    if refused is None and not _looks_saved_by_torch(path):
        return f"{path} is not a checkpoint that `torch.save` wrote; give the file of a state dict."
    if refused is None:
        return f"{path} is not a checkpoint that `torch.load` can read, or is damaged ({type(error).__name__})."
    return (
        f"{path} holds more than tensors ({refused[1]}) and is refused, as loading that could run code; save the "
        "model's `state_dict()` alone, where the checkpoint comes from."
    )


def _looks_saved_by_torch(path: Path) -> bool:
    """Whether a file starts as a zip archive or as a pickle, the two forms that `torch.save` writes."""
    with path.open("rb") as file:
        return file.read(2).startswith((b"PK", b"\x80"))


def _read_layout(state_dict: Mapping[str, torch.Tensor]) -> _Layout:
    """The layout that the names tell. What one of them implies and is not there is found by `_check_names`."""
    found = [match for match in map(_CONV_NAME.match, state_dict) if match]
    styles = {(match[2], match[3] or "") for match in found}
    if len(styles) != 1:
        raise ValueError(
            "the checkpoint has no convolutions by the names of one of the two known codes, such as "
            "`fullmodel.0.encoder.encoder.0.0.weight` or `fullmodel.0.encoder.model.layer 0.0.weight`; the first of "
            f"its {len(state_dict)} names are {', '.join(list(state_dict)[:3])}."
        )
    stack, layer_prefix = styles.pop()
    contexts = {int(match[1]) for match in map(_GRU_NAME.match, state_dict) if match}
    # A module without a single tensor, between or below others, is taken to have one layer, and so found to be missing.
    num_layers = [1] * max(1 + max(int(match[1]) for match in found), *contexts)
    for match in found:
        num_layers[int(match[1])] = max(num_layers[int(match[1])], 1 + int(match[4]))
    if len(contexts) > 1 or (len(num_layers) > 1 and contexts and min(contexts) < len(num_layers)):
        raise ValueError(
            f"modules {', '.join(map(str, sorted(contexts)))} of the checkpoint hold a GRU, and some convolutions too; "
            "here a GRU is the last module, or a part of the only one (Löwe et al.'s `model_splits` 6 without "
            "`use_autoregressive`, or 1)."
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
    """Raises if the names are not those of the method's code."""
    code, fitting = ("Löwe et al.", ["gim-lowe"]) if layout.is_lowe else ("the SIM authors", ["sim", "gim"])
    has_gru = layout.context == 0
    if has_gru:
        fitting = ["cpc"]
    if method not in fitting:
        raise ValueError(
            f"`method` is {method!r}, but the names in the checkpoint are those of the code of {code}, and its first "
            f"module has {'a' if has_gru else 'no'} GRU: that is {' or '.join(map(repr, fitting))}."
        )


def _source_names(layout: _Layout, method: Method) -> dict[str, tuple[str, ...]]:
    """For each tensor of our model the names of the checkpoint's that it is made of."""
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
    """Raises unless the checkpoint has just the tensors that are expected, all finite."""
    expected = {source for sources in names.values() for source in sources}
    missing = sorted(expected - set(state_dict))
    # The SIM authors' code makes a log-variance beside every mean, and uses it in SIM alone.
    unused = {name.replace(".encoder_mu.", ".encoder_var.") for name in expected}
    unknown = sorted(set(state_dict) - expected - unused)
    if missing or unknown:
        parts = [f"misses {', '.join(missing)}"] * bool(missing) + [f"has unknown {', '.join(unknown)}"] * bool(unknown)
        raise ValueError(f"the checkpoint is not a model of method {method!r}: it {', and '.join(parts)}.")
    not_finite = sorted(name for name in expected if not torch.isfinite(state_dict[name]).all())
    if not_finite:
        raise ValueError(f"the checkpoint holds values that are NaN or infinite, in {', '.join(not_finite)}.")


def _shape(state_dict: Mapping[str, torch.Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    """Shape of a tensor that must have a number of dimensions."""
    shape = tuple(state_dict[name].shape)
    if len(shape) != dimensions or 0 in shape:
        raise ValueError(f"{name} has shape {shape}; a tensor of {dimensions} dimensions was expected.")
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
            f"the checkpoint has convolutions of kernel 1 (kernels {kernels}), as the SIM authors' 'extra layers' CPC, "
            "which has no ReLU after them; there is no such layer here."
        )
    predictors = [sources[0] for target, sources in names.items() if target.startswith("predictors.")]
    outputs = {name: _shape(state_dict, name, 2)[0] for name in predictors}
    if len(set(outputs.values())) != 1 or outputs[predictors[0]] % hidden_size:
        listed = ", ".join(f"{name} {rows}" for name, rows in outputs.items())
        raise ValueError(
            f"predictors have these outputs: {listed}; each must have {hidden_size} (the channels) a prediction step, "
            "and all as many steps."
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
    """The configuration: the method's preset, what the tensors tell, and what the user says of the rest."""
    for name in sorted(inferred.keys() & settings.keys()):
        if settings[name] != inferred[name]:
            raise ValueError(
                f"`{name}` cannot be set to {settings[name]!r}: the checkpoint and its method say {inferred[name]!r}."
            )
    geometry: dict[str, Any] = {}
    if [kernel for module in inferred["conv_kernel"] for kernel in module] == _KERNELS:
        geometry = {"conv_stride": _by_module(_STRIDES, layout), "conv_padding": _by_module(_PADDINGS, layout)}
    elif not {"conv_stride", "conv_padding"} <= settings.keys():
        raise ValueError(
            f"the checkpoint has kernels {inferred['conv_kernel']}, whose strides and paddings are not known; set "
            "`conv_stride` and `conv_padding`, one list a module, in the same shape."
        )
    preset = "sim-artificial" if method == "sim" and not layout.use_batch_norm else method
    try:
        return SimConfig.preset(preset, **{**geometry, **inferred, **settings})
    except StrictDataclassError as error:  # one line instead of an indented chain
        raise ValueError(" ".join(str(error).split())) from error


def _by_module(layers: Sequence[int], layout: _Layout) -> list[list[int]]:
    """A number for each convolution, as one list a module."""
    remaining = iter(layers)
    return [[next(remaining) for _ in range(count)] for count in layout.num_layers]


def _check_shapes(
    state_dict: Mapping[str, torch.Tensor], names: Mapping[str, tuple[str, ...]], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises, naming the checkpoint's tensors, if some do not fit a model of tensors of these shapes."""
    wrong = []
    for target, sources in names.items():
        expected = _source_shape(target, shapes[target], len(sources))
        found = {source: tuple(state_dict[source].shape) for source in sources}
        wrong += [f"{source} is {shape}, not {expected}" for source, shape in found.items() if shape != expected]
    if wrong:
        raise ValueError(f"shapes do not fit those of the other tensors: {'; '.join(wrong)}.")


def _source_shape(target: str, shape: tuple[int, ...], num_sources: int) -> tuple[int, ...]:
    """Shape of each of the checkpoint's tensors that one of our model's, of a shape, is made of."""
    if ".latent_head." in target:  # mean, then log-variance, each a convolution of one frame
        return (shape[0] // num_sources, *shape[1:], *[1] * (len(shape) - 1))
    if target.startswith("predictors."):  # W_1, ..., W_K above one another
        return (shape[0] * shape[1], shape[2])
    return shape


def _join(sources: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors above one another; a single one may be a number."""
    return sources[0] if len(sources) == 1 else torch.cat(list(sources))


__all__ = ["Method", "check_output_dir", "convert_state_dict", "read_state_dict", "save_folder"]
