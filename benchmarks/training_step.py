"""Compares the time of a training step of this package with a plain implementation, in one run.

    python benchmarks/training_step.py

Both take the same input and do a complete step: forward, backward, Adam. They alternate, so that changes of the
machine's speed affect both; quote the ratio. "Saved" is the peak memory that autograd saves for the backward pass,
without parameters; "peak" is the memory of the step beyond that at its start: allocated memory on a GPU, resident
memory on Linux. The bound is the time of the step's matrix products at the rate of one large product of the same
precision. All but "bf16", which is `per_module` in bfloat16, are in float32. On a CPU, times are measured with the
settings of the trainer for memory and denormal numbers, which help the plain implementation more; the ratio without
them is reported too, and memory is measured without them.

`sequential` trains every module for one step, each on the output of the finished modules below, which is the same
amount of training as a step of the others. `pipeline` runs in separate processes that share the CPU threads, or use one
GPU each; its saved memory is that of its largest stage.

With `--data_dir`, a LibriSpeech folder, it also measures reading (a crop, found by seeking, compared with its complete
file, and crops per second of loaders with 0, 1 and 2 workers), and compares the trainer, including data, with the bare
step.
"""

import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from benchmarks.arguments import output_file, whole_number
from benchmarks.plain_sim import PlainSim
from benchmarks.reading import crop_against_file, crops_per_second
from modeling_sim import SimConfig, SimFeatureExtractor, SimForPreTraining
from modeling_sim.data.corpora import load_corpus
from modeling_sim.files import write_json
from modeling_sim.settings import HelpFormatter
from modeling_sim.trainer import pretraining as pretrain
from modeling_sim.trainer.devices import prepare_cpu
from modeling_sim.trainer.greedy import EXECUTIONS, Execution, backward_step, train_only
from modeling_sim.trainer.loop import training_step
from modeling_sim.trainer.pipeline import measure_costs
from modeling_sim.trainer.run import prepare
from modeling_sim.trainer.settings import DataArguments, ModelArguments, PretrainingArguments


class SavedMemory:
    """Bytes that autograd saves for backward passes; `peak` is the maximum within the context.

    Tensors that share memory are counted once; parameters are not counted.
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
    """A tensor that autograd saved; it is counted until autograd releases it."""

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


def has_bf16(device: torch.device) -> bool:
    """Whether a device has bfloat16; on a CPU it always works, if not always fast."""
    return device.type == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)


def accelerator_of(precision: str, device: torch.device) -> Accelerator:
    """An accelerator with a mixed precision of its own: "no" or "bf16"."""
    AcceleratorState._reset_state(reset_partial_state=True)  # noqa: SLF001 - accelerators of a process share it
    return Accelerator(mixed_precision=precision, cpu=device.type == "cpu")


def package_step(
    config: SimConfig, inputs: torch.Tensor, execution: Execution, precision: str = "no"
) -> tuple[torch.nn.Module, Callable[[], Any]]:
    """A model of this package and its training step."""
    accelerator = accelerator_of(precision, inputs.device)
    model = SimForPreTraining(config).to(inputs.device).train()
    modules = range(config.num_modules)
    optimizers = [torch.optim.AdamW(model.module_parameters(m), lr=2e-4, weight_decay=0.0, fused=True) for m in modules]
    steps = iter(range(1, 1_000_000))
    stages = [range(m, m + 1) for m in modules] if execution == "sequential" else [modules]

    def step() -> None:
        number = next(steps)
        for trained in stages:
            train_only(model, trained)
            backward_step(model, accelerator, inputs, execution=execution, seed=0, step=number, trained=trained)
            for module in trained:
                optimizers[module].step()
                optimizers[module].zero_grad()

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


def peak_megabytes(step: Callable[[], Any], device: torch.device) -> float:
    """Peak memory of a call beyond that in use before it; NaN if neither CUDA nor Linux reports it."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # memory freed by earlier calls would hide that of this call
    reset.write_text("5")  # resets the peak to the memory in use
    before = _kilobytes(status, "VmRSS")
    step()
    return (_kilobytes(status, "VmHWM") - before) / 1e3


