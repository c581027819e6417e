"""Trains the models of `checkpoints/` from scratch: three encoders, their decoders and a classifier, on LibriSpeech.

    python studies/release/run.py --data_dir LibriSpeech                     # all of them
    python studies/release/run.py --data_dir LibriSpeech --only gim-small-librispeech

Every step is a command of the package, which resumes or skips finished work: rerun after an interruption. The test set
is a third of the speakers of each sex, who are never trained on. The development set, for all choices, is a fifth of
the utterances of the others.

Each new model is compared with the one in `checkpoints/`, which is only replaced with `--replace`, together with a card
from these measurements. Runs are bit-identical on the same machine with the same versions of libraries; otherwise the
comparison reports the differences.
"""

import os
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from transformers import AutoModel

import modeling_sim  # noqa: F401 - registers the models with the Auto classes
from modeling_sim.data.corpora import load_corpus
from modeling_sim.evaluation.results import Results
from modeling_sim.files import read_json, replacing, temporary_folder, write_json
from modeling_sim.hub.staging import stage_run
from modeling_sim.plots import save_figure
from modeling_sim.settings import HelpFormatter
from modeling_sim.trainer.run_folder import LOG_NAME

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINTS = ROOT / "checkpoints"
OUTPUTS_NAME = "outputs.json"
PICTURE = ROOT / "docs" / "images" / "release_steps.png"

PRESETS = {
    "sim-small-librispeech": "sim-small",
    "gim-small-librispeech": "gim-small",
    "sim-readable-small-librispeech": "sim-readable-small",
}
"""Presets of the encoders."""
CLASSIFIER = "phones-small-librispeech"
CLASSIFIED = "sim-small-librispeech"
MODELS = (*PRESETS, *(f"{name}-decoder" for name in PRESETS), CLASSIFIER)

# Ten times the steps of `training/configs/small/librispeech_small.yaml`.
_STEPS = 14_000
_MEASURED_STEPS = (2000, 6000, _STEPS)
# Items per split for probes: more items take minutes and change scores by tenths of a point.
_PROBE_ITEMS = 20_000


# ---------------------------------------------------------------------- the parts of the data


def write_lists(data_dir: str, folder: Path) -> None:
    """Writes the lists of the three sets, and of the development set as the test set of probes."""

    def ids(split: str, **settings: Any) -> list[str]:
        return list(load_corpus("librispeech", split, data_dir=data_dir, **settings)["id"])

    test = ids("test", split_by="speaker", test_fraction=1 / 3)
    seen = [name for name in ids("all") if name not in set(test)]
    development = [name for name in ids("test", split_by="utterance", test_fraction=0.2) if name in set(seen)]
    train = [name for name in seen if name not in set(development)]
    (folder / "development").mkdir(parents=True, exist_ok=True)
    lists = {"train": train, "development": development, "test": test}
    lists |= {"development/train": train, "development/test": development}
    for name, names in lists.items():
        with replacing(folder / f"{name}.txt") as temporary:
            temporary.write_text("".join(f"{utterance}\n" for utterance in names), encoding="utf-8")


# ---------------------------------------------------------------------- commands


def commands(name: str, runs: Path, data_dir: str) -> Iterator[list[str]]:
    """The commands that train and measure a model, in order."""

    def data(lists: Path) -> list[str]:
        settings = f"{{split_by: list, lists: {lists}}}"
        return ["--corpus", "librispeech", "--data_dir", data_dir, "--corpus_settings", settings]

    lists = runs / "lists"
    training = [
        *(*data(lists), "--eval_split", "development", "--batch_size", "8"),
        *("--output_dir", str(runs / name)),
    ]
    phones = ["--label", "phones", "--max_items", str(_PROBE_ITEMS)]
    if name in PRESETS:
        yield [
            *("pretrain", "--preset", PRESETS[name], "--max_steps", str(_STEPS), "--warmup_steps", "200"),
            *("--eval_steps", "2000", "--save_steps", "1000", "--save_total_limit", "100"),
            *("--mixed_precision", "bf16", *training),
        ]
        saved = [str(runs / name / f"checkpoint-{step}") for step in _MEASURED_STEPS]
        yield [
            *("probe", "--model", *saved, "--modules", "2,context", *phones, *data(lists / "development")),
            *("--output_dir", str(runs / f"{name}-steps")),
        ]
        corpus = data(lists)[1:]  # the name of the corpus has no flag
        yield ["axes", str(runs / name), *corpus, "--split", "train", "--overwrite_output_dir"]
        yield [
            *("probe", "--model", str(runs / name), *phones, *data(lists)),
            *("--output_dir", str(runs / f"{name}-phones")),
        ]
        yield [
            *("evaluate", "--model", str(runs / name), "--modules", "2,context", *phones, *data(lists)),
            *("--measures", "disentanglement", "--axes", "own,temporal"),
            *("--output_dir", str(runs / f"{name}-dimensions")),
        ]
    elif name == CLASSIFIER:
        yield [
            *("finetune", "--model", str(runs / CLASSIFIED), "--label", "phones", "--max_steps", "2000"),
            *("--learning_rate", "5e-4", "--warmup_steps", "100", "--mixed_precision", "bf16", *training),
        ]
    else:
        yield [
            *("train-decoder", "--model", str(runs / name.removesuffix("-decoder")), "--module", "2"),
            *("--architecture", "source_filter", "--loss", "stft", "--max_steps", "2500", "--warmup_steps", "100"),
            *training,
        ]


