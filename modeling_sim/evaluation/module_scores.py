"""The part of the scorecard that needs no decoder: probes, axes, factors and the distribution of frames."""

import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from modeling_sim import SimForPreTraining
from modeling_sim.analysis import (
    abx,
    choose_l2,
    concentration,
    dci,
    disentanglement,
    fit_linear_probe,
    gaussianity,
    independent_components,
    knn_predictions,
    principal_components,
    standardized,
    total_correlation,
    whitened,
)
from modeling_sim.analysis.decoding import scale_of
from modeling_sim.analysis.intervals import accuracy, bootstrap_interval, confusions
from modeling_sim.analysis.probes import control_labels
from modeling_sim.analysis.scorecard import SPECTRUM_MODULE
from modeling_sim.data.batches import utterance_batches
from modeling_sim.evaluation.cache import AnalysisParts
from modeling_sim.evaluation.feature_store import Items
from modeling_sim.evaluation.models import AnalyzedModel, Frames, frames_of
from modeling_sim.evaluation.representations import SimModules, Spectra
from modeling_sim.evaluation.results import Analysis, LabelTask
from modeling_sim.provenance import model_fingerprint
from modeling_sim.trainer.held_out import evaluate

SPECTRUM = "log-mel"


# Dimensions whose histograms are shown, those that vary most.
_SHOWN = 8


def measure_model(parts: AnalysisParts, task: LabelTask, of: AnalyzedModel, *, is_control: bool) -> None:
    """Probes, concentration and disentanglement of every module, and the distribution of its frames; a part each."""
    arguments = task.arguments

    @cache  # encoded once for all modules, if any of them has to be measured
    def frames(split: str) -> dict[int, Frames]:
        data = task.splits[split]
        return frames_of(of, data, max_frames=arguments.max_frames, batch_size=arguments.batch_size)

    for name, module in of.modules.items():
        row = {"kind": of.kind, "model": of.name, "module": name}
        key = {"measured": "module", **row, **of.key, "number": module, "control": is_control}
        measure = partial(_measure_module, task=task, of=of, row=row, frames=None if is_control else frames)
        try:
            parts.add(key, measure)
        except ValueError as error:  # as of a module that has collapsed
            tqdm.write(f"{name} of {of.name} is left out: {error}")


def _measure_module(
    analysis: Analysis,
    task: LabelTask,
    of: AnalyzedModel,
    row: dict[str, str],
    frames: Callable[[str], dict[int, Frames]] | None,
) -> None:
    """A module in its own axes and, if it is deterministic, in others; `frames` of a split, `None` for a control."""
    config, module = of.model.config, of.modules[row["module"]]
    items = task.items(SimModules(of.name, of.model, of.extractor, list(of.modules.values())))
    features = [np.asarray(part.features[config.module_names[module]]) for part in items]
    measure_features(analysis, row, task, features, items, in_full=frames is not None)
    if frames is None:
        return
    own = frames("test")[module]
    measure_distribution(analysis, row, own)
    if config.latent_distribution != "deterministic":
        return
    for method, (center, axes) in _rotations(frames("train")[module].means, analysis.arguments.seed).items():
        rotated = {**row, "kind": f"{of.kind} + {method}", "model": f"{of.name} + {method}"}
        measure_features(analysis, rotated, task, [(part - center) @ axes for part in features], items)
        measure_distribution(analysis, rotated, Frames((own.means - center) @ axes, None), is_own=False)


def measure_spectrum(parts: AnalysisParts, task: LabelTask) -> None:
    """What the spectrum itself tells."""
    row = {"kind": SPECTRUM, "model": SPECTRUM, "module": SPECTRUM_MODULE}
    items = task.items(Spectra())
    features = [np.asarray(part.features[SPECTRUM]) for part in items]
    parts.add({"measured": "spectrum"}, lambda analysis: measure_features(analysis, row, task, features, items))


