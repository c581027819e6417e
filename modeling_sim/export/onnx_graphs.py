"""ONNX graphs of an encoder: for complete utterances, and for one step of a stream.

The graphs are built node by node, because a traced GRU has a fixed length. Batch normalization is merged into the
convolutions' weights. Tensors are `(batch, channels, 1, frames)`, because the fastest kernels of onnxruntime only exist
for two-dimensional convolutions.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from modeling_sim import SimModel
from modeling_sim.layers_sim import SimConvLayer
from modeling_sim.modeling_sim import SimConvModule

# The oldest versions with all operators of the graphs, so that old runtimes can read them.
_OPSET, _IR_VERSION = 18, 8

_END = np.iinfo(np.int64).max

# Input to the GRU's update gate for frames that are not real: its sigmoid is then 1, so the state does not change.
_HOLD = 100.0

NORMALIZATION = "normalization"
"""Prefix of the names of nodes that normalize the waveform, whose sums are too large for float16."""


class _Graph:
    """Nodes, constants, inputs and outputs of a graph; tensors are identified by their names."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[tuple[Any, ...], onnx.TensorProto] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.prefix = "sim"

    def input(self, name: str, dtype: int, shape: Sequence[str | int]) -> str:
        """An input of the graph."""
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, tensor: str, dtype: int, shape: Sequence[str | int]) -> None:
        """Makes a tensor an output of the graph."""
        self.nodes.append(helper.make_node("Identity", [tensor], [name], name=name))
        self.outputs.append(helper.make_tensor_value_info(name, dtype, shape))

    def constant(self, value: Any) -> str:
        """A constant, stored once; integers are int64, others float32."""
        array = np.array(value, order="C")
        array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        key = array.dtype.str, array.shape, array.tobytes()
        name = f"constant.{len(self.constants)}"
        return str(self.constants.setdefault(key, numpy_helper.from_array(array, name)).name)

    def add(self, op: str, /, *inputs: Any, **attributes: Any) -> str:
        """Adds an operation on tensors, given by name, and constants, given by value; returns its first output."""
        return self.add_all(op, 1, *inputs, **attributes)[0]

    def add_all(self, op: str, count: int, /, *inputs: Any, **attributes: Any) -> list[str]:
        """Adds an operation like `add`; returns all of its outputs."""
        name = f"{self.prefix}.{len(self.nodes)}.{op}"
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        outputs = [f"{name}.{number}" for number in range(count)]
        self.nodes.append(helper.make_node(op, names, outputs, name=name, **attributes))
        return outputs

    def model(self, metadata: dict[str, str]) -> onnx.ModelProto:
        """The graph as a checked model."""
        graph = helper.make_graph(self.nodes, "sim", self.inputs, self.outputs, list(self.constants.values()))
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", _OPSET)],
            ir_version=_IR_VERSION,
            producer_name="modeling_sim",
        )
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model, full_check=True)
        return model


