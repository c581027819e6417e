"""What was pushed loads again over HTTP, with and without the package, and gives the same outputs."""

import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from hub_server import Fault, HubServer, User
from test_remote_code import WITHOUT_THE_PACKAGE

from modeling_sim import (
    SimFeatureExtractor,
    SimForAudioFrameClassification,
    SimForPreTraining,
    SimForSequenceClassification,
)
from modeling_sim.data.corpora import load_corpus
from modeling_sim.hub.upload import upload

ROOT = Path(__file__).parent.parent
CLASSES = [SimForPreTraining, SimForSequenceClassification, SimForAudioFrameClassification]

WITH_THE_PACKAGE = """
import sys
sys.path.insert(0, ROOT)
import modeling_sim
MORE = {}
"""
# Loads what `jobs.json` lists and keeps the first output of each; then a pipeline, and the files of a snapshot.
PROGRAM = """
import json
from pathlib import Path

import torch
import transformers
from huggingface_hub import snapshot_download

torch.set_num_threads(1)
waveforms = torch.load("waveforms.pt")
results = {}
for auto, repo, revision in json.load(open("jobs.json")):
    extractor = transformers.AutoFeatureExtractor.from_pretrained(repo, revision=revision, **MORE)
    model = getattr(transformers, auto).from_pretrained(repo, revision=revision, **MORE).eval()
    inputs = extractor(list(waveforms), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        results[f"{auto} {repo} {revision}"] = (type(model).__name__, model(**inputs)[0])
classify = transformers.pipeline("audio-classification", model="org/SimForSequenceClassification", **MORE)
results["pipeline"] = classify(waveforms[0].numpy(), top_k=3)
snapshot = Path(snapshot_download("org/SimForPreTraining"))
results["snapshot"] = {path.name: path.read_bytes() for path in snapshot.iterdir()}
torch.save(results, "results.pt")
"""


def run(program, folder, environment, *, fails=False):
    """Runs a program in a Python without the user's paths, as a client of the Hub; returns what it wrote."""
    clean = {name: environment[name] for name in environment if name.startswith("HF_")}
    command = [sys.executable, "-I", "-c", program]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "1", **clean}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode != 0) == fails, result.stderr
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def hub():
    users = {"hf_owner": User("owner", ("org",)), "hf_other": User("other")}
    with HubServer(users) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        yield server


@pytest.fixture(scope="module")
def pushed(hub, tiny_config, noise, tmp_path_factory):
    """A model of each class on the Hub; the first has a second state on a branch, and a tag on its first."""
    root = tmp_path_factory.mktemp("pushed")
    api = huggingface_hub.HfApi(endpoint=hub.url, token="hf_owner")  # noqa: S106 - of a server of this test
    inputs = SimFeatureExtractor()(list(noise(2, 4000)), sampling_rate=16_000, return_tensors="pt")
    expected = {}
    for model_class in CLASSES:
        for seed in (0, 1):
            torch.manual_seed(seed)
            name, folder = model_class.__name__, root / f"{model_class.__name__}{seed}"
            model = model_class(tiny_config(num_labels=3)).eval()
            model.save_pretrained(folder)
            SimFeatureExtractor().save_pretrained(folder)
            upload(api, f"org/{name}", folder, message="model", revision="second" if seed else None)
            if not seed:
                api.create_tag(f"org/{name}", tag="v1")
            with torch.no_grad():
                expected[name, seed] = model(**inputs)[0]
                if model_class is SimForPreTraining:
                    expected["SimModel", seed] = model.sim(**inputs)[0]
    upload(api, "org/closed", root / "SimForPreTraining0", message="model", private=True)
    return expected


@pytest.fixture(scope="module", params=["with the package", "without the package"])
def loaded(request, hub, pushed, noise, tmp_path_factory):
    """What a client process loads."""
    del pushed  # it is on the Hub
    folder = tmp_path_factory.mktemp("client")
    torch.save(noise(2, 4000), folder / "waveforms.pt")
    repo = hub.repo("org/SimForPreTraining")
    jobs = [
        ["AutoModel", "org/SimForPreTraining", revision]
        for revision in (None, "v1", "second", repo.branches["second"], repo.branches["main"])
    ]
    jobs += [
        ["AutoModelForPreTraining", "org/SimForPreTraining", "second"],
        ["AutoModelForAudioClassification", "org/SimForSequenceClassification", None],
        ["AutoModelForAudioFrameClassification", "org/SimForAudioFrameClassification", None],
        ["AutoModel", "org/closed", None],
    ]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    without = WITHOUT_THE_PACKAGE + 'MORE = {"trust_remote_code": True}\n'
    start = without if request.param == "without the package" else WITH_THE_PACKAGE
    run(start.replace("ROOT", repr(str(ROOT))) + PROGRAM, folder, hub.environment(folder / "hf"))
    return torch.load(folder / "results.pt", weights_only=False), jobs


