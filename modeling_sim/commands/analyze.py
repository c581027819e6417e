r"""Looks inside models: the scorecard of every module beside its controls, and a report to read, see and hear.

    python training/analyze.py --model runs/sim-0 runs/sim-1 runs/gim-0 runs/gim-1 --decoder runs/decoder-sim-0 \
        --corpus artificial_speech --data_dir ... --corpus_settings '{units: syllables}' --label syllable

Models with equal configurations are one kind, trained with several seeds; the first model's kind is compared with the
others. Beside them stand log-mel spectra, each model untrained, and deterministic kinds in principal and independent
components. Modules of other architectures are set beside those of the first model that see as many samples as often.
What needs a decoder (smoothness, reconstruction, everything to hear) is measured for the decoders that are given; one
that was trained with noise counts as a kind of its own.

What is measured is kept in `--cache_dir`, part by part: the same command continues after it was killed, and one with a
model or a decoder more measures these alone.

The output folder gets the numbers in `analysis.json` and `analysis.csv`, what is drawn and heard in `curves.json` and
`media.npz`, and `report.html`; with `--figure_format` also every picture of the report in a file of its own. A folder
that holds another analysis is refused.
"""

from argparse import ArgumentParser
from collections.abc import Sequence

from transformers.utils import logging

from modeling_sim.evaluation.results import FACTORS
from modeling_sim.evaluation.scorecard import analyze
from modeling_sim.evaluation.settings import measuring_parser
from modeling_sim.report.html import write_report


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    arguments = parser().parse_args(argv)
    logging.set_verbosity_error()
    try:
        report = write_report(analyze(arguments), figure_format=arguments.figure_format)
    except (ValueError, OSError) as error:
        raise SystemExit(f"analyze.py: {error}") from error
    print(f"report in {report}")


def parser() -> ArgumentParser:
    """The flags."""
    of = measuring_parser(__doc__, output_dir="runs/analysis")
    of.add_argument("--decoder", nargs="*", default=[], help="Decoders of these models, of train_decoder.py.")
    of.add_argument(
        "--factors",
        default="",
        help=f"Columns for disentanglement; by default those of {', '.join(FACTORS)} that the corpus has.",
    )
    of.add_argument("--max_frames", type=int, default=20_000, help="Frames of a module, about, for distributions.")
    of.add_argument("--max_items", type=int, default=50_000, help="Items for probes; 0 for all.")
    of.add_argument("--num_utterances", type=int, default=64, help="Utterances that are decoded.")
    of.add_argument("--num_pairs", type=int, default=60, help="Pairs of them for smoothness and curves.")
    of.add_argument("--steps", type=int, default=12, help="Steps of a path between two of them.")
    of.set_defaults(figure_format=None)
    return of
