"""Common parts of all commands: reading settings, one-line errors, and no empty folder after an error."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import Field, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from filelock import FileLock

from modeling_sim.data.corpora import check_split
from modeling_sim.files import ends_with_its_reader
from modeling_sim.hub.settings import HubArguments
from modeling_sim.settings import (
    CorpusArguments,
    check_dataset,
    check_model_settings,
    errors_in_one_line,
    parse_arguments,
)


@contextlib.contextmanager
def command(
    name: str, description: str, argv: Sequence[str] | None, *classes: Any, positional: Sequence[str] = ()
) -> Iterator[Any]:
    """Context manager that yields the settings of a command, which runs inside of it.

    Import slow modules inside of the context, so that invalid flags are reported first.

    Args:
        name: Name of the command after `modeling-sim`.
        description: What the command does, for `--help`.
        argv: Flags; those of the process if `None`.
        classes: Dataclasses of the settings; one instance of each is yielded.
        positional: Settings that may also be given as positional arguments; see `parse_arguments`.

    Raises:
        SystemExit: A setting is invalid, or there is an error with a file, the data or the Hub; the message has one
            line.
    """
    name = f"modeling-sim {name}"
    with errors_in_one_line(name), ends_with_its_reader():
        groups = parse_arguments(description, argv, classes, command=name, positional=positional)
        check(groups)
        with leaves_no_empty_folder(groups[0]):
            yield groups


def train(name: str, description: str, argv: Sequence[str] | None, classes: Sequence[Any], module: str) -> None:
    """Runs a training command, with training curves and an optional upload.

    Args:
        name: Name of the command after `modeling-sim`.
        description: What the command does, for `--help`.
        argv: Flags; those of the process if `None`.
        classes: Dataclasses of the settings, a `RunArguments` last.
        module: Module with a function `build` that builds the task from these settings; imported after reading them.
    """
    name = f"modeling-sim {name}"
    with contextlib.ExitStack() as stack:
        with errors_in_one_line(name):
            *groups, hub = parse_arguments(description, argv, (*classes, HubArguments), command=name)
            check([*groups, hub])
            stack.enter_context(leaves_no_empty_folder(groups[-1]))
        from modeling_sim.hub.callback import PushToHub  # noqa: PLC0415 - imports torch
        from modeling_sim.trainer.curves import DrawCurves  # noqa: PLC0415
        from modeling_sim.trainer.run import run_command  # noqa: PLC0415

        build = import_module(module).build
        run_command(name, lambda: (groups, [DrawCurves(), PushToHub(hub, groups[-1])]), build)


def check(groups: Sequence[Any]) -> None:
    """Checks the values of settings without importing torch, as far as that is possible.

    Raises:
        ValueError: A value is invalid, empty or not finite, or there is no such split.
        FileNotFoundError: A folder, a model or a data set does not exist.
    """
    for group in groups:
        for each in fields(group):
            value = getattr(group, each.name)
            for item in value if isinstance(value, list) else [value]:
                _check_value(each, item)
                if each.name in _SPLITS and isinstance(group, CorpusArguments) and group.corpus is not None:
                    check_split(group.corpus, item)
        if dataset_id := getattr(group, "corpus_settings", {}).get("dataset_id"):  # `dataset_name` sets it, too
            check_dataset("dataset_name" if getattr(group, "dataset_name", None) else "dataset_id", str(dataset_id))
        if hasattr(group, "model_settings"):
            is_new = not (getattr(group, "init_from", None) or getattr(group, "model", None))
            check_model_settings(group.model_settings, getattr(group, "preset", None) if is_new else None)
        if hasattr(group, "validate"):
            group.validate()


def _check_value(setting: Field[Any], value: Any) -> None:
    """Checks a value of a setting, or of its list; raises as `check`."""
    if value == "" and setting.default != "":  # an unset variable of the shell; as a path, the current folder
        raise ValueError(f"`{setting.name}` is empty; give a value, or remove it.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"`{setting.name}` is {value}; give a finite number.")
    check_value = setting.metadata["check"]
    if check_value is not None and value is not None:
        check_value(setting.name, value)


# Settings that name splits of `corpus`.
_SPLITS = ("split", "splits", "train_split", "eval_split")


@contextlib.contextmanager
def leaves_no_empty_folder(settings: Any) -> Iterator[None]:
    """Removes the claim and the lock of a failed command that wrote nothing else, and an `output_dir` that it made."""
    folder = Path(getattr(settings, "output_dir", "."))
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    before = set(folder.iterdir()) if folder.is_dir() else set()
    try:
        yield
    except BaseException:
        from modeling_sim.trainer.run_folder import CLAIM_NAME, LOCK_NAME  # noqa: PLC0415 - imports torch

        notes = {folder / CLAIM_NAME, folder / LOCK_NAME} - before
        with contextlib.suppress(OSError):  # another command has the lock, or has written a file
            now = set(folder.iterdir())
            if before <= now <= before | notes and (made or now != before):
                with FileLock(folder / LOCK_NAME, timeout=0):
                    for path in notes:
                        path.unlink(missing_ok=True)
                for path in made:
                    path.rmdir()
        raise
