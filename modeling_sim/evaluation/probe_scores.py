"""Features of one module on the task, and the scores of classifiers on them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from tqdm.auto import tqdm

from modeling_sim.analysis import (
    Interval,
    LinearProbe,
    bootstrap_interval,
    choose_l2,
    fit_linear_probe,
    fit_mlp_probe,
)
from modeling_sim.analysis import knn_predictions as nearest_neighbors
from modeling_sim.analysis.intervals import accuracy, confusions, macro_f1, majority_accuracy
from modeling_sim.analysis.paper_probe import PaperSettings, items_tested, paper_predictions, paper_settings
from modeling_sim.analysis.probes import control_labels
from modeling_sim.analysis.scorecard import SPECTRUM_MODULE, features_name
from modeling_sim.evaluation.cache import Analysis
from modeling_sim.evaluation.feature_store import Items
from modeling_sim.evaluation.models import Frames
from modeling_sim.evaluation.task import LabelTask

CHANCE = {"kind": "chance", "representation": "chance: most frequent class", "module": SPECTRUM_MODULE}
"""Place in results of a classifier without features."""


@dataclass(frozen=True)
class Subject:
    """Features of one module on the task, loaded when a measure first needs them.

    Args:
        task: The label, the factors and the tokens.
        place: Kind, representation and module in results.
        items: Function that returns training and test items.
        moments: Function that returns the items of ABX.
        feature: Name of the module's features in items.
        axes: "own", or a name of `AXES`.
        turn: Transform to these axes, `(items, channels)` to `(items, components)`; `None` for their own.
        frames: Function that returns the module's frames on the test split, for their distribution; `None` if that is
            not measured.
        is_control: Whether the features are a control.
    """

    task: LabelTask
    place: dict[str, str]
    items: Callable[[], tuple[Items, Items]]
    moments: Callable[[], Items]
    feature: str
    axes: str = "own"
    turn: Callable[[np.ndarray], np.ndarray] | None = None
    frames: Callable[[], Frames] | None = None
    is_control: bool = False

    def features(self, items: Items) -> np.ndarray:
        """The features of items, `(items, channels)`."""
        features = np.asarray(items.features[self.feature])
        return np.asarray(features if self.turn is None else self.turn(features), dtype=np.float32)

    @property
    def num_classes(self) -> int:
        """Number of classes of the label."""
        return len(self.task.classes)

    @cached_property
    def train(self) -> np.ndarray:
        """Training features, `(items, channels)`."""
        return self.features(self.items()[0])

    @cached_property
    def test(self) -> np.ndarray:
        """Test features, `(items, channels)`."""
        return self.features(self.items()[1])

    @cached_property
    def groups(self) -> "Groups":
        """Groups of the items."""
        return Groups.of(*self.items())

    def choose_l2(self, labels: np.ndarray) -> float:
        """Penalty of a linear probe for given labels `(items,)` of the training items."""
        arguments = self.task.arguments
        if arguments.l2 is not None:
            return arguments.l2
        return choose_l2(
            self.train, labels, self.groups.train, self.num_classes, seed=arguments.seed, device=arguments.device
        )

    def fit(self, labels: np.ndarray, l2: float) -> LinearProbe:
        """A linear probe for given labels `(items,)` of the training items."""
        return fit_linear_probe(self.train, labels, self.num_classes, l2=l2, device=self.task.arguments.device)

    @cached_property
    def l2(self) -> float:
        """Penalty of the linear probe of the label."""
        return self.choose_l2(self.items()[0].labels)

    @cached_property
    def probe(self) -> LinearProbe:
        """Linear probe of the label."""
        return self.fit(self.items()[0].labels, self.l2)

    @cached_property
    def linear_accuracy(self) -> Interval:
        """Accuracy of the linear probe of the label."""
        test = self.items()[1]
        cells = confusions(test.labels, self.probe.predict(self.test), self.groups.test, self.num_classes)
        return bootstrap_interval(cells, accuracy, seed=self.task.arguments.seed)


@dataclass(frozen=True)
class Groups:
    """Names of groups to draw items by, `(items,)`.

    Speakers if the splits share none and each split has at least two; otherwise utterances.
    """

    name: str
    train: np.ndarray
    test: np.ndarray

    @classmethod
    def of(cls, train: Items, test: Items) -> "Groups":
        """Groups of training and test items."""
        few = min(len(np.unique(train.speakers)), len(np.unique(test.speakers))) < 2
        if few or np.intersect1d(train.speakers, test.speakers).size:
            return cls("utterances", train.utterances, test.utterances)
        return cls("speakers", train.speakers, test.speakers)


def tested_items(task: LabelTask, test: Items) -> np.ndarray:
    """Positions of the test items to score: all, or full batches in the protocol of the paper."""
    settings = _paper(task)
    count = len(test.labels)
    return np.arange(count) if settings is None else items_tested(count, settings, task.arguments.seed)


def _paper(task: LabelTask) -> PaperSettings | None:
    return paper_settings(task.arguments.label) if task.arguments.protocol == "paper" else None


def measure_chance(analysis: Analysis, task: LabelTask, train: Items, test: Items) -> None:
    """Adds the score of the most frequent class, and prints a note on classes without training items."""
    unseen = sorted(set(test.labels.tolist()) - set(train.labels.tolist()))
    if unseen:
        print(f"classes {unseen} of the test split have no item in the training split: they count as errors")
    tested, groups = tested_items(task, test), Groups.of(train, test)
    majority = np.full(len(tested), np.bincount(train.labels).argmax())
    _score(analysis, CHANCE, task, test.labels[tested], majority, groups.test[tested])


def measure_probes(analysis: Analysis, subject: Subject) -> None:
    """Fits the probe to the label and to the control task, and adds their scores."""
    task = subject.task
    arguments, (train, test) = task.arguments, subject.items()
    tested = tested_items(task, test)
    predictions = _predictions(subject, train.labels, tested, analysis=analysis)
    null = majority_accuracy(train.labels, test.labels[tested])
    reached = _score(
        analysis, subject.place, task, test.labels[tested], predictions, subject.groups.test[tested], null=null
    )
    if arguments.label == "speaker_id":
        return
    control = control_labels(
        (train.labels, test.labels), (train.speakers, test.speakers), subject.num_classes, seed=arguments.seed
    )
    if control is None:
        return
    try:
        guesses = _predictions(subject, control[0], tested)
    except ValueError as error:  # with few speakers, there may be no part for choosing a penalty
        name = features_name(subject.place["representation"], subject.place["module"])
        tqdm.write(f"{name}: no control task, since {error}")
        return
    control_accuracy = float((guesses == control[1][tested]).mean())
    analysis.add(subject.place, "control_accuracy", control_accuracy)
    analysis.add(subject.place, "selectivity", reached - control_accuracy)


def _predictions(
    subject: Subject, labels: np.ndarray, tested: np.ndarray, *, analysis: Analysis | None = None
) -> np.ndarray:
    """Predicted classes of the test items after a fit to training labels; `analysis`, if given, keeps the weights."""
    arguments, queries = subject.task.arguments, subject.test[tested]
    paper = _paper(subject.task)
    if paper is not None:
        return paper_predictions(
            subject.train,
            labels,
            queries,
            subject.num_classes,
            settings=paper,
            bias=subject.place["module"] == "context",
            seed=arguments.seed,
            device=arguments.device,
        )
    if arguments.probe == "knn":
        return nearest_neighbors(subject.train, labels, queries)
    if arguments.probe == "mlp":
        network = fit_mlp_probe(
            subject.train, labels, subject.num_classes, seed=arguments.seed, device=arguments.device
        )
        with torch.no_grad():
            return network(torch.from_numpy(queries).to(arguments.device)).argmax(dim=1).cpu().numpy()
    if analysis is None:
        return subject.fit(labels, subject.choose_l2(labels)).predict(queries)
    analysis.weights[features_name(subject.place["representation"], subject.place["module"])] = subject.probe.weight
    return subject.probe.predict(queries)


def _score(
    analysis: Analysis,
    place: dict[str, str],
    task: LabelTask,
    labels: np.ndarray,
    predictions: np.ndarray,
    groups: np.ndarray,
    *,
    null: float | None = None,
) -> float:
    """Adds accuracy and macro F1 with their intervals, and counts; returns the accuracy."""
    arguments, measure = task.arguments, f"{task.arguments.probe}_accuracy"
    cells = confusions(labels, predictions, groups, len(task.classes))
    reached = bootstrap_interval(cells, accuracy, seed=arguments.seed)
    analysis.add(place, measure, **vars(reached), null=null)
    analysis.add(place, "macro_f1", **vars(bootstrap_interval(cells, macro_f1, seed=arguments.seed)))
    analysis.details.append({**place, "measure": measure, "confusion": cells.sum(axis=0).tolist()})
    hits = np.stack([np.trace(cells, axis1=1, axis2=2), cells.sum(axis=(1, 2))], axis=1)
    analysis.hits[place["representation"], place["module"]] = hits
    return reached.value


def measure_neighbors(analysis: Analysis, subject: Subject) -> None:
    """Adds the score of a vote among the nearest training items."""
    train, test = subject.items()
    predictions = nearest_neighbors(subject.train, train.labels, subject.test)
    cells = confusions(test.labels, predictions, subject.groups.test, subject.num_classes)
    interval = bootstrap_interval(cells, accuracy, seed=subject.task.arguments.seed)
    null = majority_accuracy(train.labels, test.labels)
    analysis.add(subject.place, "knn_accuracy", **vars(interval), null=null)
