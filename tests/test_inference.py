"""Streams, long audio, folded weights and embeddings give what the encoder makes of complete recordings."""

import json
import math
import shutil
from functools import partial

import accelerate
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from datasets import Dataset, load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import prune
from tqdm import tqdm

from modeling_sim import (
    SimConfig,
    SimEmbedder,
    SimFeatureExtractor,
    SimForAudioFrameClassification,
    SimForPreTraining,
    SimForSequenceClassification,
    SimModel,
    SimStream,
    embed,
    modeling_sim,
)
from modeling_sim.commands import embed as command
from modeling_sim.data.audio import AudioError
from modeling_sim.data.corpora.scan import BadAudioError
from modeling_sim.inference import embedding, embedding_files
from modeling_sim.inference.folding import FoldedConvLayer, fold
from modeling_sim.inference.steps import MAX_SAMPLES

PRESETS = ("sim", "sim-small", "sim-artificial", "gim", "gim-lowe", "cpc")
WIDE_STRIDES = {
    "conv_kernel": [[3, 2], [1]],
    "conv_stride": [[4, 2], [3]],
    "conv_padding": [[2, 1], [0]],
    "kl_weight": 1e-3,
}


def model_of(preset="sim", **overrides):
    """A model with statistics of batch norm and biases that a trained one could have."""
    torch.manual_seed(0)
    model = SimModel(SimConfig.preset(preset, **{"hidden_size": 16, "context_size": 8, **overrides}))
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif name.endswith(("running_mean", "bias")):
            value.normal_(0, 0.3)
    return model.eval()


MODELS = {preset: model_of(preset) for preset in PRESETS}
MODELS["wide strides"] = model_of(**WIDE_STRIDES)
MODELS["no context"] = model_of(context_size=0)
MODELS["narrow latents"] = model_of(latent_size=3)


def assert_same(parts, whole):
    """The frames of every module, in parts, are those of the whole."""
    for module, expected in enumerate(whole):
        joined = torch.cat([part.hidden_states[module] for part in parts], dim=1)
        torch.testing.assert_close(joined, expected.mean, rtol=0, atol=1e-6)
        if expected.log_variance is not None:
            joined = torch.cat([part.log_variances[module] for part in parts], dim=1)
            torch.testing.assert_close(joined, expected.log_variance, rtol=0, atol=1e-6)


# ---------------------------------------------------------------------- streams


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(MODELS)),
    num_samples=st.integers(500, 3000),
    pieces=st.lists(st.integers(0, 700) | st.just(MAX_SAMPLES + 1), min_size=1, max_size=12),
    batch_size=st.integers(1, 3),
)
def test_a_stream_gives_the_frames_of_the_whole_at_any_division(name, num_samples, pieces, batch_size):
    model = MODELS[name]
    waveforms = torch.randn(batch_size, num_samples, generator=torch.Generator().manual_seed(num_samples)) / 5
    stream = SimStream(model, batch_size)
    parts, start = [], 0
    while start < num_samples:
        for piece in (*pieces, 97):
            parts.append(stream.feed(waveforms[:, start : start + piece]))
            start += piece
    parts.append(stream.finish())
    with torch.no_grad():
        assert_same(parts, list(model.module_latents(waveforms)))


def test_only_waveforms_can_be_streamed():
    config = SimConfig.preset("sim-small", input_kind="tokens", vocabulary=["a", "b"], sampling_rate=100)
    with pytest.raises(ValueError, match="input_kind"):
        SimStream(SimModel(config))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_frame_comes_with_the_last_sample_that_it_sees(name):
    model, stream = MODELS[name], SimStream(MODELS[name])
    config = model.config
    counts = np.zeros(config.num_modules, dtype=int)
    for number in range(1, 640):  # two frames of the slowest module
        counts += [frames.shape[1] for frames in stream.feed(torch.zeros(1)).hidden_states]
        for module, module_name in enumerate(config.module_names):
            latency = round(stream.latency[module_name] * config.sampling_rate / 1000)
            first = config.frame_centers(1, module)[0] - config.receptive_field(module) / 2
            expected = (number - latency - first) // config.hop_length(module) + 1
            assert counts[module] == max(0, expected), (module_name, number)


