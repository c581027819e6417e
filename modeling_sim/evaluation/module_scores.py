"""The part of an evaluation that needs no decoder: axes, factors, ABX, the distribution of frames, the objective."""

import itertools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Literal

import numpy as np
from accelerate import Accelerator
from tqdm.auto import tqdm

from modeling_sim import SimForPreTraining
from modeling_sim.analysis import (
    abx,
    accuracy_by_dimensions,
    axis_gaps,
    concentration,
    dci,
    disentanglement,
    gaussianity,
    independent_components,
    principal_components,
    rotation_gap,
    standardized,
    total_correlation,
    whitened,
)
from modeling_sim.analysis.intervals import majority_accuracy
from modeling_sim.analysis.scorecard import features_name
from modeling_sim.data.batches import utterance_batches
from modeling_sim.evaluation.cache import Analysis, AnalysisParts
from modeling_sim.evaluation.feature_store import Items
from modeling_sim.evaluation.models import Frames, frames_of
from modeling_sim.evaluation.probe_scores import Subject, measure_neighbors, measure_probes
from modeling_sim.evaluation.representations import Representation, SimModules
from modeling_sim.evaluation.task import LabelTask
from modeling_sim.provenance import model_fingerprint
from modeling_sim.trainer.held_out import evaluate

ROTATIONS = ("PCA", "ICA")
"""Axes that the features of deterministic models are measured in too."""

ROTATED = 5
"""Random rotations that a trained model's own axes are compared with."""

Score = Callable[[Analysis, Subject], None]
Rotations = dict[str, tuple[np.ndarray, np.ndarray]]


# Dimensions whose histograms are shown, those that vary most.
_SHOWN = 8


def measure_representation(parts: AnalysisParts, task: LabelTask, representation: Representation) -> None:
    """Every measure that the settings name of every feature and, of a deterministic SIM model, of its components.

    Each measure of each feature is a part by itself.
    """
    groups = [group for group in task.arguments.groups() if group in SCORES]
    if "probes" in groups and task.arguments.probe == "knn":
        groups = [group for group in groups if group != "neighbors"]  # the probe is that classifier
    for subject in _subjects(task, representation):
        for group in groups:
            if group == "distribution" and subject.frames is None:
                continue
            key = {"measured": group, **subject.place, **representation.key}
            key |= {"feature": subject.feature, "control": subject.is_control}
            name = f"{group} of {features_name(subject.place['representation'], subject.place['module'])}"
            parts.add(name, key, partial(_measure, SCORES[group], subject))


def _measure(score: Score, subject: Subject, analysis: Analysis) -> None:
    score(analysis, subject)


def _subjects(task: LabelTask, representation: Representation) -> Iterator[Subject]:
    """Features to measure, one after the other."""
    items, moments = cache(partial(task.items, representation)), cache(partial(task.moments, representation))
    if representation.control or not isinstance(representation, SimModules):
        for feature, place in representation.places().items():
            yield Subject(task, place, items, moments, feature, is_control=representation.control)
        return

    @cache  # encoded once for all modules, if any of them has to be measured
    def frames(split: str) -> dict[int, Frames]:
        arguments = task.arguments
        return frames_of(
            representation, task.splits[split], max_frames=arguments.max_frames, batch_size=arguments.batch_size
        )

    is_deterministic = representation.model.config.latent_distribution == "deterministic"
    for feature, place in representation.places().items():
        number = representation.modules[place["module"]]
        own = Subject(task, place, items, moments, feature, frames=partial(_frames_at, frames, number))
        yield own
        rotations = cache(partial(_train_rotations, frames, number, task.arguments.seed))
        for method in ROTATIONS if is_deterministic else ():
            yield _rotated(own, method, rotations)


def _frames_at(frames: Callable[[str], dict[int, Frames]], number: int) -> Frames:
    return frames("test")[number]


