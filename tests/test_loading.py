"""Checkpoints by folder or name: errors for missing ones, and the number of requests to the Hub."""

import datasets
import httpx2
import huggingface_hub
import pytest
from hub_server import Fault

from modeling_sim import SimConfig, SimModel, loading
from modeling_sim.commands import corpora
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
