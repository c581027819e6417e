"""Renders the report of an evaluation: one HTML file that works offline, on phones and larger screens.

    modeling-sim report runs/evaluation

All of its numbers come from `analysis.json`, `curves.json` and `media.npz`, which `modeling-sim evaluate` writes to its
output folder.
"""

from collections.abc import Sequence
from dataclasses import MISSING, dataclass

from modeling_sim.commands.command import command
from modeling_sim.settings import FigureFormat, check_folder, setting


@dataclass
class ReportArguments:
    """The evaluation and the format of figures."""

    output_dir: str = setting(MISSING, "Output folder of `modeling-sim evaluate`.", check=check_folder)
    figure_format: FigureFormat | None = setting(None, "Also write every figure to a file in this format.")  # noqa: RUF009 - a field


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    with command("report", __doc__, argv, ReportArguments, positional=["output_dir"]) as (settings,):
        from modeling_sim.report.html import write_report  # noqa: PLC0415 - imports torch

        path = write_report(settings.output_dir, figure_format=settings.figure_format)
        print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
