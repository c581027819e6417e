"""Measures what can be read from a frozen model with a small classifier, beside controls.

    python training/probe.py --model runs/sim-small --corpus librispeech --data_dir LibriSpeech --label phones

Every row of the table is the same task on the same items: chance (the most frequent class), log-mel and MFCC frames,
the first model untrained, and each model given, all of its modules. Intervals are 95 % bootstrap intervals over
utterances, or over speakers where those of the test split are not in the training split. The output folder gets
`probe.json`, `probe.png` (accuracies), `confusion.png` (of the best module of the first model) and `weights.npz`
(standardised weights of the linear probes).
"""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from matplotlib.figure import Figure
from transformers import SequenceFeatureExtractor

from modeling_sim.analysis import (
    Interval,
    bootstrap_difference,
    bootstrap_interval,
    choose_l2,
    fit_linear_probe,
    fit_mlp_probe,
    knn_predictions,
)
from modeling_sim.analysis.intervals import accuracy, confusions, macro_f1
from training.arguments import HelpFormatter
from training.corpora import corpus_info, load_corpus
from training.features import Items, ModelEncoder, extract, label_classes, module_numbers, spectral_encoder
from training.files import replacing, write_json
from training.models import UNTRAINED, load_with_untrained
from training.provenance import git_revision, versions

PROBES = ("linear", "mlp", "knn")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    arguments = parse(argv)
    try:
        results = probe(arguments)
    except (ValueError, OSError) as error:
        raise SystemExit(f"probe.py: {error}") from error
    print(table(results))
    print(f"\nresults and pictures in {arguments.output_dir}")


