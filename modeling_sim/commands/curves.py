"""Draws the training curves of a run from its log.

For example:

    modeling-sim curves runs/sim-small --figure_format pdf
"""

from collections.abc import Sequence
from dataclasses import MISSING, dataclass

from modeling_sim.commands.command import command
from modeling_sim.settings import FIGURE_FORMAT_HELP, FigureFormat, check_folder, setting


@dataclass
class CurvesArguments:
    """The run and the format."""

    output_dir: str = setting(MISSING, "Output folder of a training run.", check=check_folder)
    figure_format: FigureFormat = setting("png", FIGURE_FORMAT_HELP)  # noqa: RUF009 - a field


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    with command("curves", __doc__, argv, CurvesArguments, positional=["output_dir"]) as (settings,):
        from modeling_sim.trainer.curves import write_curves  # noqa: PLC0415 - imports torch

        print(write_curves(settings.output_dir, settings.figure_format))
