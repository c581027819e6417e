"""Gradient clipping, optimizer step and schedule after a backward pass; steps that are not finite are skipped."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from transformers import get_scheduler

from modeling_sim.trainer.settings import RunArguments


@dataclass(frozen=True)
class Part:
    """A part of a model with its own optimizer: parameters, and their batch-norm statistics."""

    parameters: list[torch.nn.Parameter]
    buffers: list[torch.Tensor]


class Optimization:
    """AdamW with a schedule for each part of a model, independent of the other parts.

    If the gradient of a part has a NaN or an infinity, the step is skipped for this part: parameters, the optimizer's
    moments and batch-norm statistics stay unchanged. This is decided on the device, without synchronization.
    """

    def __init__(self, parts: Sequence[Part], accelerator: Accelerator, settings: RunArguments) -> None:
        self.parts, self.max_grad_norm = list(parts), settings.max_grad_norm
        self.optimizers = [
            torch.optim.AdamW(
                part.parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
            )
            for part in parts
        ]
        self.schedulers = [
            get_scheduler(settings.lr_scheduler_type, optimizer, settings.warmup_steps, settings.max_steps)
            for optimizer in self.optimizers
        ]
        self.scaler = accelerator.scaler  # of fp16; `None` otherwise
        # One row per part: number of skipped steps in total, and in a row up to the latest step.
        self.skipped_steps = torch.zeros(len(self.parts), 2, dtype=torch.long, device=accelerator.device)
        self._buffers: dict[int, list[torch.Tensor]] = {}

    def learning_rate(self, part: int) -> float:
        """Learning rate of the next step of a part."""
        return self.schedulers[part].get_last_lr()[0]

    def begin_step(self, parts: Sequence[int]) -> None:
        """Saves the buffers of the parts to train; call it before the forward pass of a step."""
        self._buffers = {part: [buffer.clone() for buffer in self.parts[part].buffers] for part in parts}

    def abandon_step(self) -> None:
        """Restores the state before the step; call it instead of `finish_step`."""
        for part, before in self._buffers.items():
            for buffer, value in zip(self.parts[part].buffers, before, strict=True):
                buffer.copy_(value)
            self.optimizers[part].zero_grad()
        self._buffers = {}

    def finish_step(self) -> None:
        """Clips gradients and updates the parameters; call it after the backward pass."""
        for part, before in self._buffers.items():
            parameters = self.parts[part].parameters
            optimizer: Any = self.optimizers[part]  # torch does not declare `found_inf`
            if self.scaler is not None:
                self.scaler.unscale_(optimizer)
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            bad = ~norm.isfinite()
            if self.max_grad_norm:
                torch.nn.utils.clip_grads_with_norm_(parameters, self.max_grad_norm, norm)
            if self.scaler is None:
                optimizer.found_inf = bad.float()  # read on the device by the fused step, which does nothing if set
                optimizer.step()
            else:
                self.scaler.step(optimizer)
            for buffer, value in zip(self.parts[part].buffers, before, strict=True):
                buffer.copy_(torch.where(bad, value, buffer))
            self.skipped_steps[part, 0] += bad
            self.skipped_steps[part, 1] = (self.skipped_steps[part, 1] + 1) * bad
            self.schedulers[part].step()
            optimizer.zero_grad()
        if self.scaler is not None:
            self.scaler.update()
        self._buffers = {}

    def state_dict(self) -> dict[str, Any]:
        """State of the optimization, without the model."""
        return {
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
            "scaler": self.scaler.state_dict() if self.scaler is not None else {},
            "skipped_steps": self.skipped_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a `state_dict`, but with the learning rates and the weight decay of this run's settings."""
        for optimizer, optimizer_state in zip(self.optimizers, state["optimizers"], strict=True):
            decays = [group["weight_decay"] for group in optimizer.param_groups]
            optimizer.load_state_dict(optimizer_state)
            for group, decay in zip(optimizer.param_groups, decays, strict=True):
                group["weight_decay"] = decay
        for scheduler, scheduler_state in zip(self.schedulers, state["schedulers"], strict=True):
            rates = scheduler.base_lrs
            scheduler.load_state_dict({**scheduler_state, "base_lrs": rates})
            now = [
                rate * factor(scheduler.last_epoch) for rate, factor in zip(rates, scheduler.lr_lambdas, strict=True)
            ]
            for group, rate in zip(scheduler.optimizer.param_groups, now, strict=True):
                group["lr"] = rate
            scheduler._last_lr = now  # noqa: SLF001 - the value of `get_last_lr`
        if self.scaler is not None and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.skipped_steps.copy_(state["skipped_steps"])