def _train_rotations(frames: Callable[[str], dict[int, Frames]], number: int, seed: int) -> Rotations:
    return _rotations(frames("train")[number].means, seed)


def _rotated(own: Subject, method: str, rotations: Callable[[], Rotations]) -> Subject:
    """A module in other axes, which `rotations` gives by method."""

    def turn(values: np.ndarray) -> np.ndarray:
        center, axes = rotations()[method]
        return (values - center) @ axes

    def frames() -> Frames:
        return Frames(turn(own.frames().means), None)  # type: ignore[misc]

    names = {name: f"{own.place[name]} + {method}" for name in ("kind", "representation")}
    return replace(own, place={**own.place, **names}, turn=turn, frames=frames, is_control=True)


def _rotations(frames: np.ndarray, seed: int) -> Rotations:
    """Centre `(dims,)` and change of axes `(dims, dims or fewer)` to principal and to independent components.

    Both are found on frames of the training split and without labels. Directions in which the frames do not vary are
    left out, and independent components, whose size is open, get variance 1.
    """
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415 - of the extra `analysis`

    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # such components are as good a control
        transforms = {
            "PCA": principal_components(frames),
            "ICA": independent_components(frames, max_frames=10_000, seed=seed),
        }
    center = frames.mean(axis=0)
    for method, transform in transforms.items():
        axes = transform.matrix.numpy()
        deviation = ((frames - center) @ axes).std(axis=0)
        kept = deviation > 1e-3 * deviation.max()
        found[method] = (center, axes[:, kept] / (deviation[kept] if method == "ICA" else 1.0))
    return found


# ---------------------------------------------------------------------- measures of features


def measure_concentration(analysis: Analysis, subject: Subject) -> None:
    """How many dimensions the linear probe of the label needs, and whether its axes mean anything."""
    arguments, (train, test) = analysis.arguments, subject.items()
    place, probe = subject.place, subject.probe
    outcome = concentration(
        subject.train,
        train.labels,
        subject.test,
        test.labels,
        subject.num_classes,
        probe=probe,
        l2=subject.l2,
        seed=arguments.seed,
        device=arguments.device,
    )
    summary = outcome.summary()
    analysis.add(place, "gini", summary["gini"])
    analysis.add(place, "single_best_accuracy", summary["single_best_accuracy"], null=summary["single_best_control"])
    # As shares: spaces of different sizes are compared. What tells nothing needs one dimension for it.
    num_dims = subject.train.shape[1]
    tells = subject.linear_accuracy.low > majority_accuracy(train.labels, test.labels)
    analysis.add(place, "effective_dimensions", summary["effective_dimensions"] / num_dims)
    if tells:
        analysis.add(place, "k95", summary["k95"] / num_dims, null=_turned_k95(subject))
    else:
        analysis.add(place, "k95", None)
    analysis.add(
        place, "rotation_gap", summary["rotation_gap"], summary["rotation_gap_low"], summary["rotation_gap_high"]
    )
    by_dimensions = outcome.by_dimensions
    analysis.curve(
        "accuracy_by_dimensions",
        place,
        ks=by_dimensions.ks.tolist(),
        values=by_dimensions.accuracies.tolist(),
        chance=by_dimensions.chance,
    )
    if not subject.is_control:
        analysis.curve("probe_weights", place, values=np.abs(probe.weight).tolist(), classes=subject.task.classes)


def _turned_k95(subject: Subject) -> float | None:
    """Share of dimensions for 95 % on random axes, the mean of some; `None` of a control, which is one itself."""
    if subject.is_control:
        return None
    arguments, (train, test) = subject.task.arguments, subject.items()
    count = len(subject.train)

    def share(points: np.ndarray) -> float:
        outcome = accuracy_by_dimensions(
            points[:count],
            train.labels,
            points[count:],
            test.labels,
            subject.num_classes,
            l2=subject.l2,
            device=arguments.device,
        )
        return outcome.k95 / points.shape[1]

    points = np.concatenate([subject.train, subject.test])
    return float(rotation_gap(share, points, num_rotations=ROTATED, seed=arguments.seed).rotated.mean())


