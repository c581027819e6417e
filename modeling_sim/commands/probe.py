"""Measures what can be read from a frozen model with a small classifier, beside controls.

    modeling-sim probe --model runs/sim-small --corpus librispeech --data_dir LibriSpeech --label phones

Any speech encoder of transformers can be measured next to SIM, layer by layer, and so can the encoder of a codec:

    modeling-sim probe --model runs/sim-small facebook/wav2vec2-base kyutai/mimi --corpus librispeech ...

Every row of the table is the same task on the same items: chance (the most frequent class), log-mel and MFCC frames,
the first model untrained, and each model given, all of its modules or layers. Intervals are 95 % bootstrap intervals
over utterances, or over speakers where those of the test split are not in the training split. The output folder gets
`probe.json`, `probe.png` (accuracies), `confusion.png` (of the best module of the first model) and `weights.npz`
(standardized weights of the linear probes); one that holds these of an earlier probe is refused.
"""

from collections.abc import Sequence

from modeling_sim.commands.command import command
from modeling_sim.evaluation.settings import ProbeArguments


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    with command("probe", __doc__, argv, ProbeArguments) as (settings,):
        from modeling_sim.evaluation.engine import probe  # noqa: PLC0415 - imports torch
        from modeling_sim.evaluation.pictures import table  # noqa: PLC0415

        print(table(probe(settings)))
        print(f"\nresults and pictures in {settings.output_dir}")
