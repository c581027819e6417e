"""How few dimensions a probe needs, and whether these are the latent's own axes.

Weights of a probe are only comparable between dimensions of equal scale: `LinearProbe.weight` refers to standardized
features; convert other weights with `standardized_weights`. Concentrated weights alone do not show that axes are
meaningful; `rotation_gap` does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ._arrays import random_rotation
from .gaussianity import checked_points, generator_of, standardized
from .intervals import Interval, majority_accuracy
from .probes import LinearProbe, fit_linear_probe

# `single_best_dimension` divides a dimension into bins of about this many training items, and into at most so many
# bins.
_ITEMS_A_BIN, _MOST_BINS = 20, 256


@dataclass(frozen=True)
class EffectiveDimensions:
    """Numbers of dimensions that weights spread over, each between 1 and all dimensions.

    Args:
        entropy: `exp(H(|w| / sum |w|))` (Roy & Vetterli 2007); Gaussian weights have 385 of 512.
        participation_ratio: `(sum w^2)^2 / sum w^4`; Gaussian weights have about a third, 172 of 512.
        energy_90: Number of dimensions with 90 % of the squared weights; Gaussian weights have 228 of 512.
    """

    entropy: float
    participation_ratio: float
    energy_90: float


@dataclass(frozen=True)
class AccuracyByDimensions:
    """Outcome of `accuracy_by_dimensions`.

    Args:
        ks: Numbers of dimensions `(steps,)`, ascending; the last is all dimensions.
        accuracies: `(steps,)`, of a probe fitted to the first k dimensions of the ranking, on the test items.
        ranking: `(dims,)`, the dimensions, most important first.
        chance: Accuracy of the class most frequent in training, which uninformative features reach at any k.
        k95: Smallest of `ks` with at least 95 % of the accuracy of all dimensions; 1, and meaningless, if that is
            near chance.
        area: Mean accuracy along the logarithm of k.
    """

    ks: np.ndarray
    accuracies: np.ndarray
    ranking: np.ndarray
    chance: float
    k95: int
    area: float

    @property
    def full_accuracy(self) -> float:
        """Accuracy of all dimensions."""
        return float(self.accuracies[-1])


@dataclass(frozen=True)
class SingleBestDimension:
    """Outcome of `single_best_dimension`.

    Args:
        dimension: The one with the best accuracy in training.
        accuracy: Its accuracy on the test items.
        accuracies: `(dims,)`, accuracy of every dimension on the test items.
        controls: `(permutations,)`, `accuracy` with permuted training labels: the result of choosing among
            dimensions that are all uninformative.
        chance: See `AccuracyByDimensions`.
    """

    dimension: int
    accuracy: float
    accuracies: np.ndarray
    controls: np.ndarray
    chance: float

    @property
    def control(self) -> float:
        """Mean of the controls; near chance."""
        return float(self.controls.mean())


@dataclass(frozen=True)
class RotationGap:
    """Outcome of `rotation_gap`.

    Args:
        aligned: The measure on the axes as they are.
        rotated: `(rotations,)`, the measure on randomly rotated axes.
        interval: The gap, `aligned` minus the mean of `rotated`, with a 95 % prediction interval for the difference to
            one more random rotation. If the axes are arbitrary, it excludes 0 in 5 % of cases.
    """

    aligned: float
    rotated: np.ndarray
    interval: Interval

    @property
    def gap(self) -> float:
        """`aligned` minus the mean of `rotated`; about 0 if the axes are arbitrary."""
        return self.interval.value


@dataclass(frozen=True)
class Concentration:
    """Outcome of `concentration`: results of the functions of this file for one module and one label.

    Args:
        gini: Gini coefficient of the probe's weights; Gaussian weights have 0.414.
        hoyer: Hoyer sparsity of the probe's weights; Gaussian weights have 0.211 at 512 dimensions.
        effective_dimensions: Effective dimensions of the probe's weights.
        by_dimensions: Accuracy against the number of dimensions.
        single_best: The best single dimension.
        rotation_gap: Rotation gap of the Gini coefficient.
    """

    gini: float
    hoyer: float
    effective_dimensions: EffectiveDimensions
    by_dimensions: AccuracyByDimensions
    single_best: SingleBestDimension
    rotation_gap: RotationGap

    def summary(self) -> dict[str, float]:
        """The scalar results, with bounds of intervals as `_low` and `_high`."""
        return {
            "gini": self.gini,
            "hoyer": self.hoyer,
            "effective_dimensions": self.effective_dimensions.entropy,
            "participation_ratio": self.effective_dimensions.participation_ratio,
            "energy_90": self.effective_dimensions.energy_90,
            "accuracy": self.by_dimensions.full_accuracy,
            "chance": self.by_dimensions.chance,
            "k95": self.by_dimensions.k95,
            "area": self.by_dimensions.area,
            "single_best_accuracy": self.single_best.accuracy,
            "single_best_control": self.single_best.control,
            "rotation_gap": self.rotation_gap.gap,
            "rotation_gap_low": self.rotation_gap.interval.low,
            "rotation_gap_high": self.rotation_gap.interval.high,
        }


def concentration(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    num_classes: int,
    *,
    probe: LinearProbe | None = None,
    l2: float = 1e-4,
    ks: Sequence[int] | None = None,
    num_rotations: int = 20,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Concentration:
    """All measures of this file for the features of one module.

    Weights, ranking and the single best dimension come from the training items, accuracies from the test items. The
    rotation gap needs no further fit: the probe of rotated features is the rotated probe, up to the effect of `l2`,
    which here penalizes the weights before the rotation.

    Args:
        train_features: `(items, dims)`.
        train_labels: `(items,)` integers below `num_classes`.
        test_features: `(test items, dims)`, of utterances that are not in the training items.
        test_labels: `(test items,)`.
        num_classes: Number of classes.
        probe: Probe already fitted to all dimensions of the training items with this `l2`; `None` to fit it.
        l2: See `fit_linear_probe`, for all probes; choose it with `choose_l2`, on the training items.
        ks: See `accuracy_by_dimensions`.
        num_rotations: See `rotation_gap`.
        seed: Seed of rotations and permutations.
        device: Device to fit on.

    Raises:
        ValueError: See `fit_linear_probe`; lengths or dimensions disagree, or there are fewer than 2 dimensions.
    """
    _check_test(train_features, test_features, test_labels)

    probe = probe or fit_linear_probe(train_features, train_labels, num_classes, l2=l2, device=device)
    centered = (train_features - probe.mean) / probe.scale
    correlation = centered.T @ centered / len(centered)
    gap = _rotation_gaps(
        lambda rotation: {"": gini(_rotated_weights(probe.weight, correlation, rotation))},
        train_features.shape[1],
        num_rotations,
        seed,
    )[""]
    return Concentration(
        gini=gini(probe.weight),
        hoyer=hoyer(probe.weight),
        effective_dimensions=effective_dimensions(probe.weight),
        by_dimensions=accuracy_by_dimensions(
            train_features,
            train_labels,
            test_features,
            test_labels,
            num_classes,
            ks=ks,
            probe=probe,
            l2=l2,
            device=device,
        ),
        single_best=single_best_dimension(
            train_features, train_labels, test_features, test_labels, num_classes, seed=seed
        ),
        rotation_gap=gap,
    )


def standardized_weights(weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Converts weights of raw features to those of standardized features: `weight * scale`.

    Weights on raw features are large where features are small, however informative they are. `LinearProbe.weight` is
    standardized already.

    Args:
        weight: `(classes, dims)` or `(dims,)`, weights of raw features.
        scale: `(dims,)`, the features' standard deviations in training.

    Raises:
        ValueError: Shapes disagree, or a scale is negative or not finite.
    """
    scale = np.asarray(scale)
    if scale.shape != np.shape(weight)[-1:]:
        raise ValueError(f"`scale` has shape {scale.shape} but `weight` {np.shape(weight)}; give one scale per dim.")
    if not np.isfinite(scale).all() or (scale < 0).any():
        raise ValueError("`scale` holds a negative value, NaN or infinity; give standard deviations.")
    return np.asarray(weight) * scale


