"""The main command, end to end: it learns, saves a model for AutoModel, and never overwrites a run."""

import json
import re
import shlex
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from accelerate import Accelerator
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForPreTraining

from modeling_sim.commands import pretrain
from modeling_sim.settings import as_dict, parse_arguments, read_settings
from modeling_sim.trainer import pretraining as pretrain_module
from modeling_sim.trainer.curves import read_log, write_curves
from modeling_sim.trainer.run import prepare
from modeling_sim.trainer.run_folder import CLAIM_NAME, LOCK_NAME
from modeling_sim.trainer.settings import PRETRAINING, DataArguments, ModelArguments, PretrainingArguments

ROOT = Path(__file__).parent.parent
TINY = shlex.split(
    "--model_settings '{hidden_size: 24, context_size: 16, loss_window: 64}' --crop_samples 10240 "
    "--corpus_settings '{num_train: 32, num_test: 8, num_speakers: 2}' --batch_size 8 --eval_batch_size 4 "
    "--warmup_steps 2"
)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """A short run on synthetic speech."""
    output_dir = tmp_path_factory.mktemp("run") / "tiny"
    pretrain.main([*TINY, "--output_dir", str(output_dir), "--max_steps", "6", "--logging_steps", "2"])
    return output_dir


def test_the_checkpoint_loads_with_the_auto_classes(finished_run):
    extractor = AutoFeatureExtractor.from_pretrained(finished_run)
    model = AutoModel.from_pretrained(finished_run).eval()
    batch = extractor(torch.randn(16000).numpy(), sampling_rate=16000, return_tensors="pt")
    output = model(**batch)
    assert output.last_hidden_state.shape == (1, 100, 16)
    whole = AutoModelForPreTraining.from_pretrained(finished_run).eval()
    torch.testing.assert_close(whole(**batch).last_hidden_state, output.last_hidden_state)


def test_the_log_has_every_module_next_to_chance(finished_run):
    log = read_log(finished_run / "log.jsonl")
    assert [(line["step"], line["split"]) for line in log] == [
        (0, "test"),
        (2, "train"),
        (4, "train"),
        (6, "train"),
        (6, "test"),
    ]
    for line in log:
        assert line["chance"] == pytest.approx(1 / 11)
        assert [module["name"] for module in line["modules"]] == ["module 0", "module 1", "module 2", "context"]
        assert all(0 <= module["contrastive_accuracy"] <= 1 for module in line["modules"])


def test_results_hold_the_untrained_network_next_to_the_trained_one(finished_run):
    results = json.loads((finished_run / "results.json").read_text())
    log = read_log(finished_run / "log.jsonl")
    assert results["train_utterances"] == 32
    assert results["crops"] == 48
    for number, module in enumerate(results["modules"]):
        assert module["untrained"]["kl"] == log[0]["modules"][number]["kl"]
        assert module["trained"]["kl"] == log[-1]["modules"][number]["kl"]
    settings = json.loads((finished_run / "training_settings.json").read_text())
    assert settings["settings"]["model_settings"]["hidden_size"] == 24
    assert settings["versions"]["torch"] == version("torch")


def test_no_file_is_left_half_written(finished_run):
    assert {path.name for path in finished_run.glob(".*")} == {LOCK_NAME, CLAIM_NAME}


def test_curves_are_drawn_again_on_demand(finished_run):
    before = (finished_run / "curves.png").read_bytes()
    path = write_curves(finished_run)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(path.read_bytes()) == len(before)


def test_a_second_run_on_the_same_folder_is_refused_and_nothing_is_lost(finished_run):
    weights = (finished_run / "model.safetensors").read_bytes()
    with pytest.raises(SystemExit, match=r"`max_steps`.*`overwrite_output_dir`"):
        pretrain.main([*TINY, "--output_dir", str(finished_run), "--max_steps", "1"])
    assert (finished_run / "model.safetensors").read_bytes() == weights


