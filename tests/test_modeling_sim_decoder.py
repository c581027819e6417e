"""Decoders: the paper's shapes, exact lengths, saving and loading as any model, and the functions on latents."""

import math

import numpy as np
import pytest
import torch
from transformers import AutoModel

from modeling_sim import SimConfig, SimDecoder, SimDecoderConfig, SimModel, modeling_sim_decoder
from modeling_sim.analysis.sound_properties import sound_properties
from modeling_sim.latents import decode, encode, interpolate, swap, traverse
from modeling_sim.modeling_sim_decoder import synthesize
from tests.test_remote_code import run


def decoder(**overrides):
    torch.manual_seed(0)
    config = {"latent_size": 6, "hidden_size": 8, **overrides}
    return SimDecoder(SimDecoderConfig(**config)).eval()


@pytest.mark.parametrize(("module", "parameters"), [(0, 7_081_985), (1, 4_200_961), (2, 5_250_049)])
def test_the_papers_decoders_have_the_papers_sizes(module, parameters):
    config = SimDecoderConfig.for_module(SimConfig(), module)
    assert sum(parameter.numel() for parameter in SimDecoder(config).parameters()) == parameters
    for samples in (10_240, 20_480):
        assert config.num_samples(SimConfig().num_frames(samples, module)) == samples


@pytest.mark.parametrize("preset", SimConfig.preset_names())
def test_every_module_of_every_preset_has_a_decoder_of_the_right_length(preset):
    encoder = SimConfig.preset(preset)
    for module in range(encoder.num_modules):
        config = SimDecoderConfig.for_module(encoder, module)
        assert config.num_samples(encoder.num_frames(10_240, module)) == 10_240
        reads_context = module == encoder.num_conv_modules
        assert config.latent_size == (encoder.context_size if reads_context else encoder.num_latents)


@pytest.mark.parametrize("frames", [1, 2, 7, 64])
@pytest.mark.parametrize("architecture", ["convolutions", "source_filter"])
def test_the_output_has_the_announced_length_for_any_number_of_frames(frames, architecture):
    model = decoder(architecture=architecture)
    latents = torch.randn(2, frames, 6)
    assert model(latents).waveforms.shape == (2, model.config.num_samples(frames))
    for wanted in (1, model.config.num_samples(frames) - 3, model.config.num_samples(frames) + 5):
        waveforms = model(latents, wanted).waveforms
        assert waveforms.shape == (2, wanted)
        common = min(wanted, model.config.num_samples(frames))
        torch.testing.assert_close(waveforms[:, :common], model(latents).waveforms[:, :common])
        assert not waveforms[:, common:].any()


@pytest.mark.parametrize("architecture", ["convolutions", "source_filter"])
def test_padded_utterances_are_decoded_as_alone(architecture):
    model = decoder(architecture=architecture)
    model.config.return_dict = False
    frames, latents = [12, 30], torch.randn(2, 30, 6)
    assert torch.equal(decode(model, latents), model(latents)[0])
    latents[0, frames[0] :] = 0.0
    lengths = [model.config.num_samples(count) - 7 for count in frames]
    waveforms = model(latents, lengths, return_dict=True).waveforms
    assert waveforms.shape == (2, lengths[1])
    assert not waveforms[0, lengths[0] :].any()
    for row, (count, length) in enumerate(zip(frames, lengths, strict=True)):
        alone = model(latents[row : row + 1, :count], length, return_dict=True).waveforms[0]
        torch.testing.assert_close(waveforms[row, :length], alone)


def test_frames_after_an_utterance_are_0_and_left_out(tiny_config):
    encoder = SimModel(tiny_config()).eval()
    lengths = torch.tensor([1239, 2000])
    audio = torch.randn(2, 2000)
    mask = torch.arange(2000) < lengths[:, None]
    batch = encoder(audio * mask, mask, output_hidden_states=True).hidden_states[0]
    alone = encoder(audio[:1, :1239], output_hidden_states=True).hidden_states[0]
    model = decoder(latent_size=batch.shape[2])
    torch.testing.assert_close(model(batch, lengths).waveforms[0, :1239], model(alone, 1239).waveforms[0])


