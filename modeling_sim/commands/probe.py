"""Measures what a small classifier reads from frozen models, next to controls.

    modeling-sim probe --model runs/sim-small --corpus librispeech --data_dir LibriSpeech --label phones

Any speech encoder of transformers can be measured next to SIM, layer by layer, and so can the encoder of a codec:

    modeling-sim probe --model runs/sim-small facebook/wav2vec2-base kyutai/mimi --corpus librispeech ...

Each row of the table is the same task on the same items. There are rows for chance (the most frequent class), for
log-mel and MFCC frames, and for every module or layer of each model. Each model is shown next to its own untrained
network: the same architecture with fresh weights. A deterministic SIM model is also shown in principal and in
independent components. Intervals are 95 % bootstrap intervals over utterances, or over speakers if those of the test
split are not in the training split.

This is `modeling-sim evaluate --measures probes` with an output of its own. The output folder gets `probe.json`,
`probe.png` (accuracies), `confusion.png` (of the best module of the first model) and `weights.npz` (standardized
weights of the linear probes). A folder that holds the results of another probe is refused.
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
