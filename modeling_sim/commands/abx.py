"""Measures how well modules and layers discriminate phones (ABX), next to controls.

    modeling-sim abx --model runs/sim-small --corpus librispeech --data_dir LibriSpeech

The error is the share of triples in which a token of a phone is nearer to a token of another phone than to one of its
own phone; 50 % is chance. Tokens are the segments of the alignment, read every 10 ms, without silence and noise.

There are rows for log-mel and MFCC frames and for every module or layer of each model. Each model is shown next to its
own untrained network: the same architecture with fresh weights. A deterministic SIM model is also shown in principal
and in independent components.

This is `modeling-sim evaluate --measures abx` with an output of its own. The output folder gets `abx.json` and
`abx.png`. A folder that holds the results of another ABX measurement is refused.
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
