"""ABX against a naive implementation, and where the answer is known."""

import itertools

import numpy as np
import pytest

from modeling_sim.analysis import abx
from modeling_sim.analysis.abx import distances, dtw
from modeling_sim.evaluation.task import find_tokens


def naive_dtw(costs):
    """Total and length of the best path by enumeration of its last step."""
    best = {}
    for i, j in itertools.product(range(costs.shape[0]), range(costs.shape[1])):
        before = [best[cell] for cell in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if cell in best]
        total, length = min(before, key=lambda path: path[0]) if before else (0.0, 0)
        best[i, j] = (total + costs[i, j], length + 1)
    total, length = best[costs.shape[0] - 1, costs.shape[1] - 1]
    return total / length


def naive_distance(x, y):
    x, y = (segment / np.linalg.norm(segment, axis=1, keepdims=True) for segment in (x, y))
    return naive_dtw(1 - x @ y.T)


def naive_abx(segments, phones, speakers, contexts, mode):
    cells = {}
    for a, b, x in itertools.permutations(range(len(segments)), 3):
        if phones[a] != phones[x] or phones[a] == phones[b] or speakers[a] != speakers[b]:
            continue
        if (speakers[x] == speakers[a]) != (mode == "within") or not contexts[a] == contexts[b] == contexts[x]:
            continue
        to_a, to_b = naive_distance(segments[x], segments[a]), naive_distance(segments[x], segments[b])
        key = (phones[a], phones[b]), (speakers[a], speakers[x]), contexts[a]
        cells.setdefault(key, []).append(float(to_a > to_b) + 0.5 * (to_a == to_b))
    pairs = {}
    for (pair, speaker, _), wrong in cells.items():
        pairs.setdefault(pair, {}).setdefault(speaker, []).append(np.mean(wrong))
    return np.mean([np.mean([np.mean(values) for values in by.values()]) for by in pairs.values()])


@pytest.fixture
def corpus():
    generator = np.random.default_rng(0)
    count = 36
    phones = generator.integers(3, size=count).tolist()
    speakers = generator.integers(2, size=count).tolist()
    contexts = generator.integers(2, size=count).tolist()
    centers = generator.normal(size=(3, 4))
    segments = [centers[phone] + generator.normal(size=(generator.integers(1, 6), 4)) for phone in phones]
    return segments, phones, speakers, contexts


@pytest.mark.parametrize("mode", ["within", "across"])
@pytest.mark.parametrize("channels", [64, 257, 512])
def test_collapsed_features_are_at_chance_whatever_the_lengths(channels, mode):
    """Phones of different lengths with one direction and any gain: rounding must not decide."""
    generator = np.random.default_rng(0)
    direction = generator.normal(size=channels)
    tokens = list(itertools.product(range(5), range(3), range(4)))  # phone, speaker, repetition
    segments = [generator.uniform(0.1, 9, size=(2 + 3 * phone, 1)) * direction for phone, _, _ in tokens]
    phones, speakers, _ = zip(*tokens, strict=True)
    contexts = [0] * len(tokens)
    assert abx(segments, phones, speakers, contexts, mode=mode).error == 0.5


@pytest.mark.parametrize("mode", ["within", "across"])
@pytest.mark.parametrize("in_context", [False, True])
def test_it_is_the_naive_one(corpus, mode, in_context):
    segments, phones, speakers, contexts = corpus
    score = abx(segments, phones, speakers, contexts if in_context else None, mode=mode, max_tokens=100)
    expected = naive_abx(segments, phones, speakers, contexts if in_context else [0] * len(phones), mode)
    assert score.error == pytest.approx(expected)
    assert 0.02 < score.error < 0.5


def test_warping_is_the_naive_one(corpus):
    segments = [segment / np.linalg.norm(segment, axis=1, keepdims=True) for segment in corpus[0]]
    expected = [[naive_distance(x, y) for y in segments[:9]] for x in segments]
    everything = list(range(len(segments)))
    whole, part = distances(segments, [(everything, list(range(9))), ([5, 3], [8, 0, 2])])
    np.testing.assert_allclose(whole, expected, atol=1e-6)
    np.testing.assert_allclose(part, np.array(expected)[[5, 3]][:, [8, 0, 2]], atol=1e-6)
    same = dtw(np.array([[[0.0, 1.0], [1.0, 0.0]]]), np.array([2]), np.array([2]))
    assert same == 0


def test_phones_apart_differ_and_noise_is_chance():
    generator = np.random.default_rng(1)
    phones = [0, 1] * 40
    apart = [np.eye(2)[[phone] * 3] + 0.01 * generator.normal(size=(3, 2)) for phone in phones]
    noise = [generator.normal(size=(3, 8)) for _ in phones]
    assert abx(apart, phones, [0] * 80, max_tokens=40).error == 0
    assert abx(noise, phones, [0] * 80, max_tokens=40).error == pytest.approx(0.5, abs=0.06)
    equal = [np.ones((2, 3)) for _ in phones]
    assert abx(equal, phones, [0] * 80).error == 0.5


