"""Stopping when asked to, at the end of a step instead of in the middle of one."""

import signal
from types import FrameType, TracebackType
from typing import Any, Self

import torch
import torch.distributed
from accelerate import Accelerator

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Notes SIGTERM and SIGINT while it is entered; a second one acts as it would without this."""

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
