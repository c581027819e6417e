"""The scorecard: which measures there are, what each means, and which direction is better, fixed beforehand."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

# Module of a spectrum in results, as it has no modules.
SPECTRUM_MODULE = "frame"


LOG_MEL = "log-mel"
"""The spectrum that models are compared with, in results."""


Direction = Literal["higher", "lower", "near 1", "none"]


DIRECTION_WORDS: dict[Direction, str] = {
    "higher": "higher is better",
    "lower": "lower is better",
    "near 1": "nearer to 1 is better",
    "none": "no direction",
}


@dataclass(frozen=True)
class Measure:
    """A number of the scorecard.

    Args:
        key: Its name in results.
        group: Heading in tables.
        title: Its name for readers.
        sentence: What it means.
        direction: Which direction is better; "none" if neither is.
        null: Its value if there is nothing to find.
        format: How values are written.
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
        kind: Setting that the representation is a seed of: "SIM", "GIM + PCA", "log-mel", ...
        representation: Name of the model or of the control.
        module: Module, layer or output of a codec; `SPECTRUM_MODULE` for what has no modules.
        measure: Key of a `Measure`.
        value: The number; `None` if it is not defined.
        low: Lower bound of its 95 % interval, if it has one.
        high: Upper bound.
        null: Its value if there is nothing to find, if that was measured too.
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
    """Name of a module of a representation in tables; of what has no modules, that of the representation."""
    return representation if module == SPECTRUM_MODULE else f"{representation}, {module}"


VERDICTS = ("win", "loss", "undecided")


@dataclass(frozen=True)
class Comparison:
    """Two kinds in one measure and module, over their seeds; the verdict, one of `VERDICTS`, is the first's."""

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
"""Properties of speech that a best dimension is reported for: key, name, and whether it is one of classes."""


PROPERTY_OF_COLUMN = {"f0": "pitch"}
"""Columns of corpora that are a property under another key."""