def measure_disentanglement(analysis: Analysis, subject: Subject) -> None:
    """DCI by two models, MIG, SAP and modularity, of the factors."""
    _, test = subject.items()
    factors, seed = subject.task.factors(test), analysis.arguments.seed
    if len(factors) < 2:
        return
    outcome = disentanglement(subject.test, factors, groups=test.utterances, seed=seed)
    forest = dci(subject.test, factors, groups=test.utterances, model="forest", seed=seed)
    for measure, value, null in (
        ("dci_disentanglement", outcome.dci.disentanglement, lambda of: of.dci.disentanglement),
        ("dci_completeness", outcome.dci.completeness, lambda of: of.dci.completeness),
        ("dci_informativeness", outcome.dci.informativeness, lambda of: of.dci.informativeness),
        ("dci_forest_disentanglement", forest.disentanglement, None),
        ("mutual_information_gap", outcome.mutual_information_gap.gap, lambda of: of.mutual_information_gap.gap),
        (
            "separated_attribute_predictability",
            outcome.separated_attribute_predictability.gap,
            lambda of: of.separated_attribute_predictability.gap,
        ),
        ("modularity", outcome.modularity_explicitness.modularity, lambda of: of.modularity_explicitness.modularity),
    ):
        known = null is not None and outcome.permuted is not None
        analysis.add(subject.place, measure, value, null=null(outcome.permuted) if known else None)  # type: ignore[misc]
    if not subject.is_control:
        _axis_gaps(analysis, subject, factors, test)


def _axis_gaps(analysis: Analysis, subject: Subject, factors: dict[str, np.ndarray], test: Items) -> None:
    """How far the axes are ahead of random ones in DCI, MIG, SAP and the best dimension of each factor."""
    place = subject.place
    gaps = axis_gaps(subject.test, factors, test.utterances, num_rotations=ROTATED, seed=analysis.arguments.seed)
    for measure in (
        "dci_disentanglement",
        "dci_completeness",
        "mutual_information_gap",
        "separated_attribute_predictability",
        "best_dimension",
    ):
        analysis.add(place, f"{measure}_gap", **vars(gaps[measure].interval))
    best = gaps["best_dimension"]
    analysis.add(place, "best_dimension", best.aligned, null=float(best.rotated.mean()))
    analysis.curve(
        "best_dimensions",
        place,
        factors=list(factors),
        values=[gaps[f"best_{name}"].aligned for name in factors],
        rotated=[float(gaps[f"best_{name}"].rotated.mean()) for name in factors],
    )


def measure_abx(analysis: Analysis, subject: Subject) -> None:
    """ABX of the label, within speakers and, where there are several, across them; of phones also within triphones."""
    arguments, place, moments = analysis.arguments, subject.place, subject.moments()
    features, tokens = subject.features(moments), subject.task.tokens(moments)
    segments = [features[start:end] for start, end in zip(tokens.starts, tokens.ends, strict=True)]
    modes: tuple[Literal["within", "across"], ...] = ("within", "across")
    endings = ("", "_triphone") if subject.task.of_frames else ("",)
    for mode, ending in itertools.product(modes[: len(set(tokens.speakers.tolist()))], endings):
        try:
            score = abx(
                segments,
                tokens.phones.tolist(),
                tokens.speakers.tolist(),
                tokens.contexts if ending else None,
                mode=mode,
                max_tokens=arguments.max_tokens,
                seed=arguments.seed,
            )
        except ValueError as error:  # as where the label is the speaker
            tqdm.write(f"abx_{mode}{ending} of {place['representation']} is skipped: {error}")
            continue
        measure = f"abx_{mode}{ending}"
        analysis.add(place, measure, score.error)
        counts = {"num_pairs": score.num_pairs, "num_triples": score.num_triples}
        analysis.details.append({**place, "measure": measure, **counts})


