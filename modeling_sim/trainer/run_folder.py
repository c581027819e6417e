"""Output folders of commands, which never delete or replace files of other programs.

Other trainers also write files named `config.json` and `checkpoint-500`, so names do not identify the owner of a file.
A command therefore claims a folder before it writes: `CLAIM_NAME` lists the names of this package's files, and a name
can only be claimed while no file has it. Checkpoints are recognized by their contents.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from filelock import FileLock, Timeout
from transformers import PreTrainedModel, SequenceFeatureExtractor

from modeling_sim.files import MODEL_NAMES, follow_umask, read_json, remove_folder, temporary_folder, write_json
from modeling_sim.trainer.checkpoints import own_checkpoints, save_model

RESULTS_NAME = "results.json"


SETTINGS_NAME = "training_settings.json"


LOG_NAME = "log.jsonl"


CURVES_NAME = "curves.png"


CLAIM_NAME = ".modeling_sim.json"


LOCK_NAME = ".modeling_sim.lock"


RUN = "training run"
"""What training commands write, for claims."""


UPLOAD_NAME = "upload.json"
"""Repository of an uploaded run, and URL of the commit."""


RUN_NAMES = (
    RESULTS_NAME,
    SETTINGS_NAME,
    LOG_NAME,
    UPLOAD_NAME,
    CURVES_NAME,
    "bad_audio_train.tsv",
    "bad_audio_eval.tsv",
    *MODEL_NAMES,
)
"""Names of the files of a training run, except checkpoints."""


# Settings that extend a run, and settings that do not affect its result.
_LENGTHS = ("max_steps", "num_train_epochs", "max_train_time")


_NO_OTHER_RUN = frozenset(
    str.split(
        "output_dir overwrite_output_dir resume save_steps save_total_limit report_to disable_tqdm num_workers "
        "reader_timeout logging_steps eval_steps eval_batch_size max_skipped_steps num_processes pipeline_stages "
        "cache_latents"
    )
)


# Temporary files and folders left by a killed process, and all names of files in these folders.
_LEFTOVER = re.compile(
    r"\.(?P<name>.+)\.\d+(-\d+)?|\.saving-\w{8}|\.pushing-checkpoint-\d+\.\w{8}|\.latents-\d+", re.ASCII
)


_IN_LEFTOVERS = (*RUN_NAMES, "trainer.pt", "trainer_state.json", ".*.json.*", "latents.npy", "lengths.npy", "README.md")


def claim_folder(
    folder: str | Path,
    kind: str,
    names: Sequence[str],
    *,
    overwrite_output_dir: bool = False,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Creates a folder, if necessary, and records which files in it belong to this package.

    Args:
        folder: Output folder of a command.
        kind: What the command writes, for messages: "training run", "analysis", ...
        names: Names of all files that it writes, or `fnmatch` patterns.
        overwrite_output_dir: Accept files of an earlier command of the same kind; see `clear_folder`.
        resume: Accept them as well, because the command resumes the earlier one.
        settings: JSON-serializable settings of the results. Files of an earlier command of this kind with equal
            settings are accepted, so that a command can be rerun. `None` if the caller compares settings.

    Raises:
        FileExistsError: The folder holds files with these names that no command of this kind has written (no flag
            replaces those), or files of an earlier command, and neither flag is set.
        NotADirectoryError: The folder is a file, or inside of one.
    """
    folder = Path(folder)
    make_folder(folder)
    there = _files_named(folder, names)
    claims = _read_claims(folder)
    own = claims.get(kind, [])
    if not own and _earlier_version_wrote(there):
        own = list(names)
    others = [path.name for path in there if not any(fnmatch(path.name, name) for name in own)]
    if others:
        more = ", ..." if len(others) > 3 else ""
        raise FileExistsError(
            f"`output_dir` {folder} holds files of the same names that do not belong to {_with_article(kind)} "
            f"({', '.join(others[:3])}{more}); choose another folder."
        )
    commands = _read_dict(folder / CLAIM_NAME).get("settings", {})
    different = ""
    if settings is not None:
        settings, then = json.loads(json.dumps(settings)), commands.get(kind) or {}
        # Settings that only one of the two versions of this package has are ignored.
        changed = sorted(name for name in {*then} & {*settings} if then[name] != settings[name])
        resume = resume or (bool(then) and not changed)
        different = f" with different `{'`, `'.join(changed)}`" if changed else ""
    if there and not (overwrite_output_dir or resume):
        raise FileExistsError(
            f"`output_dir` {folder} holds {_with_article(kind)}{different} ({there[0].name}); choose another folder, "
            "or set `overwrite_output_dir` to replace it."
        )
    if set(names) - set(claims.get(kind, [])) or commands.get(kind) != settings:
        claims[kind] = sorted({*own, *names})
        if settings is not None:
            commands[kind] = settings
        write_json(folder / CLAIM_NAME, {"schema": 1, "claims": claims, "settings": commands})