def test_a_refused_command_leaves_no_claim_in_a_folder_without_one(finished_run, tmp_path):
    folder = shutil.copytree(finished_run, tmp_path / "run", ignore=shutil.ignore_patterns(CLAIM_NAME, LOCK_NAME))
    before = {path.name for path in folder.iterdir()}
    with pytest.raises(SystemExit, match="`max_steps`"):
        pretrain.main([*TINY, "--output_dir", str(folder), "--max_steps", "1"])
    assert {path.name for path in folder.iterdir()} == before
    assert {CLAIM_NAME, LOCK_NAME} <= {path.name for path in finished_run.iterdir()}


def test_damaged_results_are_named_and_are_not_those_of_a_finished_run(finished_run, tmp_path):
    folder = shutil.copytree(finished_run, tmp_path / "run")
    (folder / "results.json").write_text("{")
    with pytest.raises(SystemExit, match=r"results\.json"):
        pretrain.main([*TINY, "--output_dir", str(folder), "--max_steps", "6", "--logging_steps", "2"])
    assert (folder / "model.safetensors").is_file()


def test_a_folder_whose_name_is_too_long_is_one_line(tmp_path):
    with pytest.raises(SystemExit, match="modeling-sim pretrain: .*" + 300 * "x"):
        pretrain.main(["--output_dir", str(tmp_path / (300 * "x"))])