def parse(argv: Sequence[str] | None) -> Any:
    """Reads the flags."""
    parser = ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--model", nargs="+", required=True, help="Checkpoints, folders or Hub ids, to compare.")
    parser.add_argument("--corpus", default="librispeech", help="A corpus of training.corpora.")
    parser.add_argument("--data_dir", help="Its folder.")
    parser.add_argument("--corpus_settings", default="{}", help="Further arguments of its loader, as YAML.")
    parser.add_argument("--label", default="phones", help="Any column of classes: phones, speaker_id, vowel, ...")
    parser.add_argument("--modules", default="all", help="'all', or some: '0,2,context'.")
    parser.add_argument("--latents", choices=("mean", "sample"), default="mean", help="What is read of a Gaussian.")
    parser.add_argument(
        "--pooling",
        choices=("frame", "chunk", "mean"),
        help="Frames, means over short chunks, or means over utterances; frames where labels are, else means. For "
        "speakers take chunks: with one chapter a speaker, whole utterances tell the recording.",
    )
    parser.add_argument("--chunk_seconds", type=float, default=0.5, help="Length of a chunk.")
    parser.add_argument("--frame_step", type=int, default=4, help="Label frames of 10 ms from one item to the next.")
    parser.add_argument("--probe", choices=PROBES, default="linear", help="Classifier.")
    parser.add_argument(
        "--l2", type=float, help="Of the linear probe; chosen on a part of the training split if unset."
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    parser.add_argument("--batch_size", type=int, default=8, help="Utterances a batch.")
    parser.add_argument("--seed", type=int, default=0, help="Of controls, resamples and probes.")
    parser.add_argument("--output_dir", default="runs/probe", help="Folder for results and pictures.")
    return parser.parse_args(argv)


def probe(arguments: Any) -> dict[str, Any]:
    """Fits and scores every row; writes the results and returns them.

    Raises:
        ValueError: An unknown label or module, a single class, or too few utterances.
        OSError: A model or the data is not there.
    """
    settings = yaml.safe_load(arguments.corpus_settings) or {}
    if arguments.data_dir:
        settings["data_dir"] = arguments.data_dir
    train_data, test_data = (load_corpus(arguments.corpus, split, **settings) for split in ("train", "test"))
    classes = label_classes(train_data, arguments.label)
    pooling = arguments.pooling or ("frame" if _is_list(train_data, arguments.label) else "mean")

    def items(encoder: Any, extractor: SequenceFeatureExtractor, name: str) -> tuple[Items, Items]:
        train, test = (
            extract(
                data,
                encoder,
                extractor,
                label=arguments.label,
                pooling=pooling,
                chunk_seconds=arguments.chunk_seconds,
                frame_step=arguments.frame_step,
                batch_size=arguments.batch_size,
                description=f"{name}, {split}",
            )
            for split, data in (("train", train_data), ("test", test_data))
        )
        return train, test

    fits = _Fits(arguments, len(classes))
    loaded = load_with_untrained(arguments.model, device=arguments.device, seed=arguments.seed)
    sources: list[tuple[str, Any, SequenceFeatureExtractor]] = [
        ("log-mel, MFCC", spectral_encoder, loaded[0].extractor)
    ]
    for source in loaded:
        modules = module_numbers(source.model.config, arguments.modules)
        encoder = ModelEncoder(source.model, modules, sample=arguments.latents == "sample", seed=arguments.seed)
        sources.append((source.name, encoder, source.extractor))
    for name, encoder, own_extractor in sources:
        train, test = items(encoder, own_extractor, name)
        fits.check(train, test)
        for feature in train.features:
            row = feature if name == "log-mel, MFCC" else f"{name}, {feature}"
            fits.add(row, name, feature, train.features[feature], test.features[feature])
    results = {
        "corpus": arguments.corpus,
        "corpus_license": corpus_info(arguments.corpus).license,
        "label": arguments.label,
        "classes": classes,
        "pooling": pooling,
        "probe": arguments.probe,
        "latents": arguments.latents,
        "models": [source.name for source in loaded[1:]],
        **fits.results(),
        "versions": versions(),
        "git": git_revision(),
    }
    output_dir = Path(arguments.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    write_json(output_dir / "probe.json", results)
    with replacing(output_dir / "weights.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, **fits.weights)
    draw(results, output_dir / "probe.png")
    draw_confusion(results, output_dir / "confusion.png")
    return results


def _is_list(dataset: Any, column: str) -> bool:
    return isinstance(dataset[0][column], list)


class _Fits:
    """Probes of all features on one task, and their scores."""

    def __init__(self, arguments: Any, num_classes: int) -> None:
        self.arguments, self.num_classes = arguments, num_classes
        self.rows: list[dict[str, Any]] = []
        self.confusions: dict[str, np.ndarray] = {}
        self.weights: dict[str, np.ndarray] = {}
        self.train: Items | None = None
        self.test: Items | None = None

    def check(self, train: Items, test: Items) -> None:
        """All features must be of the same items; the first ones set the task."""
        if self.train is not None and self.test is not None:
            if not np.array_equal(train.labels, self.train.labels) or not np.array_equal(test.labels, self.test.labels):
                raise ValueError("the models read different items, so they cannot be compared.")
            return
        self.train, self.test = train, test
        unseen = sorted(set(test.labels) - set(train.labels))
        if unseen:
            print(f"classes {unseen} of the test split have no item in the training split: they count as errors")
        disjoint = not set(train.speakers) & set(test.speakers)
        self.group_name = "speakers" if disjoint else "utterances"
        self.groups = test.speakers if disjoint else test.utterances
        self.train_groups = train.speakers if disjoint else train.utterances
        majority = np.bincount(train.labels, minlength=self.num_classes).argmax()
        self.score("chance: most frequent class", "chance", "", np.full(len(test.labels), majority))
        # A control task (Hewitt & Liang 2019): every speaker's classes are renamed at random, with the classes'
        # own frequencies; what a probe reaches there it has by learning names by heart.
        types = np.unique(np.concatenate([train.speakers, test.speakers]))
        self.control: tuple[np.ndarray, np.ndarray] | None = None
        if len(types) > 1 and not disjoint and self.arguments.label != "speaker_id":
            generator = np.random.default_rng(self.arguments.seed)
            names = generator.choice(train.labels, size=(len(types), self.num_classes))
            self.control = tuple(  # type: ignore[assignment]
                names[np.searchsorted(types, items.speakers), items.labels] for items in (train, test)
            )

    def predictions(
        self, features: np.ndarray, labels: np.ndarray, queries: np.ndarray, name: str | None
    ) -> np.ndarray:
        """Predicted classes of the test items; the weights are kept under a name."""
        arguments = self.arguments
        if arguments.probe == "knn":
            return knn_predictions(features, labels, queries)
        if arguments.probe == "mlp":
            network = fit_mlp_probe(features, labels, self.num_classes, seed=arguments.seed, device=arguments.device)
            with torch.no_grad():
                return network(torch.from_numpy(queries).float().to(arguments.device)).argmax(dim=1).cpu().numpy()
        l2 = arguments.l2
        if l2 is None:
            l2 = choose_l2(
                features, labels, self.train_groups, self.num_classes, seed=arguments.seed, device=arguments.device
            )
        linear = fit_linear_probe(features, labels, self.num_classes, l2=l2, device=arguments.device)
        if name is not None:
            self.weights[name] = linear.weight
        return linear.predict(queries)

    def add(self, row: str, source: str, feature: str, features: np.ndarray, queries: np.ndarray) -> None:
        """Fits a probe on training features and scores it on the test's, on the task and on the control task."""
        if self.train is None:
            raise ValueError("call `check` first.")
        self.score(row, source, feature, self.predictions(features, self.train.labels, queries, row))
        if self.control is not None:
            guesses = self.predictions(features, self.control[0], queries, None)
            self.rows[-1]["control_accuracy"] = float((guesses == self.control[1]).mean())
            self.rows[-1]["selectivity"] = self.rows[-1]["accuracy"]["value"] - self.rows[-1]["control_accuracy"]
        print(_line(self.rows[-1]), file=sys.stderr)

    def score(self, row: str, source: str, feature: str, predictions: np.ndarray) -> None:
        """Adds a row of the table."""
        if self.test is None:
            raise ValueError("call `check` first.")
        cells = confusions(self.test.labels, predictions, self.groups, self.num_classes)
        self.confusions[row] = cells
        total = cells.sum(axis=0)
        true, predicted = total.sum(axis=1), total.sum(axis=0)
        hits = np.diagonal(total)
        self.rows.append(
            {
                "name": row,
                "source": source,
                "feature": feature,
                "accuracy": vars(bootstrap_interval(cells, accuracy, seed=self.arguments.seed)),
                "macro_f1": vars(bootstrap_interval(cells, macro_f1, seed=self.arguments.seed)),
                "recall_by_class": [
                    float(hit / count) if count else None for hit, count in zip(hits, true, strict=True)
                ],
                "precision_by_class": [
                    float(hit / count) if count else None for hit, count in zip(hits, predicted, strict=True)
                ],
                "confusion": total.tolist(),
            }
        )

    def results(self) -> dict[str, Any]:
        """Rows, and differences of every model's modules to the same ones untrained and to the first model's."""
        if self.train is None or self.test is None:
            raise ValueError("call `check` first.")
        differences = []
        sources = list(dict.fromkeys(row["source"] for row in self.rows if row["feature"] and "," in row["name"]))
        for source in sources:
            for other in dict.fromkeys([UNTRAINED, *sources[1:2]]):
                for row in self.rows:
                    against = f"{other}, {row['feature']}"
                    if row["source"] != source or source == other or against not in self.confusions:
                        continue
                    if source == UNTRAINED:
                        continue
                    difference: Interval = bootstrap_difference(
                        self.confusions[row["name"]], self.confusions[against], accuracy, seed=self.arguments.seed
                    )
                    differences.append({"name": row["name"], "against": against, "accuracy": vars(difference)})
        return {
            "train_items": len(self.train.labels),
            "test_items": len(self.test.labels),
            "intervals_over": f"{len(np.unique(self.groups))} {self.group_name}",
            "rows": self.rows,
            "differences": differences,
        }


# ---------------------------------------------------------------------- text and pictures


def _line(row: dict[str, Any]) -> str:
    score, f1 = row["accuracy"], row["macro_f1"]
    control = f"{'-':>9}{'-':>13}"
    if "selectivity" in row:
        control = f"{row['control_accuracy']:>9.1%}{row['selectivity']:>13.1%}"
    interval = f"[{score['low']:.1%}, {score['high']:.1%}]"
    return f"{row['name']:<44}{score['value']:>8.1%}  {interval:<16}{f1['value']:>9.1%}{control}"


def table(results: dict[str, Any]) -> str:
    """The results as text."""
    task = f"{results['label']} of {results['corpus']}, {results['probe']} probe on {results['pooling']}s"
    lines = [
        f"{task}: {results['train_items']} items to train on, {results['test_items']} to test on",
        f"95 % intervals over {results['intervals_over']}",
        "",
        f"{'':<44}{'accuracy':>8}  {'interval':<16}{'macro F1':>9}{'control':>9}{'selectivity':>13}",
        *(_line(row) for row in results["rows"]),
    ]
    if results["differences"]:
        lines += ["", "paired differences of accuracy"]
    for difference in results["differences"]:
        score = difference["accuracy"]
        lines.append(
            f"{difference['name']} - {difference['against']}: {100 * score['value']:+.1f} "
            f"[{100 * score['low']:+.1f}, {100 * score['high']:+.1f}] points"
        )
    return "\n".join(lines)


def draw(results: dict[str, Any], path: Path) -> None:
    """Accuracies with their intervals, controls in grey."""
    rows = results["rows"][::-1]
    figure = Figure(figsize=(8, 1.2 + 0.32 * len(rows)), layout="constrained", dpi=120)
    axis = figure.subplots()
    for height, row in enumerate(rows):
        score = row["accuracy"]
        is_control = row["source"] not in results["models"]
        axis.errorbar(
            score["value"],
            height,
            xerr=[[score["value"] - score["low"]], [score["high"] - score["value"]]],
            fmt="o",
            capsize=3,
            color="#666666" if is_control else "#0072B2",
        )
    axis.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=9)
    axis.set_xlim(left=0)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.set_xlabel(f"accuracy, with 95 % intervals over {results['intervals_over']}")
    axis.set_title(f"{results['label']} of {results['corpus']}, {results['probe']} probe", loc="left", fontsize=11)
    axis.grid(axis="x", alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def draw_confusion(results: dict[str, Any], path: Path) -> None:
    """Which classes the best module of the first model takes for which."""
    own = [row for row in results["rows"] if row["source"] == results["models"][0]]
    best = max(own, key=lambda row: row["accuracy"]["value"])
    counts = np.array(best["confusion"], dtype=float)
    shown = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
    counts = counts[np.ix_(shown, shown)]
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    names = [results["classes"][number] for number in shown]
    size = 2.5 + 0.2 * max(len(names), 10)
    figure = Figure(figsize=(size + 1, size), layout="constrained", dpi=120)
    axis = figure.subplots()
    picture = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    axis.set_title(f"{results['label']}: {best['feature']}, {best['accuracy']['value']:.1%}", loc="left", fontsize=11)
    figure.colorbar(picture, ax=axis, label="share of the true class", shrink=0.7)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


if __name__ == "__main__":
    main()
