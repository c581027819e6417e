"""The wheel works where no checkout is: the model family alone, and with the extras every command."""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from modeling_sim import SimConfig, SimFeatureExtractor, SimForPreTraining

ROOT = Path(__file__).parents[1]
TINY = ["--model_settings", "{hidden_size: 8, context_size: 8}", "--crop_samples", "4000", "--batch_size", "2"]
SPEECH = ["--corpus", "synthetic_syllables", "--corpus_settings", "{num_train: 8, num_test: 8, num_syllables: 1}"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)],
        check=True,
        capture_output=True,
    )
    return next(out.glob("*.whl"))


def environment(tmp_path, *pip):
    """The Python of a fresh environment with what pip is given."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *pip], check=True, capture_output=True)
    return python


def run(python, folder, *command, **variables):
    """Runs a program outside the checkout, without what this process has on its path."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(python), *map(str, command)],
        cwd=folder,
        env={**clean, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_model_family_loads_a_saved_folder_from_the_wheel(wheel, tmp_path):
    saved = tmp_path / "saved"
    SimForPreTraining(SimConfig.preset("sim-small", hidden_size=8, context_size=8)).save_pretrained(saved)
    SimFeatureExtractor().save_pretrained(saved)
    site = tmp_path / "site"
    shutil.unpack_archive(wheel, site, "zip")
    # The package comes from the wheel, and no checkout; what it depends on from this environment, without the extras.
    # `None` in `sys.modules` is how a module is made impossible to find.
    extras = ["accelerate", "datasets", "evaluate", "matplotlib", "scipy", "sklearn", "soundfile", "soxr", "training"]
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({extras}))\n"
        "import modeling_sim, transformers\n"
        f"assert modeling_sim.__file__.startswith({str(site)!r}), modeling_sim.__file__\n"
        f"model = transformers.AutoModel.from_pretrained({str(saved)!r})\n"
        "print(type(model).__module__)"
    )
    printed = run(sys.executable, tmp_path, "-c", program, PYTHONPATH=str(site))
    assert printed.split() == ["modeling_sim.modeling_sim"]


@pytest.mark.slow
def test_every_stage_runs_from_the_wheel_alone(wheel, tmp_path):
    python = environment(tmp_path, "--constraint", ROOT / "constraints.txt", f"{wheel}[train,analysis]")
    command = python.with_name("modeling-sim")
    work = tmp_path / "work"
    work.mkdir()
    assert "pretrain" in run(command, work, "--help")
    run(command, work, "pretrain", *TINY, *SPEECH, "--max_steps", "3", "--output_dir", "run")
    measured = "--label vowel --max_items 200 --max_frames 400 --output_dir report"
    run(command, work, "evaluate", "--model", "run", *SPEECH, *measured.split())
    assert (work / "report" / "report.html").stat().st_size > 10_000
    assert json.loads((work / "run" / "results.json").read_text())["steps"] == 3
    assert "config.json" in run(command, work, "publish", "run", "--repo_id", "org/name", "--dry_run")
    launch = "-m accelerate.commands.launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no"
    pretrain = ["-m", "modeling_sim.cli", "pretrain", *TINY, *SPEECH, "--max_steps", "2", "--output_dir", "second"]
    run(python, work, *launch.split(), *pretrain)
    assert (work / "second" / "results.json").is_file()
