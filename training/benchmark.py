"""Times a training step of this package against a plain formulation of the same mathematics, in one run.

    python training/benchmark.py

Both take the same input and do a full step: forward, backward, Adam. They alternate, so that a machine whose speed
drifts slows both; the ratio is the figure to quote. Memory is what autograd saves for the backward pass at one time,
parameters left out. The bound is arithmetic: the step's matrix products at the rate of one large product.

With `--data_dir`, a LibriSpeech tree, it also times reading: a crop, which is sought, against its whole file, and the
crops a second that loaders with 0, 1 and 2 workers deliver, beside the crops a second that the step consumes.
"""

import statistics
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from modeling_sim import SimConfig, SimFeatureExtractor, SimForPreTraining
from training.arguments import HelpFormatter
from training.corpora import load_corpus
from training.files import write_json
from training.greedy import EXECUTIONS, Execution, backward_step
from training.plain_formulation import PlainSim
from training.reading_speed import crop_against_file, crops_per_second


class SavedMemory:
    """Bytes that autograd holds for backward passes: `peak` is the most at any time while the context is entered.

    Tensors that share memory count once; parameters do not count.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        self.held: Counter[int] = Counter()
        self.bytes = self.peak = 0
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda saved: saved.tensor)

    def __enter__(self) -> Self:
        self.hooks.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self.hooks.__exit__(*exception)

    def _pack(self, tensor: torch.Tensor) -> "_Saved":
        return _Saved(self, tensor)


class _Saved:
    """A tensor that autograd saved; it is counted until autograd lets go of it."""

    def __init__(self, memory: SavedMemory, tensor: torch.Tensor) -> None:
        # A detached alias: holding an output of the graph itself would keep the graph alive.
        self.memory, self.tensor = memory, tensor.detach()
        self.storage = tensor.untyped_storage().data_ptr()
        if self.storage not in memory.parameters:
            memory.held[self.storage] += 1
            if memory.held[self.storage] == 1:
                memory.bytes += tensor.untyped_storage().nbytes()
                memory.peak = max(memory.peak, memory.bytes)

    def __del__(self) -> None:
        if self.memory.held[self.storage]:
            self.memory.held[self.storage] -= 1
            if not self.memory.held[self.storage]:
                self.memory.bytes -= self.tensor.untyped_storage().nbytes()


def package_step(
    config: SimConfig, inputs: torch.Tensor, execution: Execution
) -> tuple[torch.nn.Module, Callable[[], Any]]:
    """A model of this package and its training step."""
    accelerator = Accelerator()
    model = SimForPreTraining(config).to(inputs.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4, weight_decay=0.0, fused=True)
    steps = iter(range(1, 1_000_000))

    def step() -> None:
        backward_step(model, accelerator, inputs, execution=execution, seed=0, step=next(steps))
        optimizer.step()
        optimizer.zero_grad()

    return model, step


def plain_step(config: SimConfig, inputs: torch.Tensor) -> tuple[torch.nn.Module, Callable[[], Any]]:
    """The plain formulation and its training step."""
    model = PlainSim(config).to(inputs.device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4)

    def step() -> None:
        model(inputs).backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, step


def seconds_of(step: Callable[[], Any], device: torch.device) -> float:
    """Wall-clock time of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def matrix_product_rate(device: torch.device, size: int = 3072, repeats: int = 5) -> float:
    """Floating-point operations a second of a large float32 matrix product, the best of some."""
    left, right = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    left @ right
    return max(2 * size**3 / seconds_of(lambda: left @ right, device) for _ in range(repeats))


