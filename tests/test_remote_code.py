"""A saved folder carries its own code: it loads where the package cannot be imported, whichever class was saved."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from modeling_sim import (
    SimFeatureExtractor,
    SimForAudioFrameClassification,
    SimForPreTraining,
    SimForSequenceClassification,
    SimModel,
)

ROOT = Path(__file__).parent.parent
SAVED = [SimModel, SimForPreTraining, SimForSequenceClassification, SimForAudioFrameClassification]
AUTO = {
    "AutoModel": "SimModel",
    "AutoModelForPreTraining": "SimForPreTraining",
    "AutoModelForAudioClassification": "SimForSequenceClassification",
    "AutoModelForAudioFrameClassification": "SimForAudioFrameClassification",
    "AutoModelForImageClassification": "SimForSequenceClassification",
    "AutoModelForSequenceClassification": "SimForSequenceClassification",
    "AutoModelForTokenClassification": "SimForAudioFrameClassification",
}
CODE = ["configuration_sim.py", "layers_sim.py", "modeling_sim.py", "objectives_sim.py"]

WITHOUT_THE_PACKAGE = """
import sys


class WithoutThePackage:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("modeling_sim", "training"):
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, WithoutThePackage())
"""
"""Start of a program in which the package cannot be imported."""

# Loads every folder named in `folders.json` with every Auto class, and saves what it loaded again.
PROGRAM = f"""{WITHOUT_THE_PACKAGE}
import json

import torch
import transformers

torch.set_num_threads(1)
waveforms = torch.load("waveforms.pt")
results = {{}}
for folder in json.load(open("folders.json")):
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
    processor = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    assert type(processor).__name__ == "SimFeatureExtractor", type(processor)
    inputs = extractor(list(waveforms), sampling_rate=16000, return_tensors="pt")
    for auto, expected in {AUTO}.items():
        model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True)
        with torch.no_grad():
            output = model(**inputs)[0]
        results[f"{{folder}} {{auto}}"] = (type(model).__name__, type(extractor).__name__, output)
        if type(model).__name__ == folder:
            model.save_pretrained("again/" + folder)
            extractor.save_pretrained("again/" + folder)
assert "modeling_sim" not in sys.modules
torch.save(results, "results.pt")
"""


def run(program, folder):
    """Runs a program in a folder, in a Python without the user's paths and settings, and offline."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "HF_HOME": str(folder / "hf"),
        "HF_MODULES_CACHE": str(folder / "hf_modules"),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-I", "-c", program]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def saved(tiny_config, noise, tmp_path_factory):
    """A folder with one saved model of each class; how it was used elsewhere; and the models."""
    root = tmp_path_factory.mktemp("remote_code")
    torch.manual_seed(0)
    models = {}
    for model_class in SAVED:
        model = model_class(tiny_config(num_labels=3)).eval()
        model.save_pretrained(root / model_class.__name__)
        SimFeatureExtractor(do_normalize=True).save_pretrained(root / model_class.__name__)
        models[model_class.__name__] = model
    torch.save(noise(2, 4000), root / "waveforms.pt")
    (root / "folders.json").write_text(json.dumps(list(models)))
    run(PROGRAM, root)
    return root, torch.load(root / "results.pt"), models


@pytest.mark.parametrize("auto", AUTO)
@pytest.mark.parametrize("name", [model_class.__name__ for model_class in SAVED])
def test_a_folder_loads_without_the_package(name, auto, saved):
    _, results, _ = saved
    model, extractor, output = results[f"{name} {auto}"]
    assert (model, extractor) == (AUTO[auto], "SimFeatureExtractor")
    assert output.isfinite().all()


@pytest.mark.parametrize(("auto", "name"), AUTO.items())
def test_remote_code_gives_the_packages_output(auto, name, saved, noise):
    _, results, models = saved
    extractor = SimFeatureExtractor(do_normalize=True)
    inputs = extractor(list(noise(2, 4000)), sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        expected = models[name](**inputs)[0]
    assert torch.equal(results[f"{name} {auto}"][2], expected)


@pytest.mark.parametrize("where", ["", "again"], ids=["saved by the package", "saved by remote code"])
@pytest.mark.parametrize("name", [model_class.__name__ for model_class in SAVED])
def test_a_saved_folder_carries_its_code_and_names_every_auto_class(name, where, saved):
    folder = saved[0] / where / name
    for file in [*CODE, "feature_extraction_sim.py"]:
        assert (folder / file).is_file()
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    expected = {auto: f"modeling_sim.{model}" for auto, model in AUTO.items()}
    assert auto_map == {"AutoConfig": "configuration_sim.SimConfig", **expected}
    assert "AutoFeatureExtractor" in json.loads((folder / "preprocessor_config.json").read_text())["auto_map"]


def test_what_remote_code_saved_loads_without_the_package_again(saved):
    root, before, _ = saved
    again = root / "again"
    torch.save(torch.load(root / "waveforms.pt"), again / "waveforms.pt")
    (again / "folders.json").write_text(json.dumps(["SimForPreTraining"]))
    run(PROGRAM.replace("again/", "once more/"), again)
    results = torch.load(again / "results.pt")
    key = "SimForPreTraining AutoModelForPreTraining"
    assert torch.equal(results[key][2], before[key][2])


@pytest.mark.parametrize(
    "command",
    [
        ["-c", "from modeling_sim import SimModel; import modeling_sim.latents as m; print(m.__file__, SimModel)"],
        ["-m", "modeling_sim.cli", "convert", "--help"],
    ],
)
def test_in_the_folder_of_a_checkpoint_the_package_is_imported_and_not_its_file(command, saved):
    """Python looks for modules in the current folder first, and the code of a checkpoint has the package's name."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=saved[0] / "SimModel",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (str(ROOT / "modeling_sim") in done.stdout) or "usage" in done.stdout


def test_the_packages_code_replaces_a_reference_to_another_repository(tiny_config, tmp_path):
    """A config that came from a Hub repository may point to the code there; a saved folder points to its own."""
    model = SimModel(tiny_config())
    model.config.auto_map = {"AutoModelForPreTraining": "someone/repository--modeling_sim.SimForPreTraining"}
    model.save_pretrained(tmp_path)
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert auto_map["AutoModelForPreTraining"] == "modeling_sim.SimForPreTraining"


def test_the_model_files_import_no_more_than_the_packages_core_dependencies(tiny_config, tmp_path):
    SimModel(tiny_config()).save_pretrained(tmp_path)
    allowed = {"torch", "transformers", "numpy", "huggingface_hub", *sys.stdlib_module_names, ""}
    for file in CODE:
        for line in (tmp_path / file).read_text().splitlines():
            if line.startswith(("import ", "from ")):
                module = line.split()[1]
                assert module.split(".")[0] in allowed, line
                assert module.count(".") <= 1 or not module.startswith("."), line


def test_a_folder_with_the_code_of_an_earlier_version_loads(tiny_config, noise, tmp_path):
    """Before there was `layers_sim.py` a folder had one file less; the package reads it with its own code."""
    model = SimModel(tiny_config()).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "layers_sim.py").unlink()
    torch.testing.assert_close(AutoModel.from_pretrained(tmp_path)(noise(1, 4000))[0], model(noise(1, 4000))[0])
