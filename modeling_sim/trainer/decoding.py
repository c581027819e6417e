"""The task of decoder training: a decoder of one module's latents, with a frozen encoder."""

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from datasets import Dataset, IterableDataset
from tqdm.auto import tqdm
from transformers import SequenceFeatureExtractor

from modeling_sim import SimDecoder, SimDecoderConfig, SimModel
from modeling_sim.analysis import bootstrap_statistic
from modeling_sim.analysis.reconstruction_loss import LOSSES, multi_resolution_stft, reconstruction_loss, si_sdr
from modeling_sim.analysis.sound_properties import frame_pitch
from modeling_sim.latents import encode
from modeling_sim.loading import feature_extractor_of, load_encoder, module_number
from modeling_sim.modeling_sim import real_frames
from modeling_sim.provenance import weights_fingerprint
from modeling_sim.settings import at_least
from modeling_sim.trainer.devices import to_device
from modeling_sim.trainer.log import Scores, bars_are_shown
from modeling_sim.trainer.optimization import Part
from modeling_sim.trainer.run import load_data
from modeling_sim.trainer.settings import DataArguments, DecoderArguments, DecoderRunArguments, RunArguments
from modeling_sim.trainer.task import CropTask

# Utterances to estimate the standardization of latents from; estimates converge with far fewer.
_STANDARDIZED_ON = 256
# For the pitch: number of crops to fit it on, hop of frames in seconds, and weight of the penalty relative to the
# variance of a latent.
_PITCH_FITTED_ON, _PITCH_HOP, _RIDGE = 1024, 0.01, 1e-3