def encoder_graph(
    model: SimModel, *, normalize: bool = False, streaming: bool = False, metadata: dict[str, str] | None = None
) -> onnx.ModelProto:
    """The ONNX graph of an encoder in evaluation mode, in which each module reads the means of the one below.

    Inputs are `input_values` `(batch_size, sequence_length)` float32 and `attention_mask` of the same shape, int64.
    Outputs are `last_hidden_state` and `frame_mask` of `SimModelOutput`, and for each convolutional module m `means.m`,
    `log_variances.m` (if Gaussian) and `frame_masks.m`, `(batch_size, frames)` int64, 1 where a frame is real. All
    other frames are 0.

    A step of a stream also takes the state, inputs named `past.*`, and returns the next state, outputs `present.*`. The
    first state is zeros. `sequence_length` must be a multiple of `config.hop_length()`; every step returns
    `sequence_length / config.hop_length(m)` frames of module m. The first `stream_delays(config)[m]` of them are before
    the audio. Steps whose mask is 0 return the last frames, whose receptive field includes the padding.

    Args:
        model: The encoder; its batch normalization is that of evaluation mode.
        normalize: Shift and scale each utterance to mean 0 and variance 1 first, like `SimFeatureExtractor` with
            `do_normalize`; it does not change an utterance that is already normalized.
        streaming: Build the graph of a step of a stream.
        metadata: Texts by name to save in the file.

    Raises:
        ValueError: Both `normalize` and `streaming`: mean and variance of an utterance are unknown before its end.
    """
    if normalize and streaming:
        raise ValueError("`normalize` needs complete utterances; normalize the audio of a stream before encoding it.")
    config, graph = model.config, _Graph()
    waveform = graph.input("input_values", TensorProto.FLOAT, ["batch_size", "sequence_length"])
    attention_mask = graph.input("attention_mask", TensorProto.INT64, ["batch_size", "sequence_length"])
    lengths, position = graph.add("ReduceSum", attention_mask, [1], keepdims=0), None
    if streaming:
        waveform, lengths, position = _continued(graph, waveform, lengths, config.hop_length())
    is_audio = graph.add("Cast", attention_mask, to=TensorProto.FLOAT)
    waveform = graph.add("Mul", waveform, is_audio)
    if normalize:
        waveform = _normalized(graph, waveform, is_audio)

    frames = _Frames(graph.add("Unsqueeze", waveform, [1, 2]), lengths, "", 1, 0)
    for number, module in enumerate(cast("list[SimConvModule]", list(model.conv_modules))):
        for layer in cast("list[SimConvLayer]", list(module.layers)):
            frames = _convolved(graph, frames, layer, position)
        mean, log_variance = _latents(graph, frames, module)
        frames = frames._replace(hidden=mean)
        shape = ["batch_size", f"frames.{number}"]
        for name, tensor in (("means", mean), ("log_variances", log_variance)):
            if tensor is not None:
                rows = graph.add("Transpose", graph.add("Squeeze", tensor, [2]), perm=[0, 2, 1])
                graph.output(f"{name}.{number}", rows, TensorProto.FLOAT, [*shape, config.num_latents])
        frame_mask = graph.add("Cast", frames.real, to=TensorProto.INT64)
        graph.output(f"frame_masks.{number}", frame_mask, TensorProto.INT64, shape)

    last = graph.add("Squeeze", frames.hidden, [2])
    if model.context is None:
        last = graph.add("Transpose", last, perm=[0, 2, 1])
    else:
        last = _context(graph, last, frames.real, model.context, streaming=streaming)
    graph.output("last_hidden_state", last, TensorProto.FLOAT, [*shape, config.context_size or config.num_latents])
    graph.output("frame_mask", frame_mask, TensorProto.INT64, shape)
    return graph.model(metadata or {})


class _Frames(NamedTuple):
    """Output of a layer."""

    hidden: str
    """`(batch, channels, 1, frames)`."""
    lengths: str
    """`(batch,)`, number of real frames of the utterance so far."""
    real: str
    """`(batch, frames)` bool."""
    hop: int
    """Samples from one frame to the next."""
    delay: int
    """Number of frames that a stream returns before its first real one."""


def _continued(graph: _Graph, waveform: str, lengths: str, hop: int) -> tuple[str, str, str]:
    """Waveform of a step, lengths of the utterances so far, and start position of the step."""
    waveform = graph.add("Reshape", graph.add("Reshape", waveform, [0, -1, hop]), [0, -1])  # fails at other lengths
    position = graph.input("past.position", TensorProto.INT64, ["batch_size"])
    lengths = graph.add("Add", graph.input("past.length", TensorProto.INT64, ["batch_size"]), lengths)
    samples = graph.add("Gather", graph.add("Shape", waveform), 1)
    graph.output("present.position", graph.add("Add", position, samples), TensorProto.INT64, ["batch_size"])
    graph.output("present.length", lengths, TensorProto.INT64, ["batch_size"])
    return waveform, lengths, position


def _convolved(graph: _Graph, frames: _Frames, layer: SimConvLayer, position: str | None) -> _Frames:
    """Output of a layer, 0 where frames are not real; `position` is that of a stream's step."""
    hidden, _, _, hop, delay = frames
    _, stride, padding = layer.sizes
    if position is not None:
        hidden = _with_past(graph, hidden, layer, delay)
        delay, padding = _next_delay(layer, delay), 0
    hidden, hop = graph.add("Relu", _convolution(graph, hidden, layer, padding=padding)), hop * stride
    lengths = _num_frames(graph, frames.lengths, layer)
    real = _real_frames(graph, hidden, lengths, position, hop, delay)
    return _Frames(_masked(graph, hidden, real), lengths, real, hop, delay)


