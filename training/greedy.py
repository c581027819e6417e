"""How a training step is executed: the same mathematics, with more or less in memory at a time.

Everything random in a step is drawn from generators keyed by (seed, step, module, process), never by what ran before:
the executions agree with each other, and a run that is resumed goes on as if it had not stopped.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
import torch.distributed
from accelerate import Accelerator

from modeling_sim import SimForPreTraining
from modeling_sim.modeling_sim import SimModuleOutput

Execution = Literal["joint", "per_module"]
EXECUTIONS: tuple[Execution, ...] = ("joint", "per_module")


def module_generator(seed: int, step: int, module: int, process: int, device: torch.device) -> torch.Generator:
    """The generator of everything random in one module's part of one step in one process."""
    state = np.random.SeedSequence([seed, step, module, process]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> 1))  # torch wants a positive int64


def run_modules(
    model: SimForPreTraining,
    accelerator: Accelerator,
    input_values: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    seed: int,
    step: int,
    kl_weight_scale: float = 1.0,
) -> Iterator[SimModuleOutput]:
    """Runs the modules one after the other and yields each with its loss, before the next one starts."""
    hidden_states, lengths = model.sim.prepare_inputs(input_values, attention_mask)
    for module in range(model.config.num_modules):
        generator = module_generator(seed, step, module, accelerator.process_index, input_values.device)
        with accelerator.autocast():
            output = model.module_objective(
                module, hidden_states, lengths, generator=generator, kl_weight_scale=kl_weight_scale
            )
        hidden_states, lengths = output.hidden_state, output.lengths
        yield output


def backward_step(
    model: SimForPreTraining,
    accelerator: Accelerator,
    input_values: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    execution: Execution = "per_module",
    seed: int,
    step: int,
    kl_weight_scale: float = 1.0,
) -> list[SimModuleOutput]:
    """Forward and backward passes of one batch: afterwards every parameter holds its gradient.

    With several processes the gradients are averaged over them, those of a module while the next one computes.

    Args:
        model: In training mode, the same in all processes; not wrapped.
        accelerator: Supplies mixed precision, loss scaling and the processes.
        input_values: `(batch, samples)`, this process' share.
        attention_mask: `(batch, samples)`; `None` where nothing is padded.
        execution: "per_module" runs each module's backward pass right after its forward pass, so that the
            activations of one module live at a time. "joint" runs one backward pass on the summed loss.
            A model without gradient isolation (CPC) has a single gradient and is always joint.
        seed: Seed of the run.
        step: Number of the step.
        kl_weight_scale: Factor on the KL weights, for a warm-up.

    Returns:
        The output of every module, detached.
    """
    if execution not in EXECUTIONS:
        raise ValueError(f"`execution` is {execution!r}; choose one of {', '.join(EXECUTIONS)}.")
    modules = run_modules(
        model, accelerator, input_values, attention_mask, seed=seed, step=step, kl_weight_scale=kl_weight_scale
    )
    averages = GradientAverages(accelerator)
    if execution == "joint" or not model.config.gradient_isolation:
        attached = list(modules)
        accelerator.backward(torch.stack([output.loss for output in attached]).sum())
        averages.start(list(model.parameters()))
        outputs = [detached(output) for output in attached]
    else:
        outputs = []
        for module, output in enumerate(modules):
            accelerator.backward(output.loss)
            averages.start(model.module_parameters(module))
            outputs.append(detached(output))
    averages.finish()
    return outputs


def detached(output: SimModuleOutput) -> SimModuleOutput:
    """A module's output without its graph."""
    return SimModuleOutput(*(value.detach() if value is not None else None for value in output))


class GradientAverages:
    """Averages gradients over the processes, in the background: `start` for each module, then `finish`."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.num_processes = accelerator.num_processes
        self.pending: list[tuple[torch.distributed.Work, torch.Tensor, list[torch.Tensor]]] = []

    def start(self, parameters: list[torch.nn.Parameter]) -> None:
        """Begins to average the gradients of some parameters."""
        if self.num_processes == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients]) / self.num_processes
        self.pending.append((torch.distributed.all_reduce(flat, async_op=True), flat, gradients))

    def finish(self) -> None:
        """Waits, and puts the averages into the parameters' gradients."""
        for work, flat, gradients in self.pending:
            work.wait()
            for gradient, average in zip(
                gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True
            ):
                gradient.copy_(average.view_as(gradient))
        self.pending.clear()


def clip_gradients(model: SimForPreTraining, max_norm: float) -> None:
    """Scales each module's gradient down to a norm, on its own: a module's step does not depend on the others.

    A model without gradient isolation is clipped as a whole.
    """
    groups = (
        [model.module_parameters(module) for module in range(model.config.num_modules)]
        if model.config.gradient_isolation
        else [list(model.parameters())]
    )
    for parameters in groups:
        torch.nn.utils.clip_grad_norm_(parameters, max_norm)


def broadcast_parameters(model: SimForPreTraining, accelerator: Accelerator) -> None:
    """Gives every process the first one's parameters and buffers."""
    if accelerator.num_processes > 1:
        for tensor in [*model.parameters(), *model.buffers()]:
            torch.distributed.broadcast(tensor.detach(), src=0)
