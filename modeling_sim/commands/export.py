"""Exports an encoder for use without this package, as ONNX or with `torch.export`.

    modeling-sim export runs/sim-small exported/sim-small
    modeling-sim export runs/sim-small exported/sim-small-int8 --dtype int8 --calibration_audio recordings

`--format onnx` writes `model.onnx`, the encoder for complete utterances of any batch size and length, and
`streaming.onnx`, one step of a stream with its state as input and output. It needs the extra `export`: pip install
'modeling_sim[export]'. `--format torch-export` writes `model.pt2`, a program of `torch.export` for any batch size and
length. It has the convolutional modules only, because a GRU would fix the length.

int8 is fastest with calibration audio; sixteen recordings are enough. Without it the ranges of activations are measured
at run time (dynamic quantization), which is slower and more accurate.
"""

from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from typing import Any, Literal, cast

from modeling_sim.commands.command import command
from modeling_sim.files import check_output_dir
from modeling_sim.settings import at_least, check_sim_checkpoint, setting


@dataclass
class ExportArguments:
    """The encoder to export, the format and the folder."""

    model: str = setting(MISSING, "Checkpoint: folder or Hub id.", check=check_sim_checkpoint)
    output_dir: str = setting(MISSING, "Folder for the files; new or empty.")
    # `modeling_sim.export.folder.Format` and `Dtype`, which cannot be imported without torch.
    format: Literal["onnx", "torch-export"] = setting("onnx", "Format of the files.")
    dtype: Literal["float32", "float16", "int8"] = setting(
        "float32", "Precision of weights and matrix products (ONNX only); inputs and outputs are float32."
    )
    calibration_audio: str | None = setting(
        None, "Folder of recordings for the calibration of int8; unset for dynamic quantization."
    )
    max_calibration_files: int = setting(
        16, "Number of recordings to use from this folder, the first by name.", check=at_least(1)
    )
    overwrite_output_dir: bool = setting(False, "Replace an earlier export in `output_dir`.")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    with command("export", __doc__, argv, ExportArguments, positional=["model", "output_dir"]) as (settings,):
        from modeling_sim.export.folder import EXPORTED_NAMES, export_folder  # noqa: PLC0415 - imports torch
        from modeling_sim.loading import feature_extractor_of, load_encoder  # noqa: PLC0415

        check_output_dir(settings.output_dir, EXPORTED_NAMES, overwrite_output_dir=settings.overwrite_output_dir)
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
            overwrite_output_dir=settings.overwrite_output_dir,
        )
        for name, size in sizes.items():
            print(f"{settings.output_dir}/{name}: {size / 1e6:.2f} MB")
