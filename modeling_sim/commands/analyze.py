r"""Looks inside models: the scorecard of every module beside its controls, and a report to read, see and hear.

    modeling-sim evaluate --model runs/sim-0 runs/sim-1 runs/gim-0 runs/gim-1 --decoder runs/decoder-sim-0 \
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

from collections.abc import Sequence

from modeling_sim.commands.command import command
from modeling_sim.evaluation.settings import AnalysisArguments


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    with command("evaluate", __doc__, argv, AnalysisArguments) as (settings,):
        from transformers.utils import logging  # noqa: PLC0415 - imports torch

        from modeling_sim.evaluation.engine import evaluate  # noqa: PLC0415
        from modeling_sim.report.html import write_report  # noqa: PLC0415

        logging.set_verbosity_error()
        evaluate(settings)
        report = write_report(settings.output_dir, figure_format=settings.figure_format)
        print(f"report in {report}")
