"""What is measured: SIM models, spectra and the audio encoders of transformers, all as frames with a place in time."""

import itertools
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy.fft import dct
from transformers import PreTrainedModel, set_seed
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from modeling_sim import SimConfig, SimFeatureExtractor, SimModel
from modeling_sim.data.corpora import corpus_info
from modeling_sim.data.corpora.alignments import LABEL_HOP, LABEL_RATE, LABEL_WINDOW
from modeling_sim.evaluation.settings import MeasuringArguments, corpus_settings_of
from modeling_sim.loading import (
    check_device,
    chosen_numbers,
    feature_extractor_of,
    is_codec,
    load_audio_encoder,
    module_numbers,
    names_of,
)
from modeling_sim.provenance import git_revision, hub_dataset, model_fingerprint, versions, weights_fingerprint

UNTRAINED, SPECTRA = "untrained", "spectra"


_NUM_MELS, _NUM_MFCC, _FFT = 80, 13, 512


class TimedFrames:
    """Frames `(utterances, frames, channels)` of a batch, and where they lie in time.

    Args:
        values: Frames; padded ones may hold anything.
        lengths: Number of real frames of each utterance.
        start: Center of the first frame, in seconds.
        hop: Seconds from one frame to the next.
    """

    def __init__(self, values: np.ndarray, lengths: Sequence[int], start: float, hop: float) -> None:
        self.values, self.lengths, self.start, self.hop = values, lengths, start, hop

    @classmethod
    def padded(cls, arrays: Sequence[np.ndarray], start: float, hop: float) -> "TimedFrames":
        """Frames of utterances of any lengths, `(frames, channels)` each."""
        lengths = [len(array) for array in arrays]
        values = np.stack([np.pad(array, ((0, max(lengths) - len(array)), (0, 0))) for array in arrays])
        return cls(values, lengths, start, hop)

    def at(self, row: int, moments: np.ndarray) -> np.ndarray:
        """The frames nearest to moments in seconds."""
        index = np.rint((moments - self.start) / self.hop).astype(int)
        return self.values[row, index.clip(0, self.lengths[row] - 1)]

    def means(self, row: int, edges: np.ndarray) -> np.ndarray:
        """Means over the frames between edges in seconds; the nearest frame where none lies between."""
        bounds = np.rint((edges - self.start) / self.hop).astype(int).clip(0, self.lengths[row])
        bounds[0], bounds[-1] = 0, self.lengths[row]
        real = self.values[row, : self.lengths[row]]
        return np.stack(
            [
                real[min(low, len(real) - 1) : max(high, low + 1)].mean(axis=0)
                for low, high in itertools.pairwise(bounds)
            ]
        )


class Representation(ABC):
    """Features of speech to measure.

    Args:
        name: Name in tables.
        method: What makes the features: "SIM", "wav2vec2", ...
        control: Whether it is there for comparison: spectra, networks without training.
        extractor: Makes padded batches of waveforms, at the sampling rate that `encode` reads.
    """

    def __init__(self, name: str, method: str, extractor: Any, *, control: bool = False) -> None:
        self.name, self.method, self.extractor, self.control = name, method, extractor, control

    @abstractmethod
    def encode(self, batch: Mapping[str, Any]) -> dict[str, TimedFrames]:
        """Frames of each feature, by its name, of a batch of `data.batches.utterance_batches`."""

    @abstractmethod
    def fingerprint(self) -> Any:
        """All that the frames depend on, apart from the audio and the extractor, as JSON holds it."""

    def row_name(self, feature: str) -> str:
        """Name of one of its features in tables."""
        return f"{self.name}, {feature}"


class Spectra(Representation):
    """Log-mel energies (80 bands) and 13 MFCCs of the label frames' windows: 25 ms every 10 ms, at 16 kHz."""

    def __init__(self) -> None:
        super().__init__(SPECTRA, SPECTRA, SimFeatureExtractor(sampling_rate=LABEL_RATE), control=True)

    def row_name(self, feature: str) -> str:
        """The feature's own name."""
        return feature

    def fingerprint(self) -> Any:
        """Settings of the spectra."""
        return ["spectra", _NUM_MELS, _NUM_MFCC, _FFT, LABEL_WINDOW, LABEL_HOP]

    def encode(self, batch: Mapping[str, Any]) -> dict[str, TimedFrames]:
        """Frames of both."""
        window, filters = _spectrum()
        frames: dict[str, list[np.ndarray]] = {"log-mel": [], "MFCC": []}
        for samples, mask in zip(batch["input_values"], batch["attention_mask"], strict=True):
            waveform = samples[mask != 0].numpy()
            waveform = np.pad(waveform, (0, max(0, LABEL_WINDOW - len(waveform))))
            mel = spectrogram(
                waveform,
                window,
                LABEL_WINDOW,
                LABEL_HOP,
                fft_length=_FFT,
                power=2.0,
                center=False,
                mel_filters=filters,
                mel_floor=1e-10,
                log_mel="log",
            ).T.astype(np.float32)
            frames["log-mel"].append(mel)
            frames["MFCC"].append(dct(mel, type=2, norm="ortho", axis=1)[:, :_NUM_MFCC])
        start, hop = LABEL_WINDOW / 2 / LABEL_RATE, LABEL_HOP / LABEL_RATE
        return {name: TimedFrames.padded(arrays, start, hop) for name, arrays in frames.items()}


