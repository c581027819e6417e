"""Compares exported encoders with PyTorch: file sizes, differences, phone probes, speed.

    python -m benchmarks.export_benchmark runs/librispeech-small LibriSpeech benchmarks/results/export.json

Linear probes predict phones from the frames of each module on the test split. "retrained" probes are fitted to the
frames of the exported encoder, "unchanged" ones to those of PyTorch: they show how much accuracy an existing
classifier loses. Losses are PyTorch's accuracy minus that of the export, with 95 % bootstrap intervals over
utterances. The calibration recordings of "int8, static" are from the training split.
"""

import statistics
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from datasets import Dataset
from tqdm.auto import tqdm

from benchmarks.arguments import output_file, whole_number
from benchmarks.encoding import in_turn
from modeling_sim import SimModel
from modeling_sim.analysis import bootstrap_interval, fit_linear_probe
from modeling_sim.analysis.intervals import bootstrap_difference, confusions
from modeling_sim.data.audio import read_audio
from modeling_sim.data.corpora import load_corpus
from modeling_sim.data.corpora.contract import label_classes
from modeling_sim.evaluation.feature_store import Items
from modeling_sim.evaluation.features import extract
from modeling_sim.evaluation.representations import SimModules, TimedFrames
from modeling_sim.export.folder import ENCODER, STEP, export_folder
from modeling_sim.export.onnx_precision import first_state, next_state, run
from modeling_sim.files import write_json
from modeling_sim.loading import feature_extractor_of, load_encoder
from modeling_sim.provenance import git_revision, versions

NUM_CALIBRATION = 16

L2 = 1e-4


class OnnxModules(SimModules):
    """Frames of the modules of a SIM model, computed by an ONNX file."""

    def __init__(self, name: str, model: SimModel, extractor: Any, path: Path) -> None:
        super().__init__(name, model, extractor)
        self.session = session(path)

    def fingerprint(self) -> Any:
        """The model and the name of the file."""
        return [super().fingerprint(), self.name]

    def encode(self, batch: Mapping[str, Any]) -> dict[str, TimedFrames]:
        """Frames of each module, by its name; their times are those of PyTorch."""
        inputs = {name: batch[name].numpy() for name in ("input_values", "attention_mask")}
        outputs = run(self.session, {**inputs, "attention_mask": inputs["attention_mask"].astype(np.int64)})
        frames = {f"means.{module}": outputs[f"means.{module}"] for module in range(self.model.config.num_conv_modules)}
        if self.model.context is not None:
            frames["context"] = outputs["last_hidden_state"]
        names = self.model.config.module_names
        return {names[module]: self.timed(module, values, batch) for module, values in enumerate(frames.values())}


