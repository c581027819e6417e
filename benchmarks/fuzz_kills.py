"""Kills small training runs at random times, damages their checkpoints, resumes them, and compares the weights.

    python benchmarks/fuzz_kills.py --count 100 --seed 0

A run gets SIGKILL, SIGTERM or SIGUSR1 at a random time, a few times in a row; after some of the kills one bit of one
file of its newest checkpoint is flipped. Then it is resumed until it ends. Counted errors are:

    crashes   a process ended with a traceback, or with a code that is neither 0 nor that of its signal
    hangs     a process did not end in time
    lost      a run did not end with 0, or started further back than its newest intact checkpoint
    silent    the final weights are not those, bit by bit, of an undisturbed run
    left      temporary files stayed in the output folder of a run that ended

The exit code is 1 if there is any error. Runs are forked from one process that has imported everything, which saves
seconds per run; otherwise each is the real command in a separate process.
"""

# ruff: noqa: S311 - a script that prints, and draws instants rather than keys

import os
import random
import re
import shlex
import signal
import sys
import tempfile
import time
import traceback
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent.parent))

from modeling_sim.commands import pretrain
from modeling_sim.trainer.checkpoints import STATE_NAME, own_checkpoints, read_checkpoint
from modeling_sim.trainer.run_folder import CLAIM_NAME, LOCK_NAME, RESULTS_NAME

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1)
KINDS = ("crashes", "hangs", "lost", "silent", "left")
# Seconds after which a process counts as hanging; a run takes one or two seconds.
TIME_OUT = 60.0
# Maximum number of kills of one run.
KILLS = 4
RUN = shlex.split(
    "--model_settings '{hidden_size: 16, context_size: 8, loss_window: 32, use_batch_norm: true}' "
    "--corpus_settings '{num_train: 8, num_test: 2, num_speakers: 2}' --crop_samples 4000 --batch_size 2 "
    "--eval_batch_size 2 --logging_steps 2 --save_steps 2 --eval_steps 8 --max_steps 30"
)


class Ended(NamedTuple):
    """How a process ended."""

    code: int | None
    """Exit code, negative for a signal that ended it; `None` if it hung."""
    output: str


def train(output_dir: Path, *, number: int = 0, after: float = TIME_OUT) -> Ended:
    """Runs the command in a fork; after `after` seconds it gets the signal `number`, unless 0."""
    output = output_dir.with_suffix(".out")
    child = os.fork()
    if child == 0:
        _train_and_exit(output_dir, output)
    code = _wait(child, after)
    if code is None and number:
        os.kill(child, number)
        code = _wait(child, TIME_OUT)
    if code is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return Ended(code, output.read_text(errors="replace"))


