"""What the README shows works: its Python runs, and its commands have the flags it gives them."""

import functools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from training import pretrain

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    for line in block.splitlines()
    if re.search(r"training/\w+\.py|-m \w+", line)
]


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


@functools.cache
def help_of(program):
    command = [sys.executable, *program.split(), "--help"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_the_flags_it_is_given(command):
    words = [word for word in shlex.split(command) if "=" not in word]
    start = next(n for n, word in enumerate(words) if word.endswith(".py") or word == "-m")
    program = words[start] if words[start] != "-m" else f"-m {words[start + 1]}"
    flags = [word for word in words[start + 1 :] if word.startswith("--")]
    for flag in flags:
        assert re.search(rf"{flag}\b", help_of(program)), f"{program} has no {flag}"


def test_there_is_something_to_test():
    assert len(PYTHON) >= 2
    assert len(COMMANDS) >= 12


@pytest.mark.parametrize("link", re.findall(r"\]\(((?!http)[^)#]+)\)", README))
def test_pictures_and_links_are_there(link):
    assert (ROOT / link).exists()