def test_latency_is_the_receptive_field():
    config = SimConfig.preset("sim-small")
    latency = SimStream(SimModel(config)).latency
    assert list(latency) == config.module_names
    fields = [1000 * config.receptive_field(module) / config.sampling_rate for module in range(config.num_modules)]
    assert list(latency.values()) == pytest.approx(fields)
    assert latency["module 2"] <= 30


def test_streams_are_copied_and_reset(noise):
    stream = SimStream(MODELS["sim"])
    waveform = noise(1, 2000) / 5
    first = stream.feed(waveform)
    other = stream.copy()
    expected = stream.finish().last_hidden_state
    other.feed(noise(1, 700))
    assert len(other.finish().last_hidden_state) == 1
    with pytest.raises(ValueError, match="reset"):
        stream.feed(waveform)
    stream.reset()
    torch.testing.assert_close(stream.feed(waveform).last_hidden_state, first.last_hidden_state, rtol=0, atol=0)
    torch.testing.assert_close(stream.finish().last_hidden_state, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("samples", "error"),
    [
        (np.zeros(5, np.int16), TypeError),
        (np.zeros((2, 5)), ValueError),
        (np.array([0.0, np.nan]), ValueError),
        (np.array([1e39]), ValueError),
    ],
)
def test_a_stream_refuses_other_inputs(samples, error):
    with pytest.raises(error, match="samples"):
        SimStream(MODELS["sim"]).feed(samples)


def test_the_state_is_a_few_frames_per_layer():
    model = MODELS["sim"]
    sizes = set()
    state = model.initial_state(1)
    for _ in range(4):
        with torch.no_grad():
            _, state = model.step(torch.zeros(1, 4 * model.config.hop_length()), state)
        sizes.add(tuple(tuple(tensor.shape) for tensor in state))
    assert len(sizes) == 1
    kernels = [kernel for kernels in model.config.conv_kernel for kernel in kernels]
    assert all(tensor.shape[1] < kernel for tensor, kernel in zip(state, kernels, strict=False))
    held = state[: len(kernels)]  # the last one is of the GRU
    assert [tensor.untyped_storage().nbytes() for tensor in held] == [tensor.nbytes for tensor in held]


# ---------------------------------------------------------------------- folded weights, long audio


@pytest.mark.parametrize("name", sorted(MODELS))
def test_folded_weights_give_the_same_frames(name, padded_batch):
    model = MODELS[name]
    waveforms, mask = padded_batch[0].clamp(-1, 1), padded_batch[1]
    for attention_mask in (None, mask):
        with torch.no_grad():
            whole = list(model.module_latents(waveforms, attention_mask))
            for module, expected in enumerate(whole):
                found = fold(model, module)(waveforms, attention_mask).last_hidden_state
                torch.testing.assert_close(found, expected.mean, rtol=0, atol=2e-6)
            for found, expected in zip(fold(model).module_latents(waveforms, attention_mask), whole, strict=True):
                torch.testing.assert_close(found.mean, expected.mean, rtol=0, atol=2e-6)


def is_folded(model):
    return any(isinstance(part, FoldedConvLayer) for part in model.modules())


class Recorder(list):
    def __call__(self, module, *_):
        self.append(module)

    hook = __call__


@pytest.mark.parametrize("kind", ["function", "method", "object", "partial"])
def test_a_watched_model_is_not_folded(noise, kind):
    model, seen = model_of(), Recorder()
    hooks = {
        "function": lambda module, *_: seen.append(module),
        "method": seen.hook,
        "object": seen,
        "partial": partial(Recorder.hook, seen),
    }
    handle = model.conv_modules[0].layers[0].register_forward_hook(hooks[kind])
    assert not is_folded(fold(model))
    stream, waveform = SimStream(model), noise(1, 2000) / 5
    parts = [stream.feed(waveform), stream.finish()]
    assert seen
    assert not {*seen} & {*model.modules()}
    with torch.no_grad():
        assert_same(parts, list(model.module_latents(waveform)))
    handle.remove()
    assert is_folded(fold(model))


