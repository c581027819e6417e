"""Checkpoints by folder or name: errors for missing ones, and the number of requests to the Hub."""

import json

import datasets
import httpx2
import huggingface_hub
import pytest
import torch
from hub_server import Fault
from safetensors.torch import load_file, save_file
from transformers import Wav2Vec2Config, Wav2Vec2Model

from modeling_sim import (
    SimConfig,
    SimDecoder,
    SimDecoderConfig,
    SimFeatureExtractor,
    SimForPreTraining,
    SimForSequenceClassification,
    SimModel,
    loading,
)
from modeling_sim.commands import corpora, export, finetune, pretrain, train_decoder
from modeling_sim.settings import check_data

LOADERS = (loading.feature_extractor_of, loading.load_encoder, loading.load_audio_encoder, loading.load_decoder)


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("fault", ["drop", "error", None])  # no network, a Hub that fails, no such model
def test_the_hub_is_asked_once_about_a_model_that_it_does_not_give(load, fault, hub):
    hub.faults.append(Fault(fault, "config.json", times=0 if fault is None else 100))
    with pytest.raises(FileNotFoundError, match=r"runs/sim-9.*folder.*Hub") as raised:
        load("runs/sim-9")
    assert [request for request in hub.requests if "sim-9" in request] == ["HEAD /runs/sim-9/resolve/main/config.json"]
    assert "\n" not in str(raised.value)


def test_an_unreachable_hub_is_asked_once(monkeypatch):
    asked = []

    def unreachable(url, **_):
        asked.append(url)
        raise httpx2.ConnectError("no network")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", unreachable)
    with pytest.raises(FileNotFoundError, match=r"runs/sim-9.*no network"):
        loading.check_encoder("runs/sim-9")
    assert [url.partition("runs/sim-9")[2] for url in asked] == ["/resolve/main/config.json"]


@pytest.mark.parametrize("path", ["runs/a/b", "./sim-9", "/runs/sim-9", "~sim-9"])
def test_what_can_only_be_a_folder_is_not_asked_for(path, hub):
    with pytest.raises(FileNotFoundError, match=path):
        loading.check_encoder(path)
    assert not [request for request in hub.requests if "sim-9" in request]


def test_the_hub_is_asked_once_about_a_data_set_that_it_does_not_have(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(FileNotFoundError, match="`data` is runs/nope"):
        check_data("data", "runs/nope")
    asked = ["GET /api/datasets/runs/nope"]
    assert [request for request in hub.requests if "runs/nope" in request] == asked
    (tmp_path / "runs___nope").mkdir()  # in the cache
    check_data("data", "runs/nope")
    huggingface_hub.HfApi().create_repo("org/data", repo_type="dataset")
    check_data("data", "org/data")


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("dataset_name", ["--dataset_name", "runs/nope"]),
        ("dataset_id", ["--corpus_settings", "{dataset_id: runs/nope}"]),
    ],
)
def test_commands_ask_once_for_the_data_set_of_a_corpus(name, flags, hub, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(SystemExit, match=f"`{name}` is runs/nope"):
        corpora.main(["--corpus", "hub", *flags])
    assert [request for request in hub.requests if "runs/nope" in request] == ["GET /api/datasets/runs/nope"]


def test_the_nearest_corpus_is_suggested():
    with pytest.raises(FileNotFoundError, match=r"librispech\b.*'librispeech'"):
        check_data("data", "librispech")


def test_a_folder_without_a_configuration_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path.name}.*config\.json"):
        loading.check_encoder(str(tmp_path))


def test_a_model_of_the_hub_loads_and_then_from_the_cache_without_the_check(hub, tmp_path, monkeypatch):
    model = SimModel(SimConfig.preset("sim-small", hidden_size=8, context_size=8))
    model.save_pretrained(tmp_path / "saved")
    api = huggingface_hub.HfApi(endpoint=hub.url, token="hf_owner")  # noqa: S106 - of a server of this test
    api.create_repo("org/sim")
    api.upload_folder(repo_id="org/sim", folder_path=tmp_path / "saved")
    assert loading.load_encoder("org/sim").num_parameters() == model.num_parameters()
    # The check of the command, and the configuration itself.
    assert [request.split()[0] for request in hub.requests if request.endswith("/config.json")] == [
        "HEAD",
        "HEAD",
        "GET",
    ]
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_, **__: pytest.fail("asked again"))
    loading.check_encoder("org/sim")


# ---------------------------------------------------------------------- damaged weights


def lacks(*beginnings):
    def damage(folder):
        file = folder / "model.safetensors"
        kept = {name: value for name, value in load_file(file).items() if not name.startswith(beginnings)}
        save_file(kept, file, metadata={"format": "pt"})

    return damage


def truncate(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


def widen(folder):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"hidden_size": 12}))


def diverge(folder):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for name, tensor in tensors.items():
        if "conv_modules.1.layers.0" in name and tensor.is_floating_point():
            tensor.view(-1)[0] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.fixture(params=["pretrained", "encoder"])
