"""Laws that hold for inputs of every size, against naive versions, tried with hypothesis."""

import itertools

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_analysis_abx import naive_dtw
from test_objectives_sim import naive_info_nce

from modeling_sim import SimConfig, SimFeatureExtractor, info_nce
from modeling_sim.analysis.abx import dtw
from modeling_sim.data.batches import crop_batches
from modeling_sim.data.corpora.contract import make_dataset
from modeling_sim.data.corpora.scan import check_audio
from modeling_sim.objectives_sim import draw_negatives, draw_window_start

# The same examples in every run.
few = settings(deadline=None, derandomize=True, max_examples=40, database=None)
seeds = st.integers(0, 2**31)


# ---------------------------------------------------------------------- InfoNCE


@given(data=st.data(), seed=seeds)
@few
def test_info_nce_equals_its_definition(data, seed):
    draw = data.draw
    batch, frames = draw(st.integers(1, 3), "batch"), draw(st.integers(2, 8), "frames")
    window, steps = draw(st.integers(2, frames), "window"), draw(st.integers(1, 4), "steps")
    channels, context_channels = draw(st.integers(1, 5), "channels"), draw(st.integers(1, 5), "context channels")
    lengths = torch.tensor(draw(st.lists(st.integers(0, frames), min_size=batch, max_size=batch), "lengths"))
    source = draw(st.sampled_from(["any", "not_positive", "same_utterance", "other_utterances"]), "negatives")
    num_negatives = draw(st.integers(1, 4), "count")
    assume(lengths.max() > 1)
    assume(source != "other_utterances" or (lengths > 0).sum() > 1)

    generator = torch.Generator().manual_seed(seed)
    context = torch.randn(batch, window, context_channels, generator=generator)
    latents = torch.randn(batch, frames, channels, generator=generator)
    weight = torch.randn(steps, channels, context_channels, generator=generator)
    frame_mask = torch.arange(frames) < lengths[:, None]
    start = draw_window_start(lengths, window, generator)
    anchors = torch.arange(batch)[:, None] * frames + start[:, None] + torch.arange(window - 1)
    negatives = draw_negatives(anchors, frames, steps, num_negatives, source, frame_mask, generator)
    found = info_nce(
        context,
        latents,
        weight,
        window_start=start,
        frame_mask=frame_mask,
        negative_frames=negatives,
    )
    expected = naive_info_nce(context, latents, weight, negatives, start, frame_mask)
    torch.testing.assert_close(found.loss, expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.accuracy, expected[1], rtol=0, atol=1e-6)


@given(
    lengths=st.lists(st.integers(0, 6), min_size=2, max_size=4),
    steps=st.integers(1, 4),
    seed=seeds,
    source=st.sampled_from(["any", "not_positive", "same_utterance", "other_utterances"]),
)
@few
def test_negatives_are_real_frames_of_their_source_and_all_of_them_are_drawn(lengths, steps, seed, source):
    frames, lengths = 6, torch.tensor(lengths)
    assume((lengths > 0).sum() > 1)
    mask = torch.arange(frames) < lengths[:, None]
    anchors = torch.arange(mask.numel()).view(mask.shape)[:, :-1]
    drawn = draw_negatives(anchors, frames, steps, 600, source, mask, torch.Generator().manual_seed(seed))
    real = set(mask.flatten().nonzero().flatten().tolist())
    for anchor, negatives in zip(anchors.flatten().tolist(), drawn.flatten(0, 1).tolist(), strict=True):
        first = anchor - anchor % frames
        own = set(range(first, first + frames))
        following = set(range(anchor + 1, min(anchor + steps, first + frames - 1) + 1))
        allowed = {
            "any": real,
            "not_positive": real - following,
            "same_utterance": real & own,
            "other_utterances": real - own,
        }[source]
        if anchor in real and allowed:
            assert set(negatives) == allowed


# ---------------------------------------------------------------------- frames


