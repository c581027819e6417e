"""Uploads a running run's newest checkpoint now and then, beside the training, which it never holds up or ends."""

import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

from accelerate import Accelerator
from huggingface_hub import HfApi

from modeling_sim.hub.scrubbing import scrub_file
from modeling_sim.hub.staging import link_or_copy, stage_model
from modeling_sim.hub.upload import upload
from modeling_sim.trainer.curves import write_curves
from modeling_sim.trainer.log import LOG_NAME
from modeling_sim.trainer.settings import RunArguments

_PREFIX = ".pushing-"


# Seconds that the end of training waits for an upload on its way; the upload of the finished run follows it.
LAST_WAIT_SECONDS = 60.0


class BackgroundPush:
    """One thread that uploads what it was offered last; what was offered before that is left out.

    A checkpoint's files get second names while it is offered, so that the trainer may remove it at any time. A failure
    is said and forgotten: the next upload, at the latest that of the finished run, has all of it.

    Args:
        settings: Of the run; nothing happens unless `push_every_saves` is set.
        say: Tells the user a sentence.
        accelerator: Only the main process uploads.
        api: Client; one of the user's Hub and token if `None`.
    """

    def __init__(
        self, settings: RunArguments, say: Callable[[str], None], accelerator: Accelerator, api: HfApi | None = None
    ) -> None:
        self.output_dir, self.repo_id = Path(settings.output_dir), settings.repo_id or ""
        self.every = settings.push_every_saves if accelerator.is_main_process else 0
        self.say, self.api = say, api
        self._saves = 0
        self._waiting: Path | None = None
        self._closed = False
        self._changed = threading.Condition()
        # A daemon: a connection that hangs must not keep a process that was stopped.
        self._thread = threading.Thread(target=self._work, name="push to the Hub", daemon=True)

    def __enter__(self) -> Self:
        if self.every:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close(wait_seconds=0.0)

    def offer(self, checkpoint: Path) -> None:
        """Takes a checkpoint if its turn has come; returns at once and raises nothing."""
        if not self.every:
            return
        self._saves += 1
        if self._saves % self.every:
            return
        snapshot = None
        try:
            snapshot = Path(tempfile.mkdtemp(dir=self.output_dir, prefix=f"{_PREFIX}{checkpoint.name}."))
            stage_model(checkpoint, snapshot, link_or_copy)
            (snapshot / LOG_NAME).write_bytes(scrub_file(self.output_dir / LOG_NAME))
        except (OSError, ValueError) as error:
            self.say(f"{checkpoint.name} is not uploaded ({error}); training goes on")
            _remove(snapshot)
            return
        with self._changed:
            outdated, self._waiting = self._waiting, snapshot
            self._changed.notify()
        _remove(outdated)

    def close(self, wait_seconds: float = LAST_WAIT_SECONDS) -> None:
        """Drops what is waiting, and waits for an upload on its way, but not for ever."""
        with self._changed:
            self._closed = True
            outdated, self._waiting = self._waiting, None
            self._changed.notify()
        _remove(outdated)
        if self._thread.is_alive() and wait_seconds:
            self._thread.join(wait_seconds)

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
            self.say(f"{name} was uploaded to {address}")
        except Exception as error:  # noqa: BLE001 - whatever goes wrong with an upload, training goes on
            self.say(f"the upload of {name} failed ({error}); training goes on, and the end of it uploads again")


def _remove(folder: Path | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
