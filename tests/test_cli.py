"""The console command: help and errors before torch is imported, and positional settings."""

import json
import re
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest

import modeling_sim
from modeling_sim import SimConfig, cli
from modeling_sim.commands.curves import CurvesArguments
from modeling_sim.evaluation.settings import ProbeArguments
from modeling_sim.hub.settings import PublishArguments
from modeling_sim.settings import Preset, parse_arguments, setting
from modeling_sim.trainer.settings import PRETRAINING

MODEL = Path(__file__).parents[1] / "checkpoints" / "sim-small-librispeech"
# Command lines and a part of what each prints.
WITHOUT_TORCH = [
    (["--help"], "train-decoder"),
    (["--version"], modeling_sim.__version__),
    (["pretrian"], "'pretrain'"),
    *(([name, "--config_"], f"modeling-sim {name}: ") for name in cli.COMMANDS),
    (["pretrain", "--learning_rat", "1"], "'--learning_rate'"),
    (["probe", "--help"], "--label"),
    (["pretrain", "--num_train", "3"], "--corpus_settings"),
    (["convert", "model.ckpt", "--method", "sin", "out"], "'sim'"),
    (["convert", "model.ckpt", "--method", "sim", "out", "--model_settings", "{kl_wait: 0}"], "'kl_weight'"),
    (["pretrain", "--model_settings", "{hidden_sizes: 64}"], "'hidden_size'"),
    (["pretrain", "--model_settings", "{hidden_size: 0}"], "`hidden_size`"),
    (["pretrain", "--model_settings", "{conv_kernel: [[8], [4]]}"], "`conv_stride`"),
    (["finetune", "--model_settings", "{hidden_size: x}"], "'hidden_size'"),
    (["pretrain", "--batch_size", "0"], "`batch_size`"),
    (["pretrain", "--train_split", "trian"], "'train'"),
    (["pretrain", "--eval_split", "tests", "--corpus", "artificial_speech"], "'test'"),
    (["pretrain", "--corpus", "folder", "--data_dir", "/no/such"], "`data_dir`"),
    (["pretrain", "--init_from", "/no/such"], "`init_from`"),
    (["abx", "--model", "/no/such"], "`model`"),
    (["evaluate", "--model", "/no/such", "--measures", "probe"], "`model`"),
    (["evaluate", "--model", ".", "--measures", "probe"], "`model`"),
    (["embed", "/no/such", "recordings"], "`model`"),
    (["axes", "/no/such", "recordings"], "`model`"),
    *(([name, str(MODEL), "librispech"], "`data`") for name in ("embed", "axes")),
    (["export", "/no/such", "out"], "`model`"),
    (["report", "/no/such"], "`output_dir`"),
]
RUN_ALL = f"""
import contextlib, io, json, sys
sys.argv = ["modeling-sim"]
from modeling_sim import cli
for words in {[words for words, _ in WITHOUT_TORCH]!r}:
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(printed):
        try:
            cli.main(words)
        except SystemExit as ended:
            print("" if ended.code is None else ended.code)
    print(json.dumps([printed.getvalue(), "torch" in sys.modules]))
"""


@pytest.fixture
def help_of(capsys, monkeypatch):
    """The help of a command line, with one line per flag."""
    monkeypatch.setenv("COLUMNS", "1000")

    def show(*words):
        with pytest.raises(SystemExit):
            cli.main([*words, "--help"])
        return re.sub(r"\n {24}", " ", capsys.readouterr().out)

    return show


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_has_one_spelling_of_each_flag_and_no_empty_defaults(name, help_of):
    options = help_of(name).partition("\noptions:\n")[2]
    assert not re.search(r"--\w+-|default: (None|False|\[|\{|\))", options)
    flags = re.findall(r"^  (--\w+)", options, re.MULTILINE)
    assert flags == list(dict.fromkeys(flags))


def test_help_tells_required_settings_defaults_and_what_a_negative_flag_turns_off(help_of):
    lines = {line.split()[0]: line for line in help_of("evaluate").splitlines() if line.startswith("  --")}
    assert lines["--model"].endswith("(required)")
    assert lines["--label"].endswith("(default: phones)")
    assert "`--align_modules`" in lines["--no_align_modules"]
    assert "(required)" in help_of("train-decoder")
    assert next(iter(lines)) == "--model"  # required


@pytest.mark.parametrize(
    ("name", "places"),
    [("embed", "model data"), ("probe", "model [model ...]"), ("curves", "output_dir"), ("publish", "[checkpoint]")],
)
def test_usage_has_brackets_around_what_is_optional(name, places, help_of):
    assert f"modeling-sim {name} {places} [--config FILE]" in help_of(name)


def test_help_does_not_depend_on_the_home_folder(capsys):
    @dataclass
    class Cached:
        cache_dir: str = setting(str(Path.home() / "cache"), "Cache.")

    with pytest.raises(SystemExit):
        parse_arguments("", ["--help"], (Cached,))
    assert "(default: ~/cache)" in capsys.readouterr().out


@pytest.fixture(scope="module")
def printed():
    """What each of these command lines prints, all of them in one process, and whether torch is imported by then."""
    lines = subprocess.check_output([sys.executable, "-c", RUN_ALL], text=True).splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(("number", "expected"), list(enumerate(expected for _, expected in WITHOUT_TORCH)))
