"""The upstream has the interface that s3prl documents: waveforms of any lengths in, padded frames out."""

from pathlib import Path

import numpy as np
import pytest
import torch

from modeling_sim import SimFeatureExtractor, SimModel

FOLDER = Path(__file__).parents[1] / "examples" / "s3prl"


@pytest.fixture
def load(tiny_config, tmp_path):
    """Loads the upstream by its path, as s3prl and torch.hub do."""

    def load(do_normalize=False, **overrides):
        torch.manual_seed(0)
        model = SimModel(tiny_config("sim-small", **overrides)).eval()
        model.save_pretrained(tmp_path)
        SimFeatureExtractor(do_normalize=do_normalize).save_pretrained(tmp_path)
        return model, torch.hub.load(str(FOLDER), "sim", str(tmp_path), source="local", refresh=False)

    return load


def test_hidden_states_fit_the_weighted_sum_and_the_rates(load, noise):
    _, upstream = load(context_size=16)
    wavs = [noise(16000), noise(9000, seed=1), noise(300, seed=2)]
    outputs = upstream(wavs)
    states = torch.stack(outputs["hidden_states"])  # the weighted sum needs one shape
    assert states.shape == (4, 3, 100, 16)
    assert torch.equal(outputs["last_hidden_state"], states[-1])
    for key, value in outputs.items():
        frames = states.shape[2] if key == "hidden_states" else value.shape[1]
        assert abs(frames - round(16000 / upstream.get_downsample_rates(key))) < 5  # as s3prl checks it
    assert [upstream.get_downsample_rates(f"module_{module}") for module in range(3)] == [20, 80, 160]


def test_frames_are_the_models_whatever_else_is_in_the_batch(load, noise):
    model, upstream = load(do_normalize=True)
    wavs = [0.3 + 0.1 * noise(8000), noise(5000, seed=1)]
    together, alone = upstream(wavs), upstream(wavs[1:])
    for first, second in zip(together["hidden_states"], alone["hidden_states"], strict=True):
        torch.testing.assert_close(first[1:, :28], second[:, :28], atol=1e-5, rtol=1e-4)
    assert len(together["hidden_states"]) == 3  # the context is less wide
    inputs = SimFeatureExtractor(do_normalize=True)(
        [wav.numpy() for wav in wavs], sampling_rate=16000, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = model(**inputs)
    torch.testing.assert_close(together["module_0"], expected.means[0], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(together["last_hidden_state"], expected.last_hidden_state, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(together["hidden_states"][-1], expected.means[-1], atol=1e-4, rtol=1e-3)


def test_averages_of_lower_modules_lie_where_the_last_ones_frames_do(load):
    model, upstream = load()
    config = model.config
    for module in range(3):
        centers = torch.from_numpy(config.frame_centers(config.num_frames(16000, module), module))[None, :, None]
        averaged = upstream._at_last_rate(centers, module, 100)[0, :, 0].numpy()
        distance = np.abs(averaged - config.frame_centers(100))[1:-1]
        assert distance.max() <= config.hop_length(module) / 2
        assert module < 2 or distance.max() == 0


def test_the_upstream_can_be_trained(load, noise):
    _, upstream = load()
    upstream.train()
    upstream([noise(4000)])["last_hidden_state"].square().sum().backward()
    assert upstream.model.conv_modules[0].layers[0].conv.weight.grad.abs().sum() > 0
