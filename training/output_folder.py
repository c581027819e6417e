"""The folder of a run: one trainer at a time writes to it, and none over a finished run."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from accelerate import Accelerator
from filelock import FileLock, Timeout

from training.checkpoints import find_checkpoint, remove_checkpoints
from training.curves import CURVES_NAME
from training.log import LOG_NAME

RESULTS_NAME = "results.json"
SETTINGS_NAME = "training_settings.json"


@contextlib.contextmanager
def output_lock(output_dir: Path, accelerator: Accelerator) -> Iterator[None]:
    """Keeps a second trainer out of the output folder; the lock goes with the process, however it ends.

    Raises:
        OSError: Another trainer holds the folder, or it cannot be written.
    """
    if not accelerator.is_main_process:
        yield
        return
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(f"`output_dir` {output_dir} is a file, or lies below one; give a folder.") from error
    lock = FileLock(output_dir / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BlockingIOError(
            f"`output_dir` {output_dir} is in use by another trainer; wait for it, or give another folder."
        ) from error
    with lock:
        yield


def clear_output_dir(output_dir: Path) -> None:
    """Clears an earlier run away."""
    remove_checkpoints(output_dir)
    for name in (RESULTS_NAME, LOG_NAME, SETTINGS_NAME, CURVES_NAME, "config.json"):
        (output_dir / name).unlink(missing_ok=True)


def refuse_earlier_run(output_dir: Path, *, resume: str) -> None:
    """Refuses to write over a finished run, or over one that could be resumed but is not to be."""
    if (output_dir / RESULTS_NAME).exists():
        raise FileExistsError(
            f"`output_dir` {output_dir} holds a finished run; give another folder, or --overwrite_output_dir to "
            "replace it."
        )
    if resume == "never" and find_checkpoint(output_dir)[0] is not None:
        raise FileExistsError(
            f"`output_dir` {output_dir} holds checkpoints of a run that was not finished; resume it, give another "
            "folder, or --overwrite_output_dir to replace it."
        )
