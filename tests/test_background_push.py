"""Uploads during a run: of the newest state, and without affecting the run, whatever the Hub does."""

import contextlib
import json
import shlex
import threading
import time

import huggingface_hub
import pytest
import torch
from hub_server import Fault

from modeling_sim import SimFeatureExtractor, SimForPreTraining
from modeling_sim.commands import pretrain
from modeling_sim.hub import callback, staging
from modeling_sim.hub import upload as training_hub
from modeling_sim.hub.callback import PushToHub
from modeling_sim.hub.settings import HubArguments
from modeling_sim.trainer.checkpoints import save_checkpoint
from modeling_sim.trainer.settings import RunArguments

TINY = shlex.split(
    "--model_settings '{hidden_size: 16, context_size: 8, loss_window: 64}' --crop_samples 10240 "
    "--corpus_settings '{num_train: 8, num_test: 4, num_speakers: 2}' --batch_size 4 --eval_batch_size 4 "
    "--warmup_steps 0 --logging_steps 1"
)


@pytest.fixture
def hub(hub, monkeypatch):
    """The Hub of all tests, and a client that tries once."""
    monkeypatch.setattr(training_hub, "RETRY_SECONDS", ())
    return hub


@pytest.fixture
def checkpoint(tiny_config, tmp_path):
    """Makes complete checkpoints next to a log: `checkpoint(step)`."""
    module = {"loss": 1.0, "contrastive_accuracy": 0.5, "kl": 1.0, "active_units": 3}
    modules = [{"name": name, **module} for name in tiny_config().module_names]
    line = {"step": 0, "split": "test", "title": "a", "output_dir": str(tmp_path), "chance": 0.1, "modules": modules}
    (tmp_path / "log.jsonl").write_text(json.dumps(line) + "\n")

    def make(step):
        torch.manual_seed(step)
        model = SimForPreTraining(tiny_config())
        return save_checkpoint(tmp_path, model, SimFeatureExtractor(), step=step, numbers={}, tensors={}, limit=1)

    return make


@contextlib.contextmanager
def pushing(tmp_path, said, every=1):
    push = PushToHub(HubArguments(push_to_hub=True, repo_id="org/run", push_every_saves=every), RunArguments())
    push.on_begin(tmp_path, said.append)
    yield push
    push.close()


def wait_for(said, number):
    ends = time.monotonic() + 30
    while len(said) < number:
        assert time.monotonic() < ends, said
        time.sleep(0.02)


def commits(hub):
    return [commit.title for commit in hub.repo("org/run").commits.values()][1:]


def test_every_nth_checkpoint_is_uploaded_without_states_of_the_optimizer(hub, checkpoint, tmp_path):
    said = []
    with pushing(tmp_path, said, every=2) as push:
        for step in (1, 2, 3):
            push.on_save(checkpoint(step))
        wait_for(said, 1)
    assert commits(hub) == ["Upload checkpoint-2 of a running run"]
    files = hub.files("org/run")
    assert {"model.safetensors", "config.json", "modeling_sim.py", "log.jsonl", "curves.png"} <= set(files)
    assert not {"trainer.pt", "trainer_state.json", "README.md"} & set(files)
    assert not any(str(tmp_path).encode() in content for content in files.values())
    assert len(said) == 1
    assert "checkpoint-2" in said[0]
    assert hub.url in said[0]


def test_figures_and_pictures_of_an_earlier_run_go_with_its_weights(hub, checkpoint, tmp_path):
    said, path = [], checkpoint(1)
    with pushing(tmp_path, said) as push:
        push.on_save(path)
        wait_for(said, 1)
        for name in ("results.json", "probe_phones_frame.png", "README.md", "notes.txt"):
            huggingface_hub.HfApi().upload_file(path_or_fileobj=b"{}", path_in_repo=name, repo_id="org/run")
        push.on_save(path)
        wait_for(said, 2)
    assert "probe_phones_frame.png, results.json" in said[1]
    assert said[1].endswith("notes.txt")  # which stays
    files = hub.files("org/run")
    assert {"README.md", "notes.txt", "model.safetensors"} <= set(files)
    assert not {"results.json", "probe_phones_frame.png"} & set(files)


