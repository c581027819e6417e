"""The models in `checkpoints/` load with today's code and give the outputs that they gave when they were trained."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from transformers import pipeline

from model_cards.make import render_checkpoint_code
from modeling_sim import SimEmbedder
from modeling_sim.hub.card_check import check_card
from modeling_sim.inference.axes import read_temporal_axes
from modeling_sim.loading import load_decoder, load_encoder
from modeling_sim.provenance import weights_fingerprint
from studies.release.run import CHECKPOINTS, CLASSIFIER, OUTPUTS_NAME, PRESETS, first_outputs

OUTPUTS = json.loads((CHECKPOINTS / OUTPUTS_NAME).read_text())
FOLDERS = sorted(path.parent for path in CHECKPOINTS.glob("*/config.json"))


def test_every_model_has_known_outputs():
    assert sorted(OUTPUTS) == [folder.name for folder in FOLDERS]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_outputs_are_those_that_the_model_was_published_with(folder):
    outputs = first_outputs(folder)
    assert outputs.keys() == OUTPUTS[folder.name].keys()
    for module, values in outputs.items():
        np.testing.assert_allclose(values, OUTPUTS[folder.name][module], rtol=0, atol=1e-5, err_msg=module)


def test_code_and_configurations_are_what_the_package_saves():
    files = render_checkpoint_code()
    for path, text in files.items():
        assert path.read_text(encoding="utf-8") == text, "run `python model_cards/make.py`"
    assert set(CHECKPOINTS.glob("*/*.py")) <= set(files)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_model_is_small_and_its_card_is_sound(folder):
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5_500_000
    assert check_card(folder / "README.md") == []


def test_all_models_are_small():
    assert sum(path.stat().st_size for path in CHECKPOINTS.rglob("*") if path.is_file()) < 20_000_000


@pytest.mark.parametrize(
    "folder", [path for path in FOLDERS if path.name.endswith("-decoder")], ids=lambda path: path.name
)
def test_a_decoder_is_of_the_encoder_next_to_it(folder):
    encoder = load_encoder(str(folder.with_name(folder.name.removesuffix("-decoder"))))
    assert load_decoder(str(folder)).config.encoder_fingerprint == weights_fingerprint(encoder)


@pytest.mark.parametrize("name", PRESETS)
def test_an_encoder_has_temporal_axes_of_training_utterances(name, noise):
    folder = CHECKPOINTS / name
    transforms, facts = read_temporal_axes(str(folder), weights_fingerprint(load_encoder(str(folder))))
    assert facts["data"] == "librispeech (train)"
    assert list(transforms) == ["context", "module 0", "module 1", "module 2"]
    frames = SimEmbedder(folder, module=2, axes="temporal", device="cpu")(noise(4000).numpy() / 8)
    assert frames.shape == (25, transforms["module 2"].matrix.shape[1])
    assert "axes.safetensors" in (folder / "README.md").read_text()


def test_the_classifier_works_in_a_pipeline(noise):
    if not (CHECKPOINTS / CLASSIFIER).is_dir():
        pytest.skip(f"there is no {CLASSIFIER}")
    found = pipeline("audio-classification", model=str(CHECKPOINTS / CLASSIFIER))(noise(16_000).numpy())
    assert set(found[0]) == {"label", "score"}


@pytest.mark.trains
def test_models_load_without_the_package(tmp_path):
    program = (
        "import sys; sys.modules['modeling_sim'] = None\n"
        "from transformers import AutoModel\n"
        "for folder in sys.argv[1:]:\n"
        "    print(type(AutoModel.from_pretrained(folder, trust_remote_code=True)).__module__)"
    )
    command = [sys.executable, "-c", program, *map(str, FOLDERS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True, timeout=300)
    modules = done.stdout.split()
    assert len(modules) == len(FOLDERS)
    assert all(module.startswith("transformers_modules") for module in modules)


def test_the_documented_distances_of_decoders_are_those_of_their_results():
    text = " ".join((CHECKPOINTS.parent / "docs" / "checkpoints.md").read_text(encoding="utf-8").split())
    (documented,) = re.findall(r"([\d.]+) nats for SIM, ([\d.]+) for GIM, and ([\d.]+) for the readable SIM", text)
    for name, distance in zip(PRESETS, documented, strict=True):
        results = json.loads((CHECKPOINTS / f"{name}-decoder" / "results.json").read_text())
        assert float(distance) == pytest.approx(results["reconstruction"]["log_mel"]["value"], abs=0.0051)