@lru_cache(maxsize=1)
def _spectrum() -> tuple[np.ndarray, np.ndarray]:
    """Window and mel filters."""
    window = window_function(LABEL_WINDOW, "hann", periodic=True)
    return window, mel_filter_bank(
        _FFT // 2 + 1, _NUM_MELS, 0.0, LABEL_RATE / 2, LABEL_RATE, mel_scale="slaney", norm="slaney"
    )


class SimModules(Representation):
    """Frames of the modules of a SIM model.

    Args:
        name: Name in tables.
        model: The model, in evaluation mode.
        extractor: Its feature extractor.
        modules: Numbers of the modules, the context last; all by default.
        sample: Give samples of the latents instead of their means.
        seed: Seed of the samples.
        control: Whether the model is there for comparison.
    """

    def __init__(
        self,
        name: str,
        model: SimModel,
        extractor: Any,
        modules: Sequence[int] | None = None,
        *,
        sample: bool = False,
        seed: int = 0,
        control: bool = False,
    ) -> None:
        super().__init__(name, method_of(model.config), extractor, control=control)
        self.model, self.sample, self.seed = model, sample, seed
        self.modules = list(range(model.config.num_modules) if modules is None else modules)

    def _generator(self, utterance: str) -> torch.Generator:
        """Noise of a batch, by its first utterance: the same whatever was encoded before."""
        state = np.random.SeedSequence([self.seed, zlib.crc32(utterance.encode())]).generate_state(1, np.uint64)[0]
        return torch.Generator(self.model.device).manual_seed(int(state >> 1))

    def fingerprint(self) -> Any:
        """Weights, configuration, modules, and the seed of samples."""
        return [model_fingerprint(self.model), self.modules, self.sample, self.seed if self.sample else None]

    @torch.no_grad()
    def encode(self, batch: Mapping[str, Any]) -> dict[str, TimedFrames]:
        """Frames of each module, by its name."""
        model, config = self.model, self.model.config
        mask = batch["attention_mask"]
        outputs = model(
            batch["input_values"].to(model.device),
            None if bool(mask.all()) else mask.to(model.device),
            sample=self.sample,
            generator=self._generator(batch["id"][0]) if self.sample else None,
            output_hidden_states=True,
        )
        samples = mask.sum(dim=1)
        return {
            config.module_names[module]: TimedFrames(
                outputs.hidden_states[module].float().cpu().numpy(),
                config.num_frames(samples, module).tolist(),
                float(config.frame_centers(1, module)[0]) / config.sampling_rate,
                config.hop_length(module) / config.sampling_rate,
            )
            for module in self.modules
        }


def method_of(config: SimConfig) -> str:
    """Short name of the method that a configuration is a setting of."""
    if config.latent_distribution == "gaussian":
        if not config.sample_latents:
            return "SIM, mean"
        return "SIM" if any(config.kl_weights) else "SIM, beta 0"
    if not config.gradient_isolation:
        return "CPC"
    return "GIM" if config.latent_head == "linear" else "GIM (Löwe)"


