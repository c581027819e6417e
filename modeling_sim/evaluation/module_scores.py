"""The part of an evaluation that needs no decoder: axes, factors, ABX, the distribution of frames, the objective."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, Literal

import numpy as np
from accelerate import Accelerator
from tqdm.auto import tqdm

from modeling_sim import SimConfig, SimForPreTraining
from modeling_sim.analysis import (
    BestDimensions,
    LinearTransform,
    abx,
    accuracy_by_dimensions,
    axis_gaps,
    best_dimensions,
    concentration,
    dci,
    disentanglement,
    gaussianity,
    linear_r2,
    rotation_gap,
    standardized,
    total_correlation,
    whitened,
)
from modeling_sim.analysis.intervals import majority_accuracy
from modeling_sim.analysis.scorecard import PROPERTY_NAMES, PROPERTY_OF_COLUMN, SPECTRUM_MODULE, features_name
from modeling_sim.data.batches import utterance_batches
from modeling_sim.data.corpora.alignments import LABEL_RATE
from modeling_sim.evaluation.axes import fit_axes, place_in_axes
from modeling_sim.evaluation.cache import Analysis, AnalysisParts
from modeling_sim.evaluation.clips import record_moments
from modeling_sim.evaluation.models import Frames, frames_of
from modeling_sim.evaluation.probe_scores import Subject, measure_neighbors, measure_probes
from modeling_sim.evaluation.representations import Representation, SimModules, Spectra
from modeling_sim.evaluation.task import LabelTask
from modeling_sim.loading import load_model
from modeling_sim.provenance import model_fingerprint
from modeling_sim.trainer.held_out import evaluate

OF_AXES = ("concentration", "disentanglement", "distribution")
"""Groups of measures that depend on the axes; features in other axes are measured by these."""

ROTATED = 5
"""Number of random rotations that a trained model's own axes are compared with."""

Score = Callable[[Analysis, Subject], None]


# Number of dimensions in the report's histograms: those that vary most.
_SHOWN = 8


# Number of dimensions whose largest and smallest frames are played: those with the largest correlations.
_PLAYED = 4


def measure_representation(
    parts: AnalysisParts, task: LabelTask, representation: Representation, *, with_clips: bool
) -> None:
    """Measures every feature of a representation, and, in measures that depend on the axes, its components.

    Each group of measures of each feature is one part. Untrained networks are measured in their own axes only.

    Args:
        parts: Collects the results.
        task: The label and its data.
        representation: The representation.
        with_clips: Also add clips of the extreme frames of single dimensions, for the report.
    """
    arguments = task.arguments
    groups = [group for group in arguments.groups() if group in SCORES]
    if "probes" in groups and arguments.probe == "knn":
        groups = [group for group in groups if group != "neighbors"]  # the probe is the same classifier
    other_axes = arguments.other_axes() if {*OF_AXES, "consistency"} & set(arguments.groups()) else []
    if representation.control and not isinstance(representation, Spectra):
        other_axes = []
    key = {**representation.key, "axes_minutes": arguments.axes_minutes}
    if other_axes:
        fit = partial(fit_axes, task=task, representation=representation, axes=other_axes)
        of_axes = {"measured": "axes", "axes": other_axes, "places": representation.places()}
        parts.add(f"axes of {representation.name}", {**key, **of_axes}, fit)
    for own in _subjects(task, representation):
        _measure_subject(parts, own, groups, representation.key)
        if with_clips and "disentanglement" in groups:
            _measure_subject(parts, own, ["moments"], representation.key)
        for axes in other_axes:
            other = _in_axes(own, axes, parts.analysis.transforms)
            if other is not None:
                _measure_subject(parts, other, [group for group in groups if group in OF_AXES], key)


def _measure_subject(parts: AnalysisParts, subject: Subject, groups: Sequence[str], key: Mapping[str, Any]) -> None:
    """Adds a part for each group of measures."""
    for group in groups:
        if group == "distribution" and subject.frames is None:
            continue
        of_group = {"measured": group, **subject.place, "feature": subject.feature, "control": subject.is_control}
        if group in ("moments", "distribution"):
            of_group["dims"] = subject.task.arguments.chosen_dims()
        score = play_moments if group == "moments" else SCORES[group]
        name = f"{group} of {features_name(subject.place['representation'], subject.place['module'])}"
        parts.add(name, {**key, **of_group}, partial(_measure, score, subject))


def _measure(score: Score, subject: Subject, analysis: Analysis) -> None:
    score(analysis, subject)


