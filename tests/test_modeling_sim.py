import copy
import io
import math
import warnings

import accelerate
import pytest
import soundfile
import torch
import torch.nn.functional as F
import torch.nn.utils.prune
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForAudioFrameClassification,
    AutoModelForPreTraining,
    AutoProcessor,
    Trainer,
    TrainingArguments,
    pipeline,
)
from transformers.utils import logging

from modeling_sim import (
    SimConfig,
    SimFeatureExtractor,
    SimForAudioFrameClassification,
    SimForPreTraining,
    SimForSequenceClassification,
    SimModel,
    layers_sim,
)
from modeling_sim.configuration_sim import num_output_frames
from modeling_sim.data.audio import read_audio
from modeling_sim.layers_sim import SimBatchNorm, SimConv1d, SimConvLayer
from modeling_sim.modeling_sim import LONG_SECONDS, SimPredictor
from modeling_sim.objectives_sim import covariance_penalty, independence_penalty, lagged_covariance_penalty

AUTO_CLASSES = {
    SimModel: AutoModel,
    SimForPreTraining: AutoModelForPreTraining,
    SimForSequenceClassification: AutoModelForAudioClassification,
    SimForAudioFrameClassification: AutoModelForAudioFrameClassification,
}
CLASSIFIERS = [SimForSequenceClassification, SimForAudioFrameClassification]

# Settings that change which code runs; the presets first, but for those of another width.
VARIANTS = {
    **{preset: (preset, {}) for preset in ("sim", "sim-artificial", "sim-readable", "gim", "gim-lowe", "cpc")},
    "mean": ("sim", {"sample_latents": False}),
    "beta 0": ("sim", {"kl_weight": 0.0}),
    "shared noise": ("sim", {"shared_noise": True}),
    "no context": ("sim", {"context_size": 0}),
    "end-to-end SIM": ("sim", {"gradient_isolation": False}),
    "Gaussian critic": (
        "sim",
        {
            "critic": "gaussian",
            "latent_size": 12,
            "prediction_offsets": [1, 2, 4, 8],
            "num_negatives": 31,
            "negative_sharing": "batch",
            "covariance_weight": 0.1,
            "lagged_covariance_weight": 0.02,
            "independence_weight": 0.05,
        },
    ),
}
variants = pytest.mark.parametrize("variant", VARIANTS)


@pytest.fixture
def make(tiny_config):
    """Makes a tiny model of a class and a variant, the same weights each time, in training mode."""

    def make(model_class, variant="sim", **overrides):
        preset, settings = VARIANTS[variant]
        torch.manual_seed(0)
        return model_class(tiny_config(preset, **{**settings, **overrides})).train()

    return make


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tensors_of(output):
    """Every tensor of a model's output, in order."""
    for value in output.values():
        yield from value if isinstance(value, tuple) else [value]


def gradients_of(model):
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


# ---------------------------------------------------------------------- convolutions


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "padding", "batch", "length"),
    [
        (1, 10, 5, 2, 2, 103),
        (1, 3, 1, 0, 1, 3),
        (6, 8, 4, 2, 3, 50),
        (6, 4, 2, 2, 2, 33),
        (6, 4, 2, 1, 1, 32),
        (6, 4, 2, 1, 2, 4),  # two frames
        (6, 8, 4, 2, 1, 4),  # a single frame
        (6, 5, 2, 1, 2, 31),  # kernel not a multiple of stride
        (6, 7, 3, 3, 3, 20),
        (6, 3, 4, 0, 2, 30),  # stride above kernel: samples that no frame sees
        (6, 3, 4, 2, 2, 29),
        (6, 1, 1, 0, 2, 9),
        (6, 1, 3, 0, 2, 9),
        (6, 3, 1, 2, 2, 11),
        (6, 4, 2, 0, 2, 41),  # input frames left over at the end
    ],
)
def test_a_convolution_equals_torchs_in_value_and_gradients(channels, kernel, stride, padding, batch, length, noise):
    conv = SimConv1d(channels, 7, kernel, stride, padding).double()
    rows = noise(batch, length, channels, dtype=torch.float64).requires_grad_()
    expected = F.conv1d(rows.transpose(1, 2), conv.weight, conv.bias, stride, padding).transpose(1, 2)
    output = conv.convolve_rows(rows)
    sizes = kernel, stride, padding
    assert output.shape[1] == num_output_frames(length, *sizes) == num_output_frames(torch.tensor(length), *sizes)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    direction, leaves = noise(*output.shape, seed=1, dtype=torch.float64), [rows, conv.weight, conv.bias]
    gradients = torch.autograd.grad(output, leaves, direction)
    for gradient, reference in zip(gradients, torch.autograd.grad(expected, leaves, direction), strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(4, 2, 2), (5, 2, 1), (2, 3, 1)])
@pytest.mark.parametrize("frozen", [(), ("weight", "bias"), ("input",), ("bias",)])
def test_a_convolution_passes_gradcheck_whatever_is_frozen(kernel, stride, padding, frozen, noise):
    conv = SimConv1d(3, 2, kernel, stride, padding).double()
    rows = noise(2, 9, 3, dtype=torch.float64).requires_grad_("input" not in frozen)
    for name, parameter in conv.named_parameters():
        parameter.requires_grad_(name not in frozen)
    leaves = [leaf for leaf in [rows, *conv.parameters()] if leaf.requires_grad]
    assert torch.autograd.gradcheck(lambda *_: conv.convolve_rows(rows), leaves)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(4, 2, 2), (2, 3, 1)])
def test_a_convolution_has_second_derivatives(kernel, stride, padding, noise):
    conv = SimConv1d(3, 2, kernel, stride, padding).double()
    leaves = [noise(2, 9, 3, dtype=torch.float64).requires_grad_(), *conv.parameters()]
    assert torch.autograd.gradgradcheck(lambda rows, *_: conv.convolve_rows(rows).square(), leaves)


def test_the_curvature_of_a_loss_is_that_of_plain_convolutions(make, noise):
    """A gradient penalty: the derivative of the squared gradient at the waveform."""
    model, waveforms = make(SimModel, "gim", use_batch_norm=False).double(), noise(2, 4000, dtype=torch.float64)
    parameters = list(model.conv_modules.parameters())

    def penalty_gradients():
        inputs = waveforms.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(inputs).means[-1].square().sum(), inputs, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), parameters, allow_unused=True)

    fast = penalty_gradients()
    for module in model.modules():
        if isinstance(module, SimConv1d):
            module.register_forward_hook(lambda *_: None)
    plain = penalty_gradients()
    assert all(gradient is None or gradient.any() for gradient in plain)
    torch.testing.assert_close(fast, plain)


def test_a_convolution_keeps_one_tensor_for_backward_its_input(noise):
    conv, rows, kept = SimConv1d(6, 7, 4, 2, 2), noise(2, 33, 6).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        conv.convolve_rows(rows)
    assert {tensor.data_ptr() for tensor in kept} == {rows.data_ptr(), conv.weight.data_ptr()}


# ---------------------------------------------------------------------- batch normalization


def reference_layer(layer):
    """The same layer from torch's own parts, on `(batch, channels, length)`."""
    conv = nn.Conv1d(
        layer.conv.in_channels, layer.conv.out_channels, layer.conv.kernel_size, layer.conv.stride, layer.conv.padding
    )
    norm = nn.BatchNorm1d(layer.norm.num_features, layer.norm.eps, layer.norm.momentum)
    conv.load_state_dict(layer.conv.state_dict())
    norm.load_state_dict(layer.norm.state_dict())
    return nn.Sequential(conv, norm, nn.ReLU()).to(layer.conv.weight.dtype)


@pytest.mark.parametrize("row_products", [{"cpu"}, set()])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("in_channels", [1, 16])
def test_a_layer_equals_convolution_batch_norm_and_relu(
    in_channels, training, row_products, tiny_config, noise, monkeypatch
):
    monkeypatch.setattr("modeling_sim.layers_sim.ROW_PRODUCT_DEVICES", row_products)
    layer = SimConvLayer(tiny_config(), in_channels, 10, 5, 2).double().train(training)
    with torch.no_grad():
        layer.norm.weight.copy_(noise(16, seed=3))
        layer.norm.bias.copy_(noise(16, seed=4))
    reference = reference_layer(layer).train(training)
    rows = noise(3, 200, in_channels, dtype=torch.float64) * 0.3 + 0.7
    inputs = [rows.clone().requires_grad_(), rows.clone().requires_grad_()]
    outputs = [layer(inputs[0]), reference(inputs[1].transpose(1, 2)).transpose(1, 2)]
    torch.testing.assert_close(*outputs)
    for output in outputs:
        output.backward(noise(*output.shape, seed=1, dtype=torch.float64))
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    ours, theirs = [*layer.parameters(), *layer.buffers()], [*reference.parameters(), *reference.buffers()]
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)
        if one.requires_grad:
            torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("waveform", ["silence", "tone"])