@pytest.mark.parametrize("module", range(4))
def test_a_watched_model_ends_at_the_module(noise, module, monkeypatch):
    model, seen = model_of(), []
    model.conv_modules[0].register_forward_hook(lambda *_: seen.append(1))
    samples = noise(1, 4000)[0].numpy() / 5
    with torch.no_grad():
        expected = list(model.module_latents(torch.from_numpy(samples)[None]))[module].mean[0]
    embedder = SimEmbedder(model, module=module, device="cpu")
    for seconds in (60, 0.1):  # as a whole, in pieces
        monkeypatch.setattr(embedding, "LONG_SECONDS", seconds)
        seen.clear()
        np.testing.assert_allclose(embedder(samples), expected, rtol=0, atol=1e-6)
        assert seen
        half = SimEmbedder(model, module=module, precision="bf16", device="cpu")(samples)
        assert 0 < np.abs(half - expected.numpy()).max() < 0.05


def as_it_is(model):
    pass


def watched(model):
    model.context.register_forward_hook(lambda *_: None)


def pruned(model):
    prune.l1_unstructured(model.conv_modules[0].layers[1].conv, "weight", amount=0.5)


def dispatched(model):
    accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True)


@pytest.mark.parametrize("change", [as_it_is, watched, pruned, dispatched])
def test_the_model_that_is_given_is_not_changed(noise, change):
    model = model_of().double().train()
    change(model)
    model.conv_modules[1].eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [part.training for part in model.modules()]
    for _ in range(2):
        SimStream(model).feed(noise(1, 2000) / 5)
        SimEmbedder(model, module=0, precision="bf16", device="cpu")(noise(1, 2000)[0].numpy() / 5)
        assert SimEmbedder(model, device="meta").encoder.device.type == "meta"
    assert [part.training for part in model.modules()] == modes
    assert len(model.conv_modules) == 3
    assert model.config.num_modules == 4
    for name, value in model.state_dict().items():
        assert value.dtype == state[name].dtype
        assert torch.equal(value, state[name])