def test_every_class_gives_its_outputs_by_branch_tag_and_commit(loaded, pushed, hub):
    results, jobs = loaded
    second = ("second", hub.repo("org/SimForPreTraining").branches["second"])
    classes = {
        "AutoModel": "SimModel",
        "AutoModelForPreTraining": "SimForPreTraining",
        "AutoModelForAudioClassification": "SimForSequenceClassification",
        "AutoModelForAudioFrameClassification": "SimForAudioFrameClassification",
    }
    for auto, repo, revision in jobs:
        name, output = results[f"{auto} {repo} {revision}"]
        assert name == classes[auto]
        expected = pushed[name, int(revision in second)]
        torch.testing.assert_close(output, expected, rtol=0, atol=0)


def test_a_pipeline_classifies(loaded):
    labels = {row["label"] for row in loaded[0]["pipeline"]}
    assert labels == {"LABEL_0", "LABEL_1", "LABEL_2"}
    assert sum(row["score"] for row in loaded[0]["pipeline"]) == pytest.approx(1, abs=1e-5)


def test_a_snapshot_is_what_is_on_the_hub(loaded, hub):
    assert loaded[0]["snapshot"] == hub.files("org/SimForPreTraining")


def client(hub, command, folder, token="hf_owner"):  # noqa: S107
    """Runs the `hf` command."""
    hf = Path(sys.executable).with_name("hf")
    environment = hub.environment(folder / "hf", token=token)
    return subprocess.run([hf, *command], env=environment, cwd=folder, capture_output=True, text=True, check=False)


def test_hf_download_gives_the_files(hub, pushed, tmp_path):
    del pushed
    result = client(hub, ["download", "org/SimForPreTraining", "--local-dir", "here"], tmp_path)
    assert result.returncode == 0, result.stderr
    for name, content in hub.files("org/SimForPreTraining").items():
        assert (tmp_path / "here" / name).read_bytes() == content


@pytest.mark.parametrize("token", [None, "hf_wrong", "hf_other"])
def test_a_private_repository_is_closed_to_others(token, hub, pushed, tmp_path):
    del pushed
    result = client(hub, ["download", "org/closed", "--local-dir", "here"], tmp_path, token=token)
    assert result.returncode != 0
    assert not (tmp_path / "here" / "model.safetensors").exists()


@pytest.mark.parametrize("kind", ["truncate", "drop"])
def test_a_download_that_breaks_off_is_completed(kind, hub, pushed, tmp_path):
    del pushed
    hub.faults.append(Fault(kind, r"GET .*resolve.*model\.safetensors"))
    result = client(hub, ["download", "org/SimForPreTraining", "--local-dir", "here"], tmp_path)
    assert hub.faults.pop().times == 0
    assert result.returncode == 0, result.stderr
    weights = (tmp_path / "here" / "model.safetensors").read_bytes()
    assert weights == hub.files("org/SimForPreTraining")["model.safetensors"]


def test_a_download_that_the_hub_refuses_leaves_no_half_file_and_works_later(hub, pushed, tmp_path):
    del pushed
    hub.faults.append(Fault("error", r"GET .*resolve.*model\.safetensors"))
    command = ["download", "org/SimForPreTraining", "--local-dir", "here"]
    result = client(hub, command, tmp_path)
    assert result.returncode != 0
    assert "500" in result.stderr
    assert not (tmp_path / "here" / "model.safetensors").exists()
    assert client(hub, command, tmp_path).returncode == 0
    assert (tmp_path / "here" / "model.safetensors").is_file()


PUSH = """
import sys
sys.path.insert(0, ROOT)
from modeling_sim import SimConfig, SimFeatureExtractor, SimModel
SimModel(SimConfig.preset("sim", hidden_size=16, context_size=8)).push_to_hub("org/by-transformers")
SimFeatureExtractor().push_to_hub("org/by-transformers")
"""