MEASURES = (
    Measure(
        "contrastive_accuracy", "Objective", "Contrastive accuracy",
        "Share of true next frames that score above the negatives. Each method predicts latents of its own, so this "
        "does not compare methods.", "none", "1 / (negatives + 1)", "percent",
    ),
    Measure(
        "linear_accuracy", "Probes", "Linear probe",
        "Accuracy of a linear classifier of the label on standardized frozen features.", "higher",
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
        "Mean F1 of the classes, of the probe.", "higher", "that of the most frequent class", "percent",
    ),
    Measure(
        "control_accuracy", "Probes", "Control task",
        "Accuracy of the probe on labels renamed at random for each speaker.", "none", "", "percent",
    ),
    Measure(
        "selectivity", "Probes", "Selectivity",
        "Accuracy of the probe less that on labels renamed at random for each speaker: what is read rather "
        "than memorized.", "higher", "0", "percent",
    ),
    Measure(
        "abx_within", "Probes", "ABX error, within speakers",
        "Share of triples in which a token lies nearer to one of another class than to one of its own, by one speaker.",
        "lower", "50 %", "percent",
    ),
    Measure(
        "abx_across", "Probes", "ABX error, across speakers",
        "The same where the token to be placed is of another speaker.", "lower", "50 %", "percent",
    ),
    Measure(
        "abx_within_triphone", "Probes", "ABX error, within speakers and triphones",
        "ABX within speakers, of tokens between the same two neighbors.", "lower", "50 %", "percent",
    ),
    Measure(
        "abx_across_triphone", "Probes", "ABX error, across speakers within triphones",
        "ABX across speakers, of tokens between the same two neighbors.", "lower", "50 %", "percent",
    ),
    Measure(
        "kl", "Gaussianity", "KL to N(0, I)",
        "Nats per frame between posteriors and prior: an upper bound of the information per frame.", "none", "0",
    ),
    Measure(
        "active_units", "Gaussianity", "Active units",
        "Dimensions whose mean varies over frames (variance above 0.01).", "none", "0", "integer",
    ),
    Measure(
        "wasserstein", "Gaussianity", "W1 to N(0, 1)",
        "Mean difference of quantiles between a dimension and N(0, 1), as it is, drawn from the Gaussians where there "
        "are any; median of active dimensions.", "lower", "1.29 / sqrt(frames)",
    ),
    Measure(
        "wasserstein_means", "Gaussianity", "W1 of means",
        "The same of the means alone, which are what one reads.", "lower", "1.29 / sqrt(frames)",
    ),
    Measure(
        "wasserstein_standardised", "Gaussianity", "W1, z-scored",
        "W1 of the means once every dimension has mean 0 and deviation 1: its shape alone.", "lower",
        "1.29 / sqrt(frames)",
    ),
    Measure(
        "kolmogorov_smirnov", "Gaussianity", "KS to N(0, 1)",
        "Largest difference of distribution functions, of what W1 is taken of.", "lower", "0.87 / sqrt(frames)",
    ),
    Measure(
        "mmd", "Gaussianity", "MMD² to N(0, I)",
        "Distance of the distribution of frames from N(0, I), drawn as for W1.", "lower", "0",
    ),
    Measure(
        "mmd_means", "Gaussianity", "MMD² of means", "The same of the means alone.", "lower", "0",
    ),
    Measure(
        "mmd_whitened", "Gaussianity", "MMD², whitened",
        "Of the means after whitening. If whitening alone brings a model there, the KL term was not needed for it.",
        "lower", "0",
    ),
    Measure(
        "total_correlation", "Dependence", "Total correlation",
        "Linear dependence between dimensions, nats per dimension, less that of shuffled dimensions.", "lower", "0",
    ),
    Measure(
        "total_correlation_copula", "Dependence", "Total correlation of ranks",
        "The same on ranks, so that shapes of dimensions do not enter.", "lower", "0",
    ),
    Measure(
        "gini", "Concentration", "Gini of probe weights",
        "How unequal the standardised weights of the probe are: 1 if all weight is on one dimension.", "higher",
        "0.414 for Gaussian weights",
    ),
    Measure(
        "effective_dimensions", "Concentration", "Effective dimensions",
        "Share of the dimensions that the probe's weights spread over.", "lower",
        "75 % for Gaussian weights", "percent",
    ),
    Measure(
        "k95", "Concentration", "Dimensions for 95 %",
        "Share of the dimensions, best first and refitted, that keeps 95 % of the full probe's accuracy; none where "
        "that is not above chance.", "lower", "that of random axes, for a trained model's own", "percent",
    ),
    Measure(
        "single_best_accuracy", "Concentration", "Best single dimension",
        "Accuracy of the most informative dimension.", "higher", "share of the most frequent class", "percent",
    ),
    Measure(
        "rotation_gap", "Concentration", "Rotation gap",
        "Gini on the model's own axes less that on random ones: near 0 if the axes mean nothing.", "higher",
        "0; about -0.02 where dimensions are strongly correlated",
    ),
    Measure(
        "dci_disentanglement", "Disentanglement", "DCI disentanglement",
        "1 if every dimension serves one factor (L1 logistic importance).", "higher", "that of permuted factors",
    ),
    Measure(
        "dci_completeness", "Disentanglement", "DCI completeness",
        "1 if one dimension predicts each factor (L1 logistic importance).", "higher", "that of permuted factors",
    ),
    Measure(
        "dci_informativeness", "Disentanglement", "DCI informativeness",
        "How well factors are predicted, mean over factors.", "higher", "that of permuted factors",
    ),
    Measure(
        "dci_forest_disentanglement", "Disentanglement", "DCI disentanglement, forest",
        "A second opinion: importance by a forest.", "higher", "that of permuted factors",
    ),
    Measure(
        "mutual_information_gap", "Disentanglement", "MIG",
        "Gap between the two most informative dimensions for a factor; 0 where a perfect dimension has a copy.",
        "higher", "that of permuted factors",
    ),
    Measure(
        "separated_attribute_predictability", "Disentanglement", "SAP",
        "The same gap in how well one dimension predicts a factor.", "higher", "that of permuted factors",
    ),
    Measure(
        "modularity", "Disentanglement", "Modularity",
        "1 if every informative dimension depends on one factor alone.", "higher", "that of permuted factors",
    ),
    Measure(
        "dci_disentanglement_gap", "Disentanglement", "DCI disentanglement, gap",
        "On the model's own axes less the mean of five random rotations of its standardized latents: near 0 if the "
        "axes mean nothing. Unlike the value itself, it does not grow with copies of dimensions.", "higher", "0",
    ),
    Measure(
        "dci_completeness_gap", "Disentanglement", "DCI completeness, gap",
        "The same of DCI completeness.", "higher", "0",
    ),
    Measure(
        "mutual_information_gap_gap", "Disentanglement", "MIG, gap",
        "MIG on the model's own axes less that on random ones.", "higher", "0",
    ),
    Measure(
        "separated_attribute_predictability_gap", "Disentanglement", "SAP, gap",
        "SAP on the model's own axes less that on random ones.", "higher", "0",
    ),
    Measure(
        "best_dimension", "Disentanglement", "Best dimension",
        "Mean over factors of the largest rank correlation of one dimension with the factor (of classes, the "
        "correlation ratio of ranks).", "higher", "that of random axes",
    ),
    Measure(
        "best_dimension_gap", "Disentanglement", "Best dimension, gap",
        "That on the model's own axes less that on random ones.", "higher", "0",
    ),
    *(
        Measure(
            f"best_{key}", "Best dimensions", f"Best dimension for {name}",
            f"Largest {'correlation ratio of ranks' if of_classes else 'rank correlation'} of one dimension with "
            f"{name}.", "higher", "that of random axes, for a trained model's own",
        )
        for key, name, of_classes in PROPERTY_NAMES
    ),
    Measure(
        "matched_correlation", "Consistency", "Matched correlation",
        "Mean correlation of the dimensions of two models under the best one-to-one match, whatever their signs.",
        "higher", "that of random axes of one of them",
    ),
    Measure(
        "linear_agreement", "Consistency", "Linear agreement",
        "Mean multiple correlation of these dimensions with all dimensions of the other model: the most that any axes "
        "could reach.", "none", "0",
    ),
    Measure(
        "axis_consistency", "Consistency", "Matched by linear",
        "Matched correlation as a share of the linear agreement: 1 if two models have the same axes.", "higher",
        "that of random axes of one of them", "percent",
    ),
    Measure(
        "traversal_selectivity", "Disentanglement", "Traversal selectivity",
        "For each property of the sound (pitch, level, brightness, formants), the best dimension is "
        "moved; the share of all changes that is of this property: 1 if each moves its own alone.", "higher",
        "that of turned axes",
    ),
    Measure(
        "traversal_selectivity_oracle", "Disentanglement", "Traversal selectivity, oracle",
        "The same along the directions in which the latents follow one property and not the others, by regression: "
        "where it is low, too, the decoder is the limit and not the axes.", "none", "",
    ),
    Measure(
        "path_ratio", "Smoothness", "Path ratio",
        "Length of the sound's path between two utterances over the direct distance; 1 is straight.", "near 1", "1",
    ),
    Measure(
        "jump_ratio", "Smoothness", "Jump ratio",
        "Largest step of that path over the mean step; 1 is even.", "near 1", "1",
    ),
    Measure(
        "path_ratio_norm_corrected", "Smoothness", "Path ratio, norms kept",
        "Path ratio where frames keep a norm between those of the two ends: a straight line passes nearer to the "
        "center than the data lie.", "near 1", "1",
    ),
    Measure(
        "jump_ratio_norm_corrected", "Smoothness", "Jump ratio, norms kept",
        "Jump ratio on the path of the path ratio with norms kept.", "near 1", "1",
    ),
    Measure(
        "lipschitz_median", "Smoothness", "Local Lipschitz, median",
        "How much the sound changes at most by a unit step of the latents, against the mean distance of sounds; the "
        "middle one of random places on the paths.", "lower", "",
    ),
    Measure(
        "lipschitz_95", "Smoothness", "Local Lipschitz, 95 %",
        "The change by a unit step, as in the median, at the steepest of these places: 95 % of them are less steep.",
        "lower", "",
    ),
    Measure(
        "clean_transitions", "Smoothness", "Clean transitions",
        "Share of interpolations between latents on which a classifier of latents changes its answer once, from the "
        "one label to the other; no decoder has a part in it.",
        "higher", "", "percent",
    ),
    Measure(
        "log_mel", "Reconstruction", "Log-mel distance",
        "Mean difference between spectra of decoded and true speech, nats; the measures through a "
        "decoder cannot show what it does not reproduce.", "lower", "that of silence",
    ),
    Measure(
        "curve_area", "Reconstruction", "Error against k",
        "Area under the fair curve: standardised dimensions, one ranking, log-mel distance.", "lower",
        "that of a random rotation",
    ),
    Measure(
        "curve_area_rotation", "Reconstruction", "Error against k, rotated",
        "The same after a random rotation: its control.", "none", "",
    ),
    Measure(
        "curve_area_pca", "Reconstruction", "Error against k, PCA",
        "The same in principal components: what any model gets by rotating its axes.", "none", "",
    ),
    Measure(
        "curve_area_temporal", "Reconstruction", "Error against k, SOBI",
        "The same in temporal components: what any model gets by axes that follow from time alone.", "none", "",
    ),
    Measure(
        "curve_area_paper", "Reconstruction", "Error against k, as the paper",
        "Area under the paper's curve: raw dimensions ranked for every pair, waveform error.", "lower", "",
    ),
    Measure(
        "curve_area_paper_pca", "Reconstruction", "As the paper, PCA",
        "The paper's curve in principal components of the same latents: the control it lacks.", "lower", "",
    ),
)  # fmt: skip


