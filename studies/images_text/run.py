"""Smooth InfoMax on images and text, next to Greedy InfoMax, CPC, supervised and untrained models, and raw inputs.

    python studies/images_text/run.py --tasks sprites digits mnist stress grammar --seeds 0 1 2

Each task and seed is one JSON file, written when it is complete; existing files are kept. `page.py` shows them in
`docs/images_text.md`.

- digits, mnist, stress, grammar: linear probes of every module, fitted on training items with the penalty chosen on a
  fifth of them. The reported module is the one that is best on that fifth. Frames are averaged over an image or a word
  ("pooled"), or over each quarter of an image ("quarters").
- sprites: correlation of one dimension with each factor, next to randomly rotated latents, and what a decoder
  draws when one dimension changes.
"""

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from matplotlib.figure import Figure
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from torch import nn

from modeling_sim import (
    SimConfig,
    SimForAudioFrameClassification,
    SimForPreTraining,
    SimForSequenceClassification,
    SimModel,
)
from modeling_sim.analysis.axes.best_dimensions import axis_gaps, best_dimensions
from modeling_sim.analysis.probes import fit_linear_probe
from modeling_sim.data.corpora import corpus_info, load_corpus
from modeling_sim.data.corpora.sprites import FACTORS
from modeling_sim.data.signals import padded, positions
from modeling_sim.files import read_json, write_json
from modeling_sim.plots import save_figure
from modeling_sim.processing_sim import new_processor

# Corpus, its settings, the label, and fields that differ from the corpus' own.
_PATCHES = {"patch_size": 8, "patch_stride": 4, "prediction_offsets": (2, 3, 4, 5)}
TASKS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "digits": ("digits", {}, "digit", {}),
    "mnist": ("digits", {"source": "mnist5k"}, "digit", _PATCHES),
    "stress": ("words", {}, "initial_stress", {}),
    "grammar": ("grammar", {}, "tense", {}),
}
# Presets, with end-to-end CPC on the same layers.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "SIM": ("sim-small", {}),
    "GIM": ("gim-small", {}),
    "CPC": ("gim-small", {"gradient_isolation": False, "contrastive_modules": "context"}),
}
SPRITE_METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "SIM, Gaussian critic": ("sim-readable-small", {}),
    "GIM": ("gim-small", {}),
    "untrained": ("gim-small", {}),
    "supervised": ("gim-small", {"num_labels": len(FACTORS), "problem_type": "regression"}),
}
# Steps of training and items per step, if they differ from 300 and 32.
TRAINING = {"sprites": (2400, 16), "mnist": (150, 32)}
_RATE = 1.0e-3
_QUERIES = 10  # test items whose nearest neighbors are kept
_PENALTIES = (1.0e-4, 1.0e-3, 1.0e-2, 1.0e-1)  # of the probes


class Data:
    """A split in memory: inputs, mask, and the data set."""

    def __init__(self, dataset: Dataset, config: SimConfig) -> None:
        processor, self.dataset = new_processor(config), dataset
        signals = [
            positions(signal, processor) for signal in dataset["image" if "image" in dataset.features else "text"]
        ]
        batch = padded(signals, processor, padding="longest")
        self.inputs, self.mask = torch.from_numpy(batch["input_values"]), torch.from_numpy(batch["attention_mask"])


