r"""Measures every module of models next to controls, and writes a report with figures and sounds.

    modeling-sim evaluate runs/sim-0 runs/sim-1 runs/gim-0 runs/gim-1 --decoder runs/decoder-sim-0 \
        --corpus artificial_speech --data_dir ... --corpus_settings '{units: syllables}' --label syllable

Models with equal configurations are seeds of one method. The method of the first model is compared with the others.
The controls are log-mel and MFCC frames, and for each model its untrained network, the same architecture with new
weights. Modules of other architectures are compared if they have the receptive field and hop of a module of the first
model (`--align_modules`).

Single dimensions are also measured in other axes (`--axes own,principal,independent,temporal,slow`), which are found
on training utterances. Their rows end in "+ PCA", "+ ICA", "+ SOBI" or "+ SFA". With frame labels, such as phones, the
best dimension for each property of the sound (pitch, level, formants, phone, speaker) is measured on voiced frames.

`--measures` selects groups of measures, separated by commas: probes, neighbors, concentration, disentanglement, abx,
consistency, distribution, objective, decoders. The last three are only for SIM, GIM and CPC models. `consistency`
compares the axes of each pair of models. `decoders` (smoothness, reconstruction, sounds) needs decoders, given with
`--decoder`. A decoder that was trained with noise has separate rows.

For figures and sounds, `--dims 3,17` selects dimensions, `--range 2` how far they are changed in standard deviations,
and `--utterance ID` the test utterance.

Partial results are kept in `--cache_dir`. Rerun the command after an interruption, or with another model or decoder:
only what is missing is measured.

The output folder contains the numbers in `analysis.json` and `analysis.csv`, the weights of linear probes in
`weights.npz`, the axes in `axes.safetensors` (read them with `modeling_sim.evaluation.axes.load_axes`), the data of
figures and sounds in `curves.json` and `media.npz`, and `report.html`: a description of the model, five numbers next to
their controls, sounds, figures, and all tables. With `--figure_format` every figure is also written to a file. The
folder must not contain a different analysis.
"""

from collections.abc import Sequence

from modeling_sim.commands.command import command
from modeling_sim.evaluation.settings import AnalysisArguments


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    with command("evaluate", __doc__, argv, AnalysisArguments, positional=["model"]) as (settings,):
        from transformers.utils import logging  # noqa: PLC0415 - imports torch

        from modeling_sim.evaluation.engine import evaluate  # noqa: PLC0415
        from modeling_sim.report.html import write_report  # noqa: PLC0415

        logging.set_verbosity_error()
        evaluate(settings)
        report = write_report(settings.output_dir, figure_format=settings.figure_format)
        print(f"report in {report}")
