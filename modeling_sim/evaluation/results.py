"""What an analysis reads of features, and its results as they come in."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from modeling_sim.data.corpora.contract import class_label, is_frame_label, label_classes
from modeling_sim.evaluation.abx_scores import Tokens, find_tokens, utterance_tokens
from modeling_sim.evaluation.clips import Media
from modeling_sim.evaluation.feature_store import Items, corpus_fingerprint
from modeling_sim.evaluation.features import extract
from modeling_sim.evaluation.representations import Representation
from modeling_sim.evaluation.settings import FACTORS, AnalysisArguments

ANALYSIS_NAME, CURVES_NAME, MEDIA_NAME = "analysis.json", "curves.json", "media.npz"
"""Files of an analysis: its numbers, what is drawn, and what is heard."""

REPORT_NAME, FIGURES = "report.html", "figure_*"
"""The report that is made of them, and its pictures in files of their own, without their endings."""


@dataclass
class Analysis:
    """Results as they come in."""

    arguments: AnalysisArguments
    values: list[dict[str, Any]] = field(default_factory=list)
    curves: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    quality: list[dict[str, Any]] = field(default_factory=list)
    media: Media = field(default_factory=Media)

    def add(
        self,
        of: dict[str, str],
        measure: str,
        value: float | None,
        low: float | None = None,
        high: float | None = None,
        null: float | None = None,
    ) -> None:
        """Adds a number; `of` names kind, model and module, `null` is the measure's own control where it has one."""
        known = {} if null is None else {"null": null}
        self.values.append({**of, "measure": measure, "value": value, "low": low, "high": high, **known})

    def extend(self, part: "Analysis") -> None:
        """Adds all that a part of the analysis has found."""
        self.values.extend(part.values)
        for name, rows in part.curves.items():
            self.curves.setdefault(name, []).extend(rows)
        self.quality.extend(part.quality)
        self.media.extend(part.media)

    def curve(self, name: str, of: dict[str, str], **content: Any) -> None:
        """Adds something to draw."""
        self.curves.setdefault(name, []).append({**of, **content})


class LabelTask:
    """The label and the factors, and the items of features that they are read from.

    Args:
        arguments: Settings of the analysis.
        splits: The corpus.
        num_classes: Number of classes of the label.
    """

    def __init__(self, arguments: AnalysisArguments, splits: dict[str, Dataset], num_classes: int) -> None:
        self.arguments, self.splits, self.num_classes = arguments, splits, num_classes
        self.of_frames = is_frame_label(splits["train"], arguments.label)
        if self.of_frames and arguments.factors:
            raise ValueError("`factors` are of utterances, and the label is one of frames; leave `factors` out.")
        self.factors = {} if self.of_frames else _factors(splits["test"], arguments.factors)
        self.test_items = self.train_items = 0

    def fingerprint(self) -> dict[str, Any]:
        """What measures depend on beside flags and models: recordings, labels and factors."""
        factors = {name: hashlib.sha256(values.tobytes()).hexdigest() for name, values in self.factors.items()}
        corpus = {split: corpus_fingerprint(data, self.arguments.label) for split, data in self.splits.items()}
        return {"corpus": corpus, "classes": self.class_names(), "factors": factors}

    def items(self, representation: Representation) -> tuple[Items, Items, Items]:
        """Training and test items of the label, and moments of the test split."""
        arguments = self.arguments
        train, test = (
            extract(
                data,
                representation,
                label=arguments.label,
                pooling="frame" if self.of_frames else "mean",
                max_items=arguments.max_items or None,
                seed=arguments.seed,
                batch_size=arguments.batch_size,
                cache_dir=Path(arguments.cache_dir),
                description=f"{representation.name}, {split}",
            )
            for split, data in self.splits.items()
        )
        self.train_items, self.test_items = len(train.labels), len(test.labels)
        return train, test, self._moments(representation)

    def _moments(self, representation: Representation) -> Items:
        """Features of the test split every 10 ms; every 20 ms for ABX of utterances, which are longer than phones."""
        arguments = self.arguments
        return extract(
            self.splits["test"],
            representation,
            label=arguments.label,
            pooling="frame",
            frame_step=1 if self.of_frames else 2,
            batch_size=arguments.batch_size,
            cache_dir=Path(arguments.cache_dir),
            description=f"{representation.name}, moments",
        )

    def tokens(self, items: Items) -> Tokens:
        """What is told apart by ABX: segments of a label of frames, whole utterances of one of utterances."""
        if self.of_frames:
            return find_tokens(items.labels, items.utterances, items.speakers, self.class_names())
        return utterance_tokens(items.labels, items.utterances, items.speakers)

    def class_names(self) -> list[str]:
        """Names of the label's classes."""
        return label_classes(self.splits["train"], self.arguments.label)


def _factors(dataset: Dataset, names: str) -> dict[str, np.ndarray]:
    """Columns of one value an utterance that vary: integers for classes, floats for amounts.

    Args:
        dataset: Utterances.
        names: Columns with commas between; empty for those of `FACTORS` that can be used.

    Raises:
        ValueError: A column that is named is not there, or not of one value an utterance that varies.
    """
    found = {}
    for name in [name.strip() for name in names.split(",")] if names else FACTORS:
        values = dataset[name][:] if name in dataset.column_names else []
        if any(value is None or isinstance(value, (list, str, dict)) for value in values) or len(set(values)) < 2:
            if names:
                raise ValueError(
                    f"`factors` names {name!r}, which is no column of one class or number an utterance that varies; "
                    f"columns are {', '.join(dataset.column_names)}."
                )
            continue
        is_class = class_label(dataset, name) is not None
        found[name] = np.array(values, dtype=np.int64 if is_class else np.float64)
    return found
