"""A report of an analysis: one HTML file that opens from disk, on a phone or a screen, without a network.

modeling-sim report runs/analysis

It is made only from `analysis.json`, `curves.json` and `media.npz`, which `modeling-sim evaluate` writes to its
output folder: a number that is not in those files is not in the report.
"""

from argparse import ArgumentParser
from collections.abc import Sequence

from modeling_sim.plots import FIGURE_FORMATS
from modeling_sim.report.html import write_report


def main(argv: Sequence[str] | None = None) -> None:
    """Renders the report of an analysis on demand."""
    parser = ArgumentParser(description="Render the report of an analysis from the files in its output folder.")
    parser.add_argument("output_dir", help="Output folder of modeling-sim evaluate.")
    parser.add_argument(
        "--figure_format", choices=FIGURE_FORMATS, help="Write every picture to a file of its own, too, in this format."
    )
    arguments = parser.parse_args(argv)
    try:
        path = write_report(arguments.output_dir, figure_format=arguments.figure_format)
    except (ValueError, OSError) as error:
        raise SystemExit(f"report: {error}") from error
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