def test_what_needs_no_torch_is_said_without_it(number, expected, printed):
    text, torch = printed[number]
    assert expected in text
    assert not torch


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--lr", "1"], "'--learning_rate'"),
        (["--steps", "1"], "'--save_steps'"),
        (["--accumulation", "1"], "'--gradient_accumulation_steps'"),
        (["--output-dri=x"], "'--output_dir'"),
        (["--mixed", "bf16"], "'--mixed_precision'"),
    ],
)
def test_an_unknown_flag_suggests_what_it_abbreviates_or_misspells(words, expected, capsys):
    with pytest.raises(SystemExit):
        parse_arguments("", words, PRETRAINING)
    error = capsys.readouterr().err
    assert expected in error
    assert words[0].partition("=")[0] in error


def test_an_unfinished_run_names_its_newest_checkpoint(tmp_path):
    for step in (900, 1000):
        (tmp_path / "run" / f"checkpoint-{step}").mkdir(parents=True)
        (tmp_path / "run" / f"checkpoint-{step}" / "config.json").write_text(json.dumps({"model_type": "sim"}))
    for command in (["evaluate", "--model"], ["embed", "--data", "x", "--model"], ["train-decoder", "--model"]):
        with pytest.raises(SystemExit, match=r"`model` .*run/checkpoint-1000"):
            cli.main([*command, str(tmp_path / "run")])
    (tmp_path / "run" / "config.json").write_text(json.dumps({"model_type": "sim_decoder"}))
    with pytest.raises(SystemExit, match=r"`init_from` .*'sim_decoder'"):
        cli.main(["pretrain", "--init_from", str(tmp_path / "run")])
    with pytest.raises(SystemExit, match=f"`model` .*'{tmp_path}/run'"):
        cli.main(["finetune", "--model", str(tmp_path / "runs")])


def test_mistakes_are_reported_fast():
    """Measured: 1.7 to 3.3 s of CPU time by processor and load; importing torch adds 2 to 4 s."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "modeling_sim.cli", "pretrain", "--eval_split", "tset"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 1
    assert done.stderr.startswith("modeling-sim pretrain: ")
    assert len(done.stderr.splitlines()) == 1
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 4


@pytest.mark.trains
def test_settings_of_files_are_accepted_before_and_after_torch_is_imported():
    files = sorted((Path(__file__).parents[1] / "training" / "configs").rglob("*.yaml"))
    program = (
        "import sys; sys.argv = ['modeling-sim']\n"
        "from modeling_sim.settings import check_model_settings, parse_arguments\n"
        "from modeling_sim.trainer.settings import PRETRAINING\n"
        f"for file in {[str(file) for file in files]!r}:\n"
        "    model = parse_arguments('', ['--config', file], PRETRAINING)[0]\n"
        "    check_model_settings(model.model_settings, model.preset)\n"
        "assert 'torch' not in sys.modules\n"
        "import modeling_sim\n"
        "assert 'sim' in modeling_sim.SimConfig.preset_names()\n"
        "check_model_settings({'kl_weight': 0.5}, 'sim')\n"
        "import transformers\n"
        "assert issubclass(modeling_sim.SimConfig, transformers.PreTrainedConfig)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_presets_of_the_flags_are_those_of_the_configuration():
    assert list(get_args(Preset)) == SimConfig.preset_names()


@pytest.mark.parametrize("flags", [["run"], ["--output_dir", "run"], ["run", "--config", "FILE"], ["--config", "FILE"]])
def test_a_folder_is_given_by_place_by_flag_or_by_file(flags, tmp_path):
    path = tmp_path / "curves.yaml"
    path.write_text("figure_format: pdf\noutput_dir: " + ("run" if flags[0] == "--config" else "other") + "\n")
    flags = [str(path) if flag == "FILE" else flag for flag in flags]
    (settings,) = parse_arguments("", flags, (CurvesArguments,), positional=["output_dir"])
    assert settings == CurvesArguments("run", "pdf" if str(path) in flags else "png")


def test_a_folder_that_is_missing_is_named(capsys):
    with pytest.raises(SystemExit):
        parse_arguments("", [], (CurvesArguments,), positional=["output_dir"])
    assert "output_dir" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["a", "--seed", "1", "b"], ["--seed", "1", "--model", "a", "b"]])
def test_a_list_gets_all_words(words):
    (settings,) = parse_arguments("", words, (ProbeArguments,), positional=["model"])
    assert settings == ProbeArguments(model=["a", "b"], seed=1, corpus_settings={})


def test_flags_may_stand_on_both_sides_of_a_value_without_one():
    flags = ["--repo_id", "org/x", "runs/x", "--measures", "a", "b", "--dry_run"]
    (settings,) = parse_arguments("", flags, (PublishArguments,), positional=["checkpoint"])
    assert settings == PublishArguments(checkpoint="runs/x", repo_id="org/x", measures=["a", "b"], dry_run=True)


@pytest.mark.parametrize(
    ("words", "dry_run"),
    [
        (["--dry_run", "runs/x"], True),
        (["--dry-run", "runs/x"], True),
        (["runs/x", "--dry_run"], True),
        (["--dry_run", "no", "runs/x"], False),
        (["--dry_run", "True", "runs/x"], True),
        (["--dry_run=no", "runs/x"], False),
        (["--dry-run=no", "runs/x"], False),
        (["--yes", "--dry_run", "runs/x"], True),
    ],
)
def test_a_bool_flag_takes_only_a_yes_or_no_from_the_word_after_it(words, dry_run):
    (settings,) = parse_arguments("", words, (PublishArguments,), positional=["checkpoint"])
    assert settings == PublishArguments(checkpoint="runs/x", dry_run=dry_run, yes="--yes" in words)


def test_a_word_after_a_bool_flag_that_is_no_positional_is_named(capsys):
    with pytest.raises(SystemExit):
        parse_arguments("", ["run", "--dry_run", "maybe"], (PublishArguments,), positional=["checkpoint"])
    assert "'maybe'" in capsys.readouterr().err
