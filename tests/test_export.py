"""Exported encoders give what the model gives: ONNX files, a step of a stream, smaller number formats, programs."""

import shutil
import sys

import numpy as np
import pytest
import soundfile
import torch

from modeling_sim import SimFeatureExtractor, SimModel
from modeling_sim.commands import export
from modeling_sim.export.folder import export_folder

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install -e '.[export]'")
pytest.importorskip("onnx", reason="onnx is not installed: pip install -e '.[export]'")

from modeling_sim.export.onnx_graphs import encoder_graph, stream_delays  # noqa: E402
from modeling_sim.export.onnx_precision import (  # noqa: E402
    first_state,
    float16_graph,
    next_state,
    run,
    write_int8,
)

VARIANTS = {
    "sim": ("sim", {}),
    "clamped": ("sim-small", {}),
    "gim": ("gim", {}),
    "no context": ("sim", {"context_size": 0}),
    "lowe": ("gim-lowe", {}),
    "cpc": ("cpc", {"latent_size": 5}),
    "skipping": (  # kernels below their strides, padding of nearly a kernel, a layer that sees one frame
        "sim",
        {
            "conv_kernel": [[3, 1, 5], [4]],
            "conv_stride": [[4, 3, 1], [3]],
            "conv_padding": [[2, 0, 4], [3]],
            "kl_weight": 0.1,
        },
    ),
}


@pytest.fixture(scope="session")
def make(tiny_config):
    """Makes a tiny encoder of a variant with batch statistics that are not those of its start."""

    def make(variant="sim", **overrides):
        preset, settings = VARIANTS[variant]
        torch.manual_seed(0)
        model = SimModel(tiny_config(preset, **{**settings, **overrides})).eval()
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
        return model

    return make


def session_of(source):
    source = str(source) if hasattr(source, "suffix") else source.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def inputs_of(input_values, attention_mask=None):
    mask = torch.ones_like(input_values, dtype=torch.long) if attention_mask is None else attention_mask
    return {"input_values": input_values.numpy(), "attention_mask": mask.numpy()}


@torch.no_grad()
def expected_outputs(model, input_values, attention_mask=None):
    """What PyTorch gives, by the names in ONNX files."""
    outputs = model(input_values, attention_mask)
    mask = torch.ones_like(input_values, dtype=torch.long) if attention_mask is None else attention_mask
    expected = {"last_hidden_state": outputs.last_hidden_state, "frame_mask": outputs.frame_mask}
    for module in range(model.config.num_conv_modules):
        expected[f"means.{module}"] = outputs.means[module]
        if outputs.log_variances is not None:
            expected[f"log_variances.{module}"] = outputs.log_variances[module]
        expected[f"frame_masks.{module}"] = model.get_frame_mask(mask, module)
    return {name: tensor.numpy() for name, tensor in expected.items()}


