"""ONNX graphs in float16 and int8.

Inputs, outputs, the normalization of the waveform and the GRU stay float32, with int8 also the first convolution.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime import InferenceSession
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from modeling_sim.export.onnx_graphs import NORMALIZATION


def float16_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Converts a graph to float16."""
    return convert_float_to_float16(
        model,
        keep_io_types=True,
        op_block_list=[*DEFAULT_OP_BLOCK_LIST, "GRU"],  # onnxruntime only supports float32 on a CPU
        node_block_list=[node.name for node in model.graph.node if node.name.startswith(NORMALIZATION)],
    )


def write_int8(
    model: onnx.ModelProto, path: str | Path, waveforms: Iterable[np.ndarray] | None = None, *, step: int = 0
) -> None:
    """Writes a graph with convolutions in int8, except the first, because 8 bits are too few for a waveform.

    Args:
        model: A graph of `encoder_graph`.
        path: File to write.
        waveforms: Model inputs `(samples,)` for the calibration of the ranges of int8. `None` for dynamic quantization,
            which is slower and makes the output of an utterance depend slightly on the other utterances of its batch.
        step: Samples per step of a stream for the calibration; 0 for a graph of complete utterances.
    """
    first = next(node.name for node in model.graph.node if node.op_type == "Conv")
    settings = {"op_types_to_quantize": ["Conv"], "nodes_to_exclude": [first]}
    if waveforms is None:
        quantize_dynamic(model, path, weight_type=QuantType.QUInt8, **settings)
    else:
        session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        reader = _Reader(_inputs(session, waveforms, step))
        quantize_static(model, path, reader, per_channel=True, activation_type=QuantType.QUInt8, **settings)


class _Reader(CalibrationDataReader):
    """Inputs in the form that onnxruntime's calibration expects."""

    def __init__(self, inputs: Iterator[dict[str, np.ndarray]]) -> None:
        self.inputs = inputs

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next inputs; `None` at the end."""
        return next(self.inputs, None)


def _inputs(session: InferenceSession, waveforms: Iterable[np.ndarray], step: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields the inputs of a graph for each waveform, or for each of its steps, the last one padded."""
    for waveform in waveforms:
        size = step or len(waveform)
        state = first_state(session)
        for start in range(0, len(waveform), size):
            samples = waveform[None, start : start + size]
            padding = [(0, 0), (0, size - samples.shape[1])]
            mask = np.pad(np.ones_like(samples, np.int64), padding)
            inputs = {"input_values": np.pad(samples, padding), "attention_mask": mask, **state}
            yield inputs
            if state:
                state = next_state(run(session, inputs))


def run(session: InferenceSession, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Runs a graph and returns its outputs by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def first_state(session: InferenceSession, batch_size: int = 1) -> dict[str, np.ndarray]:
    """The initial state of a stream, zeros; empty for a graph of complete utterances."""
    return {
        value.name: np.zeros([batch_size, *value.shape[1:]], np.int64 if value.type == "tensor(int64)" else np.float32)
        for value in session.get_inputs()
        if value.name.startswith("past.")
    }


def next_state(outputs: dict[str, Any]) -> dict[str, np.ndarray]:
    """The state for the next step of a stream, from the outputs of this step."""
    return {name.replace("present.", "past."): value for name, value in outputs.items() if name.startswith("present.")}