def test_a_first_layer_whose_filters_see_nothing_stays_finite(waveform, tiny_config, noise):
    """A loud slow tone through filters that silence it: their variance is rounding, of either sign."""
    layer = SimConvLayer(tiny_config(hidden_size=256), 1, 10, 5, 2)
    time = torch.arange(4000)
    samples = torch.zeros(1, 4000, 1) if waveform == "silence" else 1e3 * torch.sin(0.01 * time)[None, :, None]
    samples.requires_grad_()
    with torch.no_grad():
        layer.conv.weight.copy_(F.pad(noise(256, 1, 6), (4, 4)).diff(n=4))
    layer(samples).sum().backward()
    assert layer.norm.running_var.isfinite().all()
    assert (layer.norm.running_var >= 0).all()
    assert all(tensor.grad.isfinite().all() for tensor in [samples, *layer.parameters()])


def test_masked_batch_norm_has_the_statistics_of_the_real_frames(noise):
    frame_mask = torch.arange(9) < torch.tensor([9, 4, 6])[:, None]
    values = noise(3, 9, 5, dtype=torch.float64)
    values[~frame_mask] = 100.0
    ours, theirs = SimBatchNorm(5).double(), nn.BatchNorm1d(5).double()
    inputs = [values.clone().requires_grad_(), values[frame_mask].clone().requires_grad_()]
    outputs = [ours(inputs[0], frame_mask)[frame_mask], theirs(inputs[1])]
    torch.testing.assert_close(*outputs)
    for output in outputs:
        output.backward(noise(19, 5, seed=1, dtype=torch.float64))
    torch.testing.assert_close(inputs[0].grad[frame_mask], inputs[1].grad)
    assert not inputs[0].grad[~frame_mask].any()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    torch.testing.assert_close([p.grad for p in ours.parameters()], [p.grad for p in theirs.parameters()])


@pytest.mark.parametrize("masked", [False, True])
def test_batch_statistics_of_half_precision_are_float32(masked, tiny_config, noise):
    """Loud audio: sums of squares that float16 does not hold."""
    layer = SimConvLayer(tiny_config(), 1, 10, 5, 2)
    half = copy.deepcopy(layer).half()
    waveform = 100 * noise(4, 4000, 1)
    frame_mask = torch.ones(4, layer.num_frames(4000)).bool() if masked else None
    output = half(waveform.half(), frame_mask)
    assert output.dtype == torch.float16
    torch.testing.assert_close(output.float(), layer(waveform, frame_mask), rtol=0.01, atol=0.02)


@pytest.mark.parametrize("use_batch_norm", [False, True])
def test_a_single_channel_after_the_waveform_is_padded_once(use_batch_norm, noise, monkeypatch):
    config = SimConfig.preset("sim-small", hidden_size=1, context_size=0, use_batch_norm=use_batch_norm)
    model = SimModel(config).eval()
    waveform = noise(2, 4000)
    means = model(waveform).means
    assert [mean.shape[1] for mean in means] == [config.num_frames(4000, module) for module in range(3)]
    monkeypatch.setattr(layers_sim, "ROW_PRODUCT_DEVICES", set())  # torch's convolutions
    torch.testing.assert_close(model(waveform).means, means)


@pytest.mark.parametrize("layers", [[0], [1], [0, 1]])
def test_compiled_layers_agree_with_their_neighbors_on_padding(layers, tiny_config, noise):
    model = SimModel(tiny_config(context_size=0)).eval()
    waveform = noise(2, 4000)
    means = model(waveform).means
    for layer in layers:
        model.conv_modules[0].layers[layer].compile(backend="eager")
    torch.testing.assert_close(model(waveform).means, means, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("real_frames", [0, 1])
def test_masked_batch_norm_of_no_frame_or_one_keeps_its_statistics_finite(real_frames, noise):
    norm = SimBatchNorm(5)
    output = norm(noise(2, 4, 5), torch.arange(8).view(2, 4) < real_frames)
    assert output.isfinite().all()
    assert all(buffer.isfinite().all() for buffer in norm.buffers())


# ---------------------------------------------------------------------- outputs


@variants
def test_model_outputs_have_the_documented_shapes(variant, make, noise):
    model = make(SimModel, variant)
    config = model.config
    output = model(noise(2, 4000), output_hidden_states=True)
    channels = [config.num_latents] * config.num_conv_modules + [config.context_size] * (config.context_size > 0)
    shapes = [(2, config.num_frames(4000, module), size) for module, size in enumerate(channels)]
    assert [tuple(state.shape) for state in output.hidden_states] == shapes
    assert [tuple(mean.shape) for mean in output.means] == shapes[: config.num_conv_modules]
    assert output.last_hidden_state is output.hidden_states[-1]
    assert output.frame_mask.tolist() == [[1] * shapes[-1][1]] * 2
    if config.latent_distribution == "gaussian":
        assert [tuple(value.shape) for value in output.log_variances] == shapes[: config.num_conv_modules]
    else:
        assert output.log_variances is None
    assert model(noise(2, 4000)).hidden_states is None
    assert isinstance(model(noise(2, 4000), return_dict=False), tuple)


@variants
def test_losses_are_finite_0_dim_float32_tensors_that_add_up(variant, make, noise):
    model = make(SimForPreTraining, variant)
    config = model.config
    output = model(noise(2, 4000), generator=seeded(), output_hidden_states=True)
    assert len(output.module_losses) == len(output.contrastive_losses) == config.num_modules
    assert len(output.kl_losses) == config.num_conv_modules
    for loss in [output.loss, *output.module_losses, *output.contrastive_losses, *output.kl_losses]:
        assert loss.shape == ()
        assert loss.dtype == torch.float32
        assert loss.isfinite()
    torch.testing.assert_close(output.loss, sum(output.module_losses))
    inputs = [model.sim.prepare_inputs(noise(2, 4000))[0], *output.hidden_states]
    for module in range(config.num_modules):
        expected = output.contrastive_losses[module].clone()
        if module < config.num_conv_modules:
            mean, _, _ = model.sim.encode_module(module, inputs[module])
            expected += config.kl_weights[module] * output.kl_losses[module]
            expected += config.covariance_weight * covariance_penalty(mean)
            expected += config.lagged_covariance_weight * lagged_covariance_penalty(
                mean[:, : config.loss_window], config.offsets
            )
            expected += config.independence_weight * independence_penalty(mean)
        torch.testing.assert_close(output.module_losses[module], expected)
        assert model.is_contrastive(module) == (not output.contrastive_accuracies[module].isnan())
    assert all((kl > 0) == (config.latent_distribution == "gaussian") for kl in output.kl_losses)


def test_masks_are_integers_and_agree_with_get_frame_mask(make, padded_batch):
    model = make(SimModel).eval()
    frame_mask = model(*padded_batch).frame_mask
    assert frame_mask.dtype == torch.int64
    assert torch.equal(frame_mask, model.get_frame_mask(padded_batch[1]))
    lengths = padded_batch[1].sum(1)
    assert frame_mask.sum(1).tolist() == model._get_feat_extract_output_lengths(lengths).tolist()
    assert frame_mask.sum(1).tolist() == [model.config.num_frames(int(length)) for length in lengths]


@pytest.mark.parametrize(
    ("shape", "mask_shape", "message"),
    [
        ((4000,), None, r"`input_values`.*\(4000,\)"),
        ((1, 4000, 1), None, "`input_values`"),
        ((1, 20), None, "465"),
        ((2, 4000), (2, 25), "`attention_mask`"),
    ],
)
def test_inputs_of_a_wrong_shape_say_what_is_right(shape, mask_shape, message, make, noise):
    mask = None if mask_shape is None else torch.ones(mask_shape)
    with pytest.raises(ValueError, match=message):
        make(SimModel)(noise(*shape), mask)


@pytest.mark.parametrize("lengths", [None, (60, 60)])
def test_audio_of_one_frame_cannot_be_pretrained_on(lengths, make, noise):
    model = make(SimForPreTraining).eval()
    mask = None if lengths is None else (torch.arange(600) < torch.tensor(lengths)[:, None]).long()
    with pytest.raises(ValueError, match="2 real frames" if lengths else "`offsets`"):
        model(noise(2, 100 if lengths is None else 600), mask)


# ---------------------------------------------------------------------- gradients


@variants
def test_a_modules_loss_reaches_its_own_parameters_and_no_other_unless_end_to_end(variant, make, noise):
    model = make(SimForPreTraining, variant)
    output = model(noise(2, 4000), generator=seeded())
    own = [{id(parameter) for parameter in model.module_parameters(m)} for m in range(model.config.num_modules)]
    assert sum(map(len, own)) == len(list(model.parameters()))
    reached = []
    for loss in output.module_losses:
        model.zero_grad()
        if loss.requires_grad:
            loss.backward(retain_graph=True)
        reached.append({id(parameter) for parameter in model.parameters() if parameter.grad is not None})
    if model.config.gradient_isolation:
        assert reached == own
    else:
        assert reached[-1] >= {id(parameter) for parameter in model.sim.conv_modules[0].parameters()}


@variants
def test_every_parameter_gets_a_gradient_from_the_summed_loss(variant, make, noise):
    model = make(SimForPreTraining, variant)
    model(noise(2, 4000), generator=seeded()).loss.backward()
    size = model.config.hidden_size
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # batch norm takes away what a bias adds
        assert parameter.grad.any() or (name.endswith("conv.bias") and model.config.use_batch_norm), name
        if "latent_head" in name and model.config.latent_distribution == "gaussian":
            assert parameter.grad[:size].any(), f"mean half of {name}"
            # nothing trains the variance of a latent that is neither sampled nor regularized
            assert parameter.grad[size:].any(), f"log-variance half of {name}"


def test_gradients_reach_the_waveform_through_the_encoder(make, noise):
    waveform = noise(2, 4000).requires_grad_()
    for model_class in (SimModel, SimForSequenceClassification):
        model = make(model_class).eval()
        next(tensors_of(model(waveform))).square().sum().backward()
        assert waveform.grad.count_nonzero() > 0.9 * waveform.numel()
        waveform.grad = None


def test_gradients_pass_a_frozen_encoder_to_the_waveform(make, noise):
    waveform = noise(1, 4000).requires_grad_()
    make(SimForSequenceClassification, freeze_encoder=True)(waveform).logits.sum().backward()
    assert waveform.grad.any()


def test_isolation_leaves_the_waveform_without_a_gradient_of_the_losses(make, noise):
    waveform = noise(1, 4000).requires_grad_()
    make(SimForPreTraining)(waveform).loss.backward()
    assert waveform.grad is None


# ---------------------------------------------------------------------- padding


@variants
def test_a_padded_utterance_equals_itself_unpadded_in_every_frame_of_every_module(variant, make, padded_batch):
    model = make(SimModel, variant).eval()
    for module in model.modules():  # statistics that are not those of initialization
        if isinstance(module, SimBatchNorm):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
    waveforms, attention_mask = padded_batch
    padded = model(waveforms, attention_mask, output_hidden_states=True)
    for row, length in enumerate(attention_mask.sum(1)):
        alone = model(waveforms[row : row + 1, :length], output_hidden_states=True)
        for name in ("hidden_states", "means", "log_variances"):
            for batch, single in zip(getattr(padded, name) or (), getattr(alone, name) or (), strict=True):
                frames = single.shape[1]
                torch.testing.assert_close(batch[row, :frames], single[0], rtol=1e-4, atol=1e-5)
                assert not batch[row, frames:].any()
        assert padded.frame_mask[row].sum() == alone.last_hidden_state.shape[1]


@pytest.mark.parametrize("model_class", [SimModel, SimForPreTraining])
@variants
def test_padded_frames_are_zero_in_training_too_and_real_ones_are_not(variant, model_class, make, padded_batch):
    model = make(model_class, variant)
    output = model(*padded_batch, output_hidden_states=True)
    encoder = getattr(model, "sim", model)
    for module, state in enumerate(output.hidden_states):
        frame_mask = encoder.get_frame_mask(padded_batch[1], module)
        assert torch.equal(state.any(-1).long(), frame_mask)


def test_padding_changes_no_batch_statistic_of_one_utterance(make, padded_batch):
    waveforms, attention_mask = padded_batch
    row, length = 0, int(attention_mask[0].sum())
    models = [make(SimModel, "gim").double() for _ in range(2)]
    padded = models[0](waveforms[[row]].double(), attention_mask[[row]], output_hidden_states=True)
    alone = models[1](waveforms[[row], :length].double(), output_hidden_states=True)
    for batch, single in zip(padded.hidden_states, alone.hidden_states, strict=True):
        torch.testing.assert_close(batch[:, : single.shape[1]], single)
        assert not batch[:, single.shape[1] :].any()
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict())


