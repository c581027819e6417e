"""Pretrains a Smooth InfoMax, Greedy InfoMax or CPC model, and saves it for AutoModel.

Without arguments it trains a small model on built-in synthetic speech:

    accelerate launch training/pretrain.py

For real speech, use a settings file; flags override its settings:

    accelerate launch training/pretrain.py --config training/configs/small/librispeech_small.yaml --data_dir LibriSpeech

The output folder contains the model (`config.json`, `model.safetensors`, `preprocessor_config.json` and the code to
load it without this package), `log.jsonl`, `curves.png`, `results.json` and `training_settings.json`. Rerun the same
command to resume an interrupted run from its last complete checkpoint.
"""

from collections.abc import Sequence

from modeling_sim.commands.command import train
from modeling_sim.trainer.settings import PRETRAINING


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    train("pretrain", __doc__, argv, PRETRAINING, "modeling_sim.trainer.pretraining")