def _wait(child: int, seconds: float) -> int | None:
    """Exit code of a child that ends within some seconds, otherwise `None`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def _train_and_exit(output_dir: Path, output: Path) -> None:
    """Runs in the fork."""
    code = 1
    try:
        descriptor = os.open(output, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        pretrain.main([*RUN, "--output_dir", str(output_dir)])
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - what is found is counted
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def newest_intact(output_dir: Path) -> int:
    """Step of the newest intact checkpoint, 0 if there is none."""
    for path in own_checkpoints(output_dir) if output_dir.is_dir() else []:
        try:
            return int(read_checkpoint(path).numbers["step"])
        except ValueError:
            continue
    return 0


def flip_a_bit(output_dir: Path, draw: random.Random) -> str:
    """Damages the newest checkpoint, the small state file as often as all others together; returns the damaged bit."""
    newest = own_checkpoints(output_dir)[0]
    others = sorted(path for path in newest.iterdir() if path.name != STATE_NAME)
    path = newest / STATE_NAME if draw.random() < 0.5 else draw.choice(others)
    content = bytearray(path.read_bytes())
    place = draw.randrange(8 * len(content))
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)
    return f"bit {place} of {newest.name}/{path.name}"


class Fuzzed:
    """One run and its errors.

    Args:
        output_dir: Folder of the run.
        right: Expected final weights.
        draw: Generator of times, signals and damage.
    """

    def __init__(self, output_dir: Path, right: dict[str, torch.Tensor], draw: random.Random) -> None:
        self.output_dir, self.right, self.draw = output_dir, right, draw
        self.kills = self.start = 0
        self.story: list[str] = []
        self.troubles: list[tuple[str, str]] = []

    def live(self, seconds: float) -> None:
        """Kills the run a few times within `seconds`, then lets it end."""
        for _ in range(self.draw.randint(1, KILLS)):
            number, after = self.draw.choice(SIGNALS), self.draw.uniform(0, seconds)
            self.story.append(f"{signal.Signals(number).name} after {after:.3f} s")
            ended = train(self.output_dir, number=number, after=after)
            self.kills += 1
            self.check_process(ended, (0, -number, 128 + number))
            self.damage()
        ended = train(self.output_dir)
        self.check_process(ended, (0,))
        self.check_result(ended)

    def damage(self) -> None:
        """Flips a bit after every other kill, and records the step that the next process must start from."""
        unfinished = self.output_dir.is_dir() and not (self.output_dir / RESULTS_NAME).exists()
        if unfinished and own_checkpoints(self.output_dir) and self.draw.random() < 0.5:
            self.story.append(flip_a_bit(self.output_dir, self.draw))
        self.start = newest_intact(self.output_dir)

    def note(self, kind: str, ended: Ended) -> None:
        """Adds an error."""
        self.troubles.append((kind, f"{self.output_dir}: {'; '.join(self.story)}\n{ended.output[-2000:]}"))

    def check_process(self, ended: Ended, codes: Sequence[int]) -> None:
        """Checks how a process ended, and where it started."""
        if ended.code is None:
            self.note("hangs", ended)
        elif "Traceback" in ended.output or ended.code not in codes:
            self.note("crashes", ended)
        resumed = re.search(r"resuming after step (\d+)", ended.output)
        # A process that was killed before it trained or printed its first step has lost nothing.
        if (resumed or "step 2 of" in ended.output) and int(resumed[1] if resumed else 0) < self.start:
            self.note("lost", ended)

    def check_result(self, ended: Ended) -> None:
        """Checks the results of the run."""
        weights = self.output_dir / "model.safetensors"
        if not (self.output_dir / RESULTS_NAME).is_file() or not weights.is_file():
            self.note("lost", ended)
        elif any(not torch.equal(tensor, self.right[name]) for name, tensor in load_file(weights).items()):
            self.note("silent", ended)
        if {path.name for path in self.output_dir.glob(".*")} - {LOCK_NAME, CLAIM_NAME}:
            self.note("left", ended)


def fuzz(arguments: Namespace) -> Counter[str]:
    """Kills `count` processes in total, prints a table, and returns the number of errors of each kind."""
    draw, trouble = random.Random(arguments.seed), Counter(dict.fromkeys(KINDS, 0))
    with tempfile.TemporaryDirectory(prefix="fuzz-kills-") as temporary:
        undisturbed = Path(temporary) / "undisturbed"
        started = time.monotonic()
        ended = train(undisturbed)
        seconds = time.monotonic() - started
        if ended.code != 0:
            raise SystemExit(f"the undisturbed run does not end:\n{ended.output}")
        right, kills, runs = load_file(undisturbed / "model.safetensors"), 0, 0
        while kills < arguments.count:
            fuzzed = Fuzzed(Path(temporary) / f"run-{runs}", right, draw)
            fuzzed.live(seconds)
            kills, runs = kills + fuzzed.kills, runs + 1
            for kind, story in fuzzed.troubles:
                trouble[kind] += 1
                print(f"{kind}: {story}", flush=True)
            print(f"{kills} kills of {runs} runs: {sum(trouble.values())} found", file=sys.stderr, flush=True)
    print(f"| kills | runs | {' | '.join(KINDS)} |")
    print(f"|{' --- |' * (len(KINDS) + 2)}")
    print(f"| {kills} | {runs} | {' | '.join(str(trouble[kind]) for kind in KINDS)} |")
    return trouble


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=100, help="Minimum number of kills.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of times, signals and damage.")
    torch.set_num_threads(1)
    return int(any(fuzz(parser.parse_args(argv)).values()))


if __name__ == "__main__":
    sys.exit(main())