def _kilobytes(status: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(f"{name}:"))


def seconds_of(step: Callable[[], Any], device: torch.device) -> float:
    """Wall-clock time of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def matrix_product_rate(
    device: torch.device, dtype: torch.dtype = torch.float32, size: int = 3072, repeats: int = 5
) -> float:
    """Floating-point operations per second of a large matrix product, the best of several."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    left @ right
    return max(2 * size**3 / seconds_of(lambda: left @ right, device) for _ in range(repeats))


def benchmark(
    config: SimConfig,
    executions: Sequence[Execution] = ("joint", "per_module", "sequential"),
    *,
    batch_size: int,
    crop_samples: int,
    steps: int,
    device: str,
) -> dict[str, Any]:
    """Runs all steps and returns their results, one dict per execution, the plain implementation first.

    With `per_module` among the executions, "bf16" is its step in bfloat16, where the device has it.
    """
    torch.manual_seed(0)
    inputs = 0.1 * torch.randn(batch_size, crop_samples, device=device)
    ways: dict[str, tuple[torch.nn.Module, Callable[[], Any]]] = {"plain": plain_step(config, inputs)}
    ways |= {execution: package_step(config, inputs, execution) for execution in executions}
    if "per_module" in executions and has_bf16(inputs.device):
        ways["bf16"] = package_step(config, inputs, "per_module", "bf16")

    saved, peak, seconds = {}, {}, {way: [] for way in ways}
    with FlopCounterMode(display=False) as counter:
        ways["plain"][1]()
    for way, (model, step) in ways.items():
        with SavedMemory(model) as memory:
            step()
        saved[way] = memory.peak
        peak[way] = peak_megabytes(step, inputs.device)
    without_settings = None
    if inputs.device.type == "cpu":
        if "per_module" in ways:
            pairs = [[seconds_of(ways[way][1], inputs.device) for way in ("plain", "per_module")] for _ in range(steps)]
            without_settings = statistics.median(plain / own for plain, own in pairs)
        prepare_cpu()  # as the trainer does
    rates: dict[torch.dtype, list[float]] = {torch.float32: []} | ({torch.bfloat16: []} if "bf16" in ways else {})
    for _ in tqdm(range(steps), desc="rounds"):
        for way, (_, step) in ways.items():
            seconds[way].append(seconds_of(step, inputs.device))
        for dtype, measured in rates.items():
            measured.append(matrix_product_rate(inputs.device, dtype))

    flops, rate = counter.get_total_flops(), {dtype: statistics.median(measured) for dtype, measured in rates.items()}
    rows = {}
    for way in ways:
        median = statistics.median(seconds[way])
        # Ratios per pair, in which the machine was in the same state.
        speedups = [plain / own for plain, own in zip(seconds["plain"], seconds[way], strict=True)]
        rows[way] = {
            "seconds_per_step": median,
            "samples_per_second": batch_size / median,
            "throughput_against_plain": statistics.median(speedups),
            "saved_megabytes": saved[way] / 1e6,
            "saved_against_plain": saved[way] / saved["plain"],
            "peak_megabytes": peak[way],
            "share_of_bound": flops / rate[torch.bfloat16 if way == "bf16" else torch.float32] / median,
        }
    model, accelerator = SimForPreTraining(config).to(inputs.device), accelerator_of("no", inputs.device)
    costs = measure_costs(model, accelerator, batch_size=batch_size, crop_samples=crop_samples)
    return {
        "module_share": {name: cost / sum(costs) for name, cost in zip(config.module_names, costs, strict=True)},
        "device": str(inputs.device),
        "threads": torch.get_num_threads(),
        "batch_size": batch_size,
        "crop_samples": crop_samples,
        "gigaflop_per_sample": flops / batch_size / 1e9,
        "matrix_product_gigaflops": rate[torch.float32] / 1e9,
        "bf16_matrix_product_gigaflops": rate[torch.bfloat16] / 1e9 if "bf16" in ways else None,
        "per_module_against_plain_without_settings": without_settings,
        "bound_samples_per_second": batch_size * rate[torch.float32] / flops,
        "ways": rows,
    }