def run(command: Sequence[str]) -> None:
    """Runs a command of the package on one thread, which makes it repeatable.

    Raises:
        SystemExit: The command failed.
    """
    print(f"modeling-sim {' '.join(command)}", flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "modeling_sim.cli", *command], env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"`modeling-sim {command[0]}` failed; rerun to resume.")


# ---------------------------------------------------------------------- results


def draw_steps(runs: Path, *, replace: bool) -> None:
    """Draws the accuracy of phone probes on development utterances against steps, of all models measured so far.

    The picture is in `runs`; with `replace`, and once all models are measured, in the documentation.
    """
    measures = {name: runs / f"{name}-steps" / "probe.json" for name in PRESETS}
    missing = [name for name, path in measures.items() if not path.is_file()]
    if missing and replace:
        print(f"{PICTURE.name} is not replaced yet; not measured in {runs}: {', '.join(missing)}")
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = dict(zip(("module 2", "context"), figure.subplots(1, 2, sharey=True), strict=True))
    spectrum = None
    for name in [name for name in PRESETS if name not in missing]:
        measured = Results.read(measures[name])
        rows = [row for row in measured.rows if row.measure == measured.probe_measure]
        spectrum = next(row for row in rows if row.kind == "log-mel")
        for module, axes in panels.items():
            found = {row.representation: row for row in rows if row.module == module}
            untrained = found[f"checkpoint-{_STEPS} untrained"]
            of_steps = {0: untrained} | {step: found[f"checkpoint-{step}"] for step in _MEASURED_STEPS}
            line = axes.plot(of_steps.keys(), [100 * row.value for row in of_steps.values()], marker="o", label=name)[0]
            low, high = ([100 * getattr(row, end) for row in of_steps.values()] for end in ("low", "high"))
            axes.fill_between(of_steps.keys(), low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    for module, axes in panels.items():
        if spectrum is not None:
            axes.axhline(100 * spectrum.value, color="gray", linestyle="--", label="one log-mel frame")
        axes.set(title=module, xlabel="steps (0: untrained)")
        axes.grid(visible=True, alpha=0.3)
    panels["module 2"].set_ylabel("phone accuracy, %")
    panels["context"].legend(frameon=False, fontsize=8)
    save_figure(figure, PICTURE if replace and not missing else runs / PICTURE.name)


def stage(name: str, runs: Path, folder: Path, repo_id: str) -> None:
    """Writes the folder as on the Hub, without the log, which the curves show."""
    measures = [path for path in (runs / f"{name}-phones", runs / f"{name}-dimensions") if path.is_dir()]
    with TemporaryDirectory() as temporary:
        stage_run(runs / name, Path(temporary), repo_id=repo_id, measures=measures)
        with temporary_folder(folder) as made:
            for file in Path(temporary).iterdir():
                if file.name != LOG_NAME:
                    shutil.copyfile(file, made / file.name)
            if folder.exists():
                shutil.rmtree(folder)
            made.rename(folder)


@torch.no_grad()
def first_outputs(folder: Path) -> dict[str, list[float]]:
    """The first 20 numbers of every module for a fixed chirp of half a second, or of a decoder for fixed latents."""
    model = AutoModel.from_pretrained(folder).eval()
    time = torch.arange(8000, dtype=torch.float64) / 16_000
    chirp = (0.3 * torch.sin(2 * np.pi * (100 * time + 2000 * time.square()))).float()[None]
    if hasattr(model.config, "module_names"):
        outputs = model(chirp, sample=False, output_hidden_states=True)
        tensors = dict(zip(model.config.module_names, outputs.hidden_states, strict=True))
    else:
        tensors = {"waveform": model(chirp[:, : 16 * model.config.latent_size].view(1, 16, -1)).waveforms}
    return {module: tensor.flatten()[:20].tolist() for module, tensor in tensors.items()}


def compare(name: str, folder: Path, kept: dict[str, Any]) -> str:
    """Describes the differences between the outputs of a new model and those of the one in `checkpoints/`."""
    if name not in kept:
        return f"{name}: new"
    distances = {
        module: float(np.abs(np.subtract(values, kept[name][module])).max())
        for module, values in first_outputs(folder).items()
    }
    if not any(distances.values()):
        return f"{name}: outputs equal to those of checkpoints/{name}"
    return f"{name}: largest differences of outputs from checkpoints/{name}: " + ", ".join(
        f"{module} {distance:.2g}" for module, distance in distances.items()
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Trains, measures, stages and compares."""
    parser = ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--data_dir", required=True, help="Folder of LibriSpeech with phone alignments.")
    parser.add_argument("--runs", type=Path, default=Path("runs/release"), help="Folder of the runs.")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=MODELS, help="Models; encoders come first.")
    parser.add_argument("--replace", action="store_true", help="Replace the models in checkpoints/ by the new ones.")
    arguments = parser.parse_args(argv)
    runs = arguments.runs.resolve()
    write_lists(arguments.data_dir, runs / "lists")
    kept = read_json(CHECKPOINTS / OUTPUTS_NAME) if (CHECKPOINTS / OUTPUTS_NAME).is_file() else {}
    for name in [name for name in MODELS if name in arguments.only]:
        for command in commands(name, runs, str(Path(arguments.data_dir).resolve())):
            run(command)
        if name in PRESETS:
            draw_steps(runs, replace=arguments.replace)
        print(compare(name, runs / name, kept))
        if arguments.replace:
            stage(name, runs, CHECKPOINTS / name, f"checkpoints/{name}")
            kept[name] = first_outputs(CHECKPOINTS / name)
            write_json(CHECKPOINTS / OUTPUTS_NAME, kept)


if __name__ == "__main__":
    sys.exit(main())
