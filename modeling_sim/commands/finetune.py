"""Trains a classifier on a pretrained or new encoder, frozen or not, and saves a model for `pipeline`.

    accelerate launch training/finetune.py --model runs/sim-small --label speaker_id

The classifier is a linear layer on the mean of a module's frames for labels of utterances (speaker_id, vowel,
syllable), and on every frame for labels of frames (phones). `--freeze_encoder` trains only this layer. Without
`--model` the encoder is new, with random weights and the architecture of `--preset`. If trained, it is the supervised
baseline of the Smooth InfoMax paper; if frozen, the random baseline.

The output folder works in a pipeline of transformers. Pass arrays at the model's sampling rate: `read_audio` reads and
resamples any file, whereas the pipeline needs FFmpeg to read files and torchaudio to resample:

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
