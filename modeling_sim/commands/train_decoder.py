"""Trains a decoder from one module's latents to the waveform; the encoder is frozen in every sense.

    accelerate launch training/train_decoder.py --model runs/sim-small --module 2

Latents are standardised channel by channel before they are decoded. What a decoder is trained on makes it smooth: to
compare models fairly, give the decoder of a deterministic one noise of the strength that Gaussian latents have
(`--noise`; a run on a Gaussian model writes that strength into results.json as `relative_noise_of_gaussians`).
Look at the reconstruction in results.json, beside that of silence, before anything is concluded from decoded audio.
"""

from collections.abc import Sequence

from modeling_sim.commands.callbacks import settings_and_callbacks
from modeling_sim.trainer.decoding import DecoderArguments, DecoderRunArguments, build
from modeling_sim.trainer.run import run_command
from modeling_sim.trainer.settings import DataArguments


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    classes = (DecoderArguments, DataArguments, DecoderRunArguments)
    run_command("train_decoder.py", lambda: settings_and_callbacks(__doc__, argv, classes), build)
