"""Converts a checkpoint of the authors' code to a folder for `from_pretrained`.

    modeling-sim convert model_99.ckpt runs/converted --method sim

`--method` is the training method: `sim`, `gim` or `cpc` for the code of the SIM authors, `gim-lowe` or `cpc` for that
of Löwe et al. (Greedy InfoMax). The file does not contain it: SIM and the SIM authors' GIM have the same tensors.

Sizes, layers, batch norm and prediction steps are read from the tensors; `--model_settings` sets the other fields.
Strides and paddings are known if the kernels are 10, 8, 4, 4, 4, as in both code bases. Otherwise give them:

    --model_settings '{conv_stride: [[5, 4], [2]], conv_padding: [[2, 2], [1]]}'

KL weights, negatives and similar fields default to the method's preset; for `sim` without batch norm that is
`sim-artificial`. Max pooling, an option of the SIM authors' code, is assumed to be off.
"""

from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, Literal

from modeling_sim.commands.command import command
from modeling_sim.files import MODEL_NAMES, check_output_dir
from modeling_sim.settings import Mappings, YamlMapping, setting

if TYPE_CHECKING:
    from modeling_sim import SimForPreTraining

# Fields that do not follow from the tensors.
_PRESUMED = ("conv_stride", "conv_padding", "sampling_rate", "kl_weight", "num_negatives", "negatives", "loss_window")


@dataclass
class ConvertArguments(Mappings):
    """The checkpoint and the output folder."""

    checkpoint: str = setting(MISSING, "File written by torch.save; only tensors are read from it.")
    output_dir: str = setting(MISSING, "Folder for the model; new or empty.")
    # `modeling_sim.convert.Method`, whose import takes seconds.
    method: Literal["sim", "gim", "gim-lowe", "cpc"] = setting(MISSING, "The training method.")
    model_settings: YamlMapping = setting(  # noqa: RUF009 - a field
        "{}",
        "Fields of SimConfig that do not follow from the tensors, as YAML: '{num_negatives: 10, kl_weight: 0.001}'.",
    )
    overwrite_output_dir: bool = setting(False, "Replace a model of this package in `output_dir`.")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    with command("convert", __doc__, argv, ConvertArguments, positional=["checkpoint", "output_dir"]) as (settings,):
        from modeling_sim.convert import (  # noqa: PLC0415 - imports torch
            convert_state_dict,
            read_state_dict,
            save_folder,
        )

        check_output_dir(settings.output_dir, MODEL_NAMES, overwrite_output_dir=settings.overwrite_output_dir)
        tensors = read_state_dict(settings.checkpoint)
        model = convert_state_dict(tensors, settings.method, **settings.model_settings)
        save_folder(model, settings.output_dir, overwrite_output_dir=settings.overwrite_output_dir)
        print(_summary(model, settings.method))
        print(f"model in {settings.output_dir}")


def _summary(model: "SimForPreTraining", method: str) -> str:
    """Describes the model, and the fields that are not in the checkpoint."""
    config = model.config
    context = f"a context of {config.context_size}" if config.context_size else "no context"
    presumed = ", ".join(f"{name}={getattr(config, name)}" for name in _PRESUMED)
    return (
        f"{method}: {config.num_conv_modules} convolutional modules of {config.hidden_size} channels, {context}, "
        f"{'' if config.use_batch_norm else 'no '}batch norm, {config.num_prediction_steps} prediction steps, "
        f"{model.num_parameters():,} parameters\nnot in the checkpoint (see --model_settings): {presumed}"
    )
