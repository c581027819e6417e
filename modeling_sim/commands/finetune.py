"""Trains a classifier on a pretrained encoder, frozen or with it, or on a fresh one, and saves a model for `pipeline`.

    accelerate launch training/finetune.py --model runs/sim-small --label speaker_id

A label of utterances (speaker_id, vowel, syllable) trains a linear layer on the mean of a module's frames, a label of
frames (phones) one on every frame. `--freeze_encoder` trains the layer alone. Without `--model` the encoder is a new
one of `--preset`: trained with it, that is the fully supervised baseline of the Smooth InfoMax paper; frozen, its
random one. The finished folder works in a pipeline, on an array at the model's sampling rate. `read_audio` reads any
file and resamples it (transformers' own reader needs FFmpeg, its resampling torchaudio):

    import transformers
    from modeling_sim.data.audio import read_audio
    classify = transformers.pipeline("audio-classification", model="runs/finetuned")
    classify(read_audio({"path": "speech.wav"}, sampling_rate=16000))
"""

from collections.abc import Sequence

from modeling_sim.commands.command import train
from modeling_sim.trainer.settings import FINETUNING


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    train("finetune", __doc__, argv, FINETUNING, "modeling_sim.trainer.classification")