def _latents(graph: _Graph, frames: _Frames, module: SimConvModule) -> tuple[str, str | None]:
    """Mean and log-variance, if any, of the last layer's frames."""
    if module.latent_head is None:
        return frames.hidden, None
    head = module.latent_head
    weight, bias = _array(head.weight[:, :, None, None]), _array(head.bias)
    latents = _masked(graph, graph.add("Conv", frames.hidden, weight, bias, kernel_shape=[1, 1]), frames.real)
    if not module.is_gaussian:
        return latents, None
    mean, log_variance = graph.add_all("Split", 2, latents, axis=1, num_outputs=2)
    if module.config.log_variance_clamp is not None:
        low, high = map(float, module.config.log_variance_clamp)
        log_variance = graph.add("Clip", log_variance, low, high)
    return mean, log_variance


def _masked(graph: _Graph, hidden: str, real: str) -> str:
    """`(batch, channels, 1, frames)`, 0 where `real` is false."""
    mask = graph.add("Cast", real, to=TensorProto.FLOAT)
    return graph.add("Mul", hidden, graph.add("Unsqueeze", mask, [1, 2]))


def stream_delays(model: SimModel) -> list[int]:
    """Frames that a stream returns before the first real one, per module; the context has as many as its input."""
    delays, delay = [], 0
    for module in cast("list[SimConvModule]", list(model.conv_modules)):
        for layer in cast("list[SimConvLayer]", list(module.layers)):
            delay = _next_delay(layer, delay)
        delays.append(delay)
    return delays + delays[-1:] * (model.context is not None)


def _next_delay(layer: SimConvLayer, delay: int) -> int:
    """Delay of a layer's output frames, given the delay of its input frames."""
    _, stride, padding = layer.sizes
    return (delay + _kept(layer, delay) - padding) // stride


def _kept(layer: SimConvLayer, delay: int) -> int:
    """Number of input frames that a layer keeps from one step of a stream to the next.

    A step returns one frame per `stride` input frames, for which the layer needs `kernel - stride` to `kernel - 1`
    earlier input frames. Exactly one of these numbers aligns its frames with those of the complete utterance, which
    start at `-padding` plus multiples of `stride`, while the input of the step starts at `-delay`. A negative number
    skips frames.
    """
    kernel, stride, padding = layer.sizes
    fewest = kernel - stride
    return fewest + (padding - delay - fewest) % stride


def _with_past(graph: _Graph, hidden: str, layer: SimConvLayer, delay: int) -> str:
    """A layer's input, preceded by the frames that it keeps from earlier steps."""
    kept = _kept(layer, delay)
    if kept > 0:
        number = sum(value.name.startswith("past.conv") for value in graph.inputs)
        shape: list[str | int] = ["batch_size", layer.conv.in_channels, 1, kept]
        past = graph.input(f"past.conv.{number}", TensorProto.FLOAT, shape)
        hidden = graph.add("Concat", past, hidden, axis=3)
        present = graph.add("Slice", hidden, [-kept], [_END], [3])
        graph.output(f"present.conv.{number}", present, TensorProto.FLOAT, shape)
    elif kept < 0:
        hidden = graph.add("Slice", hidden, [-kept], [_END], [3])
    return hidden


def _normalized(graph: _Graph, waveform: str, is_audio: str) -> str:
    """Audio normalized to mean 0 and variance 1, 0 in padding; constants as in `SimFeatureExtractor`."""
    graph.prefix = NORMALIZATION
    count = graph.add("ReduceSum", is_audio, [1])
    mean = graph.add("Div", graph.add("ReduceSum", waveform, [1]), count)
    centered = graph.add("Mul", graph.add("Sub", waveform, mean), is_audio)
    variance = graph.add("Div", graph.add("ReduceSumSquare", centered, [1]), count)
    waveform = graph.add("Div", centered, graph.add("Sqrt", graph.add("Add", variance, 1e-7)))
    graph.prefix = "sim"
    return waveform