def benchmark_pipeline(
    figures: dict[str, Any], preset: str, *, processes: int, crop_samples: int, steps: int
) -> dict[str, Any]:
    """Figures of a pipeline in `processes` processes, in the form of those of `benchmark`."""
    threads, batch_size = figures["threads"], figures["batch_size"]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "figures.json"
        launch = f"-m torch.distributed.run --standalone --nproc_per_node {processes} -m benchmarks.pipeline"
        flags = f"--preset {preset} --batch_size {batch_size} --crop_samples {crop_samples} --steps {steps}"
        command = [sys.executable, *launch.split(), str(output), *flags.split()]
        environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, threads // processes))}
        if figures["device"] == "cpu":
            environment["ACCELERATE_USE_CPU"] = "true"
        subprocess.run(command, check=True, env=environment, cwd=Path(__file__).parent.parent)
        measured = json.loads(output.read_text())
    seconds = measured["seconds_per_step"]
    plain = figures["ways"]["plain"]
    return {
        **measured,
        "samples_per_second": batch_size / seconds,
        "throughput_against_plain": plain["seconds_per_step"] / seconds,
        "share_of_bound": plain["share_of_bound"] * plain["seconds_per_step"] / seconds,
    }


def benchmark_trainer(preset: str, data_dir: str, *, batch_size: int, crop_samples: int, steps: int) -> float:
    """Throughput of the trainer's step, including data, divided by that of the bare step; the median over pairs."""
    torch.manual_seed(0)
    _, bare = package_step(SimConfig.preset(preset), 0.1 * torch.randn(batch_size, crop_samples), "per_module")
    with tempfile.TemporaryDirectory() as folder:
        groups = (
            ModelArguments(preset=preset, model_settings={}),
            DataArguments(corpus="librispeech", data_dir=data_dir, corpus_settings={}, crop_samples=crop_samples),
            PretrainingArguments(output_dir=folder, batch_size=batch_size, max_steps=steps + 1),
        )
        run = prepare(accelerator_of("no", torch.device("cpu")), groups, pretrain.build)
        run.trained_parts = run.task.begin_stage(0, 0)
        batches = iter(run.task.batches(0))
        device, ratios = run.accelerator.device, []
        for step in tqdm(range(1, steps + 2), desc="trainer against bare step"):
            own = seconds_of(lambda step=step: training_step(run, batches, step), device)
            ratio = seconds_of(bare, device) / own
            if step > 1:
                ratios.append(ratio)
    return statistics.median(ratios)


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
        f"complete file: {figures['file_milliseconds']:.2f} ms\ncrops per second by worker processes: {speeds}"
    )


