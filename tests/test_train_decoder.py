"""Decoder training: it learns, the encoder does not change, and a killed run resumes."""

import json
import shlex

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import Ridge
from transformers import AutoModel

from modeling_sim import SimConfig, SimDecoder, SimFeatureExtractor, SimForPreTraining, SimModel
from modeling_sim.analysis.reconstruction_loss import LOSSES, multi_resolution_stft, reconstruction_loss, si_sdr
from modeling_sim.commands import train_decoder
from modeling_sim.trainer import decoding as decoding_task

TINY = shlex.split(
    "--corpus_settings '{num_train: 12, num_test: 4, num_speakers: 2, num_syllables: 1}' --crop_samples 4000 "
    "--batch_size 4 --max_steps 3 --logging_steps 2"
)


def pretrained(folder, preset="sim-small"):
    torch.manual_seed(0)
    model = SimForPreTraining(SimConfig.preset(preset, hidden_size=16, context_size=8))
    model.train()
    with torch.no_grad():  # statistics of speech-like size, which training mode would change
        for seed in range(60):
            model.sim(0.1 * torch.randn(2, 4000, generator=torch.Generator().manual_seed(seed)))
    model.save_pretrained(folder)
    SimFeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gaussian(tmp_path_factory):
    return pretrained(tmp_path_factory.mktemp("gaussian"))


@pytest.fixture(scope="module")
def deterministic(tmp_path_factory):
    return pretrained(tmp_path_factory.mktemp("deterministic"), "gim")


def run(output_dir, model, *flags):
    train_decoder.main([*TINY, "--model", str(model), "--output_dir", str(output_dir), *flags])
    return json.loads((output_dir / "results.json").read_text())


@pytest.mark.parametrize("latents", ["mean", "sample"])
def test_the_encoder_is_as_it_was_batch_norm_statistics_included(gaussian, tmp_path, monkeypatch, latents):
    seen = []
    build = decoding_task.DecodingTask.__init__

    def remember(self, encoder, *arguments, **settings):
        seen.append((encoder, {name: value.clone() for name, value in encoder.state_dict().items()}))
        build(self, encoder, *arguments, **settings)

    monkeypatch.setattr(decoding_task.DecodingTask, "__init__", remember)
    run(tmp_path, gaussian, "--latents", latents)
    ((encoder, before),) = seen
    assert not encoder.training
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in encoder.parameters())
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    fresh = SimModel.from_pretrained(gaussian).state_dict()
    assert all(torch.equal(fresh[name], before[name]) for name in before)


@pytest.mark.parametrize("architecture", ["convolutions", "source_filter"])
def test_a_decoder_learns_and_is_better_than_silence(gaussian, tmp_path, architecture):
    flags = ["--loss", "log_mel", "--max_steps", "60", "--learning_rate", "1e-2", "--architecture", architecture]
    results = run(tmp_path, gaussian, "--module", "0", *flags)
    (row,) = results["modules"]
    assert row["trained"]["log_mel"] < 0.6 * row["untrained"]["log_mel"]
    assert row["trained"]["log_mel"] < row["trained"]["log_mel_of_silence"]
    interval = results["reconstruction"]["log_mel"]
    assert interval["low"] <= row["trained"]["log_mel"] <= interval["high"]
    decoder = AutoModel.from_pretrained(tmp_path)
    assert decoder(torch.randn(1, 10, 16)).waveforms.shape == (1, decoder.config.num_samples(10))


def test_latents_are_standardized_in_the_decoder(gaussian, tmp_path):
    results = run(tmp_path, gaussian, "--module", "1", "--latents", "sample")
    decoder = AutoModel.from_pretrained(tmp_path)
    assert not torch.equal(decoder.scale, torch.ones(16))
    assert results["relative_noise_of_gaussians"] > 0


def test_noise_reaches_the_latents_in_units_of_their_spread(deterministic, tmp_path, monkeypatch):
    drawn = {}
    backward = decoding_task.DecodingTask.backward

    def record(self, batch, step, **settings):
        if step == 1:
            generators = [torch.Generator().manual_seed(0) for _ in range(2)]
            noisy = self.latents(batch, generators[0])
            strength, self.noise = self.noise, 0.0
            clean = self.latents(batch, generators[1])
            self.noise = strength
            drawn["ratio"] = ((noisy - clean) / self.model.scale).std()
        return backward(self, batch, step, **settings)

    monkeypatch.setattr(decoding_task.DecodingTask, "backward", record)
    results = run(tmp_path, deterministic, "--noise", "0.5")
    assert drawn["ratio"] == pytest.approx(0.5, rel=0.05)
    assert results["noise"] == 0.5
    assert results["relative_noise_of_gaussians"] is None