@pytest.mark.slow
def test_transformers_own_push_carries_the_code(hub, tmp_path):
    run(PUSH.replace("ROOT", repr(str(ROOT))), tmp_path, hub.environment(tmp_path / "hf"))
    files = hub.files("org/by-transformers")
    assert {"modeling_sim.py", "configuration_sim.py", "feature_extraction_sim.py"} <= set(files)
    assert "AutoModel" in json.loads(files["config.json"])["auto_map"]


# ---------------------------------------------------------------------- from a data set on the Hub to a model there


@pytest.fixture(scope="module")
def librispeech(hub):
    """A miniature of openslr/librispeech_asr: its columns, its configuration and its dotted splits, as Parquet."""
    api = huggingface_hub.HfApi(endpoint=hub.url, token="hf_owner")  # noqa: S106
    made = load_corpus("synthetic_syllables", num_train=12, num_speakers=3, num_syllables=2, cache=False)
    rows = made.select_columns(["audio", "id"])
    speakers = [number % 3 + 1 for number in range(12)]
    for name, values in (
        ("file", made["id"][:]),
        ("text", ["BA"] * 12),
        ("speaker_id", speakers),
        ("chapter_id", speakers),
    ):
        rows = rows.add_column(name, values)
    configs = "".join(
        f"  - split: {split}\n    path: clean/{split}/*.parquet\n" for split in ("train.100", "validation", "test")
    )
    card = f"---\nlicense: cc-by-4.0\nconfigs:\n- config_name: clean\n  data_files:\n{configs}---\n"
    api.create_repo("org/mini", repo_type="dataset")
    files = {"README.md": card.encode()}
    for split, part in (("train.100", rows.select(range(8))), ("validation", rows.select(range(8, 12)))):
        files |= {f"clean/{split}/0000.parquet": _parquet(part)}
    files["clean/test/0000.parquet"] = files["clean/validation/0000.parquet"]
    api.create_commit(
        "org/mini",
        [huggingface_hub.CommitOperationAdd(path, content) for path, content in files.items()],
        repo_type="dataset",
        commit_message="data",
    )
    return hub


def _parquet(rows):
    buffer = io.BytesIO()
    rows.to_parquet(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "streaming", [pytest.param(False, id="map-style"), pytest.param(True, id="streaming", marks=pytest.mark.slow)]
)
def test_a_data_set_on_the_hub_becomes_a_model_on_the_hub(streaming, librispeech, tmp_path):
    hub, repo_id = librispeech, f"org/from-{'stream' if streaming else 'table'}"
    launch = "accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no"
    splits = "--train_split train.100 --eval_split validation" if streaming else "--train_split train --eval_split test"
    flags = (
        f"--corpus librispeech --dataset_name org/mini --corpus_settings '{{streaming: {str(streaming).lower()}}}' "
        f"{splits} --model_settings '{{hidden_size: 16, context_size: 8, loss_window: 32}}' --crop_samples 5120 "
        "--batch_size 2 --eval_batch_size 2 --max_steps 3 --save_steps 1 --warmup_steps 0 --push_to_hub "
        f"--repo_id {repo_id} --push_every_saves 1"
    )
    script = ROOT / "training" / "pretrain.py"
    command = [*launch.split(), script, *shlex.split(flags), "--output_dir", tmp_path / "run"]
    environment = hub.environment(tmp_path / "hf", PYTHONPATH=str(ROOT), ACCELERATE_USE_CPU="true")
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "uploaded to" in result.stdout + result.stderr
    files = hub.files(repo_id)
    card = files["README.md"].decode()
    assert "license: cc-by-4.0" in card
    assert "- org/mini" in card
    assert not any(str(tmp_path).encode() in content for content in files.values())
    # The card's own code runs: without the package as it stands, and with it.
    code = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert len(code) == 2
    check = "\nassert outputs.last_hidden_state.shape == (1, 100, 8)"
    start = WITHOUT_THE_PACKAGE + "import torch; torch.set_num_threads(1)\n"
    run(start + code[0] + check, tmp_path, hub.environment(tmp_path / "hf"))
    if not streaming:  # one process less where this is not marked as slow
        return
    start = WITH_THE_PACKAGE.replace("ROOT", repr(str(ROOT)))
    run(start + code[1] + "\nassert type(model).__name__ == 'SimModel'", tmp_path, hub.environment(tmp_path / "hf"))