def measure_distribution(analysis: Analysis, subject: Subject) -> None:
    """How near a module's frames are to N(0, I), and how far its dimensions depend on each other.

    The size of components is a convention, so of them only the shape is measured.
    """
    if subject.frames is None:
        return
    frames, place, is_own = subject.frames(), subject.place, subject.turn is None
    seed = analysis.arguments.seed
    varying = frames.means.std(axis=0) > 1e-6 * frames.means.std()
    means = frames.means[:, varying]
    log_variances = None if frames.log_variances is None else frames.log_variances[:, varying]
    outcome = gaussianity(means, log_variances, seed=seed)
    summary = outcome.summary()
    analysis.add(place, "kl", summary["kl"])
    if is_own:
        for measure in ("active_units", "wasserstein", "kolmogorov_smirnov", "mmd"):
            analysis.add(place, measure, summary[measure])
        of_means = outcome if log_variances is None else gaussianity(means, seed=seed)
        for measure in ("wasserstein", "mmd"):
            analysis.add(place, f"{measure}_means", of_means.summary()[measure])
    z_scored = standardized(means)
    analysis.add(place, "wasserstein_standardised", float(np.median(gaussianity(z_scored, seed=seed).wasserstein)))
    analysis.add(place, "mmd_whitened", gaussianity(whitened(means), seed=seed).mmd)
    for measure, copula in (("total_correlation", False), ("total_correlation_copula", True)):
        analysis.add(
            place, measure, total_correlation(z_scored, copula=copula, shrinkage=1e-3, seed=seed).per_dimension
        )
    if not is_own:
        return
    if outcome.kl_per_dimension is not None:
        analysis.curve("kl_spectrum", place, values=np.sort(outcome.kl_per_dimension)[::-1].tolist())
    edges = np.linspace(-4, 4, 41)
    shown = np.argsort(-means.var(axis=0))[:_SHOWN]
    densities = [  # of all frames, those outside of the edges included
        (np.histogram(means[:, dim], edges)[0] / (len(means) * np.diff(edges))).tolist() for dim in shown
    ]
    analysis.curve(
        "histograms",
        place,
        edges=edges.tolist(),
        densities=densities,
        dimensions=np.flatnonzero(varying)[shown].tolist(),
    )
    analysis.curve("correlation", place, values=np.round(np.atleast_2d(np.corrcoef(means.T)), 3).tolist())


SCORES: dict[str, Score] = {
    "probes": measure_probes,
    "neighbors": measure_neighbors,
    "concentration": measure_concentration,
    "disentanglement": measure_disentanglement,
    "abx": measure_abx,
    "distribution": measure_distribution,
}
"""Measures of features, by the group that the setting `measures` names."""


def measure_objective(parts: AnalysisParts, task: LabelTask, path: str, of: SimModules) -> None:
    """Contrastive accuracy on the held-out split, of a model that has a contrastive loss."""
    if "SimForPreTraining" not in (of.model.config.architectures or []):
        return
    model = SimForPreTraining.from_pretrained(path).float().to(of.model.device).eval()

    def measure(analysis: Analysis) -> None:
        batches = utterance_batches(task.splits["test"], of.extractor, batch_size=16, cut=True)
        accelerator = Accelerator(cpu=of.model.device.type == "cpu")
        scores = evaluate(model, batches, accelerator, description=f"objective of {of.name}")
        for place in of.places().values():
            value = scores[of.modules[place["module"]]].contrastive_accuracy
            null = 1 / (model.config.num_negatives + 1)
            analysis.add(place, "contrastive_accuracy", value if np.isfinite(value) else None, null=null)

    # The predictors of the loss are no part of the encoder that `of` knows itself by.
    key = {"measured": "objective", "kind": of.kind, "representation": of.name, **of.key, "modules": of.modules}
    parts.add(f"objective of {of.name}", {**key, "of": model_fingerprint(model)}, measure)
