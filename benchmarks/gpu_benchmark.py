"""Speed and memory on a GPU: the part "benchmark" of `make gpu`. Each figure is written as soon as it is measured.

A step is complete, forward, backward and Adam, on crops of 0.64 s, like the paper's training on artificial speech. All
formulations and precisions run in one process on the same card, as does the large matrix product whose rate they are
compared with. The loader is compared with the step that it has to supply, and encoding with randomly initialized
wav2vec2-base and HuBERT-base.
"""

import argparse
import contextlib
import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2Model

from benchmarks.gpu import read, write
from benchmarks.gpu_runs import artificial_data
from benchmarks.reading import crops_per_second
from benchmarks.training_step import (
    accelerator_of,
    has_bf16,
    package_step,
    peak_megabytes,
    plain_step,
    seconds_of,
)
from modeling_sim import SimConfig, SimFeatureExtractor, SimModel, layers_sim
from modeling_sim.data.corpora import load_corpus
from modeling_sim.trainer.greedy import EXECUTIONS

CROP_SAMPLES = 10_240


PRECISIONS = ("fp32", "tf32", "bf16")


FORMULATIONS = ("plain", "row products", "torch convolutions")


OUT_OF_MEMORY = "out of memory"


class Benchmark:
    """Figures by name, in order of importance.

    Args:
        device: cuda or cpu.
        bundle: Folder of the audio.
        miniature: Tiny models and few steps, to check that everything runs.
        figures: Figures that have already been measured.
    """

    def __init__(self, device: str, bundle: Path, *, miniature: bool, figures: dict[str, Any]) -> None:
        self.device, self.bundle, self.miniature, self.figures = torch.device(device), bundle, miniature, figures
        self.config = SimConfig.preset("sim", **({"hidden_size": 16, "context_size": 8} if miniature else {}))
        self.batch_sizes = (2, 4) if miniature else (8, 64)
        self.most_crops = 8 if miniature else 65_536
        self.seconds = 0.05 if miniature else 0.6
        self.precisions = [name for name in PRECISIONS if name != "bf16" or has_bf16(self.device)]

    def measurements(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Names and functions of all figures; a function may use earlier figures."""
        yield "card", self.card
        yield "matrix products, TFLOP/s", self.matrix_rates
        yield "GFLOP per crop", self.gigaflop_per_crop
        for batch_size in reversed(self.batch_sizes):
            for precision in self.precisions:
                for form in FORMULATIONS:
                    yield step_name(form, precision, batch_size), self.step(form, precision, batch_size)
        yield "faster convolutions", self.faster_convolutions
        yield "loader, crops per second", self.loader
        yield f"peak MB, batch {self.batch_sizes[-1]}, tf32", self.peaks
        yield "encoding, seconds of audio per second", self.encoding
        for precision in self.precisions[1:]:
            batch_size = self.batch_sizes[-1]
            yield step_name("compiled", precision, batch_size), self.step("compiled", precision, batch_size)
        # Last, as an error of the device in a full memory can end all later measurements of this process.
        yield "largest batch, tf32", self.largest_batch
        yield "step at the largest batch, tf32", self.largest_step

    def card(self) -> dict[str, Any]:
        """The hardware and software."""
        about: dict[str, Any] = {"torch": torch.__version__, "cores": os.cpu_count(), "miniature": self.miniature}
        if self.device.type == "cuda":
            properties = torch.cuda.get_device_properties(self.device)
            about |= {"name": properties.name, "gigabytes": properties.total_memory / 1e9, "cuda": torch.version.cuda}
        return about

    def matrix_rates(self) -> dict[str, float]:
        """Rate of a large matrix product, the best of several, by precision."""
        size = 256 if self.miniature else 8192
        rates = {}
        for name in self.precisions:
            dtype = torch.bfloat16 if name == "bf16" else torch.float32
            left, right = (torch.randn(size, size, device=self.device, dtype=dtype) for _ in range(2))
            with precision(name):
                times = [seconds_of(lambda left=left, right=right: left @ right, self.device) for _ in range(8)]
            rates[name] = 2 * size**3 / min(times) / 1e12
        return rates

    def gigaflop_per_crop(self) -> float:
        """Arithmetic of a step of one crop, in matrix products and convolutions, counted on a CPU."""
        _, step = plain_step(self.config, 0.1 * torch.randn(1, CROP_SAMPLES))
        with FlopCounterMode(display=False) as counter:
            step()
        return counter.get_total_flops() / 1e9

    def step(self, form: str, name: str, batch_size: int) -> Callable[[], dict[str, float]]:
        """A function that times a formulation in a precision."""
        return lambda: self.timed_step(form, name, batch_size)

    def timed_step(self, form: str, name: str, batch_size: int) -> dict[str, float]:
        """Seconds per step, without waiting for the device between steps, and peak memory."""
        with precision(name), self.made_step(form, name, batch_size) as step:
            for _ in range(2):
                step()
            peak = peak_megabytes(step, self.device)
            once = seconds_of(step, self.device)
            count = max(1, min(100, int(self.seconds / once)))

            def steps() -> None:
                for _ in range(count):
                    step()

            seconds = statistics.median(seconds_of(steps, self.device) for _ in range(3)) / count
        rate = 1e12 * self.figures["matrix products, TFLOP/s"][name]
        return {
            "seconds": seconds,
            "crops_per_second": batch_size / seconds,
            "share_of_matrix_rate": 1e9 * self.figures["GFLOP per crop"] * batch_size / seconds / rate,
            "peak_megabytes": peak,
        }

    @contextlib.contextmanager
    def made_step(
        self, form: str, name: str, batch_size: int, execution: str = "per_module"
    ) -> Iterator[Callable[[], Any]]:
        """The step of a formulation; frees its memory afterwards."""
        torch.manual_seed(0)
        inputs = 0.1 * torch.randn(batch_size, CROP_SAMPLES, device=self.device)
        before = set(layers_sim.ROW_PRODUCT_DEVICES)
        if form == "torch convolutions":
            layers_sim.ROW_PRODUCT_DEVICES.discard(self.device.type)
        mixed_precision = "bf16" if name == "bf16" else "no"
        try:
            if form == "plain":
                _, bare = plain_step(self.config, inputs)
                accelerator = accelerator_of(mixed_precision, self.device)

                def step() -> None:
                    with accelerator.autocast():
                        bare()
            else:
                model, step = package_step(self.config, inputs, execution, mixed_precision)
                if form == "compiled":
                    for module in model.sim.conv_modules:
                        module.compile(backend="eager" if self.miniature else "inductor")
            yield step
        finally:
            layers_sim.ROW_PRODUCT_DEVICES.update(before)
            free_memory(self.device)

    def faster_convolutions(self) -> dict[str, Any]:
        """Time of torch's convolutions divided by that of row products, and which of them to train with."""
        ratios = {}
        for batch_size in self.batch_sizes:
            for name in self.precisions:
                rows, own = (
                    self.figures.get(step_name(form, name, batch_size), {}).get("seconds") for form in FORMULATIONS[1:]
                )
                if rows and own:
                    ratios[f"{name}, batch {batch_size}"] = own / rows
        deciding = ratios.get(f"tf32, batch {self.batch_sizes[-1]}", 1.0)
        return {"choice": "row products" if deciding >= 1 else "torch", **ratios}

    def loader(self) -> dict[str, float]:
        """Crops per second of loaders: decoding, with reader processes, and from memory."""
        corpus, settings = artificial_data(self.bundle, miniature=self.miniature)
        dataset, extractor = load_corpus(corpus, "train", **settings), SimFeatureExtractor()
        batch_size = self.batch_sizes[-1]
        common = {"crop_samples": CROP_SAMPLES, "batch_size": batch_size, "num_batches": 4 if self.miniature else 40}
        rates = {"from memory": crops_per_second(dataset, extractor, keep_in_memory=True, **common)}
        most = (os.cpu_count() or 1) if self.device.type == "cuda" else 1
        for workers in (0, 1, 2, 4, 8, 16):
            if workers <= most:
                rates[f"{workers} workers"] = crops_per_second(dataset, extractor, num_workers=workers, **common)
        return rates

    def peaks(self) -> dict[str, float]:
        """Peak memory of a step beyond that at its start, by execution."""
        found = {}
        with precision("tf32"):
            for execution in ("plain", *EXECUTIONS[:3]):
                form = "plain" if execution == "plain" else "row products"
                with self.made_step(form, "tf32", self.batch_sizes[-1], execution) as step:
                    step()
                    found[execution] = peak_megabytes(step, self.device)
        return found

    def largest_batch(self) -> int:
        """Largest batch that fits into memory, to within a sixteenth, by doubling and then bisecting."""

        def fits(batch_size: int) -> bool:
            try:
                with precision("tf32"), self.made_step("row products", "tf32", batch_size) as step:
                    step()
                    if self.device.type == "cuda":
                        torch.cuda.synchronize()
            except torch.OutOfMemoryError:
                return False
            except RuntimeError as error:  # cuBLAS and cuDNN have errors of their own for a full memory
                if "ALLOC_FAILED" not in str(error) and "out of memory" not in str(error):
                    raise
                return False
            finally:
                free_memory(self.device)
            return True

        return largest(fits, self.batch_sizes[-1], self.most_crops)

    def largest_step(self) -> dict[str, float]:
        """The step at three quarters of the largest batch, which leaves room for fragmentation."""
        batch_size = max(1, 3 * self.figures["largest batch, tf32"] // 4)
        return {"batch": batch_size, **self.timed_step("row products", "tf32", batch_size)}

    @torch.inference_mode()
    def encoding(self) -> dict[str, float]:
        """Seconds of audio per second of untrained encoders."""
        small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        sizes = small if self.miniature else {}
        models: dict[str, Callable[[], torch.nn.Module]] = {
            "sim": lambda: SimModel(self.config),
            "wav2vec2-base": lambda: Wav2Vec2Model(Wav2Vec2Config(**sizes)),
            "hubert-base": lambda: HubertModel(HubertConfig(**sizes)),
        }
        samples = 16_000 if self.miniature else 160_000
        audio = 0.1 * torch.randn(self.batch_sizes[0], samples, device=self.device)
        rates = {}
        for model_name, make in models.items():
            torch.manual_seed(0)
            model = make().eval().to(self.device)
            for name in self.precisions:
                typed = model.to(torch.bfloat16 if name == "bf16" else torch.float32)
                inputs = audio.to(typed.dtype)
                with precision(name):
                    times = [
                        seconds_of(lambda typed=typed, inputs=inputs: typed(inputs), self.device) for _ in range(6)
                    ]
                rates[f"{model_name}, {name}"] = audio.numel() / 16_000 / statistics.median(times[2:])
            del model, typed
            free_memory(self.device)
        return rates


def step_name(form: str, name: str, batch_size: int) -> str:
    """Name of the figure of a step."""
    return f"step batch {batch_size}, {name}, {form}"


def largest(fits: Callable[[int], bool], start: int, limit: int) -> int:
    """Largest number up to `limit` for which `fits` is true, with a precision of a sixteenth; 0 if there is none."""
    low, high = 0, limit + 1
    number = min(start, limit)
    while high - low > max(1, low // 16):
        if fits(number):
            low = number
        else:
            high = number
        number = min(2 * low, limit) if high > limit else (low + high) // 2
        if low == limit:
            break
    return low


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """Computes float32 products in full precision or TF32; bf16 is set by autocast."""
    matrix, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest" if name == "fp32" else "high")
    torch.backends.cudnn.allow_tf32 = name != "fp32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matrix)
        torch.backends.cudnn.allow_tf32 = convolution


def free_memory(device: torch.device) -> None:
    """Frees a device's memory."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def measure(benchmark: Benchmark, path: Path) -> None:
    """Measures all missing figures and writes the file after each; an error is recorded as the figure's value."""
    for name, function in benchmark.measurements():
        known = benchmark.figures.get(name)
        if known is not None and not (isinstance(known, dict) and "error" in known):
            continue
        started = time.perf_counter()
        try:
            benchmark.figures[name] = function()
        except torch.OutOfMemoryError:
            benchmark.figures[name] = {"error": OUT_OF_MEMORY}
        except Exception as error:  # noqa: BLE001 - the figures after it are wanted all the same
            lines = str(error).strip().splitlines() or [""]
            benchmark.figures[name] = {"error": f"{type(error).__name__}: {lines[0]}"}
        write(path, benchmark.figures)
        print(f"{name}: {benchmark.figures[name]} ({time.perf_counter() - started:.1f} s)", flush=True)
        free_memory(benchmark.device)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the part."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("device", "work", "out", "bundle"):
        parser.add_argument(f"--{name}", required=True)
    arguments = parser.parse_args(argv)
    path = Path(arguments.work) / "benchmark.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    miniature = arguments.device == "cpu"
    measure(Benchmark(arguments.device, Path(arguments.bundle), miniature=miniature, figures=read(path)), path)


if __name__ == "__main__":
    main()
