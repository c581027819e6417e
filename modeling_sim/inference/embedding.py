"""Embeddings of recordings: frames of one module, or their means."""

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import soxr
import torch
from transformers import SequenceFeatureExtractor
from transformers.utils import FEATURE_EXTRACTOR_NAME

from modeling_sim.data.audio import as_recording, read_audio, read_header, resampled_length
from modeling_sim.feature_extraction_sim import SimFeatureExtractor, as_waveform
from modeling_sim.inference.folding import fold
from modeling_sim.loading import default_device, feature_extractor_of, load_encoder, module_number
from modeling_sim.modeling_sim import CHUNK_SECONDS, LONG_SECONDS, SimModel
from modeling_sim.provenance import model_fingerprint, weights_fingerprint
from modeling_sim.text import say_once

if TYPE_CHECKING:
    from modeling_sim.analysis import LinearTransform

Pool = Literal["mean", "none"]
Precision = Literal["fp32", "bf16"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def say_resampled(rates: Iterable[int], rate: int) -> None:
    """Prints once per process which sampling rates of recordings differ from the model's."""
    for other in sorted({*rates} - {rate}):
        say_once(f"recordings with {other} samples per second are resampled to {rate} (soxr)")


class RecordingReader:
    """Reads recordings as inputs of a model. It does not hold the model, because it is pickled for worker processes."""

    def __init__(self, extractor: SequenceFeatureExtractor, *, average_channels: bool) -> None:
        self.extractor, self.average_channels = extractor, average_channels
        self.rate = int(extractor.sampling_rate)

    def samples(self, row: Mapping[str, Any], start: int = 0, num_samples: int | None = None) -> np.ndarray:
        """Samples of a row at the model's rate, or a part of them; too short recordings are padded with zeros."""
        audio = row["audio"]
        if isinstance(audio, np.ndarray):
            samples = audio[start:] if num_samples is None else audio[start : start + num_samples]
        else:
            samples = read_audio(
                audio,
                start=start,
                num_samples=num_samples,
                sampling_rate=self.rate,
                found=(row["num_samples"], row["sampling_rate"]),
                average_channels=self.average_channels,
            )
        missing = getattr(self.extractor, "min_samples", 1) - len(samples)
        return np.pad(samples, (0, missing)) if missing > 0 and num_samples is None else samples

    def pieces(self, row: Mapping[str, Any]) -> Iterator[np.ndarray]:
        """The samples of a row piece by piece."""
        length = resampled_length(row["num_samples"], row["sampling_rate"], self.rate)
        step = CHUNK_SECONDS * self.rate
        for start in range(0, length, step):
            yield self.samples(row, start, min(step, length - start))

    def check(self, row: Mapping[str, Any]) -> None:
        """Decodes a complete row before any of it is written; raises like `read_audio`."""
        for _ in self.pieces(row):
            pass

    def batch(self, waveforms: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Padded inputs of waveforms at the model's rate."""
        return dict(
            self.extractor(  # type: ignore[operator]
                list(waveforms),
                sampling_rate=self.rate,
                padding="longest",
                return_attention_mask=True,
                return_tensors="np",
            )
        )


class SimEmbedder:
    """Makes embeddings of recordings with one module of an encoder.

    Args:
        model: The encoder, or its folder or Hub id. It is copied and not changed, see `fold`.
        module: "context", or the number of a module, counted from 0.
        pool: "none": one embedding per frame. "mean": the mean over the frames of a recording.
        feature_extractor: Feature extractor; by default that of the model's folder, or one with the model's sampling
            rate.
        device: Device to encode on; by default a GPU if available, otherwise the CPU.
        precision: "fp32", or "bf16" for convolutions in half precision, which is faster on GPUs and newer CPUs.
        average_channels: Average the channels of stereo recordings; otherwise these are an error.
        axes: "own": the channels of the module. "temporal": the components in `axes.safetensors` of the model's folder
            or Hub id, written by `modeling-sim axes`; or another folder with such a file; or a transform of frames of
            the module.

    Attributes:
        module: Number of the module.
        channels: Channels of an embedding.
        transform: From channels of the module to those of an embedding; `None` for its own axes.

    Example:
        >>> import numpy as np
        >>> from modeling_sim import SimConfig, SimEmbedder, SimModel
        >>> embedder = SimEmbedder(SimModel(SimConfig.preset("sim-small")), pool="none", device="cpu")
        >>> embedder(np.zeros(16000, dtype=np.float32), sampling_rate=16000).shape
        (100, 64)

    Raises:
        ValueError: There is no such module or device, axes belong to other weights, or the file of the feature
            extractor is damaged.
        TypeError: `model` is neither a SIM model nor a path.
        FileNotFoundError: There is no such model, or no file of axes.
    """

    def __init__(
        self,
        model: SimModel | str | Path,
        module: str | int = "context",
        pool: Pool = "none",
        *,
        feature_extractor: SequenceFeatureExtractor | None = None,
        device: str | None = None,
        precision: Precision = "fp32",
        average_channels: bool = False,
        axes: "str | LinearTransform" = "own",
    ) -> None:
        self.device = default_device(device)
        if pool not in ("mean", "none"):
            raise ValueError(f"`pool` is {pool!r}; choose 'mean' or 'none'.")
        if precision not in _DTYPES:
            raise ValueError(f"`precision` is {precision!r}; choose one of {', '.join(_DTYPES)}.")
        model = getattr(model, "sim", model)  # of a model with a head
        if not isinstance(model, (SimModel, str, Path)):
            raise TypeError(f"`model` is a {type(model).__name__}; give a SIM model, or a folder or Hub id of one.")
        source = model.name_or_path or "" if isinstance(model, SimModel) else str(model)
        if not isinstance(model, SimModel):
            feature_extractor = feature_extractor or feature_extractor_of(source)
            model = load_encoder(source)
        elif feature_extractor is None and source:
            has_one = Path(source, FEATURE_EXTRACTOR_NAME).is_file()
            with contextlib.nullcontext() if has_one else contextlib.suppress(OSError):  # or the folder was removed
                feature_extractor = feature_extractor_of(source)
        self.config = model.config
        self.module = module_number(self.config, str(module))
        self.pool, self.precision = pool, precision
        self.fingerprint = model_fingerprint(model)
        feature_extractor = feature_extractor or SimFeatureExtractor(
            sampling_rate=self.config.sampling_rate, min_samples=self.config.receptive_field()
        )
        self.reader = RecordingReader(feature_extractor, average_channels=average_channels)
        folded = fold(model, self.module, dtype=_DTYPES[precision])
        self.encoder = SimModel.to(folded, self.device)  # a copied model may have the `to` of accelerate
        self.channels = self.config.num_channels(self.module)
        self.axes = "given" if not isinstance(axes, str) else "own" if axes == "own" else "temporal"
        self.transform = None if axes == "own" else self._transform(axes, source, model)
        if self.transform is not None:
            self.channels = self.transform.matrix.shape[1]

    def _transform(self, axes: "str | LinearTransform", source: str, model: SimModel) -> "LinearTransform":
        """The transform that `axes` names; `source` is the folder or Hub id of the model."""
        if isinstance(axes, str):
            from modeling_sim.inference.axes import read_temporal_axes  # noqa: PLC0415 - own axes do not need it

            folder = source if axes == "temporal" else axes
            if axes == "temporal" and not source:
                raise ValueError("`axes` is 'temporal', but `model` has no checkpoint; give a transform.")
            if axes != "temporal" and not (axes and Path(axes).is_dir()):
                raise ValueError(f"`axes` is {axes!r}; choose 'own', 'temporal' or a folder with axes.safetensors.")
            transforms, _ = read_temporal_axes(folder, weights_fingerprint(model), model=source)
            name = self.config.module_names[self.module]
            if name not in transforms:
                raise ValueError(f"The axes in {folder} are for {', '.join(transforms)}, not for {name}.")
            axes = transforms[name]
        if len(axes.matrix) != self.channels:
            raise ValueError(f"`axes` is a transform of {len(axes.matrix)} channels; the module has {self.channels}.")
        return axes

    def __call__(self, audio: Any, sampling_rate: int | None = None) -> Any:
        """Embeddings of one recording, or of several in a list.

        Args:
            audio: A recording in any form of `as_recording`.
            sampling_rate: Sampling rate of samples, which are resampled if it differs from the model's; by default the
                model's.

        Returns:
            Float32 `(channels,)` for the mean, otherwise `(frames, channels)`; a list of these for a list.

        Raises:
            AudioError: A recording cannot be read, or is stereo without `average_channels`.
            ValueError: Samples are stereo, empty or not finite.
            TypeError: Samples are neither floats nor int16 nor int32.
        """
        if isinstance(audio, (list, tuple)) and not (len(audio) and np.isscalar(audio[0]) and np.isreal(audio[0])):
            return [self(item, sampling_rate) for item in audio]
        return self._of_row(self._row(audio, sampling_rate))

    def _of_row(self, row: Mapping[str, Any]) -> Any:
        """Embeddings of a row from `_row`."""
        if is_long(row):
            pieces = list(self.pieces(row))
            return pieces[0] if self.pool == "mean" else np.concatenate(pieces)
        return self.encode(self.reader.batch([self.reader.samples(row)]))[0]

    def of_batch(self, batch: Mapping[str, Sequence[Any]], column: str = "audio") -> dict[str, list[Any]]:
        """Embeddings of a batch of a data set, for `Dataset.map(embedder.of_batch, batched=True)`.

        Args:
            batch: Columns of a data set, of which `column` has recordings in any form that `__call__` accepts.
            column: Name of the column.

        Returns:
            The column `embedding`.
        """
        rows = [self._row(audio, None) for audio in batch[column]]
        short = [number for number, row in enumerate(rows) if not is_long(row)]
        embeddings: dict[int, Any] = {}
        if short:
            inputs = self.reader.batch([self.reader.samples(rows[number]) for number in short])
            embeddings |= zip(short, self.encode(inputs), strict=True)
        return {
            "embedding": [
                embeddings[number] if number in embeddings else self._of_row(row) for number, row in enumerate(rows)
            ]
        }

    def _row(self, audio: Any, sampling_rate: int | None) -> dict[str, Any]:
        """A recording as a row of a corpus; if samples are given, they take the place of `audio`."""
        recording = as_recording(audio, sampling_rate)
        if "array" not in recording:
            header = read_header(recording)
            return {"audio": recording, "num_samples": header.num_samples, "sampling_rate": header.sampling_rate}
        samples, rate = as_waveform(recording["array"], "`audio`"), recording["sampling_rate"] or self.reader.rate
        if rate != self.reader.rate:
            samples = soxr.resample(samples, rate, self.reader.rate)
        return {"audio": samples, "num_samples": len(samples), "sampling_rate": self.reader.rate}

    def encode(self, batch: Mapping[str, Any]) -> list[np.ndarray]:
        """Embeddings of a batch from the feature extractor, one array per recording, like those of `__call__`."""
        inputs, mask = (torch.as_tensor(batch[name]) for name in ("input_values", "attention_mask"))
        lengths = self.encoder.config.num_frames(mask.sum(dim=1))
        with torch.inference_mode():
            frames = self.encoder(
                inputs.to(self.device, self.encoder.dtype), None if bool(mask.all()) else mask.to(self.device)
            ).last_hidden_state.float()
            if self.pool == "mean":  # padded frames are 0
                frames = frames.sum(dim=1) / lengths.to(self.device)[:, None].clamp(min=1)
            values = self._in_axes(frames).cpu().numpy()
        if self.pool == "mean":
            return list(values)
        return [row[:length] for row, length in zip(values, lengths.tolist(), strict=True)]

    def _in_axes(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames, or means of frames, in the axes of the embeddings."""
        return frames if self.transform is None else self.transform.apply(frames)

    @torch.inference_mode()
    def pieces(self, row: Mapping[str, Any]) -> Iterator[np.ndarray]:
        """Embeddings of a long recording, read and encoded piece by piece: its mean, or pieces of its frames."""
        length = resampled_length(row["num_samples"], row["sampling_rate"], self.reader.rate)
        shift, scale = 0.0, 1.0
        if getattr(self.reader.extractor, "do_normalize", False):  # over all samples, like the extractor
            shift = sum(float(samples.sum(dtype=np.float64)) for samples in self.reader.pieces(row)) / length
            squares = (np.square(samples - shift, dtype=np.float64) for samples in self.reader.pieces(row))
            scale = 1 / math.sqrt(sum(float(square.sum()) for square in squares) / length + 1e-7)
        state, total, count, done = self.encoder.initial_state(), torch.zeros((), dtype=torch.float64), 0, 0
        for samples in self.reader.pieces(row):
            done += len(samples)
            inputs = torch.from_numpy(((samples - shift) * scale).astype(np.float32))[None]
            modules, state = self.encoder.step(inputs.to(state[0]), state, last=done == length)
            frames = modules[-1].hidden_state[0].float()
            if self.pool == "none":
                yield self._in_axes(frames).cpu().numpy()
            else:
                total, count = total + frames.cpu().sum(dim=0, dtype=torch.float64), count + len(frames)
        if self.pool == "mean":
            yield self._in_axes(total / count).float().numpy()

    def description(self) -> dict[str, Any]:
        """What the embeddings depend on, and the times of their frames, as JSON types."""
        config, module = self.config, self.module
        return {
            "model_fingerprint": self.fingerprint,
            "module": config.module_names[module],
            "axes": self.axes,
            "axes_fingerprint": None if self.transform is None else self.transform.fingerprint(),
            "pool": self.pool,
            "precision": self.precision,
            "channels": self.channels,
            "sampling_rate": self.reader.rate,
            "frame_rate": config.frame_rate(module),
            "hop_length": config.hop_length(module),
            "receptive_field": config.receptive_field(module),
            "first_center": float(config.frame_centers(1, module)[0]) / config.sampling_rate,
            "do_normalize": bool(getattr(self.reader.extractor, "do_normalize", False)),
            "average_channels": self.reader.average_channels,
        }


def is_long(row: Mapping[str, Any]) -> bool:
    """Whether a row of a corpus is read and encoded piece by piece."""
    return bool(row["num_samples"] > LONG_SECONDS * row["sampling_rate"])
