"""Trains a decoder from one module's latents to the waveform; the encoder is frozen in every sense.

    accelerate launch training/train_decoder.py --model runs/sim-small --module 2

Latents are standardized channel by channel before they are decoded. What a decoder is trained on makes it smooth: to
compare models fairly, give the decoder of a deterministic one noise of the strength that Gaussian latents have
(`--noise`; a run on a Gaussian model writes that strength into results.json as `relative_noise_of_gaussians`).
Look at the reconstruction in results.json, beside that of silence, before anything is concluded from decoded audio.
"""

from collections.abc import Sequence

from modeling_sim.commands.command import train
from modeling_sim.trainer.settings import DECODER_TRAINING


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    train("train-decoder", __doc__, argv, DECODER_TRAINING, "modeling_sim.trainer.decoding")