def test_long_audio_is_encoded_in_chunks(monkeypatch, padded_batch):
    waveforms, mask = padded_batch[0].clamp(-1, 1), padded_batch[1]
    model = MODELS["sim"]
    with torch.no_grad():
        whole = model(waveforms, mask, output_hidden_states=True)
        monkeypatch.setattr(modeling_sim, "LONG_SECONDS", 0.1)
        monkeypatch.setattr(modeling_sim, "CHUNK_SECONDS", 1 / 16)
        assert model.takes_chunks(waveforms)
        steps = []
        monkeypatch.setattr(model, "step", lambda *args, **more: steps.append(1) or SimModel.step(model, *args, **more))
        chunks = model(waveforms, mask, output_hidden_states=True)
    assert len(steps) == 4 + 3 + 5  # of 1000 samples each
    for name in ("hidden_states", "means", "log_variances"):
        for found, expected in zip(chunks[name], whole[name], strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert torch.equal(chunks.frame_mask, whole.frame_mask)
    assert not model.takes_chunks(waveforms)  # with gradients


@pytest.mark.parametrize("head", [SimForSequenceClassification, SimForAudioFrameClassification])
def test_heads_read_long_audio_in_chunks(head, monkeypatch, padded_batch):
    model = head(SimConfig.preset("sim", hidden_size=16, context_size=8, probe_module=1)).eval()
    with torch.no_grad():
        whole = model(*padded_batch).logits
        monkeypatch.setattr(modeling_sim, "LONG_SECONDS", 0.1)
        monkeypatch.setattr(modeling_sim, "CHUNK_SECONDS", 1 / 16)
        torch.testing.assert_close(model(*padded_batch).logits, whole, rtol=0, atol=1e-5)


# ---------------------------------------------------------------------- embeddings


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model_of().save_pretrained(folder)
    SimFeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture
def recordings(tmp_path, noise):
    folder = tmp_path / "recordings"
    folder.mkdir()
    for number, length in enumerate((9000, 4000, 30000, 700, 16000)):
        samples = (noise(length, seed=number) / 8).clamp(-1, 1).numpy()
        soundfile.write(folder / f"{number}.wav", samples, 16000, subtype="FLOAT")
    return folder


def expected_frames(checkpoint, path, module=-1):
    model = SimModel.from_pretrained(checkpoint).eval()
    samples, _ = soundfile.read(path, dtype="float32")
    with torch.no_grad():
        frames = model(torch.from_numpy(samples)[None], output_hidden_states=True).hidden_states[module]
    return frames[0].numpy()


def load(folder, cache):
    return load_dataset("parquet", data_files=f"{folder}/*.parquet", cache_dir=str(cache), split="train").with_format(
        "numpy"
    )


@pytest.mark.parametrize("pool", ["mean", "none"])
def test_the_command_embeds_a_folder(checkpoint, recordings, tmp_path, pool, monkeypatch, capsys):
    monkeypatch.setattr(embedding, "LONG_SECONDS", 1.5)  # one recording is long
    monkeypatch.setattr(embedding, "CHUNK_SECONDS", 1)
    out = tmp_path / "out"
    settings = ["--pool", pool, "--module", "1", "--output_dir", str(out), "--shard_seconds", "1"]
    for is_complete in (False, True):
        command.main([str(checkpoint), str(recordings), *settings])
        *lines, last = capsys.readouterr().out.splitlines()
        assert any("complete" in line for line in lines) == is_complete
        assert " 4 seconds" in last
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["complete"]
    assert (manifest["utterances"], manifest["module"], manifest["frame_rate"]) == (5, "module 1", 200)
    assert len(manifest["shards"]) > 1
    rows = load(out, tmp_path / "cache")
    assert rows.column_names == ["id", "seconds", *(["start"] if pool == "none" else []), "embedding"]
    assert sorted(set(rows["id"])) == list("01234")
    for name in "01234":
        expected = expected_frames(checkpoint, recordings / f"{name}.wav", 1)
        own = [row for row in rows if row["id"] == name]
        found = np.concatenate([np.atleast_2d(row["embedding"]) for row in own])
        if pool == "mean":
            expected = expected.mean(axis=0, keepdims=True)
        else:
            assert [row["start"] for row in own] == list(np.cumsum([0, *(len(row["embedding"]) for row in own)])[:-1])
            assert len(own) == (2 if name == "2" else 1)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_the_progress_bar_does_not_pass_its_total(checkpoint, recordings, tmp_path, monkeypatch):
    bars = []
    monkeypatch.setattr(embedding_files, "tqdm", lambda **settings: bars.append(tqdm(**settings)) or bars[-1])
    soundfile.write(recordings / "5.wav", np.zeros(8000), 16000)  # 4.23 s in all
    embed(checkpoint, str(recordings), tmp_path / "out")
    assert bars[0].n == pytest.approx(4.23125)
    assert bars[0].n < bars[0].total


def test_an_interrupted_run_continues(checkpoint, recordings, tmp_path, monkeypatch):
    out = tmp_path / "out"
    full, written = embedding_files._ShardWriter.write, []

    def write(self, shard, *args):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(shard.name)
        full(self, shard, *args)

    monkeypatch.setattr(embedding_files._ShardWriter, "write", write)
    with pytest.raises(KeyboardInterrupt):
        embed(checkpoint, str(recordings), out, shard_seconds=0.5)
    assert not json.loads((out / "manifest.json").read_text())["complete"]
    (out / ".embeddings-00002.parquet.123").write_text("of a process that was killed")
    monkeypatch.setattr(
        embedding_files._ShardWriter, "write", lambda *args: written.append(args[1].name) or full(*args)
    )
    manifest = embed(checkpoint, str(recordings), out, shard_seconds=0.5)
    assert written == manifest["shards"]  # each once
    assert manifest["complete"]
    assert not list(out.glob(".embeddings*"))
    assert embed(checkpoint, str(recordings), out, shard_seconds=0.5) == manifest  # nothing is left to do
    assert written == manifest["shards"]


@pytest.mark.parametrize("damage", ["missing", "cut", "changed", "no metadata"])
def test_a_lost_file_of_a_complete_folder_is_written_again(checkpoint, recordings, tmp_path, damage, monkeypatch):
    out = tmp_path / "out"
    manifest = embed(checkpoint, str(recordings), out, pool="none", shard_seconds=0.5)
    shard, content = out / manifest["shards"][1], (out / manifest["shards"][1]).read_bytes()
    if damage == "missing":
        shard.unlink()
    elif damage == "cut":
        shard.write_bytes(content[: len(content) // 2])
    elif damage == "changed":
        middle = len(content) // 2
        shard.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        pq.write_table(pq.read_table(shard).replace_schema_metadata(None), shard)
    full, written = embedding_files._ShardWriter.write, []

    def write(self, *args):
        assert not json.loads((out / "manifest.json").read_text())["complete"]
        written.append(args[0].name)
        full(self, *args)

    monkeypatch.setattr(embedding_files._ShardWriter, "write", write)
    assert embed(checkpoint, str(recordings), out, pool="none", shard_seconds=0.5) == manifest
    assert written == [shard.name]
    assert shard.read_bytes() == content


@pytest.mark.parametrize("as_bytes", [False, True])
def test_other_recordings_of_the_same_names_and_lengths_are_refused(checkpoint, recordings, tmp_path, as_bytes):
    def data(folder):
        paths = sorted(folder.glob("*.wav"))
        audio = [{"path": path.name, "bytes": path.read_bytes()} if as_bytes else str(path) for path in paths]
        return Dataset.from_dict({"id": [path.stem for path in paths], "audio": audio})

    out = tmp_path / "out"
    manifest = embed(checkpoint, data(recordings), out)
    other = shutil.copytree(recordings, tmp_path / "other")
    assert embed(checkpoint, data(other), out) == manifest
    samples, rate = soundfile.read(other / "1.wav")
    soundfile.write(other / "1.wav", -samples, rate, subtype="FLOAT")
    with pytest.raises(FileExistsError, match="data_fingerprint"):
        embed(checkpoint, data(other), out)


def test_a_recording_that_vanished_is_skipped(checkpoint, recordings, tmp_path):
    dataset = embedding_files.open_data(str(recordings))
    (recordings / "1.wav").unlink()
    with pytest.raises(AudioError, match=r"1\.wav"):
        embed(checkpoint, dataset, tmp_path / "raise")
    assert embed(checkpoint, dataset, tmp_path / "skip", on_bad_audio="skip")["skipped"] == 1


def test_a_folder_of_something_else_is_refused(checkpoint, recordings, tmp_path):
    out = tmp_path / "out"
    embed(checkpoint, str(recordings), out)
    other = tmp_path / "other"
    model_of("gim").save_pretrained(other)
    SimFeatureExtractor().save_pretrained(other)
    for changed, name in (
        ({"model": other}, "model_fingerprint"),
        ({"pool": "none"}, "pool"),
        ({"module": 0}, "module"),
    ):
        with pytest.raises(FileExistsError, match=name):
            embed(**{"model": checkpoint, "dataset": str(recordings), "output_dir": out, **changed})
    (recordings / "4.wav").unlink()
    with pytest.raises(FileExistsError, match=r"data_fingerprint.*`overwrite_output_dir`"):
        embed(checkpoint, str(recordings), out)
    assert embed(checkpoint, str(recordings), out, overwrite_output_dir=True)["utterances"] == 4
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "manifest.json").write_text("{}")
    with pytest.raises(FileExistsError, match=r"manifest\.json"):
        embed(checkpoint, str(recordings), foreign)


def test_data_that_are_nowhere_are_named_without_a_network(checkpoint, tmp_path):
    for data in ("nope", str(tmp_path / "nope"), "a/b/nope.wav"):
        with pytest.raises(FileNotFoundError, match=f"`data` .*{data}"):
            embed(checkpoint, data, tmp_path / "out")


def test_recordings_that_cannot_be_read(checkpoint, recordings, tmp_path, capsys):
    (recordings / "empty.wav").touch()
    stereo = np.zeros((4000, 2), dtype=np.float32)
    stereo[:, 0] = 0.1
    soundfile.write(recordings / "stereo.wav", stereo, 16000)
    soundfile.write(recordings / "slow.wav", stereo[:, 0], 8000)
    with pytest.raises(BadAudioError, match=r"empty\.wav"):
        embed(checkpoint, str(recordings), tmp_path / "raise")
    for _ in range(2):
        manifest = embed(checkpoint, str(recordings), tmp_path / "skip", on_bad_audio="skip")
        assert (manifest["utterances"], manifest["resampled"], manifest["skipped"]) == (6, 1, 2)
        listed = (tmp_path / "skip" / "skipped.tsv").read_text()
        assert "empty.wav" in listed
        assert "stereo.wav" in listed
    assert "8000" in capsys.readouterr().out
    (recordings / "empty.wav").unlink()
    with pytest.raises(AudioError, match=r"stereo\.wav.*average_channels"):
        embed(checkpoint, str(recordings), tmp_path / "raise")
    assert embed(checkpoint, str(recordings), tmp_path / "all", average_channels=True)["utterances"] == 7


def test_data_sets_streams_and_manifests(checkpoint, recordings, tmp_path):
    files = sorted(map(str, recordings.glob("*.wav")))
    dataset = Dataset.from_dict({"audio": files})
    dataset.save_to_disk(tmp_path / "saved")
    (recordings / "some.csv").write_text("file\n0.wav\n3.wav\n")
    expected = {name: expected_frames(checkpoint, recordings / f"{name}.wav").mean(axis=0) for name in "01234"}
    for number, (source, count, more) in enumerate(
        (
            (dataset, 5, {}),
            (dataset.to_iterable_dataset(), 5, {"num_workers": 1}),
            (str(tmp_path / "saved"), 5, {}),
            (str(recordings / "some.csv"), 2, {}),
            (files[0], 1, {}),
        )
    ):
        manifest = embed(checkpoint, source, tmp_path / f"out-{number}", **more)
        assert manifest["utterances"] == count
        for row in load(tmp_path / f"out-{number}", tmp_path / "cache"):
            np.testing.assert_allclose(row["embedding"], expected[row["id"]], rtol=0, atol=2e-6)
    out = tmp_path / "streamed"
    settings = ["--streaming", "--output_dir", str(out), "--shard_seconds", "1"]
    command.main([str(checkpoint), str(tmp_path / "saved"), *settings])
    assert len(load(out, tmp_path / "cache")) == 5


def test_one_recording_and_map(checkpoint, recordings):
    frames = SimEmbedder(checkpoint, device="cpu")
    path = recordings / "2.wav"
    expected = expected_frames(checkpoint, path)
    samples, rate = soundfile.read(path, dtype="float32")
    for audio in (path, str(path), path.read_bytes(), samples, {"array": samples, "sampling_rate": rate}):
        np.testing.assert_allclose(frames(audio), expected, rtol=0, atol=2e-6)
    assert [len(found) for found in frames([samples, samples[:800]])] == [len(expected), 5]
    halved = frames(samples[::2], sampling_rate=8000)
    assert abs(len(halved) - len(expected)) <= 1
    means = SimEmbedder(checkpoint, pool="mean", device="cpu")
    rows = Dataset.from_dict({"audio": [str(path), str(recordings / "0.wav")]})
    mapped = rows.map(means.of_batch, batched=True, batch_size=2)
    np.testing.assert_allclose(mapped["embedding"][0], expected.mean(axis=0), rtol=0, atol=2e-6)


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("is_long", [False, True])
def test_samples_are_converted_at_any_rate_and_length(checkpoint, noise, rate, is_long, monkeypatch):
    monkeypatch.setattr(embedding, "LONG_SECONDS", 0.1 if is_long else 60)
    embedder = SimEmbedder(checkpoint, device="cpu")
    samples = (noise(4000) / 8).clamp(-1, 1).numpy()
    integers = (samples * 32767).astype(np.int16)
    expected = embedder(integers / np.float32(32768), sampling_rate=rate)
    halves = torch.from_numpy(samples).bfloat16()
    of_halves = embedder(halves.float().numpy(), sampling_rate=rate)
    for audio, frames in (
        (integers, expected),
        (integers.astype(">i2"), expected),
        (integers.astype(np.int32) * 2**16, expected),
        (torch.from_numpy(integers / np.float32(32768)).requires_grad_(), expected),
        (halves, of_halves),
    ):
        np.testing.assert_array_equal(embedder(audio, sampling_rate=rate), frames)
    broken = samples.copy()
    broken[2000] = np.nan
    for audio in (broken, np.stack([samples, samples], axis=1), samples[:0]):
        with pytest.raises(ValueError, match="`audio`"):
            embedder(audio, sampling_rate=rate)
    with pytest.raises(TypeError, match="`audio`"):
        embedder(integers.astype(np.int64), sampling_rate=rate)
    assert len(embedder(samples[:1], sampling_rate=rate)) == 3  # ends in silence


def test_a_model_in_memory_is_embedded_as_its_folder(checkpoint, recordings, tmp_path):
    folder = tmp_path / "normalized"
    SimForPreTraining.from_pretrained(checkpoint).save_pretrained(folder)
    SimFeatureExtractor(
        do_normalize=True, min_samples=SimModel.from_pretrained(checkpoint).config.receptive_field()
    ).save_pretrained(folder)
    expected = SimEmbedder(folder, device="cpu")(recordings / "2.wav")
    for model in (SimModel.from_pretrained(folder), SimForPreTraining.from_pretrained(folder)):
        np.testing.assert_allclose(SimEmbedder(model, device="cpu")(recordings / "2.wav"), expected, rtol=0, atol=1e-6)
    with pytest.raises(TypeError, match="`model`"):
        SimEmbedder(torch.nn.Linear(1, 1))


def test_a_damaged_feature_extractor_is_named(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    model = SimModel.from_pretrained(folder)
    file = folder / "preprocessor_config.json"
    for text in ("", '{"do_normalize": ', "[]", "null"):
        file.write_text(text)
        for source in (model, folder):
            with pytest.raises(ValueError, match=r"preprocessor_config\.json"):
                SimEmbedder(source, device="cpu")
    file.unlink()
    assert not SimEmbedder(model, device="cpu").reader.extractor.do_normalize
    SimFeatureExtractor().save_pretrained(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        SimEmbedder(model, device="cpu")
    shutil.rmtree(folder)
    assert not SimEmbedder(model, device="cpu").reader.extractor.do_normalize


def test_half_precision_is_near(checkpoint, recordings, monkeypatch):
    full, half = (SimEmbedder(checkpoint, precision=precision, device="cpu") for precision in ("fp32", "bf16"))
    expected, samples = full(recordings / "2.wav"), soundfile.read(recordings / "2.wav", dtype="float32")[0]
    stream = SimStream(SimModel.from_pretrained(checkpoint, dtype=torch.bfloat16))
    parts = [stream.feed(samples[start : start + 320]) for start in range(0, len(samples), 320)]
    streamed = torch.cat([part.last_hidden_state for part in [*parts, stream.finish()]], dim=1)
    assert streamed.dtype == torch.bfloat16
    found = [half(recordings / "2.wav"), streamed[0].float().numpy()]
    monkeypatch.setattr(embedding, "LONG_SECONDS", 1)
    for frames in (*found, half(recordings / "2.wav")):
        assert frames.shape == expected.shape
        assert 0 < np.abs(frames - expected).max() < 0.05


@pytest.mark.parametrize(
    ("setting", "value"),
    [("module", "3x"), ("module", "all"), ("pool", "max"), ("precision", "fp8"), ("device", "nothing")],
)
def test_wrong_settings_name_the_field(checkpoint, setting, value):
    with pytest.raises(ValueError, match=f"`{setting}`"):
        SimEmbedder(checkpoint, **{setting: value})


@pytest.mark.parametrize("seconds", [0, math.nan, math.inf])
def test_files_of_no_or_endless_length_are_refused(checkpoint, recordings, tmp_path, seconds):
    with pytest.raises(ValueError, match="`shard_seconds`"):
        embed(checkpoint, str(recordings), tmp_path / "out", shard_seconds=seconds)
    assert not (tmp_path / "out").exists()
