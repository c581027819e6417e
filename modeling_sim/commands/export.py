"""Exports an encoder for programs without this package: ONNX for onnxruntime and the like, or `torch.export`.

    modeling-sim export runs/sim-small exported/sim-small
    modeling-sim export runs/sim-small exported/sim-small-int8 --dtype int8 --calibration_audio recordings

`--format onnx` writes `model.onnx`, for batches of complete utterances of any number and length, and `streaming.onnx`,
a step of a stream whose state is an input and an output. It needs the extra `export`: pip install
'modeling_sim[export]'. `--format torch-export` writes `model.pt2`, the convolutional modules as a program of
`torch.export` for any number and length: a GRU has one fixed length there, so the context is in ONNX files alone.

int8 with calibration audio is fastest; without it the ranges of activations are measured while the model runs, which
is slower and loses less. Sixteen recordings are enough.
"""

from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from typing import Any, Literal, cast

from modeling_sim.commands.command import command
from modeling_sim.settings import check_sim_checkpoint, setting


@dataclass
class ExportArguments:
    """Which encoder is exported, how, and to where."""

    model: str = setting(MISSING, "Checkpoint, a folder or Hub id.", check=check_sim_checkpoint)
    output_dir: str = setting(MISSING, "Folder for the files; new or empty.")
    # `modeling_sim.export.folder.Format` and `Dtype`, which cannot be asked without torch.
    format: Literal["onnx", "torch-export"] = setting("onnx", "Format of the files.")
    dtype: Literal["float32", "float16", "int8"] = setting(
        "float32", "Of weights and products; inputs and outputs are float32. float16 and int8 are for ONNX."
    )
    calibration_audio: str | None = setting(
        None, "Folder of recordings that set the ranges of int8; unset, they are measured while the model runs."
    )
    max_calibration_files: int = setting(16, "Recordings to read of them, the first by name.")
    overwrite_output_dir: bool = setting(
        False, "Replace the saved model in `output_dir`, with everything in the folder."
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    with command("export", __doc__, argv, ExportArguments, positional=["model", "output_dir"]) as (settings,):
        from modeling_sim.convert import check_output_dir  # noqa: PLC0415 - imports torch
        from modeling_sim.export.folder import export_folder  # noqa: PLC0415
        from modeling_sim.loading import feature_extractor_of, load_encoder  # noqa: PLC0415

        check_output_dir(settings.output_dir, overwrite=settings.overwrite_output_dir)
        model, extractor = load_encoder(settings.model), cast("Any", feature_extractor_of(settings.model))
        waveforms = None
        if settings.calibration_audio is not None:
            from modeling_sim.data.audio import read_audio  # noqa: PLC0415
            from modeling_sim.data.corpora import load_corpus  # noqa: PLC0415

            recordings = load_corpus("folder", "all", data_dir=settings.calibration_audio)
            waveforms = [
                extractor(
                    read_audio(row["audio"], sampling_rate=extractor.sampling_rate),
                    sampling_rate=extractor.sampling_rate,
                )["input_values"][0]
                for row in recordings.select(range(min(settings.max_calibration_files, len(recordings))))
            ]
        sizes = export_folder(
            model,
            extractor,
            settings.output_dir,
            format=settings.format,
            dtype=settings.dtype,
            waveforms=waveforms,
            overwrite=settings.overwrite_output_dir,
        )
        for name, size in sizes.items():
            print(f"{settings.output_dir}/{name}: {size / 1e6:.2f} MB")
