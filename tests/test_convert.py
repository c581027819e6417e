"""Checkpoints of both code bases against networks with their names, built here from plain torch.nn."""

import json
import pickle
from collections import OrderedDict
from typing import get_type_hints

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForPreTraining

from modeling_sim import SimFeatureExtractor, SimForPreTraining, SimModel, info_nce
from modeling_sim.commands.convert import ConvertArguments, main
from modeling_sim.convert import Method, convert_state_dict, read_state_dict

CHANNELS, CONTEXT = 12, 7
GEOMETRY = [(10, 5, 2), (8, 4, 2), (4, 2, 2), (4, 2, 2), (4, 2, 1)]  # kernel, stride, padding
SCALE, SHIFT = 2**31 / 135303504, 1456218.75 / 135303504


# ---------------------------------------------------------------------- the earlier codes' networks


def make_source(*, layers=(2, 2, 1), lowe=False, cpc=False, prefix="", batch_norm=False, steps=10, geometry=GEOMETRY):
    """A network whose state dict has the names of the SIM authors' code, or of Löwe et al.'s, with random values."""
    remaining = iter(geometry)
    modules = []
    in_channels = 1
    for count in layers:
        stack = OrderedDict()
        for layer in range(count):
            kernel, stride, padding = next(remaining)
            conv = nn.Conv1d(in_channels, CHANNELS, kernel, stride, padding)
            block = [conv, nn.BatchNorm1d(CHANNELS), nn.ReLU()] if batch_norm else [conv, nn.ReLU()]
            stack[f"{prefix}{layer}"] = nn.Sequential(*block)
            in_channels = CHANNELS
        encoder = {"model" if lowe else "encoder": nn.Sequential(stack)}
        if not lowe:
            encoder |= {head: nn.Conv1d(CHANNELS, CHANNELS, 1) for head in ("encoder_mu", "encoder_var")}
        modules.append({"encoder": nn.ModuleDict(encoder), "loss": predictor(CHANNELS, steps)})
    gru = {"autoregressor": nn.ModuleDict({"gru": nn.GRU(CHANNELS, CONTEXT, batch_first=True)})}
    gru["loss"] = predictor(CONTEXT, steps)
    if cpc:
        modules[0] |= gru
    else:
        modules.append(gru)
    source = nn.ModuleDict({"fullmodel": nn.ModuleList(nn.ModuleDict(module) for module in modules)})
    randomize(source)
    return source.eval()


def predictor(in_channels, steps):
    return nn.ModuleDict({"predictor": nn.Linear(in_channels, CHANNELS * steps, bias=False)})


def randomize(source):
    generator = torch.Generator().manual_seed(3)
    for name, tensor in source.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
        elif name.endswith("num_batches_tracked"):
            tensor.fill_(17)
        else:
            tensor.normal_(std=0.3, generator=generator)


@torch.no_grad()
def run_source(source, audio, padding_value=0.0):
    """Means and log-variances `(batch, frames, channels)` of all modules, and the context, handing on means.

    `padding_value` is what the first convolution pads with instead of the 0 of the earlier codes.
    """
    hidden_states = audio[:, None]
    means, log_variances, context = [], [], None
    for number, module in enumerate(source["fullmodel"]):
        if "encoder" in module:
            encoder = module["encoder"]
            stack = encoder["model"] if "model" in encoder else encoder["encoder"]
            for layer, block in enumerate(stack):
                if number == layer == 0:
                    conv = block[0]
                    padded = F.pad(hidden_states, (conv.padding[0], conv.padding[0]), value=padding_value)
                    hidden_states = block[1:](F.conv1d(padded, conv.weight, conv.bias, conv.stride))
                else:
                    hidden_states = block(hidden_states)
            if "encoder_mu" in encoder:
                log_variances.append(encoder["encoder_var"](hidden_states).transpose(1, 2))
                hidden_states = encoder["encoder_mu"](hidden_states)
            means.append(hidden_states.transpose(1, 2))
        if "autoregressor" in module:
            context = module["autoregressor"]["gru"](hidden_states.transpose(1, 2))[0]
    return means, log_variances, context


