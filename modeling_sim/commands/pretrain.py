"""Pretrains a Smooth InfoMax model, or one of its relatives, and saves a checkpoint that AutoModel loads.

With no argument it trains a small model on built-in synthetic speech:

    accelerate launch training/pretrain.py

Real speech, with the settings of a file and any of them overridden by flags:

    accelerate launch training/pretrain.py --config training/configs/small/librispeech_small.yaml --data_dir LibriSpeech

The output folder holds the checkpoint (`config.json`, `model.safetensors`, `preprocessor_config.json` and the code to
load it without this package), `log.jsonl`, `curves.png`, `results.json` and `training_settings.json`.
"""

from collections.abc import Sequence

from modeling_sim.commands.command import train
from modeling_sim.trainer.settings import PRETRAINING


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    train("pretrain", __doc__, argv, PRETRAINING, "modeling_sim.trainer.pretraining")