def saved(request, tmp_path):
    config = SimConfig.preset("sim-small", hidden_size=8, context_size=8)
    model_class = SimForPreTraining if request.param == "pretrained" else SimModel
    model_class(config).save_pretrained(tmp_path / "saved")
    SimFeatureExtractor().save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


SYLLABLES = ["--corpus_settings", "{num_train: 8, num_test: 4, num_speakers: 2, num_syllables: 1}"]
DAMAGES = [
    (lacks("sim.context", "context", "sim.conv_modules.2", "conv_modules.2"), r"conv_modules\.2\."),
    (truncate, ""),
    (widen, r"conv_modules\.0\."),
    (diverge, r"conv_modules\.1\.layers\.0\."),
]


@pytest.mark.parametrize(("damage", "tensor"), DAMAGES)
def test_damaged_weights_are_named(damage, tensor, saved, capfd):
    damage(saved)
    for load in (loading.load_encoder, loading.load_audio_encoder, loading.check_weights):
        with pytest.raises(ValueError, match=rf"saved/model\.safetensors.*{tensor}") as raised:
            load(str(saved))
        assert "\n" not in str(raised.value)
    assert "REPORT" not in capfd.readouterr().err


@pytest.mark.parametrize(("damage", "tensor"), DAMAGES)
@pytest.mark.parametrize(
    ("command", "flags"),
    [
        (export, ["--model"]),
        (train_decoder, ["--module", "2", "--loss", "stft", "--model"]),
        (finetune, ["--label", "vowel", "--model"]),
        (pretrain, ["--init_from"]),
    ],
)
def test_commands_end_on_damaged_weights_in_one_line(damage, tensor, command, flags, saved, tmp_path):
    damage(saved)
    flags = flags if command is export else [*SYLLABLES, *flags]
    with pytest.raises(SystemExit, match=rf"saved/model\.safetensors.*{tensor}") as raised:
        command.main(["--output_dir", str(tmp_path / "out"), *flags, str(saved)])
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_settings_that_the_weights_do_not_fit_are_an_error(saved, tmp_path):
    flags = [*SYLLABLES, "--model_settings", "{hidden_size: 7}", "--output_dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=r"saved/model\.safetensors.*conv_modules\.0\."):
        pretrain.main([*flags, "--init_from", str(saved)])
    with pytest.raises(SystemExit, match=r"saved/model\.safetensors.*conv_modules\.0\."):
        finetune.main([*flags, "--label", "vowel", "--model", str(saved)])


def test_a_loss_is_complete_or_new(tmp_path):
    config = SimConfig.preset("sim-small", hidden_size=8, context_size=8)
    SimForPreTraining(config).save_pretrained(tmp_path)
    lacks("predictors.1")(tmp_path)
    loading.load_encoder(str(tmp_path))
    with pytest.raises(ValueError, match=r"model\.safetensors.*predictors\.1\."):
        loading.check_weights(str(tmp_path))
    with pytest.raises(SystemExit, match=r"model\.safetensors.*predictors\.1\."):
        pretrain.main(["--init_from", str(tmp_path), "--output_dir", str(tmp_path / "out")])


def test_a_damaged_head_or_decoder_is_named(tmp_path):
    config = SimConfig.preset("sim-small", hidden_size=8, context_size=8)
    SimForSequenceClassification(config).save_pretrained(tmp_path / "head")
    lacks("classifier.bias")(tmp_path / "head")
    with pytest.raises(ValueError, match=r"head/model\.safetensors.*classifier\.bias"):
        loading.check_weights(str(tmp_path / "head"))
    SimDecoder(SimDecoderConfig.for_module(config, 2)).save_pretrained(tmp_path / "decoder")
    loading.check_weights(str(tmp_path / "decoder"))
    lacks("layers.0.bias")(tmp_path / "decoder")
    for load in (loading.load_decoder, loading.check_weights):
        with pytest.raises(ValueError, match=r"decoder/model\.safetensors.*layers\.0\.bias"):
            load(str(tmp_path / "decoder"))


def test_other_encoders_may_lack_the_mask_of_training_but_nothing_else(tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    convolutions = {"conv_dim": (8,), "conv_kernel": (4,), "conv_stride": (2,), "num_conv_pos_embedding_groups": 2}
    model = Wav2Vec2Model(Wav2Vec2Config(**sizes, **convolutions))
    model.save_pretrained(tmp_path)
    lacks("masked_spec_embed")(tmp_path)
    loading.load_audio_encoder(str(tmp_path))
    lacks("encoder.layer_norm")(tmp_path)
    with pytest.raises(ValueError, match=r"model\.safetensors.*encoder\.layer_norm\."):
        loading.load_audio_encoder(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    loading.load_audio_encoder(str(tmp_path))
    for content in (b"", (tmp_path / "pytorch_model.bin").read_bytes()[:10], b"no weights"):
        (tmp_path / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(ValueError, match=tmp_path.name):
            loading.load_audio_encoder(str(tmp_path))