SOURCES = {
    "sim": ("sim", {"batch_norm": True}),
    "sim without batch norm": ("sim", {}),
    "sim before June 2024": ("sim", {"prefix": "layer ", "steps": 12}),
    "sim before June 2024, batch norm": ("sim", {"prefix": "layer ", "steps": 12, "batch_norm": True}),
    "sim of one module": ("sim", {"layers": (5,), "prefix": "layer ", "steps": 12}),
    "gim": ("gim", {"batch_norm": True}),
    "gim before June 2024": ("gim", {"prefix": "layer ", "steps": 12}),
    "cpc": ("cpc", {"layers": (5,), "cpc": True, "batch_norm": True}),
    "cpc before June 2024": ("cpc", {"layers": (5,), "cpc": True, "prefix": "layer ", "steps": 12}),
    "gim-lowe": ("gim-lowe", {"layers": (1,) * 5, "lowe": True, "prefix": "layer ", "steps": 12}),
    "cpc of Löwe et al.": ("cpc", {"layers": (5,), "lowe": True, "cpc": True, "prefix": "layer ", "steps": 12}),
}
SETTINGS = {"sim of one module": {"kl_weight": 0.001}}


@pytest.fixture(params=SOURCES)
def case(request):
    """Method, settings that do not follow from the tensors, and network of one type of checkpoint."""
    method, arguments = SOURCES[request.param]
    return method, SETTINGS.get(request.param, {}), make_source(**arguments)


@pytest.fixture
def audio(noise):
    return 0.1 * noise(2, 3001)


def is_lowe(source):
    return "model" in source["fullmodel"][0]["encoder"]


# ---------------------------------------------------------------------- what is computed


