"""ABX phone discriminability: is X, a token of phone A, nearer to another token of A than to one of phone B?

Schatz et al. (2013). A and B come from one speaker, X from the same speaker ("within") or another one ("across"). With
contexts, A, B and X have the same neighboring phones ("triphone"); without, any.
"""

import itertools
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

# Number of matrices that are aligned at a time: large enough that numpy's overhead is small, small enough for the
# cache.
_WARPED_TOGETHER = 4096
# Segments are padded to a multiple of this many frames.
_LENGTH_STEP = 4
# Cosine distances below this are treated as 0: they are rounding errors, which would otherwise break ties.
_ROUNDING = 1e-12
_ByPhone = dict[Hashable, list[int]]


@dataclass(frozen=True)
class AbxScore:
    """Outcome of `abx`.

    Args:
        error: Fraction of triples in which X is closer to B, ties counting half; 0.5 is chance, 0 perfect.
        num_pairs: Number of ordered pairs of phones with triples; the error is the mean over them.
        num_triples: Number of compared triples.
    """

    error: float
    num_pairs: int
    num_triples: int


def abx(
    segments: Sequence[np.ndarray],
    phones: Sequence[Hashable],
    speakers: Sequence[Hashable],
    contexts: Sequence[Hashable] | None = None,
    *,
    mode: Literal["within", "across"] = "within",
    max_tokens: int = 5,
    max_speakers: int = 5,
    seed: int = 0,
) -> AbxScore:
    """ABX error with the cosine distance along the best alignment in time.

    Errors are averaged over the triples of a cell (phones A and B, speakers, context), over contexts, over speakers,
    and over ordered pairs of phones, as the ZeroSpeech challenges do, so that frequent phones do not dominate.

    Args:
        segments: Frames of each token, `(frames, channels)`, at least one frame each.
        phones: Phone of each token.
        speakers: Speaker of each token.
        contexts: Neighboring phones of each token, such as `(previous, next)`; `None` to ignore contexts.
        mode: "within" or "across" speakers.
        max_tokens: Maximum number of tokens per phone, speaker and context, drawn at random if there are more.
        max_speakers: For "across": maximum number of speakers of X for each speaker of A and B.
        seed: Seed of these draws.

    Raises:
        ValueError: Lengths or channels disagree, a token has no frames, or no triple exists.
    """
    segments = [np.asarray(segment) for segment in segments]
    _check(segments, phones, speakers, contexts, mode)
    generator = np.random.default_rng(seed)
    tokens = _tokens(phones, speakers, contexts, max_tokens, generator)
    # In float64: frames of an untrained network have almost equal directions, and a distance `1 - cosine` of 1e-8 is
    # lost in float32.
    units = [_unit_rows(segment.astype(np.float64)) for segment in segments]
    blocks = [
        _Block(by_speaker[speaker], by_speaker[other], (speaker, other))
        for by_speaker in tokens.values()
        for speaker, other in _speaker_pairs(list(by_speaker), mode, max_speakers, generator)
        if len(by_speaker[speaker]) > 1 and not by_speaker[speaker].keys().isdisjoint(by_speaker[other])
    ]
    # errors[pair][speakers] = one mean per context
    errors: dict[tuple[Hashable, Hashable], dict[Hashable, list[float]]] = defaultdict(lambda: defaultdict(list))
    triples = 0
    for block, distance in zip(blocks, distances(units, [(of.queries, of.keys) for of in blocks]), strict=True):
        for pair, total, wrong in block.compare(distance):
            errors[pair][block.speakers].append(wrong / total)
            triples += total
    if not errors:
        raise ValueError(f"no triple exists {mode} speakers: a phone needs two tokens, and another phone one.")
    by_pair = [
        float(np.mean([np.mean(by_context) for by_context in by_speakers.values()])) for by_speakers in errors.values()
    ]
    return AbxScore(float(np.mean(by_pair)), len(by_pair), triples)


def _check(
    segments: list[np.ndarray],
    phones: Sequence[Hashable],
    speakers: Sequence[Hashable],
    contexts: Sequence[Hashable] | None,
    mode: str,
) -> None:
    for name, values in (("phones", phones), ("speakers", speakers), ("contexts", contexts)):
        if values is not None and len(values) != len(segments):
            raise ValueError(f"`{name}` has {len(values)} items for {len(segments)} `segments`; give one each.")
    for number, segment in enumerate(segments):
        if segment.ndim != 2 or segment.size == 0 or segment.shape[1] != segments[0].shape[1]:
            raise ValueError(
                f"`segments[{number}]` has shape {segment.shape}; expected (frames, channels), not empty, with as many "
                "channels as the others."
            )
    if not all(np.isfinite(segment).all() for segment in segments):
        raise ValueError("a segment contains NaN or infinity.")
    if mode not in ("within", "across"):
        raise ValueError(f"`mode` is {mode!r}; choose 'within' or 'across'.")