def compare(rows: Iterable[Row], pairs: Iterable[tuple[str, str]]) -> list[Comparison]:
    """Compares kinds of models by every measure that has a direction.

    With two or more models of each kind, which differ by their seeds, the interval is Welch's over models; for three of
    each it is wide, as it should be. With fewer models the verdict is "undecided", unless the second kind is a
    spectrum, which has no seed: then the interval is Student's, and the spectrum is compared with every module. The
    verdict is also "undecided" if all models of each kind have the same value: a coarse measure ties by chance, and
    does not show how models vary.

    Args:
        rows: Rows of results.
        pairs: Pairs of kinds to compare; "win" and "loss" refer to the first.
    """
    of_models: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for row in rows:
        if row.value is not None and np.isfinite(row.value):
            by_model = of_models.setdefault((row.measure, row.module, row.kind), {})
            by_model.setdefault(row.representation, []).append(row.value)
    # A model counts once, however often it was measured.
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
    """95 % interval of the difference of means; `None` if a kind has one model, or neither varies."""
    if min(len(first), len(second)) < 2 or (_is_one_value(first) and _is_one_value(second)):
        return None, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # one kind's values may be nearly the same
        interval = stats.ttest_ind(first, second, equal_var=False).confidence_interval()
    return float(interval.low), float(interval.high)


def _student(values: list[float], constant: float) -> tuple[float | None, float | None]:
    """95 % interval of the mean's difference to a constant; `None` for one value, or several that are the same."""
    if len(values) < 2 or _is_one_value(values):
        return None, None
    margin = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return float(np.mean(values) - constant - margin), float(np.mean(values) - constant + margin)


def _is_one_value(values: list[float]) -> bool:
    """Whether values differ by rounding at most."""
    return bool(np.ptp(values) <= 1e-9 * np.abs(values).max())


def _verdict(direction: Direction, own: list[float], theirs: list[float], low: float | None, high: float | None) -> str:
    """Verdict for the first kind: "win", "loss" or "undecided"."""
    if low is None or high is None or low <= 0 <= high:
        return "undecided"
    if direction == "near 1":
        return "win" if abs(np.mean(own) - 1) < abs(np.mean(theirs) - 1) else "loss"
    return "win" if (low > 0) == (direction == "higher") else "loss"
