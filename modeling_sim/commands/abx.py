"""Measures how well modules and layers discriminate phones (ABX), next to controls.

    modeling-sim abx runs/sim-small --corpus librispeech --data_dir LibriSpeech

The error is the fraction of triples in which a token of a phone is closer to a token of another phone than to one of
the same phone; chance is 50 %. Tokens are segments of the alignment, read every 10 ms, without silence and noise.

There are rows for log-mel and MFCC frames and for every module or layer of each model. Each model is shown next to its
untrained network, the same architecture with new weights.

This is `modeling-sim evaluate --measures abx` with a different output: `abx.json` and `abx.png`. The output folder must
not contain results of a different ABX measurement.
"""

from collections.abc import Sequence

from modeling_sim.commands.command import command
from modeling_sim.evaluation.settings import AbxArguments


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    with command("abx", __doc__, argv, AbxArguments, positional=["model"]) as (settings,):
        from modeling_sim.evaluation.engine import abx  # noqa: PLC0415 - imports torch
        from modeling_sim.evaluation.pictures import table  # noqa: PLC0415

        print(table(abx(settings)))
        print(f"\nresults and figure in {settings.output_dir}")