def _subjects(task: LabelTask, representation: Representation) -> Iterator[Subject]:
    """Yields the features to measure, in their own axes."""
    items, moments = cache(partial(task.items, representation)), cache(partial(task.moments, representation))
    if representation.control or not isinstance(representation, SimModules):
        for feature, place in representation.places().items():
            yield Subject(task, place, items, moments, feature, is_control=representation.control)
        return

    @cache  # encoded once for all modules, only if one of them must be measured
    def frames() -> dict[int, Frames]:
        arguments = task.arguments
        return frames_of(
            representation, task.splits["test"], max_frames=arguments.max_frames, batch_size=arguments.batch_size
        )

    for feature, place in representation.places().items():
        of_module = partial(_frames_at, frames, representation.modules[place["module"]])
        yield Subject(task, place, items, moments, feature, frames=of_module)


def _frames_at(frames: Callable[[], dict[int, Frames]], number: int) -> Frames:
    return frames()[number]


def _in_axes(own: Subject, axes: str, transforms: Mapping[str, LinearTransform]) -> Subject | None:
    """A feature in other axes, if they could be found."""
    place = place_in_axes(own.place, axes)
    transform = transforms.get(features_name(place["representation"], place["module"]))
    if transform is None:
        return None
    frames = None if own.frames is None else partial(_transformed_frames, own.frames, transform)
    return replace(own, place=place, axes=axes, turn=transform.apply, frames=frames, is_control=True)


def _transformed_frames(frames: Callable[[], Frames], transform: LinearTransform) -> Frames:
    return Frames(transform.apply(frames().means), None)


# ---------------------------------------------------------------------- measures of features


def measure_concentration(analysis: Analysis, subject: Subject) -> None:
    """Measures how many dimensions the linear probe of the label needs, and whether axes matter for it."""
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
    # As fractions, to compare spaces of different sizes. At chance, one dimension is enough, which is meaningless.
    num_dims = subject.train.shape[1]
    is_above_chance = subject.linear_accuracy.low > majority_accuracy(train.labels, test.labels)
    analysis.add(place, "effective_dimensions", summary["effective_dimensions"] / num_dims)
    if is_above_chance:
        analysis.add(place, "k95", summary["k95"] / num_dims, null=_k95_of_random_axes(subject))
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


def _k95_of_random_axes(subject: Subject) -> float | None:
    """Mean fraction of dimensions for 95 % on random axes; `None` for a control."""
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
    """Measures DCI by two models, MIG, SAP, modularity, and how well one or all dimensions predict each property."""
    _, test = subject.items()
    factors, seed = subject.task.factors(test), analysis.arguments.seed
    if len(factors.values) < 2:
        return
    codes, groups = subject.test[factors.items], test.utterances[factors.items]
    outcome = disentanglement(codes, factors.values, groups=groups, seed=seed)
    forest = dci(codes, factors.values, groups=groups, model="forest", seed=seed)
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
    best = best_dimensions(codes, factors.all)
    gaps = None
    # Spectra are the strongest control of interpretable axes, stronger than untrained networks. Components of all other
    # axes are white, so random axes of temporal components are a control for all of them.
    is_spectrum = subject.place["module"] == SPECTRUM_MODULE
    if subject.axes == "temporal" or (subject.axes == "own" and (is_spectrum or not subject.is_control)):
        gaps = axis_gaps(codes, factors.values, groups, factors.properties, num_rotations=ROTATED, seed=seed)
        for measure in (*_GAPS, "best_dimension"):
            analysis.add(subject.place, f"{measure}_gap", **vars(gaps[measure].interval))
    rotated = {name: None if gaps is None else gaps[f"best_{name}"].rotated for name in factors.all}
    _add_best(analysis, subject.place, best, rotated)
    if subject.axes == "own":  # the others have the same, except for dropped components
        for key, name in _reported(factors.values):
            if (values := factors.values[name]).dtype.kind == "f":
                analysis.add(subject.place, f"linear_{key}", linear_r2(codes, values, groups, seed=seed), null=0.0)


_GAPS = ("dci_disentanglement", "dci_completeness", "mutual_information_gap", "separated_attribute_predictability")