def test_a_converted_model_gives_the_means_log_variances_and_context_of_its_source(case, audio):
    method, settings, source = case
    model = convert_state_dict(source.state_dict(), method, **settings)
    if is_lowe(source):  # their scale of the audio; padding as a shift in the bias makes it
        means, log_variances, context = run_source(source, SCALE * audio + SHIFT, padding_value=SHIFT)
    else:
        means, log_variances, context = run_source(source, audio)
    assert not model.training
    with torch.no_grad():
        outputs = model.sim(audio)
    assert len(outputs.means) == len(means)
    for ours, theirs in zip([*outputs.means, outputs.last_hidden_state], [*means, context], strict=True):
        assert theirs.std() > 0.01  # the comparison sees something
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    if method == "sim":
        for ours, theirs in zip(outputs.log_variances, log_variances, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    else:
        assert outputs.log_variances is None


def test_the_contrastive_loss_is_that_of_the_sources_predictors(case, noise):
    method, settings, source = case
    model = convert_state_dict(source.state_dict(), method, **settings)
    parts = {str(number): module for number, module in enumerate(source["fullmodel"])}
    if method == "cpc":  # the loss is the context's, our module 1
        parts = {"1": parts["0"]}
    assert set(model.predictors) == set(parts)
    for number, module in parts.items():
        weight = module["loss"]["predictor"].weight.detach()  # (steps * channels, in)
        steps = len(weight) // CHANNELS
        context, latents = noise(1, steps + 2, weight.shape[1], seed=1), noise(1, steps + 2, CHANNELS, seed=2)
        negative_frames = torch.randint(steps + 2, (1, steps + 1, 3), generator=torch.Generator().manual_seed(0))
        losses = []
        for step in range(1, steps + 1):
            rows = weight[(step - 1) * CHANNELS : step * CHANNELS]  # W_k, as the source cuts it out
            of_step = []
            for anchor in range(steps + 2 - step):
                prediction = rows @ context[0, anchor]
                frames = [anchor + step, *negative_frames[0, anchor].tolist()]
                scores = torch.stack([prediction @ latents[0, frame] for frame in frames])
                of_step.append(-scores.log_softmax(0)[0])
            losses.append(torch.stack(of_step).mean())
        ours = info_nce(context, latents, model.predictors[number].weight, negative_frames=negative_frames).loss
        torch.testing.assert_close(ours, torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("samples", [3001, 3000, 2998, 4000])
def test_of_lowes_model_two_frames_at_either_end_differ_by_the_padding_and_no_others(samples, noise):
    source = make_source(layers=(1,) * 5, lowe=True, prefix="layer ")
    model = convert_state_dict(source.state_dict(), "gim-lowe")
    audio = 0.1 * noise(1, samples)
    exact = run_source(source, SCALE * audio + SHIFT)[0]
    with torch.no_grad():
        converted = model.sim(audio).means
        for ours, theirs in zip(converted, exact, strict=True):
            torch.testing.assert_close(ours[:, 2:-2], theirs[:, 2:-2], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(converted[0][:, 1:-1], exact[0][:, 1:-1], rtol=1e-4, atol=1e-4)
        first = source["fullmodel"][0]["encoder"]["model"][0][0]
        ours = model.sim.conv_modules[0].layers[0].conv(audio[:, None])[0, :, 0]
        theirs = first(SCALE * audio[:, None] + SHIFT)[0, :, 0]
    padded_taps = first.weight[:, 0, :2].sum(1).detach()
    torch.testing.assert_close(ours - theirs, SHIFT * padded_taps, rtol=0, atol=1e-5)


def test_a_gru_cell_without_backpropagation_through_time_is_read_as_a_gru(audio):
    source = make_source(layers=(1,) * 5, lowe=True, prefix="layer ")
    state_dict = {name.removesuffix("_l0"): tensor for name, tensor in source.state_dict().items()}
    assert "fullmodel.5.autoregressor.gru.weight_ih" in state_dict
    as_cell = convert_state_dict(state_dict, "gim-lowe").sim(audio).last_hidden_state
    torch.testing.assert_close(as_cell, convert_state_dict(source.state_dict(), "gim-lowe").sim(audio)[0])


# ---------------------------------------------------------------------- what is inferred


def test_the_configuration_follows_from_the_tensors_and_the_method():
    config = convert_state_dict(make_source(batch_norm=True).state_dict(), "sim").config
    assert (config.hidden_size, config.context_size, config.num_prediction_steps) == (CHANNELS, CONTEXT, 10)
    assert config.conv_kernel == [[10, 8], [4, 4], [4]]
    assert config.conv_stride == [[5, 4], [2, 2], [2]]
    assert config.conv_padding == [[2, 2], [2, 2], [1]]
    assert config.use_batch_norm
    assert (config.latent_distribution, config.latent_head) == ("gaussian", "linear")
    assert config.kl_weight == [2.0e-3, 5.0e-4, 2.5e-4]

    config = convert_state_dict(make_source(prefix="layer ", steps=12).state_dict(), "sim").config
    assert (config.num_prediction_steps, config.use_batch_norm) == (12, False)
    assert config.kl_weight == [1.0e-2, 2.5e-3, 1.25e-3]  # the artificial set's

    config = convert_state_dict(make_source().state_dict(), "gim").config
    assert (config.latent_distribution, config.latent_head, config.kl_weight) == ("deterministic", "linear", 0.0)

    arguments = {"layers": (1,) * 5, "lowe": True, "prefix": "layer ", "steps": 12}
    config = convert_state_dict(make_source(**arguments).state_dict(), "gim-lowe").config
    assert config.conv_padding == [[2], [2], [2], [2], [1]]
    assert (config.latent_distribution, config.latent_head) == ("deterministic", "identity")

    config = convert_state_dict(make_source(layers=(5,), cpc=True).state_dict(), "cpc").config
    assert (config.contrastive_modules, config.gradient_isolation, config.latent_head) == ("context", False, "linear")


def test_names_are_those_that_the_earlier_codes_wrote():
    """The networks above are worth a comparison only if their names are the documented ones."""
    sim = {name: tuple(tensor.shape) for name, tensor in make_source(batch_norm=True).state_dict().items()}
    assert sim["fullmodel.0.encoder.encoder.0.0.weight"] == (CHANNELS, 1, 10)
    assert sim["fullmodel.1.encoder.encoder.1.1.running_mean"] == (CHANNELS,)
    assert sim["fullmodel.2.encoder.encoder_mu.weight"] == (CHANNELS, CHANNELS, 1)
    assert sim["fullmodel.2.encoder.encoder_var.bias"] == (CHANNELS,)
    assert sim["fullmodel.2.loss.predictor.weight"] == (10 * CHANNELS, CHANNELS)
    assert sim["fullmodel.3.autoregressor.gru.weight_ih_l0"] == (3 * CONTEXT, CHANNELS)
    assert sim["fullmodel.3.loss.predictor.weight"] == (10 * CHANNELS, CONTEXT)
    assert "fullmodel.1.encoder.encoder.layer 1.0.bias" in make_source(prefix="layer ").state_dict()
    lowe = make_source(layers=(1,) * 5, lowe=True, prefix="layer ").state_dict()
    assert "fullmodel.4.encoder.model.layer 0.0.weight" in lowe
    assert "fullmodel.5.autoregressor.gru.weight_hh_l0" in lowe


def test_strides_that_are_not_known_must_be_given_and_are_then_used(audio):
    source = make_source(layers=(1, 1), geometry=[(6, 3, 1), (5, 2, 2)])
    with pytest.raises(ValueError, match=r"\[\[6\], \[5\]\].*`conv_stride`"):
        convert_state_dict(source.state_dict(), "gim")
    model = convert_state_dict(source.state_dict(), "gim", conv_stride=[[3], [2]], conv_padding=[[1], [2]])
    torch.testing.assert_close(model.sim(audio)[0], run_source(source, audio)[2], rtol=1e-4, atol=1e-4)


def test_a_setting_that_contradicts_the_tensors_is_refused_and_any_other_is_taken():
    state_dict = make_source().state_dict()
    with pytest.raises(ValueError, match="`hidden_size`"):
        convert_state_dict(state_dict, "sim", hidden_size=16)
    with pytest.raises(ValueError, match="'num_negative'"):
        convert_state_dict(state_dict, "sim", num_negative=5)
    with pytest.raises(ValueError, match="'num_negatives'"):
        convert_state_dict(state_dict, "sim", num_negatives="many")
    config = convert_state_dict(state_dict, "sim", num_negatives=5, num_prediction_steps=10).config
    assert config.num_negatives == 5


# ---------------------------------------------------------------------- what is refused


def test_missing_and_unknown_tensors_are_named_in_one_error():
    state_dict = make_source(batch_norm=True).state_dict()
    for name in ("fullmodel.0.encoder.encoder.1.0.weight", "fullmodel.2.encoder.encoder_var.bias"):
        del state_dict[name]
    state_dict["fullmodel.1.classifier.weight"] = torch.zeros(2, 2)
    with pytest.raises(ValueError, match=r"fullmodel\.0\.encoder\.encoder\.1\.0\.weight") as error:
        convert_state_dict(state_dict, "sim")
    missing, _, unknown = str(error.value).partition("unknown ")
    assert "fullmodel.2.encoder.encoder_var.bias" in missing
    assert unknown == "fullmodel.1.classifier.weight."


@pytest.mark.parametrize("name", [*make_source(batch_norm=True).state_dict()])
def test_every_tensor_of_sim_is_needed(name):
    state_dict = make_source(batch_norm=True).state_dict()
    del state_dict[name]
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        convert_state_dict(state_dict, "sim")


@pytest.mark.parametrize("module", range(5))
def test_a_module_that_is_missing_altogether_is_named(module):
    state_dict = make_source(layers=(1,) * 5, lowe=True, prefix="layer ").state_dict()
    state_dict = {name: state_dict[name] for name in state_dict if not name.startswith(f"fullmodel.{module}.")}
    with pytest.raises(ValueError, match=rf"fullmodel\.{module}\.encoder\.model\.layer 0\.0\.bias"):
        convert_state_dict(state_dict, "gim-lowe")


def test_a_method_that_the_names_are_not_of_is_refused_with_those_that_they_are():
    cpc = make_source(layers=(5,), cpc=True).state_dict()
    lowe = make_source(layers=(1,) * 5, lowe=True, prefix="layer ").state_dict()
    with pytest.raises(ValueError, match="`method`"):
        convert_state_dict(cpc, "sim")
    with pytest.raises(ValueError, match="`method`"):
        convert_state_dict(lowe, "gim")
    with pytest.raises(ValueError, match="`method`"):
        convert_state_dict(make_source().state_dict(), "gim-lowe")
    with pytest.raises(ValueError, match="`method`"):
        convert_state_dict(make_source().state_dict(), "vae")
    with pytest.raises(ValueError, match=r"decoder\.weight"):
        convert_state_dict({"decoder.weight": torch.zeros(3)}, "sim")


def test_models_without_a_counterpart_are_refused():
    lowe = {"layers": (1,) * 5, "lowe": True, "prefix": "layer "}
    state_dict = make_source(**lowe).state_dict()
    together = {
        name.replace("fullmodel.5.autoregressor", "fullmodel.4.autoregressor"): state_dict[name] for name in state_dict
    }
    with pytest.raises(ValueError, match="GRU"):
        convert_state_dict(together, "gim-lowe")
    geometry = [(10, 5, 2), (8, 4, 2), (1, 1, 0), (4, 2, 2), (4, 2, 2), (1, 1, 0), (4, 2, 1), (1, 1, 0)]
    with pytest.raises(ValueError, match="'extra layers'"):
        convert_state_dict(make_source(layers=(8,), cpc=True, geometry=geometry).state_dict(), "cpc")


def test_tensors_of_other_shapes_or_not_finite_are_named():
    name = "fullmodel.1.encoder.encoder.0.0.bias"
    with pytest.raises(ValueError, match=r"encoder\.0\.0\.bias"):
        convert_state_dict({**make_source().state_dict(), name: torch.zeros(5)}, "gim")
    with pytest.raises(ValueError, match=r"fullmodel\.1\.encoder\.encoder\.0\.0\.bias"):
        convert_state_dict({**make_source().state_dict(), name: torch.full((CHANNELS,), torch.nan)}, "gim")
    name = "fullmodel.2.encoder.encoder_var.weight"
    with pytest.raises(ValueError, match=r"encoder_var\.weight"):
        convert_state_dict({**make_source().state_dict(), name: torch.zeros(CHANNELS, 5, 1)}, "sim")
    name = "fullmodel.3.autoregressor.gru.bias_ih_l0"
    with pytest.raises(ValueError, match=r"gru\.bias_ih_l0"):
        convert_state_dict({**make_source().state_dict(), name: torch.zeros(CHANNELS)}, "gim")
    name = "fullmodel.1.encoder.encoder.0.0.weight"
    with pytest.raises(ValueError, match=r"0\.0\.weight"):
        convert_state_dict({**make_source().state_dict(), name: torch.tensor(1.0)}, "gim")
    name = "fullmodel.1.loss.predictor.weight"
    with pytest.raises(ValueError, match=r"fullmodel\.1\.loss\.predictor\.weight"):
        convert_state_dict({**make_source().state_dict(), name: torch.zeros(144, CHANNELS)}, "gim")


# ---------------------------------------------------------------------- files


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint file of a SIM model, as `nn.DataParallel` names it."""
    path = tmp_path / "model_99.ckpt"
    torch.save(nn.DataParallel(make_source(batch_norm=True)).state_dict(), path)
    return path


@pytest.mark.parametrize(
    "wrap", [dict, lambda state: {"state_dict": state, "epoch": 3}, lambda state: {"model": state}]
)
@pytest.mark.parametrize("parallel", [True, False])
def test_a_state_dict_is_found_with_or_without_dataparallel_and_a_level_above(wrap, parallel, tmp_path):
    source = make_source()
    torch.save(wrap((nn.DataParallel(source) if parallel else source).state_dict()), tmp_path / "model.ckpt")
    found = read_state_dict(tmp_path / "model.ckpt")
    assert found.keys() == source.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in source.state_dict().items())


def test_the_command_writes_a_folder_that_the_auto_classes_load(checkpoint, audio, tmp_path, capsys):
    folder = tmp_path / "made" / "sim"
    main(
        [
            str(checkpoint),
            str(folder),
            "--method",
            "sim",
            "--model_settings",
            "{num_negatives: 7, kl_weight: [0.1, 0.2, 0.3]}",
        ]
    )
    printed = capsys.readouterr().out
    assert "10 prediction steps" in printed
    assert "num_negatives=7" in printed
    expected = convert_state_dict(read_state_dict(checkpoint), "sim")
    encoder, model = AutoModel.from_pretrained(folder), AutoModelForPreTraining.from_pretrained(folder)
    assert (type(encoder), type(model)) == (SimModel, SimForPreTraining)
    assert (model.config.num_negatives, model.config.kl_weight) == (7, [0.1, 0.2, 0.3])
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    torch.testing.assert_close(encoder(audio)[0], run_source(make_source(batch_norm=True), audio)[2])
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    assert isinstance(extractor, SimFeatureExtractor)
    assert (extractor.sampling_rate, extractor.min_samples, extractor.do_normalize) == (16_000, 465, False)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["sim"]


class Payload:
    """Opens a file for writing when it is unpickled without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def save_with_torch(content, path):
    torch.save({"state_dict": make_source().state_dict(), "config": content}, path)


def save_with_old_torch(content, path):
    torch.save({"config": content}, path, _use_new_zipfile_serialization=False)


def save_with_pickle(content, path):
    path.write_bytes(pickle.dumps(content, 2))


@pytest.mark.parametrize("save", [save_with_torch, save_with_old_torch, save_with_pickle])
def test_a_checkpoint_that_would_run_code_is_refused_in_one_line_and_runs_none(save, tmp_path):
    path, trace = tmp_path / "model.ckpt", tmp_path / "trace"
    save(Payload(trace), path)
    with pytest.raises(SystemExit, match=r"model\.ckpt.*\(\S*open\)") as error:
        main([str(path), str(tmp_path / "sim"), "--method", "sim"])
    assert "\n" not in str(error.value)
    assert not trace.exists()
    assert not (tmp_path / "sim").exists()
    if save is not save_with_pickle:  # and it would have run
        torch.load(path, weights_only=False)["config"].close()
        assert trace.exists()


def test_files_that_are_no_state_dict_are_refused(tmp_path):
    path = tmp_path / "model.ckpt"
    with pytest.raises(FileNotFoundError, match=r"model\.ckpt"):
        read_state_dict(path)
    for content in (b"", b"not a checkpoint", bytes(range(256)), b"PK\x03\x04 a broken archive"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"model\.ckpt"):
            read_state_dict(path)
    for content in ([torch.zeros(2)], {}, torch.zeros(2)):
        torch.save(content, path)
        with pytest.raises(ValueError, match=r"model\.ckpt"):
            read_state_dict(path)
    torch.save({"epoch": 3, "net": {"weight": torch.zeros(2)}}, path)
    with pytest.raises(ValueError, match="epoch, net"):
        read_state_dict(path)


def test_a_text_is_called_no_checkpoint_rather_than_a_damaged_one(tmp_path):
    (tmp_path / "notes.txt").write_text("these are notes, not tensors\n")
    with pytest.raises(SystemExit, match=r"notes\.txt") as error:
        main([str(tmp_path / "notes.txt"), str(tmp_path / "sim"), "--method", "sim"])
    assert "`torch.load`" not in str(error.value)


def test_a_damaged_checkpoint_is_refused_and_leaves_nothing(checkpoint, tmp_path):
    checkpoint.write_bytes(checkpoint.read_bytes()[:2000])
    with pytest.raises(SystemExit, match=rf"{checkpoint.name}.*`torch\.load`"):
        main([str(checkpoint), str(tmp_path / "sim"), "--method", "sim"])
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.name]


def test_only_a_model_of_this_package_is_replaced_and_only_if_that_is_asked(checkpoint, tmp_path):
    folder = tmp_path / "sim"
    command = [str(checkpoint), str(folder), "--method", "sim"]
    folder.mkdir()
    main(command)  # an empty folder is as good as none
    with pytest.raises(SystemExit, match=r"`overwrite_output_dir`"):
        main(command)
    (folder / "config.json").write_text(json.dumps({**json.loads((folder / "config.json").read_text()), "old": True}))
    main([*command, "--overwrite_output_dir"])
    assert "old" not in json.loads((folder / "config.json").read_text())
    assert SimForPreTraining.from_pretrained(folder).config.hidden_size == CHANNELS
    with pytest.raises(SystemExit, match=r"model_99\.ckpt"):
        main([str(checkpoint), str(checkpoint), "--method", "sim", "--overwrite_output_dir"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model_99.ckpt", "sim"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("thesis.tex", "mine"), ("config.json", '{"port": 1}'), ("config.json", "{"), ("sim/config.json", "{}")],
)
def test_a_folder_with_other_files_is_never_replaced(checkpoint, tmp_path, name, content):
    folder = tmp_path / "folder"
    if name != "config.json":
        main([str(checkpoint), str(folder), "--method", "sim"])
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content)
    before = sorted(folder.rglob("*"))
    with pytest.raises(SystemExit, match=name.partition("/")[0]):
        main([str(checkpoint), str(folder), "--method", "sim", "--overwrite_output_dir"])
    assert sorted(folder.rglob("*")) == before
    assert (folder / name).read_text() == content


def test_a_disk_that_fills_up_leaves_the_old_folder_as_it_was(checkpoint, tmp_path, monkeypatch):
    folder = tmp_path / "sim"
    command = [str(checkpoint), str(folder), "--method", "sim", "--overwrite_output_dir"]
    main(command)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(SimFeatureExtractor, "save_pretrained", fail)
    with pytest.raises(SystemExit, match="no space left"):
        main(command)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model_99.ckpt", "sim"]


@pytest.mark.parametrize("settings", ["num_negatives", "{num_negative: 7}", "{method: sim}"])
def test_a_setting_that_is_not_one_is_refused_by_the_command(settings, checkpoint, tmp_path):
    name = settings.strip("{}").partition(":")[0]
    with pytest.raises(SystemExit, match=rf"modeling-sim convert: .*{name}"):
        main([str(checkpoint), str(tmp_path / "sim"), "--method", "sim", "--model_settings", settings])
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.name]


def test_the_methods_of_the_flag_are_those_of_the_conversion():
    assert get_type_hints(ConvertArguments)["method"] == Method


def test_the_command_reads_a_settings_file_and_flags_between_its_positionals(checkpoint, tmp_path):
    (tmp_path / "convert.yaml").write_text("method: sim\nmodel_settings: {num_negatives: 7}\n")
    main([str(checkpoint), "--config", str(tmp_path / "convert.yaml"), str(tmp_path / "sim")])
    assert SimForPreTraining.from_pretrained(tmp_path / "sim").config.num_negatives == 7
