"""Classifiers trained on encoders: they learn, leave a frozen encoder alone, resume, and end in a pipeline."""

import json
import shlex

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from transformers import AutoModelForAudioFrameClassification, pipeline

from modeling_sim import SimConfig, SimFeatureExtractor, SimForPreTraining, SimForSequenceClassification
from modeling_sim.commands import finetune
from modeling_sim.data.batches import crop_batches
from modeling_sim.data.corpora import load_corpus
from modeling_sim.trainer.classification import ClassificationTask, build_classifier

DATA = [
    "--corpus_settings",
    "{num_train: 16, num_test: 8, num_speakers: 2, num_syllables: 1}",
    "--crop_samples",
    "4000",
]
TINY = [*DATA, "--batch_size", "4", "--eval_batch_size", "4", "--max_steps", "3", "--logging_steps", "2"]
SMALL = ["--model_settings", "{hidden_size: 16, context_size: 8}"]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    torch.manual_seed(0)
    SimForPreTraining(SimConfig.preset("sim-small", hidden_size=16, context_size=8)).save_pretrained(folder)
    SimFeatureExtractor().save_pretrained(folder)
    return folder


def run(output_dir, *flags):
    finetune.main([*TINY, "--output_dir", str(output_dir), *flags])
    return json.loads((output_dir / "results.json").read_text())


def encoder(folder):
    return {name: value for name, value in load_file(folder / "model.safetensors").items() if name.startswith("sim.")}


@pytest.mark.parametrize("label", ["speaker_id", "phones"])
def test_a_frozen_encoder_is_left_as_it_was_and_a_free_one_is_not(pretrained, tmp_path, label):
    before = encoder(pretrained)
    flags = ["--model", str(pretrained), "--label", label]
    run(tmp_path / "frozen", *flags, "--freeze_encoder", "True")
    run(tmp_path / "free", *flags)
    frozen, free = encoder(tmp_path / "frozen"), encoder(tmp_path / "free")
    assert all(torch.equal(frozen[name], before[name]) for name in frozen)
    assert all(not torch.equal(free[name], before[name]) for name in free if name.endswith("conv.weight"))


def test_the_kind_of_an_earlier_heads_labels_is_not_kept(pretrained, tmp_path):
    """Its classes are trained on whatever the checkpoint's labels were."""
    config = SimConfig.from_pretrained(pretrained, problem_type="regression", num_labels=3)
    SimForSequenceClassification(config).save_pretrained(tmp_path / "regression")
    SimFeatureExtractor().save_pretrained(tmp_path / "regression")
    run(tmp_path / "run", "--model", str(tmp_path / "regression"), "--label", "vowel")
    assert SimConfig.from_pretrained(tmp_path / "run").problem_type in (None, "single_label_classification")


def test_only_a_head_of_the_same_classes_and_module_is_kept(pretrained, tmp_path, capsys):
    config = SimConfig.preset("sim-small", hidden_size=16, context_size=8, probe_module=-1)
    config.id2label = dict(enumerate("aiu"))
    head = SimForSequenceClassification(config)
    head.save_pretrained(tmp_path)

    def built(frames=False, **changes):
        asked = SimConfig.from_pretrained(tmp_path, probe_module=3, problem_type="single_label_classification")
        for name, value in changes.items():
            setattr(asked, name, value)
        model = build_classifier(str(tmp_path), asked, frames=frames)
        assert torch.equal(model.sim.context.weight_ih_l0, head.sim.context.weight_ih_l0)
        same = model.classifier.weight.shape == head.classifier.weight.shape
        kept = same and torch.equal(model.classifier.weight, head.classifier.weight)
        assert all(parameter.requires_grad for parameter in model.classifier.parameters())
        assert (tmp_path.name in capsys.readouterr().out) == (not kept)
        return kept

    assert built()
    assert not built(frames=True)
    assert not built(id2label=dict(enumerate("xyz")))
    assert not built(id2label=dict(enumerate("iau")))
    assert not built(id2label=dict(enumerate("ai")))
    assert not built(probe_module=2)
    assert not built(probe_module=0)
    head.config.problem_type = "regression"
    head.save_pretrained(tmp_path)
    assert not built()
    build_classifier(str(pretrained), config, frames=False)
    assert capsys.readouterr().out == ""


def test_a_checkpoint_of_another_label_starts_with_a_new_head(pretrained, tmp_path):
    first = run(tmp_path / "first", "--model", str(pretrained), "--label", "vowel", "--max_steps", "1")
    flags = ["--model", str(tmp_path / "first"), "--max_steps", "1"]
    again = run(tmp_path / "again", *flags, "--label", "vowel")
    assert again["modules"][0]["untrained"] == first["modules"][0]["trained"]
    assert run(tmp_path / "other", *flags, "--label", "speaker_id")["classes"] != first["classes"]


def test_the_folder_works_in_a_pipeline(pretrained, tmp_path):
    run(tmp_path / "run", "--model", str(pretrained), "--label", "vowel")
    classify = pipeline("audio-classification", model=str(tmp_path / "run"), device="cpu")
    samples = 0.1 * np.random.default_rng(0).standard_normal(8000)
    soundfile.write(tmp_path / "speech.wav", samples, 16000)
    answers = classify({"raw": samples.astype(np.float32), "sampling_rate": 16000}, top_k=3)
    assert sorted(answer["label"] for answer in answers) == ["a", "i", "u"]
    assert sum(answer["score"] for answer in answers) == pytest.approx(1)


