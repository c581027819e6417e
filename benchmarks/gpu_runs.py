"""Training runs at the paper's size and their probes: the parts "runs" and "probes" of `make gpu`.

SIM, GIM and CPC on the paper's artificial speech with its published settings (10,000 steps of 64 crops), SIM once more
with batch normalization, and SIM on LibriSpeech. Float32 products are in TF32, recordings are kept in memory, and the
convolutions are those that the part "benchmark" found faster; nothing else differs from the settings files. A run that
is stopped resumes from its checkpoint. Encoders are written in bfloat16, as NAME.safetensors with their configuration;

    python -m benchmarks.gpu_runs unpack sim-artificial.safetensors runs/sim-artificial-bf16

converts one to a folder for `from_pretrained`.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from benchmarks.gpu import FILE_LIMIT, ROOT, read, write
from modeling_sim import SimConfig, SimFeatureExtractor, SimForPreTraining, SimModel
from modeling_sim.files import replacing
from modeling_sim.trainer.checkpoints import find_checkpoint


@dataclass
class PaperRun:
    """A training run.

    Args:
        name: Name of the folder and the weights.
        config: Settings file of the package.
        corpus: "artificial_speech" or "librispeech".
        flags: Settings that differ from the file's.
        max_steps: Number of steps.
    """

    name: str
    config: str
    corpus: str
    flags: list[str] = field(default_factory=list)
    max_steps: int = 10_000


RUNS = [
    PaperRun("sim-artificial", "paper/sim_artificial.yaml", "artificial_speech"),
    PaperRun("gim-artificial", "paper/gim_artificial.yaml", "artificial_speech"),
    PaperRun("cpc-artificial", "paper/cpc_artificial.yaml", "artificial_speech"),
    PaperRun(
        "sim-artificial-batch-norm",
        "paper/sim_artificial.yaml",
        "artificial_speech",
        ["--model_settings", "{use_batch_norm: true}"],
    ),
    PaperRun(
        "sim-librispeech",
        "paper/sim_librispeech.yaml",
        "librispeech",
        ["--batch_size", "64", "--num_train_epochs", "0", "--eval_steps", "1000"],
        max_steps=20_000,
    ),
]


PARALLEL = 3
"""Number of runs at a time on one GPU: per step, one CPU core works about as long as the GPU."""


_MINIATURE = ["--eval_steps", "0", "--save_steps", "2", "--logging_steps", "2", "--batch_size", "4"]


def artificial_data(bundle: Path, *, miniature: bool = False) -> tuple[str, dict[str, Any]]:
    """Corpus and settings of the artificial speech of a bundle; a rehearsal uses a few synthetic syllables."""
    if miniature:
        return "synthetic_syllables", {"num_train": 16, "num_test": 8}
    return "artificial_speech", {"data_dir": str(bundle / "data" / "artificial_speech")}


# ---------------------------------------------------------------------- training


class Training:
    """Runs that are trained, some at a time, until all are finished or SIGTERM is received.

    Args:
        device: "cuda", or "cpu" for runs in miniature.
        work: Folder of the runs' folders and of `runs.json`.
        out: Folder for the weights.
        bundle: Folder of the audio.
    """

    def __init__(self, device: str, work: Path, out: Path, bundle: Path) -> None:
        self.device, self.work, self.out, self.bundle = device, work, out, bundle
        self.miniature = device == "cpu"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.stopping = False
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stopping = True
        for process in self.processes.values():
            process.terminate()

    def command(self, run: PaperRun) -> list[str]:
        """The command that trains a run, or resumes it."""
        choice = read(self.work / "benchmark.json").get("faster convolutions", {}).get("choice", "row products")
        flags = ["--config", run.config, "--output_dir", str(self.work / "runs" / run.name), "--keep_in_memory", "true"]
        settings: dict[str, Any] = {"data_dir": str(self.bundle / "data" / run.corpus)}
        if run.corpus == "artificial_speech":
            corpus, settings = artificial_data(self.bundle, miniature=self.miniature)
            flags += ["--corpus", corpus]
        data_dir = settings.pop("data_dir", None)
        flags += ["--data_dir", data_dir] if data_dir else ["--corpus_settings", json.dumps(settings)]
        flags += [*run.flags, "--max_steps", str(self.steps(run))]
        if self.miniature:
            flags += _MINIATURE
            changes = dict.fromkeys(["hidden_size", "context_size"], 16)
            if "--model_settings" in run.flags:
                changes["use_batch_norm"] = True
            flags += ["--model_settings", json.dumps(changes)]
        return [sys.executable, "-m", "benchmarks.gpu_runs", "train", choice, *flags]

    def has_data(self, run: PaperRun) -> bool:
        """Whether the audio of a run is available; a rehearsal generates artificial speech."""
        own = self.miniature and run.corpus == "artificial_speech"
        return own or (self.bundle / "data" / run.corpus).is_dir()

    def steps(self, run: PaperRun) -> int:
        """Steps of a run."""
        return 4 if self.miniature else run.max_steps

    def all(self) -> None:
        """Trains all runs and writes their weights, also those of stopped runs."""
        waiting = []
        environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // (PARALLEL + 1))), **os.environ}
        for run in RUNS:
            if not self.has_data(run):
                print(f"{run.name}: skipped, {self.bundle} has no data/{run.corpus}", flush=True)
            elif not (self.work / "runs" / run.name / "results.json").is_file():
                waiting.append(run)
        while (waiting or self.processes) and not (self.stopping and not self.processes):
            while waiting and len(self.processes) < PARALLEL and not self.stopping:
                run = waiting.pop(0)
                log = self.work / "logs" / f"run-{run.name}.log"
                log.parent.mkdir(parents=True, exist_ok=True)
                with log.open("ab") as file:
                    self.processes[run.name] = subprocess.Popen(
                        self.command(run), cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=environment
                    )
                print(f"{run.name}: started", flush=True)
            for name, process in list(self.processes.items()):
                if process.poll() is not None:
                    del self.processes[name]
                    print(f"{name}: ended with code {process.returncode}", flush=True)
                    self.write_weights(name)
            self.report()
            time.sleep(0.2)
        if not self.stopping and any(state["state"] != "finished" for state in self.report().values()):
            raise SystemExit("gpu_runs: a run has failed; see its log.")
        if self.stopping:
            raise SystemExit(128 + signal.SIGTERM)

    def report(self) -> dict[str, Any]:
        """Writes `runs.json`: progress and scores of each run, from its log or its results."""
        states = {}
        for run in RUNS:
            folder = self.work / "runs" / run.name
            results = read(folder / "results.json")
            lines = (folder / "log.jsonl").read_text().splitlines() if (folder / "log.jsonl").is_file() else []
            newest = [json.loads(line) for line in lines[-40:] if line.endswith("}")]
            if not newest:
                if self.has_data(run):
                    states[run.name] = {"state": "not started", "max_steps": self.steps(run)}
                continue
            scored = next((line for line in reversed(newest) if line["split"] == "test"), newest[-1])
            state = "finished" if results else "training" if run.name in self.processes else "stopped"
            states[run.name] = {
                "state": state,
                "max_steps": self.steps(run),
                "steps": newest[-1]["step"],
                "seconds": results.get("seconds", newest[-1]["seconds"]),
                "crops_per_second": results.get("crops_per_second"),
                "scored": {"step": scored["step"], "split": scored["split"]},
                "accuracies": [module.get("contrastive_accuracy") for module in scored["modules"]],
                "modules": scored["modules"],
            }
        write(self.work / "runs.json", states)
        return states

    def write_weights(self, name: str) -> None:
        """Writes the encoder of a run, finished or not, if it has been saved."""
        folder = trained_folder(self.work / "runs" / name)
        if folder is not None:
            (self.out / "weights").mkdir(parents=True, exist_ok=True)
            step = json.loads((self.work / "runs" / name / "log.jsonl").read_text().splitlines()[-1])["step"]
            pack(folder, self.out / "weights" / f"{name}.safetensors", run=name, step=step)


def trained_folder(run: Path) -> Path | None:
    """The folder of a run's model: the run's own folder if it is finished, otherwise its newest complete checkpoint."""
    if (run / "results.json").is_file():
        return run
    if not run.is_dir():
        return None
    checkpoint, _ = find_checkpoint(run)
    return None if checkpoint is None else checkpoint.path


def train(convolutions: str, flags: list[str]) -> None:
    """Trains one run in this process, with TF32 and the given convolutions."""
    from modeling_sim import layers_sim  # noqa: PLC0415 - what trains is imported where it is wanted
    from modeling_sim.commands import pretrain  # noqa: PLC0415

    torch.set_float32_matmul_precision("high")
    if convolutions == "torch":
        layers_sim.ROW_PRODUCT_DEVICES.discard("cuda")
    pretrain.main(flags)


# ---------------------------------------------------------------------- weights


def pack(folder: Path, path: Path, **about: object) -> None:
    """Writes the encoder of a saved model as one file in bfloat16, with its configuration in the header.

    Raises:
        ValueError: The file would have more than 16 MiB.
    """
    model = SimForPreTraining.from_pretrained(folder).sim
    tensors = {
        name: tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size > FILE_LIMIT - 2**16:
        raise ValueError(f"the encoder in {folder} has {size / 2**20:.1f} MiB in bfloat16; the limit is 16 MiB.")
    metadata = {name: str(value) for name, value in about.items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"format": "pt", "config": json.dumps(model.config.to_dict()), **metadata})


def unpack(path: Path, folder: Path) -> None:
    """Converts a file of `pack` to a folder for `from_pretrained`, with float32 weights."""
    with safe_open(path, "pt") as file:
        config = SimConfig.from_dict(json.loads(file.metadata()["config"]))
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    model = SimModel(config)
    model.load_state_dict({name: tensor.to(model.state_dict()[name].dtype) for name, tensor in tensors.items()})
    model.save_pretrained(folder)
    extractor = SimFeatureExtractor(sampling_rate=config.sampling_rate, min_samples=config.receptive_field())
    extractor.save_pretrained(folder)


# ---------------------------------------------------------------------- probes


def probe_all(device: str, work: Path, bundle: Path) -> None:
    """Probes the current models of the runs like the cards, and writes `probes.json` after each."""
    from modeling_sim.evaluation import ProbeArguments, probe  # noqa: PLC0415 - the runs do without it

    miniature = device == "cpu"
    corpus, settings = artificial_data(bundle, miniature=miniature)
    if corpus == "artificial_speech":
        settings |= {"units": "syllables"}
    else:
        settings |= {"num_syllables": 1}
    tasks = [("artificial", label, corpus, settings, {}) for label in ("vowel", "syllable")]
    librispeech = bundle / "data" / "librispeech"
    if librispeech.is_dir() and not miniature:
        tasks.append(("librispeech", "phones", "librispeech", {"data_dir": str(librispeech)}, {}))
    tasks += [
        ("artificial", f"{label} paper", corpus, settings, {"protocol": "paper"}) for label in ("vowel", "syllable")
    ]
    probes = read(work / "probes.json")
    for source, title, name, corpus_settings, more in tasks:
        folders = {run.name: trained_folder(work / "runs" / run.name) for run in RUNS if source in run.name}
        models = {run: folder for run, folder in folders.items() if folder is not None}
        done = probes.get(f"{source} {title}")
        if not models or (done is not None and done.get("models") == list(map(str, models.values()))):
            continue
        given = dict(corpus_settings)
        started = time.perf_counter()
        try:
            results = probe(
                ProbeArguments(
                    model=list(map(str, models.values())),
                    corpus=name,
                    data_dir=given.pop("data_dir", None),
                    corpus_settings=given,
                    label=title.split()[0],
                    device=device,
                    output_dir=str(work / "probes" / f"{source}-{title.replace(' ', '-')}"),
                    overwrite_output_dir=True,
                    cache_dir=str(work / "features"),
                    max_items=2_000 if miniature else 50_000,
                    **more,
                )
            )
        except (ValueError, OSError, ImportError, RuntimeError) as error:
            found: dict[str, Any] = {"error": str(error).splitlines()[0]}
        else:
            found = {
                "models": list(map(str, models.values())),
                "rows": {row.features: row.value for row in results.rows if row.measure == results.probe_measure},
                "seconds": round(time.perf_counter() - started, 1),
            }
        probes[f"{source} {title}"] = found
        write(work / "probes.json", probes)
        print(f"{source} {title}: {found}", flush=True)


# ---------------------------------------------------------------------- command


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a part, trains one run, or unpacks weights."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["train"]:
        train(argv[1], argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    for part in ("runs", "probes"):
        part_parser = what.add_parser(part)
        for name in ("device", "work", "out", "bundle"):
            part_parser.add_argument(f"--{name}", required=True)
    unpacking = what.add_parser("unpack")
    unpacking.add_argument("file", type=Path)
    unpacking.add_argument("folder", type=Path)
    arguments = parser.parse_args(argv)
    if arguments.what == "unpack":
        unpack(arguments.file, arguments.folder)
    elif arguments.what == "runs":
        Training(arguments.device, Path(arguments.work), Path(arguments.out), Path(arguments.bundle)).all()
    else:
        probe_all(arguments.device, Path(arguments.work), Path(arguments.bundle))


if __name__ == "__main__":
    main()
