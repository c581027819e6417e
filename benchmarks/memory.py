"""Memory of a training step by depth: that of `per_module` does not grow with the number of modules, `joint`'s does.

    python benchmarks/memory.py --output benchmarks/results/memory_depth.json --table docs/memory.md

Stacks of 3, 6, 12 and 24 modules of the same size: in each a kernel of 3 at stride 1, so that all have the same number
of frames, after a first module that reads the waveform at a hop of 20 samples. Activations are the storages that
operators allocate in a forward and backward pass, at their peak; parameters, their gradients and the optimizer, which
grow with depth in any execution, are listed separately. With `--resident` resident memory is also measured, in a
separate process: the peak of a step beyond the memory at its start.
"""

import subprocess
import sys
import weakref
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from tqdm.auto import tqdm

from benchmarks.arguments import output_file
from benchmarks.training_step import peak_megabytes
from modeling_sim import SimConfig, SimForPreTraining
from modeling_sim.files import replacing, write_json
from modeling_sim.settings import HelpFormatter
from modeling_sim.trainer.greedy import Execution, backward_step

EXECUTIONS: tuple[Execution, ...] = ("per_module", "joint")
DEPTHS = (3, 6, 12, 24)


class AliveMemory(TorchDispatchMode):
    """Bytes of the storages that operators allocate within the context: `bytes` now, `peak` at most.

    A storage counts once, until its last tensor is deleted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operator and counts its allocations."""
        given = {self._key(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and self._key(leaf) not in given:
                self._count(leaf.untyped_storage())
        self.peak = max(self.peak, self.bytes)
        return result

    @staticmethod
    def _key(tensor: torch.Tensor) -> int:
        return tensor.untyped_storage()._cdata  # noqa: SLF001 - what two tensors of one storage share

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata  # noqa: SLF001
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes()
            self.bytes += self.sizes[key]
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.bytes -= self.sizes.pop(key)


def stack(depth: int, hidden_size: int) -> SimConfig:
    """A model of `depth` convolutional modules that all have the same number of frames."""
    return SimConfig(
        hidden_size=hidden_size,
        context_size=0,
        conv_kernel=[[20], *[[3]] * (depth - 1)],
        conv_stride=[[20], *[[1]] * (depth - 1)],
        conv_padding=[[0], *[[1]] * (depth - 1)],
        kl_weight=1e-3,
    )


def make_step(execution: Execution, depth: int, sizes: dict[str, int]) -> tuple[SimForPreTraining, Any]:
    """A model whose parameters have their gradients, and its forward and backward pass."""
    torch.manual_seed(0)
    model, accelerator = SimForPreTraining(stack(depth, sizes["hidden_size"])).train(), Accelerator(cpu=True)
    inputs = 0.1 * torch.randn(sizes["batch_size"], sizes["crop_samples"])
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def step() -> None:
        backward_step(model, accelerator, inputs, execution=execution, seed=0, step=1)

    step()
    return model, step


def measure(execution: Execution, depth: int, sizes: dict[str, int]) -> dict[str, float]:
    """Megabytes of a step: its activations, and the parts that grow with depth in any execution."""
    model, step = make_step(execution, depth, sizes)
    with AliveMemory() as memory:
        step()
    parameters = sum(parameter.nbytes for parameter in model.parameters())
    return {
        "activations_megabytes": memory.peak / 1e6,
        "parameters_megabytes": parameters / 1e6,
        "gradients_megabytes": parameters / 1e6,
        "optimizer_megabytes": 2 * parameters / 1e6,  # the two moments of Adam
    }


def resident_megabytes(execution: Execution, depth: int, sizes: dict[str, int]) -> float:
    """Peak resident memory of a step beyond that at its start, in a separate process."""
    program = f"from benchmarks.memory import print_resident\nprint_resident({execution!r}, {depth}, {sizes!r})"
    command = [sys.executable, "-c", program]
    finished = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    return float(finished.stdout)


def print_resident(execution: Execution, depth: int, sizes: dict[str, int]) -> None:
    """Runs in the process of `resident_megabytes`."""
    torch.set_num_threads(1)
    print(peak_megabytes(make_step(execution, depth, sizes)[1], torch.device("cpu")))


def by_depth(depths: tuple[int, ...] = DEPTHS, *, resident: bool = False, **sizes: int) -> dict[str, Any]:
    """The figures of every execution, one row per depth."""
    rows: dict[str, Any] = {}
    for execution in EXECUTIONS:
        rows[execution] = {}
        for depth in tqdm(depths, desc=execution):
            rows[execution][str(depth)] = measure(execution, depth, sizes)
            if resident:
                rows[execution][str(depth)]["resident_megabytes"] = resident_megabytes(execution, depth, sizes)
    return {**sizes, "executions": rows}


def table(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    rows = figures["executions"]
    depths = list(rows["per_module"])
    measured = [("activations_megabytes", "activations, {}")]
    if "resident_megabytes" in rows["per_module"][depths[0]]:
        measured.append(("resident_megabytes", "resident memory of the step, {}"))
    lines = [
        "# Memory by depth",
        "",
        (
            f"Memory in MB of a training step on {figures['batch_size']} crops of {figures['crop_samples']} samples, "
            f"for models with more and more modules of {figures['hidden_size']} channels at the same frame rate. The "
            "last column divides the last depth by the first. Made by `python benchmarks/memory.py`."
        ),
        "",
        f"| MB | {' | '.join(f'{depth} modules' for depth in depths)} | x |",
        f"| --- |{' ---: |' * (len(depths) + 1)}",
    ]
    for name, label in measured:
        for execution in rows:
            values = [rows[execution][depth][name] for depth in depths]
            cells = " | ".join(f"{value:.0f}" for value in values)
            lines.append(f"| {label.format(f'`{execution}`')} | {cells} | {values[-1] / values[0]:.2f} |")
    for name in ("parameters", "gradients", "optimizer"):
        values = [rows["per_module"][depth][f"{name}_megabytes"] for depth in depths]
        lines.append(f"| {name} | {' | '.join(f'{v:.0f}' for v in values)} | {values[-1] / values[0]:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs the command."""
    parser = ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--hidden_size", type=int, default=128, help="Channels.")
    parser.add_argument("--batch_size", type=int, default=8, help="Crops per step.")
    parser.add_argument("--crop_samples", type=int, default=20480, help="Samples per crop.")
    parser.add_argument("--resident", action="store_true", help="Also measure resident memory.")
    parser.add_argument("--output", type=output_file, help="JSON file for the results.")
    parser.add_argument("--table", type=output_file, help="Write the table to this Markdown file.")
    arguments = parser.parse_args()
    figures = by_depth(
        resident=arguments.resident,
        hidden_size=arguments.hidden_size,
        batch_size=arguments.batch_size,
        crop_samples=arguments.crop_samples,
    )
    print(table(figures))
    if arguments.output:
        write_json(arguments.output, figures)
    if arguments.table:
        with replacing(arguments.table) as path:
            path.write_text(table(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