def test_the_pitch_of_a_source_filter_decoder_is_a_ridge_regression(gaussian, tmp_path, monkeypatch):
    averaged, pitches = [], []
    average, estimate = SimDecoder.averaged, decoding_task.frame_pitch

    def record_latents(self, latents):
        averaged.append(average(self, latents))
        return averaged[-1]

    def record_pitch(waveform, rate, seconds):
        np.testing.assert_allclose(seconds, (np.arange(25) + 0.5) * 160 / 16_000)
        pitches.append(estimate(waveform, rate, seconds))
        return pitches[-1]

    with monkeypatch.context() as patched:
        patched.setattr(SimDecoder, "averaged", record_latents)
        patched.setattr(decoding_task, "frame_pitch", record_pitch)
        run(tmp_path, gaussian, "--architecture", "source_filter", "--loss", "stft")
    octaves = np.concatenate(pitches) / 12
    latents = torch.cat(averaged[: len(octaves) // averaged[0].shape[1] // 4]).flatten(0, 1).numpy()
    voiced = np.isfinite(octaves)
    assert 0.1 < voiced.mean() < 1
    naive = Ridge(alpha=1e-3 * voiced.sum()).fit(latents[voiced], octaves[voiced])
    decoder = AutoModel.from_pretrained(tmp_path)
    np.testing.assert_allclose(decoder.pitch_weight, naive.coef_, atol=1e-4)
    assert float(decoder.pitch_bias) == pytest.approx(float(naive.intercept_), abs=1e-4)


def test_data_without_a_voice_have_no_pitch(gaussian, tmp_path, monkeypatch):
    monkeypatch.setattr(decoding_task, "frame_pitch", lambda _waveform, _rate, seconds: np.full(len(seconds), np.nan))
    with pytest.raises(SystemExit, match="voiced"):
        run(tmp_path, gaussian, "--architecture", "source_filter", "--loss", "stft")


@pytest.mark.parametrize("flags", [[], ["--architecture", "source_filter", "--loss", "stft"]])
def test_a_killed_run_resumes_and_ends_as_one_that_was_not(gaussian, tmp_path, killed_at, monkeypatch, flags):
    flags = ["--latents", "sample", "--save_steps", "1", *flags]
    results = run(tmp_path / "whole", gaussian, *flags)
    killed_at(3, lambda: run(tmp_path / "killed", gaussian, *flags))
    assert results["relative_noise_of_gaussians"] > 0
    with monkeypatch.context() as patched:
        for measured in ("standardize", "fit_pitch"):  # the checkpoint holds the results of both
            patched.setattr(decoding_task.DecodingTask, measured, None)
        for _ in ("resumed", "finished"):
            again = run(tmp_path / "killed", gaussian, *flags)
            assert again["relative_noise_of_gaussians"] == results["relative_noise_of_gaussians"]
    whole, killed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--noise", "-1"], "`noise`"),
        (["--noise", "nan"], "`noise`"),
        (["--module", "9"], "`module` .*0, 1, 2, 3, context"),
        (["--latents", "sample"], "`latents` 'sample'"),
        (["--architecture", "source_filter"], "`loss` 'waveform'.*`architecture`"),
        (["--model", ""], "`model`"),
        (["--model", "/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_what_cannot_be_decoded_is_reported(deterministic, tmp_path, flags, message):
    with pytest.raises(SystemExit, match=message):
        run(tmp_path, deterministic, *flags)


# ---------------------------------------------------------------------- losses


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_0_for_the_same_and_grows_with_what_is_added(name):
    generator = torch.Generator().manual_seed(0)
    true, noise = 0.1 * torch.randn(2, 3, 4000, generator=generator)
    loss = reconstruction_loss(name, 16_000)
    values = [loss(true + strength * noise, true) for strength in (0.0, 0.1, 1.0)]
    torch.testing.assert_close(values[0], torch.zeros(3))
    assert (values[1] > 0).all()
    assert (values[2] > values[1]).all()


def test_spectral_losses_do_not_hear_a_shift_of_phase_that_the_waveform_loss_does():
    seconds = torch.arange(8000) / 16_000
    true, shifted = (torch.sin(2 * torch.pi * 440 * seconds + phase)[None] for phase in (0.0, 1.5))
    silence = torch.zeros_like(true)
    for name in ("stft", "log_mel"):
        loss = reconstruction_loss(name, 16_000)
        assert loss(shifted, true) < 0.2 * loss(silence, true)
    waveform = reconstruction_loss("waveform", 16_000)
    assert waveform(shifted, true) > waveform(silence, true)


def test_si_sdr_is_its_formula_and_knows_no_scale():
    generator = torch.Generator().manual_seed(0)
    true, noise = torch.randn(2, 1, 16_000, generator=generator)
    assert si_sdr(true + 0.1 * noise, true).item() == pytest.approx(20, abs=0.2)
    torch.testing.assert_close(si_sdr(3 * (true + 0.1 * noise), true), si_sdr(true + 0.1 * noise, true))


def test_a_short_waveform_has_a_distance_too():
    true = torch.randn(1, 300)
    assert torch.isfinite(multi_resolution_stft(0.5 * true, true)).all()
