"""The scorecard: all measures, their meaning, and which direction is better, defined before any result."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

# Module of a spectrum in results, because a spectrum has no modules.
SPECTRUM_MODULE = "frame"


LOG_MEL = "log-mel"
"""The spectrum that models are compared with, in results."""


Direction = Literal["higher", "lower", "near 1", "none"]


DIRECTION_WORDS: dict[Direction, str] = {
    "higher": "higher is better",
    "lower": "lower is better",
    "near 1": "closer to 1 is better",
    "none": "no direction",
}


@dataclass(frozen=True)
class Measure:
    """A measure of the scorecard.

    Args:
        key: Name in results.
        group: Heading in tables.
        title: Name for readers.
        sentence: Explanation.
        direction: Which direction is better; "none" if neither is.
        null: Value if there is nothing to find, for example chance.
        format: Format of values.
    """

    key: str
    group: str
    title: str
    sentence: str
    direction: Direction
    null: str
    format: Literal["percent", "number", "integer"] = "number"


@dataclass(frozen=True)
class Row:
    """A number of the results: one measure of one module.

    Args:
        kind: Name shared by representations that differ only by seed: "SIM", "GIM + PCA", "log-mel", ...
        representation: Name of the model or of the control.
        module: Module, layer or output of a codec; `SPECTRUM_MODULE` if there are no modules.
        measure: Key of a `Measure`.
        value: The number; `None` if it is not defined.
        low: Lower bound of its 95 % interval, if it has one.
        high: Upper bound.
        null: Value if there is nothing to find, if that was measured.
    """

    kind: str
    representation: str
    module: str
    measure: str
    value: float | None
    low: float | None = None
    high: float | None = None
    null: float | None = None

    @property
    def features(self) -> str:
        """Name for tables: representation and module."""
        return features_name(self.representation, self.module)


def features_name(representation: str, module: str) -> str:
    """Name of a module in tables; for a representation without modules, the name of the representation."""
    return representation if module == SPECTRUM_MODULE else f"{representation}, {module}"


VERDICTS = ("win", "loss", "undecided")


@dataclass(frozen=True)
class Comparison:
    """Comparison of two kinds over their seeds; the verdict, one of `VERDICTS`, is that of the first kind."""

    measure: str
    module: str
    first: str
    second: str
    difference: float
    low: float | None
    high: float | None
    verdict: str


PROPERTY_NAMES = (
    ("pitch", "pitch", False),
    ("level", "level", False),
    ("gain", "gain", False),
    ("vocal_tract_length", "vocal tract length", False),
    ("F1", "first formant", False),
    ("F2", "second formant", False),
    ("phones", "phone", True),
    ("vowel", "vowel", True),
    ("consonant", "consonant", True),
    ("speaker_id", "speaker", True),
)
"""Properties of speech for which the best dimension is reported: key, name, and whether it consists of classes."""


REGRESSED = tuple((key, name) for key, name, of_classes in PROPERTY_NAMES if not of_classes and key not in ("F1", "F2"))
"""Amounts of every frame, for which a regression on all dimensions is reported: key and name."""


PROPERTY_OF_COLUMN = {"f0": "pitch"}
"""Columns of corpora that are one of the properties under another name."""


MEASURES = (
    Measure(
        "contrastive_accuracy", "Objective", "Contrastive accuracy",
        "Share of predictions in which the true future frame scores above all negatives. Each method predicts its own "
        "latents, so this does not compare methods.", "none", "1 / (negatives + 1)", "percent",
    ),
    Measure(
        "linear_accuracy", "Probes", "Linear probe",
        "Accuracy of a linear classifier on standardized features of the frozen model.", "higher",
        "share of the most frequent class", "percent",
    ),
    Measure(
        "knn_accuracy", "Probes", "Nearest neighbors",
        "Accuracy of a vote among the 10 nearest training items.", "higher", "share of the most frequent class",
        "percent",
    ),
    Measure(
        "mlp_accuracy", "Probes", "MLP probe",
        "Accuracy of a classifier with one hidden layer.", "higher", "share of the most frequent class", "percent",
    ),
    Measure(
        "macro_f1", "Probes", "Macro F1",
        "F1 of the probe, averaged over classes.", "higher", "that of the most frequent class", "percent",
    ),
    Measure(
        "control_accuracy", "Probes", "Control task",
        "Accuracy of the probe on labels renamed at random for each speaker.", "none", "", "percent",
    ),
    Measure(
        "selectivity", "Probes", "Selectivity",
        "Accuracy of the probe minus that on labels renamed at random for each speaker: what the features contain, "
        "rather than what the probe memorizes.", "higher", "0", "percent",
    ),
    Measure(
        "abx_within", "Probes", "ABX error, within speakers",
        "Share of triples, of one speaker, in which a token is closer to one of another class than to one of its own.",
        "lower", "50 %", "percent",
    ),
    Measure(
        "abx_across", "Probes", "ABX error, across speakers",
        "The same, with the token to classify from another speaker.", "lower", "50 %", "percent",
    ),
    Measure(
        "abx_within_triphone", "Probes", "ABX error, within speakers and triphones",
        "ABX within speakers, on tokens between the same two neighboring phones.", "lower", "50 %", "percent",
    ),
    Measure(
        "abx_across_triphone", "Probes", "ABX error, across speakers within triphones",
        "ABX across speakers, on tokens between the same two neighboring phones.", "lower", "50 %", "percent",
    ),
    Measure(
        "kl", "Gaussianity", "KL to N(0, I)",
        "KL divergence of the posteriors to the prior in nats per frame: an upper bound of the information per frame.",
        "none", "0",
    ),
    Measure(
        "active_units", "Gaussianity", "Active units",
        "Dimensions whose mean varies over frames (variance above 0.01).", "none", "0", "integer",
    ),
    Measure(
        "wasserstein", "Gaussianity", "W1 to N(0, 1)",
        "Mean difference of quantiles between a dimension and N(0, 1), without scaling, on samples of the Gaussians if "
        "there are any; median over active dimensions.", "lower", "1.29 / sqrt(frames)",
    ),
    Measure(
        "wasserstein_means", "Gaussianity", "W1 of means",
        "The same on the means, which are what other measures use.", "lower", "1.29 / sqrt(frames)",
    ),
    Measure(
        "wasserstein_standardized", "Gaussianity", "W1, z-scored",
        "W1 of the means, with each dimension scaled to mean 0 and deviation 1, so that only its shape counts.",
        "lower",
        "1.29 / sqrt(frames)",
    ),
    Measure(
        "kolmogorov_smirnov", "Gaussianity", "KS to N(0, 1)",
        "Largest difference of distribution functions, on the same samples as W1.", "lower", "0.87 / sqrt(frames)",
    ),
    Measure(
        "mmd", "Gaussianity", "MMD² to N(0, I)",
        "Distance of the distribution of frames to N(0, I), on the same samples as W1.", "lower", "0",
    ),
    Measure(
        "mmd_means", "Gaussianity", "MMD² of means", "The same on the means.", "lower", "0",
    ),
    Measure(
        "mmd_whitened", "Gaussianity", "MMD², whitened",
        "The same on whitened means. If it is low for a model without a KL term, whitening replaces that term.",
        "lower", "0",
    ),
    Measure(
        "total_correlation", "Dependence", "Total correlation",
        "Linear dependence between dimensions, in nats per dimension, minus that of shuffled dimensions.", "lower", "0",
    ),
    Measure(
        "total_correlation_copula", "Dependence", "Total correlation of ranks",
        "The same on ranks, so that the shapes of dimensions do not matter.", "lower", "0",
    ),
    Measure(
        "gini", "Concentration", "Gini of probe weights",
        "How unequal the standardized weights of the probe are: 1 if all weight is on one dimension.", "higher",
        "0.414 for Gaussian weights",
    ),
    Measure(
        "effective_dimensions", "Concentration", "Effective dimensions",
        "Share of the dimensions over which the probe's weights are spread.", "lower",
        "75 % for Gaussian weights", "percent",
    ),
    Measure(
        "k95", "Concentration", "Dimensions for 95 %",
        "Share of the dimensions, best first, with which a refitted probe keeps 95 % of its accuracy; undefined if the "
        "full probe is not above chance.", "lower", "that of random axes, for a trained model's own", "percent",
    ),
    Measure(
        "single_best_accuracy", "Concentration", "Best single dimension",
        "Accuracy of a probe on the most informative dimension alone.",
        "higher", "share of the most frequent class", "percent",
    ),
    Measure(
        "rotation_gap", "Concentration", "Rotation gap",
        "Gini on the model's own axes minus that on random axes: near 0 if the axes mean nothing.", "higher",
        "0; about -0.02 where dimensions are strongly correlated",
    ),
    Measure(
        "dci_disentanglement", "Disentanglement", "DCI disentanglement",
        "1 if every dimension is important for one factor only (L1 logistic importance).",
        "higher", "that of permuted factors",
    ),
    Measure(
        "dci_completeness", "Disentanglement", "DCI completeness",
        "1 if a single dimension is important for each factor (L1 logistic importance).",
        "higher", "that of permuted factors",
    ),
    Measure(
        "dci_informativeness", "Disentanglement", "DCI informativeness",
        "How well factors are predicted, mean over factors.", "higher", "that of permuted factors",
    ),
    Measure(
        "dci_forest_disentanglement", "Disentanglement", "DCI disentanglement, forest",
        "The same, with the importance from a forest of trees.", "higher", "that of permuted factors",
    ),
    Measure(
        "mutual_information_gap", "Disentanglement", "MIG",
        "Gap between the two most informative dimensions for a factor; 0 if the best dimension has a copy.",
        "higher", "that of permuted factors",
    ),
    Measure(
        "separated_attribute_predictability", "Disentanglement", "SAP",
        "The same gap in how well one dimension predicts a factor.", "higher", "that of permuted factors",
    ),
    Measure(
        "modularity", "Disentanglement", "Modularity",
        "1 if every informative dimension depends on one factor only.", "higher", "that of permuted factors",
    ),
    Measure(
        "dci_disentanglement_gap", "Disentanglement", "DCI disentanglement, gap",
        "DCI disentanglement on the model's own axes minus its mean over five random rotations of the standardized "
        "latents: near 0 if the axes mean nothing. Unlike the value itself, it does not grow with copies of "
        "dimensions.", "higher", "0",
    ),
    Measure(
        "dci_completeness_gap", "Disentanglement", "DCI completeness, gap",
        "The same for DCI completeness.", "higher", "0",
    ),
    Measure(
        "mutual_information_gap_gap", "Disentanglement", "MIG, gap",
        "MIG on the model's own axes minus that on random axes.", "higher", "0",
    ),
    Measure(
        "separated_attribute_predictability_gap", "Disentanglement", "SAP, gap",
        "SAP on the model's own axes minus that on random axes.", "higher", "0",
    ),
    Measure(
        "best_dimension", "Disentanglement", "Best dimension",
        "Largest rank correlation of one dimension with a factor (for classes, the correlation ratio of ranks), "
        "averaged over factors.", "higher", "that of random axes",
    ),
    Measure(
        "best_dimension_gap", "Disentanglement", "Best dimension, gap",
        "The same on the model's own axes minus that on random axes.", "higher", "0",
    ),
    *(
        Measure(
            f"best_{key}", "Best dimensions", f"Best dimension for {name}",
            f"Largest {'correlation ratio of ranks' if of_classes else 'rank correlation'} of one dimension with "
            f"{name}.", "higher", "that of random axes, for a trained model's own",
        )
        for key, name, of_classes in PROPERTY_NAMES
    ),
    *(
        Measure(
            f"linear_{key}", "All dimensions", f"Linear regression of {name}",
            f"R^2 of a ridge regression of {name} on all dimensions, cross-validated over test utterances.", "higher",
            "0",
        )
        for key, name in REGRESSED
    ),
    Measure(
        "matched_correlation", "Consistency", "Matched correlation",
        "Mean absolute correlation between the dimensions of two models under the best one-to-one match.",
        "higher", "that of random axes of one of them",
    ),
    Measure(
        "linear_agreement", "Consistency", "Linear agreement",
        "Mean multiple correlation of these dimensions with all dimensions of the other model: an upper bound for any "
        "axes.", "none", "0",
    ),
    Measure(
        "axis_consistency", "Consistency", "Matched by linear",
        "Matched correlation as a share of the linear agreement: 1 if two models have the same axes.", "higher",
        "that of random axes of one of them", "percent",
    ),
    Measure(
        "traversal_selectivity", "Disentanglement", "Traversal selectivity",
        "The best dimension for each property of the sound (pitch, level, brightness, formants) is changed. The value "
        "is the share of all changes of the sound that are changes of this property: 1 if nothing else changes.",
        "higher", "that of random axes",
    ),
    Measure(
        "traversal_selectivity_temporal", "Disentanglement", "Traversal selectivity, temporal components",
        "The same for temporal components (SOBI) of the latents.", "higher", "that of random axes of these components",
    ),
    Measure(
        "traversal_selectivity_oracle", "Disentanglement", "Traversal selectivity, oracle",
        "The same along directions, found by regression, in which the latents follow one property and not the others. "
        "If it is low too, the decoder is the limit and not the axes.", "none", "",
    ),
    Measure(
        "path_ratio", "Smoothness", "Path ratio",
        "Length of the decoded path between two utterances, divided by their distance; 1 for a straight path.",
        "near 1", "1",
    ),
    Measure(
        "jump_ratio", "Smoothness", "Jump ratio",
        "Largest step of that path, divided by the mean step; 1 if all steps are equal.", "near 1", "1",
    ),
    Measure(
        "path_ratio_norm_corrected", "Smoothness", "Path ratio, norms kept",
        "Path ratio with the norm of frames interpolated too. A straight line comes closer to the center than the "
        "data.", "near 1", "1",
    ),
    Measure(
        "jump_ratio_norm_corrected", "Smoothness", "Jump ratio, norms kept",
        "Jump ratio of the same path.", "near 1", "1",
    ),
    Measure(
        "lipschitz_median", "Smoothness", "Local Lipschitz, median",
        "Largest change of the sound for a unit step of the latents, divided by the mean distance of sounds; median "
        "over random points of the paths.", "lower", "",
    ),
    Measure(
        "lipschitz_95", "Smoothness", "Local Lipschitz, 95 %",
        "The 95th percentile of the same over these points: how steep the steepest places are.",
        "lower", "",
    ),
    Measure(
        "clean_transitions", "Smoothness", "Clean transitions",
        "Share of interpolations on which a classifier of latents changes its answer exactly once, from the first "
        "label to the second; it does not depend on a decoder.",
        "higher", "", "percent",
    ),
    Measure(
        "log_mel", "Reconstruction", "Log-mel distance",
        "Mean difference between log-mel spectra of decoded and original speech in nats. Measures through a decoder "
        "cannot show what it does not reproduce.", "lower", "that of silence",
    ),
    Measure(
        "curve_area", "Reconstruction", "Error against k",
        "Area under the curve of error against the number k of dimensions that are replaced, with standardized "
        "dimensions, one ranking for all pairs, and log-mel distance.", "lower",
        "that of a random rotation",
    ),
    Measure(
        "curve_area_rotation", "Reconstruction", "Error against k, rotated",
        "The same after a random rotation, as a control.", "none", "",
    ),
    Measure(
        "curve_area_pca", "Reconstruction", "Error against k, PCA",
        "The same in principal components, which are a rotation of the axes.", "none", "",
    ),
    Measure(
        "curve_area_temporal", "Reconstruction", "Error against k, SOBI",
        "The same in temporal components, which are axes found from time alone.", "none", "",
    ),
    Measure(
        "curve_area_paper", "Reconstruction", "Error against k, as the paper",
        "Area under the paper's curve: dimensions without scaling, ranked for each pair, and waveform error.",
        "lower", "",
    ),
    Measure(
        "curve_area_paper_pca", "Reconstruction", "As the paper, PCA",
        "The paper's curve in principal components of the same latents, a control that the paper does not have.",
        "lower", "",
    ),
)  # fmt: skip


def compare(rows: Iterable[Row], pairs: Iterable[tuple[str, str]]) -> list[Comparison]:
    """Compares kinds of models by every measure that has a direction.

    With two or more models of each kind, which differ by their seeds, the interval is Welch's over models; for three
    models of each kind it is wide. With fewer models the verdict is "undecided", unless the second kind is a spectrum,
    which has no seed: then the interval is Student's, and the spectrum is compared with every module. The verdict is
    also "undecided" if all models of each kind have the same value: a coarse measure can be equal by chance and does
    not show how models vary.

    Args:
        rows: Rows of results.
        pairs: Pairs of kinds to compare; "win" and "loss" refer to the first.
    """
    of_models: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for row in rows:
        if row.value is not None and np.isfinite(row.value):
            by_model = of_models.setdefault((row.measure, row.module, row.kind), {})
            by_model.setdefault(row.representation, []).append(row.value)
    # A model counts once, even if it was measured several times.
    found = {key: [float(np.mean(measured)) for measured in by_model.values()] for key, by_model in of_models.items()}
    directions = {measure.key: measure.direction for measure in MEASURES}
    comparisons = []
    for first, second in pairs:
        for (measure, module, kind), own in found.items():
            spectrum = found.get((measure, SPECTRUM_MODULE, second))
            theirs = spectrum or found.get((measure, module, second))
            if kind != first or theirs is None or directions[measure] == "none":
                continue
            low, high = _student(own, theirs[0]) if spectrum else _welch(own, theirs)
            difference = float(np.mean(own) - np.mean(theirs))
            verdict = _verdict(directions[measure], own, theirs, low, high)
            comparisons.append(Comparison(measure, module, first, second, difference, low, high, verdict))
    return comparisons


def _welch(first: list[float], second: list[float]) -> tuple[float | None, float | None]:
    """95 % interval of the difference of means; `None` if a kind has only one model, or if neither kind varies."""
    if min(len(first), len(second)) < 2 or (_is_one_value(first) and _is_one_value(second)):
        return None, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # one kind's values may be nearly the same
        interval = stats.ttest_ind(first, second, equal_var=False).confidence_interval()
    return float(interval.low), float(interval.high)


def _student(values: list[float], constant: float) -> tuple[float | None, float | None]:
    """95 % interval of the mean minus a constant; `None` for a single value or equal values."""
    if len(values) < 2 or _is_one_value(values):
        return None, None
    margin = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return float(np.mean(values) - constant - margin), float(np.mean(values) - constant + margin)


def _is_one_value(values: list[float]) -> bool:
    """Whether values are equal up to rounding."""
    return bool(np.ptp(values) <= 1e-9 * np.abs(values).max())


def _verdict(direction: Direction, own: list[float], theirs: list[float], low: float | None, high: float | None) -> str:
    """Verdict for the first kind: "win", "loss" or "undecided"."""
    if low is None or high is None or low <= 0 <= high:
        return "undecided"
    if direction == "near 1":
        return "win" if abs(np.mean(own) - 1) < abs(np.mean(theirs) - 1) else "loss"
    return "win" if (low > 0) == (direction == "higher") else "loss"
