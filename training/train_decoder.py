"""Trains a decoder from one module's latents to the waveform; the encoder is frozen in every sense.

    accelerate launch training/train_decoder.py --model runs/sim-small --module 2

Latents are standardised channel by channel before they are decoded. What a decoder is trained on makes it smooth: to
compare models fairly, give the decoder of a deterministic one noise of the strength that Gaussian latents have
(`--noise`; a run on a Gaussian model writes that strength into results.json as `relative_noise_of_gaussians`).
Look at the reconstruction in results.json, beside that of silence, before anything is concluded from decoded audio.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from modeling_sim import SimDecoder, SimDecoderConfig
from training.arguments import DataArguments, RunArguments, parse_arguments, setting
from training.command import load_data, run_command
from training.decoding_task import DecodingTask
from training.feature_store import weights_fingerprint
from training.features import module_numbers
from training.measuring import feature_extractor_of, load_encoder
from training.reconstruction import LOSSES


@dataclass
class DecoderArguments:
    """Which decoder is trained, on what."""

    model: str = setting("", "Pretrained encoder: a folder or a Hub id.")
    module: str = setting("2", "Module whose latents are decoded: a number from 0, or 'context'.")
    latents: str = setting("mean", "'mean', or 'sample': drawn from the Gaussians anew each step, as the paper does.")
    loss: str = setting(
        "waveform",
        f"{', '.join(LOSSES)}: mean squared error of samples (the paper's), or a distance of spectra, which hears no "
        "phase.",
    )
    noise: float = setting(0.0, "Noise added to latents, in standard deviations of each channel; 0 for none.")
    decoder_hidden_size: int = setting(0, "Channels between the decoder's layers; 0 for the encoder's.")


@dataclass
class DecoderRunArguments(RunArguments):
    """How it is trained."""

    output_dir: str = setting("runs/decoder", "Folder for decoder, log, curves and results.")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    classes = (DecoderArguments, DataArguments, DecoderRunArguments)
    run_command("train_decoder.py", lambda: parse_arguments(__doc__, argv, classes), build)


def build(
    accelerator: Accelerator, arguments: DecoderArguments, data: DataArguments, settings: DecoderRunArguments
) -> DecodingTask:
    """The decoder, its frozen encoder, and the data.

    Raises:
        ValueError: Settings that do not go together, or no such module.
        OSError: The model is not there.
    """
    check(arguments)
    extractor = feature_extractor_of(arguments.model)
    encoder = load_encoder(arguments.model).requires_grad_(requires_grad=False)
    if arguments.latents == "sample" and encoder.config.latent_distribution == "deterministic":
        raise ValueError("`latents` 'sample' needs Gaussian latents; give this model's decoder `--noise` instead.")
    modules = module_numbers(encoder.config, arguments.module)
    if len(modules) > 1:
        raise ValueError(f"`module` is {arguments.module!r}; a decoder is of one module.")
    module = modules[0]
    settings_of_decoder: dict[str, Any] = {
        "encoder_fingerprint": weights_fingerprint(encoder), "trained_on": arguments.latents,
        "loss": arguments.loss, "noise": arguments.noise,
    }  # fmt: skip
    if arguments.decoder_hidden_size:
        settings_of_decoder["hidden_size"] = arguments.decoder_hidden_size
    decoder = SimDecoder(SimDecoderConfig.for_module(encoder.config, module, **settings_of_decoder))
    train_data, test_data = load_data(accelerator, data, settings)
    task = DecodingTask(
        encoder.to(accelerator.device),
        decoder.to(accelerator.device),
        extractor,
        accelerator,
        data,
        settings,
        train_data,
        test_data,
        loss=arguments.loss,
    )
    task.title += f", {Path(arguments.model).name}"
    task.standardise()
    return task


def check(arguments: DecoderArguments) -> None:
    """Refuses settings that mean nothing."""
    if not arguments.model:
        raise ValueError("`model` is not set; give the checkpoint of an encoder, a folder or a Hub id.")
    if arguments.latents not in ("mean", "sample"):
        raise ValueError(f"`latents` is {arguments.latents!r}; choose 'mean' or 'sample'.")
    if arguments.loss not in LOSSES:
        raise ValueError(f"`loss` is {arguments.loss!r}; choose {', '.join(LOSSES)}.")
    if arguments.noise < 0 or arguments.decoder_hidden_size < 0:
        raise ValueError("`noise` and `decoder_hidden_size` must be at least 0.")


if __name__ == "__main__":
    sys.exit(main())