def _reported(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Keys of `PROPERTY_NAMES` and names, of those names that have a key."""
    reported = {key for key, _, _ in PROPERTY_NAMES}
    return ((key, name) for name in names if (key := PROPERTY_OF_COLUMN.get(name, name)) in reported)


def _add_best(
    analysis: Analysis, place: dict[str, str], best: BestDimensions, rotated: dict[str, np.ndarray | None]
) -> None:
    """Adds the best dimension of each property, and those of random axes, `(rotations,)`, if measured."""
    nulls = [float(values.mean()) for values in rotated.values() if values is not None]
    value = float(np.mean(list(best.correlation.values())))
    analysis.add(place, "best_dimension", value, null=float(np.mean(nulls)) if nulls else None)
    for key, name in _reported(rotated):
        values = rotated[name]
        null = None if values is None else float(values.mean())
        analysis.add(place, f"best_{key}", best.correlation[name], null=null)
    analysis.curve(
        "best_dimensions",
        place,
        properties=[PROPERTY_OF_COLUMN.get(name, name) for name in rotated],
        dimensions=[best.dimension[name] for name in rotated],
        values=[best.correlation[name] for name in rotated],
        rotated=[None if values is None else values.tolist() for values in rotated.values()],
    )


def play_moments(analysis: Analysis, subject: Subject) -> None:
    """Adds the extreme frames of the chosen dimensions, or of those that correlate most with a property.

    Titles name the properties that a dimension is best for.
    """
    task, (_, test) = subject.task, subject.items()
    factors = task.factors(test)
    if task.pooling == "mean" or not factors.all:
        return
    best = best_dimensions(subject.test[factors.items], factors.all)
    names: dict[int, list[str]] = {}
    for name in sorted(factors.all, key=lambda name: -best.correlation[name]):
        names.setdefault(best.dimension[name], []).append(f"{name} {best.correlation[name]:.2f}")
    chosen = [dim for dim in task.arguments.chosen_dims() if dim < subject.test.shape[1]]
    for dimension in chosen or list(names)[:_PLAYED]:
        values = standardized(subject.test[:, [dimension]])[:, 0]
        title = f"dimension {dimension}" + f", best for {', '.join(names.get(dimension, []))}" * (dimension in names)
        record_moments(analysis.media, values, test, task.splits["test"], title, LABEL_RATE, **subject.place)


def measure_abx(analysis: Analysis, subject: Subject) -> None:
    """Measures ABX of the label within speakers and, if there are several, across; for phones also within triphones."""
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
        except ValueError as error:  # for example if the label is the speaker
            tqdm.write(f"abx_{mode}{ending} of {place['representation']} is skipped: {error}")
            continue
        measure = f"abx_{mode}{ending}"
        analysis.add(place, measure, score.error)
        counts = {"num_pairs": score.num_pairs, "num_triples": score.num_triples}
        analysis.details.append({**place, "measure": measure, **counts})


def measure_distribution(analysis: Analysis, subject: Subject) -> None:
    """Measures how close frames are to N(0, I), and how much their dimensions depend on each other.

    The scale of components in other axes is arbitrary, so only the shape of their distribution is measured.
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
    if is_own:
        analysis.add(place, "kl", summary["kl"])
        for measure in ("active_units", "wasserstein", "kolmogorov_smirnov", "mmd"):
            analysis.add(place, measure, summary[measure])
        of_means = outcome if log_variances is None else gaussianity(means, seed=seed)
        for measure in ("wasserstein", "mmd"):
            analysis.add(place, f"{measure}_means", of_means.summary()[measure])
    z_scored = standardized(means)
    analysis.add(place, "wasserstein_standardized", float(np.median(gaussianity(z_scored, seed=seed).wasserstein)))
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
    chosen = [dim for dim in analysis.arguments.chosen_dims() if dim < len(varying) and varying[dim]]
    # Indices among the dimensions that vary.
    shown = np.searchsorted(np.flatnonzero(varying), chosen) if chosen else np.argsort(-means.var(axis=0))[:_SHOWN]
    densities = [  # relative to all frames, including those outside of the edges
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
"""Measures of features, by their group in the setting `measures`."""


def measure_objective(parts: AnalysisParts, task: LabelTask, path: str, of: SimModules) -> None:
    """Measures the contrastive accuracy on the held-out split, if the model has a contrastive loss."""
    if "SimForPreTraining" not in (of.model.config.architectures or []):
        return
    model = load_model(SimForPreTraining, path, SimConfig.from_pretrained(path)).to(of.model.device)

    def measure(analysis: Analysis) -> None:
        batches = utterance_batches(task.splits["test"], of.extractor, batch_size=16, cut=True)
        accelerator = Accelerator(cpu=of.model.device.type == "cpu")
        scores = evaluate(model, batches, accelerator, description=f"objective of {of.name}")
        for place in of.places().values():
            value = scores[of.modules[place["module"]]].contrastive_accuracy
            null = 1 / (model.config.num_negatives + 1)
            analysis.add(place, "contrastive_accuracy", value if np.isfinite(value) else None, null=null)

    # The fingerprint of `of` covers the encoder without the predictors of the loss.
    key = {"measured": "objective", "kind": of.kind, "representation": of.name, **of.key, "modules": of.modules}
    parts.add(f"objective of {of.name}", {**key, "of": model_fingerprint(model)}, measure)