def assert_same(found, expected, tolerance=1e-4):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        np.testing.assert_allclose(found[name], array, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_encoder_gives_what_the_model_gives_for_any_batch_and_length(variant, make, noise, padded_batch):
    model = make(variant)
    session = session_of(encoder_graph(model))
    for batch, samples in ((1, model.config.receptive_field()), (3, 4001), (2, 9999)):
        waveforms = noise(batch, samples)
        assert_same(run(session, inputs_of(waveforms)), expected_outputs(model, waveforms))
    assert_same(run(session, inputs_of(*padded_batch)), expected_outputs(model, *padded_batch))


def test_an_utterance_too_short_for_a_frame_has_none(make, noise):
    model, mask = make(), torch.ones(3, 4000, dtype=torch.long)
    mask[0], mask[1, 4:] = 0, 0
    assert_same(
        run(session_of(encoder_graph(model)), inputs_of(noise(3, 4000), mask)),
        expected_outputs(model, noise(3, 4000), mask),
    )


def test_normalization_in_the_file_is_the_extractors(make, padded_batch):
    model, (waveforms, mask) = make(), padded_batch
    session = session_of(encoder_graph(model, normalize=True))
    audio = [3 + 0.2 * row[own == 1].numpy() for row, own in zip(waveforms, mask, strict=True)]
    audio[1][:] = 0  # digital silence
    plain, normalized = (
        SimFeatureExtractor(do_normalize=do)(audio, sampling_rate=16000, padding=True, return_tensors="pt")
        for do in (False, True)
    )
    expected = expected_outputs(model, normalized["input_values"], normalized["attention_mask"].long())
    for inputs in (plain, normalized):  # normalizing twice changes nothing
        assert_same(run(session, inputs_of(inputs["input_values"], inputs["attention_mask"].long())), expected)
    with pytest.raises(ValueError, match="normalize"):
        encoder_graph(model, normalize=True, streaming=True)


def streamed(session, model, waveforms, mask, steps, state=None):
    """Outputs of a stream in steps of so many hops, repeated, with as much padding as gives the last frames."""
    hop, delays, samples = model.config.hop_length(), stream_delays(model), waveforms.shape[1]
    state, outputs, start = state or first_state(session, len(waveforms)), [], 0
    needed = max(
        (model.config.num_frames(samples, module) + delay) * model.config.hop_length(module)
        for module, delay in enumerate(delays)
    )
    padding = (0, needed + max(steps) * hop - samples)
    waveforms = torch.nn.functional.pad(waveforms, padding, value=7.0)
    mask = torch.nn.functional.pad(mask, padding)
    while start < needed:
        span = slice(start, start + hop * steps[len(outputs) % len(steps)])
        outputs.append(run(session, {**inputs_of(waveforms[:, span], mask[:, span]), **state}))
        state, start = next_state(outputs[-1]), span.stop
    frames = {}
    for name in outputs[0]:
        if not name.startswith("present."):
            module = int(name.split(".")[1]) if "." in name else -1
            joined = np.concatenate([output[name] for output in outputs], axis=1)
            assert not joined[:, : delays[module]].any()
            frames[name] = joined[:, delays[module] :][:, : model.config.num_frames(samples, module)]
    return frames, state


@pytest.mark.parametrize("variant", VARIANTS)
def test_steps_of_a_stream_give_the_frames_of_complete_utterances(variant, make, padded_batch):
    model = make(variant)
    session, expected = session_of(encoder_graph(model, streaming=True)), expected_outputs(model, *padded_batch)
    for steps in ((1,), (2, 1, 7), (40,)):
        assert_same(streamed(session, model, *padded_batch, steps)[0], expected, tolerance=1e-5)


def test_a_stream_that_ends_makes_way_for_another_one(make, noise, padded_batch):
    model = make()
    session = session_of(encoder_graph(model, streaming=True))
    _, state = streamed(session, model, *padded_batch, (3,))
    for value in state.values():
        value[:] = 0
    waveforms, mask = noise(3, 3000, seed=5), torch.ones(3, 3000, dtype=torch.long)
    assert_same(streamed(session, model, waveforms, mask, (2,), state)[0], expected_outputs(model, waveforms))


def test_a_step_that_is_no_multiple_of_the_hop_is_refused(make, noise):
    session = session_of(encoder_graph(make(), streaming=True))
    with pytest.raises(Exception, match="Reshape"):
        run(session, {**inputs_of(noise(1, 200)), **first_state(session)})


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "int8", "int8, static"])
def test_smaller_formats_are_near_and_small(dtype, streaming, make, noise, tmp_path):
    model, path, waveforms = make(hidden_size=64), tmp_path / "model.onnx", 0.1 * noise(2, 8000)
    mask = torch.ones(2, 8000, dtype=torch.long)
    graph = encoder_graph(model, streaming=streaming)
    full = len(graph.SerializeToString())
    if dtype == "float16":
        path.write_bytes(float16_graph(graph).SerializeToString())
    else:
        calibration = list(0.1 * noise(4, 8000, seed=1).numpy()) if "static" in dtype else None
        write_int8(graph, path, calibration, step=1600 if streaming else 0)
    session, expected = session_of(path), expected_outputs(model, waveforms, mask)
    found = streamed(session, model, waveforms, mask, (5,))[0] if streaming else run(session, inputs_of(waveforms))
    assert path.stat().st_size < (0.65 if dtype == "float16" else 0.55) * full
    for name, array in expected.items():
        if name.startswith("frame_mask"):
            assert (found[name] == array).all()
        else:
            error = np.sqrt(np.square(found[name] - array).mean() / array.var())
            assert 0 < error < (0.01 if dtype == "float16" else 0.15), name


def test_all_audio_sets_the_ranges_of_a_stream(make, noise, tmp_path):
    start, end = 0.01 * noise(1600), noise(500)
    for name, waveform in (("start", start), ("end", end), ("both", torch.cat([start, end]))):
        graph = encoder_graph(make(), streaming=True)
        write_int8(graph, tmp_path / f"{name}.onnx", [waveform.numpy()], step=1600)
    assert len({path.read_bytes() for path in tmp_path.glob("*.onnx")}) == 3


def test_static_ranges_leave_utterances_alone(make, noise, tmp_path):
    quiet, loud = 0.01 * noise(1, 8000), noise(1, 8000, seed=1)
    write_int8(encoder_graph(make()), tmp_path / "model.onnx", [quiet[0].numpy(), loud[0].numpy()])
    session = session_of(tmp_path / "model.onnx")
    alone, together = (run(session, inputs_of(batch)) for batch in (quiet, torch.cat([quiet, loud])))
    for name in alone:
        np.testing.assert_array_equal(alone[name][0], together[name][0])


@pytest.mark.parametrize(("dtype", "megabytes"), [("float32", 5.0), ("float16", 2.5), ("int8", 1.5)])
def test_the_small_model_is_small(dtype, megabytes, tiny_config, tmp_path):
    model = SimModel(tiny_config("sim-small", hidden_size=128, context_size=64)).eval()
    sizes = export_folder(model, SimFeatureExtractor(), tmp_path / "small", dtype=dtype)
    assert sizes.keys() == {"model.onnx", "streaming.onnx"}
    assert max(sizes.values()) < megabytes * 1e6