def benchmark(config: SimConfig, *, batch_size: int, crop_samples: int, steps: int, device: str) -> dict[str, Any]:
    """Runs all steps and returns their figures, one dict a way to run the step, the plain formulation first."""
    torch.manual_seed(0)
    inputs = 0.1 * torch.randn(batch_size, crop_samples, device=device)
    ways: dict[str, tuple[torch.nn.Module, Callable[[], Any]]] = {"plain": plain_step(config, inputs)}
    ways |= {execution: package_step(config, inputs, execution) for execution in EXECUTIONS}

    saved, seconds = {}, {way: [] for way in ways}
    with FlopCounterMode(display=False) as counter:
        ways["plain"][1]()
    for way, (model, step) in ways.items():
        with SavedMemory(model) as memory:
            step()
        saved[way] = memory.peak
    rates = []
    for _ in tqdm(range(steps), desc="rounds"):
        for way, (_, step) in ways.items():
            seconds[way].append(seconds_of(step, inputs.device))
        rates.append(matrix_product_rate(inputs.device))

    flops, rate = counter.get_total_flops(), statistics.median(rates)
    rows = {}
    for way in ways:
        median = statistics.median(seconds[way])
        # Pair by pair: both of a pair met the machine in the same state.
        speedups = [plain / own for plain, own in zip(seconds["plain"], seconds[way], strict=True)]
        rows[way] = {
            "seconds_per_step": median,
            "samples_per_second": batch_size / median,
            "throughput_against_plain": statistics.median(speedups),
            "saved_megabytes": saved[way] / 1e6,
            "saved_against_plain": saved[way] / saved["plain"],
            "share_of_bound": flops / rate / median,
        }
    return {
        "device": str(inputs.device),
        "threads": torch.get_num_threads(),
        "batch_size": batch_size,
        "crop_samples": crop_samples,
        "gigaflop_per_sample": flops / batch_size / 1e9,
        "matrix_product_gigaflops": rate / 1e9,
        "bound_samples_per_second": batch_size * rate / flops,
        "ways": rows,
    }


def benchmark_reading(data_dir: str, *, batch_size: int, crop_samples: int) -> dict[str, Any]:
    """Figures of reading crops of a LibriSpeech tree."""
    dataset = load_corpus("librispeech", "all", data_dir=data_dir)
    longest = int(np.argmax(dataset["num_samples"]))
    extractor = SimFeatureExtractor()
    return {
        **crop_against_file(dataset[longest]["audio"], crop_samples=crop_samples),
        "crops_per_second": {
            workers: crops_per_second(
                dataset, extractor, crop_samples=crop_samples, batch_size=batch_size, num_workers=workers
            )
            for workers in (0, 1, 2)
        },
    }


def reading_table(figures: dict[str, Any]) -> str:
    """The figures of reading as text."""
    speeds = ", ".join(f"{speed:.0f} with {workers}" for workers, speed in figures["crops_per_second"].items())
    return (
        f"\nreading a crop of a file of {figures['file_seconds']:.1f} s: {figures['crop_milliseconds']:.2f} ms; the "
        f"whole file: {figures['file_milliseconds']:.2f} ms\ncrops a second by worker processes: {speeds}"
    )


def table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    run = f"{figures['device']}, {figures['threads']} threads, batch {figures['batch_size']} of"
    arithmetic = f"{figures['gigaflop_per_sample']:.1f} GFLOP a sample"
    rate = f"{figures['matrix_product_gigaflops']:.0f} GFLOP/s"
    lines = [
        f"{run} {figures['crop_samples']} samples, float32",
        f"{arithmetic} at the {rate} of a large matrix product: {figures['bound_samples_per_second']:.2f} samples/s",
        "",
        f"{'':<12}{'s/step':>8}{'samples/s':>11}{'x plain':>9}{'saved MB':>10}{'x plain':>9}{'of bound':>10}",
    ]
    for way, row in figures["ways"].items():
        lines.append(
            f"{way:<12}{row['seconds_per_step']:>8.2f}{row['samples_per_second']:>11.2f}"
            f"{row['throughput_against_plain']:>9.2f}{row['saved_megabytes']:>10.0f}"
            f"{row['saved_against_plain']:>9.2f}{row['share_of_bound']:>10.0%}"
        )
    return "\n".join(lines)


def main() -> None:
    """Runs the command."""
    parser = ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--preset", default="sim", help="A preset of SimConfig with Gaussian latents.")
    parser.add_argument("--batch_size", type=int, default=8, help="Crops a step.")
    parser.add_argument("--crop_samples", type=int, default=20480, help="Samples a crop.")
    parser.add_argument("--rounds", type=int, default=5, help="Timed steps of each way, after one untimed.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads.")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--data_dir", help="A LibriSpeech tree; times the reading of crops as well.")
    parser.add_argument("--output", help="Write the figures to this JSON file.")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    figures = benchmark(
        SimConfig.preset(arguments.preset),
        batch_size=arguments.batch_size,
        crop_samples=arguments.crop_samples,
        steps=arguments.rounds,
        device=arguments.device,
    )
    print(table(figures))
    if arguments.data_dir:
        figures["reading"] = benchmark_reading(
            arguments.data_dir, batch_size=arguments.batch_size, crop_samples=arguments.crop_samples
        )
        print(reading_table(figures["reading"]))
    if arguments.output:
        write_json(arguments.output, figures)


if __name__ == "__main__":
    main()
