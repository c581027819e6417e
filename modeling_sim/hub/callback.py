"""Uploads a run: checkpoints in the background during training, and all files at the end.

Training commands add `HubArguments` to their settings and a `PushToHub` to their callbacks.
"""

import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import HfApi

from modeling_sim.files import read_json, write_json
from modeling_sim.hub.scrubbing import scrub_file
from modeling_sim.hub.settings import HubArguments
from modeling_sim.hub.staging import link_or_copy, push_run, stage_model
from modeling_sim.hub.upload import check_repo_id, upload
from modeling_sim.trainer.curves import write_curves
from modeling_sim.trainer.loop import Callback
from modeling_sim.trainer.run_folder import LOG_NAME, UPLOAD_NAME
from modeling_sim.trainer.settings import RunArguments

_PREFIX = ".pushing-"


# Seconds to wait at the end of training for an upload in progress, before uploading the finished run.
LAST_WAIT_SECONDS = 60.0


class PushToHub(Callback):
    """Uploads the finished run, and every few checkpoints of a running one in a background thread.

    The thread uploads the newest checkpoint; older ones that are still waiting are skipped. The files of a checkpoint
    are linked until they are uploaded, so that the trainer may remove it at any time. Failures are only reported: the
    next upload, at the latest that of the finished run, contains all files.

    Args:
        arguments: Settings of the upload; without `push_to_hub` nothing is uploaded.
        settings: Settings of the run, which determine whether there are checkpoints.
        api: Client; by default one with the user's Hub and token.

    Raises:
        ValueError: Settings are incompatible, or `repo_id` is not org/name.
    """

    def __init__(self, arguments: HubArguments, settings: RunArguments, api: HfApi | None = None) -> None:
        if arguments.push_every_saves < 0:
            raise ValueError(f"`push_every_saves` is {arguments.push_every_saves}; it must be at least 0.")
        if arguments.push_every_saves and not (arguments.push_to_hub and settings.save_steps):
            raise ValueError("`push_every_saves` uploads checkpoints; set `push_to_hub` and `save_steps` too.")
        if arguments.push_to_hub and not arguments.repo_id:
            raise ValueError("`push_to_hub` needs a `repo_id`, org/name.")
        self.repo_id = (arguments.repo_id or "") if arguments.push_to_hub else ""
        if self.repo_id:
            check_repo_id(self.repo_id)
        self.every, self.api = arguments.push_every_saves, api
        self._saves = 0
        self._waiting: Path | None = None
        self._closed = False
        self._changed = threading.Condition()
        # A daemon, so that a hanging connection does not keep the process alive.
        self._thread = threading.Thread(target=self._work, name="push to the Hub", daemon=True)

    def on_begin(self, run_folder: Path, say: Callable[[str], None]) -> None:
        """Stores `say`."""
        del run_folder
        self.say = say

    def on_save(self, checkpoint: Path) -> None:
        """Passes every `push_every_saves`-th checkpoint to the thread; returns immediately and never raises."""
        if not self.every:
            return
        self._saves += 1
        if self._saves % self.every:
            return
        run_folder, snapshot = checkpoint.parent, None
        try:
            snapshot = Path(tempfile.mkdtemp(dir=run_folder, prefix=f"{_PREFIX}{checkpoint.name}."))
            stage_model(checkpoint, snapshot, link_or_copy)
            (snapshot / LOG_NAME).write_bytes(scrub_file(run_folder / LOG_NAME))
        except (OSError, ValueError) as error:
            self.say(f"skipped the upload of {checkpoint.name} ({error}); training continues")
            _remove(snapshot)
            return
        with self._changed:
            outdated, self._waiting = self._waiting, snapshot
            self._changed.notify()
        _remove(outdated)
        if self._thread.ident is None:
            self._thread.start()

    def on_end(self, run_folder: Path) -> None:
        """Uploads the finished run unless it has been uploaded already."""
        if not self.repo_id:
            return
        self.close()
        if self._thread.is_alive():
            self._thread.join(LAST_WAIT_SECONDS)
        record = run_folder / UPLOAD_NAME
        if record.is_file() and read_json(record).get("repo_id") == self.repo_id:
            self.say(f"the run has already been uploaded to {self.repo_id}")
            return
        try:
            address = push_run(run_folder, self.repo_id)
            write_json(record, {"repo_id": self.repo_id, "address": address})
            self.say(f"uploaded to {address}")
        except (OSError, ValueError) as error:  # of the network, the Hub or the card
            self.say(
                f"the upload to {self.repo_id} failed ({error}); the run is complete in {run_folder}, so rerun the "
                "same command to try again"
            )

    def close(self) -> None:
        """Drops waiting checkpoints; an upload in progress continues."""
        with self._changed:
            self._closed = True
            outdated, self._waiting = self._waiting, None
            self._changed.notify()
        _remove(outdated)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._closed)
                if self._waiting is None:
                    return
                snapshot, self._waiting = self._waiting, None
            self._push(snapshot)
            _remove(snapshot)

    def _push(self, snapshot: Path) -> None:
        name = snapshot.name.removeprefix(_PREFIX).split(".")[0]
        try:
            write_curves(snapshot)
            address = upload(self.api or HfApi(), self.repo_id, snapshot, message=f"Upload {name} of a running run")
            self.say(f"uploaded {name} to {address}")
        except Exception as error:  # noqa: BLE001 - training continues after any error of an upload
            self.say(f"the upload of {name} failed ({error}); training continues, and the next upload has all files")


def _remove(folder: Path | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