def train(
    model: nn.Module, data: Data, steps: int, batch_size: int, seed: int, labels: torch.Tensor | None = None
) -> tuple[Any, list[list[float]]]:
    """Trains a model by Adam with a cosine schedule on random batches.

    Returns:
        The model, and for pretraining the contrastive accuracy of every module, as means over each tenth of the steps.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=max(1, steps), pct_start=0.1)
    model.train()
    accuracies: list[list[float]] = []
    for _ in range(steps):
        rows = torch.randint(len(data.inputs), (batch_size,), generator=generator)
        given = {} if labels is None else {"labels": labels[rows]}
        mask = None if data.mask.all() else data.mask[rows]
        output = model(data.inputs[rows], mask, **given)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        schedule.step()
        if labels is None:
            accuracies.append([float(accuracy) for accuracy in output.contrastive_accuracies])
    parts = np.array_split(np.array(accuracies), 10) if len(accuracies) >= 10 else []
    return model.eval(), [part.mean(axis=0).tolist() for part in parts]


@torch.no_grad()
def encode(model: SimModel, data: Data) -> list[dict[str, np.ndarray]]:
    """Features of every item by name, for each module: "pooled" `(items, channels)`, "quarters" for images."""
    modules: list[dict[str, list[np.ndarray]]] = [{} for _ in range(model.config.num_modules)]
    for rows in torch.arange(len(data.inputs)).split(100):
        mask = None if data.mask.all() else data.mask[rows]
        for found, module in zip(modules, model.module_latents(data.inputs[rows], mask), strict=True):
            frames = module.mean.reshape(len(rows), -1, module.mean.shape[-1])
            lengths = frames.shape[1] if module.lengths is None else module.lengths[:, None]
            found.setdefault("pooled", []).append((frames.sum(dim=1) / lengths).numpy())
            if model.config.input_kind == "patches":
                grid = module.mean.unflatten(0, (len(rows), -1)).permute(0, 3, 1, 2)  # (items, channels, columns, rows)
                found.setdefault("quarters", []).append(F.adaptive_avg_pool2d(grid, 2).flatten(1).numpy())
    return [{name: np.concatenate(parts) for name, parts in found.items()} for found in modules]


def probe(
    train_features: np.ndarray, test_features: np.ndarray, labels: tuple[np.ndarray, np.ndarray]
) -> dict[str, float]:
    """Accuracy on the test set with the penalty that is best on a fifth of the training set, and accuracy on that."""
    classes, items = int(labels[0].max()) + 1, len(labels[0])
    held_out = np.random.default_rng(1).permutation(items) < items // 5

    def accuracy(rows: np.ndarray, l2: float, features: np.ndarray, wanted: np.ndarray) -> float:
        fit = fit_linear_probe(train_features[rows], labels[0][rows], classes, l2=l2)
        return float((fit.predict(features) == wanted).mean())

    found = {l2: accuracy(~held_out, l2, train_features[held_out], labels[0][held_out]) for l2 in _PENALTIES}
    l2 = max(found, key=lambda each: found[each])
    test = accuracy(np.ones(items, dtype=bool), l2, test_features, labels[1])
    return {"test": test, "validation": found[l2], "l2": l2}


def config_of(corpus: str, preset: str, fields: dict[str, Any]) -> SimConfig:
    """A configuration of a preset with the fields of a corpus and further ones."""
    return SimConfig.preset(preset, **{**corpus_info(corpus).defaults["model_settings"], **fields})


def n_grams(splits: list[Data], size: int) -> list[np.ndarray]:
    """Counts of n-grams of up to `size` symbols in at least 5 training items, `(items, n-grams)` per split."""

    def runs(word: list[int]) -> list[tuple[int, ...]]:
        sizes = range(1, size + 1)
        return [tuple(word[start : start + own]) for own in sizes for start in range(len(word) - own + 1)]

    words = [
        [row[: mask.sum()].tolist() for row, mask in zip(split.inputs, split.mask, strict=True)] for split in splits
    ]
    counter = CountVectorizer(analyzer=runs, min_df=5, dtype=np.float32)
    counter.fit(words[0])
    return [counter.transform(rows).toarray() for rows in words]


def run_probes(task: str, seed: int, steps: int, batch_size: int) -> dict[str, Any]:
    """Accuracies of all methods on a task."""
    corpus, settings, label, fields = TASKS[task]
    splits = [load_corpus(corpus, split, **settings) for split in ("train", "test")]
    labels = tuple(np.array(split[label]) for split in splits)
    base = config_of(corpus, "gim-small", fields)
    data = [Data(split, base) for split in splits]
    result: dict[str, Any] = {"task": task, "label": label, "seed": seed, "steps": steps, "batch_size": batch_size}
    result |= {"train_items": len(splits[0]), "test_items": len(splits[1]), "methods": {}}
    result["chance"] = float((labels[1] == np.bincount(labels[0]).argmax()).mean())
    neighbors: dict[str, np.ndarray] = {}

    def add(name: str, model: SimModel, seconds: float, curve: list[list[float]]) -> None:
        sets = [encode(model, part) for part in data]
        rows = {
            f"{module} {kind}": probe(sets[0][number][kind], sets[1][number][kind], labels)
            for number, module in enumerate(model.config.module_names)
            for kind in sets[0][number]
        }
        result["methods"][name] = {"seconds": round(seconds, 1), "rows": rows, "curve": curve}
        for kind in sets[0][0]:
            best = max((row for row in rows if row.endswith(kind)), key=lambda row: rows[row]["validation"])
            print(f"{task} seed {seed}: {name} {best} {rows[best]['test']:.3f}", flush=True)
        if seed == 0 and name in ("SIM", "untrained"):
            module, kind = best.rsplit(" ", 1)
            features = [each[model.config.module_names.index(module)][kind] for each in sets]
            neighbors[name] = nearest(features[0], features[1])

    for name, (preset, more) in METHODS.items():
        torch.manual_seed(seed)
        start = time.process_time()
        model = SimForPreTraining(config_of(corpus, preset, {**fields, **more}))
        model, curve = train(model, data[0], steps, batch_size, seed)
        add(name, model.sim, time.process_time() - start, curve)
    torch.manual_seed(seed)
    add("untrained", SimForPreTraining(base).eval().sim, 0.0, [])
    torch.manual_seed(seed)
    start = time.process_time()
    base.num_labels = int(labels[0].max()) + 1
    classifier = SimForSequenceClassification(base)
    train(classifier, data[0], steps, batch_size, seed, torch.from_numpy(labels[0]))
    with torch.no_grad():
        logits = classifier(data[1].inputs, None if data[1].mask.all() else data[1].mask).logits
    accuracy = float((logits.argmax(-1).numpy() == labels[1]).mean())
    result["methods"]["supervised"] = {"seconds": round(time.process_time() - start, 1), "test": accuracy}
    if base.input_kind == "patches":
        raw = [part.inputs.flatten(1).numpy() for part in data]
        result["methods"]["raw pixels"] = probe(raw[0], raw[1], labels)
        neighbors["raw pixels"] = nearest(raw[0], raw[1])
    else:
        for size in (1, 2):
            name, raw = f"bag of 1 to {size}-grams", n_grams(data, size)
            result["methods"][name] = probe(raw[0], raw[1], labels)
            neighbors[name] = nearest(raw[0], raw[1])
    for name in ("supervised", *list(result["methods"])[len(METHODS) + 2 :]):
        print(f"{task} seed {seed}: {name} {result['methods'][name]['test']:.3f}", flush=True)
    if seed == 0:
        queries = np.linspace(0, len(labels[1]) - 1, _QUERIES).astype(int)  # items may be sorted by class
        result |= {
            "queries": queries.tolist(),
            "neighbors": {name: found[queries].tolist() for name, found in neighbors.items()},
            "neighbors_of_the_same_class": {
                name: float((labels[0][found] == labels[1][:, None]).mean()) for name, found in neighbors.items()
            },
        }
    return result


def nearest(train_features: np.ndarray, test_features: np.ndarray) -> np.ndarray:
    """The 5 training items nearest to each test item, `(test items, 5)`, by distance of standardized features."""
    scaler = StandardScaler().fit(train_features)
    search = NearestNeighbors(n_neighbors=5).fit(scaler.transform(train_features))
    return np.asarray(search.kneighbors(scaler.transform(test_features), return_distance=False))


# ---------------------------------------------------------------------- sprites


def run_sprites(path: Path, chosen: list[str], seed: int, steps: int, batch_size: int, picture: Path | None) -> None:
    """Correlations of single dimensions with the factors, on test films; writes the file after each missing method."""
    splits = [load_corpus("sprites", split) for split in ("train", "test")]
    base = config_of("sprites", "gim-small", {})
    data = [Data(split, base) for split in splits]
    values = {name: np.concatenate([np.asarray(film) for film in splits[1][name]]) for name in FACTORS}
    values["shape"] = values["shape"].astype(np.float64)  # diamond, ellipse, rectangle: in order of fullness
    films = np.repeat(np.arange(len(splits[1])), len(values["x"]) // len(splits[1]))
    result: dict[str, Any] = {"task": "sprites", "seed": seed, "steps": steps, "batch_size": batch_size, "methods": {}}
    result = read_json(path) if path.exists() else result
    labels = np.stack([np.asarray(splits[0][name], dtype=np.float32) for name in FACTORS], axis=-1)
    labels = (labels - labels.mean(axis=(0, 1))) / labels.std(axis=(0, 1))
    for name in [name for name in chosen if name not in result["methods"]]:
        preset, more = SPRITE_METHODS[name]
        torch.manual_seed(seed)
        start = time.process_time()
        is_supervised = name == "supervised"
        model = (SimForAudioFrameClassification if is_supervised else SimForPreTraining)(
            config_of("sprites", preset, more)
        )
        targets = torch.from_numpy(labels) if is_supervised else None
        train(model, data[0], 0 if name == "untrained" else steps, batch_size, seed, targets)
        seconds = time.process_time() - start
        codes = [_frames(model, part) for part in data]
        found = best_dimensions(codes[1], values)
        told = ", ".join(f"{key} {value:.2f} ({found.dimension[key]})" for key, value in found.correlation.items())
        print(f"sprites seed {seed}: {name}: {told}", flush=True)
        gaps = axis_gaps(codes[1][::8], {key: value[::8] for key, value in values.items()}, films[::8], num_rotations=3)
        result["methods"][name] = {
            "seconds": round(seconds, 1),
            "best": found.correlation,
            "dimension": found.dimension,
            "own_and_rotated": {key: [gap.aligned, float(gap.rotated.mean())] for key, gap in gaps.items()},
        }
        if picture is not None and name == next(iter(SPRITE_METHODS)):
            frames = [part.inputs.unflatten(2, (-1, base.patch_size)).flatten(0, 2) for part in data]
            result["decoder_error"] = draw_traversals(codes, frames, found.dimension, picture, seed)
        write_json(path, result)


@torch.no_grad()
def _frames(model: Any, data: Data) -> np.ndarray:
    """Means of the last module, or predictions of a supervised model, `(frames of all films, channels)`."""

    def outputs(films: torch.Tensor) -> torch.Tensor:
        is_supervised = isinstance(model, SimForAudioFrameClassification)
        return model(films).logits if is_supervised else list(model.sim.module_latents(films))[-1].mean

    return torch.cat([outputs(films).flatten(0, 1) for films in data.inputs.split(64)]).numpy()


def draw_traversals(
    codes: list[np.ndarray], frames: list[torch.Tensor], dimensions: dict[str, int], path: Path, seed: int
) -> float:
    """Trains a decoder of frames, draws traversals of single dimensions, and returns its unexplained variance."""
    torch.manual_seed(seed)
    size = frames[0].shape[-1]
    decoder = nn.Sequential(
        nn.Linear(codes[0].shape[1], 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, size**2)
    )
    optimizer = torch.optim.Adam(decoder.parameters(), lr=2e-3)
    latents, targets = torch.from_numpy(codes[0]), frames[0].flatten(1)
    for step in range(1500):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / 1500)
        rows = torch.randint(len(latents), (256,))
        loss = F.mse_loss(decoder(latents[rows]), targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    mean, spread = latents.mean(0), latents.std(0)
    figure = Figure(figsize=(8.4, 1.0 * (len(dimensions) + 2)), layout="constrained")
    axes = figure.subplots(len(dimensions) + 2, 9)
    with torch.no_grad():
        test = torch.from_numpy(codes[1])
        decoded = decoder(test)
        error = float((decoded - frames[1].flatten(1)).square().mean() / frames[1].flatten(1).var(dim=0).mean())
        for column in range(8):
            _show(axes[0, column + 1], frames[1][37 * column + 5])
            _show(axes[1, column + 1], decoded[37 * column + 5].view(size, size))
        for line, dimension in enumerate(dimensions.values(), start=2):
            moved = mean.repeat(8, 1)
            moved[:, dimension] += torch.linspace(-2, 2, 8) * spread[dimension]
            for column, frame in enumerate(decoder(moved).view(-1, size, size)):
                _show(axes[line, column + 1], frame)
    for line, title in enumerate(
        ["test frames", "decoded", *(f"{name}: {number}" for name, number in dimensions.items())]
    ):
        axes[line, 0].text(1.0, 0.5, title, ha="right", va="center", fontsize=9)
        axes[line, 0].axis("off")
    save_figure(figure, path)
    return error


def _show(axis: Any, frame: torch.Tensor) -> None:
    axis.imshow(frame.numpy(), cmap="gray", vmin=-1, vmax=1)
    axis.axis("off")


def main() -> None:
    """Runs the tasks and seeds that have no result yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["sprites", *TASKS], choices=["sprites", *TASKS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--sprite_methods", nargs="+", default=list(SPRITE_METHODS), choices=list(SPRITE_METHODS))
    parser.add_argument("--steps", type=int, help="Steps of training; by default those of TRAINING.")
    parser.add_argument("--batch_size", type=int, help="Items per step; by default those of TRAINING.")
    parser.add_argument("--output", type=Path, default=Path("studies/images_text/results"))
    parser.add_argument("--pictures", type=Path, help="Folder of the traversals; unset for none.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for task, seed in itertools.product(arguments.tasks, arguments.seeds):
        path, (steps, batch_size) = arguments.output / f"{task}_seed{seed}.json", TRAINING.get(task, (300, 32))
        steps, batch_size = arguments.steps or steps, arguments.batch_size or batch_size
        if task == "sprites":
            picture = arguments.pictures / "sprites_traversals.png" if arguments.pictures and seed == 0 else None
            run_sprites(path, arguments.sprite_methods, seed, steps, batch_size, picture)
        elif not path.exists():
            write_json(path, run_probes(task, seed, steps, batch_size))


if __name__ == "__main__":
    main()
