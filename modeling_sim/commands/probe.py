"""Trains probes (small classifiers) on frozen models, and compares them with controls.

    modeling-sim probe runs/sim-small --corpus librispeech --data_dir LibriSpeech --label phones

Speech encoders and codecs of transformers can be measured next to SIM, layer by layer:

    modeling-sim probe runs/sim-small facebook/wav2vec2-base kyutai/mimi --corpus librispeech ...

All rows of the table use the same task and the same items. There are rows for chance (the most frequent class), for
log-mel and MFCC frames, and for every module or layer of each model. Each model is shown next to its untrained
network, the same architecture with new weights. Intervals are 95 % bootstrap intervals over utterances, or over
speakers if the splits share none and each has at least two.

This is `modeling-sim evaluate --measures probes` with a different output: `probe.json`, `probe.png` (accuracies),
`confusion.png` (for the best module of the first model) and `weights.npz` (standardized weights of the linear probes).
The output folder must not contain results of a different probe.
"""

from collections.abc import Sequence

from modeling_sim.commands.command import command
from modeling_sim.evaluation.settings import ProbeArguments


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    with command("probe", __doc__, argv, ProbeArguments, positional=["model"]) as (settings,):
        from modeling_sim.evaluation.engine import probe  # noqa: PLC0415 - imports torch
        from modeling_sim.evaluation.pictures import table  # noqa: PLC0415

        print(table(probe(settings)))
        print(f"\nresults and figures in {settings.output_dir}")
