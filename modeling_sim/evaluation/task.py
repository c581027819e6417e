"""The task of an evaluation: a label and its items, factors, and the tokens of ABX."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from modeling_sim.data.corpora.contract import is_frame_label, label_classes
from modeling_sim.data.digests import corpus_fingerprint
from modeling_sim.evaluation.factors import (
    FEWEST_UTTERANCES,
    Factors,
    of_utterances,
    of_voiced_moments,
    utterance_columns,
)
from modeling_sim.evaluation.feature_store import Items
from modeling_sim.evaluation.features import Pooling, extract
from modeling_sim.evaluation.representations import Representation
from modeling_sim.evaluation.settings import AnalysisArguments, load_split, load_splits
from modeling_sim.files import nearest

if TYPE_CHECKING:
    from datasets import Dataset

_NO_PHONES = ("SIL", "SPN", "sil", "spn")


class Tokens(NamedTuple):
    """Segments of an alignment, the same for all features; bounds are positions in the items."""

    starts: np.ndarray
    ends: np.ndarray
    phones: np.ndarray
    contexts: list[tuple[int, int]]
    """Classes before and after."""
    speakers: np.ndarray


class LabelTask:
    """The label, its items, factors and tokens, which are the same for all representations.

    Args:
        arguments: Settings of the evaluation.

    Raises:
        ValueError: The label or a factor is unknown, or factors are given with a frame label.
    """

    def __init__(self, arguments: AnalysisArguments) -> None:
        self.arguments, groups = arguments, arguments.groups()
        self.splits = load_splits(arguments) if groups != ["abx"] else {}
        self.abx_split: Dataset | None = None
        if "abx" in groups:
            known = arguments.split in self.splits
            self.abx_split = self.splits[arguments.split] if known else load_split(arguments, arguments.split)
        data = self.splits.get("train", self.abx_split)
        self.classes = label_classes(data, arguments.label)
        self.of_frames = is_frame_label(data, arguments.label)
        self.pooling: Pooling = arguments.pooling or ("frame" if self.of_frames else "mean")
        if self.of_frames and arguments.factors:
            raise ValueError("`factors` describe utterances, but the label is a frame label; remove `factors`.")
        has_factors = "disentanglement" in groups
        self.columns = utterance_columns(self.splits["test"], arguments.factors) if has_factors else {}
        self.skipped_factors: list[str] = []
        self._found: Factors | None = None
        self._labels: list[np.ndarray] | None = None

    def check_utterance(self) -> None:
        """Raises a ValueError if the utterance of the setting `utterance` is not in the test split."""
        name = self.arguments.utterance
        if name and name not in (ids := self.splits["test"]["id"][:] if self.splits else []):
            raise ValueError(f"`utterance` {name!r} is not in the test split{nearest(name, ids)}")

    def fingerprint(self) -> dict[str, Any]:
        """Everything that measures depend on, except settings and models: recordings, labels and factors."""
        splits = {**self.splits, **({} if self.abx_split is None else {"abx": self.abx_split})}
        corpus = {split: corpus_fingerprint(data, "speaker_id", self.arguments.label) for split, data in splits.items()}
        factors = {name: hashlib.sha256(values.tobytes()).hexdigest() for name, values in self.columns.items()}
        return {"corpus": corpus, "classes": self.classes, "factors": factors}

    def items(self, representation: Representation) -> tuple[Items, Items]:
        """Training and test items of the label.

        Raises:
            ValueError: They differ from those of the previous representation.
        """
        arguments = self.arguments
        train, test = (
            extract(
                data,
                representation,
                label=arguments.label,
                pooling=self.pooling,
                chunk_seconds=arguments.chunk_seconds,
                frame_step=arguments.frame_step,
                max_items=arguments.max_items or None,
                seed=arguments.seed,
                batch_size=arguments.batch_size,
                cache_dir=Path(arguments.cache_dir),
                description=f"{representation.name}, {split}",
            )
            for split, data in self.splits.items()
        )
        labels = [train.labels, test.labels]
        if not all(map(np.array_equal, self._labels or labels, labels)):
            raise ValueError("the models have different items and cannot be compared.")
        self._labels = labels
        return train, test

    def moments(self, representation: Representation) -> Items:
        """Features of the ABX split every 10 ms, or every 20 ms for an utterance label."""
        arguments = self.arguments
        return extract(
            self.abx_split,
            representation,
            label=arguments.label,
            pooling="frame",
            frame_step=1 if self.of_frames else 2,
            batch_size=arguments.batch_size,
            cache_dir=Path(arguments.cache_dir),
            description=f"{representation.name}, moments",
        )

    def tokens(self, items: Items) -> Tokens:
        """Tokens of ABX: segments with one frame label, or utterances."""
        if self.of_frames:
            return find_tokens(items.labels, items.utterances, items.speakers, self.classes)
        return utterance_tokens(items.labels, items.utterances, items.speakers)

    def factors(self, test: Items) -> Factors:
        """Factors of the test items; for a frame label, only of voiced frames."""
        if self._found is None:
            data, seed = self.splits["test"], self.arguments.seed
            if self.of_frames:
                ignored = [number for number, name in enumerate(self.classes) if name in _NO_PHONES]
                self._found = of_voiced_moments(self.columns, data, test, self.arguments.label, ignored, seed)
            else:
                self._found = of_utterances(self.columns, data, test, seed)
                self.skipped_factors = [name for name in self.columns if name not in self._found.values]
                for name in self.skipped_factors:
                    tqdm.write(f"factor {name!r} is skipped: it is constant in a part of the test items")
            if "disentanglement" in self.arguments.groups() and len(self._found.values) < 2:
                needed = f", in at least {FEWEST_UTTERANCES} utterances per class" if self.of_frames else ""
                tqdm.write(f"disentanglement is not measured: the test items need two factors that vary{needed}")
        return self._found


# ---------------------------------------------------------------------- tokens


def find_tokens(labels: np.ndarray, utterances: np.ndarray, speakers: np.ndarray, classes: Sequence[str]) -> Tokens:
    """Runs of one label in an utterance, without silence and noise, and without the first and last run."""
    starts, ends = _runs((labels[1:] != labels[:-1]) | (utterances[1:] != utterances[:-1]))
    phones = labels[starts]
    inner = np.zeros(len(starts), dtype=bool)
    same = utterances[starts][1:] == utterances[starts][:-1]
    inner[1:-1] = same[:-1] & same[1:]
    kept = np.flatnonzero(inner & ~np.isin(phones, [classes.index(name) for name in _NO_PHONES if name in classes]))
    contexts = [(int(phones[token - 1]), int(phones[token + 1])) for token in kept]
    return Tokens(starts[kept], ends[kept], phones[kept], contexts, speakers[starts][kept])


def utterance_tokens(labels: np.ndarray, utterances: np.ndarray, speakers: np.ndarray) -> Tokens:
    """Utterances, which have one label and no context."""
    starts, ends = _runs(utterances[1:] != utterances[:-1])
    return Tokens(starts, ends, labels[starts], [(-1, -1)] * len(starts), speakers[starts])


def _runs(changes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of runs of items, from `changes`, true if an item differs from the one before, `(items - 1,)`."""
    bounds = np.flatnonzero(np.concatenate([[True], changes, [True]]))
    return bounds[:-1], bounds[1:]
