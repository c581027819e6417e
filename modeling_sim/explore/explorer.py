"""The models, the corpus and everything that the page shows of them, computed once and cached."""

import contextlib
import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset

from modeling_sim import SimDecoder
from modeling_sim.analysis import FrameMoments, LinearTransform, Moment, loudest_moments, mean_correlation_coefficient
from modeling_sim.analysis.concentration import rotation_gap
from modeling_sim.data.audio import read_audio, read_header
from modeling_sim.data.corpora.alignments import LABEL_HOP, LABEL_RATE, LABEL_WINDOW
from modeling_sim.data.corpora.contract import IGNORED, class_label, is_frame_label
from modeling_sim.data.digests import corpus_fingerprint, key_name
from modeling_sim.evaluation.axes import drawn_utterances, find_axes, frame_moments, load_axes, save_axes
from modeling_sim.evaluation.feature_store import Items
from modeling_sim.evaluation.features import extract
from modeling_sim.evaluation.models import attach_decoders, load_representations
from modeling_sim.evaluation.representations import Representation, SimModules
from modeling_sim.evaluation.settings import MeasuringArguments, load_split
from modeling_sim.explore.evidence import LAG_SECONDS, Evidence, find_evidence, properties_at
from modeling_sim.explore.settings import ExploreArguments
from modeling_sim.files import read_json, write_json
from modeling_sim.inference.axes import read_temporal_axes
from modeling_sim.provenance import weights_fingerprint
from modeling_sim.text import say

AXES = {"own": None, "temporal (SOBI)": "temporal", "principal (PCA)": "principal"}
"""Axes that dimensions are shown in, and their names for `find_axes`."""

# Part of every cache key: increase it whenever the same key would result in different evidence.
_VERSION = 1

# Minutes of utterances for axes and lag profiles.
_AXES_MINUTES = 2.0

# Label frames of 10 ms between two frames of evidence.
_FRAME_STEP = 2

# Number of frames for matching the dimensions of two models.
_MATCHED_ITEMS = 5000


class Phone(NamedTuple):
    """A run of one label, in seconds."""

    name: str
    start: float
    end: float


@dataclass(frozen=True, eq=False)
class Utterance:
    """A recording: its name, mono samples at `rate` Hz, and its phones, if they are known."""

    name: str
    samples: np.ndarray
    rate: int
    phones: tuple[Phone, ...] = ()

    @property
    def seconds(self) -> float:
        """Length."""
        return len(self.samples) / self.rate

    def at(self, rate: int) -> np.ndarray:
        """Samples at another rate."""
        if rate == self.rate:
            return self.samples
        import soxr  # noqa: PLC0415 - rarely needed

        return np.asarray(soxr.resample(self.samples, self.rate, rate), dtype=np.float32)


@dataclass(frozen=True)
class UtteranceFrames:
    """Frames of one feature of one utterance in one set of axes.

    Args:
        values: `(frames, dims)`, means.
        deviations: `(frames, dims)`, standard deviations of the Gaussians; `None` if there are none.
        divergences: `(frames, dims)`, KL divergence to N(0, 1) in nats; `None` without Gaussians or in other axes, as
            it is a sum over the model's own dimensions.
        start: Center of the first frame in seconds.
        hop: Seconds from frame to frame.
    """

    values: np.ndarray
    deviations: np.ndarray | None
    divergences: np.ndarray | None
    start: float
    hop: float


class Counterpart(NamedTuple):
    """The dimension of another model that matches one of this model best, under a one-to-one assignment."""

    model: str
    is_seed: bool
    dim: int
    correlation: float
    random_axes: float


