"""Trains a classifier on a pretrained encoder, frozen or with it, or on a fresh one, and saves a model for `pipeline`.

    accelerate launch training/finetune.py --model runs/sim-small --label speaker_id

A label of utterances (speaker_id, vowel, syllable) trains a linear layer on the mean of a module's frames, a label of
frames (phones) one on every frame. `--freeze_encoder` trains the layer alone. Without `--model` the encoder is a new
one of `--preset`: trained with it, that is the fully supervised baseline of the Smooth InfoMax paper; frozen, its
random one. The finished folder works in a pipeline, on an array at the model's sampling rate (for a path, or an array
at another rate, transformers' pipeline needs FFmpeg or torchaudio):

    import modeling_sim, soundfile, transformers
    classify = transformers.pipeline("audio-classification", model="runs/finetuned")
    classify(soundfile.read("speech.wav", dtype="float32")[0])
"""

from collections.abc import Sequence
from typing import Any

from modeling_sim.hub.callback import HubArguments, PushToHub
from modeling_sim.trainer.classification import ClassifierArguments, FinetuningArguments, build
from modeling_sim.trainer.curves import DrawCurves
from modeling_sim.trainer.loop import Callback
from modeling_sim.trainer.run import run_command
from modeling_sim.trainer.settings import DataArguments, parse_arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    classes = (ClassifierArguments, DataArguments, FinetuningArguments, HubArguments)

    def parse() -> tuple[Sequence[Any], list[Callback]]:
        *groups, hub = parse_arguments(__doc__ or "", argv, classes)
        return groups, [DrawCurves(), PushToHub(hub, groups[-1])]

    run_command("finetune.py", parse, build)
