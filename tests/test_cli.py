"""The console command: help and errors before torch is imported, and positional settings."""

import subprocess
import sys
from typing import get_args

import pytest

import modeling_sim
from modeling_sim import SimConfig, cli
from modeling_sim.commands.curves import CurvesArguments
from modeling_sim.hub.settings import PublishArguments
from modeling_sim.settings import Preset, parse_arguments


def run(*words):
    """Output and errors of the command in a separate process, and whether it imported torch."""
    program = (
        "import sys, runpy\n"
        "try:\n    from modeling_sim.cli import main; main()\n"
        "finally:\n    print('torch' in sys.modules)"
    )
    code = f"import sys; sys.argv = ['modeling-sim', *{list(words)!r}]\n{program}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    *printed, torch = done.stdout.splitlines()
    return "\n".join(printed), done.stderr, torch == "True"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--help"], "train-decoder"),
        (["--version"], modeling_sim.__version__),
        (["pretrian"], "'pretrain'"),
        *(([name, "--config_"], f"modeling-sim {name}: ") for name in cli.COMMANDS),
        (["pretrain", "--learning_rat", "1"], "'--learning_rate'"),
        (["probe", "--help"], "--label"),
        (["pretrain", "--num_train", "3"], "--corpus_settings"),
        (["convert", "model.ckpt", "--method", "sin", "out"], "'sim'"),
    ],
)
def test_what_needs_no_torch_is_said_without_it(words, expected):
    printed, errors, torch = run(*words)
    assert expected in printed + errors
    assert "Traceback" not in errors
    assert not torch


def test_the_command_gives_the_names_of_the_package_when_they_are_used():
    program = "import sys; sys.argv = ['modeling-sim']; import modeling_sim as m; print(m.SimConfig.preset_names()[0])"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).split() == ["sim"]


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