def test_batch_statistics_of_a_padded_batch_are_those_of_its_real_frames(make, padded_batch):
    """Layer by layer against torch, with statistics over the real frames of all utterances joined."""
    waveforms, attention_mask = padded_batch
    model = make(SimModel, "gim").double()
    reference = copy.deepcopy(model)
    output = model(waveforms.double(), attention_mask, output_hidden_states=True)

    utterances = [
        waveform[None, None, : mask.sum()].double() for waveform, mask in zip(waveforms, attention_mask, strict=True)
    ]
    for number, module in enumerate(reference.conv_modules):
        for layer in module.layers:
            conv, norm, relu = reference_layer(layer)
            outputs = [conv(utterance) for utterance in utterances]
            joined = relu(norm(torch.cat(outputs, dim=2)))
            utterances = list(joined.split([frames.shape[2] for frames in outputs], dim=2))
            layer.norm.load_state_dict(norm.state_dict())
        utterances = [module.latent_head(frames.transpose(1, 2)).transpose(1, 2) for frames in utterances]
        for row, frames in enumerate(utterances):
            torch.testing.assert_close(output.hidden_states[number][row, : frames.shape[2]], frames[0].T)
    torch.testing.assert_close(model.state_dict(), reference.state_dict())


@pytest.mark.parametrize("training", [True, False])
@variants
def test_what_padding_holds_changes_neither_losses_nor_gradients(variant, training, make, padded_batch):
    waveforms, attention_mask = padded_batch
    results = []
    for filler in (0.0, float("nan")):
        model = make(SimForPreTraining, variant).train(training)
        filled = waveforms.masked_fill(attention_mask == 0, filler)
        output = model(filled, attention_mask, generator=seeded(), output_hidden_states=True)
        output.loss.backward()
        results.append([*tensors_of(output), *gradients_of(model).values()])
    for clean, dirty in zip(*results, strict=True):
        assert torch.equal(clean.nan_to_num(-1), dirty.nan_to_num(-1))
        assert clean.isfinite().all() or clean.shape == ()  # the accuracy of a module without a contrastive loss


def test_a_mask_of_ones_changes_no_loss(make, noise):
    waveforms = noise(2, 4000)
    losses = [make(SimForPreTraining)(waveforms, mask, generator=seeded()).loss for mask in (None, torch.ones(2, 4000))]
    torch.testing.assert_close(*losses)


def test_an_utterance_of_padding_alone_enters_nothing(make, noise):
    """As a loader makes them to fill a last batch."""
    waveforms, mask = noise(3, 4000), torch.ones(3, 4000).long()
    mask[2] = 0
    model = make(SimModel)
    output = model(waveforms, mask, output_hidden_states=True)
    assert output.frame_mask.sum(1).tolist() == [25, 25, 0]
    for module, state in enumerate(output.hidden_states):
        assert not state[2].any()
        assert model.get_frame_mask(mask, module).sum(1)[2] == 0
    assert make(SimForPreTraining)(waveforms, mask).loss.isfinite()


# ---------------------------------------------------------------------- randomness


@variants
def test_evaluation_is_a_function_of_the_batch_and_training_of_the_generator(variant, make, noise):
    model, waveforms = make(SimForPreTraining, variant).eval(), noise(2, 25_000)
    first = model(waveforms, output_hidden_states=True)
    torch.rand(7)  # other users of the global generator
    second = model(waveforms, output_hidden_states=True)
    for one, other in zip(tensors_of(first), tensors_of(second), strict=True):
        assert torch.equal(one.nan_to_num(-1), other.nan_to_num(-1))
    model.train()
    losses = [model(waveforms, generator=generator).loss for generator in (None, None, seeded(3), seeded(3), seeded(4))]
    assert losses[0] != losses[1]
    assert torch.equal(losses[2], losses[3])
    assert losses[3] != losses[4]


def test_modules_one_by_one_have_the_evaluation_losses_of_the_whole(make, noise):
    model, waveforms = make(SimForPreTraining).eval(), noise(2, 4000)
    output = model(waveforms)
    hidden_states, lengths = model.sim.prepare_inputs(waveforms)
    for module in range(model.config.num_modules):
        one = model.module_objective(module, hidden_states, lengths)
        assert torch.equal(one.loss, output.module_losses[module])
        hidden_states, lengths = one.hidden_state, one.lengths