def _tokens(
    phones: Sequence[Hashable],
    speakers: Sequence[Hashable],
    contexts: Sequence[Hashable] | None,
    max_tokens: int,
    generator: np.random.Generator,
) -> dict[Hashable, dict[Hashable, _ByPhone]]:
    """Indices of tokens by context, speaker and phone."""
    tokens: dict[Hashable, dict[Hashable, _ByPhone]] = defaultdict(lambda: defaultdict(dict))
    if contexts is None:
        contexts = [None] * len(phones)
    for index, (phone, speaker, context) in enumerate(zip(phones, speakers, contexts, strict=True)):
        tokens[context][speaker].setdefault(phone, []).append(index)
    for by_phone in (by_phone for by_speaker in tokens.values() for by_phone in by_speaker.values()):
        for phone, members in by_phone.items():
            if len(members) > max_tokens:
                by_phone[phone] = sorted(generator.choice(members, max_tokens, replace=False).tolist())
    return tokens


def _speaker_pairs(
    speakers: Sequence[Hashable], mode: str, max_speakers: int, generator: np.random.Generator
) -> Iterator[tuple[Hashable, Hashable]]:
    """Speaker of A and B, and speaker of X."""
    for speaker in speakers:
        if mode == "within":
            yield speaker, speaker
            continue
        others = [other for other in speakers if other != speaker]
        if len(others) > max_speakers:
            chosen = generator.choice(len(others), max_speakers, replace=False)
            others = [others[number] for number in sorted(chosen)]
        yield from ((speaker, other) for other in others)


class _Block:
    """All triples of one context, of one speaker of A and B, and of one speaker of X, who may be the same.

    Args:
        own: Tokens of A's and B's speaker.
        others: Tokens of X's speaker.
        speakers: Speaker of A and B, and speaker of X.
    """

    def __init__(self, own: _ByPhone, others: _ByPhone, speakers: tuple[Hashable, Hashable]) -> None:
        self.own, self.others, self.speakers = own, others, speakers
        self.keys = [index for members in own.values() for index in members]
        self.queries = [index for phone in own for index in others.get(phone, [])]

    def compare(self, distance: np.ndarray) -> Iterator[tuple[tuple[Hashable, Hashable], int, float]]:
        """Yields each pair of phones, its number of triples and of errors; a token is not compared with itself."""
        row = {index: number for number, index in enumerate(self.queries)}
        column = {index: number for number, index in enumerate(self.keys)}
        for a, b in itertools.permutations(self.own, 2):
            x_tokens, a_tokens = self.others.get(a, []), self.own[a]
            other = np.array(x_tokens, dtype=int)[:, None] != np.array(a_tokens)
            total = int(other.sum()) * len(self.own[b])
            if not total:
                continue
            rows = [row[index] for index in x_tokens]
            to_a = distance[np.ix_(rows, [column[index] for index in a_tokens])]
            to_b = distance[np.ix_(rows, [column[index] for index in self.own[b]])]
            difference = to_a[:, :, None] - to_b[:, None, :]
            wrong = (difference > 0) + 0.5 * (difference == 0)
            yield (a, b), total, float(wrong[other].sum())


