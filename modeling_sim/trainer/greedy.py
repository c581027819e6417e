"""Executions of a training step: the same computation with different memory requirements.

All random draws of a step use generators keyed by (seed, step, module, process) and do not depend on earlier draws, so
all executions give the same result, and a resumed run is identical to an uninterrupted one.

    joint        one backward pass on the summed loss. Keeps the activations of all modules.
    per_module   each module's backward pass right after its forward pass. The same gradients; keeps the activations of
                 only one module at a time, at no cost.
    sequential   trains one module after the other, on the outputs of the finished modules below. Keeps the activations,
                 gradients and optimizer of one module; takes `max_steps` steps per module.
    pipeline     one process per module, or per group of modules; activations only flow forward. Each process keeps the
                 activations and optimizer of its modules; the slowest process limits the speed; see `pipeline.py`.

For speed, use data parallelism: the first module takes about 60 % of the computation, so a pipeline of four processes
is at most about 1.7 times as fast as one process.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np
import torch
import torch.distributed
from accelerate import Accelerator

from modeling_sim import SimForPreTraining
from modeling_sim.modeling_sim import SimModuleOutput, draw_latents

Execution = Literal["joint", "per_module", "sequential", "pipeline"]


EXECUTIONS: tuple[Execution, ...] = get_args(Execution)


@dataclass(frozen=True)
class Placement:
    """The modules that this process runs, and the processes that run the same modules on other data.

    Args:
        modules: Modules of this process.
        replica: Index of this process among those with the same modules; determines its data.
        num_replicas: Number of processes with the same modules.
        group: Group of these processes; `None` for all processes.
    """

    modules: range
    replica: int = 0
    num_replicas: int = 1
    group: torch.distributed.ProcessGroup | None = None

    @classmethod
    def data_parallel(cls, model: SimForPreTraining, accelerator: Accelerator) -> "Placement":
        """Every process runs the complete model."""
        return cls(range(model.config.num_modules), accelerator.process_index, accelerator.num_processes)


class ModuleLosses(NamedTuple):
    """The losses of a `SimModuleOutput` without its activations; 0-dim float32 tensors."""

    loss: torch.Tensor
    contrastive_loss: torch.Tensor
    contrastive_accuracy: torch.Tensor
    kl_loss: torch.Tensor

    @classmethod
    def of(cls, output: SimModuleOutput) -> Self:
        """The losses of an output."""
        return cls(*(getattr(output, name).detach() for name in cls._fields))


def module_generator(seed: int, step: int, module: int, process: int, device: torch.device) -> torch.Generator:
    """The generator for all random draws of one module in one step in one process."""
    state = np.random.SeedSequence([seed, step, module, process]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> 1))  # torch needs a positive int64


def run_modules(
    model: SimForPreTraining,
    accelerator: Accelerator,
    placement: Placement,
    hidden_states: torch.Tensor,
    lengths: torch.Tensor | None,
    *,
    trained: range,
    seed: int,
    step: int,
    kl_weight_scale: float = 1.0,
    gather_negatives: bool = False,
) -> Iterator[tuple[int, SimModuleOutput]]:
    """Runs this process' modules one by one and yields the output of each.

    Modules below `trained` are finished: they compute latents without gradient, and their losses are NaN. Modules above
    `trained` are not run.
    """
    gather = LatentGathering(placement) if gather_negatives and placement.num_replicas > 1 else None
    for module in placement.modules:
        if module >= trained.stop:
            return
        generator = module_generator(seed, step, module, placement.replica, hidden_states.device)
        with accelerator.autocast():
            if module < trained.start:
                output = finished_module(model, module, hidden_states, lengths, generator)
            else:
                output = model.module_objective(
                    module,
                    hidden_states,
                    lengths,
                    generator=generator,
                    kl_weight_scale=kl_weight_scale,
                    gather_latents=gather,
                )
        hidden_states, lengths = output.hidden_state, output.lengths
        yield module, output


@torch.no_grad()
def finished_module(
    model: SimForPreTraining,
    module: int,
    hidden_states: torch.Tensor,
    lengths: torch.Tensor | None,
    generator: torch.Generator,
) -> SimModuleOutput:
    """The output of a module whose training is finished: latents drawn as in training; losses are NaN."""
    mean, log_variance, lengths = model.sim.encode_module(module, hidden_states, lengths)
    sampled = log_variance if model.config.sample_latents else None
    nothing = mean.new_full((), torch.nan, dtype=torch.float32)
    latents = draw_latents(mean, sampled, lengths, generator)
    return SimModuleOutput(nothing, nothing, nothing, nothing, latents, mean, lengths)


def train_only(model: SimForPreTraining, trained: range) -> None:
    """Sets the model to training mode, except the finished modules below `trained`."""
    model.train()
    for module in range(trained.start):
        if module < model.config.num_conv_modules:
            model.sim.conv_modules[module].eval()


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
    trained: range | None = None,
    gather_negatives: bool = False,
) -> list[ModuleLosses]:
    """Forward and backward passes of one batch, after which every trained parameter has its gradient.

    With several processes, gradients are averaged, those of a module while the next one computes.

    Args:
        model: The model, in training mode, equal in all processes and not wrapped.
        accelerator: Provides mixed precision, loss scaling and processes.
        input_values: `(batch, samples)`, the share of this process.
        attention_mask: `(batch, samples)`; `None` without padding.
        execution: "joint" or "per_module"; see the module's docstring. "sequential" is "per_module" with one module in
            `trained`. A model without gradient isolation (CPC) has a single gradient and is always joint.
        seed: Seed of the run.
        step: Number of the step.
        kl_weight_scale: Factor on the KL weights, for a warm-up.
        trained: Modules to train; `None` for all.
        gather_negatives: Draw negatives from the batches of all processes.

    Returns:
        The losses of every module that ran.
    """
    if execution not in EXECUTIONS:
        raise ValueError(f"`execution` is {execution!r}; choose one of {', '.join(EXECUTIONS)}.")
    hidden_states, lengths = model.sim.prepare_inputs(input_values, attention_mask)
    placement = Placement.data_parallel(model, accelerator)
    averages = GradientAverages(placement)
    outputs = backward_modules(
        model,
        accelerator,
        placement,
        hidden_states,
        lengths,
        averages=averages,
        execution=execution,
        seed=seed,
        step=step,
        kl_weight_scale=kl_weight_scale,
        trained=trained if trained is not None else range(model.config.num_modules),
        gather_negatives=gather_negatives,
    )
    losses = [ModuleLosses.of(output) for output in outputs]  # a list of outputs would keep all activations
    averages.finish()
    return losses


def backward_modules(
    model: SimForPreTraining,
    accelerator: Accelerator,
    placement: Placement,
    hidden_states: torch.Tensor,
    lengths: torch.Tensor | None,
    *,
    averages: "GradientAverages | None",
    execution: Execution,
    trained: range,
    loss_scale: float = 1.0,
    **arguments: object,
) -> Iterator[SimModuleOutput]:
    """Forward and backward passes of this process' modules.

    Yields each module's detached output as soon as its forward pass is done. Callers must exhaust the iterator.

    Args:
        model: See `backward_step`.
        accelerator: See `backward_step`.
        placement: The modules of this process.
        hidden_states: `(batch, frames, channels)`, input of the first of these modules.
        lengths: `(batch,)`, number of real frames; `None` if all are.
        averages: Averages each module's gradients over the processes; `None` while gradients accumulate.
        execution: See `backward_step`.
        trained: See `backward_step`.
        loss_scale: Factor on the loss, for gradients that accumulate over several batches.
        arguments: Further arguments of `run_modules`.
    """
    modules = run_modules(model, accelerator, placement, hidden_states, lengths, trained=trained, **arguments)  # type: ignore[arg-type]
    if execution == "joint" or not model.config.gradient_isolation:
        attached = list(modules)
        yield from (detached(output) for _, output in attached)
        backward(
            accelerator,
            torch.stack([output.loss for module, output in attached if module in trained]).sum(),
            loss_scale,
        )
        if averages is not None:
            averages.start([parameter for module in trained for parameter in model.module_parameters(module)])
        return
    for module, output in modules:
        yield detached(output)
        if module in trained:
            backward(accelerator, output.loss, loss_scale)
            if averages is not None:
                averages.start(model.module_parameters(module))


def backward(accelerator: Accelerator, loss: torch.Tensor, loss_scale: float) -> None:
    """Backward pass, with the loss scaled for fp16.

    `accelerator.backward` would also divide by the launcher's gradient accumulation steps; `loss_scale` already divides
    by the trainer's.
    """
    loss = loss if loss_scale == 1.0 else loss * loss_scale
    (loss if accelerator.scaler is None else accelerator.scaler.scale(loss)).backward()


def detached(output: SimModuleOutput) -> SimModuleOutput:
    """Detaches a module's output."""
    values: list[Any] = [None if value is None else value.detach() for value in output]
    return SimModuleOutput(*values)


