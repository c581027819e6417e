"""Stopping when asked to: by a signal, at the end of a step instead of in the middle of one, or by a closed pipe."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Self

import torch
import torch.distributed
from accelerate import Accelerator

# Schedulers announce the end of a job's time with a signal of the user's choice: `#SBATCH --signal=USR1@120`.
_SIGNALS = (signal.SIGTERM, signal.SIGINT, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))


@contextlib.contextmanager
def ends_with_its_reader() -> Iterator[None]:
    """Ends a command quietly once nobody reads what it prints, as behind `| head -1`.

    Raises:
        SystemExit: With the code that a shell gives to commands that end so.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # What is left to print goes nowhere: Python flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None


class StopRequest:
    """Notes SIGTERM, SIGINT and SIGUSR1 while it is entered; a second one acts as it would without this."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def agreed(self, *, together: bool, out_of_time: bool) -> tuple[int, bool]:
        """Number of the signal to stop for, 0 for none, and whether time is up.

        Several processes must stop after the same step, so they ask each other, and only where `together` says that
        all of them are asking, as in a step that is logged.
        """
        if self.accelerator.num_processes == 1:
            return self.received, out_of_time
        if not together:
            return 0, False
        reasons = torch.tensor([self.received, int(out_of_time)], device=self.accelerator.device)
        torch.distributed.all_reduce(reasons, torch.distributed.ReduceOp.MAX)
        received, late = reasons.tolist()
        return received, bool(late)