def table(figures: dict[str, Any]) -> str:
    """The figures as text."""
    run = f"{figures['device']}, {figures['threads']} threads, batch {figures['batch_size']} of"
    arithmetic = f"{figures['gigaflop_per_sample']:.1f} GFLOP per sample"
    rate = f"{figures['matrix_product_gigaflops']:.0f} GFLOP/s"
    if figures["bf16_matrix_product_gigaflops"]:
        rate += f" (bf16: {figures['bf16_matrix_product_gigaflops']:.0f})"
    memory_header = f"{'saved MB':>10}{'x plain':>9}{'peak MB':>9}"
    lines = [
        f"{run} {figures['crop_samples']} samples",
        f"{arithmetic} at the {rate} of a large matrix product: {figures['bound_samples_per_second']:.2f} samples/s",
        "",
        f"{'':<12}{'s/step':>8}{'samples/s':>11}{'x plain':>9}{memory_header}{'of bound':>10}",
    ]
    for way, row in figures["ways"].items():
        memory = "".join(
            f"{format(row[name], form) if name in row else '-':>{width}}"
            for name, form, width in (
                ("saved_megabytes", ".0f", 10),
                ("saved_against_plain", ".2f", 9),
                ("peak_megabytes", ".0f", 9),
            )
        )
        lines.append(
            f"{way:<12}{row['seconds_per_step']:>8.2f}{row['samples_per_second']:>11.2f}"
            f"{row['throughput_against_plain']:>9.2f}{memory}{row['share_of_bound']:>10.0%}"
        )
    shares = ", ".join(f"{name} {share:.0%}" for name, share in figures["module_share"].items())
    fastest = 1 / max(figures["module_share"].values())
    ratio = figures["per_module_against_plain_without_settings"]
    lines += ["", f"without the settings of the trainer, per_module is {ratio:.2f} x plain"] if ratio else []
    lines += ["", f"time by module: {shares}; one process per module is at most {fastest:.1f} x as fast"]
    for way, row in figures["ways"].items():
        if "stages" in row:
            stages = " | ".join(", ".join(stage) for stage in row["stages"])
            lines.append(f"stages of the {way}: {stages}")
    return "\n".join(lines)


def add_step_arguments(parser: ArgumentParser, *, rounds: int) -> None:
    """Adds the flags of steps that are timed in turn; `rounds` is the default number."""
    parser.add_argument("--batch_size", type=int, default=8, help="Crops per step.")
    parser.add_argument("--crop_samples", type=int, default=20480, help="Samples per crop.")
    parser.add_argument(
        "--rounds", type=whole_number(1), default=rounds, help="Timed steps per execution, after one warm-up step."
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads.")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")


def main() -> None:
    """Runs the command."""
    parser = ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--preset", default="sim", help="A preset of SimConfig with Gaussian latents.")
    parser.add_argument(
        "--execution", default="all", help=f"Executions to time: {', '.join(EXECUTIONS)}, several as 'a,b', or all."
    )
    parser.add_argument("--processes", type=int, default=2, help="Processes of the pipeline.")
    add_step_arguments(parser, rounds=5)
    parser.add_argument("--data_dir", help="LibriSpeech folder; also measures the reading of crops.")
    parser.add_argument("--output", type=output_file, help="JSON file for the results.")
    arguments = parser.parse_args()
    executions = list(EXECUTIONS) if arguments.execution == "all" else arguments.execution.split(",")
    unknown = [execution for execution in executions if execution not in EXECUTIONS]
    if unknown:
        parser.error(f"--execution {unknown[0]}: choose all or some of {', '.join(EXECUTIONS)}")
    torch.set_num_threads(arguments.threads)
    figures = benchmark(
        SimConfig.preset(arguments.preset),
        [execution for execution in executions if execution != "pipeline"],
        batch_size=arguments.batch_size,
        crop_samples=arguments.crop_samples,
        steps=arguments.rounds,
        device=arguments.device,
    )
    if "pipeline" in executions:
        figures["ways"]["pipeline"] = benchmark_pipeline(
            figures,
            arguments.preset,
            processes=arguments.processes,
            crop_samples=arguments.crop_samples,
            steps=2 * arguments.rounds,
        )
    print(table(figures))
    if arguments.data_dir:
        figures["trainer_against_bare_step"] = benchmark_trainer(
            arguments.preset,
            arguments.data_dir,
            batch_size=arguments.batch_size,
            crop_samples=arguments.crop_samples,
            steps=2 * arguments.rounds,
        )
        print(f"\nthe trainer, data included: {figures['trainer_against_bare_step']:.0%} of the bare step's throughput")
        figures["reading"] = benchmark_reading(
            arguments.data_dir, batch_size=arguments.batch_size, crop_samples=arguments.crop_samples
        )
        print(reading_table(figures["reading"]))
    if arguments.output:
        write_json(arguments.output, figures)


if __name__ == "__main__":
    main()