def test_labels_of_frames_stand_at_the_crops_frames(pretrained, tmp_path):
    run(tmp_path, "--model", str(pretrained), "--label", "phones", "--probe_module", "1")
    model = AutoModelForAudioFrameClassification.from_pretrained(tmp_path)
    dataset = load_corpus("synthetic_syllables", "train", num_train=16, num_test=8, num_speakers=2, num_syllables=1)
    task = ClassificationTask.__new__(ClassificationTask)
    task.model, task.label, task.accelerator = model, "phones", type("A", (), {"device": torch.device("cpu")})
    batch = next(
        iter(crop_batches(dataset, SimFeatureExtractor(), crop_samples=4000, batch_size=4, seed=3, columns=["phones"]))
    )
    labels = task.labels(batch).numpy()
    centers = model.config.frame_centers(labels.shape[1], 1)
    assert batch["start"].max() > 0
    for row, start in enumerate(batch["start"].tolist()):
        phones = np.array(dataset[int(batch["index"][row])]["phones"])
        moments = 200 + 160 * np.arange(len(phones))
        for frame in range(0, labels.shape[1], 7):
            distance = np.abs(moments - (centers[frame] + start))
            expected = phones[distance.argmin()] if distance.min() < 80 else None
            if abs(distance.min() - 80) > 1e-6:
                assert labels[row, frame] == (expected if expected is not None else -100)


def test_results_hold_the_scores_with_intervals_next_to_chance(pretrained, tmp_path):
    results = run(tmp_path, "--model", str(pretrained), "--label", "vowel", "--eval_steps", "1")
    assert results["classes"] == ["a", "i", "u"]
    total = np.array(results["confusion"])
    assert total.sum() == 8
    assert results["accuracy"]["value"] == pytest.approx(np.trace(total) / 8)
    assert results["accuracy"]["low"] <= results["accuracy"]["value"] <= results["accuracy"]["high"]
    assert 0 < results["chance"] < 1
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_training_on_clean_factors_reaches_the_factor(tmp_path):
    """The supervised baseline, a fresh encoder of its own, learns the vowels of isolated syllables.

    In so few steps the usual momentum leaves batch-norm statistics behind the weights: 1.00 of the training crops are
    right then in training mode, and 0.54 of the held-out syllables in evaluation mode.
    """
    flags = (
        "--preset gim --model_settings '{hidden_size: 32, context_size: 16, batch_norm_momentum: 0.5}' --label vowel "
        "--corpus_settings '{num_train: 192, num_test: 48, num_speakers: 2, num_syllables: 1}' --batch_size 16 "
        "--max_steps 50 --learning_rate 5e-3"
    )
    results = run(tmp_path, *shlex.split(flags))
    assert results["accuracy"]["low"] > 0.6 > 1.5 * results["chance"]


def test_a_killed_run_resumes_and_ends_as_one_that_was_not(pretrained, tmp_path, killed_at):
    flags = ["--model", str(pretrained), "--label", "vowel", "--save_steps", "1"]
    run(tmp_path / "whole", *flags)
    killed_at(3, lambda: run(tmp_path / "killed", *flags))
    run(tmp_path / "killed", *flags)
    whole, killed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_a_checkpoint_of_another_label_is_not_gone_on_from(pretrained, tmp_path):
    flags = ["--model", str(pretrained), "--save_steps", "1"]
    run(tmp_path, *flags, "--label", "vowel")
    (tmp_path / "results.json").unlink()
    with pytest.raises(SystemExit, match=r"checkpoint-3\b.*classes, label"):
        run(tmp_path, *flags, "--label", "consonant")


def test_a_wrong_label_costs_no_finished_run(pretrained, tmp_path):
    run(tmp_path, "--model", str(pretrained), "--label", "vowel")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(SystemExit, match=r"`label` .*'vowl'"):
        run(tmp_path, "--model", str(pretrained), "--label", "vowl", "--overwrite_output_dir", "True")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_the_model_to_start_from_is_never_replaced(pretrained, tmp_path):
    run(tmp_path, "--model", str(pretrained), "--label", "vowel", "--save_steps", "1")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for model in (tmp_path, tmp_path / "checkpoint-3"):
        with pytest.raises(SystemExit, match=r"`model` .*`output_dir`"):
            run(tmp_path, "--model", str(model), "--label", "vowel", "--overwrite_output_dir")
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--label", "phone"], "`label` .*phones"),
        (["--label", "vowel", "--probe_module", "9"], "`probe_module` .*0, 1, 2, 3, context"),
        (["--label", "vowel", "--corpus_settings", "{num_train: 8, num_test: 4, num_syllables: 3}"], "`label` 'vowel'"),
        (
            ["--label", "speaker_id", "--corpus_settings", "{num_train: 8, num_test: 4, num_speakers: 1}"],
            "`label` 'speaker_id'",
        ),
        (["--model", "/nowhere/at/all", "--label", "vowel"], "/nowhere/at/all"),
        (["--execution", "joint"], "2"),
    ],
)
def test_what_cannot_be_trained_is_reported(flags, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        run(tmp_path, *SMALL, *flags)