def session(path: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """Loads a file for the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def probe_losses(
    model: SimModel, extractor: Any, folders: Mapping[str, Path], splits: Mapping[str, Dataset], max_items: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Accuracies of PyTorch's probes, and for each export the losses and the differences of frames, by module."""
    classes = len(label_classes(splits["train"], "phones"))

    def items(representation: SimModules, split: str, cache: str) -> Items:
        most = max_items if split == "train" else None
        return extract(
            splits[split], representation, label="phones", pooling="frame", max_items=most, cache_dir=Path(cache)
        )

    accuracies: dict[str, Any] = {}
    losses: dict[str, Any] = {name: {} for name in folders}
    with tempfile.TemporaryDirectory() as cache:
        plain = SimModules("pytorch", model, extractor)
        exported = {name: OnnxModules(name, model, extractor, folder / ENCODER) for name, folder in folders.items()}
        train, test = (items(plain, split, cache) for split in splits)
        found = {name: [items(of, split, cache) for split in splits] for name, of in exported.items()}

        def cells(probe: Any, features: np.ndarray) -> np.ndarray:
            return confusions(test.labels, probe.predict(features), test.utterances, classes)

        for module in tqdm(train.features, desc="probes"):
            probe = fit_linear_probe(train.features[module], train.labels, classes, l2=L2)
            reference = cells(probe, test.features[module])
            accuracies[module] = vars(bootstrap_interval(reference))
            for name, (own_train, own_test) in found.items():
                retrained = fit_linear_probe(own_train.features[module], own_train.labels, classes, l2=L2)
                features, expected = own_test.features[module], test.features[module]
                losses[name][module] = {
                    "relative_difference": float(np.sqrt(np.square(features - expected).mean() / expected.var())),
                    "retrained": vars(bootstrap_difference(reference, cells(retrained, features))),
                    "unchanged": vars(bootstrap_difference(reference, cells(probe, features))),
                }
    return accuracies, losses


def speeds(model: SimModel, folders: Mapping[str, Path], repeats: int, counts: Sequence[int]) -> list[dict[str, Any]]:
    """Seconds of audio per second, of PyTorch and every export, timed in turn; medians."""
    rows = []
    for threads in counts:
        torch.set_num_threads(threads)
        sessions = {name: session(folder / ENCODER, threads) for name, folder in folders.items()}
        for batch_size, seconds in ((1, 10), (16, 2)):
            audio = 0.1 * torch.randn(batch_size, seconds * model.config.sampling_rate)
            inputs = {"input_values": audio.numpy(), "attention_mask": np.ones(audio.shape, np.int64)}
            calls: dict[str, Callable[[], Any]] = {"pytorch": lambda audio=audio: model(audio)}
            calls |= {name: lambda run=own.run, inputs=inputs: run(None, inputs) for name, own in sessions.items()}
            with torch.inference_mode():
                times = in_turn(calls, repeats)
            medians = {name: statistics.median(values) for name, values in times.items()}
            rows.append(
                {
                    "threads": threads,
                    "batch_size": batch_size,
                    "seconds_of_audio_per_second": {
                        name: batch_size * seconds / median for name, median in medians.items()
                    },
                    "times_as_fast_as_pytorch": {name: medians["pytorch"] / median for name, median in medians.items()},
                }
            )
    torch.set_num_threads(1)
    return rows


def step_times(model: SimModel, folders: Mapping[str, Path], steps: int) -> dict[str, Any]:
    """Milliseconds per step of a stream of 20 ms, on one thread."""
    samples = 2 * model.config.hop_length()
    found = {}
    for name, folder in folders.items():
        step = session(folder / STEP)
        audio = 0.1 * torch.randn(1, samples).numpy()
        inputs, state, times = {"input_values": audio, "attention_mask": np.ones(audio.shape, np.int64)}, None, []
        for _ in range(steps):
            begin = time.perf_counter()
            outputs = run(step, {**inputs, **(state or first_state(step))})
            state = next_state(outputs)
            times.append(1000 * (time.perf_counter() - begin))
        median, tail = (float(np.quantile(times[10:], share)) for share in (0.5, 0.99))
        chunk = 1000 * samples / model.config.sampling_rate
        found[name] = {"median_ms": median, "p99_ms": tail, "times_real_time": chunk / median}
    return found


def main() -> None:
    """Writes the results."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="Checkpoint, a folder or Hub id.")
    parser.add_argument("data_dir", help="Folder of LibriSpeech with alignments.")
    parser.add_argument("output", type=output_file, help="File for the results.")
    parser.add_argument("--train_utterances", type=int, default=1000, help="Maximum utterances to fit probes.")
    parser.add_argument("--test_utterances", type=int, default=1000, help="Maximum utterances to score probes.")
    parser.add_argument("--max_items", type=int, default=40_000, help="Maximum frames to fit a probe.")
    parser.add_argument("--repeats", type=whole_number(1), default=20, help="Timings of each encoder.")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="Numbers of threads to time.")
    parser.add_argument("--steps", type=whole_number(11), default=1000, help="Steps of a stream to time.")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, extractor = load_encoder(arguments.model), feature_extractor_of(arguments.model)
    splits = {split: load_corpus("librispeech", split, data_dir=arguments.data_dir) for split in ("train", "test")}
    for split, most in (("train", arguments.train_utterances), ("test", arguments.test_utterances)):
        splits[split] = splits[split].shuffle(seed=0).select(range(min(most, len(splits[split]))))
    rate = extractor.sampling_rate
    calibration = [
        extractor(read_audio(row["audio"], sampling_rate=rate), sampling_rate=rate)["input_values"][0]
        for row in splits["train"].select(range(NUM_CALIBRATION))
    ]
    with tempfile.TemporaryDirectory() as temporary:
        folders, sizes = {}, {}
        for name, settings in {
            "float32": {},
            "float16": {"dtype": "float16"},
            "int8, dynamic": {"dtype": "int8"},
            "int8, static": {"dtype": "int8", "waveforms": calibration},
        }.items():
            folders[name] = Path(temporary) / name
            sizes[name] = export_folder(model, extractor, folders[name], **settings)
        smaller = {name: folder for name, folder in folders.items() if name != "float32"}  # it equals PyTorch
        accuracies, losses = probe_losses(model, extractor, smaller, splits, arguments.max_items)
        timed = speeds(model, folders, arguments.repeats, arguments.threads)
        steps = step_times(model, folders, arguments.steps)
    write_json(
        arguments.output,
        {
            "parameters": model.num_parameters(),
            "utterances": {split: len(dataset) for split, dataset in splits.items()},
            "bytes": sizes,
            "probe_accuracy": accuracies,
            "probe_losses": losses,
            "speed": timed,
            "stream_step_of_20_ms": steps,
            "versions": {**versions(), "onnxruntime": onnxruntime.__version__},
            "git": git_revision(),
        },
    )


if __name__ == "__main__":
    main()
