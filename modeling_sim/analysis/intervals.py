"""Bootstrap intervals of classification scores, over groups of frames that are not independent of each other."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Score = Callable[[np.ndarray], np.ndarray]
# Number of resamples whose confusion matrices are in memory at a time.
_CHUNK = 64


@dataclass(frozen=True)
class Interval:
    """A score on all of the data, and the bounds of its bootstrap interval."""

    value: float
    low: float
    high: float

    def excludes(self, value: float) -> bool:
        """Whether a value is outside the interval."""
        return value < self.low or value > self.high


def accuracy(confusion: np.ndarray) -> np.ndarray:
    """Fraction of the counts `(..., true classes, predicted classes)` that are on the diagonal."""
    return np.trace(confusion, axis1=-2, axis2=-1) / confusion.sum(axis=(-2, -1)).clip(min=1)


def majority_accuracy(train_labels: np.ndarray, test_labels: np.ndarray) -> float:
    """Fraction of test labels that equal the most frequent training label: the accuracy without any features.

    Args:
        train_labels: `(items,)`, integers from 0.
        test_labels: `(test items,)`.
    """
    return float((test_labels == np.bincount(train_labels).argmax()).mean())


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Mean F1 over the classes that occur, as label or prediction, in `(..., classes, classes)` counts."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    occurrences = confusion.sum(axis=-1) + confusion.sum(axis=-2)
    f1 = np.divide(2.0 * hits, occurrences, out=np.zeros(hits.shape), where=occurrences > 0)
    return f1.sum(axis=-1) / (occurrences > 0).sum(axis=-1).clip(min=1)


def confusions(labels: np.ndarray, predictions: np.ndarray, groups: np.ndarray, num_classes: int) -> np.ndarray:
    """Confusion matrix of every group, `(groups, classes, classes)`: groups are sorted, the true class comes first.

    Args:
        labels: `(items,)` integers.
        predictions: `(items,)` integers.
        groups: `(items,)` of sortable values: utterances, or speakers.
        num_classes: Number of classes.
    """
    names, group = np.unique(groups, return_inverse=True)
    cells = np.zeros((len(names), num_classes, num_classes), dtype=np.int64)
    np.add.at(cells, (group, labels, predictions), 1)
    return cells


def bootstrap_interval(
    confusion: np.ndarray,
    score: Score = accuracy,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of a score over groups (Efron 1979).

    Frames of one utterance are similar, so utterances or speakers are drawn, with replacement.

    Args:
        confusion: `(groups, classes, classes)`, from `confusions`.
        score: Function of `(..., classes, classes)` counts.
        level: Confidence level.
        resamples: Number of resamples. With 1000, the error of the bounds is about 0.2 of their standard deviation.
        seed: Seed of the draws.

    Raises:
        ValueError: There are fewer than 2 groups, so their variation is unknown.
    """
    return _percentiles(score(confusion.sum(axis=0)), _resampled(confusion, score, resamples, seed), level)


def bootstrap_difference(
    first: np.ndarray,
    second: np.ndarray,
    score: Score = accuracy,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Interval of `score(first) - score(second)`, both drawn on the same groups.

    Args:
        first: `(groups, classes, classes)`, from `confusions`.
        second: The same for the second result, on the same items.
        score: See `bootstrap_interval`.
        level: See `bootstrap_interval`.
        resamples: See `bootstrap_interval`.
        seed: See `bootstrap_interval`.
    """
    if first.shape != second.shape:
        raise ValueError(f"`first` has shape {first.shape} but `second` {second.shape}; give the same.")
    difference = score(first.sum(axis=0)) - score(second.sum(axis=0))
    draws = _resampled(first, score, resamples, seed) - _resampled(second, score, resamples, seed)
    return _percentiles(difference, draws, level)


def bootstrap_statistic(
    statistic: Callable[[np.ndarray], float],
    groups: np.ndarray,
    *,
    level: float = 0.95,
    resamples: int = 200,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap over groups of any statistic of items, for example one that is not a function of counts.

    Args:
        statistic: Function of the indices of items, `(drawn items,)`, in which an item occurs as often as its group was
            drawn. Resamples for which it is NaN are skipped.
        groups: `(items,)` of sortable values: utterances, or speakers.
        level: See `bootstrap_interval`.
        resamples: Number of resamples; by default fewer than in `bootstrap_interval`, since the statistic is computed
            for each.
        seed: Seed of the draws.

    Raises:
        ValueError: There are fewer than 2 groups, or no draws.
    """
    names, group = np.unique(groups, return_inverse=True)
    _check_draws(len(names), resamples)
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    generator = np.random.default_rng(seed)
    draws = [
        statistic(np.concatenate([members[number] for number in generator.integers(len(names), size=len(names))]))
        for _ in range(resamples)
    ]
    return _percentiles(np.asarray(statistic(np.arange(len(groups)))), np.array(draws), level)


def bootstrap_pairs(
    statistic: Callable[[np.ndarray], float],
    first: np.ndarray,
    second: np.ndarray,
    *,
    level: float = 0.95,
    resamples: int = 200,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of a statistic of pairs of items, over the items.

    Pairs that share an item are not independent: drawing pairs, or only first items, results in intervals that are too
    narrow. Here items are drawn, and a pair occurs as often as the product of the counts of its two items.

    Args:
        statistic: Function of the indices of pairs, `(drawn pairs,)`.
        first: `(pairs,)`, one item of each pair, sortable.
        second: `(pairs,)`, the other item of each pair.
        level: See `bootstrap_interval`.
        resamples: See `bootstrap_statistic`.
        seed: Seed of the draws.

    Raises:
        ValueError: There are fewer than 2 items, or no draws.
    """
    items, ends = np.unique(np.concatenate([first, second]), return_inverse=True)
    _check_draws(len(items), resamples)
    ends = ends.reshape(2, -1)
    generator = np.random.default_rng(seed)
    pairs, draws = np.arange(len(first)), list[float]()
    while len(draws) < resamples:
        times = generator.multinomial(len(items), np.full(len(items), 1 / len(items)))
        drawn = np.repeat(pairs, times[ends[0]] * times[ends[1]])
        if len(drawn):  # with very few items, a resample may contain no pair
            draws.append(statistic(drawn))
    return _percentiles(np.asarray(statistic(pairs)), np.array(draws), level)


def _check_draws(groups: int, resamples: int) -> None:
    if groups < 2:
        raise ValueError("a bootstrap interval needs at least 2 groups (utterances or speakers) to draw from.")
    if resamples < 1:
        raise ValueError(f"`resamples` is {resamples}; give at least 1.")


def _resampled(confusion: np.ndarray, score: Score, resamples: int, seed: int) -> np.ndarray:
    """The score of every resample of the groups."""
    groups = len(confusion)
    _check_draws(groups, resamples)
    generator = np.random.default_rng(seed)
    flat = confusion.reshape(groups, -1).astype(np.float64)
    scores = []
    for start in range(0, resamples, _CHUNK):
        times = generator.multinomial(groups, np.full(groups, 1 / groups), size=min(_CHUNK, resamples - start))
        scores.append(score((times @ flat).reshape(-1, *confusion.shape[1:])))
    return np.concatenate(scores)


def _percentiles(value: np.ndarray, draws: np.ndarray, level: float) -> Interval:
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))
