"""Audio encoders of transformers next to SIM: frames in their place, the same items, and what is there is found."""

import json

import numpy as np
import pytest
import soundfile
import torch
from transformers import (
    AutoModel,
    DacConfig,
    DacFeatureExtractor,
    Data2VecAudioConfig,
    EncodecConfig,
    EncodecFeatureExtractor,
    HubertConfig,
    MimiConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
)

from modeling_sim import SimConfig, SimDecoder, SimDecoderConfig, SimFeatureExtractor, SimModel
from modeling_sim.commands import abx, probe
from modeling_sim.data.corpora import load_corpus
from modeling_sim.evaluation import ProbeArguments, Results
from modeling_sim.evaluation import probe as probe_of
from modeling_sim.evaluation.features import extract
from modeling_sim.evaluation.models import load_representations
from modeling_sim.evaluation.representations import AudioEncoder, Spectra

CORPUS = "{num_train: 24, num_test: 12, num_speakers: 2}"
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
CONVOLUTIONS = {"conv_dim": (8, 8, 8), "conv_kernel": (10, 3, 3), "conv_stride": (5, 4, 4)}
POSITIONS = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
SPEECH = {**SIZES, **CONVOLUTIONS, **POSITIONS, "num_feat_extract_layers": 3}
CODEC = {"num_filters": 4, "hidden_size": 16, "codebook_size": 16}
CONFIGS = {
    "wav2vec2": Wav2Vec2Config(**SPEECH),
    "wav2vec2-layer": Wav2Vec2Config(**SPEECH, feat_extract_norm="layer", do_stable_layer_norm=True),
    "hubert": HubertConfig(**SPEECH),
    "wavlm": WavLMConfig(**SPEECH),
    "data2vec": Data2VecAudioConfig(**SPEECH, conv_pos_kernel_size=3, num_conv_pos_embeddings_=2),
    "dac": DacConfig(encoder_hidden_size=4, decoder_hidden_size=16, downsampling_ratios=[2, 4, 8], n_codebooks=2),
    "encodec": EncodecConfig(**CODEC, codebook_dim=16, upsampling_ratios=[8, 5, 4], num_lstm_layers=1),
    "mimi": MimiConfig(
        **CODEC,
        codebook_dim=8,
        upsampling_ratios=[8, 5, 4],
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=16,
        head_dim=8,
        num_quantizers=2,
        vector_quantization_hidden_dimension=8,
        upsample_groups=16,
    ),
}
CODECS = {"dac": DacFeatureExtractor, "encodec": EncodecFeatureExtractor, "mimi": EncodecFeatureExtractor}


