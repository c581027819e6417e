"""Measures phone discriminability (ABX) of modules and layers, next to log-mel, MFCC and an untrained network.

    modeling-sim abx --model runs/sim-small --corpus librispeech --data_dir LibriSpeech

The error is the share of triples in which a token of a phone lies nearer to a token of another phone than to one of its
own; 50 % is chance. Tokens are the segments of the alignment, read every 10 ms; silence and noise are left out.
The output folder gets `abx.json` and `abx.png`; one that holds these of an earlier measurement is refused.
"""

from collections.abc import Sequence

from modeling_sim.commands.command import command
from modeling_sim.evaluation.settings import AbxArguments


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    with command("abx", __doc__, argv, AbxArguments) as (settings,):
        from modeling_sim.evaluation.engine import abx  # noqa: PLC0415 - imports torch
        from modeling_sim.evaluation.pictures import table  # noqa: PLC0415

        print(table(abx(settings)))
        print(f"\nresults and picture in {settings.output_dir}")