def gini(weights: np.ndarray) -> float:
    """Gini index of absolute weights (Hurley & Rickard 2009), the mean over classes.

    0 if all are equal, `1 - 1 / dims` if only one is not 0; Gaussian weights have 0.414. Each class is measured
    separately, because classes may use different dimensions, and larger weights of one class are not concentration. A
    class whose weights are all 0, for lack of items, is skipped.

    Args:
        weights: `(classes, dims)` or `(dims,)`, of standardized features.

    Raises:
        ValueError: There are fewer than 2 dims, all weights are 0, or one is not finite.
    """
    ordered = np.sort(_magnitudes(weights), axis=1)
    dims = ordered.shape[1]
    ranks = 2 * np.arange(1, dims + 1) - dims - 1
    return float((ordered @ ranks / (dims * ordered.sum(axis=1))).mean())


def hoyer(weights: np.ndarray) -> float:
    """Hoyer's (2004) sparseness `(sqrt(n) - |w|_1 / |w|_2) / (sqrt(n) - 1)` of n weights, the mean over classes.

    0 if all are equal, 1 if only one is not 0; Gaussian weights have 0.211 at 512 dims, 0.228 at 64.

    Args:
        weights: See `gini`.

    Raises:
        ValueError: See `gini`.
    """
    magnitudes = _magnitudes(weights)
    root = magnitudes.shape[1] ** 0.5
    return float(((root - magnitudes.sum(axis=1) / np.linalg.norm(magnitudes, axis=1)) / (root - 1)).mean())


