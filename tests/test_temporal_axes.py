"""Temporal axes of a checkpoint: found, kept in a file, applied to embeddings, and refused for other weights."""

import json
import re
import shlex
import shutil

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset

from modeling_sim import SimEmbedder, SimFeatureExtractor, SimModel, embed
from modeling_sim.analysis import LinearTransform, temporal_components
from modeling_sim.commands import axes as command
from modeling_sim.commands import embed as embed_command
from modeling_sim.evaluation.axes import read_axes, save_axes
from modeling_sim.inference import embedding
from modeling_sim.inference.axes import find_temporal_axes
from modeling_sim.inference.embedding_files import as_corpus, data_name
from modeling_sim.loading import load_encoder
from modeling_sim.provenance import weights_fingerprint
from tests.test_inference import expected_frames, load, model_of

LENGTHS = (9000, 4000, 30000, 16000)


def write_recordings(folder, noise, lengths):
    folder.mkdir()
    for number, length in enumerate(lengths):
        samples = (noise(length, seed=number) / 8).clamp(-1, 1).numpy()
        soundfile.write(folder / f"{number}.wav", samples, 16000, subtype="FLOAT")
    return folder


@pytest.fixture(scope="module")
def recordings(tmp_path_factory, noise):
    return write_recordings(tmp_path_factory.mktemp("data") / "my speech", noise, LENGTHS)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A checkpoint without axes."""
    folder = tmp_path_factory.mktemp("models") / "bare"
    model_of().save_pretrained(folder)
    SimFeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(bare, recordings):
    """The same with axes."""
    folder = shutil.copytree(bare, bare.with_name("model"))
    command.main([str(folder), str(recordings)])
    return folder


@pytest.fixture
def copy(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "my model")


def corpus_of(samples):
    return as_corpus(Dataset.from_dict({"audio": [str(path) for path in sorted(samples.glob("*.wav"))]}))


def test_axes_are_the_temporal_components_of_all_recordings(checkpoint, recordings):
    transforms, facts = read_axes(checkpoint / "axes.safetensors")
    assert facts["data"] == "my speech"  # without its path
    assert facts["minutes"] == round(sum(LENGTHS) / 16000 / 60, 3)
    assert facts["encoder_fingerprint"] == weights_fingerprint(load_encoder(str(checkpoint)))
    assert list(transforms) == ["context", "module 0", "module 1", "module 2"]
    for module, name in enumerate(("module 0", "module 1", "module 2", "context")):
        frames = [expected_frames(checkpoint, path, module) for path in sorted(recordings.glob("*.wav"))]
        expected = temporal_components(np.concatenate(frames), [len(each) for each in frames], complete=True)
        found, count = transforms[name], transforms[name].matrix.shape[1]
        assert found.matrix.dtype == torch.float32
        frames = np.concatenate(frames) - np.asarray(expected.center)
        np.testing.assert_allclose(
            frames @ np.asarray(found.matrix), frames @ np.asarray(expected.matrix)[:, :count], rtol=0, atol=2e-3
        )
        np.testing.assert_allclose(found.inverse @ found.matrix, np.eye(count), atol=1e-4)


@pytest.mark.parametrize("module", [1, "context"])
@pytest.mark.parametrize("pool", ["mean", "none"])
def test_embeddings_are_the_frames_in_these_axes(checkpoint, recordings, module, pool, monkeypatch):
    monkeypatch.setattr(embedding, "LONG_SECONDS", 1.5)  # one recording is long
    monkeypatch.setattr(embedding, "CHUNK_SECONDS", 1)
    transform = read_axes(checkpoint / "axes.safetensors")[0]["module 1" if module == 1 else module]
    center, matrix = np.asarray(transform.center), np.asarray(transform.matrix)
    atol = 2e-6 * np.abs(matrix).sum(axis=0).max()  # of folded weights, by what a component weighs them with
    paths = sorted(recordings.glob("*.wav"))
    expected = [(expected_frames(checkpoint, path, 1 if module == 1 else -1) - center) @ matrix for path in paths]
    if pool == "mean":
        expected = [frames.mean(axis=0) for frames in expected]
    for axes in ("temporal", str(checkpoint), transform):
        embedder = SimEmbedder(checkpoint, module, pool, axes=axes, device="cpu")
        assert embedder.channels == matrix.shape[1]
        batch = embedder.of_batch({"audio": list(map(str, paths))})["embedding"]
        for path, found, values in zip(paths, batch, expected, strict=True):
            np.testing.assert_allclose(found, values, rtol=0, atol=atol)
            np.testing.assert_allclose(embedder(path), values, rtol=0, atol=atol)


def test_the_command_embeds_in_temporal_axes_and_continues_in_no_others(checkpoint, recordings, tmp_path):
    out = tmp_path / "out"
    embed_command.main([str(checkpoint), str(recordings), "--axes", "temporal", "--output_dir", str(out)])
    manifest = json.loads((out / "manifest.json").read_text())
    transform = read_axes(checkpoint / "axes.safetensors")[0]["context"]
    assert (manifest["axes"], manifest["channels"]) == ("temporal", transform.matrix.shape[1])
    assert manifest["axes_fingerprint"] == transform.fingerprint()
    (row,) = [row for row in load(out, tmp_path / "cache") if row["id"] == "1"]
    expected = transform.apply(expected_frames(checkpoint, recordings / "1.wav").mean(axis=0))
    np.testing.assert_allclose(row["embedding"], expected, rtol=0, atol=1e-4)
    turned = LinearTransform(-transform.matrix, -transform.inverse, transform.center)
    for axes in ("own", transform, turned):
        with pytest.raises(FileExistsError, match="`axes"):
            embed(checkpoint, str(recordings), out, axes=axes)
    earlier = {name: value for name, value in manifest.items() if not name.startswith("axes")}
    (out / "manifest.json").write_text(json.dumps(earlier))  # of a version without axes
    with pytest.raises(FileExistsError, match="`axes`"):
        embed(checkpoint, str(recordings), out, axes="temporal")
    assert embed(checkpoint, str(recordings), out, axes="temporal", overwrite_output_dir=True)["axes"] == "temporal"


def test_a_model_knows_its_checkpoint(checkpoint, recordings):
    path = recordings / "0.wav"
    expected = SimEmbedder(checkpoint, axes="temporal", device="cpu")(path)
    loaded = SimModel.from_pretrained(checkpoint)
    np.testing.assert_array_equal(SimEmbedder(loaded, axes="temporal", device="cpu")(path), expected)
    with pytest.raises(ValueError, match=r"`axes`.*`model`"):
        SimEmbedder(model_of(), axes="temporal")


def test_axes_that_cannot_be_used_name_their_file(bare, copy, recordings, monkeypatch):
    path, quoted = copy / "axes.safetensors", shlex.quote(str(copy))
    with pytest.raises(FileNotFoundError, match=r"bare.*axes\.safetensors"):
        SimEmbedder(bare, axes="temporal")
    with pytest.raises(ValueError, match="`axes` is ''"):
        SimEmbedder(copy, axes="")
    for axes in ("tempral", LinearTransform(torch.eye(3), torch.eye(3), torch.zeros(3))):
        with pytest.raises(ValueError, match="`axes`"):
            SimEmbedder(copy, axes=axes)
    transforms, facts = read_axes(path)
    for changed, name in (({"encoder_fingerprint": "other"}, "axes.safetensors"), ({"schema": 99}, "`schema`")):
        save_axes(path, transforms, {**facts, **changed})
        with pytest.raises(ValueError, match=name):
            SimEmbedder(copy, axes="temporal")
    save_axes(path, {"module 0": transforms["module 0"]}, facts)
    with pytest.raises(ValueError, match=f"{copy}.*module 0.*context"):
        SimEmbedder(copy, axes="temporal")
    save_axes(path, transforms)  # as an evaluation writes them
    with pytest.raises(SystemExit, match=rf"{path}.*modeling-sim axes {quoted} .*--overwrite_output_dir"):
        embed_command.main([str(copy), str(recordings), "--axes", "temporal", "--output_dir", str(copy / "out")])
    with pytest.raises(ValueError, match=r"axes\.safetensors") as refused:
        SimEmbedder(bare, axes=str(copy))  # the correct axes of another model are not to be replaced
    assert f"modeling-sim axes {bare} DATA --output_dir FOLDER`" in str(refused.value)
    monkeypatch.chdir(copy)
    with pytest.raises(ValueError, match=f"{quoted} DATA --overwrite_output_dir"):
        SimEmbedder(copy, axes=".")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=rf"axes\.safetensors.*modeling-sim axes {quoted} .*--overwrite_output_dir"):
        SimEmbedder(copy, axes="temporal")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"modeling-sim axes {bare} DATA --output_dir FOLDER`"):
        SimEmbedder(bare, axes=str(copy))


def test_a_file_is_replaced_on_request_alone_and_by_a_complete_one(copy, recordings, tmp_path, noise, capsys):
    path = copy / "axes.safetensors"
    before = path.read_bytes()
    with pytest.raises(SystemExit, match="`output_dir`"):
        command.main([str(copy), str(recordings)])
    short = write_recordings(tmp_path / "short", noise, [1600])
    with pytest.raises(SystemExit, match="`data`"):
        command.main([str(copy), str(short), "--overwrite_output_dir"])
    assert path.read_bytes() == before
    capsys.readouterr()
    command.main([str(copy), str(recordings), "--overwrite_output_dir"])
    assert path.read_bytes() == before
    *_, first, second, third, fourth, last = capsys.readouterr().out.splitlines()
    assert " 4 seconds of " in last
    assert [line.split(":")[0] for line in (first, second, third, fourth)] == [
        "module 0",
        "module 1",
        "module 2",
        "context",
    ]
    for damaged in (before[:300], b""):
        path.write_bytes(damaged)
        command.main([str(copy), str(recordings), "--overwrite_output_dir"])
        assert str(path) in capsys.readouterr().out.splitlines()[0]
        assert path.read_bytes() == before
    path.write_text('{"modeling_sim": "not ours"}')
    with pytest.raises(SystemExit, match=str(path)):
        command.main([str(copy), str(recordings), "--overwrite_output_dir"])
    assert path.read_text() == '{"modeling_sim": "not ours"}'
    assert {file.name for file in copy.iterdir() if "axes" in file.name} == {path.name}  # nothing half-written


def test_little_audio_and_another_rate_are_said(copy, recordings, tmp_path, monkeypatch, capsys):
    arguments = [str(copy), str(recordings), "--output_dir", str(tmp_path), "--overwrite_output_dir"]
    command.main(arguments)
    assert re.match("warning: .* 4 seconds ", capsys.readouterr().out)
    monkeypatch.setattr(command, "_FEW_MINUTES", 0)
    command.main(arguments)
    assert "warning" not in capsys.readouterr().out
    slow = tmp_path / "slow.wav"
    soundfile.write(slow, soundfile.read(recordings / "2.wav")[0], 12_000)
    command.main([str(copy), str(slow), *arguments[2:]])
    assert "12000" in capsys.readouterr().out.splitlines()[0]


def test_too_little_data_names_the_data_and_short_recordings_do(bare, noise, tmp_path):
    model, extractor = load_encoder(str(bare)), SimFeatureExtractor()
    silent = tmp_path / "silent"
    silent.mkdir()
    soundfile.write(silent / "0.wav", np.zeros(30_000), 16000)
    short = corpus_of(write_recordings(tmp_path / "short", noise, [1600]))  # less than the largest lag
    for dataset in (short, short.select([]), corpus_of(silent)):
        with pytest.raises(ValueError, match="`data`"):
            find_temporal_axes(model, extractor, dataset, data="speech")
    for minutes in (0, np.nan):
        with pytest.raises(ValueError, match="`minutes`"):
            find_temporal_axes(model, extractor, short, data="speech", minutes=minutes)
    many = corpus_of(write_recordings(tmp_path / "many", noise, [4800] * 8))  # 30 frames of module 2 each
    found, facts = find_temporal_axes(model, extractor, many, data="speech")
    assert max(found["module 2"].lags) == pytest.approx(0.16)
    assert found["module 2"].transform.matrix.isfinite().all()
    few, less = find_temporal_axes(model, extractor, many, data="speech", minutes=0.7 / 60)
    assert less["minutes"] <= facts["minutes"]
    assert not torch.equal(few["module 2"].transform.matrix, found["module 2"].transform.matrix)


def test_unreadable_recordings_are_skipped_on_request_alone(bare, recordings, tmp_path):
    speech = shutil.copytree(recordings, tmp_path / "speech")
    (speech / "bad.wav").write_text("no audio")
    arguments = [str(bare), str(speech), "--output_dir", str(tmp_path / "out")]
    for flags, error in (([], r"bad\.wav"), (["--corpus_settings", "{on_bad_audio: skip}"], "'on_bad_audio'")):
        with pytest.raises(SystemExit, match=error):
            command.main([*arguments, *flags])
    command.main([*arguments, "--on_bad_audio", "skip"])
    assert (tmp_path / "out" / "axes.safetensors").is_file()


def test_axes_of_frames_that_hardly_vary_come_with_a_warning(bare, recordings, tmp_path, capsys):
    model, extractor = load_encoder(str(bare)), SimFeatureExtractor()
    find_temporal_axes(model, extractor, corpus_of(recordings), data="speech")
    assert "warning" not in capsys.readouterr().out
    soundfile.write(tmp_path / "0.wav", np.full(320_000, 0.1), 16000)
    found, _ = find_temporal_axes(model, extractor, corpus_of(tmp_path), data="a constant")
    assert found["module 1"].transform.matrix.shape[1] < 8  # of 16 dimensions
    assert re.search(r"warning: module 1 .*`data`", capsys.readouterr().out)


def test_names_of_data_have_no_paths(tmp_path):
    assert data_name("librispeech", data_dir=str(tmp_path)) == "librispeech"
    assert data_name("org/speech") == "org/speech"
    assert data_name(f"{tmp_path}/speech.csv") == "speech.csv"
    assert data_name(f"{tmp_path}/speech/") == "speech"
