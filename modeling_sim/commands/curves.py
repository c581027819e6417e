"""Training curves: a picture of a run's log.

modeling-sim curves runs/sim-small --figure_format pdf
"""

from argparse import ArgumentParser
from collections.abc import Sequence

from modeling_sim.plots import FIGURE_FORMAT_HELP, FIGURE_FORMATS
from modeling_sim.trainer.curves import write_curves


def main(argv: Sequence[str] | None = None) -> None:
    """Draws the curves of a run on demand."""
    parser = ArgumentParser(description="Draw the training curves of a run from its log.")
    parser.add_argument("output_dir", help="Output folder of a training run.")
    parser.add_argument("--figure_format", choices=FIGURE_FORMATS, default="png", help=FIGURE_FORMAT_HELP)
    arguments = parser.parse_args(argv)
    try:
        print(write_curves(arguments.output_dir, arguments.figure_format))
    except (ValueError, OSError) as error:
        raise SystemExit(f"curves: {error}") from error