class GradientAverages:
    """Averages gradients over the processes asynchronously: call `start` for each module, then `finish`."""

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self.pending: list[tuple[torch.distributed.Work, torch.Tensor, list[torch.Tensor]]] = []

    def start(self, parameters: list[torch.nn.Parameter]) -> None:
        """Starts to average the gradients of some parameters."""
        if self.placement.num_replicas == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients]) / self.placement.num_replicas
        work = torch.distributed.all_reduce(flat, group=self.placement.group, async_op=True)
        self.pending.append((work, flat, gradients))

    def finish(self) -> None:
        """Waits for the averages and copies them to the parameters' gradients."""
        for work, flat, gradients in self.pending:
            work.wait()
            for gradient, average in zip(
                gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True
            ):
                gradient.copy_(average.view_as(gradient))
        self.pending.clear()


class LatentGathering:
    """Gathers the latents of the other processes, with gradients; see `SimForPreTraining.module_objective`.

    Each process' loss sends gradients to the latents of other processes that it used as negatives, so that the average
    over processes is the gradient of the loss of one batch with all of their crops.
    """

    def __init__(self, placement: Placement) -> None:
        self.placement = placement

    def __call__(
        self, latents: torch.Tensor, frame_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Latents `(others, frames, channels)` and masks of the other processes; all batches have the same shape."""
        if frame_mask is None:  # crops of other processes may be padded
            frame_mask = latents.new_ones(latents.shape[:2], dtype=torch.bool)
        all_latents = _Gather.apply(latents, self.placement)
        all_masks = _Gather.apply(frame_mask.to(torch.uint8), self.placement)
        return self._others(all_latents), self._others(all_masks)

    def _others(self, gathered: torch.Tensor) -> torch.Tensor:
        """All parts but this process'; by slices, since copying indices to a GPU would make the host wait."""
        own = self.placement.replica
        return torch.cat([gathered[:own], gathered[own + 1 :]]).flatten(0, 1)


class _Gather(torch.autograd.Function):
    """Gathers a tensor of all processes, `(processes, ...)`; the backward pass sums gradients in the source process."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, placement: Placement) -> torch.Tensor:
        ctx.placement = placement
        gathered = [torch.empty_like(tensor) for _ in range(placement.num_replicas)]
        torch.distributed.all_gather(gathered, tensor.contiguous(), group=placement.group)
        return torch.stack(gathered)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None]:
        total = grad_outputs[0].contiguous()
        torch.distributed.all_reduce(total, group=ctx.placement.group)
        return total[ctx.placement.replica], None


def broadcast(tensors: Iterable[torch.Tensor], accelerator: Accelerator) -> None:
    """Copies the values of the first process to all others."""
    if accelerator.num_processes > 1:
        for tensor in tensors:
            torch.distributed.broadcast(tensor.detach(), src=0)
