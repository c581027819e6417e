"""Representations to measure: SIM models, spectra and audio encoders of transformers, as frames with times."""

import itertools
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from scipy.fft import dct
from transformers import PreTrainedModel
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from modeling_sim import SimConfig, SimDecoder, SimFeatureExtractor, SimModel
from modeling_sim.analysis.scorecard import SPECTRUM_MODULE
from modeling_sim.data.corpora.alignments import LABEL_HOP, LABEL_RATE, LABEL_WINDOW
from modeling_sim.loading import is_codec
from modeling_sim.provenance import model_fingerprint

SPECTRA = ("log-mel", "MFCC")
"""Names of the spectra; each is a kind by itself."""


_NUM_MELS, _NUM_MFCC, _FFT = 80, 13, 512


class TimedFrames:
    """Frames `(utterances, frames, channels)` of a batch, and their times.

    Args:
        values: Frames; padded ones may have any value.
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
        """The frames nearest to given times in seconds."""
        index = np.rint((moments - self.start) / self.hop).astype(int)
        return self.values[row, index.clip(0, self.lengths[row] - 1)]

    def means(self, row: int, edges: np.ndarray) -> np.ndarray:
        """Means over the frames between edges in seconds; the nearest frame if there is none between."""
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
        method: Method of the features: "SIM", "wav2vec2", ...
        extractor: Converts waveforms, at its sampling rate, to the padded batches of `encode`.
        kind: Name shared by models that differ only by seed; by default the method.
        control: Whether it is a control: a spectrum or an untrained network.
    """

    def __init__(
        self, name: str, method: str, extractor: Any, *, kind: str | None = None, control: bool = False
    ) -> None:
        self.name, self.method, self.extractor, self.control = name, method, extractor, control
        self.kind = kind or method

    @abstractmethod
    def encode(self, batch: Mapping[str, Any]) -> dict[str, TimedFrames]:
        """Frames of each feature, by its name, of a batch of `data.batches.utterance_batches`."""

    @abstractmethod
    def fingerprint(self) -> Any:
        """Everything that the frames depend on, except the audio and the extractor, as JSON types."""

    @abstractmethod
    def places(self) -> dict[str, dict[str, str]]:
        """`kind`, `representation` and `module` of each feature in results, by its name."""

    def _place(self, module: str) -> dict[str, str]:
        return {"kind": self.kind, "representation": self.name, "module": module}

    @cached_property
    def key(self) -> dict[str, Any]:
        """Everything that measures depend on, except the audio: the model, and the preparation of waveforms."""
        return {"of": self.fingerprint(), "extractor": self.extractor.to_json_string()}