def _convolution(graph: _Graph, hidden: str, layer: SimConvLayer, *, padding: int) -> str:
    """Convolution and batch normalization, if any, of `(batch, channels, 1, frames)`."""
    weight, bias = layer.folded()
    kernel, stride, _ = layer.sizes
    pads = [0, padding, 0, padding]
    return graph.add(
        "Conv",
        hidden,
        _array(weight[:, :, None]),
        _array(bias),
        kernel_shape=[1, kernel],
        strides=[1, stride],
        pads=pads,
    )


def _context(graph: _Graph, latents: str, real: str, gru: nn.GRU, *, streaming: bool) -> str:
    """Context `(batch, frames, context_size)` from latents `(batch, channels, frames)`, 0 where `real` is false."""
    size = gru.hidden_size
    # PyTorch's gates are reset, update, new; ONNX' are update, reset, new.
    weight, recurrent, bias, recurrent_bias = (
        _array(parameter).reshape(3, size, -1)[[1, 0, 2]] for parameter in gru.parameters()
    )
    frames, past = graph.add("Transpose", latents, perm=[2, 0, 1]), [""]
    if streaming:
        # Frames before the audio must not change the state 0, but the GRU of ONNX cannot start later in a sequence.
        is_real = graph.add("Cast", graph.add("Unsqueeze", graph.add("Transpose", real), [2]), to=TensorProto.FLOAT)
        frames = graph.add("Concat", frames, graph.add("Sub", 1.0, is_real), axis=2)
        hold = np.zeros((3, size, 1), np.float32)
        hold[0] = _HOLD
        weight = np.concatenate([weight, hold], axis=2)
        past = ["", graph.add("Unsqueeze", graph.input("past.context", TensorProto.FLOAT, ["batch_size", size]), [0])]
    biases = np.concatenate([bias.reshape(-1), recurrent_bias.reshape(-1)])
    parameters = (weight.reshape(1, 3 * size, -1), recurrent.reshape(1, 3 * size, size), biases[None])
    outputs, present = graph.add_all("GRU", 2, frames, *parameters, *past, hidden_size=size, linear_before_reset=1)
    if streaming:
        graph.output("present.context", graph.add("Squeeze", present, [0]), TensorProto.FLOAT, ["batch_size", size])
    outputs = graph.add("Transpose", graph.add("Squeeze", outputs, [1]), perm=[1, 0, 2])
    return graph.add("Mul", outputs, graph.add("Unsqueeze", graph.add("Cast", real, to=TensorProto.FLOAT), [2]))


def _num_frames(graph: _Graph, lengths: str, layer: SimConvLayer) -> str:
    """`(batch,)`, number of output frames of a layer; `num_output_frames` with a division that rounds to 0."""
    kernel, stride, padding = layer.sizes
    reach = graph.add("Max", graph.add("Add", lengths, 2 * padding - kernel + stride), 0)
    is_audio = graph.add("Cast", graph.add("Greater", lengths, 0), to=TensorProto.INT64)
    return graph.add("Mul", graph.add("Div", reach, stride), is_audio)


def _real_frames(graph: _Graph, hidden: str, lengths: str, position: str | None, hop: int, delay: int) -> str:
    """`(batch, frames)` bool, true at frames 0 to `lengths - 1`; a step of a stream starts at `position`."""
    index = graph.add("Range", 0, graph.add("Gather", graph.add("Shape", hidden), 3), 1)
    if position is None:
        return graph.add("Less", index, graph.add("Unsqueeze", lengths, [1]))
    first = graph.add("Sub", graph.add("Div", position, hop), delay)
    index = graph.add("Add", index, graph.add("Unsqueeze", first, [1]))
    is_before_end = graph.add("Less", index, graph.add("Unsqueeze", lengths, [1]))
    return graph.add("And", is_before_end, graph.add("GreaterOrEqual", index, 0))


def _array(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as a float32 array."""
    return tensor.detach().float().cpu().numpy()
