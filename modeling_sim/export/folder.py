"""Exported encoders as folders: the files to run, the configuration and the feature extractor."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import SequenceFeatureExtractor

from modeling_sim import SimModel
from modeling_sim.export.torch_program import convolutions_program
from modeling_sim.files import CONFIGURATION_NAMES, replacing_folder

ENCODER, STEP, PROGRAM = "model.onnx", "streaming.onnx", "model.pt2"
EXPORTED_NAMES = (ENCODER, STEP, PROGRAM, *CONFIGURATION_NAMES)
"""Names of the files of an export."""

Format = Literal["onnx", "torch-export"]
Dtype = Literal["float32", "float16", "int8"]

# Seconds of audio per step of a stream for the calibration of int8.
_CALIBRATION_STEP = 1.0


def export_folder(
    model: SimModel,
    extractor: SequenceFeatureExtractor,
    output_dir: str | Path,
    *,
    format: Format = "onnx",  # noqa: A002 - the name that optimum has
    dtype: Dtype = "float32",
    waveforms: Sequence[np.ndarray] | None = None,
    overwrite_output_dir: bool = False,
) -> dict[str, int]:
    """Exports an encoder for use without this package.

    "onnx" writes `model.onnx` for complete utterances and `streaming.onnx` for a step of a stream; `encoder_graph`
    lists their inputs and outputs. `model.onnx` normalizes audio if the feature extractor does. "torch-export" writes
    `model.pt2` with the convolutional modules; see `convolutions_program`.

    Args:
        model: The encoder, in evaluation mode.
        extractor: Feature extractor of the encoder.
        output_dir: Folder to write; new or empty.
        format: Format of the files.
        dtype: Data type of weights and matrix products. "float16" and "int8" are only supported by ONNX.
        waveforms: Model inputs `(samples,)` for the calibration of int8; see `write_int8`.
        overwrite_output_dir: Replace an earlier export.

    Returns:
        Size in bytes of each file with weights.

    Raises:
        ImportError: `onnx` or `onnxruntime` is not installed.
        ValueError: `dtype` or `waveforms` does not fit the other settings, or `waveforms` is empty.
        OSError: The folder is not empty or has other files, or cannot be written; it is then unchanged.
    """
    if format == "torch-export" and dtype != "float32":
        raise ValueError(f"`dtype` is {dtype!r}, which only `format` 'onnx' supports; set it to 'float32'.")
    if waveforms is not None and dtype != "int8":
        raise ValueError(f"`waveforms` are only used for `dtype` 'int8', but `dtype` is {dtype!r}.")
    if waveforms is not None and not len(waveforms):
        raise ValueError("`waveforms` is empty; give at least one, or None for dynamic quantization.")
    with replacing_folder(output_dir, EXPORTED_NAMES, overwrite_output_dir=overwrite_output_dir) as folder:
        if format == "onnx":
            _write_onnx(model, extractor, folder, dtype, waveforms)
        else:
            torch.export.save(convolutions_program(model), folder / PROGRAM)
        sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        model.config.save_pretrained(folder)
        extractor.save_pretrained(folder)
    return sizes


def _write_onnx(
    model: SimModel,
    extractor: SequenceFeatureExtractor,
    folder: Path,
    dtype: Dtype,
    waveforms: Sequence[np.ndarray] | None,
) -> None:
    try:
        import onnx  # noqa: PLC0415 - of the extra

        from modeling_sim.export.onnx_graphs import encoder_graph, stream_delays  # noqa: PLC0415
        from modeling_sim.export.onnx_precision import float16_graph, write_int8  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            f"`format` 'onnx' needs the package {error.name}; install it with pip install 'modeling_sim[export]'."
        ) from error
    config = model.config
    normalize = bool(getattr(extractor, "do_normalize", False))
    for name in (ENCODER, STEP):
        streaming = name == STEP
        metadata: dict[str, Any] = {
            "sampling_rate": config.sampling_rate,
            "hop_length": config.hop_length(),
            "receptive_field": config.receptive_field(),
            "normalization": "none" if not normalize else "before this file" if streaming else "in this file",
        }
        if streaming:
            metadata["stream_delays"] = stream_delays(model)
        texts = {key: str(value) for key, value in metadata.items()}
        graph = encoder_graph(model, normalize=normalize and not streaming, streaming=streaming, metadata=texts)
        if dtype == "int8":
            step = int(_CALIBRATION_STEP * config.frame_rate()) * config.hop_length() if streaming else 0
            write_int8(graph, folder / name, waveforms, step=step)
        else:
            onnx.save(float16_graph(graph) if dtype == "float16" else graph, folder / name)