def save(folder, name):
    config = CONFIGS[name]
    torch.manual_seed(7)
    AutoModel.from_config(config).save_pretrained(folder)
    if name in CODECS:
        CODECS[name](sampling_rate=config.sampling_rate).save_pretrained(folder)
    else:
        Wav2Vec2FeatureExtractor(return_attention_mask=name.endswith("layer")).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint of every kind with random weights, and one of SIM."""
    root = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(0)
    SimModel(SimConfig.preset("sim-small", hidden_size=8, context_size=4)).save_pretrained(root / "sim")
    SimFeatureExtractor().save_pretrained(root / "sim")
    return {"sim": str(root / "sim"), **{name: save(root / name, name) for name in CONFIGS}}


def load(folder, **more):
    return load_representations(ProbeArguments(model=[folder], **more))[-1]


def encoded(representation, waveforms):
    batch = representation.extractor(
        list(waveforms),
        sampling_rate=representation.extractor.sampling_rate,
        padding="longest",
        return_attention_mask=True,
        return_tensors="pt",
    )
    return representation.encode({**batch, "id": [str(row) for row in range(len(waveforms))]})


@pytest.mark.parametrize("name", CONFIGS)
def test_frames_lie_where_the_sound_is(folders, name):
    """An impulse changes frames around it, and nothing but it does; of a causal codec the frame that codes it first."""
    representation = load(folders[name])
    representation.extractor.do_normalize = False  # or an impulse would change the scale of all samples
    rate, feature = representation.extractor.sampling_rate, representation.feature_names(representation.model.config)[0]
    noise = 0.1 * np.random.default_rng(0).normal(size=12_000).astype(np.float32)
    if not representation.is_codec:  # the normalization of a group and a transformer hand a change on to all frames
        model = representation.model

        def convolved(waveforms):
            for layer in model.feature_extractor.conv_layers:
                waveforms = layer.conv(waveforms)
            return [waveforms.transpose(1, 2)]

        representation._states = lambda waveforms: convolved(waveforms[:, None]) * 3
    plain = encoded(representation, [noise])[feature]
    hop = round(plain.hop * rate)
    for sample in (3000, 3000 + hop // 2, 7001):
        moved = noise.copy()
        moved[sample] += 1.0
        frames = encoded(representation, [moved])[feature]
        changed = np.flatnonzero(np.abs(frames.values - plain.values)[0].max(axis=1) > 1e-7)
        centers = rate * (plain.start + plain.hop * changed)
        if name in ("encodec", "mimi"):  # causal: a change is never earlier than the frame whose samples it is in
            assert changed[0] == sample // hop
            assert abs(centers[0] - sample) <= hop / 2
        elif name == "dac":  # as far before as after
            assert abs((centers[0] + centers[-1]) / 2 - sample) <= hop
        else:  # just those that see it
            assert (np.abs(centers - (sample + 0.5)) < representation.field / 2).all()
            assert len(changed) in (representation.field // hop, representation.field // hop + 1)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_padded_utterance_is_encoded_as_by_itself(folders, name):
    representation = load(folders[name])
    generator = np.random.default_rng(0)
    waveforms = [generator.normal(size=count).astype(np.float32) for count in (5000, 8000, 5000, 6400)]
    together = encoded(representation, waveforms)
    for row, waveform in enumerate(waveforms):
        for feature, frames in encoded(representation, [waveform]).items():
            assert together[feature].lengths[row] == frames.lengths[0]
            np.testing.assert_allclose(
                together[feature].values[row, : frames.lengths[0]], frames.values[0], atol=1e-5, rtol=1e-4
            )


@pytest.mark.parametrize("name", CONFIGS)
def test_the_shortest_utterance_has_a_frame(folders, name):
    representation = load(folders[name])
    for frames in encoded(representation, [np.ones(representation.extractor.min_samples, dtype=np.float32)]).values():
        assert frames.lengths == [1]
        assert np.isfinite(frames.values).all()


def test_layers_are_the_hidden_states_of_the_model_on_its_own_inputs(folders):
    representation = load(folders["wav2vec2"], modules="0,2")
    waveform = 3 + np.random.default_rng(0).normal(size=6000).astype(np.float32)
    frames = encoded(representation, [waveform])
    assert list(frames) == ["layer 0", "layer 2"]
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(folders["wav2vec2"])
    inputs = extractor(waveform, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(folders["wav2vec2"]).eval()(**inputs, output_hidden_states=True)
    for layer in (0, 2):
        np.testing.assert_allclose(frames[f"layer {layer}"].values, states.hidden_states[layer].numpy(), atol=1e-4)


@pytest.mark.parametrize("name", CODECS)
def test_a_codec_has_the_latents_that_its_quantizer_reads(folders, name):
    representation = load(folders[name])
    waveform = 0.1 * np.random.default_rng(0).normal(size=9600).astype(np.float32)
    (frames,) = encoded(representation, [waveform]).values()
    model, read = representation.model, []
    owner = model.quantizer
    encode = owner.encode if name != "dac" else owner.forward
    setattr(owner, encode.__name__, lambda latents, *args: (read.append(latents), encode(latents, *args))[1])
    with torch.no_grad():
        model.encode(torch.from_numpy(waveform)[None, None])
    np.testing.assert_allclose(frames.values[0], read[0][0].T.numpy(), atol=1e-5)


@pytest.mark.parametrize(("label", "pooling"), [("phones", "frame"), ("speaker_id", "chunk")])
def test_items_are_the_same_at_every_sampling_rate(folders, tmp_path, label, pooling):
    corpus = load_corpus("synthetic_syllables", "test", num_train=24, num_test=12, num_speakers=2)
    wanted = extract(corpus, Spectra(), label=label, pooling=pooling, cache_dir=tmp_path)
    for name in ("sim", "wav2vec2", "encodec"):
        items = extract(corpus, load(folders[name]), label=label, pooling=pooling, cache_dir=tmp_path)
        np.testing.assert_array_equal(items.labels, wanted.labels)
        np.testing.assert_array_equal(items.utterances, wanted.utterances)


def run(command, output_dir, models, *flags):
    corpus = ["--corpus", "synthetic_syllables", "--corpus_settings", CORPUS, "--label", "phones"]
    folders = ["--output_dir", str(output_dir), "--cache_dir", str(output_dir / "cache")]
    command.main(["--model", *models, *corpus, *folders, *flags])


def test_they_stand_in_one_table_with_the_same_controls(folders, tmp_path):
    models = [folders[name] for name in ("wav2vec2", "sim", "mimi")]
    run(probe, tmp_path, models, "--l2", "1e-3", "--frame_step", "8")
    results = Results.read(tmp_path / "probe.json")
    assert list(results.by_features()) == [
        "chance: most frequent class",
        "log-mel",
        "MFCC",
        *(
            name
            for state in (" untrained", "")
            for name in (
                *(f"wav2vec2{state}, layer {layer}" for layer in range(3)),
                *(f"sim{state}, {feature}" for feature in ("module 0", "module 1", "module 2", "context")),
                f"mimi{state}, encoder",
            )
        ),
    ]
    assert {sum(map(sum, each["confusion"])) for each in results.details} == {results.test_items}
    assert list(results.fingerprints) == ["wav2vec2", "sim", "mimi"]
    assert [kind.name for kind in results.kinds if not kind.is_control] == ["wav2vec2", "SIM", "mimi"]
    run(abx, tmp_path / "abx", [folders["sim"], folders["hubert"]])
    results = Results.read(tmp_path / "abx" / "abx.json")
    assert list(results.by_features())[-3:] == [f"hubert, layer {layer}" for layer in range(3)]


@pytest.mark.parametrize(("name", "is_planted"), [("wav2vec2-layer", True), ("dac", True), ("wav2vec2-layer", False)])
def test_a_probe_finds_what_is_planted_and_nothing_else(folders, tmp_path, name, is_planted):
    """Words that are tones of two pitches around two values, or of the same ones, in files of 22.05 kHz.

    A codec with small random weights is almost linear: the mean over frames of a word has little but the value that its
    tone is around.
    """
    root, generator = tmp_path / "words", np.random.default_rng(0)
    for number in range(40):
        folder = root / f"word{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pitch = (300, 2500)[number % 2 if is_planted else 0]
        tone = np.sin(2 * np.pi * (pitch * np.arange(4000 + 40 * number) / 22_050 + generator.random()))
        tone = 0.3 * tone + (0.2 * (number % 2) if is_planted else 0.0)
        soundfile.write(folder / f"{number}.wav", tone + 0.02 * generator.normal(size=len(tone)), 22_050)
    results = probe_of(
        ProbeArguments(
            model=[folders[name]],
            corpus="folder",
            data_dir=str(root),
            label="word",
            l2=1e-3,
            modules="0",
            corpus_settings={"folder_label": "word", "split_by": "utterance", "test_fraction": 0.5},
            output_dir=str(tmp_path / "out"),
            cache_dir=str(tmp_path / "cache"),
        )
    )
    score = list(results.by_features().values())[-1]["linear_accuracy"].value
    assert score > 0.85 if is_planted else abs(score - 0.5) < 0.3


@pytest.mark.parametrize(("name", "modules"), [("wav2vec2", "3"), ("wav2vec2", "context"), ("dac", "1")])
def test_a_layer_that_there_is_not_is_refused(folders, name, modules):
    with pytest.raises(ValueError, match="`modules`"):
        load(folders[name], modules=modules)


def test_what_is_no_encoder_is_refused(tmp_path):
    SimDecoder(SimDecoderConfig(latent_size=6, hidden_size=4)).save_pretrained(tmp_path)
    SimFeatureExtractor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="sim-decoder"):
        load(str(tmp_path))


def test_other_weights_and_other_layers_are_other_features(folders):
    first, layers = load(folders["wav2vec2"]), load(folders["wav2vec2"], modules="1")
    fresh = load_representations(ProbeArguments(model=[folders["wav2vec2"]]))[1]
    assert isinstance(fresh, AudioEncoder)
    assert fresh.control
    prints = [json.dumps(each.fingerprint()) for each in (first, layers, fresh, load(folders["hubert"]))]
    assert len(set(prints)) == 4
    assert json.dumps(load(folders["wav2vec2"]).fingerprint()) == prints[0]
