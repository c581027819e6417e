import dataclasses
import json
import re

import numpy as np
import pytest
import torch

from modeling_sim import SimConfig, SimDecoderConfig, SimForPreTraining
from modeling_sim.modeling_sim import SimModel

HEADS = 3 * (512 * 512 + 512)
"""Parameters of the log-variance heads of three modules of 512 channels."""


def count_parameters(config: SimConfig) -> int:
    with torch.device("meta"):
        model = SimForPreTraining(config)
    return sum(parameter.numel() for parameter in model.parameters())


# ---------------------------------------------------------------------- presets


@pytest.mark.parametrize(
    ("preset", "overrides", "expected"),
    [
        ("sim", {}, 16_598_016),
        ("sim", {"use_batch_norm": False}, 16_592_896),
        ("sim-artificial", {}, 16_592_896),
        ("gim", {}, 16_598_016 - HEADS),
        ("gim", {"use_batch_norm": False}, 16_592_896 - HEADS),
        ("cpc", {"use_batch_norm": False}, 7_683_072 - HEADS // 3 - 5 * 2 * 512),
        ("cpc", {}, 7_683_072 - HEADS // 3),
    ],
)
def test_presets_have_the_parameters_of_the_authors_models(preset, overrides, expected):
    assert count_parameters(SimConfig.preset(preset, **overrides)) == expected


def test_gim_lowe_has_the_parameters_counted_by_hand():
    convolutions = sum(512 * (channels * kernel + 1) for channels, kernel in [(1, 10), (512, 8), *[(512, 4)] * 3])
    gru = 3 * 256 * (512 + 256 + 2)
    predictors = 12 * 512 * (5 * 512 + 256)
    assert count_parameters(SimConfig.preset("gim-lowe")) == convolutions + gru + predictors


def test_presets_are_the_settings_of_their_papers():
    presets = map(SimConfig.preset, SimConfig.preset_names())
    sim, artificial, gim, lowe, cpc, readable, small, readable_small, gim_small = presets
    paper, others = ["sim", "sim-artificial", "gim", "gim-lowe", "cpc"], ["sim-small", "sim-readable-small"]
    assert SimConfig.preset_names() == [*paper, "sim-readable", *others, "gim-small"]
    assert (readable.hidden_size, readable_small.hidden_size) == (sim.hidden_size, small.hidden_size)
    assert all(each.critic == "gaussian" and each.num_latents == 64 for each in (readable, readable_small))
    assert all(each.kl_weights == [1.0e-3] * 3 for each in (readable, readable_small))
    assert (sim.latent_distribution, sim.use_batch_norm, sim.num_prediction_steps, sim.num_negatives) == (
        "gaussian",
        True,
        10,
        10,
    )
    assert sim == SimConfig()
    assert not artificial.use_batch_norm
    assert (gim.latent_distribution, gim.latent_head, gim.kl_weights) == ("deterministic", "linear", [0, 0, 0])
    assert (lowe.num_modules, lowe.latent_head, lowe.num_prediction_steps) == (6, "identity", 12)
    assert (cpc.num_modules, cpc.gradient_isolation, cpc.contrastive_modules) == (2, False, "context")
    assert small.hidden_size < sim.hidden_size
    assert gim_small == SimConfig.preset("gim", hidden_size=small.hidden_size, context_size=small.context_size)


def test_additions_to_the_papers_are_off_by_default():
    config = SimConfig()
    assert config.initial_log_variance is None
    assert config.log_variance_clamp is None
    assert config.free_bits == 0
    assert not config.shared_noise
    assert config.negatives == "any"


@pytest.mark.parametrize(("preset", "authors_beta", "crop"), [("sim", 1e-3, 20_480), ("sim-artificial", 1e-2, 10_240)])
def test_default_kl_weights_are_the_authors_betas(preset, authors_beta, crop):
    config = SimConfig.preset(preset)
    expected = [authors_beta * config.num_frames(crop, module) / config.hidden_size for module in range(3)]
    assert config.kl_weights == pytest.approx(expected, rel=1e-2)  # the presets are round numbers


def test_an_unknown_preset_or_override_is_named():
    with pytest.raises(ValueError, match=r"'simm'.*'sim'"):
        SimConfig.preset("simm")
    with pytest.raises(ValueError, match="'num_negative'"):
        SimConfig.preset("sim", num_negative=3)


# ---------------------------------------------------------------------- geometry


@pytest.mark.parametrize(("samples", "frames"), [(20_480, [1023, 257, 128, 128]), (10_240, [511, 129, 64, 64])])
def test_frames_of_a_crop_are_the_authors(samples, frames):
    config = SimConfig()
    assert [config.num_frames(samples, module) for module in range(4)] == frames
    tensors = [config.num_frames(torch.tensor([samples, 0]), module) for module in range(4)]
    assert [tensor.tolist() for tensor in tensors] == [[count, 0] for count in frames]


@pytest.mark.parametrize("module", range(-4, 4))
def test_module_geometry_is_the_papers(module):
    config = SimConfig()
    assert config.hop_length(module) == [20, 80, 160, 160][module]
    assert config.receptive_field(module) == [45, 225, 465, 465][module]
    assert config.frame_rate(module) == [800, 200, 100, 100][module]
    hop, first = config.hop_length(module), [10.5, -19.5, 20.5, 20.5][module]
    assert np.array_equal(config.frame_centers(3, module), [first, first + hop, first + 2 * hop])


def test_lowe_and_cpc_have_the_geometry_of_the_same_five_convolutions():
    for preset in ("gim-lowe", "cpc"):
        config = SimConfig.preset(preset)
        assert (config.hop_length(), config.receptive_field(), config.num_frames(20_480)) == (160, 465, 128)
        assert config.frame_centers(1)[0] == 20.5


@pytest.mark.parametrize("module", range(3))
def test_a_frame_sees_its_receptive_field_around_its_centre_and_nothing_else(module, tiny_config, noise):
    config = tiny_config(use_batch_norm=False)
    model, frame = SimModel(config).double().eval(), 5
    waveform = noise(1, 4000, dtype=torch.float64).requires_grad_()
    model(waveform).means[module][0, frame].abs().sum().backward()
    seen = waveform.grad[0].nonzero().flatten()
    center, field = config.frame_centers(frame + 1, module)[frame], config.receptive_field(module)
    assert seen.min() >= center - field / 2
    assert seen.max() + 1 <= center + field / 2
    # ReLUs hide some of it, never most
    assert seen.max() + 1 - seen.min() > 0.8 * field


def test_a_module_that_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match="`module`"):
        SimConfig().hop_length(4)


@pytest.mark.parametrize("module", range(4))
def test_an_utterance_with_no_samples_has_no_frames(module):
    assert SimConfig().num_frames(0, module) == 0


def test_module_names_end_with_the_context_if_there_is_one():
    assert SimConfig().module_names == ["module 0", "module 1", "module 2", "context"]
    assert SimConfig(context_size=0).module_names == ["module 0", "module 1", "module 2"]


# ---------------------------------------------------------------------- validation


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 0}, "`hidden_size` is 0"),
        ({"sampling_rate": -1}, "`sampling_rate` is -1"),
        ({"num_negatives": 0}, "`num_negatives` is 0"),
        ({"num_prediction_steps": 0}, "`num_prediction_steps` is 0"),
        ({"context_size": -1}, "`context_size` is -1"),
        ({"batch_norm_eps": 0.0}, "`batch_norm_eps` is 0.0"),
        ({"batch_norm_momentum": 1.5}, r"`batch_norm_momentum` is 1.5.*\(0, 1\]"),
        ({"loss_window": 1}, "`loss_window` is 1"),
        ({"conv_kernel": [[10, 8], []]}, "`conv_kernel` is empty"),
        ({"conv_stride": [[5, 4]]}, r"`conv_stride` .*`conv_kernel`.* \[2, 2, 1\]"),
        ({"conv_padding": [[2], [2, 2], [1]]}, "`conv_padding` .*`conv_kernel`"),
        ({"conv_padding": [[10, 2], [2, 2], [1]]}, "`conv_padding`.* padding 10"),
        ({"conv_stride": [[0, 4], [2, 2], [2]]}, "`conv_stride`.* stride 0"),
        ({"latent_head": "identity"}, "`latent_head` to 'linear' or `latent_distribution` to 'deterministic'"),
        ({"kl_weight": [0.1, 0.1]}, "`kl_weight` has 2 entries"),
        ({"kl_weight": -1.0}, "`kl_weight` is -1.0"),
        ({"kl_weight": float("nan")}, "`kl_weight` is nan"),
        ({"free_bits": -0.1}, "`free_bits` is -0.1"),
        ({"initial_log_variance": float("inf")}, "`initial_log_variance` is inf"),
        ({"log_variance_clamp": [1, -1]}, r"`log_variance_clamp` is \[1, -1\]"),
        ({"log_variance_clamp": [float("nan"), 2.0]}, r"`log_variance_clamp` is \[nan"),
        ({"batch_norm_eps": float("inf")}, "`batch_norm_eps` is inf"),
        ({"vocabulary": ["a", "b", "a"]}, "`vocabulary` .*'a'"),
        ({"vocabulary": ["a b", "c"]}, "`vocabulary` .*'a b'"),
        ({"vocabulary": ["a", ""]}, "`vocabulary` .*''"),
        ({"contrastive_modules": "context", "context_size": 0}, "`contrastive_modules` 'context' .*`context_size`"),
        ({"contrastive_modules": "context"}, "`contrastive_modules` 'context' .*`gradient_isolation`"),
        ({"probe_module": 4}, "`probe_module` is 4.* 0 to 3"),
        ({"negatives": "some"}, "'negatives'"),
        ({"latent_size": 0}, "`latent_size` is 0"),
        ({"latent_size": 8, "latent_head": "identity", "latent_distribution": "deterministic"}, "`latent_size` is 8"),
        ({"prediction_offsets": [2, 1]}, r"`prediction_offsets` is \[2, 1\]"),
        ({"prediction_offsets": [0, 1]}, r"`prediction_offsets` is \[0, 1\]"),
        ({"prediction_offsets": []}, "`prediction_offsets` is empty"),
        ({"prediction_offsets": [1, 128]}, "`loss_window`"),
        ({"negative_sharing": "batch", "negatives": "same_utterance"}, "`negatives` is 'same_utterance'"),
        (
            {"critic": "gaussian", "contrastive_modules": "context", "gradient_isolation": False},
            "`critic` 'gaussian'",
        ),
        ({"covariance_weight": -1.0}, "`covariance_weight` is -1.0"),
        ({"lagged_covariance_weight": float("inf")}, "`lagged_covariance_weight` is inf"),
        ({"hidden_size": "wide"}, "'hidden_size'"),
        ({"conv_kernel": [10, 8]}, "'conv_kernel'"),
    ],
)
def test_an_invalid_setting_names_the_field_and_the_fix(settings, message):
    with pytest.raises(Exception, match=message):
        SimConfig(**settings)


