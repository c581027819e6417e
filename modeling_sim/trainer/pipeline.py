"""A pipeline of processes: each runs some of the modules and sends its latents to the next; nothing is sent back.

Process `replica * stages + stage` runs the modules of its stage on the data of its replica. While a stage trains on
one batch, the stage below works on the next. The processes of one stage average their gradients, as in data
parallelism. Random draws, and so the weights, are the same as with `replicas` processes that run complete models.
"""

import copy
import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed
from accelerate import Accelerator
from torch.distributed.device_mesh import init_device_mesh

from modeling_sim import SimForPreTraining
from modeling_sim.modeling_sim import SimModuleOutput
from modeling_sim.text import counted
from modeling_sim.trainer.greedy import Placement, backward_modules
from modeling_sim.trainer.task import Schedule

# Batches by which a stage may be ahead of the next one.
_IN_FLIGHT = 2


_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Pipeline(Schedule):
    """One process per module, or per group of modules: this process' position in the pipeline, and its connections.

    Args:
        model: The complete model, equal in all processes.
        accelerator: Provides device and processes.
        stages: Modules of each stage, from the first; see `share_out`.

    Raises:
        ValueError: The number of processes is not a multiple of the number of stages.
    """

    empty = 0.0  # the rows of all stages are summed

    def __init__(self, model: SimForPreTraining, accelerator: Accelerator, stages: Sequence[range]) -> None:
        processes = accelerator.num_processes
        if processes % len(stages):
            raise ValueError(
                f"`execution` 'pipeline' with {len(stages)} stages needs a multiple of {len(stages)} processes, not "
                f"{processes}; set `pipeline_stages`, or change the number of processes."
            )
        self.model, self.stages = model, list(stages)
        replicas = processes // len(stages)
        self.replica, self.stage = divmod(accelerator.process_index, len(stages))
        self.rank = accelerator.process_index
        mesh = init_device_mesh(accelerator.device.type, (replicas, len(stages)), mesh_dim_names=("replica", "stage"))
        self.column = mesh["stage"].get_group()  # the stages of this replica
        group = mesh["replica"].get_group()
        super().__init__(model.config.num_modules, Placement(self.stages[self.stage], self.replica, replicas, group))
        # Shapes are sent with gloo, so that reading them does not synchronize a GPU.
        self.control = [
            torch.distributed.new_group([replica * len(stages) + stage for stage in range(len(stages))], backend="gloo")
            for replica in range(replicas)
        ][self.replica]
        self.device = accelerator.device
        self._sent: deque[list[tuple[torch.distributed.Work, torch.Tensor]]] = deque()

    @property
    def is_first(self) -> bool:
        """Whether this stage reads the audio."""
        return self.stage == 0

    @property
    def is_last(self) -> bool:
        """Whether this is the last stage."""
        return self.stage == len(self.stages) - 1

    def notes(self) -> list[str]:
        """The modules of each process."""
        names = self.model.config.module_names
        stages = "; ".join(", ".join(names[module] for module in stage) for stage in self.stages)
        processes = counted(len(self.stages), "process", "processes")
        return [f"{counted(self.placement.num_replicas, 'pipeline')} of {processes}: {stages}"]

    def latents(self, trained: range, **share: int) -> Iterable[dict[str, Any]] | None:
        """Latents from the stage below."""
        del trained, share
        return None if self.is_first else self.received_batches()

    def handing_on(self, outputs: Iterable[SimModuleOutput]) -> Iterator[SimModuleOutput]:
        """Yields this stage's outputs, and sends the last module's to the next stage as soon as it is available."""
        last = len(self.placement.modules) - 1
        for number, output in enumerate(outputs):
            if number == last and not self.is_last:
                self.send(output.hidden_state, output.lengths)
            yield output

    def send(self, hidden_states: torch.Tensor, lengths: torch.Tensor | None) -> None:
        """Sends latents `(batch, frames, channels)` and `lengths` `(batch,)` to the next stage asynchronously."""
        batch, frames, channels = hidden_states.shape
        header = torch.tensor([batch, frames, channels, _DTYPES.index(hidden_states.dtype), int(lengths is not None)])
        payload = [(header, self.control)]
        if lengths is not None:
            payload.append((lengths.long(), None))
        payload.append((hidden_states.contiguous(), None))
        works = []
        for tensor, group in payload:
            work = torch.distributed.isend(tensor, self.rank + 1, group=group)
            if work is not None:
                works.append((work, tensor))  # keeps the tensor alive until it is sent
        self._sent.append(works)
        while len(self._sent) > _IN_FLIGHT:
            self._wait_for_oldest()

    def receive(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Waits for latents and lengths from the stage below."""
        header = torch.empty(5, dtype=torch.long)
        torch.distributed.recv(header, self.rank - 1, group=self.control)
        batch, frames, channels, dtype, has_lengths = header.tolist()
        lengths = None
        if has_lengths:
            lengths = torch.empty(batch, dtype=torch.long, device=self.device)
            torch.distributed.recv(lengths, self.rank - 1)
        hidden_states = torch.empty(batch, frames, channels, dtype=_DTYPES[dtype], device=self.device)
        torch.distributed.recv(hidden_states, self.rank - 1)
        return hidden_states, lengths

    def received_batches(self) -> Iterator[dict[str, Any]]:
        """Endless batches of latents from the stage below."""
        for _ in itertools.count():
            hidden_states, lengths = self.receive()
            yield {"hidden_states": hidden_states, "lengths": lengths, "id": [], "num_replaced": 0}

    def drain(self) -> None:
        """Waits until everything is sent."""
        while self._sent:
            self._wait_for_oldest()

    def _wait_for_oldest(self) -> None:
        for work, _ in self._sent.popleft():
            work.wait()

    def share_model(self) -> None:
        """Updates the weights and buffers of all other stages, to evaluate or save the complete model."""
        self.drain()
        for stage, modules in enumerate(self.stages):
            source = self.replica * len(self.stages) + stage
            for module in modules:
                for tensor in [*self.model.module_parameters(module), *self.model.module_buffers(module)]:
                    torch.distributed.broadcast(tensor.detach(), source, group=self.column)

    def gather_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows of all modules; each stage fills in its own and leaves the others 0."""
        rows = rows.clone()
        torch.distributed.all_reduce(rows, group=self.column)
        return rows

    def gather_optimization(self, state: dict[str, Any]) -> dict[str, Any] | None:
        """States of all modules from their stages, in the first process of a replica; `None` in the others."""
        own = [(state["optimizers"][module], state["schedulers"][module]) for module in self.placement.modules]
        gathered: list[Any] | None = [None] * len(self.stages) if self.is_first else None
        torch.distributed.gather_object(own, gathered, self.replica * len(self.stages), group=self.column)
        skipped = self.gather_rows(state["skipped_steps"])
        if gathered is None:
            return None
        optimizers, schedulers = zip(*(part for stage in gathered for part in stage), strict=True)
        return {**state, "optimizers": list(optimizers), "schedulers": list(schedulers), "skipped_steps": skipped}


def share_out(costs: Sequence[float], num_stages: int) -> list[range]:
    """Divides consecutive modules into stages such that the most expensive stage is as cheap as possible.

    Args:
        costs: Duration of each module's training step in seconds.
        num_stages: Number of stages, at most the number of modules.
    """
    if not 1 <= num_stages <= len(costs):
        raise ValueError(f"`pipeline_stages` is {num_stages}; give 1 to {len(costs)}, the number of modules.")

    def stages(cuts: tuple[int, ...]) -> list[range]:
        return [range(*bounds) for bounds in itertools.pairwise((0, *cuts, len(costs)))]

    return min(
        (stages(cuts) for cuts in itertools.combinations(range(1, len(costs)), num_stages - 1)),
        key=lambda shares: max(sum(costs[module] for module in share) for share in shares),
    )


def measure_costs(
    model: SimForPreTraining, accelerator: Accelerator, *, batch_size: int, crop_samples: int, repeats: int = 2
) -> list[float]:
    """Seconds of each module's forward and backward pass on noise, measured in the first process."""
    costs: list[float] = [0.0] * model.config.num_modules
    if accelerator.is_main_process:
        costs = _seconds_of_modules(
            copy.deepcopy(model).train(), accelerator, batch_size=batch_size, crop_samples=crop_samples, repeats=repeats
        )
    if accelerator.num_processes > 1:
        torch.distributed.broadcast_object_list(costs, src=0)
    return costs


def _seconds_of_modules(
    model: SimForPreTraining, accelerator: Accelerator, *, batch_size: int, crop_samples: int, repeats: int
) -> list[float]:
    """The shortest of several repeats, after a warm-up."""
    device, num_modules = accelerator.device, model.config.num_modules
    generator = torch.Generator().manual_seed(0)
    inputs = 0.1 * torch.randn(batch_size, crop_samples, generator=generator)
    seconds = torch.full((repeats + 1, num_modules), torch.inf)
    for repeat in range(repeats + 1):
        hidden_states, lengths = model.sim.prepare_inputs(inputs.to(device))
        for module in range(num_modules):
            placement = Placement(range(module, module + 1))
            _synchronize(device)
            started = time.perf_counter()
            (output,) = backward_modules(
                model,
                accelerator,
                placement,
                hidden_states,
                lengths,
                averages=None,
                execution="per_module",
                trained=range(num_modules),
                seed=0,
                step=1,
            )
            _synchronize(device)
            if repeat > 0:
                seconds[repeat, module] = time.perf_counter() - started
            hidden_states, lengths = output.hidden_state, output.lengths
    return seconds.min(dim=0).values.tolist()


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