class AudioEncoder(Representation):
    """Layers of a speech encoder of transformers (wav2vec2, HuBERT, WavLM, ...), or the encoder of a codec.

    A speech encoder has features "layer 0", what enters its transformer, to "layer N". A frame lies at the center of
    what its convolutions see. Of DAC, EnCodec and Mimi there is one feature, "encoder": the latents before they are
    quantized. Their frames lie in the middle of the samples that they code, which is the center of what a symmetrically
    padded frame sees; a causal one sees nothing later than these samples.

    Utterances of one length are encoded together, and others apart: padding changes what these models make of an
    utterance, in spite of an attention mask in some, as normalization over time or several convolutions over padded
    frames let it in.

    Args:
        name: Name in tables.
        model: The model, in evaluation mode.
        extractor: Its feature extractor, of which the sampling rate and `do_normalize` are read.
        layers: Numbers of the layers; all by default.
        control: Whether the model is there for comparison.
    """

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        extractor: Any,
        layers: Sequence[int] | None = None,
        *,
        control: bool = False,
    ) -> None:
        config = model.config
        self.model, self.is_codec = model, is_codec(config)
        if self.is_codec:
            self.hop = getattr(config, "hop_length", None) or round(config.sampling_rate / config.frame_rate)
            self.field = self.hop
        else:
            self.field = self.hop = 1
            for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
                self.field += (kernel - 1) * self.hop
                self.hop *= stride
        self.layers = list(range(len(self.feature_names(config))) if layers is None else layers)
        reader = SimFeatureExtractor(
            sampling_rate=extractor.sampling_rate,
            do_normalize=getattr(extractor, "do_normalize", False),
            min_samples=self.field,
        )
        super().__init__(name, config.model_type, reader, control=control)

    @staticmethod
    def feature_names(config: Any) -> list[str]:
        """Names of all features of a model."""
        return ["encoder"] if is_codec(config) else [f"layer {layer}" for layer in range(config.num_hidden_layers + 1)]

    def fingerprint(self) -> Any:
        """Weights, configuration and layers."""
        return [self.method, model_fingerprint(self.model), self.layers]

    @torch.no_grad()
    def encode(self, batch: Mapping[str, Any]) -> dict[str, TimedFrames]:
        """Frames of each layer, by its name."""
        lengths = batch["attention_mask"].sum(dim=1)
        frames: list[list[np.ndarray]] = [[np.empty(0)] * len(lengths) for _ in self.layers]
        for length in lengths.unique().tolist():
            rows = (lengths == length).nonzero()[:, 0]
            states = self._states(batch["input_values"][rows, :length].to(self.model.device))
            for found, layer in zip(frames, self.layers, strict=True):
                for row, values in zip(rows.tolist(), states[layer].float().cpu().numpy(), strict=True):
                    found[row] = values
        names, rate = self.feature_names(self.model.config), self.extractor.sampling_rate
        return {
            names[layer]: TimedFrames.padded(found, self.field / 2 / rate, self.hop / rate)
            for found, layer in zip(frames, self.layers, strict=True)
        }

    def _states(self, waveforms: torch.Tensor) -> Sequence[torch.Tensor]:
        """Frames of every feature, `(utterances, frames, channels)` each, of waveforms `(utterances, samples)`."""
        config = self.model.config
        if not self.is_codec:
            states: Sequence[torch.Tensor] = self.model(waveforms, output_hidden_states=True).hidden_states
            expected = (waveforms.shape[1] - self.field) // self.hop + 1
            if states[0].shape[1] != expected:
                raise ValueError(
                    f"{self.name} has {states[0].shape[1]} frames where its `conv_kernel` and `conv_stride` make "
                    f"{expected}, so its frames have no known place in time; it cannot be measured."
                )
            return states
        inputs = waveforms[:, None].expand(-1, getattr(config, "audio_channels", 1), -1)
        if getattr(config, "normalize", False):  # EnCodec at 48 kHz; over the utterance rather than chunks of a second
            inputs = inputs / (waveforms.square().mean(dim=1).sqrt()[:, None, None] + 1e-8)
        encoder: Any = self.model.encoder
        latents = encoder(inputs)
        return [getattr(latents, "latents", latents).transpose(1, 2)]


def representation_of(
    name: str, model: PreTrainedModel, extractor: Any, arguments: MeasuringArguments, *, sample: bool, control: bool
) -> Representation:
    """The modules or layers of a model that the settings name; raises as `module_numbers`."""
    model = model.to(arguments.device).eval()  # type: ignore[arg-type]
    if isinstance(model, SimModel):
        modules = module_numbers(model.config, arguments.modules)
        return SimModules(name, model, extractor, modules, sample=sample, seed=arguments.seed, control=control)
    count = len(AudioEncoder.feature_names(model.config))
    layers = chosen_numbers({str(layer): layer for layer in range(count)}, arguments.modules)
    return AudioEncoder(name, model, extractor, layers, control=control)


def load_representations(arguments: MeasuringArguments, *, sample: bool = False) -> list[Representation]:
    """Spectra, the first model's architecture with fresh weights, then the models.

    Args:
        arguments: Settings of the measure.
        sample: Samples of the latents of SIM models instead of their means.

    Raises:
        ValueError: A model is no audio encoder, or has no such module or layer.
        OSError: A model is not there.
    """
    check_device(arguments.device)
    extractors = [feature_extractor_of(path) for path in arguments.model]
    models = [load_audio_encoder(path) for path in arguments.model]
    set_seed(arguments.seed)
    untrained = type(models[0])(models[0].config)
    return [
        Spectra(),
        *(
            representation_of(name, model, extractor, arguments, sample=sample, control=model is untrained)
            for name, model, extractor in zip(
                [UNTRAINED, *names_of(arguments.model)],
                [untrained, *models],
                [extractors[0], *extractors],
                strict=True,
            )
        ),
    ]


def with_provenance(
    arguments: MeasuringArguments, results: dict[str, Any], representations: Sequence[Representation]
) -> dict[str, Any]:
    """Results with where they come from.

    The fingerprint of every model goes with them, by which a card knows the rows of its own.
    """
    models = names_of(arguments.model)
    corpus_settings = corpus_settings_of(arguments)
    return {
        "corpus": arguments.corpus,
        "corpus_license": corpus_info(arguments.corpus).license,
        "corpus_settings": corpus_settings,
        "dataset_id": hub_dataset(arguments.corpus, arguments.data_dir, corpus_settings),
        "models": models,
        "representations": [
            {"name": source.name, "method": source.method, "control": source.control} for source in representations
        ],
        "fingerprints": {
            source.name: weights_fingerprint(source.model)
            for source in representations
            if isinstance(source, (SimModules, AudioEncoder)) and not source.control
        },
        **results,
        "versions": versions(),
        "git": git_revision(),
    }