def clear_folder(folder: str | Path, kind: str) -> None:
    """Removes the files of an earlier command of the same kind from a claimed folder, and nothing else."""
    folder = Path(folder)
    for path in _files_named(folder, _read_claims(folder).get(kind, [])):
        if path.is_file():
            path.unlink()


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Makes a folder and locks it for this process; the operating system releases the lock when the process ends.

    Raises:
        OSError: Another process uses the folder, or it cannot be written.
    """
    make_folder(folder)
    lock = FileLock(folder / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BlockingIOError(
            f"`output_dir` {folder} is used by another process; wait for it, or choose another folder."
        ) from error
    with lock:
        yield


def make_folder(folder: Path) -> None:
    """Creates an output folder, if necessary.

    Raises:
        NotADirectoryError: The folder is a file, or inside of one.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(f"`output_dir` {folder} is a file, or inside of one; choose a folder.") from error


def _with_article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiouA' else 'a'} {kind}"


def _files_named(folder: Path, names: Sequence[str]) -> list[Path]:
    return sorted(path for path in folder.iterdir() if any(fnmatch(path.name, name) for name in names))


def _read_claims(folder: Path) -> dict[str, list[str]]:
    claims = _read_dict(folder / CLAIM_NAME).get("claims", {})
    return {kind: list(names) for kind, names in claims.items()} if isinstance(claims, dict) else {}


def _earlier_version_wrote(paths: Sequence[Path]) -> bool:
    """Whether an earlier version of this package, without claims, wrote one of the files."""
    versions = [_read_dict(path).get("versions") for path in paths if path.suffix == ".json"]
    return any(isinstance(found, dict) and "modeling_sim" in found for found in versions)