class Spectra(Representation):
    """Log-mel energies (80 bands) and 13 MFCCs of the label frames' windows: 25 ms every 10 ms, at 16 kHz."""

    def __init__(self) -> None:
        super().__init__("spectra", "spectra", SimFeatureExtractor(sampling_rate=LABEL_RATE), control=True)

    def places(self) -> dict[str, dict[str, str]]:
        """Each spectrum as a separate kind, without modules."""
        return {name: {"kind": name, "representation": name, "module": SPECTRUM_MODULE} for name in SPECTRA}

    def fingerprint(self) -> Any:
        """Settings of the spectra."""
        return ["spectra", _NUM_MELS, _NUM_MFCC, _FFT, LABEL_WINDOW, LABEL_HOP]

    def encode(self, batch: Mapping[str, Any]) -> dict[str, TimedFrames]:
        """Frames of both spectra."""
        window, filters = _spectrum()
        frames: dict[str, list[np.ndarray]] = {name: [] for name in SPECTRA}
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
        extractor: Feature extractor of the model.
        modules: Numbers of the modules, by their names in results; by default all, under their own names.
        sample: Return samples of the latents instead of their means.
        seed: Seed of the samples.
        kind: What the model is a seed of; the method by default.
        control: Whether the model is there for comparison.
    """

    def __init__(
        self,
        name: str,
        model: SimModel,
        extractor: Any,
        modules: Mapping[str, int] | Sequence[int] | None = None,
        *,
        sample: bool = False,
        seed: int = 0,
        kind: str | None = None,
        control: bool = False,
    ) -> None:
        super().__init__(name, method_of(model.config), extractor, kind=kind, control=control)
        self.model, self.sample, self.seed = model, sample, seed
        if not isinstance(modules, Mapping):
            names = model.config.module_names
            modules = {names[number]: number for number in (range(len(names)) if modules is None else modules)}
        self.modules = dict(modules)
        self.decoders: dict[str, list[SimDecoder]] = {}

    def places(self) -> dict[str, dict[str, str]]:
        """Places of the modules, by their own names, with their names in results."""
        return {self.model.config.module_names[number]: self._place(name) for name, number in self.modules.items()}

    @cached_property
    def key(self) -> dict[str, Any]:
        """See `Representation.key`; it does not depend on which modules are chosen."""
        latents = ["sample", self.seed] if self.sample else ["mean"]
        return {"of": [self._weights, *latents], "extractor": self.extractor.to_json_string()}

    @cached_property
    def _weights(self) -> str:
        return model_fingerprint(self.model)

    def _generator(self, utterance: str) -> torch.Generator:
        """Generator for the noise of a batch, seeded by its first utterance, independent of earlier batches."""
        state = np.random.SeedSequence([self.seed, zlib.crc32(utterance.encode())]).generate_state(1, np.uint64)[0]
        return torch.Generator(self.model.device).manual_seed(int(state >> 1))

    def fingerprint(self) -> Any:
        """Weights, configuration, modules, and the seed of samples."""
        return [self._weights, list(self.modules.values()), self.sample, self.seed if self.sample else None]

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
        return {
            config.module_names[module]: self.timed(module, outputs.hidden_states[module].float().cpu().numpy(), batch)
            for module in self.modules.values()
        }

    def timed(self, module: int, values: np.ndarray, batch: Mapping[str, Any]) -> TimedFrames:
        """Frames of a module, `(utterances, frames, channels)`, with their times in the audio of a batch."""
        config = self.model.config
        return TimedFrames(
            values,
            config.num_frames(batch["attention_mask"].sum(dim=1), module).tolist(),
            float(config.frame_centers(1, module)[0]) / config.sampling_rate,
            config.hop_length(module) / config.sampling_rate,
        )


def method_of(config: SimConfig) -> str:
    """Short name of the method that a configuration implements."""
    if config.latent_distribution == "gaussian":
        if not config.sample_latents:
            return "SIM, mean"
        return "SIM" if any(config.kl_weights) else "SIM, beta 0"
    if not config.gradient_isolation:
        return "CPC"
    return "GIM" if config.latent_head == "linear" else "GIM (Löwe)"


class AudioEncoder(Representation):
    """Layers of a speech encoder of transformers (wav2vec2, HuBERT, WavLM, ...), or the encoder of a codec.

    A speech encoder has features "layer 0", the input of its transformer, to "layer N". The time of a frame is the
    center of the receptive field of its convolutions. DAC, EnCodec and Mimi have one feature, "encoder": the latents
    before quantization. The time of their frames is the middle of the samples that they encode: the center of the
    receptive field if padding is symmetric. The receptive field of a causal frame ends with these samples.

    Only utterances of equal length are batched: padding changes the output of these models, even with an attention
    mask, through normalization over time and through convolutions over padded frames.

    Args:
        name: Name in tables.
        model: The model, in evaluation mode.
        extractor: Its feature extractor, whose sampling rate and `do_normalize` are used.
        layers: Numbers of the layers; all by default.
        kind: What the model is a seed of; the method by default.
        control: Whether the model is there for comparison.
    """

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        extractor: Any,
        layers: Sequence[int] | None = None,
        *,
        kind: str | None = None,
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
        super().__init__(name, config.model_type, reader, kind=kind, control=control)

    def places(self) -> dict[str, dict[str, str]]:
        """Layers by their names."""
        names = self.feature_names(self.model.config)
        return {names[layer]: self._place(names[layer]) for layer in self.layers}

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
                    f"{self.name} has {states[0].shape[1]} frames, but its `conv_kernel` and `conv_stride` result in "
                    f"{expected}, so the times of its frames are unknown, and it cannot be measured."
                )
            return states
        inputs = waveforms[:, None].expand(-1, getattr(config, "audio_channels", 1), -1)
        if getattr(
            config, "normalize", False
        ):  # EnCodec at 48 kHz; normalizes the utterance rather than chunks of one second
            inputs = inputs / (waveforms.square().mean(dim=1).sqrt()[:, None, None] + 1e-8)
        encoder: Any = self.model.encoder
        latents = encoder(inputs)
        return [getattr(latents, "latents", latents).transpose(1, 2)]