class Explorer:
    """Computes what the page shows for a model, a feature (a module) and axes of `AXES`, all given by name.

    Args:
        arguments: Settings.

    Raises:
        ValueError: A model, decoder or setting is invalid, or the split is empty.
        OSError: A model or the corpus cannot be found.
    """

    def __init__(self, arguments: ExploreArguments) -> None:
        if not (arguments.minutes > 0 and arguments.max_seconds > 0 and arguments.max_megabytes > 0):  # NaN as well
            raise ValueError("`minutes`, `max_seconds` and `max_megabytes` must be above 0.")
        self.arguments = arguments
        settings = MeasuringArguments(
            model=[arguments.model, *arguments.compare],
            corpus=arguments.corpus,
            data_dir=arguments.data_dir,
            dataset_name=arguments.dataset_name,
            corpus_settings=arguments.corpus_settings,
            on_bad_audio=arguments.on_bad_audio,
            device=arguments.device,
            batch_size=arguments.batch_size,
            seed=arguments.seed,
            cache_dir=arguments.cache_dir,
        )
        found = load_representations(settings, controls=False)
        self.representations: dict[str, Representation] = {each.name: each for each in found}
        self.checkpoints = {each.name: path for each, path in zip(found, settings.model, strict=True)}
        sims = [each for each in found if isinstance(each, SimModules)]
        attach_decoders(sims, arguments.decoder, arguments.device)
        data, self.label = _labeled(load_split(settings, arguments.split))
        self.dataset: Dataset = drawn_utterances(data, arguments.minutes * 60, arguments.seed)
        self.names: list[str] = self.dataset["id"][:]
        # The last few utterances and their frames are kept.
        self.utterance = functools.lru_cache(maxsize=64)(self._read_utterance)
        self.recording = functools.lru_cache(maxsize=16)(self._read_recording)
        self._encoded = functools.lru_cache(maxsize=32)(self._encode)
        self._lock = threading.RLock()  # the page calls it from several threads
        self._kept: dict[tuple[Any, ...], Any] = {}

    def _once(self, key: tuple[Any, ...], make: Any) -> Any:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = make()
            return self._kept[key]

    # ------------------------------------------------------------------ utterances

    def _read_utterance(self, number: int) -> Utterance:
        """An utterance of the corpus, by its position."""
        row = self.dataset[number]
        rate = min(row["sampling_rate"], LABEL_RATE)
        samples = read_audio(row["audio"], sampling_rate=rate)
        return Utterance(str(row["id"]), samples, rate, self._phones(row, len(samples) / rate))

    def _phones(self, row: dict[str, Any], seconds: float) -> tuple[Phone, ...]:
        labels = row.get(self.label)
        classes = class_label(self.dataset, self.label)
        if not isinstance(labels, list) or classes is None:
            return ()
        edges = np.flatnonzero(np.diff(labels, prepend=[-1_000], append=[-1_000]))
        middle = (LABEL_WINDOW - LABEL_HOP) / 2
        times = [(edge * LABEL_HOP + middle) / LABEL_RATE for edge in edges.tolist()]
        times[0], times[-1] = 0.0, seconds
        return tuple(
            Phone(classes.int2str(labels[edge]), start, end)
            for edge, start, end in zip(edges[:-1].tolist(), times, times[1:], strict=False)
            if labels[edge] != IGNORED
        )

    def _read_recording(self, path: str | Path) -> Utterance:
        """Reads a recording that is not part of the corpus.

        Raises:
            ValueError: The file is larger than `max_megabytes`, longer than `max_seconds`, or not audio.
        """
        path = Path(path)
        most = self.arguments.max_megabytes * 1e6
        if path.stat().st_size > most:
            raise ValueError(
                f"the file has {path.stat().st_size / 1e6:.1f} MB; give one of at most {most / 1e6:g} MB "
                "(`max_megabytes`)."
            )
        audio = {"path": str(path), "bytes": None}
        header = read_header(audio)
        seconds = header.num_samples / header.sampling_rate
        if seconds > self.arguments.max_seconds:
            raise ValueError(
                f"the recording has {seconds:.1f} s; give one of at most {self.arguments.max_seconds:g} s "
                "(`max_seconds`)."
            )
        samples = read_audio(audio, sampling_rate=LABEL_RATE)
        return Utterance(path.name, samples, LABEL_RATE)

    # ------------------------------------------------------------------ features of a model

    def features(self, model: str) -> list[str]:
        """Names of a model's features, the first module first."""
        return list(self.representations[model].places())

    def default_feature(self, model: str) -> str:
        """The feature to show first: one with a decoder, else the last layer or the last module before the context."""
        features, decoders = self.features(model), self.decoders(model)
        if decoders:
            return next(iter(decoders))
        modules = [name for name in features if name != "context"]
        return modules[-1] if modules else features[-1]

    def decoders(self, model: str) -> dict[str, SimDecoder]:
        """Decoders of a model by the name of their feature."""
        of = self.representations[model]
        return {name: found[0] for name, found in of.decoders.items() if found} if isinstance(of, SimModules) else {}

    def is_gaussian(self, model: str, feature: str) -> bool:
        """Whether a feature's frames are Gaussians with a KL term to N(0, 1)."""
        of = self.representations[model]
        if not isinstance(of, SimModules) or of.model.config.latent_distribution != "gaussian":
            return False
        return of.modules[feature] < of.model.config.num_conv_modules

    def frames(self, utterance: Utterance, model: str, feature: str, axes: str = "own") -> UtteranceFrames:
        """Frames of an utterance."""
        values, log_variances, start, hop = self._encoded(utterance, model)[feature]
        transform = self.transform(model, feature, axes)
        variances = None if log_variances is None else np.exp(log_variances)
        divergences = None
        if transform is not None:
            values = transform.apply(values)
            variances = None if variances is None else variances @ np.asarray(transform.matrix) ** 2
        elif variances is not None:
            divergences = (values**2 + variances - 1 - log_variances) / 2
        deviations = None if variances is None else np.sqrt(variances)
        return UtteranceFrames(values, deviations, divergences, start, hop)

    def _encode(self, utterance: Utterance, model: str) -> dict[str, tuple[np.ndarray, Any, float, float]]:
        """Means, log-variances or `None`, start and hop of every feature."""
        of = self.representations[model]
        rate = of.extractor.sampling_rate
        inputs = of.extractor(
            [utterance.at(rate)],
            sampling_rate=rate,
            padding="longest",
            return_attention_mask=True,
            return_tensors="pt",
        )
        batch = {**inputs, "id": [utterance.name]}
        found = of.encode(batch)
        log_variances: dict[str, np.ndarray] = {}
        if isinstance(of, SimModules):
            with torch.no_grad():
                latents = list(of.model.module_latents(batch["input_values"].to(of.model.device)))
            for name, number in of.modules.items():
                log_variance = latents[number].log_variance
                if log_variance is not None:
                    log_variances[name] = log_variance[0].float().cpu().numpy()
        return {
            name: (timed.values[0, : timed.lengths[0]], log_variances.get(name), timed.start, timed.hop)
            for name, timed in found.items()
        }

    # ------------------------------------------------------------------ what is found on the corpus

    def items(self, model: str) -> Items:
        """Frames of the corpus every 20 ms, for all features of a model."""
        return self._once(
            ("items", model),
            lambda: extract(
                self.dataset,
                self.representations[model],
                label=self.label,
                pooling="frame",
                frame_step=_FRAME_STEP,
                batch_size=self.arguments.batch_size,
                cache_dir=Path(self.arguments.cache_dir),
                description=f"{model}, moments",
            ),
        )

    def codes(self, model: str, feature: str, axes: str = "own", dims: Sequence[int] | None = None) -> np.ndarray:
        """Values `(items, dims)` of all or some dimensions in the frames of `items`."""
        values = np.asarray(self.items(model).features[feature])
        transform = self.transform(model, feature, axes)
        if transform is not None:
            values = transform.apply(values)
        return values if dims is None else values[:, list(dims)]

    def transform(self, model: str, feature: str, axes: str) -> LinearTransform | None:
        """The transform to other axes; `None` for the feature's own."""
        name = AXES[axes]
        if name is None:
            return None
        path = self._path("axes", model, feature, name, ".safetensors")

        def make() -> LinearTransform:
            if name == "temporal" and (saved := self._saved_axes(model).get(feature)):
                return saved
            if path.is_file():
                with contextlib.suppress(ValueError):  # a damaged file is written again
                    return load_axes(path)[feature]
            transform = find_axes(name, self._moments(model)[feature][0])
            save_axes(path, {feature: transform})
            return transform

        return self._once(("axes", model, feature, name), make)

    def _saved_axes(self, model: str) -> dict[str, LinearTransform]:
        """The temporal axes in the checkpoint of a model, by feature; empty if there are no usable ones."""

        def make() -> dict[str, LinearTransform]:
            of = self.representations[model]
            if isinstance(of, SimModules):
                try:
                    return read_temporal_axes(self.checkpoints[model], weights_fingerprint(of.model))[0]
                except FileNotFoundError:
                    pass
                except (OSError, ValueError) as error:
                    say(f"temporal axes of {model} are computed again: {error}")
            return {}

        return self._once(("saved axes", model), make)

    def evidence(self, model: str, feature: str, axes: str = "own") -> Evidence:
        """Labels with their evidence, lag profiles and scales; from the cache if available.

        Raises:
            ValueError: The split has too little speech.
        """
        saved = self._saved_axes(model).get(feature) if AXES[axes] == "temporal" else None
        path = self._path("evidence", model, feature, axes if saved is None else saved.fingerprint(), ".json")

        def make() -> Evidence:
            if path.is_file():
                try:
                    return Evidence(**read_json(path))
                except (ValueError, TypeError):
                    path.unlink()
            codes = self.codes(model, feature, axes)
            chosen, properties = self._properties(model)
            classes = {"phone": class_label(self.dataset, self.label), "speaker": None}
            if "speaker_id" in self.dataset.column_names:
                classes["speaker"] = class_label(self.dataset, "speaker_id")
            moments, hop = self._moments(model)[feature]
            names = {name: label.names for name, label in classes.items() if label is not None}
            found = find_evidence(
                codes[chosen],
                properties,
                names,
                moments,
                hop,
                self.transform(model, feature, axes),
                self.arguments.seed,
            )
            write_json(path, found.as_dict())
            return found

        return self._once(("evidence", model, feature, axes), make)

    def _properties(self, model: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Properties of the frames, which are the same for all models."""
        return self._once(("properties",), lambda: properties_at(self.dataset, self.items(model), self.label))

    def _moments(self, model: str) -> dict[str, tuple[FrameMoments, float]]:
        """Statistical moments of the frames of each feature, and its hop in seconds."""

        def make() -> dict[str, tuple[FrameMoments, float]]:
            few = drawn_utterances(self.dataset, _AXES_MINUTES * 60, self.arguments.seed)
            moments, _ = frame_moments(few, self.representations[model], self.arguments.batch_size, seconds=LAG_SECONDS)
            encoded = self._encoded(self.utterance(0), model)
            return {name: (found, encoded[name][3]) for name, found in moments.items()}

        return self._once(("moments", model), make)

    def _path(self, kind: str, model: str, feature: str, axes: str, suffix: str) -> Path:
        """Path of a part in the cache, by the model's fingerprint, the corpus and the settings."""
        arguments = self.arguments
        key = [
            _VERSION,
            kind,
            self.representations[model].key,
            self._once(("corpus",), lambda: corpus_fingerprint(self.dataset, "speaker_id", self.label)),
            self.label,
            feature,
            axes,
            [arguments.seed, arguments.minutes],
        ]
        folder = Path(arguments.cache_dir) / "explore"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{kind}-{key_name(key)}{suffix}"

    def moments(self, model: str, feature: str, axes: str, dim: int, *, smallest: bool = False) -> list[Moment]:
        """Frames of the corpus in which a dimension is largest, or smallest."""
        items = self.items(model)
        values = self.codes(model, feature, axes, [dim])[:, 0]
        return loudest_moments(values, items.utterances, items.seconds, count=4, smallest=smallest)

    def counterparts(self, model: str, feature: str, axes: str, dim: int) -> list[Counterpart]:
        """Matches of a dimension in every other model that has a feature of this name."""
        found = []
        for name, other in self.representations.items():
            if name == model or feature not in self.features(name):
                continue
            matched, random_axes = self._matched(model, name, feature, axes)
            place = np.flatnonzero(matched.first == dim)
            if len(place):
                row = int(place[0])
                is_seed = other.kind == self.representations[model].kind
                correlation = float(matched.correlations[row])
                found.append(Counterpart(name, is_seed, int(matched.second[row]), correlation, random_axes))
        return found

    def _matched(self, model: str, other: str, feature: str, axes: str) -> tuple[Any, float]:
        """Matched dimensions of two models, and the mean correlation for random axes of the other model."""

        def make() -> tuple[Any, float]:
            first, second = (self.codes(name, feature, axes) for name in (model, other))
            chosen = np.sort(np.random.default_rng(self.arguments.seed).permutation(len(first))[:_MATCHED_ITEMS])
            first, second = first[chosen], second[chosen]
            gap = rotation_gap(
                lambda rotated: mean_correlation_coefficient(first, rotated).value, second, num_rotations=3, seed=0
            )
            return mean_correlation_coefficient(first, second), float(gap.rotated.mean())

        return self._once(("matched", model, other, feature, axes), make)


def _labeled(dataset: Dataset) -> tuple[Dataset, str]:
    """A data set with a column of labels: phones, speakers, or a single class if it has neither."""
    if "phones" in dataset.column_names and is_frame_label(dataset, "phones"):
        return dataset, "phones"
    if "speaker_id" in dataset.column_names and not any(each is None for each in dataset["speaker_id"][:]):
        return dataset, "speaker_id"
    return dataset.add_column("any", [0] * len(dataset)), "any"
