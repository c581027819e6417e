"""What follows a backward pass: clipping, the optimiser's step, the schedule; a step that is not finite is left out."""

from typing import Any

import torch
from accelerate import Accelerator
from transformers import get_scheduler

from modeling_sim import SimForPreTraining
from training.arguments import RunArguments
from training.greedy import clip_gradients


class Optimization:
    """AdamW with a schedule, for one run.

    A step whose gradient has a NaN or an infinity changes nothing: neither parameters nor the optimiser's moments nor
    batch-norm statistics. Whether it has is decided on the device, so that no step waits for the host.
    """

    def __init__(self, model: SimForPreTraining, accelerator: Accelerator, settings: RunArguments) -> None:
        self.model, self.max_grad_norm = model, settings.max_grad_norm
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self.scheduler = get_scheduler(
            settings.lr_scheduler_type, self.optimizer, settings.warmup_steps, settings.max_steps
        )
        self.scaler = accelerator.scaler  # of fp16; `None` otherwise
        self._skipped = torch.zeros(2, dtype=torch.long, device=accelerator.device)
        self._buffers: list[torch.Tensor] = []

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        return self.scheduler.get_last_lr()[0]

    def skipped(self) -> tuple[int, int]:
        """Steps left out so far, and in a row up to now; waits for the device."""
        total, in_a_row = self._skipped.tolist()
        return total, in_a_row

    def begin_step(self) -> None:
        """Call before the forward pass."""
        self._buffers = [buffer.clone() for buffer in self.model.buffers()]

    def finish_step(self) -> None:
        """Call after the backward pass."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.get_total_norm(
            [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        )
        bad = ~norm.isfinite()
        if self.max_grad_norm:
            clip_gradients(self.model, self.max_grad_norm)
        if self.scaler is None:
            self.optimizer.found_inf = bad.float()  # the fused step reads it on the device and does nothing if set
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        for buffer, before in zip(self.model.buffers(), self._buffers, strict=True):
            buffer.copy_(torch.where(bad, before, buffer))
        self._skipped[0] += bad
        self._skipped[1] = (self._skipped[1] + 1) * bad
        self.scheduler.step()
        self.optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next steps depend on, the model left out."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler is not None else {},
            "skipped": self._skipped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.scaler is not None and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self._skipped.copy_(state["skipped"])