def effective_dimensions(weights: np.ndarray) -> EffectiveDimensions:
    """Numbers of dimensions that weights spread over, averaged over classes.

    Args:
        weights: See `gini`.

    Raises:
        ValueError: See `gini`.
    """
    from scipy.special import entr  # noqa: PLC0415 - of the extra `analysis`

    magnitudes = _magnitudes(weights)
    shares = magnitudes / magnitudes.sum(axis=1, keepdims=True)
    energy = magnitudes**2 / (magnitudes**2).sum(axis=1, keepdims=True)
    held = np.cumsum(-np.sort(-energy, axis=1), axis=1)
    return EffectiveDimensions(
        entropy=float(np.exp(entr(shares).sum(axis=1)).mean()),
        participation_ratio=float((1 / (energy**2).sum(axis=1)).mean()),
        energy_90=float(((held < 0.9 - 1e-12).sum(axis=1) + 1).mean()),
    )


def rank_dimensions(weight: np.ndarray) -> np.ndarray:
    """Dimensions sorted by the norm of their weights over classes, largest first.

    Args:
        weight: `(classes, dims)`, of standardized features.
    """
    return np.argsort(-np.linalg.norm(weight, axis=0), kind="stable")


def accuracy_by_dimensions(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    num_classes: int,
    *,
    ks: Sequence[int] | None = None,
    ranking: np.ndarray | None = None,
    probe: LinearProbe | None = None,
    l2: float = 1e-4,
    device: str | torch.device = "cpu",
) -> AccuracyByDimensions:
    """Accuracy of probes of only the most important dimensions (as in sparse probing, Gurnee et al. 2023).

    A separate probe is fitted for each k: weights fitted to all dimensions are not optimal if some are set to 0.
    Uninformative features are at chance for all k. If axes are arbitrary, a random `ranking` is as good.

    Args:
        train_features: `(items, dims)`.
        train_labels: `(items,)` integers below `num_classes`.
        test_features: `(test items, dims)`.
        test_labels: `(test items,)`.
        num_classes: Classes there are.
        ks: Numbers of dimensions; `None` for the powers of 2. The number of all dimensions is always added.
        ranking: `(dims,)`, the dimensions, most important first; `None` for the order of the training probe's weights.
            Copies of a dimension share its weight, so they may all have a low rank.
        probe: Probe already fitted to all dimensions of the training items; `None` to fit it.
        l2: See `fit_linear_probe`.
        device: Device to fit on.

    Raises:
        ValueError: See `fit_linear_probe`; lengths or dims disagree, a k is out of range, or `ranking` is not a
            permutation of the dims.
    """
    _check_test(train_features, test_features, test_labels)
    dims = train_features.shape[1]
    ks = [2**power for power in range(dims.bit_length())] if ks is None else ks
    if any(not 1 <= k <= dims for k in ks):
        raise ValueError(f"`ks` must be in [1, {dims}], up to the number of dims; found {list(ks)}.")
    if probe is None:
        probe = fit_linear_probe(train_features, train_labels, num_classes, l2=l2, device=device)
    if ranking is None:
        ranking = rank_dimensions(probe.weight)
    elif not np.array_equal(np.sort(ranking), np.arange(dims)):
        raise ValueError(f"`ranking` must hold each of the {dims} dims once.")

    steps = np.array(sorted({*ks, dims}))
    of_steps = []
    for k in steps[:-1]:
        kept = ranking[:k]
        part = fit_linear_probe(train_features[:, kept], train_labels, num_classes, l2=l2, device=device)
        of_steps.append((part.predict(test_features[:, kept]) == test_labels).mean())
    accuracies = np.array([*of_steps, (probe.predict(test_features) == test_labels).mean()])
    return AccuracyByDimensions(
        ks=steps,
        accuracies=accuracies,
        ranking=ranking,
        chance=majority_accuracy(train_labels, test_labels),
        k95=int(steps[np.argmax(accuracies >= 0.95 * accuracies[-1])]),
        area=mean_along(np.log(steps), accuracies),
    )