class DecodingTask(CropTask):
    """Trains a decoder; has one row of scores, named after the decoded module.

    Args:
        encoder: The frozen encoder: in evaluation mode, without gradients; this task does not save it.
        decoder: The decoder to train, on the accelerator's device like the encoder. Its configuration determines
            whether it decodes means or samples, which are drawn again in each step, and how much noise is added.
        extractor: Feature extractor of the encoder.
        accelerator: Provides processes and mixed precision.
        data: Settings of the data.
        settings: Settings of the training.
        train_data: Data to train on, in crops.
        test_data: Data to evaluate on, in complete utterances.
        loss: Name of the loss for `reconstruction_loss`.
    """

    metrics = ("loss",)

    def __init__(
        self,
        encoder: SimModel,
        decoder: SimDecoder,
        extractor: SequenceFeatureExtractor,
        accelerator: Accelerator,
        data: DataArguments,
        settings: RunArguments,
        train_data: Dataset | IterableDataset,
        test_data: Dataset,
        *,
        loss: str,
    ) -> None:
        super().__init__(accelerator, data, settings)
        self.encoder, self.extractor = encoder, extractor
        self.model: SimDecoder = decoder
        self.train_data, self.test_data = train_data, test_data
        config = decoder.config
        self.module, self.loss_name = config.module, loss
        self.sample, self.noise = config.trained_on == "sample", float(config.noise)
        self.loss = reconstruction_loss(loss, decoder.config.sampling_rate)
        name = encoder.config.module_names[self.module]
        self.title = f"decoder of {name}, {data.corpus}"
        self.row_names = [name]
        self.relative_noise: float | None = None
        self.utterances: dict[str, dict[str, float]] = {}

    def parts(self) -> list[Part]:
        """The decoder."""
        return [Part(list(self.model.parameters()), [])]

    def begin(self) -> None:
        """Fits the decoder's standardization and pitch to the training data."""
        self.standardize()
        if self.model.config.architecture == "source_filter":
            self.fit_pitch()

    def state_dict(self) -> dict[str, Any]:
        """The relative noise, which is not part of the decoder's state."""
        return {"relative_noise": self.relative_noise}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a `state_dict`; if it is empty, as in earlier versions, the noise is measured again."""
        if state:
            self.relative_noise = state["relative_noise"]
        else:
            self.standardize()

    @torch.no_grad()
    def standardize(self) -> None:
        """Sets the decoder's mean and scale from the latents, and measures the relative noise of the Gaussians."""
        batches = iter(self.batches(0))
        means, noises = [], []
        for _ in range(-(-_STANDARDIZED_ON // self.settings.batch_size)):
            inputs, mask = to_device(next(batches), self.accelerator.device)
            modules = self.encoder.module_latents(inputs, mask)
            _, mean, log_variance, lengths = next(itertools.islice(modules, self.module, None))
            real = slice(None) if lengths is None else real_frames(lengths, mean.shape[1])
            means.append(mean[real].reshape(-1, mean.shape[-1]).float())
            if log_variance is not None:
                noises.append(log_variance[real].reshape(-1, log_variance.shape[-1]).float().exp())
        frames = torch.cat(means)
        variance = frames.var(dim=0)
        if noises:
            noise = torch.cat(noises).mean(dim=0)
            self.relative_noise = float((noise / variance).sqrt().median())
            variance = variance + noise * self.sample
        scale = variance.sqrt()
        dead = scale < 1e-6 * scale.max().clamp(min=1e-30)
        self.model.set_standardization(frames.mean(dim=0), torch.where(dead, torch.ones_like(scale), scale))

    @torch.no_grad()
    def fit_pitch(self) -> None:
        """Sets the decoder's pitch: a ridge regression of the estimated pitch of voiced frames on the latents.

        Raises:
            ValueError: No frame is voiced.
        """
        rate, hop = self.model.config.sampling_rate, self.model.config.hop_length
        step = max(1, round(_PITCH_HOP * rate / hop))
        count = -(-_PITCH_FITTED_ON // self.settings.batch_size)
        size = self.model.config.latent_size + 1  # the last is the bias
        squares, products = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
        for number, batch in enumerate(itertools.islice(self.batches(0), count)):
            latents = self.model.averaged(self.latents(batch, self.generator(0, number)))[:, ::step].cpu().double()
            centers = (step * np.arange(latents.shape[1]) + 0.5) * hop / rate
            pitch = np.stack([frame_pitch(each, rate, centers) for each in batch["input_values"].cpu().numpy()]) / 12
            voiced = torch.from_numpy(np.isfinite(pitch))
            frames = F.pad(latents[voiced], (0, 1), value=1.0)
            squares += frames.T @ frames
            products += frames.T @ torch.from_numpy(pitch)[voiced]
        voiced_frames = squares[-1, -1]
        if not voiced_frames:
            raise ValueError("no frame of the training data is voiced; a source-filter decoder needs speech.")
        ridge = _RIDGE * voiced_frames * torch.eye(size, dtype=torch.float64)
        ridge[-1, -1] = 0.0
        weights = torch.linalg.solve(squares + ridge, products)
        self.model.set_pitch(weights[:-1].float(), float(weights[-1]))

    def latents(self, batch: dict[str, Any], generator: torch.Generator) -> torch.Tensor:
        """Latents of a batch, without gradient, with noise if the settings add any."""
        return self.latents_of(*to_device(batch, self.accelerator.device), generator)

    def latents_of(self, inputs: torch.Tensor, mask: torch.Tensor | None, generator: torch.Generator) -> torch.Tensor:
        """Like `latents`, from samples `(batch, samples)` and their mask."""
        latents = encode(self.encoder, inputs, mask, module=self.module, sample=self.sample, generator=generator)
        if self.noise:
            strength = self.noise * self.model.get_buffer("scale")
            latents = latents + strength * torch.empty_like(latents).normal_(generator=generator)
        return latents

    def backward(self, batch: dict[str, Any], step: int, *, loss_scale: float, accumulating: bool) -> torch.Tensor:
        """Forward and backward pass of a batch of crops; returns the loss."""
        true, mask = to_device(batch, self.accelerator.device)
        with self.accelerator.autocast():
            decoded = self.model(self.latents_of(true, mask, self.generator(step)), true.shape[1]).waveforms
        decoded = decoded.float()
        if mask is not None:
            decoded, true = decoded * mask, true * mask
        loss = self.loss(decoded, true).mean()
        self.backward_pass(loss, loss_scale=loss_scale, accumulating=accumulating)
        return loss.detach()[None, None]

    @torch.no_grad()
    def evaluate(self) -> list[Scores]:
        """Mean distances of held-out utterances from their reconstructions, and from silence as a control.

        Scores of an utterance longer than 40 seconds are means over its pieces; see `utterance_batches`.
        """
        accelerator, device = self.accelerator, self.accelerator.device
        batches = self.held_out_batches(batch_size=1)  # padding would change the spectra
        log_mel = reconstruction_loss("log_mel", self.model.config.sampling_rate)
        self.model.eval()
        found: list[tuple[str, dict[str, float]]] = []
        for number, batch in enumerate(
            tqdm(batches, desc="evaluating", leave=False, disable=not bars_are_shown(accelerator))
        ):
            true = batch["input_values"].to(device)
            latents = self.latents(batch, self.generator(0, number))
            decoded = self.model(latents, true.shape[1]).waveforms.float()
            silence = torch.zeros_like(true)
            scores = {
                "loss": self.loss(decoded, true),
                "log_mel": log_mel(decoded, true),
                "spectral": multi_resolution_stft(decoded, true),
                "si_sdr": si_sdr(decoded, true),
                "log_mel_of_silence": log_mel(silence, true),
                "spectral_of_silence": multi_resolution_stft(silence, true),
            }
            found.append((batch["id"][0], {name: float(value) for name, value in scores.items()}))
        pieces: dict[str, list[dict[str, float]]] = {}
        for name, scores in itertools.chain(*self.gather_objects(found)):
            pieces.setdefault(name, []).append(scores)
        names = list(next(iter(pieces.values()))[0])
        self.utterances = {
            utterance: {name: float(np.mean([piece[name] for piece in of])) for name in names}
            for utterance, of in pieces.items()
        }
        return [{name: float(np.mean([row[name] for row in self.utterances.values()])) for name in names}]

    def summary(self, scores: list[Scores]) -> str:
        """Loss, and for held-out speech the log-mel distance next to that of silence."""
        text = f"{self.loss_name} {scores[0]['loss']:.4f}"
        if "log_mel" in scores[0]:
            text += f", log-mel distance {scores[0]['log_mel']:.2f} (silence {scores[0]['log_mel_of_silence']:.2f})"
        return text

    def results(self) -> dict[str, Any]:
        """Settings of the decoder, and the latest scores with confidence intervals over utterances."""
        groups = np.array(list(self.utterances))
        intervals = {}
        for name in next(iter(self.utterances.values())):
            values = np.array([row[name] for row in self.utterances.values()])
            if len(values) > 1:
                interval = bootstrap_statistic(partial(_mean, values), groups, seed=self.settings.seed)
                intervals[name] = vars(interval)
        return {
            "module": self.module,
            "latents": "sample" if self.sample else "mean",
            "decoder_loss": self.loss_name,
            "noise": self.noise,
            "relative_noise_of_gaussians": self.relative_noise,
            "reconstruction": intervals,
        }


def _mean(values: np.ndarray, items: np.ndarray) -> float:
    return float(values[items].mean())


def build(
    accelerator: Accelerator, arguments: DecoderArguments, data: DataArguments, settings: DecoderRunArguments
) -> DecodingTask:
    """Builds the task of decoder training from its settings.

    Raises:
        ValueError: Settings are incompatible, or the module does not exist.
        OSError: The model does not exist.
    """
    check(arguments)
    encoder = load_encoder(arguments.model).requires_grad_(requires_grad=False)
    extractor = feature_extractor_of(arguments.model)
    if arguments.latents == "sample" and encoder.config.latent_distribution == "deterministic":
        raise ValueError("`latents` 'sample' needs Gaussian latents; set `noise` for a deterministic model instead.")
    module = module_number(encoder.config, arguments.module)
    decoder_settings: dict[str, Any] = {
        "architecture": arguments.architecture,
        "encoder_fingerprint": weights_fingerprint(encoder),
        "trained_on": arguments.latents,
        "loss": arguments.loss,
        "noise": arguments.noise,
    }
    if arguments.decoder_hidden_size:
        decoder_settings["hidden_size"] = arguments.decoder_hidden_size
    decoder = SimDecoder(SimDecoderConfig.for_module(encoder.config, module, **decoder_settings))
    train_data, test_data = load_data(accelerator, data, settings, encoder.config, extractor)
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
    return task


def check(arguments: DecoderArguments) -> None:
    """Checks the settings of a decoder."""
    if arguments.loss not in LOSSES:
        raise ValueError(f"`loss` is {arguments.loss!r}; choose {', '.join(LOSSES)}.")
    if arguments.architecture == "source_filter" and arguments.loss == "waveform":
        raise ValueError("`loss` 'waveform' needs phases, which `architecture` 'source_filter' lacks; choose 'stft'.")
    for name in ("noise", "decoder_hidden_size"):
        at_least(0)(name, getattr(arguments, name))
