"""Trains a decoder from one module's latents to the waveform; the encoder is frozen.

    accelerate launch training/train_decoder.py --model runs/sim-small --module 2

Each channel of the latents is standardized before decoding. Training on noisy latents makes a decoder smooth: for a
fair comparison of models, train the decoder of a deterministic model with the same amount of noise as Gaussian latents
have (`--noise`; a run on a Gaussian model writes this value to results.json as `relative_noise_of_gaussians`). Before
you draw conclusions from decoded audio, compare the reconstruction in results.json with that of silence.
"""

from collections.abc import Sequence

from modeling_sim.commands.command import train
from modeling_sim.trainer.settings import DECODER_TRAINING


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    train("train-decoder", __doc__, argv, DECODER_TRAINING, "modeling_sim.trainer.decoding")
