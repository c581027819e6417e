"""ABX phone discriminability: is X, a token of phone A, nearer to another token of A than to one of phone B?

Schatz et al. (2013). A and B are of one speaker; X is of the same one ("within") or of another ("across"). With
contexts, A, B and X stand between the same phones ("triphone"); without, between any.
"""

import itertools
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

_ByPhone = dict[Hashable, list[int]]


@dataclass(frozen=True)
class AbxScore:
    """Outcome of `abx`.

    Args:
        error: Share of triples in which X is nearer to B, ties counting half; 0.5 is chance, 0 perfect.
        num_pairs: Ordered pairs of phones that had triples; the error is their mean.
        num_triples: Triples that were compared.
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
    max_tokens: int = 10,
    max_speakers: int = 5,
    seed: int = 0,
) -> AbxScore:
    """ABX error with the cosine distance along the best alignment in time.

    Errors are averaged over the triples of a cell (phones A and B, speakers, context), over contexts, over speakers,
    and over ordered pairs of phones, as the ZeroSpeech challenges do, so that frequent phones do not rule.

    Args:
        segments: Frames of each token, `(frames, channels)`, at least one frame each.
        phones: Phone of each token.
        speakers: Its speaker.
        contexts: Its neighbours, such as `(previous, next)`; `None` for any context.
        mode: "within" or "across" speakers.
        max_tokens: Most tokens of a phone, speaker and context; more are drawn from at random.
        max_speakers: Most speakers whose X each speaker's A and B are compared with across speakers.
        seed: Of these draws.

    Raises:
        ValueError: Lengths disagree, a token has no frames, or no triple exists.
    """
    _check(segments, phones, speakers, mode)
    generator = np.random.default_rng(seed)
    tokens = _tokens(phones, speakers, contexts, max_tokens, generator)
    units = [segment / np.linalg.norm(segment, axis=1, keepdims=True).clip(min=1e-12) for segment in segments]
    # errors[pair][speakers] = one mean a context
    errors: dict[tuple[Hashable, Hashable], dict[Hashable, list[float]]] = defaultdict(lambda: defaultdict(list))
    triples = 0
    for by_speaker in tokens.values():
        for speaker, other in _speaker_pairs(list(by_speaker), mode, max_speakers, generator):
            for pair, total, wrong in _cells(units, by_speaker[speaker], by_speaker[other]):
                errors[pair][speaker, other].append(wrong / total)
                triples += total
    if not errors:
        raise ValueError(f"no triple exists {mode} speakers: a phone needs two tokens beside another phone's.")
    by_pair = [
        float(np.mean([np.mean(by_context) for by_context in by_speakers.values()])) for by_speakers in errors.values()
    ]
    return AbxScore(float(np.mean(by_pair)), len(by_pair), triples)


def _check(segments: Sequence[np.ndarray], phones: Sequence[Hashable], speakers: Sequence[Hashable], mode: str) -> None:
    if not len(segments) == len(phones) == len(speakers):
        raise ValueError(f"{len(segments)} segments, {len(phones)} phones and {len(speakers)} speakers; give one each.")
    if any(len(segment) == 0 for segment in segments):
        raise ValueError("a segment has no frames.")
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


def _cells(
    units: Sequence[np.ndarray], own: _ByPhone, others: _ByPhone
) -> Iterator[tuple[tuple[Hashable, Hashable], int, float]]:
    """Pair of phones, triples, and in how many X is nearer to B, with A and B of `own` and X of `others`."""
    keys = [index for members in own.values() for index in members]
    queries = [index for phone in own for index in others.get(phone, [])]
    if len(own) < 2 or not queries:
        return
    distance = distances([units[index] for index in queries], [units[index] for index in keys])
    row = {index: number for number, index in enumerate(queries)}
    column = {index: number for number, index in enumerate(keys)}
    for a, b in itertools.permutations(own, 2):
        total, wrong = _compare(distance, row, column, others.get(a, []), own[a], own[b])
        if total:
            yield (a, b), total, wrong


def _compare(
    distance: np.ndarray,
    row: dict[int, int],
    column: dict[int, int],
    x_tokens: Sequence[int],
    a_tokens: Sequence[int],
    b_tokens: Sequence[int],
) -> tuple[int, float]:
    """Triples, and in how many X is nearer to B; a token is not compared with itself."""
    if not x_tokens:
        return 0, 0.0
    rows = [row[index] for index in x_tokens]
    to_a = distance[np.ix_(rows, [column[index] for index in a_tokens])]
    to_b = distance[np.ix_(rows, [column[index] for index in b_tokens])]
    other = np.array(x_tokens)[:, None] != np.array(a_tokens)
    difference = to_a[:, :, None] - to_b[:, None, :]
    wrong = (difference > 0) + 0.5 * (difference == 0)
    return int(other.sum()) * len(b_tokens), float(wrong[other].sum())


def distances(queries: Sequence[np.ndarray], keys: Sequence[np.ndarray]) -> np.ndarray:
    """Distance of every query to every key, `(queries, keys)`; see `dtw`. All have rows of norm 1."""
    result = np.empty((len(queries), len(keys)))
    # Of like lengths together, so that little is padded.
    key_order = np.argsort([len(key) for key in keys], kind="stable")
    query_order = np.argsort([len(query) for query in queries], kind="stable")
    for query_batch in _batches(query_order, 64):
        rows, row_lengths = _padded([queries[index] for index in query_batch])
        for key_batch in _batches(key_order, 64):
            columns, column_lengths = _padded([keys[index] for index in key_batch])
            flat = 1.0 - rows.reshape(-1, rows.shape[2]) @ columns.reshape(-1, rows.shape[2]).T
            costs = flat.reshape(*rows.shape[:2], *columns.shape[:2]).transpose(0, 2, 1, 3)
            result[np.ix_(query_batch, key_batch)] = dtw(
                costs.reshape(-1, rows.shape[1], columns.shape[1]),
                np.repeat(row_lengths, len(key_batch)),
                np.tile(column_lengths, len(query_batch)),
            ).reshape(len(query_batch), len(key_batch))
    return result


def dtw(costs: np.ndarray, row_lengths: np.ndarray, column_lengths: np.ndarray) -> np.ndarray:
    """Mean cost along the path of dynamic time warping with the least total cost, for many matrices at once.

    A path goes from the first corner to the last by steps to the right, down or diagonally.

    Args:
        costs: `(matrices, rows, columns)`.
        row_lengths: `(matrices,)`, rows of each matrix that count.
        column_lengths: `(matrices,)`, columns that count.
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


def _batches(order: np.ndarray, size: int) -> list[np.ndarray]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def _padded(segments: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Segments as one array `(segments, frames, channels)`, zero past their ends, and their lengths."""
    lengths = np.array([len(segment) for segment in segments])
    padded = np.zeros((len(segments), lengths.max(), segments[0].shape[1]), dtype=np.float32)
    for row, segment in zip(padded, segments, strict=True):
        row[: len(segment)] = segment
    return padded, lengths