def test_frames_that_point_almost_one_way_differ():
    """Cosine distances of 1e-9, as between the frames of an untrained network."""
    generator = np.random.default_rng(3)
    phones = [0, 1] * 20
    directions = np.array([[0.0, 1.0], [1.0, 0.0]])
    segments = [
        np.float32([1.0, 1.0]) + np.float32(1e-4 * directions[[phone] * 3] + 1e-6 * generator.normal(size=(3, 2)))
        for phone in phones
    ]
    assert abx(segments, phones, [0] * 40).error == 0


def test_speaking_twice_as_slowly_is_no_difference():
    segment = np.random.default_rng(2).normal(size=(4, 5))
    segment /= np.linalg.norm(segment, axis=1, keepdims=True)
    (distance,) = distances([segment, segment.repeat(2, axis=0)], [([0], [1])])
    assert distance[0, 0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([np.ones((1, 2))], ["a"], ["s"]), "within"),
        (([np.ones((0, 2))] * 2, ["a", "b"], ["s"] * 2), "segment"),
        (([np.ones((1, 2))], ["a", "b"], ["s"]), "phones"),
        (([np.ones((1, 2))] * 2, ["a", "b"], ["s"] * 2, [0]), "contexts"),
        (([np.ones(2)] * 2, ["a", "b"], ["s"] * 2), "segments"),
        (([np.ones((1, 2)), np.ones((1, 3))], ["a", "b"], ["s"] * 2), "segments"),
    ],
)
def test_what_cannot_be_compared_is_reported(arguments, message):
    with pytest.raises(ValueError, match=message):
        abx(*arguments)


def test_tokens_are_runs_between_neighbors():
    labels = np.array([0, 0, 1, 1, 2, 0, 0, 1, 2, 2])
    utterances = np.array(["u"] * 6 + ["v"] * 4)
    tokens = find_tokens(labels, utterances, np.arange(10), ["SIL", "a", "b"])
    assert tokens.starts.tolist() == [2, 4, 7]
    assert tokens.ends.tolist() == [4, 5, 8]
    assert tokens.phones.tolist() == [1, 2, 1]
    assert tokens.contexts == [(0, 2), (1, 0), (0, 2)]


@pytest.mark.parametrize("mode", ["within", "across"])
@pytest.mark.parametrize("in_context", [False, True])
def test_it_is_fastabxs(corpus, mode, in_context):
    """fastabx needs Python 3.12; its own distance is the angle, so it is given the cosine."""
    fastabx = pytest.importorskip("fastabx", reason="fastabx is not installed (it needs Python 3.12)")
    import polars as pl
    import torch

    segments, phones, speakers, contexts = corpus

    def cosine(left, right):
        left, right = (torch.nn.functional.normalize(frames.double(), dim=-1) for frames in (left, right))
        return (1 - torch.einsum("xic,yjc->xyij", left, right)).float()

    ends = np.cumsum([len(segment) for segment in segments]).tolist()
    accessor = fastabx.InMemoryAccessor(
        dict(enumerate(zip([0, *ends[:-1]], ends, strict=True))),
        torch.tensor(np.concatenate(segments), dtype=torch.float32),
        torch.device("cpu"),
    )
    labels = pl.DataFrame({"phone": phones, "speaker": speakers, "context": contexts})
    by = ["context"] * in_context + ["speaker"] * (mode == "within")
    task = fastabx.Task(
        fastabx.Dataset(labels, accessor), on="phone", by=by or None, across=["speaker"] if mode == "across" else None
    )
    expected = fastabx.Score(task, cosine, progress=False).collapse(levels=["context"] * in_context + ["speaker"])
    found = abx(segments, phones, speakers, contexts if in_context else None, mode=mode, max_tokens=99)
    assert found.error == pytest.approx(expected, abs=1e-6)


def test_frames_that_are_no_numbers_are_reported_and_not_perfect():
    generator = np.random.default_rng(0)
    segments = [generator.normal(size=(3, 4)) for _ in range(8)]
    segments[2][1, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        abx(segments, list("aabbaabb"), ["s"] * 8)


@pytest.mark.parametrize("limits", [{"max_tokens": 3}, {"max_speakers": 1}])
def test_limits_make_fewer_triples(limits):
    generator = np.random.default_rng(0)
    segments = [generator.normal(size=(2, 3)) for _ in range(90)]
    phones, speakers = (np.arange(90) % 3).tolist(), (np.arange(90) // 3 % 5).tolist()
    everything = abx(segments, phones, speakers, mode="across", max_tokens=100, max_speakers=100)
    lists = [segment.tolist() for segment in segments]
    assert abx(lists, phones, speakers, mode="across", max_tokens=100, max_speakers=100) == everything
    limited = abx(segments, phones, speakers, mode="across", **{"max_tokens": 100, "max_speakers": 100, **limits})
    assert limited.num_triples < everything.num_triples / 2