def test_the_same_seed_gives_the_same_weights(finished_run, tmp_path):
    arguments = [*TINY, "--max_steps", "6", "--logging_steps", "2"]
    pretrain.main([*arguments, "--output_dir", str(tmp_path / "again")])
    pretrain.main([*arguments, "--output_dir", str(tmp_path / "other"), "--seed", "1"])
    runs = [
        AutoModel.from_pretrained(run).state_dict() for run in (finished_run, tmp_path / "again", tmp_path / "other")
    ]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert not all(torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


def test_training_resumes_from_a_checkpoint(finished_run, tmp_path):
    pretrain.main([*TINY[2:], "--init_from", str(finished_run), "--output_dir", str(tmp_path), "--max_steps", "1"])
    log = read_log(tmp_path / "log.jsonl")
    earlier = read_log(finished_run / "log.jsonl")[-1]
    assert log[0]["modules"] == earlier["modules"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max_steps", "0"], "`max_steps` is 0"),
        (["--learning_rate", "-1"], "`learning_rate` is -1"),
        (["--execution", "parallel"], "--execution"),
        (["--preset", "simm"], "--preset.*'simm'.*'sim'"),
        (["--corpus", "librispeech", "--data_dir", "nowhere"], "nowhere"),
        (["--corpus", "librispech"], "'librispech'.*'librispeech'"),
        (["--config", "librispech_small.yaml"], "librispech_small.yaml.*'librispeech_small.yaml'"),
        (["--max_stepz", "3"], "--max_stepz.*'--max_steps'"),
        (["--model_settings", "{hiden_size: 3}"], "'hiden_size'.*'hidden_size'"),
        (["--model_settings", "{hidden_size: -16}"], "`hidden_size` is -16"),
        (["--model_settings", "{negatives: bogus}"], "'negatives'"),
        (["--crop_samples", "0"], "`crop_samples` is 0"),
        (["--num_workers", "-1"], "`num_workers` is -1"),
        (
            ["--model_settings", "{negatives: other_utterances}", "--batch_size", "1"],
            "'other_utterances'.*`batch_size`",
        ),
        (["--init_from", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--corpus_settings", "{num_trains: 3}"], "num_train"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line_and_leaves_nothing(flags, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        pretrain.main([*flags, "--output_dir", str(tmp_path / "new" / "run")])
    line = f"{stopped.value}\n{capsys.readouterr().err}".strip().splitlines()[-1 if stopped.value.code == 2 else 0]
    assert line.startswith("modeling-sim pretrain: ")
    assert re.search(message, line)
    assert list(tmp_path.iterdir()) == []


def broken_half_way(folder):
    """A folder of four recordings, one of which has a valid header but samples that are not finite."""
    noise = np.random.default_rng(0)
    for number in range(4):
        samples = 0.1 * noise.standard_normal(16000)
        soundfile.write(folder / f"fine_{number}.wav", samples, 16000)
    # The middle and the last sample, which the scan checks, are valid.
    samples = np.tile(samples, 3)
    samples[:15_900] = samples[32_100:-1] = np.nan
    soundfile.write(folder / "nan.wav", samples, 16000, subtype="FLOAT")
    (folder / "train.txt").write_text("".join(f"{name}\n" for name in ("fine_0", "fine_1", "nan")))
    (folder / "test.txt").write_text("fine_2\nfine_3\n")
    return [
        "--corpus",
        "folder",
        "--data_dir",
        str(folder),
        "--corpus_settings",
        f"{{split_by: list, lists: {folder}}}",
    ]


@pytest.mark.parametrize("num_workers", ["0", "1"])
def test_a_file_that_breaks_while_training_is_named_in_one_line(tmp_path, num_workers):
    (tmp_path / "speech").mkdir()
    flags = broken_half_way(tmp_path / "speech")
    output_dir = ["--output_dir", str(tmp_path / "run"), "--num_workers", num_workers]
    with pytest.raises(SystemExit, match=r"nan\.wav.*--on_bad_audio") as stopped:
        pretrain.main([*TINY[:4], "--batch_size", "3", "--max_steps", "2", *flags, *output_dir])
    assert len(str(stopped.value).splitlines()) == 1


def test_a_file_that_breaks_while_training_is_replaced_and_counted_under_skip(tmp_path, capsys):
    (tmp_path / "speech").mkdir()
    flags = [*broken_half_way(tmp_path / "speech"), "--on_bad_audio", "skip", "--batch_size", "3", "--max_steps", "2"]
    pretrain.main([*TINY[:4], *flags, "--output_dir", str(tmp_path / "run")])
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["crops_of_broken_files_replaced"] == 2
    assert "2 crops" in capsys.readouterr().out


def test_a_launch_whose_processes_do_not_know_each_other_is_refused(monkeypatch, tmp_path):
    alone = Accelerator(cpu=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"2 processes.*ACCELERATE_USE_CPU"):
        prepare(alone, parse_arguments("", ["--output_dir", str(tmp_path)], PRETRAINING), pretrain_module.build)


def test_settings_come_from_defaults_then_file_then_flags(tmp_path):
    (tmp_path / "base.yaml").write_text(
        "max_steps: 5\nseed: 2\nlearning_rate: 2e-4\nmodel_settings: {hidden_size: 8}\n"
    )
    (tmp_path / "run.yaml").write_text("extends: base.yaml\nseed: 3\nmodel_settings: {context_size: 4}\n")
    flags = ["--config", str(tmp_path / "run.yaml"), "--batch_size", "2", "--model_settings", "{loss_window: 9}"]
    settings = as_dict(parse_arguments("", flags, PRETRAINING))
    assert (settings["max_steps"], settings["seed"], settings["batch_size"]) == (5, 3, 2)
    assert settings["learning_rate"] == pytest.approx(2e-4)
    assert settings["model_settings"] == {"hidden_size": 8, "context_size": 4, "loss_window": 9}


def test_an_unknown_key_of_a_file_names_the_nearest_one(tmp_path):
    (tmp_path / "run.yaml").write_text("max_step: 5\n")
    with pytest.raises(ValueError, match=r"'max_step'.*'max_steps'"):
        parse_arguments("", ["--config", str(tmp_path / "run.yaml")], PRETRAINING)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_steps:\t2\n\tseed: 3\n", r"run\.yaml .*YAML"),
        ("max_steps: [1\n", r"run\.yaml .*YAML"),
        ("- max_steps\n", "`key: value`"),
        ("max_steps:\n", "`max_steps`"),
        ("extends: run.yaml\n", r"run\.yaml"),
        ("extends: gone.yaml\n", r"run\.yaml .*gone\.yaml"),
        ("model_settings: '{hidden_size: '\n", "`model_settings` .*YAML"),
    ],
)
def test_what_is_wrong_with_a_file_is_reported_in_one_line(text, message, tmp_path):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(SystemExit, match=message) as error:
        pretrain.main(["--config", str(tmp_path / "run.yaml")])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["2.5", "many", "[2]"])
def test_a_value_of_a_file_has_the_type_that_a_flag_must_have(value, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(f"max_steps: {value}\n")
    with pytest.raises(SystemExit):
        parse_arguments("", ["--config", str(tmp_path / "run.yaml")], PRETRAINING)
    assert "--max_steps" in capsys.readouterr().err


def test_numbers_may_be_written_with_an_exponent(tmp_path):
    (tmp_path / "run.yaml").write_text("learning_rate: 2e-4\nmodel_settings: {kl_weight: 1e-3}\ndata_dir: null\n")
    flags = ["--config", str(tmp_path / "run.yaml"), "--corpus_settings", "{noise_level: 5E-1, vowels: [1e]}"]
    settings = as_dict(parse_arguments("", flags, PRETRAINING))
    assert settings["learning_rate"] == pytest.approx(2e-4)
    assert settings["model_settings"] == {"kl_weight": 0.001}
    assert settings["corpus_settings"] == {"noise_level": 0.5, "vowels": ["1e"]}
    assert settings["data_dir"] is None


@pytest.mark.parametrize("path", sorted((ROOT / "training/configs").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_settings_file_in_the_checkout_is_valid(path, tmp_path):
    groups = parse_arguments("", ["--config", str(path), "--output_dir", str(tmp_path)], PRETRAINING)
    assert set(read_settings(path)) <= set(as_dict(groups))
    groups[2].validate()
    model, _ = pretrain_module.build_model(groups[0])
    assert model.config.num_frames(groups[1].crop_samples) > 0


@pytest.mark.parametrize("named", ["librispeech_small.yaml", "small/librispeech_small.yaml"])
def test_a_settings_file_of_the_package_is_found_by_its_name(tmp_path, monkeypatch, named):
    monkeypatch.chdir(tmp_path)
    assert read_settings(named)["corpus"] == "librispeech"


def test_a_settings_file_that_is_here_comes_before_one_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "librispeech_small.yaml").write_text("max_steps: 3\n")
    assert read_settings("librispeech_small.yaml") == {"max_steps": 3}
    with pytest.raises(FileNotFoundError, match=r"--config.*gone\.yaml.*sim_librispeech\.yaml"):
        read_settings("gone.yaml")


@pytest.mark.real_data
def test_it_learns_to_predict_real_speech(data_dir, tmp_path):
    """Fifty steps of a tiny model: the loss falls, and every module predicts held-out speech far above chance."""
    flags = (
        "--corpus librispeech --model_settings '{hidden_size: 48, context_size: 24}' --crop_samples 10240 "
        "--max_steps 50 --batch_size 8 --learning_rate 2e-3 --eval_batch_size 4"
    )
    folders = ["--data_dir", str(data_dir / "librispeech"), "--output_dir", str(tmp_path)]
    pretrain.main([*shlex.split(flags), *folders])
    results = json.loads((tmp_path / "results.json").read_text())
    log = [line for line in read_log(tmp_path / "log.jsonl") if line["split"] == "train"]
    assert log[-1]["modules"][0]["loss"] < 0.8 * log[0]["modules"][0]["loss"]
    chance = results["contrastive_accuracy_chance"]
    for module in results["modules"]:
        assert module["trained"]["contrastive_accuracy"] > 2 * chance
        assert module["untrained"]["contrastive_accuracy"] < 1.3 * chance


def test_a_notebook_pretrains_with_settings_alone(tmp_path):
    data = DataArguments(corpus_settings={"num_train": 8, "num_test": 4}, crop_samples=6000)
    settings = PretrainingArguments(output_dir=str(tmp_path), max_steps=1, batch_size=4, warmup_steps=0)
    folder = pretrain_module.pretrain(
        ModelArguments(model_settings={"hidden_size": 8, "context_size": 4}), data, settings
    )
    assert json.loads((folder / "results.json").read_text())["steps"] == 1
    assert AutoModel.from_pretrained(folder).config.hidden_size == 8