def single_best_dimension(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    num_classes: int,
    *,
    num_permutations: int = 5,
    seed: int = 0,
) -> SingleBestDimension:
    """The most informative single dimension, chosen on the training items and scored on the test items.

    A dimension is divided into at most 256 bins of about 20 training items each or more, and each bin predicts its most
    frequent class in training. The result does not depend on the dimension's scale, a class may occupy several
    intervals, and only counting is needed. The best of many dimensions is good by chance on the items it is chosen on;
    on the test items, permuted labels reach about chance.

    Args:
        train_features: `(items, dims)`.
        train_labels: `(items,)` integers below `num_classes`.
        test_features: `(test items, dims)`.
        test_labels: `(test items,)`.
        num_classes: Classes there are.
        num_permutations: Number of controls with permuted training labels.
        seed: Seed of the permutations.

    Raises:
        ValueError: Lengths or dims disagree, a label is out of range, or a feature is not finite.
    """
    train_features = checked_points(train_features, "train_features")
    _check_test(train_features, test_features, test_labels)
    _check_labels(train_features, train_labels, num_classes)
    if num_permutations < 1:
        raise ValueError(f"`num_permutations` is {num_permutations}; give at least 1.")
    num_bins = int(np.clip(len(train_features) // _ITEMS_A_BIN, 2, _MOST_BINS))
    edges = np.quantile(train_features, np.arange(1, num_bins) / num_bins, axis=0)
    train_bins, test_bins = _bins(train_features, edges), _bins(test_features, edges)

    def best(labels: np.ndarray) -> tuple[int, np.ndarray]:
        """The dimension with the best accuracy in training, and all accuracies on the test items."""
        readings = [_bin_classes(bins, labels, num_bins, num_classes) for bins in train_bins]
        in_training = [(reading[bins] == labels).mean() for reading, bins in zip(readings, train_bins, strict=True)]
        in_test = [(reading[bins] == test_labels).mean() for reading, bins in zip(readings, test_bins, strict=True)]
        return int(np.argmax(in_training)), np.array(in_test)

    dimension, accuracies = best(train_labels)
    generator = generator_of(seed, "permutations")
    controls = []
    for _ in range(num_permutations):
        control_dimension, control_accuracies = best(generator.permutation(train_labels))
        controls.append(float(control_accuracies[control_dimension]))
    return SingleBestDimension(
        dimension=dimension,
        accuracy=float(accuracies[dimension]),
        accuracies=accuracies,
        controls=np.array(controls),
        chance=majority_accuracy(train_labels, test_labels),
    )


def rotation_gap(
    measure: Callable[[np.ndarray], float], points: np.ndarray, *, num_rotations: int = 20, seed: int = 0
) -> RotationGap:
    """Difference of a measure between the axes of points and random axes; 0 on average if the axes are arbitrary.

    The points are standardized and measured. They are also rotated at random, standardized again, so that all axes have
    the same scale, and measured. Standardizing amplifies dimensions with little variance: remove inactive dimensions to
    measure the axes of the others. If dimensions are strongly correlated, a few directions dominate, which random axes
    contain in unequal parts and standardized axes in equal parts: the gap of a Gini coefficient is then slightly below
    0 even for arbitrary axes, -0.02 for 64 dimensions with a spectrum proportional to 1 / i^2.

    There is no bootstrap over items: it ignores the randomness of the rotation, and would call arbitrary axes
    significant in most studies.

    Args:
        measure: Function of standardized points `(items, dims)`, in the order of `points`; it may fit a probe to their
            labels.
        points: `(items, dims)`.
        num_rotations: Number of random rotations, at least 2; `measure` is called once for each.
        seed: Seed of the rotations.

    Raises:
        ValueError: A value is not finite, or there are fewer than 2 items or rotations.
    """
    return rotation_gaps(lambda axes: {"": measure(axes)}, points, num_rotations=num_rotations, seed=seed)[""]


def rotation_gaps(
    measure: Callable[[np.ndarray], Mapping[str, float]],
    points: np.ndarray,
    *,
    num_rotations: int = 20,
    seed: int = 0,
) -> dict[str, RotationGap]:
    """`rotation_gap` of several measures that are computed together, on the same rotations.

    Args:
        measure: Function of standardized points `(items, dims)` that returns numbers by name.
        points: See `rotation_gap`.
        num_rotations: See `rotation_gap`.
        seed: See `rotation_gap`.

    Raises:
        ValueError: See `rotation_gap`.
    """
    points = standardized(points)
    return _rotation_gaps(
        lambda rotation: measure(points if rotation is None else standardized(points @ rotation)),
        points.shape[1],
        num_rotations,
        seed,
    )


def _rotation_gaps(
    of_rotation: Callable[[np.ndarray | None], Mapping[str, float]], dims: int, num_rotations: int, seed: int
) -> dict[str, RotationGap]:
    """Rotation gaps of measures, which are called with a rotation, or with `None` for the axes as they are."""
    from scipy.stats import t  # noqa: PLC0415 - of the extra `analysis`

    if num_rotations < 2:
        raise ValueError(f"`num_rotations` is {num_rotations}; give at least 2, so that their variance is known.")
    generator = generator_of(seed, "rotations")
    aligned = of_rotation(None)
    turned = [of_rotation(random_rotation(dims, generator)) for _ in range(num_rotations)]
    gaps = {}
    for name, value in aligned.items():
        rotated = np.array([of_one[name] for of_one in turned])
        gap = float(value - rotated.mean())
        # Student's prediction interval of one more rotation: the range of so few rotations would be too narrow.
        margin = float(t.ppf(0.975, num_rotations - 1) * rotated.std(ddof=1) * (1 + 1 / num_rotations) ** 0.5)
        gaps[name] = RotationGap(float(value), rotated, Interval(gap, gap - margin, gap + margin))
    return gaps


def _rotated_weights(weight: np.ndarray, covariance: np.ndarray, rotation: np.ndarray | None) -> np.ndarray:
    """Standardized weights of the same probe in rotated features, whose scales follow from their covariance."""
    if rotation is None:
        return weight
    variance = np.einsum("ij,ij->j", rotation, covariance @ rotation)
    return standardized_weights(weight @ rotation, np.sqrt(variance.clip(min=0.0)))


def _magnitudes(weights: np.ndarray) -> np.ndarray:
    """Absolute weights, `(classes, dims)` in float64, without classes whose weights are all 0."""
    magnitudes = np.abs(np.atleast_2d(np.asarray(weights, dtype=np.float64)))
    if magnitudes.ndim != 2 or magnitudes.shape[1] < 2:
        raise ValueError(f"`weights` has shape {np.shape(weights)}; expected (classes, dims) or (dims,), dims >= 2.")
    if not np.isfinite(magnitudes).all():
        raise ValueError("`weights` contains NaN or infinity.")
    magnitudes = magnitudes[magnitudes.any(axis=1)]
    if not len(magnitudes):
        raise ValueError("`weights` are all 0, so the probe ignores its features; lower its `l2`.")
    return magnitudes


def _bins(features: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Bin of every value, `(dims, items)`; a value equal to an edge belongs to the lower bin, so ties stay together."""
    bins = [np.searchsorted(edges[:, dim], features[:, dim], side="left") for dim in range(features.shape[1])]
    return np.array(bins, dtype=np.int16)


def _bin_classes(bins: np.ndarray, labels: np.ndarray, num_bins: int, num_classes: int) -> np.ndarray:
    """Most frequent class of every bin, `(num_bins,)`; for an empty bin, the most frequent class overall."""
    counts = np.bincount(bins.astype(np.int64) * num_classes + labels, minlength=num_bins * num_classes)
    overall = np.bincount(labels, minlength=num_classes)
    # Ties are decided by the overall frequencies.
    return np.asarray((counts.reshape(num_bins, num_classes) + 0.5 * overall / len(labels)).argmax(axis=1))


def mean_along(positions: np.ndarray, values: np.ndarray) -> float:
    """Mean of the piecewise linear curve through values at ascending positions (trapezoidal rule).

    Args:
        positions: `(steps,)`, ascending.
        values: `(steps,)`.
    """
    from scipy.integrate import trapezoid  # noqa: PLC0415 - of the extra `analysis`

    if len(positions) == 1:
        return float(values[0])
    return float(trapezoid(values, positions) / (positions[-1] - positions[0]))


def _check_test(train_features: np.ndarray, test_features: np.ndarray, test_labels: np.ndarray) -> None:
    checked_points(test_features, "test_features")
    if train_features.shape[1:] != test_features.shape[1:]:
        raise ValueError(
            f"`train_features` has dims {train_features.shape[1:]} but `test_features` {test_features.shape[1:]}; "
            "give features of one module."
        )
    if len(test_features) != len(test_labels):
        raise ValueError(f"`test_features` has {len(test_features)} items but `test_labels` {len(test_labels)}.")


def _check_labels(features: np.ndarray, labels: np.ndarray, num_classes: int) -> None:
    if len(features) != len(labels):
        raise ValueError(f"`train_features` has {len(features)} items but `train_labels` {len(labels)}.")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"`train_labels` must lie in [0, {num_classes}); found {labels.min()} to {labels.max()}.")