@st.composite
def configs(draw):
    """Configurations of a few small convolutions."""
    shape = draw(st.lists(st.integers(1, 2), min_size=1, max_size=3))
    layers = [
        [
            (kernel := draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.integers(0, (kernel - 1) // 2)))
            for _ in range(count)
        ]
        for count in shape
    ]
    kernel, stride, padding = ([[sizes[part] for sizes in module] for module in layers] for part in range(3))
    convolutions = {"conv_kernel": kernel, "conv_stride": stride, "conv_padding": padding}
    return SimConfig(**convolutions, kl_weight=0.0, hidden_size=4, context_size=0)


def convolved(waveform, config, module):
    """A waveform through convolutions of ones up to a module."""
    for sizes in zip(config.conv_kernel, config.conv_stride, config.conv_padding, strict=True):
        for kernel, stride, padding in zip(*sizes, strict=True):
            waveform = F.conv1d(waveform, torch.ones(1, 1, kernel, dtype=torch.float64), None, stride, padding)
        if module == 0:
            return waveform
        module -= 1
    raise AssertionError


@given(config=configs(), extra=st.integers(0, 50))
@few
def test_frames_and_what_they_see_are_those_of_real_convolutions(config, extra):
    for module in range(config.num_conv_modules):
        field = config.receptive_field(module)
        samples = 3 * field + 2 * config.hop_length(module) + extra
        waveform = torch.ones(1, 1, samples, dtype=torch.float64, requires_grad=True)
        frames = convolved(waveform, config, module)
        assert config.num_frames(samples, module) == frames.shape[2]
        assert config.num_frames(torch.tensor([samples]), module).tolist() == [frames.shape[2]]
        centers = config.frame_centers(frames.shape[2], module)
        middle = int(np.abs(centers - samples / 2).argmin())
        (gradient,) = torch.autograd.grad(frames[0, 0, middle], waveform)
        seen = gradient[0, 0].nonzero().flatten()
        first, last = int(seen.min()), int(seen.max())
        assert last - first + 1 == field
        assert (first + last + 1) / 2 == pytest.approx(centers[middle])


# ---------------------------------------------------------------------- warping


@given(count=st.integers(1, 4), rows=st.integers(1, 6), columns=st.integers(1, 6), seed=seeds, equal=st.booleans())
@few
def test_dtw_equals_a_naive_version(count, rows, columns, seed, equal):
    generator = np.random.default_rng(seed)
    costs = generator.random((count, rows, columns))
    if equal:
        costs = costs.round()  # paths of equal cost
    lengths = generator.integers(1, rows + 1, count), generator.integers(1, columns + 1, count)
    expected = [naive_dtw(matrix[:row, :column]) for matrix, row, column in zip(costs, *lengths, strict=True)]
    np.testing.assert_allclose(dtw(costs, *lengths), expected, rtol=1e-9)


# ---------------------------------------------------------------------- crops


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Utterances of several lengths, one of them shorter than a crop."""
    folder, generator = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    lengths = [1_500, 600, 3_000, 1_000, 2_222]
    paths = [folder / f"{number}.wav" for number in range(len(lengths))]
    for path, length in zip(paths, lengths, strict=True):
        soundfile.write(path, generator.uniform(-1, 1, length).astype(np.float32), 16_000, subtype="FLOAT")
    columns = {
        "id": [path.stem for path in paths],
        "audio": [{"path": str(path)} for path in paths],
        "speaker_id": [0] * len(paths),
        "text": [""] * len(paths),
    }
    return check_audio(make_dataset(columns, labels={"speaker_id": ["a"]}))


@given(
    processes=st.integers(1, 4),
    batch_size=st.integers(1, 3),
    start=st.integers(0, 12),
    steps=st.integers(1, 2),
    seed=seeds,
)
@settings(few, max_examples=12)
def test_crops_of_several_processes_are_those_of_one(corpus, processes, batch_size, start, steps, seed):
    def crops(count, **process):
        loader = crop_batches(
            corpus,
            SimFeatureExtractor(),
            crop_samples=1_000,
            seed=seed,
            start_position=start,
            batch_size=count,
            **process,
        )
        return list(itertools.islice(iter(loader), steps))

    alone = crops(processes * batch_size)
    shares = [crops(batch_size, process_index=number, num_processes=processes) for number in range(processes)]
    for step, together in enumerate(alone):
        for name in ("position", "index", "start", "input_values", "attention_mask"):
            assert torch.equal(together[name], torch.cat([share[step][name] for share in shares]))
        assert together["id"] == [name for share in shares for name in share[step]["id"]]
