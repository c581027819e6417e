"""Converts a checkpoint of earlier code to a folder that `from_pretrained` reads.

    modeling-sim convert model_99.ckpt runs/converted --method sim

`--method` says what was trained: `sim`, `gim` and `cpc` with the code of SIM's authors, `gim-lowe` and `cpc` with that
of Löwe et al. SIM and the authors' GIM have the same tensors, so the file alone does not tell.

Sizes, layers, batch norm and prediction steps are read from the tensors; `--model_settings` gives what they do not
tell. Strides and paddings are those of both codes where the kernels are 10, 8, 4, 4, 4, and must be given otherwise:

    --model_settings '{conv_stride: [[5, 4], [2]], conv_padding: [[2, 2], [1]]}'

KL weights, negatives and the like are those of the method's preset unless they are given; for `sim` without batch norm
that is `sim-artificial`. Max pooling, an option of the SIM authors' code, is taken to be off.
"""

from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, Literal

from modeling_sim.commands.command import command
from modeling_sim.settings import setting
from modeling_sim.trainer.settings import YamlMapping

if TYPE_CHECKING:
    from modeling_sim import SimForPreTraining

# Fields that no tensor tells.
_PRESUMED = ("conv_stride", "conv_padding", "sampling_rate", "kl_weight", "num_negatives", "negatives", "loss_window")


@dataclass
class ConvertArguments:
    """Which checkpoint is converted, and where the model goes."""

    checkpoint: str = setting(MISSING, "File that torch.save wrote; only tensors are read from it.")
    output_dir: str = setting(MISSING, "Folder for the model; new or empty.")
    # `modeling_sim.convert.Method`, which cannot be asked without torch.
    method: Literal["sim", "gim", "gim-lowe", "cpc"] = setting(MISSING, "What was trained.")
    model_settings: YamlMapping = setting(  # noqa: RUF009 - a field
        "{}", "Fields of SimConfig that the checkpoint does not tell, as YAML: '{num_negatives: 10, kl_weight: 0.001}'."
    )
    overwrite_output_dir: bool = setting(
        False, "Replace the saved model in `output_dir`, with everything in the folder."
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    with command("convert", __doc__, argv, ConvertArguments, positional=["checkpoint", "output_dir"]) as (settings,):
        from modeling_sim.convert import (  # noqa: PLC0415 - imports torch
            check_output_dir,
            convert_state_dict,
            read_state_dict,
            save_folder,
        )

        check_output_dir(settings.output_dir, overwrite=settings.overwrite_output_dir)
        tensors = read_state_dict(settings.checkpoint)
        model = convert_state_dict(tensors, settings.method, **settings.model_settings)
        save_folder(model, settings.output_dir, overwrite=settings.overwrite_output_dir)
        print(_summary(model, settings.method))
        print(f"model in {settings.output_dir}")


def _summary(model: "SimForPreTraining", method: str) -> str:
    """What the model is, and what of it no tensor tells."""
    config = model.config
    context = f"a context of {config.context_size}" if config.context_size else "no context"
    presumed = ", ".join(f"{name}={getattr(config, name)}" for name in _PRESUMED)
    return (
        f"{method}: {config.num_conv_modules} convolutional modules of {config.hidden_size} channels, {context}, "
        f"{'' if config.use_batch_norm else 'no '}batch norm, {config.num_prediction_steps} prediction steps, "
        f"{model.num_parameters():,} parameters\nnot in the checkpoint (see --model_settings): {presumed}"
    )