def test_only_the_newest_waits_and_a_checkpoint_may_be_removed_meanwhile(hub, checkpoint, tmp_path, monkeypatch):
    said, started, may_go_on = [], threading.Event(), threading.Event()
    upload = training_hub.upload

    def slow_upload(*arguments, **more):
        started.set()
        assert may_go_on.wait(30)
        return upload(*arguments, **more)

    monkeypatch.setattr("modeling_sim.hub.callback.upload", slow_upload)
    with pushing(tmp_path, said) as push:
        push.on_save(checkpoint(1))
        assert started.wait(30)
        for step in (2, 3, 4):  # each removes the one before: `limit` is 1
            push.on_save(checkpoint(step))
        may_go_on.set()
        wait_for(said, 2)
    assert commits(hub) == [f"Upload checkpoint-{step} of a running run" for step in (1, 4)]
    assert hub.files("org/run")["model.safetensors"] == (tmp_path / "checkpoint-4" / "model.safetensors").read_bytes()
    ends = time.monotonic() + 10
    while list(tmp_path.glob(".pushing-*")) and time.monotonic() < ends:  # the thread tidies up after its last word
        time.sleep(0.1)
    assert not list(tmp_path.glob(".pushing-*"))


def test_a_failure_is_said_and_the_next_upload_is_made(hub, checkpoint, tmp_path):
    said = []
    hub.faults.append(Fault("error", "POST .*/commit/"))
    with pushing(tmp_path, said) as push:
        push.on_save(checkpoint(1))
        wait_for(said, 1)
        push.on_save(checkpoint(2))
        wait_for(said, 2)
    assert "checkpoint-1" in said[0]
    assert "checkpoint-2" in said[1]
    assert commits(hub) == ["Upload checkpoint-2 of a running run"]


def test_a_checkpoint_that_is_gone_is_said_and_raises_nothing(tmp_path):
    said = []
    with pushing(tmp_path, said) as push:
        push.on_save(tmp_path / "checkpoint-9")
    assert len(said) == 1
    assert "checkpoint-9" in said[0]
    assert not list(tmp_path.glob(".pushing-*"))


def test_a_run_whose_uploads_fail_is_uploaded_at_the_end(hub, tmp_path, capsys):
    """The Hub fails during the run: the run is not affected, and all of it is uploaded at the end."""
    hub.faults.append(Fault("error", "POST .*/commit/", times=99))
    original = staging.push_run

    def push_run(*arguments):
        hub.faults.clear()
        return original(*arguments)

    flags = ["--output_dir", str(tmp_path / "run"), "--max_steps", "4", "--save_steps", "1", "--push_to_hub"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callback, "push_run", push_run)
        pretrain.main([*TINY, *flags, "--repo_id", "org/run", "--push_every_saves", "1"])
    assert commits(hub) == ["Upload a pretrained model"]
    assert "README.md" in hub.files("org/run")
    assert (tmp_path / "run" / "results.json").is_file()
    output = capsys.readouterr()
    assert "failed" in output.out + output.err
    assert "uploaded to" in output.out + output.err


def test_a_run_is_uploaded_while_it_trains_and_at_its_end(hub, tmp_path):
    flags = ["--output_dir", str(tmp_path / "run"), "--max_steps", "3", "--save_steps", "1", "--push_to_hub"]
    pretrain.main([*TINY, *flags, "--repo_id", "org/run", "--push_every_saves", "1"])
    assert "running run" in commits(hub)[0]
    assert commits(hub)[-1] == "Upload a pretrained model"
    weights = (tmp_path / "run" / "model.safetensors").read_bytes()
    assert hub.files("org/run")["model.safetensors"] == weights
    results = json.loads(hub.files("org/run")["results.json"])
    assert results["hardware"]["device"] == "cpu"
    assert results["hardware"]["threads"] == torch.get_num_threads()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"push_every_saves": -1}, "push_every_saves"),
        ({"push_to_hub": True}, "repo_id"),
        ({"push_to_hub": True, "repo_id": "name"}, "repo_id"),
        ({"push_every_saves": 1}, "push_to_hub"),
        ({"push_every_saves": 1, "push_to_hub": True, "repo_id": "a/b"}, "save_steps"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        PushToHub(HubArguments(**changes), RunArguments(save_steps=0))


def test_the_settings_of_the_hub_may_be_in_a_file(hub, tmp_path):
    (tmp_path / "run.yaml").write_text("push_to_hub: true\nrepo_id: org/run\nmax_steps: 1\n")
    pretrain.main([*TINY, "--config", str(tmp_path / "run.yaml"), "--output_dir", str(tmp_path / "run")])
    assert commits(hub) == ["Upload a pretrained model"]
