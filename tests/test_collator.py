"""The package's collator, and the `Trainer` of transformers with it."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from processes import launch
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments

from modeling_sim import (
    SimFeatureExtractor,
    SimForAudioFrameClassification,
    SimForPreTraining,
    SimForSequenceClassification,
)
from modeling_sim.data.collator import SimDataCollator
from modeling_sim.data.corpora import load_corpus

EXAMPLE = Path(__file__).parents[1] / "examples" / "10_train_with_transformers.py"


def waveforms(*lengths):
    return [np.random.default_rng(length).normal(size=length).astype(np.float32) for length in lengths]


def test_a_batch_is_padded_and_marked():
    rows = [{"audio": samples, "other": "ignored"} for samples in waveforms(900, 600)]
    batch = SimDataCollator(SimFeatureExtractor())(rows)
    assert batch.keys() == {"input_values", "attention_mask"}
    np.testing.assert_array_equal(batch["input_values"][1, :600], rows[1]["audio"])
    assert batch["attention_mask"].sum(dim=1).tolist() == [900, 600]


def test_a_crop_is_a_random_part_that_the_seed_gives():
    (samples,) = waveforms(5000)
    collate = SimDataCollator(SimFeatureExtractor(), crop_samples=600)

    def crop(seed):
        torch.manual_seed(seed)
        return collate([{"audio": samples}])["input_values"][0].numpy()

    starts = {seed: int(np.flatnonzero(samples == crop(seed)[0])[0]) for seed in range(8)}
    assert len(set(starts.values())) > 5
    for seed, start in starts.items():
        np.testing.assert_array_equal(crop(seed), samples[start : start + 600])
    short = collate([{"audio": samples[:500]}])
    assert short["input_values"].shape == (1, 500)


def test_every_part_is_drawn_as_often():
    samples = np.arange(468, dtype=np.float32)
    collate = SimDataCollator(SimFeatureExtractor(), crop_samples=465)
    torch.manual_seed(0)
    starts = torch.cat([collate([{"audio": samples}])["input_values"][:, 0] for _ in range(400)]).long()
    assert starts.bincount().tolist() == pytest.approx([100] * 4, abs=35)


def test_labels_of_utterances_and_of_frames():
    collate, audio = SimDataCollator(SimFeatureExtractor()), waveforms(900, 600)
    one = collate([{"audio": samples, "labels": label} for samples, label in zip(audio, (3, 1), strict=True)])
    assert one["labels"].tolist() == [3, 1]
    frames = ([1, 2, 3], [4])
    several = collate([{"audio": samples, "labels": label} for samples, label in zip(audio, frames, strict=True)])
    assert several["labels"].tolist() == [[1, 2, 3], [4, -100, -100]]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ((None, 1), [-100, 1]),
        ((None, 0.5), [np.nan, 0.5]),
        ((np.uint8([1, 1, 1]), np.uint8([1])), [[1, 1, 1], [1, -100, -100]]),
        (([True, False], [True]), [[1, 0], [1, -100]]),
        (([1, None], [2]), [[1, -100], [2, -100]]),
        (([], [1, None]), [[-100, -100], [1, -100]]),
        ((None, [1, 2]), [[-100, -100], [1, 2]]),
    ],
)
def test_missing_and_padded_labels_are_ignored_whatever_their_type(labels, expected):
    collate, audio = SimDataCollator(SimFeatureExtractor()), waveforms(900, 600)
    batch = collate([{"audio": samples, "labels": label} for samples, label in zip(audio, labels, strict=True)])
    np.testing.assert_array_equal(batch["labels"], expected)
    rows = [{"audio": audio[0]}, {"audio": audio[1], "labels": 2}]
    assert collate(rows)["labels"].tolist() == [-100, 2]


@pytest.mark.parametrize(
    ("problem_type", "labels", "known"),
    [
        ("multi_label_classification", ([1.0, None], [0.0, 1.0]), [[True, False], [True, True]]),
        ("regression", (None, [0.5, 1.5]), [[False, False], [True, True]]),
    ],
)
def test_missing_labels_do_not_enter_losses(problem_type, labels, known, tiny_config):
    config = tiny_config(num_labels=2, problem_type=problem_type)
    head = SimForSequenceClassification(config).eval()
    rows = [{"audio": samples, "labels": label} for samples, label in zip(waveforms(900, 900), labels, strict=True)]
    output = head(**SimDataCollator(SimFeatureExtractor())(rows))
    loss = F.mse_loss if problem_type == "regression" else F.binary_cross_entropy_with_logits
    wanted = torch.tensor([label or [0.0, 0.0] for label in [[each or 0.0 for each in row or ()] for row in labels]])
    known = torch.tensor(known)
    torch.testing.assert_close(output.loss, loss(output.logits[known], wanted[known]))


@pytest.mark.parametrize(
    ("rows", "name"),
    [
        ([], "rows"),
        ([{"audio": np.zeros(900), "labels": "AA"}], "labels"),
        ([{"audio": np.zeros(900), "labels": label} for label in (1, [1, 2])], "labels"),
    ],
)
def test_batches_without_rows_and_names_of_classes_are_refused(rows, name):
    with pytest.raises(ValueError, match=name):
        SimDataCollator(SimFeatureExtractor())(rows)


def test_waveforms_come_in_several_forms(tmp_path):
    collate, (samples,) = SimDataCollator(SimFeatureExtractor(), column="speech"), waveforms(700)
    forms = [samples, torch.from_numpy(samples), {"array": samples, "sampling_rate": 16000, "path": None}]
    batch = collate([{"speech": form} for form in forms])
    assert torch.equal(batch["input_values"], torch.from_numpy(samples).expand(3, -1))
    file = tmp_path / "speech.wav"
    soundfile.write(file, samples, 16000, subtype="FLOAT")
    files = collate([{"speech": form} for form in (file, str(file), file.read_bytes(), {"path": str(file)})])
    np.testing.assert_allclose(files["input_values"], np.clip(batch["input_values"][:1].expand(4, -1), -1, 1))
    with pytest.raises(ValueError, match="sampling_rate"):
        collate([{"speech": {"array": samples, "sampling_rate": 8000}}])
    with pytest.raises(KeyError, match="column"):
        collate([{"input_values": samples}])
    with pytest.raises(ValueError, match="crop_samples"):
        SimDataCollator(SimFeatureExtractor(), crop_samples=100)


def train(model, rows, output_dir):
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        report_to="none",
        use_cpu=True,
        max_steps=2,
        per_device_train_batch_size=2,
        save_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    collate = SimDataCollator(SimFeatureExtractor())
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows, data_collator=collate)
    trainer.train()
    assert np.isfinite(trainer.evaluate()["eval_loss"])
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}


@pytest.mark.trains
def test_the_trainer_of_transformers_trains_every_module_and_the_heads(tiny_config, tmp_path):
    config = tiny_config("sim-small", num_labels=3, num_negatives=2, loss_window=8)
    rows = load_corpus("synthetic_syllables", "train", num_train=4)
    model = SimForPreTraining(config)
    weights = {name for name, _ in model.named_parameters() if "bias" not in name}  # batch norm undoes a bias below it
    assert weights <= train(model, rows, tmp_path)
    labeled = [{"audio": samples, "labels": label} for label, samples in enumerate(waveforms(3000, 2000, 2500))]
    head = SimForSequenceClassification(config)
    assert "classifier.weight" in train(head, labeled, tmp_path)
    for row in labeled:
        row["labels"] = np.full(config.num_frames(len(row["audio"])), row["labels"])
    head = SimForAudioFrameClassification(config)
    assert "classifier.weight" in train(head, labeled, tmp_path)


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    launch(2, EXAMPLE, "--output_dir", tmp_path, "--steps", "2", "--num_train", "16")
    weights = load_file(tmp_path / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())