def test_the_generator_drives_the_encoders_noise(make, noise):
    model, waveforms = make(SimModel), noise(1, 4000)
    states = [model(waveforms, generator=generator).last_hidden_state for generator in (seeded(), seeded(), None)]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    model.eval()
    assert torch.equal(*[model(waveforms).last_hidden_state for _ in range(2)])
    assert not torch.equal(*[model(waveforms, sample=True).last_hidden_state for _ in range(2)])


@variants
def test_a_row_does_not_depend_on_the_rest_of_the_batch_in_evaluation(variant, make, noise):
    model, waveforms = make(SimModel, variant).eval(), noise(3, 4000)
    together = model(waveforms, output_hidden_states=True).hidden_states
    alone = model(waveforms[1:2], output_hidden_states=True).hidden_states
    for batch, single in zip(together, alone, strict=True):
        torch.testing.assert_close(batch[1:2], single, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------- settings that name themselves


def test_latents_are_normal_with_the_mean_and_variance_given(make, noise):
    model = make(SimModel, hidden_size=4)
    with torch.no_grad():
        head = model.conv_modules[0].latent_head
        head.weight.zero_()
        head.bias.copy_(torch.tensor([1.0, -1, 0, 2, 0, math.log(4), -2, -30]))
    output = model(noise(4, 40_000), output_hidden_states=True, generator=seeded())
    sample = output.hidden_states[0].flatten(0, 1)
    torch.testing.assert_close(sample.mean(0), torch.tensor([1.0, -1, 0, 2]), rtol=0, atol=0.06)
    torch.testing.assert_close(sample.std(0), torch.tensor([1.0, 2, math.exp(-1), 0]), rtol=0, atol=0.06)


def test_sample_latents_off_hands_on_means_in_training(make, noise):
    output = make(SimModel, "mean")(noise(1, 4000), output_hidden_states=True)
    for state, mean in zip(output.hidden_states, output.means, strict=False):
        assert torch.equal(state, mean)
    output = make(SimModel)(noise(1, 4000), output_hidden_states=True)
    assert not torch.equal(output.hidden_states[0], output.means[0])


@pytest.mark.parametrize("shared", [True, False])
def test_context_and_target_are_one_sample_only_with_shared_noise(shared, make, noise, monkeypatch):
    calls = []

    def spy(context, latents, *args, **kwargs):
        calls.append((context, latents))
        return objective(context, latents, *args, **kwargs)

    import modeling_sim.modeling_sim as module_under_test

    objective = module_under_test.info_nce
    monkeypatch.setattr(module_under_test, "info_nce", spy)
    make(SimForPreTraining, shared_noise=shared, loss_window=1000)(noise(2, 4000))
    for context, latents in calls[:3]:
        assert torch.equal(context, latents) == shared
    context, latents = calls[3]  # the context module predicts the latents that it reads
    assert context.shape[-1] == 8
    assert torch.equal(latents, calls[2][1])


def test_log_variance_clamp_bounds_log_variances(make, noise):
    model = make(SimModel, log_variance_clamp=(-0.01, 0.02)).eval()
    for log_variance in model(noise(1, 4000)).log_variances:
        assert log_variance.min() == torch.tensor(-0.01)
        assert log_variance.max() == torch.tensor(0.02)


def test_initial_log_variance_is_that_of_a_new_model(make, noise):
    model = make(SimModel, initial_log_variance=-4.0).eval()
    for module, log_variance in zip(model.conv_modules, model(noise(1, 4000)).log_variances, strict=True):
        assert torch.equal(module.latent_head.bias[16:], torch.full((16,), -4.0))
        assert module.latent_head.bias[:16].abs().max() <= 0.25
        assert log_variance.mean().item() == pytest.approx(-4, abs=0.6)


def test_free_bits_change_the_loss_and_not_the_reported_kl(make, noise):
    losses = [make(SimForPreTraining, free_bits=bits)(noise(2, 4000), generator=seeded()) for bits in (0.0, 100.0)]
    assert losses[0].kl_losses == losses[1].kl_losses
    for module, weight in enumerate(SimConfig().kl_weights):
        expected = losses[0].contrastive_losses[module] + weight * 16 * 100
        torch.testing.assert_close(losses[1].module_losses[module], expected)


def test_kl_weight_scale_warms_the_kl_up(make, noise):
    model, waveforms = make(SimForPreTraining), noise(2, 4000)
    inputs, _ = model.sim.prepare_inputs(waveforms)
    half = model.module_objective(0, inputs, generator=seeded(), kl_weight_scale=0.5)
    torch.testing.assert_close(half.loss, half.contrastive_loss + 0.5 * model.config.kl_weights[0] * half.kl_loss)


@pytest.mark.parametrize("negatives", ["not_positive", "same_utterance", "other_utterances"])
def test_the_source_of_negatives_is_a_setting(negatives, make, padded_batch):
    losses = [
        make(SimForPreTraining, negatives=source)(*padded_batch, generator=seeded()).loss
        for source in ("any", negatives)
    ]
    assert losses[0] != losses[1]
    assert losses[1].isfinite()


# ---------------------------------------------------------------------- SIM without its additions is GIM


@pytest.mark.parametrize(
    ("size", "samples"), [(16, 4000), (48, 4000), (128, 6000), pytest.param(512, 6000, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("padded", [False, True])
def test_deterministic_sim_with_beta_0_is_gim_to_the_bit(size, samples, padded, make, noise):
    sim = make(SimForPreTraining, "mean", hidden_size=size, context_size=size // 2, kl_weight=0.0)
    gim = make(SimForPreTraining, "gim", hidden_size=size, context_size=size // 2)
    gim.load_state_dict(
        {name: value[:size] if "latent_head" in name else value for name, value in sim.state_dict().items()}
    )
    mask = (torch.arange(samples) < torch.tensor([samples, samples - 1500])[:, None]).long() if padded else None
    losses = []
    for model in (sim, gim):
        losses.append(model(noise(2, samples), mask, generator=seeded()).loss)
        losses[-1].backward()
    assert torch.equal(*losses)
    expected = gradients_of(gim)
    for name, gradient in gradients_of(sim).items():
        shared = gradient[:size] if "latent_head" in name else gradient
        assert torch.equal(shared, expected.pop(name)), name
        assert not ("latent_head" in name and gradient[size:].any()), name
    assert not expected


# ---------------------------------------------------------------------- precision


def test_a_training_step_under_bfloat16_autocast_is_finite_with_float32_losses(make, padded_batch):
    model = make(SimForPreTraining)
    for mask in (None, padded_batch[1]):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(padded_batch[0].clamp(-4, 4), mask, generator=seeded())
        assert all(loss.dtype == torch.float32 for loss in output.module_losses + output.kl_losses)
        output.loss.backward()
        for name, gradient in gradients_of(model).items():
            assert gradient.dtype == torch.float32, name
            assert gradient.isfinite().all(), name
        full = model(padded_batch[0].clamp(-4, 4), mask, generator=seeded())
        torch.testing.assert_close(output.loss, full.loss, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@variants
def test_a_half_precision_model_runs_with_float32_losses(variant, dtype, make, padded_batch):
    for training in (True, False):
        model = make(SimForPreTraining, variant).to(dtype).train(training)
        output = model(padded_batch[0].clamp(-4, 4).to(dtype), padded_batch[1], output_hidden_states=True)
        assert output.loss.dtype == torch.float32
        assert output.loss.isfinite()
        assert all(state.dtype == dtype and state.isfinite().all() for state in output.hidden_states)


def test_the_gru_of_a_half_precision_model_computes_in_float32_on_a_cpu(make, noise):
    model = make(SimModel).bfloat16()
    output = model(noise(1, 8000).clamp(-1, 1).bfloat16(), output_hidden_states=True)
    gru = torch.nn.GRU(model.config.num_latents, model.config.context_size, batch_first=True)
    gru.load_state_dict(model.context.state_dict())
    assert torch.equal(output.last_hidden_state, gru(output.hidden_states[-2].float())[0].bfloat16())
    output.last_hidden_state.sum().backward()
    assert all(weight.grad.dtype == torch.bfloat16 and weight.grad.any() for weight in model.context.parameters())


def test_a_float64_model_is_float64_throughout(make, noise):
    model = make(SimModel, "gim").double()
    states = model(noise(1, 4000, dtype=torch.float64), output_hidden_states=True).hidden_states
    assert {state.dtype for state in states} == {torch.float64}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_model_takes_the_extractors_float32(dtype, make, noise):
    model, waveforms = make(SimModel, "gim").eval().to(dtype), noise(1, 4000)
    torch.testing.assert_close(model(waveforms).last_hidden_state, model(waveforms.to(dtype)).last_hidden_state)


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("model_class", AUTO_CLASSES)
def test_a_loaded_model_gives_the_same_output_in_the_same_dtype(model_class, dtype, make, noise, tmp_path):
    model = make(model_class, num_labels=3).eval().to(dtype)
    model.save_pretrained(tmp_path)
    loaded = AUTO_CLASSES[model_class].from_pretrained(tmp_path, device_map="cpu")
    assert type(loaded) is model_class
    assert loaded.dtype == dtype
    assert not loaded.training
    waveforms = noise(2, 4000).to(dtype)
    for one, other in zip(tensors_of(model(waveforms)), tensors_of(loaded(waveforms)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("saved_class", AUTO_CLASSES)
def test_every_class_loads_the_encoder_of_every_other(saved_class, make, tmp_path):
    saved = make(saved_class, initial_log_variance=-2.0)
    saved.save_pretrained(tmp_path)
    for loaded_class, auto_class in AUTO_CLASSES.items():
        loaded, report = auto_class.from_pretrained(tmp_path, output_loading_info=True)
        assert type(loaded) is loaded_class
        encoders = [getattr(model, "sim", model).state_dict() for model in (saved, loaded)]
        torch.testing.assert_close(*encoders, rtol=0, atol=0)
        assert all(value.isfinite().all() for value in loaded.state_dict().values())
        assert not any(name.startswith(("sim.", "conv_modules", "context")) for name in report["missing_keys"])
        assert not any(parameter.is_meta for parameter in loaded.parameters())


@pytest.mark.parametrize("model_class", [SimModel, *CLASSIFIERS])
def test_a_pretraining_checkpoint_loads_without_talk_of_unexpected_weights(model_class, make, tmp_path, caplog):
    make(SimForPreTraining).save_pretrained(tmp_path)
    logging.enable_propagation()
    try:
        report = AUTO_CLASSES[model_class].from_pretrained(tmp_path, output_loading_info=True)[1]
    finally:
        logging.disable_propagation()
    assert not report["unexpected_keys"]
    assert "UNEXPECTED" not in caplog.text


@pytest.mark.parametrize(
    ("part", "bound"),
    [
        ("sim.context.", 8**-0.5),
        ("predictors.", 8**-0.5),
        ("latent_head", 16**-0.5),
        (".conv.", 10**-0.5),
        ("running_", 1),
        ("num_batches_tracked", 0),
        (".norm.", 1),
        ("", 1),
    ],
)
def test_what_a_checkpoint_lacks_is_initialized_and_never_garbage(part, bound, make, tmp_path):
    model = make(SimForPreTraining, initial_log_variance=-3.0)
    kept = {name: value for name, value in model.state_dict().items() if part not in name}
    missing = set(model.state_dict()) - set(kept)
    assert missing
    kept.setdefault("nothing.of.the.model", torch.zeros(1))
    model.save_pretrained(tmp_path, state_dict=kept)
    torch.full((200_000,), float("nan"))  # what the next uninitialized memory may hold
    state = SimForPreTraining.from_pretrained(tmp_path).state_dict()
    for name in missing:
        value = state[name].float()
        if "latent_head.bias" in name:
            assert torch.equal(value[16:], torch.full((16,), -3.0))
            value = value[:16]
        elif "running_var" in name or name.endswith("norm.weight"):
            assert torch.equal(value, torch.ones_like(value))
        elif ".norm." in name:
            assert not value.any()
        else:
            assert value.unique().numel() > 1
        assert value.abs().max() <= bound
    for name in set(kept) & set(state):
        assert torch.equal(state[name], kept[name]), name


def test_a_loaded_log_variance_bias_is_not_initialized_again(make, tmp_path):
    model = make(SimForPreTraining, initial_log_variance=-3.0)
    with torch.no_grad():
        for module in model.sim.conv_modules:
            module.latent_head.bias.fill_(0.5)
    kept = {name: value for name, value in model.state_dict().items() if "latent_head.weight" not in name}
    model.save_pretrained(tmp_path, state_dict=kept)
    for module in SimForPreTraining.from_pretrained(tmp_path).sim.conv_modules:
        assert torch.equal(module.latent_head.bias, torch.full((32,), 0.5))


def test_a_new_model_has_torchs_own_initialization(tiny_config):
    """Bounds of the uniform distributions that `nn.Conv1d`, `nn.Linear` and `nn.GRU` start from."""
    torch.manual_seed(0)
    model = SimForPreTraining(tiny_config(hidden_size=64, context_size=32))
    largest = {name: parameter.abs().max().item() for name, parameter in model.named_parameters()}
    fan_ins = {
        "sim.conv_modules.0.layers.0.conv.weight": 10,
        "sim.conv_modules.0.layers.1.conv.weight": 8 * 64,
        "sim.conv_modules.2.layers.0.conv.weight": 4 * 64,
        "sim.conv_modules.0.latent_head.weight": 64,
        "sim.context.weight_ih_l0": 32,
        "sim.context.bias_hh_l0": 32,
        "predictors.0.weight": 64,
        "predictors.3.weight": 32,
    }
    for name, fan_in in fan_ins.items():
        assert 0.9 < largest[name] * math.sqrt(fan_in) <= 1, name


# ---------------------------------------------------------------------- export


@pytest.mark.trains
@pytest.mark.parametrize(("variant", "strict"), [("sim", True), ("gim-lowe", False)])
def test_exported_convolutional_modules_work_for_another_length(variant, strict, make, noise):
    class Convolutions(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.conv_modules = model.conv_modules

        def forward(self, input_values):
            hidden_states, outputs = input_values[..., None], []
            for module in self.conv_modules:
                hidden_states, log_variance, _ = module(hidden_states)
                outputs += [hidden_states] if log_variance is None else [hidden_states, log_variance]
            return outputs

    model = Convolutions(make(SimModel, variant).eval())
    any_length = {1: torch.export.Dim.DYNAMIC}
    exported = torch.export.export(model, (noise(1, 4000),), dynamic_shapes=(any_length,), strict=strict).module()
    for length in (1000, 5555, 20_480):
        outputs, expected = exported(noise(1, length)), model(noise(1, length))
        torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_compiled_training_step_works_for_changing_lengths(make, noise):
    model, compiled = make(SimForPreTraining, "gim"), torch.compile(make(SimForPreTraining, "gim"), backend="eager")
    for samples in (4000, 4800, 5600):
        torch.manual_seed(0)
        expected = model(noise(2, samples)).loss
        torch.manual_seed(0)
        loss = compiled(noise(2, samples)).loss
        torch.testing.assert_close(loss, expected)
        loss.backward()


def test_the_trainer_of_transformers_scales_accumulated_gradients(make, tmp_path):
    arguments = TrainingArguments(output_dir=tmp_path, report_to="none", use_cpu=True)
    assert not Trainer(make(SimForPreTraining), arguments).model_accepts_loss_kwargs


# ---------------------------------------------------------------------- classification heads


@pytest.mark.parametrize("settings", [{"probe_module": 4}, {"log_variance_clamp": [2, -10]}, {"kl_weight": -1.0}])
@pytest.mark.parametrize("head", CLASSIFIERS)
def test_settings_are_checked_when_a_checkpoint_is_loaded_with_others(settings, head, make, tmp_path):
    make(head, num_labels=3).save_pretrained(tmp_path)
    (name,) = settings
    with pytest.raises(StrictDataclassClassValidationError, match=name):
        head.from_pretrained(tmp_path, **settings)


def test_an_empty_batch_and_long_padding(make):
    model = make(SimModel).eval()
    with pytest.raises(ValueError, match="`input_values`"):
        model(torch.zeros(0, 4000))
    padding = torch.zeros(1, (LONG_SECONDS + 1) * model.config.sampling_rate)
    with torch.no_grad():
        assert not model(padding, torch.zeros_like(padding)).last_hidden_state.any()


@pytest.mark.parametrize("probe_module", [0, 1, 2, 3, -1, -2])
def test_heads_read_the_module_that_is_chosen(probe_module, make, padded_batch):
    waveforms, mask = padded_batch
    heads = [make(head, probe_module=probe_module, num_labels=3).eval() for head in CLASSIFIERS]
    by_utterance, by_frame = (head(waveforms, mask, output_hidden_states=True) for head in heads)
    states = by_utterance.hidden_states[probe_module]
    frame_mask = heads[0].sim.get_frame_mask(mask, probe_module)
    assert by_frame.logits.shape == (*frame_mask.shape, 3)
    torch.testing.assert_close(by_frame.logits, heads[1].classifier(states))
    means = torch.stack([state[keep == 1].mean(0) for state, keep in zip(states, frame_mask, strict=True)])
    assert by_utterance.logits.shape == (3, 3)
    torch.testing.assert_close(by_utterance.logits, heads[0].classifier(means))
    assert heads[0](waveforms).hidden_states is None
    alone = heads[0](waveforms[1:2, : mask[1].sum()]).logits
    torch.testing.assert_close(by_utterance.logits[1:2], alone, rtol=1e-4, atol=1e-5)


def test_utterances_labeled_minus_100_do_not_enter_the_loss(make, noise):
    head = make(SimForSequenceClassification, num_labels=3).eval()
    output = head(noise(3, 4000), labels=torch.tensor([2, -100, 0]))
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits[[0, 2]], torch.tensor([2, 0])))
    assert head(noise(3, 4000)).loss is None
    unlabeled = head(noise(3, 4000), labels=torch.full((3,), -100)).loss
    unlabeled.backward()
    assert not unlabeled  # NaN would be true
    assert not head.classifier.weight.grad.any()


def test_frames_labeled_minus_100_and_padding_do_not_enter_the_loss(make, padded_batch):
    head = make(SimForAudioFrameClassification, num_labels=3, probe_module=1).eval()
    frame_mask = head.sim.get_frame_mask(padded_batch[1], 1)
    labels = torch.randint(3, frame_mask.shape, generator=seeded())
    labels[0, 3] = -100
    output = head(*padded_batch, labels=labels)
    keep = (frame_mask == 1) & (labels != -100)
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits[keep], labels[keep]))
    with pytest.raises(ValueError, match="`labels`"):
        head(*padded_batch, labels=labels[:, :7])


@pytest.mark.parametrize("head_class", CLASSIFIERS)
def test_a_frozen_encoder_stays_as_it_is_while_its_head_trains(head_class, make, noise, tmp_path):
    head = make(head_class, num_labels=3, freeze_encoder=True)
    head.save_pretrained(tmp_path)
    for model in (head, head_class.from_pretrained(tmp_path)):
        model.train()
        before = copy.deepcopy(model.state_dict())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(2):
            labels = torch.tensor([0, 2]) if head_class is SimForSequenceClassification else torch.ones(2, 25).long()
            model(noise(2, 4000, seed=step), labels=labels).loss.backward()
            optimizer.step()
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert changed == {"classifier.weight", "classifier.bias"}
        assert {name for name, p in model.named_parameters() if p.requires_grad} == changed


def test_an_encoder_can_be_frozen_later(make, noise):
    head = make(SimForSequenceClassification)
    assert head.sim.training
    head.freeze_base_model()
    head.train()
    assert not head.sim.training
    assert head.classifier.training
    assert torch.equal(*[head(noise(1, 4000)).logits for _ in range(2)])


@pytest.mark.parametrize("frozen", [False, True])
def test_what_a_user_freezes_and_frees_stays_so_in_every_mode(frozen, make):
    head = make(SimForSequenceClassification, freeze_encoder=frozen)
    head.sim.conv_modules[0].requires_grad_(requires_grad=False)
    head.sim.conv_modules[1].requires_grad_()
    for mode in (False, True):
        head.train(mode)
        assert not any(parameter.requires_grad for parameter in head.sim.conv_modules[0].parameters())
        assert all(parameter.requires_grad for parameter in head.sim.conv_modules[1].parameters())


@pytest.mark.parametrize("head_class", CLASSIFIERS)
@pytest.mark.parametrize("probe_module", range(4))
def test_fine_tuning_trains_every_parameter_that_can_learn(probe_module, head_class, make, noise, tmp_path):
    make(head_class, num_labels=3, probe_module=probe_module).save_pretrained(tmp_path)
    head = head_class.from_pretrained(tmp_path).train()
    head(noise(2, 4000)).logits.square().sum().backward()
    for name, parameter in head.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    learning = {name.split(".")[2] for name in gradients_of(head) if name.startswith("sim.conv_modules")}
    assert learning == {str(module) for module in range(min(probe_module, 2) + 1)}
    assert any(name.startswith("sim.context") for name in gradients_of(head)) == (probe_module == 3)


def test_a_head_runs_in_the_audio_classification_pipeline(make, noise):
    head = make(SimForSequenceClassification, id2label={0: "low", 1: "high", 2: "none"}, label2id=None).eval()
    classify = pipeline("audio-classification", model=head, feature_extractor=SimFeatureExtractor(), device="cpu")
    waveform = noise(8000).clamp(-1, 1).numpy()
    scores = {entry["label"]: entry["score"] for entry in classify(waveform, top_k=3)}
    expected = head(torch.from_numpy(waveform)[None]).logits.softmax(-1)[0].tolist()
    assert scores == pytest.approx(dict(zip(["low", "high", "none"], expected, strict=True)))


def test_a_file_of_another_rate_reaches_the_pipeline_as_an_array(make, noise, tmp_path):
    soundfile.write(tmp_path / "speech.wav", 0.1 * noise(11_025).numpy(), 22_050)
    head = make(SimForSequenceClassification, num_labels=2, problem_type="multi_label_classification").eval()
    classify = pipeline("audio-classification", model=head, feature_extractor=SimFeatureExtractor(), device="cpu")
    audio = read_audio({"path": str(tmp_path / "speech.wav")}, sampling_rate=16_000)
    assert len(audio) == 8000
    scores = {entry["label"]: entry["score"] for entry in classify(audio)}
    expected = head(torch.from_numpy(audio)[None]).logits.sigmoid()[0].tolist()
    assert scores == pytest.approx({"LABEL_0": expected[0], "LABEL_1": expected[1]})


# ---------------------------------------------------------------------- it learns


@pytest.mark.trains
@pytest.mark.parametrize("variant", ["sim", "gim", "cpc"])
def test_training_lifts_contrastive_accuracy_above_chance(variant, make):
    """Utterances of one tone each: the pitch is in every frame, so other frames of the utterance are predictable."""
    torch.manual_seed(0)
    pitches = torch.rand(16, 1, generator=seeded()) * 0.2 + 0.02
    waveforms = torch.sin(torch.arange(4000) * pitches)
    settings = {"initial_log_variance": -4.0, "negatives": "other_utterances"}
    model = make(SimForPreTraining, variant, hidden_size=32, context_size=16, **settings)
    chance = 1 / (model.config.num_negatives + 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = seeded()
    first = None
    for _ in range(60):
        output = model(waveforms, generator=generator)
        first = first if first is not None else output.loss.item()
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    assert output.loss.item() < 0.8 * first
    assert output.contrastive_accuracies[-1] > 3 * chance


def test_forward_raises_no_warning(make, padded_batch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(SimForPreTraining)(*padded_batch).loss.backward()


# ---------------------------------------------------------------------- other tools


@pytest.mark.parametrize(
    ("place", "dtype"),
    [("left", torch.int64), ("hole", torch.bool), ("one sample", torch.float32), ("one row", torch.int64)],
)
def test_padding_before_or_within_the_audio_is_an_error(place, dtype, make, noise):
    mask = torch.ones(3, 4000)
    if place == "left":
        mask[:, :1000] = 0
    elif place == "hole":
        mask[:, 1000:2000] = 0
    elif place == "one sample":
        mask[:, 0] = 0
    else:
        mask[2, :1000] = 0
    for model_class in AUTO_CLASSES:
        with pytest.raises(ValueError, match="`attention_mask`"):
            make(model_class)(noise(3, 4000), mask.to(dtype))
    with pytest.raises(ValueError, match="`attention_mask`"):
        make(SimModel).get_frame_mask(mask.to(dtype))


@pytest.mark.parametrize("model_class", AUTO_CLASSES)
def test_an_input_of_another_type_names_the_extractor(model_class, make, noise):
    audio = noise(1, 4000)
    for given in (audio.numpy(), audio.tolist(), audio.double(), audio.to(torch.int16), audio.long()):
        with pytest.raises(TypeError, match="SimFeatureExtractor"):
            make(model_class)(given)


@pytest.mark.parametrize("has_mask", [True, False])
def test_the_mean_over_long_audio_fits_into_float16(has_mask, make, noise, monkeypatch):
    head = make(SimForSequenceClassification, num_labels=3).eval().half()
    frames = noise(1, 70_000, head.classifier.in_features).half() + 4  # whose sum, and number, are beyond float16
    mask = torch.ones(frames.shape[:2], dtype=torch.bool) if has_mask else None
    monkeypatch.setattr(head, "probed_frames", lambda *_: (frames, mask, None))
    expected = head.float().classifier(frames.float().mean(dim=1))
    torch.testing.assert_close(head.half()(None).logits.float(), expected, rtol=1e-2, atol=1e-2)


def test_a_mask_that_is_no_tensor_is_named(make, noise):
    with pytest.raises(TypeError, match="attention_mask"):
        make(SimModel)(noise(2, 4000), [[1] * 4000] * 2)


@pytest.mark.parametrize(("training", "masked"), [(True, True), (False, False)])
@pytest.mark.parametrize(
    ("model_class", "variant"), [*((each, "sim") for each in AUTO_CLASSES), (SimForPreTraining, "gim-lowe")]
)
def test_a_model_runs_on_the_meta_device(model_class, variant, training, masked, make, padded_batch):
    model = make(model_class, variant).train(training)
    on_meta = copy.deepcopy(model).to("meta")
    mask = padded_batch[1] if masked else None
    outputs = (
        model(padded_batch[0], mask),
        on_meta(padded_batch[0].to("meta"), mask if mask is None else mask.to("meta")),
    )
    for one, other in zip(*map(tensors_of, outputs), strict=True):
        if one is not None:
            assert (one.shape, one.dtype) == (other.shape, other.dtype)
            assert other.is_meta


@pytest.mark.parametrize("sound", [0.0, 0.3], ids=["silence", "DC"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("variant", ["sim", "gim-lowe", "cpc", "Gaussian critic"])
def test_audio_without_anything_to_predict_is_at_chance(variant, training, sound, make):
    model = make(SimForPreTraining, variant, hidden_size=32).train(training)
    mask = torch.arange(20_480) < torch.tensor([20_480, 9000, 15_000])[:, None]
    for masked in (None, mask):
        for dtype in (torch.float32, torch.bfloat16):
            with torch.autocast("cpu", dtype=dtype, enabled=dtype == torch.bfloat16):
                output = model(torch.full((3, 20_480), sound), masked, sample=False, generator=seeded())
            for accuracy in output.contrastive_accuracies:  # but for the frames at the zeros past both ends
                assert accuracy.isnan() or abs(accuracy - 1 / (model.config.num_negatives + 1)) < 0.03


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("model_class", [SimModel, SimForSequenceClassification])
@pytest.mark.filterwarnings("ignore")
def test_a_traced_model_is_saved_and_runs_on_another_length(model_class, masked, make, noise):
    model = make(model_class, return_dict=False).eval()

    def inputs(samples):
        mask = (torch.arange(samples) < torch.tensor([samples, samples // 2])[:, None]).long()
        return (noise(2, samples), mask) if masked else (noise(2, samples),)

    with torch.no_grad():
        traced = torch.jit.trace(model, inputs(4000), strict=False, check_trace=False)
        buffer = io.BytesIO()
        torch.jit.save(traced, buffer)
        buffer.seek(0)
        loaded = torch.jit.load(buffer)
        for samples in (4000, 9000):
            torch.testing.assert_close(loaded(*inputs(samples))[0], model(*inputs(samples))[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_synchronized_batch_norm_takes_the_place_of_ours(training, make, padded_batch):
    for mask in (None, padded_batch[1]):
        model = make(SimModel, "gim").train(training)
        converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
        assert not any(isinstance(module, SimBatchNorm) for module in converted.modules())
        states = [one(padded_batch[0], mask).last_hidden_state for one in (model, converted)]
        torch.testing.assert_close(*states, rtol=1e-4, atol=1e-5)
        for one, other in zip(model.buffers(), converted.buffers(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_a_replaced_or_wrapped_norm_sees_the_rows_of_real_frames(training, make, padded_batch):
    """Plain batch norm, as from a conversion back from `nn.SyncBatchNorm`, and a wrapper as of adapters."""
    for mask in (None, padded_batch[1]):
        model = make(SimModel, "gim").train(training)
        expected = model(padded_batch[0], mask).last_hidden_state
        for wrap in (nn.Sequential, lambda norm: nn.BatchNorm1d(norm.num_features, norm.eps, norm.momentum)):
            wrapped = make(SimModel, "gim")
            for layer in wrapped.modules():
                if isinstance(layer, SimConvLayer):
                    layer.norm = wrap(layer.norm)
            states = wrapped.train(training)(padded_batch[0], mask).last_hidden_state
            torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-5)


def test_a_hook_on_a_convolution_sees_long_audio_and_streams(make, noise):
    """Which arrive with frames of the audio in place of the padding that the convolution adds."""
    model, waveform = make(SimModel).eval(), noise(1, 5000)
    with torch.no_grad():
        expected = model.step(waveform, model.initial_state(1), last=True)[0]
        convolutions = [module for module in model.modules() if isinstance(module, nn.Conv1d)]
        for conv in convolutions:
            conv.register_forward_hook(lambda _module, _inputs, output: output * 1.0)
        hooked = model.step(waveform, model.initial_state(1), last=True)[0]
        for module, other in zip(expected, hooked, strict=True):
            torch.testing.assert_close(module.mean, other.mean, rtol=1e-4, atol=1e-5)
        convolutions[1].register_forward_hook(lambda _module, _inputs, output: output * 0.0)
        changed = model.step(waveform, model.initial_state(1), last=True)[0]
    assert not torch.allclose(changed[0].mean, expected[0].mean)


def test_what_a_hook_keeps_is_not_overwritten(make, noise):
    model, kept = make(SimModel).eval(), []
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.BatchNorm1d)):
            module.register_forward_hook(lambda *call: kept.append((call[-1], call[-1].clone())))
    with torch.no_grad():
        model(noise(1, 4000))
    assert len(kept) == 10
    assert all(torch.equal(output, copied) for output, copied in kept)


def test_parametrized_weights_are_used(make, noise):
    model = make(SimForPreTraining).eval()
    expected = model(noise(2, 4000)).loss
    for name, layer in list(model.named_modules()):
        if isinstance(layer, (SimConv1d, nn.Linear)) or name.startswith("predictors."):
            nn.utils.parametrizations.weight_norm(layer)
    torch.testing.assert_close(model(noise(2, 4000)).loss, expected)


@pytest.mark.parametrize(
    "change",
    [
        torch.nn.utils.parametrizations.weight_norm,
        torch.nn.utils.weight_norm,
        torch.nn.utils.parametrizations.spectral_norm,
        torch.nn.utils.spectral_norm,
        lambda module: torch.nn.utils.prune.l1_unstructured(module, "weight", 0.5),
    ],
    ids=["weight_norm", "old weight_norm", "spectral_norm", "old spectral_norm", "pruning"],
)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_reparametrized_weights_are_the_ones_that_compute(change, make, noise):
    model = make(SimForPreTraining, "mean", kl_weight=0.0)
    hidden = noise(2, 400, 16)
    layer, head, predictor = (
        model.sim.conv_modules[1].layers[0],
        model.sim.conv_modules[1].latent_head,
        model.predictors["1"],
    )
    for module in (layer.conv, head, predictor):
        change(module)
    model.eval()
    with torch.no_grad():
        output = layer(hidden)  # a hook sets the weight that is read next
        outputs = F.conv1d(hidden.transpose(1, 2), layer.conv.weight, layer.conv.bias, 2, 2).transpose(1, 2)
        torch.testing.assert_close(output, F.relu(layer.norm(outputs)))
    loss = model.train()(noise(2, 4000), generator=seeded()).loss
    loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in model.named_parameters()}


class Adapted(nn.Module):
    """A convolution with a low-rank one on top, on the layout of `nn.Conv1d`, as LoRA makes it."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.down = nn.Conv1d(base.in_channels, 2, base.kernel_size, base.stride, base.padding, bias=False)
        self.up = nn.Conv1d(2, base.out_channels, 1, bias=False)
        base.requires_grad_(requires_grad=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, hidden_states):
        return self.base(hidden_states) + self.up(self.down(hidden_states))

    def merged(self):
        self.base.weight.data += torch.einsum("or,rik->oik", self.up.weight[..., 0], self.down.weight).detach()
        return self.base


def test_low_rank_adapters_of_convolutions_train_and_merge(make, noise):
    model = make(SimForSequenceClassification, num_labels=2)
    waveforms, labels = noise(4, 4000), torch.tensor([0, 1, 1, 0])
    before = model.eval()(waveforms).logits
    layers = [layer for layer in model.modules() if isinstance(layer, SimConvLayer)]
    for layer in layers:
        layer.conv = Adapted(layer.conv)
    torch.testing.assert_close(model(waveforms).logits, before)
    model.sim.context.requires_grad_(requires_grad=False)
    model.classifier.requires_grad_(requires_grad=False)
    trained = [parameter for layer in layers for parameter in (layer.conv.down.weight, layer.conv.up.weight)]
    optimizer, losses = torch.optim.Adam(trained, lr=0.05), []
    for _ in range(15):
        losses.append(model(waveforms, labels=labels).loss)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.95 * losses[0]
    adapted = model(waveforms).logits
    for layer in layers:
        layer.conv = layer.conv.merged()
    torch.testing.assert_close(model(waveforms).logits, adapted, rtol=1e-4, atol=1e-5)


def test_offloaded_weights_are_loaded_before_they_are_used(make, noise):
    for variant in ("sim", "mean"):
        model = make(SimForPreTraining, variant, kl_weight=0.0).eval()
        offloaded = accelerate.cpu_offload(copy.deepcopy(model), execution_device="cpu")
        assert all(parameter.is_meta for parameter in offloaded.parameters())
        torch.testing.assert_close(offloaded(noise(2, 4000)).loss, model(noise(2, 4000)).loss)


def test_pruned_weights_stay_zero_while_the_others_train(make, noise):
    model = make(SimForPreTraining)
    convs = [layer for layer in model.modules() if isinstance(layer, SimConv1d)]
    for conv in convs:
        nn.utils.prune.l1_unstructured(conv, "weight", amount=0.5)
    before = [conv.weight_orig.clone() for conv in convs]
    model(noise(2, 4000)).loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    expected = model.eval()(noise(2, 4000)).loss
    for conv, original in zip(convs, before, strict=True):
        kept = conv.weight_mask.bool()
        assert torch.equal(conv.weight_orig[~kept], original[~kept])
        assert not torch.equal(conv.weight_orig[kept], original[kept])
        nn.utils.prune.remove(conv, "weight")
        assert conv.weight[~kept].eq(0).all()
    torch.testing.assert_close(model(noise(2, 4000)).loss, expected)


def test_functional_gradients_are_autograds_and_what_cannot_be_transformed_is_an_error(make, noise):
    model = make(SimModel, "mean").eval()
    parameters = dict(model.named_parameters())

    def loss(parameters, waveforms):
        return torch.func.functional_call(model, parameters, (waveforms,)).last_hidden_state.square().sum()

    gradients = torch.func.grad(loss)(parameters, noise(2, 4000))
    loss(parameters, noise(2, 4000)).backward()
    for name, expected in gradients_of(model).items():
        torch.testing.assert_close(gradients[name], expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(RuntimeError, match="vmap"):
        torch.func.vmap(lambda waveform: model(waveform).last_hidden_state)(noise(2, 1, 4000))
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(lambda waveforms: model(waveforms).last_hidden_state, (noise(1, 4000),), (noise(1, 4000),))


@pytest.mark.parametrize("how", ["compile", "export"])
def test_a_graph_refuses_padding_before_the_audio(how, make, noise):
    model, waveforms = make(SimModel, context_size=0).eval(), noise(2, 4000)
    right, left = torch.ones(2, 2, 4000).long()
    right[0, 3000:] = left[0, :1000] = 0
    if how == "compile":
        graph = torch.compile(model, backend="eager", fullgraph=True)
    else:
        model.config.return_dict = False
        graph = torch.export.export(model, (waveforms, right)).module()
    with torch.no_grad():
        torch.testing.assert_close(graph(waveforms, right)[0], model(waveforms, right)[0], rtol=1e-4, atol=1e-5)
        with pytest.raises(RuntimeError, match="attention_mask"):
            graph(waveforms, left)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_sample_that_is_no_number_shows_in_the_loss_and_spares_other_utterances(value, make, noise):
    broken = noise(2, 4000).clone()
    broken[0, 2000] = value
    model = make(SimForPreTraining).eval()
    assert not model(broken).loss.isfinite()
    states = [model.sim(waveforms).last_hidden_state for waveforms in (broken, noise(2, 4000))]
    assert not states[0][0].isfinite().all()
    assert torch.equal(states[0][1], states[1][1])


def seen_by_hooks(model, kind):
    """Hooks the modules of some kinds; the list fills with the names of those that are called."""
    seen = []
    for name, module in model.named_modules():
        if isinstance(module, kind):
            module.register_forward_hook(lambda *_, name=name: seen.append(name))
    return seen


@pytest.mark.parametrize("variant", ["sim", "mean", "gim"])
@pytest.mark.parametrize("training", [True, False])
def test_every_module_with_weights_is_called_if_it_is_hooked_and_nothing_changes(training, variant, make, padded_batch):
    for mask in (None, padded_batch[1]):
        model = make(SimForPreTraining, variant, kl_weight=0.0).train(training)
        hooked = copy.deepcopy(model)
        seen = seen_by_hooks(hooked, (nn.Conv1d, nn.BatchNorm1d, nn.Linear, nn.GRU, SimPredictor))
        outputs = [one(padded_batch[0], mask, generator=seeded()) for one in (model, hooked)]
        expected = {name.rsplit(".", 1)[0] for name, _ in model.named_parameters()}
        assert set(seen) == expected
        torch.testing.assert_close(outputs[0].loss, outputs[1].loss, rtol=1e-4, atol=1e-4)
        for one, other in zip(model.buffers(), hooked.buffers(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head_class", CLASSIFIERS)
def test_several_labels_at_once_have_a_loss_of_their_own_each(head_class, make, padded_batch):
    for problem_type in (None, "multi_label_classification"):
        head = make(head_class, num_labels=3, problem_type=problem_type, probe_module=1).eval()
        logits = head(*padded_batch).logits
        labels = torch.randint(2, logits.shape, generator=seeded()).float()
        labels[0, ..., 1] = -100
        keep = labels != -100
        if head_class is SimForAudioFrameClassification:
            keep &= head.sim.get_frame_mask(padded_batch[1], 1)[..., None] == 1
        expected = F.binary_cross_entropy_with_logits(logits[keep], labels[keep])
        for given in (labels, labels.long()):
            torch.testing.assert_close(head(*padded_batch, labels=given).loss, expected)
        assert head.config.problem_type == "multi_label_classification"


@pytest.mark.parametrize("num_labels", [1, 3])
@pytest.mark.parametrize("head_class", CLASSIFIERS)
def test_a_regression_has_the_squared_error(num_labels, head_class, make, padded_batch):
    head = make(head_class, num_labels=num_labels, problem_type=None if num_labels == 1 else "regression").eval()
    logits = head(*padded_batch).logits
    labels = torch.randn(logits.shape, generator=seeded())
    keep = torch.ones_like(labels, dtype=torch.bool)
    if head_class is SimForAudioFrameClassification:
        keep &= head.sim.get_frame_mask(padded_batch[1])[..., None] == 1
    expected = F.mse_loss(logits[keep], labels[keep])
    for given in [labels] + [labels[..., 0]] * (num_labels == 1):
        torch.testing.assert_close(head(*padded_batch, labels=given).loss, expected)
    assert head.config.problem_type == "regression"


@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [
        (None, torch.zeros(3)),
        ("multi_label_classification", torch.zeros(3).long()),
        ("multi_label_classification", torch.zeros(3, 2)),
        ("single_label_classification", torch.zeros(3, 4)),
        ("single_label_classification", torch.zeros(3)),
        ("regression", torch.zeros(3)),
    ],
)
def test_labels_that_do_not_fit_the_problem_are_refused(problem_type, labels, make, noise):
    head = make(SimForSequenceClassification, num_labels=4, problem_type=problem_type)
    with pytest.raises(ValueError, match=r"`labels` .*problem_type"):
        head(noise(3, 4000), labels=labels)


@pytest.mark.parametrize("problem_type", ["multi_label_classification", "regression"])
def test_padding_never_counts_where_there_is_one_label(problem_type, make, padded_batch):
    head = make(SimForAudioFrameClassification, num_labels=1, problem_type=problem_type).eval()
    labels = torch.zeros_like(head(*padded_batch).logits)
    padding = head.sim.get_frame_mask(padded_batch[1]) == 0
    losses = [head(*padded_batch, labels=labels).loss]
    labels[padding] = 1
    losses.append(head(*padded_batch, labels=labels).loss)
    assert losses[0].isfinite()
    assert torch.equal(*losses)


def test_the_trainer_of_transformers_evaluates_without_labels(make, noise, tmp_path):
    every = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True}
    arguments = TrainingArguments(tmp_path, **every, **quiet, max_steps=1, load_best_model_at_end=True)
    rows = [{"input_values": noise(4000, seed=seed)} for seed in range(4)]
    model = make(SimForPreTraining)
    trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    assert trainer.state.best_metric == pytest.approx(trainer.evaluate()["eval_loss"])
    assert trainer.predict(rows).predictions is not None
    assert model(noise(2, 4000), return_loss=False).loss is None


def test_the_auto_processor_of_a_saved_model_is_its_extractor(make, tmp_path):
    make(SimModel).save_pretrained(tmp_path)
    SimFeatureExtractor(min_samples=500).save_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(processor, SimFeatureExtractor)
    assert processor.min_samples == 500
