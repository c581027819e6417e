from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor

from modeling_sim import SimConfig, SimFeatureExtractor

RATE = 16_000


@pytest.fixture
def extractor():
    return SimFeatureExtractor()


@pytest.fixture
def waveform(noise):
    return noise(1000).mul(0.1).clamp(-1, 1).numpy()


@pytest.mark.parametrize(
    "form",
    [
        lambda wave: wave,
        lambda wave: wave.astype(np.float64),
        lambda wave: wave.tolist(),
        lambda wave: tuple(wave.tolist()),
        torch.from_numpy,
        lambda wave: torch.from_numpy(wave).requires_grad_(),
        lambda wave: [wave],
        lambda wave: [wave.tolist()],
        lambda wave: [torch.from_numpy(wave)],
        lambda wave: wave[None],
        lambda wave: torch.from_numpy(wave)[None],
        lambda wave: wave.astype(">f4"),
        lambda wave: wave.astype(object),
        lambda wave: np.array([wave, None], dtype=object)[:1],
        lambda wave: wave[::-1].copy()[::-1],
        lambda wave: np.frombuffer(wave.tobytes(), np.float32),
        lambda wave: np.repeat(wave, 2)[::2],
        lambda wave: np.array([wave.tolist()], dtype=object),
        lambda wave: [wave.astype(object)],
        lambda wave: list(torch.from_numpy(wave)),
    ],
)
@pytest.mark.filterwarnings("error")
def test_every_form_of_one_waveform_gives_the_same_batch(form, extractor, waveform):
    batch = extractor(form(waveform), sampling_rate=RATE, return_tensors="pt")
    assert batch["input_values"].dtype == torch.float32
    assert torch.equal(batch["input_values"], torch.from_numpy(waveform)[None])
    assert torch.equal(batch["attention_mask"], torch.ones(1, 1000, dtype=torch.int32))


@pytest.mark.parametrize("dtype", ["i2", "i4"])
def test_whole_numbers_of_either_byte_order_are_read(dtype, extractor):
    wave = (np.arange(-500, 500) * 60).astype(f"<{dtype}")
    little, big = (extractor(form, sampling_rate=RATE)["input_values"][0] for form in (wave, wave.astype(f">{dtype}")))
    assert np.array_equal(little, big)


def test_an_array_of_waveforms_of_several_lengths_is_a_batch(extractor, waveform):
    ragged = np.array([waveform, waveform[:600]], dtype=object)
    batch = extractor(ragged, sampling_rate=RATE, padding=True, return_tensors="np")
    assert batch["attention_mask"].sum(1).tolist() == [1000, 600]


