"""Probes: what a small classifier reads from every feature of frozen models; see `modeling-sim probe --help`."""

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from modeling_sim.analysis import (
    bootstrap_difference,
    bootstrap_interval,
    choose_l2,
    fit_linear_probe,
    fit_mlp_probe,
    knn_predictions,
)
from modeling_sim.analysis.intervals import accuracy, confusions, macro_f1
from modeling_sim.analysis.paper_probe import items_tested, paper_predictions, paper_settings
from modeling_sim.analysis.probes import control_labels
from modeling_sim.data.corpora.contract import is_frame_label, label_classes
from modeling_sim.evaluation.feature_store import Items
from modeling_sim.evaluation.features import extract
from modeling_sim.evaluation.representations import UNTRAINED, Representation, load_representations, with_provenance
from modeling_sim.evaluation.settings import ProbeArguments, claim_output_dir, load_splits
from modeling_sim.files import replacing, save_results
from modeling_sim.loading import names_of
from modeling_sim.plots import GRAY, plot_text, save_figure, style_of
from modeling_sim.text import printable


def probe(arguments: ProbeArguments) -> dict[str, Any]:
    """Fits and scores every row; writes the results and returns them.

    Raises:
        ValueError: An unknown label or module, a single class, or too few utterances.
        OSError: A model or the data is not there.
    """
    splits = load_splits(arguments)
    classes = label_classes(splits["train"], arguments.label)
    claim_output_dir(arguments, "probe", ("weights.npz", "probe.json"), ("probe", "confusion"))
    pooling = arguments.pooling or ("frame" if is_frame_label(splits["train"], arguments.label) else "mean")
    fits = None
    sources = load_representations(arguments, sample=arguments.latents == "sample")
    for source in sources:
        train, test = (
            extract(
                data,
                source,
                label=arguments.label,
                pooling=pooling,
                chunk_seconds=arguments.chunk_seconds,
                frame_step=arguments.frame_step,
                max_items=arguments.max_items or None,
                seed=arguments.seed,
                cache_dir=Path(arguments.cache_dir),
                batch_size=arguments.batch_size,
                description=f"{source.name}, {split}",
            )
            for split, data in splits.items()
        )
        if fits is None:
            fits = _Fits(arguments, len(classes), train, test)
        fits.require_same_items(train, test)
        for feature in train.features:
            fits.add(source, feature, train.features[feature], test.features[feature])
    if fits is None:
        raise ValueError("there is nothing to measure.")
    output_dir = Path(arguments.output_dir)
    results = with_provenance(
        arguments,
        {
            "label": arguments.label,
            "classes": classes,
            "pooling": pooling,
            "protocol": arguments.protocol,
            "probe": arguments.probe if arguments.protocol == "standard" else "the paper's linear",
            "latents": arguments.latents,
            "l2": arguments.l2,
            **fits.results(),
        },
        sources,
    )
    with replacing(output_dir / "weights.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, **fits.weights)
    if arguments.figure_format is not None:
        draw(results, output_dir / f"probe.{arguments.figure_format}")
        draw_confusion(results, output_dir / f"confusion.{arguments.figure_format}")
    save_results(output_dir / "probe.json", results)  # last: it says that the others are there
    return results


class _Fits:
    """Probes of all features on one task, and their scores.

    Args:
        arguments: Of the command.
        num_classes: Classes of the label.
        train: Items to fit on; their features are not used.
        test: Items to score on.
    """

    def __init__(self, arguments: ProbeArguments, num_classes: int, train: Items, test: Items) -> None:
        self.arguments, self.num_classes, self.train, self.test = arguments, num_classes, train, test
        self.paper = paper_settings(arguments.label) if arguments.protocol == "paper" else None
        self.tested = np.arange(len(test.labels))
        if self.paper is not None:
            self.tested = items_tested(len(test.labels), self.paper, arguments.seed)
        self.rows: list[dict[str, Any]] = []
        self.confusions: dict[str, np.ndarray] = {}
        self.weights: dict[str, Any] = {}
        unseen = sorted({int(label) for label in test.labels} - {int(label) for label in train.labels})
        if unseen:
            print(f"classes {unseen} of the test split have no item in the training split: they count as errors")
        disjoint = not set(train.speakers) & set(test.speakers)
        self.group_name = "speakers" if disjoint else "utterances"
        self.labels = test.labels[self.tested]
        self.groups = (test.speakers if disjoint else test.utterances)[self.tested]
        self.train_groups = train.speakers if disjoint else train.utterances
        control = None
        if arguments.label != "speaker_id":
            control = control_labels(
                (train.labels, test.labels), (train.speakers, test.speakers), num_classes, seed=arguments.seed
            )
        self.control = None if control is None else (control[0], control[1][self.tested])
        majority = np.bincount(train.labels, minlength=num_classes).argmax()
        self.score("chance: most frequent class", "chance", "", np.full(len(self.labels), majority))

    def require_same_items(self, train: Items, test: Items) -> None:
        """Refuses features of other items than the task's."""
        if not np.array_equal(train.labels, self.train.labels) or not np.array_equal(test.labels, self.test.labels):
            raise ValueError("the models read different items, so they cannot be compared.")

    def predictions(
        self, features: np.ndarray, labels: np.ndarray, queries: np.ndarray, *, bias: bool, name: str | None = None
    ) -> np.ndarray:
        """Predicted classes of the test items; the weights are kept under a name. `bias` is for the paper's probe."""
        arguments = self.arguments
        if self.paper is not None:
            return paper_predictions(
                features,
                labels,
                queries,
                self.num_classes,
                settings=self.paper,
                bias=bias,
                seed=arguments.seed,
                device=arguments.device,
            )
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

    def add(self, source: Representation, feature: str, features: np.ndarray, queries: np.ndarray) -> None:
        """Fits a probe on training features and scores it on the test's, on the task and on the control task."""
        row = source.row_name(feature)
        features, queries = np.asarray(features), np.asarray(queries)[self.tested]  # from disk
        bias = feature == "context"
        predictions = self.predictions(features, self.train.labels, queries, bias=bias, name=row)
        self.score(row, source.name, feature, predictions)
        if self.control is not None:
            guesses = self.predictions(features, self.control[0], queries, bias=bias)
            self.rows[-1]["control_accuracy"] = float((guesses == self.control[1]).mean())
            self.rows[-1]["selectivity"] = self.rows[-1]["accuracy"]["value"] - self.rows[-1]["control_accuracy"]
        print(_line(self.rows[-1]), file=sys.stderr)

    def score(self, row: str, source: str, feature: str, predictions: np.ndarray) -> None:
        """Adds a row of the table."""
        cells = confusions(self.labels, predictions, self.groups, self.num_classes)
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
        models = names_of(self.arguments.model)
        differences = []
        for source, other in itertools.product(models, dict.fromkeys([UNTRAINED, models[0]])):
            for row in self.rows:
                against = f"{other}, {row['feature']}"
                if source == other or row["source"] != source or against not in self.confusions:
                    continue
                difference = bootstrap_difference(
                    self.confusions[row["name"]], self.confusions[against], accuracy, seed=self.arguments.seed
                )
                differences.append({"name": row["name"], "against": against, "accuracy": vars(difference)})
        return {
            "train_items": len(self.train.labels),
            "test_items": len(self.labels),
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
    return f"{printable(row['name']):<44}{score['value']:>8.1%}  {interval:<16}{f1['value']:>9.1%}{control}"


def table(results: dict[str, Any]) -> str:
    """The results as text."""
    task = f"{printable(results['label'])} of {results['corpus']}, {results['probe']} probe on {results['pooling']}s"
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
            f"{printable(difference['name'])} - {printable(difference['against'])}: {100 * score['value']:+.1f} "
            f"[{100 * score['low']:+.1f}, {100 * score['high']:+.1f}] points"
        )
    return "\n".join(lines)


def draw(results: dict[str, Any], path: Path) -> None:
    """Accuracies with their intervals: a color for each model, gray for controls."""
    rows = results["rows"][::-1]
    figure = Figure(figsize=(8, 1.2 + 0.32 * len(rows)), layout="constrained", dpi=120)
    axis = figure.subplots()
    for height, row in enumerate(rows):
        score = row["accuracy"]
        own = row["source"] in results["models"]
        color, marker = style_of(results["models"].index(row["source"])) if own else (GRAY, "o")
        axis.errorbar(
            score["value"],
            height,
            xerr=[[score["value"] - score["low"]], [score["high"] - score["value"]]],
            fmt=marker,
            capsize=3,
            color=color,
        )
    axis.set_yticks(range(len(rows)), [plot_text(row["name"]) for row in rows], fontsize=9)
    axis.set_xlim(left=0)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.set_xlabel(f"accuracy, with 95 % intervals over {results['intervals_over']}")
    title = f"{plot_text(results['label'])} of {plot_text(results['corpus'])}, {results['probe']} probe"
    axis.set_title(title, loc="left", fontsize=11)
    axis.grid(axis="x", alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def draw_confusion(results: dict[str, Any], path: Path) -> None:
    """Which classes the best module of the first model takes for which."""
    own = [row for row in results["rows"] if row["source"] == results["models"][0]]
    best = max(own, key=lambda row: row["accuracy"]["value"])
    counts = np.array(best["confusion"], dtype=float)
    shown = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
    counts = counts[np.ix_(shown, shown)]
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    names = [plot_text(results["classes"][number]) for number in shown]
    size = 2.5 + 0.2 * max(len(names), 10)
    figure = Figure(figsize=(size + 1, size), layout="constrained", dpi=120)
    axis = figure.subplots()
    picture = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    title = f"{plot_text(results['label'])}: {best['feature']}, {best['accuracy']['value']:.1%}"
    axis.set_title(title, loc="left", fontsize=11)
    figure.colorbar(picture, ax=axis, label="share of the true class", shrink=0.7)
    save_figure(figure, path)