def distances(
    segments: Sequence[np.ndarray], blocks: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> list[np.ndarray]:
    """Distances between segments along their best alignment, `(queries, keys)` for every block.

    Args:
        segments: Rows of norm 1, `(frames, channels)`.
        blocks: Indices of queries and of keys. There may be few large blocks or many small ones.
    """
    results = [np.empty((len(queries), len(keys)), dtype=np.float32) for queries, keys in blocks]
    # Matrices of similar sizes are collected, so that there is little padding and many are aligned at a time.
    waiting: dict[tuple[int, int], _Costs] = defaultdict(_Costs)

    for result, (queries, keys) in zip(results, blocks, strict=True):
        for (rows, row_length), (columns, column_length) in itertools.product(
            _by_length(segments, queries), _by_length(segments, keys)
        ):
            left, row_lengths = _padded([segments[queries[row]] for row in rows], row_length)
            right, column_lengths = _padded([segments[keys[column]] for column in columns], column_length)
            flat = 1.0 - left.reshape(-1, left.shape[2]) @ right.reshape(-1, left.shape[2]).T
            flat[np.abs(flat) < _ROUNDING] = 0.0
            costs = flat.astype(np.float32).reshape(*left.shape[:2], *right.shape[:2]).transpose(0, 2, 1, 3)
            size = (row_length, column_length)
            waiting[size].add(costs, row_lengths, column_lengths, result, np.ix_(rows, columns))
            if waiting[size].matrices >= _WARPED_TOGETHER:
                waiting.pop(size).warp()
    for costs_of_size in waiting.values():
        costs_of_size.warp()
    return results


class _Costs:
    """Cost matrices of one size, and where to write their distances."""

    def __init__(self) -> None:
        self.matrices = 0
        self.costs: list[np.ndarray] = []
        self.lengths: list[tuple[np.ndarray, np.ndarray]] = []
        self.targets: list[tuple[np.ndarray, tuple[np.ndarray, ...], tuple[int, int]]] = []

    def add(
        self,
        costs: np.ndarray,
        row_lengths: np.ndarray,
        column_lengths: np.ndarray,
        result: np.ndarray,
        where: tuple[np.ndarray, ...],
    ) -> None:
        """Adds `(queries, keys, rows, columns)` costs; their distances will be written to `result[where]`."""
        queries, keys = costs.shape[:2]
        self.costs.append(costs.reshape(queries * keys, *costs.shape[2:]))
        self.lengths.append((np.repeat(row_lengths, keys), np.tile(column_lengths, queries)))
        self.targets.append((result, where, (queries, keys)))
        self.matrices += queries * keys

    def warp(self) -> None:
        """Computes the distances and writes them to the results."""
        row_lengths, column_lengths = (np.concatenate(lengths) for lengths in zip(*self.lengths, strict=True))
        costs = np.concatenate(self.costs)
        distance = np.concatenate(
            [
                dtw(costs[part], row_lengths[part], column_lengths[part])
                for part in (slice(start, start + _WARPED_TOGETHER) for start in range(0, len(costs), _WARPED_TOGETHER))
            ]
        )
        start = 0
        for result, where, shape in self.targets:
            stop = start + shape[0] * shape[1]
            result[where] = distance[start:stop].reshape(shape)
            start = stop


def _unit_rows(segment: np.ndarray) -> np.ndarray:
    return segment / np.linalg.norm(segment, axis=1, keepdims=True).clip(min=1e-12)


def _by_length(segments: Sequence[np.ndarray], indices: Sequence[int]) -> list[tuple[np.ndarray, int]]:
    """Positions in `indices` of segments of similar lengths, and the length to pad them to."""
    padded = np.array([-(-len(segments[index]) // _LENGTH_STEP) * _LENGTH_STEP for index in indices])
    return [(np.flatnonzero(padded == length), int(length)) for length in np.unique(padded)]


def dtw(costs: np.ndarray, row_lengths: np.ndarray, column_lengths: np.ndarray) -> np.ndarray:
    """Mean cost along the path of dynamic time warping with the least total cost, for many matrices at once.

    A path goes from the first corner to the last by steps to the right, down or diagonally.

    Args:
        costs: `(matrices, rows, columns)`.
        row_lengths: `(matrices,)`, number of rows of each matrix that are not padding.
        column_lengths: `(matrices,)`, number of columns that are not padding.
    """
    matrices, rows, columns = costs.shape
    total = np.full((rows + 1, columns + 1, matrices), np.inf, dtype=costs.dtype)
    steps = np.zeros((rows + 1, columns + 1, matrices), dtype=costs.dtype)
    total[0, 0] = 0.0
    by_cell = np.ascontiguousarray(costs.transpose(1, 2, 0))
    for i, j in itertools.product(range(1, rows + 1), range(1, columns + 1)):
        diagonal, up, left = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
        best, length = diagonal, steps[i - 1, j - 1]
        nearer = up < best
        best, length = np.where(nearer, up, best), np.where(nearer, steps[i - 1, j], length)
        nearer = left < best
        total[i, j] = np.where(nearer, left, best) + by_cell[i - 1, j - 1]
        steps[i, j] = np.where(nearer, steps[i, j - 1], length) + 1
    ends = (row_lengths, column_lengths, np.arange(matrices))
    return total[ends] / steps[ends]


def _padded(segments: Sequence[np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Segments as one array `(segments, length, channels)`, zero past their ends, and their lengths."""
    padded = np.zeros((len(segments), length, segments[0].shape[1]))
    for row, segment in zip(padded, segments, strict=True):
        row[: len(segment)] = segment
    return padded, np.array([len(segment) for segment in segments])