@pytest.mark.parametrize("architecture", ["convolutions", "source_filter"])
def test_latents_are_converted_to_the_weights_and_empty_ones_refused(architecture):
    model, latents = decoder(architecture=architecture), torch.randn(2, 9, 6)
    expected = model(latents).waveforms
    torch.testing.assert_close(model(latents.double()).waveforms, expected)
    assert model.bfloat16()(latents).waveforms.shape == expected.shape
    with pytest.raises(ValueError, match="`latents`"):
        model(latents[:0])


@pytest.mark.parametrize("lengths", [-5, torch.tensor([100]), torch.tensor([[100, 100]]), [1, 2, 3]])
def test_there_is_one_length_per_utterance(lengths):
    with pytest.raises(ValueError, match="`num_samples`"):
        decoder()(torch.randn(2, 4, 6), lengths)


def test_it_is_plain_transposed_convolutions_of_standardized_latents():
    model = decoder()
    mean, scale = torch.randn(6), torch.rand(6) + 0.5
    model.set_standardization(mean, scale)
    latents = torch.randn(1, 5, 6)
    hidden = ((latents - mean) / scale).transpose(1, 2)
    for number, layer in enumerate(model.layers):
        hidden = torch.nn.functional.conv_transpose1d(
            hidden if number == 0 else hidden.clamp(min=0),
            layer.weight,
            layer.bias,
            layer.stride,
            layer.padding,
            layer.output_padding,
        )
    torch.testing.assert_close(model(latents).waveforms, hidden[:, 0])


@pytest.mark.trains
@pytest.mark.parametrize("architecture", ["convolutions", "source_filter"])
def test_it_is_saved_and_loaded_like_any_model_with_and_without_the_package(tmp_path, architecture):
    model = decoder(architecture=architecture)
    model.set_standardization(torch.randn(6), torch.rand(6) + 0.5)
    if architecture == "source_filter":
        model.set_pitch(torch.randn(6), 7.0)
    model.save_pretrained(tmp_path / "decoder")
    latents = torch.randn(2, 5, 6)
    again = AutoModel.from_pretrained(tmp_path / "decoder")
    assert torch.equal(again(latents).waveforms, model(latents).waveforms)
    torch.save(latents, tmp_path / "latents.pt")
    program = (
        "import torch, transformers\n"
        "model = transformers.AutoModel.from_pretrained('decoder', trust_remote_code=True)\n"
        "torch.save(model(torch.load('latents.pt')).waveforms.detach(), 'out.pt')\n"
        "import sys; assert 'modeling_sim' not in sys.modules\n"
    )
    run(program, tmp_path)
    torch.testing.assert_close(torch.load(tmp_path / "out.pt"), model(latents).waveforms)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"strides": [2, 2]}, "kernel_sizes"),
        ({"kernel_sizes": [4, 4, 4, 8, 2]}, "padding"),
        ({"latent_size": 0}, "`latent_size`"),
        ({"architecture": "source_filter", "sampling_rate": 800}, "`sampling_rate`"),
    ],
)
def test_impossible_shapes_are_reported(fields, message):
    with pytest.raises(Exception, match=message):
        SimDecoderConfig(**fields)


def test_wrong_latents_and_scales_are_reported():
    with pytest.raises(ValueError, match="`latents`"):
        decoder()(torch.randn(2, 5, 7))
    with pytest.raises(ValueError, match="`scale`"):
        decoder().set_standardization(torch.zeros(6), torch.zeros(6))
    with pytest.raises(ValueError, match="`module`"):
        SimDecoderConfig.for_module(SimConfig(), 4)


# ---------------------------------------------------------------------- source-filter


def test_pulses_are_the_sum_of_all_harmonics_of_a_moving_pitch():
    seconds = torch.arange(1, 1601, dtype=torch.float64) / 16_000
    frequencies = 150.0 + 400.0 * seconds
    phases = frequencies.cumsum(0) / 16_000
    expected = torch.zeros_like(phases)
    for sample, frequency in enumerate(frequencies):
        count = int(8000 / frequency)
        harmonics = torch.arange(1, count + 1)
        expected[sample] = (2 * torch.pi * harmonics * phases[sample]).cos().sum() * math.sqrt(2 / count)
    pulses = modeling_sim_decoder._pulses(frequencies.float()[None], 16_000)[0]
    torch.testing.assert_close(pulses, expected.float(), atol=0.02, rtol=0)
    assert pulses.var() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("frequency", [110.0, 217.0])