def _rotations(frames: np.ndarray, seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Centre `(dims,)` and change of axes `(dims, dims or fewer)` to principal and to independent components.

    Both are found on frames of the training split and without labels. Directions in which the frames do not vary are
    left out, and independent components, whose size is open, get variance 1.
    """
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415 - of the extra `analysis`

    center, latents = frames.mean(axis=0), torch.from_numpy(frames)[None]
    scale = scale_of(latents).numpy()
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # such components are as good a control
        transforms = {
            "PCA": principal_components(latents),
            "ICA": independent_components(latents, max_frames=10_000, seed=seed),
        }
    for method, transform in transforms.items():
        axes = transform.matrix.numpy() / scale[:, None]
        deviation = ((frames - center) @ axes).std(axis=0)
        kept = deviation > 1e-3 * deviation.max()
        found[method] = (center, axes[:, kept] / (deviation[kept] if method == "ICA" else 1.0))
    return found


def measure_features(
    analysis: Analysis,
    row: dict[str, str],
    task: LabelTask,
    features: Sequence[np.ndarray],
    items: tuple[Items, Items, Items],
    *,
    in_full: bool = False,
) -> None:
    """Probes of the label, how many dimensions they use, how factors lie in the dimensions, and ABX.

    Args:
        analysis: Gets the results.
        row: Kind, model and module.
        task: The label.
        features: Of the items to train on, of those to test on, and at moments of the test split.
        items: What these are.
        in_full: These are a trained model's own axes, no control: draw the probe's weights.
    """
    arguments, (train, test, moments) = analysis.arguments, items
    train_features, test_features, every_moment = (np.asarray(part, dtype=np.float32) for part in features)
    l2 = choose_l2(train_features, train.labels, train.utterances, task.num_classes, seed=arguments.seed)
    probe = fit_linear_probe(train_features, train.labels, task.num_classes, l2=l2, device=arguments.device)
    predictions = probe.predict(test_features)
    neighbours = knn_predictions(train_features, train.labels, test_features)
    chance = float(np.mean(test.labels == np.bincount(train.labels).argmax()))
    reached = {}
    for measure, guesses in (("linear_accuracy", predictions), ("knn_accuracy", neighbours)):
        cells = confusions(test.labels, guesses, test.utterances, task.num_classes)
        interval = reached[measure] = bootstrap_interval(cells, accuracy, seed=arguments.seed)
        analysis.add(row, measure, interval.value, interval.low, interval.high, null=chance)
    read = reached["linear_accuracy"]
    _selectivity(analysis, row, task, train_features, test_features, (train, test), l2, read.value)
    outcome = concentration(
        train_features,
        train.labels,
        test_features,
        test.labels,
        task.num_classes,
        probe=probe,
        l2=l2,
        seed=arguments.seed,
        device=arguments.device,
    )
    summary = outcome.summary()
    analysis.add(row, "gini", summary["gini"])
    analysis.add(row, "single_best_accuracy", summary["single_best_accuracy"], null=summary["single_best_control"])
    # As shares: spaces of different sizes are compared. What tells nothing needs one dimension for it.
    num_dims, tells = train_features.shape[1], read.low > chance
    analysis.add(row, "effective_dimensions", summary["effective_dimensions"] / num_dims)
    analysis.add(row, "k95", summary["k95"] / num_dims if tells else None)
    analysis.add(
        row, "rotation_gap", summary["rotation_gap"], summary["rotation_gap_low"], summary["rotation_gap_high"]
    )
    by_dimensions = outcome.by_dimensions
    analysis.curve(
        "accuracy_by_dimensions",
        row,
        ks=by_dimensions.ks.tolist(),
        values=by_dimensions.accuracies.tolist(),
        chance=by_dimensions.chance,
    )
    if in_full:
        analysis.curve("probe_weights", row, values=np.abs(probe.weight).tolist(), classes=task.class_names())
    if len(task.factors) > 1:
        _disentanglement(analysis, row, task, test_features, test)
    _discriminability(analysis, row, task, every_moment, moments)


def _selectivity(
    analysis: Analysis,
    row: dict[str, str],
    task: LabelTask,
    train_features: np.ndarray,
    test_features: np.ndarray,
    parts: tuple[Items, Items],
    l2: float,
    reached: float,
) -> None:
    """Accuracy less that on a control task, where there is one."""
    arguments = analysis.arguments
    if arguments.label == "speaker_id":
        return
    control = control_labels(
        [items.labels for items in parts], [items.speakers for items in parts], task.num_classes, seed=arguments.seed
    )
    if control is None:
        return
    probe = fit_linear_probe(train_features, control[0], task.num_classes, l2=l2, device=arguments.device)
    analysis.add(row, "selectivity", reached - float(np.mean(probe.predict(test_features) == control[1])))


def _disentanglement(analysis: Analysis, row: dict[str, str], task: LabelTask, codes: np.ndarray, test: Items) -> None:
    """DCI by two models, MIG, SAP and modularity, of the factors."""
    position = {name: number for number, name in enumerate(task.splits["test"]["id"][:])}
    order = [position[name] for name in test.utterances]
    factors = {name: values[order] for name, values in task.factors.items()}
    seed = analysis.arguments.seed
    outcome = disentanglement(codes, factors, groups=test.utterances, seed=seed)
    forest = dci(codes, factors, groups=test.utterances, model="forest", seed=seed)
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
        analysis.add(row, measure, value, null=null(outcome.permuted) if known else None)  # type: ignore[misc]


def _discriminability(
    analysis: Analysis, row: dict[str, str], task: LabelTask, features: np.ndarray, moments: Items
) -> None:
    """ABX of the label, within speakers and, where there are several, across them."""
    tokens = task.tokens(moments)
    segments = [features[start:end] for start, end in zip(tokens.starts, tokens.ends, strict=True)]
    modes: tuple[Literal["within", "across"], ...] = ("within", "across")
    for mode in modes[: len(set(tokens.speakers.tolist()))]:
        try:
            score = abx(
                segments, tokens.phones.tolist(), tokens.speakers.tolist(), mode=mode, seed=analysis.arguments.seed
            )
        except ValueError as error:  # as where the label is the speaker
            tqdm.write(f"ABX {mode} speakers of {row['model']} is left out: {error}")
            continue
        analysis.add(row, f"abx_{mode}", score.error)


def measure_distribution(analysis: Analysis, row: dict[str, str], frames: Frames, *, is_own: bool = True) -> None:
    """How near a module's frames are to N(0, I), and how far its dimensions depend on each other.

    Args:
        analysis: Gets the results.
        row: Kind, model and module.
        frames: Of the module.
        is_own: Whether these are the module's own dimensions. The size of other components is a convention, so only
            their shape is measured.
    """
    seed = analysis.arguments.seed
    varying = frames.means.std(axis=0) > 1e-6 * frames.means.std()
    means = frames.means[:, varying]
    log_variances = None if frames.log_variances is None else frames.log_variances[:, varying]
    outcome = gaussianity(means, log_variances, seed=seed)
    summary = outcome.summary()
    analysis.add(row, "kl", summary["kl"])
    if is_own:
        for measure in ("active_units", "wasserstein", "kolmogorov_smirnov", "mmd"):
            analysis.add(row, measure, summary[measure])
        of_means = outcome if log_variances is None else gaussianity(means, seed=seed)
        for measure in ("wasserstein", "mmd"):
            analysis.add(row, f"{measure}_means", of_means.summary()[measure])
    z_scored = standardized(means)
    analysis.add(row, "wasserstein_standardised", float(np.median(gaussianity(z_scored, seed=seed).wasserstein)))
    analysis.add(row, "mmd_whitened", gaussianity(whitened(means), seed=seed).mmd)
    for measure, copula in (("total_correlation", False), ("total_correlation_copula", True)):
        analysis.add(row, measure, total_correlation(z_scored, copula=copula, shrinkage=1e-3, seed=seed).per_dimension)
    if not is_own:
        return
    if outcome.kl_per_dimension is not None:
        analysis.curve("kl_spectrum", row, values=np.sort(outcome.kl_per_dimension)[::-1].tolist())
    edges = np.linspace(-4, 4, 41)
    shown = np.argsort(-means.var(axis=0))[:_SHOWN]
    densities = [  # of all frames, those outside of the edges included
        (np.histogram(means[:, dim], edges)[0] / (len(means) * np.diff(edges))).tolist() for dim in shown
    ]
    analysis.curve(
        "histograms",
        row,
        edges=edges.tolist(),
        densities=densities,
        dimensions=np.flatnonzero(varying)[shown].tolist(),
    )
    analysis.curve("correlation", row, values=np.round(np.atleast_2d(np.corrcoef(means.T)), 3).tolist())


def measure_objective(parts: AnalysisParts, task: LabelTask, path: str, of: AnalyzedModel) -> None:
    """Contrastive accuracy on the held-out split, of a model that has a contrastive loss."""
    if "SimForPreTraining" not in (of.model.config.architectures or []):
        return
    model = SimForPreTraining.from_pretrained(path).float().to(of.model.device).eval()

    def measure(analysis: Analysis) -> None:
        batches = utterance_batches(task.splits["test"], of.extractor, batch_size=16, cut=True)
        accelerator = Accelerator(cpu=of.model.device.type == "cpu")
        scores = evaluate(model, batches, accelerator, description=f"objective of {of.name}")
        for name, module in of.modules.items():
            value = scores[module].contrastive_accuracy
            row = {"kind": of.kind, "model": of.name, "module": name}
            analysis.add(row, "contrastive_accuracy", value if np.isfinite(value) else None)

    # The predictors of the loss are no part of the encoder that `of` knows itself by.
    own = {**of.key, "of": model_fingerprint(model)}
    key = {"measured": "objective", "kind": of.kind, "model": of.name, **own, "modules": of.modules}
    parts.add(key, measure)