@pytest.mark.parametrize("dtype", [np.int16, np.int32, torch.int16, torch.int32])
def test_whole_numbers_are_scaled_to_one(dtype, extractor):
    limits = np.iinfo(dtype) if isinstance(dtype, type) else torch.iinfo(dtype)
    make = np.array if isinstance(dtype, type) else torch.tensor
    wave = make([limits.min, 0, limits.max] * 300, dtype=dtype)
    values = extractor(wave, sampling_rate=RATE, return_tensors="np")["input_values"]
    assert values.dtype == np.float32
    assert values[0, :3] == pytest.approx([-1, 0, 1], abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read(dtype, extractor, waveform):
    wave = torch.from_numpy(waveform).to(dtype)
    assert torch.equal(extractor(wave, sampling_rate=RATE, return_tensors="pt")["input_values"][0], wave.float())


# ---------------------------------------------------------------------- batches


@pytest.mark.parametrize(
    ("settings", "samples"),
    [
        ({"padding": True}, 1000),
        ({"padding": "longest"}, 1000),
        ({"padding": "max_length", "max_length": 1500}, 1500),
        ({"padding": True, "pad_to_multiple_of": 160}, 1120),
        ({"padding": True, "max_length": 800, "truncation": True}, 800),
        ({"padding": "max_length", "max_length": 900, "truncation": True}, 900),
        ({"padding": True, "max_length": 800, "truncation": True, "pad_to_multiple_of": 160}, 800),
    ],
)
def test_padding_and_truncation_mark_what_is_audio(settings, samples, extractor, waveform):
    batch = extractor([waveform, waveform[:600]], sampling_rate=RATE, return_tensors="pt", **settings)
    values, mask = batch["input_values"], batch["attention_mask"]
    assert values.shape == mask.shape == (2, samples)
    assert mask.sum(1).tolist() == [min(1000, samples), 600]
    assert torch.equal(values[1, :600], torch.from_numpy(waveform[:600]))
    assert not values[mask == 0].any()


def test_no_more_than_the_maximum_length_is_audio_in_a_multiple(extractor, waveform):
    settings = {"padding": True, "max_length": 750, "truncation": True, "pad_to_multiple_of": 160}
    batch = extractor(waveform, sampling_rate=RATE, return_tensors="pt", **settings)
    assert batch["attention_mask"].shape == (1, 800)
    assert batch["attention_mask"].sum() == 750


def test_without_padding_each_waveform_keeps_its_length(extractor, waveform):
    batch = extractor([waveform, waveform[:600]], sampling_rate=RATE)
    assert [len(values) for values in batch["input_values"]] == [1000, 600]


def test_the_mask_is_optional(extractor, waveform):
    assert "attention_mask" not in extractor(waveform, sampling_rate=RATE, return_attention_mask=False)
    assert "attention_mask" not in SimFeatureExtractor(return_attention_mask=False)(waveform, sampling_rate=RATE)


def test_normalization_is_per_utterance_and_does_not_see_padding_or_what_is_cut(waveform):
    extractor = SimFeatureExtractor(do_normalize=True)
    loud = np.concatenate([waveform[:600], 1e3 * waveform[600:]])
    waves = [3 * waveform + 1, waveform[:600], loud]
    batch = extractor(waves, sampling_rate=RATE, padding=True, max_length=600, truncation=True, return_tensors="np")
    assert batch["input_values"].mean(1) == pytest.approx(0, abs=1e-5)
    assert batch["input_values"].std(1) == pytest.approx(1, abs=1e-3)
    padded = extractor([waveform, waveform[:600]], sampling_rate=RATE, padding=True, return_tensors="np")
    assert padded["input_values"][1, :600] == pytest.approx(batch["input_values"][1], abs=1e-6)
    assert not padded["input_values"][1, 600:].any()


@pytest.mark.filterwarnings("error")
def test_loud_audio_is_normalized():
    loud = 1e30 * np.sin(np.arange(1000, dtype=np.float32))
    values = SimFeatureExtractor(do_normalize=True)(loud, sampling_rate=RATE)["input_values"][0]
    assert values.dtype == np.float32
    assert values.std() == pytest.approx(1)


def test_normalized_silence_is_silence():
    batch = SimFeatureExtractor(do_normalize=True)(np.zeros(1000, np.float32), sampling_rate=RATE)
    assert not batch["input_values"].any()


def test_a_waveform_is_not_changed_in_place(waveform):
    before = waveform.copy()
    SimFeatureExtractor(do_normalize=True)(waveform, sampling_rate=RATE)
    assert np.array_equal(waveform, before)


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("raw_speech", "error", "message"),
    [
        (np.zeros((1000, 2)), ValueError, "`raw_speech`"),
        ([np.zeros(1000), np.zeros((1000, 2))], ValueError, "`raw_speech`"),
        (np.zeros((2, 2, 1000)), ValueError, "`raw_speech`"),
        (np.zeros(0), ValueError, "`raw_speech`"),
        ([np.zeros(1000), []], ValueError, "`raw_speech`"),
        ([], ValueError, "`raw_speech`"),
        (np.full(1000, np.nan), ValueError, "`raw_speech`"),
        (np.full(1000, np.inf), ValueError, "`raw_speech`"),
        (np.full(1000, 1e300), ValueError, "`raw_speech`"),
        (np.zeros(464), ValueError, "`min_samples`"),
        (np.zeros(1000, np.uint8), TypeError, "`raw_speech`"),
        (np.zeros(1000, bool), TypeError, "`raw_speech`"),
        ([0] * 1000, TypeError, "`raw_speech`"),
        (["a.wav"], TypeError, r"`soundfile\.read"),
        ("a.wav", TypeError, r"`soundfile\.read"),
        (Path("a.wav"), TypeError, r"`soundfile\.read"),
        (b"RIFF", TypeError, r"`soundfile\.read"),
        ({"array": np.zeros(1000), "sampling_rate": RATE}, TypeError, "'array'"),
        ([{"array": np.zeros(1000)}], TypeError, "'array'"),
        (3.0, TypeError, "`raw_speech`"),
    ],
)
def test_audio_that_cannot_be_read_says_what_to_do(raw_speech, error, message, extractor):
    with pytest.raises(error, match=message):
        extractor(raw_speech, sampling_rate=RATE)


def test_a_wrong_rate_says_how_to_resample(extractor, waveform):
    with pytest.raises(ValueError, match=r"`sampling_rate`.*soxr\.resample\(audio, 44100, 16000\)"):
        extractor(waveform, sampling_rate=44_100)


def test_truncation_to_less_than_a_frame_sees_is_an_error(extractor, waveform):
    with pytest.raises(ValueError, match="`max_length`"):
        extractor(waveform, sampling_rate=RATE, truncation=True, max_length=100)


def test_padding_before_the_audio_is_an_error():
    with pytest.raises(ValueError, match="`padding_side`"):
        SimFeatureExtractor(padding_side="left")


def test_min_samples_is_the_receptive_field_of_the_published_models_and_can_be_set(extractor, waveform):
    for preset in SimConfig.preset_names():
        assert SimConfig.preset(preset).receptive_field() == extractor.min_samples
    assert extractor(waveform[:465], sampling_rate=RATE, return_tensors="np")["input_values"].shape == (1, 465)
    small = SimFeatureExtractor(min_samples=45)
    assert small(waveform[:45], sampling_rate=RATE, return_tensors="np")["input_values"].shape == (1, 45)


# ---------------------------------------------------------------------- files


def test_an_extractor_loads_as_it_was_saved(tmp_path, waveform):
    saved = SimFeatureExtractor(do_normalize=True, sampling_rate=8000, min_samples=45, return_attention_mask=False)
    saved.save_pretrained(tmp_path)
    loaded = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert isinstance(loaded, SimFeatureExtractor)
    assert loaded.to_dict() == saved.to_dict()
    assert np.array_equal(
        loaded(waveform, sampling_rate=8000)["input_values"], saved(waveform, sampling_rate=8000)["input_values"]
    )


def test_normalization_is_recorded_in_the_saved_file(tmp_path):
    SimFeatureExtractor(do_normalize=True).save_pretrained(tmp_path)
    assert '"do_normalize": true' in (tmp_path / "preprocessor_config.json").read_text()