def test_the_decoded_pitch_is_the_linear_function_of_the_latents(frequency):
    model = decoder(architecture="source_filter")
    torch.nn.init.zeros_(model.layers[-1].weight)
    with torch.no_grad():  # pulses alone
        model.layers[-1].bias[:64], model.layers[-1].bias[64:] = 0.0, -20.0
    model.set_standardization(torch.ones(6), torch.full((6,), 2.0))
    model.set_pitch(torch.tensor([0.5, 0, 0, 0, 0, 0]), math.log2(frequency))
    latents = torch.ones(1, 64, 6)
    for octaves in (0.0, 0.5, -0.5):
        moved = traverse(latents, 0, [1.0 + 4.0 * octaves])
        waveform = decode(model, moved)[0].numpy()
        heard = sound_properties(waveform, 16_000)[0]
        assert heard == pytest.approx(12 * (math.log2(frequency) + octaves), abs=0.1)
        torch.testing.assert_close(model.pitch(moved), torch.full((1, 64), frequency * 2**octaves))


@pytest.mark.parametrize("rate", [8_000, 16_000])
def test_a_filter_has_the_gains_of_its_envelope(rate):
    envelopes = torch.full((1, 128, 100), -30.0)
    envelopes[:, 64 + 32 :] = 3.0  # noise in the upper half of the mel scale
    waveform = synthesize(torch.full((1, 100), 150.0), envelopes, rate, rate // 100, rate)[0]
    assert waveform.shape == (rate,)
    power = torch.fft.rfft(waveform).abs().square()
    edge = 700 * (math.sqrt(1 + rate / 2 / 700) - 1)  # half of the mel scale, log(1 + f / 700)
    assert power[: int(0.8 * edge)].sum() < 1e-4 * power.sum()
    upper = power[int(1.2 * edge) : rate // 2 - 100].mean() / rate
    assert upper == pytest.approx(1, rel=0.1)  # exp(3 - 3), of noise with variance 1


def test_a_flat_filter_changes_no_sample_of_a_moving_pitch():
    hop, frames, rate = 20, 400, 8_000
    frequencies = 100.0 + 150.0 * torch.rand(1, frames, generator=torch.Generator().manual_seed(0))
    envelopes = torch.full((1, 128, frames), 3.0)  # a gain of exp(3 - 3)
    envelopes[:, 64:] = -30.0
    between = np.interp(np.arange(hop * frames), (np.arange(frames) + 0.5) * hop, frequencies[0].numpy())
    pulses = modeling_sim_decoder._pulses(torch.from_numpy(between).float()[None], rate)
    waveform = synthesize(frequencies, envelopes, hop * frames, hop, rate)
    torch.testing.assert_close(waveform, pulses, atol=1e-3, rtol=0)


def test_gains_change_when_their_frames_do():
    hop, frames, rate = 20, 400, 8_000
    frequencies, flat = torch.full((1, frames), 200.0), torch.zeros(1, 128, frames)
    falling = flat - 0.02 * torch.arange(frames)
    powers = [
        synthesize(frequencies, envelopes, hop * frames, hop, rate)[0].square().unfold(0, 400, 400).mean(dim=1)
        for envelopes in (falling, flat)
    ]
    centers = torch.arange(200, hop * frames, 400) / hop - 0.5
    torch.testing.assert_close((powers[0] / powers[1]).log() / 2, -0.02 * centers, atol=0.03, rtol=0)


@pytest.mark.parametrize("module", [0, 2])
def test_envelopes_and_pitch_are_means_over_the_time_that_a_window_takes(module):
    torch.manual_seed(0)
    config = SimDecoderConfig.for_module(
        SimConfig.preset("sim-small"), module, latent_size=6, hidden_size=8, architecture="source_filter"
    )
    model, latents = SimDecoder(config), torch.randn(2, 120, 6)
    model.set_standardization(torch.randn(6), torch.rand(6) + 0.5)
    model.set_pitch(0.3 * torch.randn(6), 7.0)
    frames = (latents - model.mean) / model.scale

    def means(values, half):
        parts = [values[:, max(0, frame - half) : frame + half + 1].mean(dim=1) for frame in range(values.shape[1])]
        return torch.stack(parts, dim=1)

    averaged = means(frames, {0: 40, 2: 5}[module])  # of 20 and 160 samples
    torch.testing.assert_close(model.pitch(latents), 2 ** (averaged @ model.pitch_weight + 7.0))
    hidden = frames.transpose(1, 2)
    for number, layer in enumerate(model.layers):
        hidden = layer(hidden.relu() if number else hidden)
    envelopes = means(hidden.transpose(1, 2), {0: 3, 2: 0}[module]).transpose(1, 2)
    samples, hop = config.num_samples(120), {0: 20, 2: 160}[module]
    expected = synthesize(model.pitch(latents), envelopes, samples, hop, 16_000)
    torch.testing.assert_close(model(latents).waveforms, expected, atol=1e-4, rtol=0)


def test_the_phase_of_a_long_sound_stays_exact():
    frequencies = torch.full((1, 16_000 * 60), 220.0)
    late = modeling_sim_decoder._pulses(frequencies, 16_000)[0, -16_000:].double()
    power = torch.fft.rfft(late * torch.hann_window(16_000, dtype=torch.float64)).abs().square()
    harmonics = torch.zeros(len(power), dtype=torch.bool)
    for offset in range(-3, 4):
        harmonics[220 + offset : 8000 + offset : 220] = True
    assert power[~harmonics][:7900].sum() < 1e-4 * power.sum()


def test_a_source_filter_decoder_has_derivatives_and_full_precision_of_the_pitch():
    model = decoder(architecture="source_filter")
    model.set_pitch(0.1 * torch.randn(6), 7.0)
    latents, tangent = torch.randn(2, 20, 6), torch.randn(2, 20, 6)
    _, change = torch.func.jvp(lambda values: model(values).waveforms, (latents,), (tangent,))
    # The phase of late samples moves by many periods, so only a small step is linear.
    step = 1e-4
    there, back = (model((latents + sign * step * tangent).double().float()).waveforms for sign in (1, -1))
    assert torch.nn.functional.cosine_similarity(change.flatten(), ((there - back) / 2 / step).flatten(), 0) > 0.99
    with torch.autocast("cpu", torch.bfloat16):
        in_bfloat16 = model(latents).waveforms
    assert in_bfloat16.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(in_bfloat16.flatten(), model(latents).waveforms.flatten(), 0) > 0.99


def test_a_pitch_that_cannot_be_set_is_reported():
    with pytest.raises(ValueError, match="architecture"):
        decoder().set_pitch(torch.zeros(6), 7.0)
    with pytest.raises(ValueError, match="`weight`"):
        decoder(architecture="source_filter").set_pitch(torch.zeros(5), 7.0)


# ---------------------------------------------------------------------- functions on latents


def test_a_source_filter_decoder_is_exported_for_one_number_of_frames_and_any_batch():
    model, latents = decoder(architecture="source_filter"), torch.randn(2, 7, 6)
    any_batch, any_length = ({"latents": {axis: torch.export.Dim.DYNAMIC}} for axis in (0, 1))
    program = torch.export.export(model, (latents,), dynamic_shapes=any_batch).module()
    assert program(latents[:1]).waveforms.shape == model(latents[:1]).waveforms.shape
    with pytest.raises(ValueError, match="architecture"):
        torch.export.export(model, (latents,), dynamic_shapes=any_length)


@pytest.mark.parametrize("module", range(4))
def test_encode_gives_the_models_own_hidden_states(tiny_config, padded_batch, module):
    torch.manual_seed(0)
    model = SimModel(tiny_config()).eval()
    expected = model(*padded_batch, output_hidden_states=True).hidden_states[module]
    torch.testing.assert_close(encode(model, *padded_batch, module=module), expected)
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    sampled = model(*padded_batch, sample=True, generator=generators[0], output_hidden_states=True)
    drawn = encode(model, *padded_batch, module=module, sample=True, generator=generators[1])
    torch.testing.assert_close(drawn, sampled.hidden_states[module])


@pytest.mark.parametrize("module", [4, -5])
def test_a_module_that_is_not_there_is_reported(tiny_config, module):
    with pytest.raises(ValueError, match=f"`module`.*{module}"):
        encode(SimModel(tiny_config()).eval(), torch.zeros(1, 2000), module=module)


@pytest.mark.parametrize("samples", [100, np.int64(100), torch.tensor(100), torch.tensor([100, 100, 60])])
def test_a_number_of_samples_may_be_any_kind_of_number(samples):
    waveforms = decoder()(torch.randn(3, 4, 6), samples).waveforms
    assert waveforms.shape == (3, 100)
    assert waveforms[0, -1] != 0


def test_a_path_has_its_ends_and_moves_the_chosen_channels_alone():
    start, end = torch.randn(1, 5, 6), torch.randn(1, 5, 6)
    for path in ("linear", "slerp"):
        points = interpolate(start, end, steps=5, path=path)
        torch.testing.assert_close(points[0], start[0])
        torch.testing.assert_close(points[-1], end[0])
    torch.testing.assert_close(interpolate(start, end, steps=3)[1], (start[0] + end[0]) / 2)
    part = interpolate(start, end, steps=4, dims=[1, 4])
    torch.testing.assert_close(part[-1][:, [1, 4]], end[0][:, [1, 4]])
    torch.testing.assert_close(part[-1][:, [0, 2, 3, 5]], start[0][:, [0, 2, 3, 5]])


def test_the_arc_keeps_the_norm_that_the_line_loses():
    start, end = torch.randn(2, 1, 512, generator=torch.Generator().manual_seed(0))
    norm = start.norm()
    middle = {path: interpolate(start, end, steps=3, path=path)[1].norm() / norm for path in ("linear", "slerp")}
    assert middle["linear"] == pytest.approx(math.sqrt(0.5), abs=0.05)
    assert middle["slerp"] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("path", ["slerp", "norm_corrected"])
def test_paths_in_half_precision_are_those_in_float32(path):
    start, end = torch.randn(2, 5, 6)
    start[3], end[3] = 0.0, 0.0  # padding
    start[4], end[4] = 1e-4 * start[4], 1e-4 * end[4]  # a product of such norms is 0 in float16
    start, end = start.half(), end.half()
    half = interpolate(start, end, steps=5, path=path)
    torch.testing.assert_close(half, interpolate(start.float(), end.float(), steps=5, path=path).half())


def test_the_arc_is_the_plane_rotation_and_degenerate_frames_take_the_line():
    start, end = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    torch.testing.assert_close(interpolate(start, end, steps=3, path="slerp")[1], torch.full((1, 2), math.sqrt(0.5)))
    for other in (2 * start, -start, torch.zeros(1, 2)):
        middle = interpolate(start, other, steps=3, path="slerp")[1]
        torch.testing.assert_close(middle, (start + other) / 2)


def test_traversal_and_swap_touch_the_named_channels_alone():
    latents = torch.randn(1, 5, 6)
    moved = traverse(latents, 2, [-1.0, 0.0, 3.0])
    assert moved.shape == (3, 5, 6)
    assert torch.equal(moved[2, :, 2], torch.full((5,), 3.0))
    assert torch.equal(moved[0, :, [0, 1, 3, 4, 5]], latents[0, :, [0, 1, 3, 4, 5]])
    first, second = torch.randn(2, 5, 6), torch.randn(2, 5, 6)
    swapped = swap(first, second, [0, 5])
    assert torch.equal(swapped[0][..., [0, 5]], second[..., [0, 5]])
    assert torch.equal(swapped[0][..., 1:5], first[..., 1:5])
    assert torch.equal(swap(*swapped, [0, 5])[0], first)


def test_latents_become_audio():
    waveforms = decode(decoder(), torch.randn(3, 4, 6), 500)
    assert waveforms.shape == (3, 500)
    assert not waveforms.requires_grad


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interpolate(torch.zeros(3, 2), torch.zeros(4, 2)), "`start`"),
        (lambda: interpolate(torch.zeros(3, 2), torch.zeros(3, 2), steps=1), "`steps`"),
        (lambda: interpolate(torch.zeros(3, 2), torch.zeros(3, 2), path="arc"), "'slerp'"),
        (lambda: traverse(torch.zeros(3, 2), 2, [0.0]), "`dim`"),
        (lambda: swap(torch.zeros(3, 2), torch.zeros(3, 3), [0]), "`second`"),
        (lambda: swap(torch.zeros(3, 2), torch.zeros(3, 2), [0, -1]), "`dims`"),
        (lambda: interpolate(torch.zeros(3, 2), torch.zeros(3, 2), dims=[2]), "`dims`"),
        (lambda: interpolate(torch.zeros(2, 3, 2), torch.zeros(2, 3, 2)), "`start`"),
        (lambda: traverse(torch.zeros(2, 3, 2), 0, [0.0]), "`latents`"),
    ],
)
def test_what_cannot_be_mixed_is_reported(call, message):
    with pytest.raises(ValueError, match=message):
        call()