# ---------------------------------------------------------------------- the command


@pytest.fixture
def checkpoint(make, tmp_path):
    make().save_pretrained(tmp_path / "model")
    SimFeatureExtractor(do_normalize=True).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_the_command_writes_what_a_program_needs(checkpoint, make, noise, tmp_path, capsys):
    export.main([str(checkpoint), str(tmp_path / "out")])
    written = {path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".py"}
    assert written == {"config.json", "model.onnx", "preprocessor_config.json", "streaming.onnx"}
    assert "model.onnx" in capsys.readouterr().out
    session = session_of(tmp_path / "out" / "model.onnx")
    notes = session.get_modelmeta().custom_metadata_map
    assert (notes["sampling_rate"], notes["hop_length"], notes["normalization"]) == ("16000", "160", "in this file")
    inputs = SimFeatureExtractor(do_normalize=True)(
        noise(5000), sampling_rate=16000, return_tensors="pt", return_attention_mask=False
    )
    expected = expected_outputs(make(), inputs["input_values"])
    assert_same(run(session, inputs_of(noise(1, 5000))), expected)
    step = session_of(tmp_path / "out" / "streaming.onnx").get_modelmeta().custom_metadata_map
    assert (step["normalization"], step["stream_delays"]) == ("before this file", "[1, 1, 1, 1]")


def test_int8_is_calibrated_on_recordings(checkpoint, noise, tmp_path):
    (tmp_path / "audio").mkdir()
    for number, rate in enumerate((16000, 8000)):
        soundfile.write(tmp_path / "audio" / f"{number}.wav", 0.1 * noise(rate, seed=number).numpy(), rate)
    flags = [str(checkpoint), str(tmp_path / "out"), "--dtype", "int8", "--calibration_audio", str(tmp_path / "audio")]
    export.main(flags)
    names = {node.op_type for node in __import__("onnx").load(tmp_path / "out" / "model.onnx").graph.node}
    assert "QuantizeLinear" in names
    assert "DynamicQuantizeLinear" not in names


@pytest.mark.parametrize(
    ("flags", "field"),
    [
        (["--format", "torch-export", "--dtype", "int8"], "dtype"),
        (["--dtype", "int4"], "dtype"),
        (["--calibration_audio", "nowhere"], "nowhere"),
        (["--dtype", "int8", "--max_calibration_files", "0"], "max_calibration_files"),
    ],
)
def test_what_does_not_fit_leaves_no_folder(flags, field, checkpoint, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        export.main([str(checkpoint), str(tmp_path / "out"), *flags])
    assert field in str(error.value) + capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_ranges_need_a_recording(make, tmp_path):
    with pytest.raises(ValueError, match="waveforms"):
        export_folder(make(), SimFeatureExtractor(), tmp_path / "out", dtype="int8", waveforms=[])
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named_with_its_extra(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(SystemExit, match=r"onnx.*\[export\]"):
        export.main([str(checkpoint), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_an_export_never_replaces_the_model_that_it_reads_nor_a_folder_around_it(checkpoint, tmp_path):
    model = tmp_path / "runs" / "model"
    shutil.copytree(checkpoint, model)
    for folder in (model, model.parent):
        with pytest.raises(SystemExit, match="`output_dir`"):
            export.main([str(model), str(folder), "--format", "torch-export", "--overwrite_output_dir"])
    assert sorted(path.name for path in model.iterdir()) == sorted(path.name for path in checkpoint.iterdir())


def test_a_folder_of_something_else_is_kept(checkpoint, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit, match="out"):
        export.main([str(checkpoint), str(tmp_path / "out"), "--overwrite_output_dir"])
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


# ---------------------------------------------------------------------- torch.export


@pytest.mark.slow
def test_a_program_works_for_any_batch_and_length(make, noise, padded_batch, tmp_path):
    model = make()
    export_folder(model, SimFeatureExtractor(), tmp_path / "out", format="torch-export")
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    ones = torch.ones(5, 20_000, dtype=torch.long)
    for waveforms, mask in (padded_batch, (noise(1, 465), ones[:1, :465]), (noise(5, 20_000), ones)):
        found = {name: tensor.numpy() for name, tensor in program(waveforms, mask).items()}
        expected = expected_outputs(model, waveforms, mask)
        assert_same(found, {name: array for name, array in expected.items() if name in found})
        assert found.keys() == {name for name in expected if "." in name}


# ---------------------------------------------------------------------- torch.compile


@pytest.mark.slow
@pytest.mark.parametrize(("context_size", "breaks"), [(0, (0, 0)), (8, (4, 6))])
def test_compiled_models_have_the_breaks_that_the_documentation_says(context_size, breaks, make, noise):
    found = []
    for training in (False, True):
        torch.compiler.reset()
        model = make("clamped", context_size=context_size).train(training)
        found.append(torch._dynamo.explain(model)(noise(2, 4000)).graph_break_count)
    assert tuple(found) == breaks