# ---------------------------------------------------------------------- files and documentation


@pytest.mark.parametrize("preset", SimConfig.preset_names())
def test_a_config_equals_its_saved_self(preset, tmp_path):
    config = SimConfig.preset(preset, log_variance_clamp=(-5, 5), num_labels=7)
    config.save_pretrained(tmp_path)
    loaded = SimConfig.from_pretrained(tmp_path)
    loaded._name_or_path = config._name_or_path  # where a config was read is no setting
    assert loaded.to_dict() == config.to_dict() | {"auto_map": loaded.auto_map}
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["model_type"] == "sim"
    assert stored["conv_kernel"] == config.conv_kernel


def test_a_config_of_an_earlier_version_loads_unless_its_scores_were_scaled():
    stored = SimConfig().to_dict()
    assert SimConfig.from_dict({**stored, "logit_scale": "one"}).to_dict() == stored
    with pytest.raises(ValueError, match="`logit_scale`"):
        SimConfig.from_dict({**stored, "logit_scale": "inverse_sqrt_channels"})


def test_every_field_has_a_line_of_documentation():
    documented = re.findall(r"^ {8}(\w+): \S", SimConfig.__doc__, flags=re.MULTILINE)
    own = [field.name for field in dataclasses.fields(SimConfig) if field.name in SimConfig.__annotations__]
    assert documented == own


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_size": np.int64(32)},
        {"kl_weight": np.float32(0.25)},
        {"kl_weight": np.array([0.1, 0.2, 0.3])},
        {"use_batch_norm": np.bool_(False)},
        {"context_size": np.array(8)},
        {"context_size": torch.tensor(8)},
        {"log_variance_clamp": (np.float32(-3), np.float64(2))},
        {"conv_padding": (np.array([2, 2]), [np.int32(2), 2], [1])},
        {"conv_padding": ((2, 2), [2, 2], (1,))},
        {"num_labels": np.int64(3)},
        {"id2label": {np.int64(0): "low", np.int64(1): "high"}, "label2id": {"low": np.int64(0), "high": 1}},
    ],
    ids=str,
)
def test_numbers_of_numpy_and_torch_are_taken_and_saved(settings, tmp_path):
    config = SimConfig(**settings)
    later = SimConfig()
    for name, value in settings.items():
        setattr(later, name, value)
    assert later.to_dict() == config.to_dict()
    config.save_pretrained(tmp_path)
    assert SimConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


def test_a_decoders_config_takes_numbers_of_numpy():
    config = SimDecoderConfig(hidden_size=np.int64(8), strides=np.array([2, 2, 2, 4, 5]), noise=np.float32(0.5))
    assert SimDecoderConfig.from_dict(json.loads(config.to_json_string())).to_dict() == config.to_dict()


def test_the_number_of_layers_is_known_and_stored_nowhere():
    config = SimConfig.preset("gim-lowe")
    assert config.num_hidden_layers == config.num_modules == 6
    assert "num_hidden_layers" not in {**config.to_dict(), **config.to_diff_dict()}
    assert SimConfig.from_dict({**config.to_dict(), "num_hidden_layers": 6}).to_dict() == config.to_dict()
    with pytest.raises(ValueError, match="num_hidden_layers"):
        SimConfig(num_hidden_layers=12)