def _read_dict(path: Path) -> dict[str, Any]:
    """Reads a JSON file with a dict; returns an empty one for anything else."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}


# ---------------------------------------------------------------------- the folder of a run


class RunFolder:
    """The folder of a training run: its files, its lock, and whether the run is finished.

    Args:
        path: `output_dir` of the run.

    Attributes:
        log: File of `Log`.
        results: Results; the file marks the run as finished.
        settings: All settings of the finished run.
        upload: Repository that the finished run was uploaded to.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.log, self.results = self.path / LOG_NAME, self.path / RESULTS_NAME
        self.settings, self.upload = self.path / SETTINGS_NAME, self.path / UPLOAD_NAME

    @contextlib.contextmanager
    def lock(self, accelerator: Accelerator) -> Iterator[None]:
        """Locks the folder against other trainers; the operating system releases the lock when the process ends.

        Raises:
            OSError: Another trainer uses the folder, or it cannot be written.
        """
        if not accelerator.is_main_process:
            yield
            return
        with locked_folder(self.path):
            yield

    def claim(self, *, resume: str, overwrite_output_dir: bool) -> None:
        """Claims the folder, and removes temporary files of killed processes; requires `lock`.

        Raises:
            FileExistsError: It holds other files, or an unfinished run although `resume` is "never".
        """
        resumable = bool(own_checkpoints(self.path))
        if resumable and not (self.path / CLAIM_NAME).exists() and not self.settings.exists():
            # An unfinished run of an earlier version, without claims, wrote only these files.
            unfinished = [LOG_NAME, *(name for name in RUN_NAMES if name.startswith("bad_audio"))]
            write_json(self.path / CLAIM_NAME, {"schema": 1, "claims": {RUN: unfinished}})
        claim_folder(self.path, RUN, RUN_NAMES, overwrite_output_dir=overwrite_output_dir, resume=True)
        if resume == "never" and resumable and not overwrite_output_dir and not self.results.exists():
            raise FileExistsError(
                f"`output_dir` {self.path} holds checkpoints of an unfinished run; resume it, choose another folder, "
                "or set `overwrite_output_dir` to replace it."
            )
        for path in self.path.iterdir():
            _remove_leftover(path)

    def clear(self) -> None:
        """Removes an earlier run from the claimed folder."""
        for path in own_checkpoints(self.path):
            remove_folder(path)
        clear_folder(self.path, RUN)

    def is_finished(self, settings: Mapping[str, Any], *, resume: str) -> bool:
        """Whether the folder holds a finished run with these settings; `False` if training is to start or continue.

        The same settings with more steps, or more time, extend a finished run from its last checkpoint.

        Raises:
            FileExistsError: It holds a finished run with different settings, or one that cannot be extended.
            ValueError: The results are damaged.
        """
        if not self.results.exists():
            return False
        read_json(self.results)
        then = _read_dict(self.settings).get("settings")
        finished = f"`output_dir` {self.path} holds a finished run"
        otherwise = "choose another folder"
        if resume in ("auto", "never"):
            otherwise += ", or set `overwrite_output_dir` to replace it"
        if not isinstance(then, dict) or resume != "auto":
            raise FileExistsError(f"{finished}; {otherwise}.")
        now = json.loads(json.dumps(settings))
        # Only settings that both versions of this package have: the default of a new one changes nothing.
        compared = (then.keys() & now.keys()) - _NO_OTHER_RUN
        different = {name for name in compared if then[name] != now[name]}
        longer = {name for name in different & {*_LENGTHS} if _longer(then.get(name), now.get(name))}
        if now.get("num_train_epochs") and "max_steps" in longer:
            longer.add("num_train_epochs")
        if different - longer:
            raise FileExistsError(
                f"{finished} with different `{'`, `'.join(sorted(different - longer))}`; {otherwise}."
            )
        if different and now.get("execution") == "sequential":
            raise FileExistsError(f"{finished} in 'sequential' execution, which cannot be extended; {otherwise}.")
        if different and not own_checkpoints(self.path):
            raise FileExistsError(f"{finished} without a checkpoint to extend; {otherwise}.")
        return not different

    def reopen(self) -> None:
        """Marks a run that is extended as neither finished nor uploaded."""
        self.results.unlink(missing_ok=True)
        self.upload.unlink(missing_ok=True)

    def write_model(self, model: PreTrainedModel, extractor: SequenceFeatureExtractor) -> None:
        """Writes model and extractor to a temporary folder, then moves the files into place, weights last."""
        with temporary_folder(self.path / "model") as temporary:
            save_model(model, extractor, temporary)
            follow_umask(temporary)
            for file in sorted(temporary.iterdir(), key=lambda file: file.suffix == ".safetensors"):
                file.replace(self.path / file.name)


def _longer(then: Any, now: Any) -> bool:
    """Whether a limit (0 for none) has increased."""
    return bool(then) and (not now or now > then)


def _remove_leftover(path: Path) -> None:
    """Removes a temporary file or folder of this package; under the lock, its process must have ended."""
    named = _LEFTOVER.fullmatch(path.name)
    if named is None or path.is_symlink():
        return
    if path.is_dir():
        if all(any(fnmatch(file.name, name) for name in _IN_LEFTOVERS) for file in path.rglob("*") if file.is_file()):
            remove_folder(path)
    elif named["name"] and any(fnmatch(named["name"], name) for name in (*RUN_NAMES, CLAIM_NAME)):
        path.unlink()
