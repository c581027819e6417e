"""What the README shows works: its Python runs, and its commands have the flags it gives them."""

import contextlib
import functools
import importlib
import io
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from modeling_sim.commands import pretrain

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    for line in block.splitlines()
    if re.search(r"training/\w+\.py|-m \w+", line)
]


# What makes a command small enough for a test; commands of other programs are run by the tests of these programs.
SPEECH = "--corpus synthetic_syllables --corpus_settings '{num_train: 24, num_test: 16, num_speakers: 2}'"
STEP = "--crop_samples 6000 --batch_size 4 --max_steps 1 --eval_steps 0"
WIDTH = "--model_settings '{hidden_size: 8, context_size: 4}'"
OTHERS_DATA = r"--corpus (librispeech|folder)|--data_dir (LibriSpeech|my_speech)|--corpus_settings '\{manifest: .*\}'"
SMALLER = {
    "training/pretrain.py": f"{SPEECH} {STEP} {WIDTH} --output_dir runs/sim-small --overwrite_output_dir true",
    "training/probe.py": f"{SPEECH} --max_items 400",
    "training/abx.py": f"{SPEECH} --max_tokens 2",
    "training/finetune.py": f"{SPEECH} {STEP} --output_dir runs/classifier --overwrite_output_dir true",
    "training/train_decoder.py": f"{SPEECH} {STEP} --output_dir runs/decoder",
    "training/publish.py": "",
    "training.corpora": f"{SPEECH}",
}


@pytest.fixture(scope="module")
def folder_with_a_demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    pretrain.main(
        [
            "--model_settings", "{context_size: 8}", "--corpus_settings", "{num_train: 8, num_test: 4}",
            "--crop_samples", "6000", "--batch_size", "4", "--max_steps", "1",
            "--output_dir", str(folder / "runs/demo"),
        ]
    )  # fmt: skip
    return folder


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.strip().splitlines()[-1][:30])
def test_python_runs(block, folder_with_a_demo, monkeypatch):
    monkeypatch.chdir(folder_with_a_demo)
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})  # noqa: S102 - the README's own


def program_of(words):
    """The script or module that a command runs, and its arguments."""
    start = next(n for n, word in enumerate(words) if word.endswith(".py") or word == "-m")
    start += words[start] == "-m"
    return words[start], words[start + 1 :]


@functools.cache
def help_of(program):
    """What `program --help` prints; run in this process, as starting one takes seconds."""
    run = runpy.run_path if program.endswith(".py") else runpy.run_module
    target = str(ROOT / program) if program.endswith(".py") else program
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr(sys, "argv", [program, "--help"])
        with pytest.raises(SystemExit) as ended:
            run(target, run_name="__main__")
    assert not ended.value.code
    return printed.getvalue()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_the_flags_it_is_given(command):
    words = [word for word in shlex.split(command) if "=" not in word]
    program, arguments = program_of(words)
    flags = [word for word in arguments if word.startswith("--")]
    for flag in flags:
        assert re.search(rf"{flag}\b", help_of(program)), f"{program} has no {flag}"


def test_commands_run_one_after_another_on_little_speech(hub, tmp_path, monkeypatch):
    assert hub is not None  # that publish.py looks at
    monkeypatch.chdir(tmp_path)
    (tmp_path / "training").symlink_to(ROOT / "training")
    (tmp_path / "model_cards").symlink_to(ROOT / "model_cards")
    ran = set()
    for command in COMMANDS:
        words = shlex.split(re.sub(OTHERS_DATA, "", command))
        program, arguments = program_of(words)
        if program not in SMALLER or "--help" in words:
            continue
        if "--preset" in arguments:  # a new network, rather than a trained one
            arguments += shlex.split(WIDTH)
        name = "modeling_sim.commands.corpora" if program == "training.corpora" else program[:-3].replace("/", ".")
        importlib.import_module(name).main([*arguments, *shlex.split(SMALLER[program])])
        ran.add(program)
    assert ran == set(SMALLER)
    assert (tmp_path / "utterance.png").stat().st_size > 10_000


def test_there_is_something_to_test():
    assert len(PYTHON) >= 2
    assert len(COMMANDS) >= 12


@pytest.mark.parametrize("link", re.findall(r"\]\(((?!http)[^)#]+)\)", README))
def test_pictures_and_links_are_there(link):
    assert (ROOT / link).exists()
