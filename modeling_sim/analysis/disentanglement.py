"""Disentanglement: does each dimension of a code encode one known factor, and each factor use one dimension?

Locatello et al. (2019) found that the measures disagree and that no unsupervised loss improves them reliably. Therefore
there are four here, and `disentanglement` returns each with the same measure of permuted factors. The gaps (MIG, SAP)
are 0 for a factor that two dimensions share, or whose dimension has a copy, even if the code is disentangled otherwise.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from ._arrays import deviations, minimized
from .intervals import Interval, bootstrap_statistic, majority_accuracy
from .probes import fit_linear_probe

Factors = np.ndarray | Mapping[str, np.ndarray]
ImportanceModel = Literal["l1_logistic", "forest"]
# Number of cells that are counted at a time: their indices of 8 bytes fit into the cache of most machines.
_COUNTED_TOGETHER = 1 << 21


@dataclass(frozen=True)
class Dci:
    """Outcome of `dci`.

    Args:
        disentanglement: 1 if every dimension is important for one factor only, 0 if each is equally important for all;
            mean over dimensions, weighted by their importance.
        completeness: 1 if one dimension predicts each factor, 0 if all are equally important or none is; mean over
            factors.
        informativeness: Mean of `informativeness_of_factors`.
        importance: `(dims, factors)`, each column with sum 1, or all 0 if the model uses no dimension.
        disentanglement_of_dims: `(dims,)`, 0 for a dimension without importance.
        completeness_of_factors: `(factors,)`.
        informativeness_of_factors: `(factors,)` on test items: accuracy if discrete, R^2 if continuous.
        chance: `(factors,)`, `informativeness_of_factors` of a constant prediction.
        names: Names of the factors.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    importance: np.ndarray
    disentanglement_of_dims: np.ndarray
    completeness_of_factors: np.ndarray
    informativeness_of_factors: np.ndarray
    chance: np.ndarray
    names: tuple[str, ...]


@dataclass(frozen=True)
class MutualInformationGap:
    """Outcome of `mutual_information_gap`.

    Args:
        gap: Mean of `gap_of_factors`, from 0 to 1.
        gap_of_factors: `(factors,)`, information of the best dimension minus that of the second, divided by the
            entropy.
        mutual_information: `(dims, factors)`, in nats.
        entropy: `(factors,)`, in nats; of the bins if the factor is continuous.
        names: Names of the factors.
    """

    gap: float
    gap_of_factors: np.ndarray
    mutual_information: np.ndarray
    entropy: np.ndarray
    names: tuple[str, ...]


@dataclass(frozen=True)
class SeparatedAttributePredictability:
    """Outcome of `separated_attribute_predictability`.

    Args:
        gap: Mean of `gap_of_factors`, from 0 to 1.
        gap_of_factors: `(factors,)`, score of the best dimension minus that of the second.
        scores: `(dims, factors)`, how well one dimension alone predicts the factor: 0 is chance, 1 perfect.
        names: Names of the factors.
    """

    gap: float
    gap_of_factors: np.ndarray
    scores: np.ndarray
    names: tuple[str, ...]


@dataclass(frozen=True)
class ModularityExplicitness:
    """Outcome of `modularity_explicitness`.

    Args:
        modularity: 1 if every informative dimension depends on one factor alone; 0 if no dimension is informative.
        explicitness: Mean of `explicitness_of_factors`; 0.5 is chance.
        informative: `(dims,)`, whether a dimension has more information about a factor than any dimension has about
            permutations of that factor.
        explicitness_of_factors: `(factors,)`, fraction of pairs of test items that a linear model ranks correctly.
        names: Names of the factors.
    """

    modularity: float
    explicitness: float
    informative: np.ndarray
    explicitness_of_factors: np.ndarray
    names: tuple[str, ...]


@dataclass(frozen=True)
class Disentanglement:
    """Outcome of `disentanglement`: four measures, the same of permuted factors, and intervals.

    Args:
        dci: Outcome of `dci`.
        mutual_information_gap: Outcome of `mutual_information_gap`.
        separated_attribute_predictability: Outcome of `separated_attribute_predictability`.
        modularity_explicitness: Outcome of `modularity_explicitness`.
        permuted: The same results for permuted factors, which are independent of the code; its own `permuted` is
            `None`.
        intervals: Bootstrap intervals over groups of `mutual_information_gap` and `modularity`. The other measures have
            none: they need a training and a test part, and splitting a resample again would change the measure.
    """

    dci: Dci
    mutual_information_gap: MutualInformationGap
    separated_attribute_predictability: SeparatedAttributePredictability
    modularity_explicitness: ModularityExplicitness
    permuted: "Disentanglement | None"
    intervals: dict[str, Interval]


def disentanglement(
    codes: np.ndarray,
    factors: Factors,
    *,
    groups: np.ndarray | None = None,
    model: ImportanceModel = "l1_logistic",
    bins: int = 20,
    test_share: float = 0.2,
    resamples: int = 0,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Disentanglement:
    """All measures of this file, of the factors and of permuted factors.

    Interpret intervals with care: a resample of groups repeats items, and counts of repeated items overestimate
    information, so that with few items the interval may not contain its value: it may be above the value, or below for
    a gap. The informative dimensions are the same in every resample, and a factor that is constant in a resample is
    excluded from it.

    Args:
        codes: `(items, dims)`.
        factors: `(items, factors)`, or `(items,)` by name: integers are classes, floats are amounts.
        groups: `(items,)`, utterances or speakers, whose items are not independent; `None` if all items are.
        model: See `dci`.
        bins: See `mutual_information_gap`.
        test_share: Fraction of the groups to test on.
        resamples: Number of bootstrap resamples for intervals; 0 for no intervals.
        seed: Seed of the split, the permutation and the draws.
        device: Device to fit probes on.

    Raises:
        ValueError: See the measures.
    """
    group = _groups(groups, len(codes))
    columns = _factor_columns(factors)

    def measured(of: Mapping[str, np.ndarray]) -> Disentanglement:
        split: dict[str, Any] = {"groups": group, "test_share": test_share, "seed": seed}
        return Disentanglement(
            dci(codes, of, model=model, device=device, **split),
            mutual_information_gap(codes, of, bins),
            separated_attribute_predictability(codes, of, bins=bins, **split),
            modularity_explicitness(codes, of, bins=bins, device=device, **split),
            None,
            {},
        )

    complete = measured(columns)  # first, as it checks the items that are permuted next
    # A separate random stream: with an order that `modularity_explicitness` also draws, no dimension would be
    # informative.
    order = permuted_items(group, np.random.default_rng([seed, 1]))
    complete = replace(complete, permuted=measured({name: column[order] for name, column in columns.items()}))
    if resamples == 0:
        return complete
    statistics: dict[str, Callable[[MutualInformationGap], float]] = {
        "mutual_information_gap": lambda of: of.gap,
        "modularity": lambda of: _modularity(of.mutual_information, complete.modularity_explicitness.informative),
    }

    def on_items(statistic: Callable[[MutualInformationGap], float], items: np.ndarray) -> float:
        drawn = {name: column[items] for name, column in columns.items() if len(np.unique(column[items])) > 1}
        return statistic(mutual_information_gap(codes[items], drawn, bins)) if len(drawn) > 1 else np.nan

    intervals = {
        name: bootstrap_statistic(partial(on_items, statistic), group, resamples=resamples, seed=seed)
        for name, statistic in statistics.items()
    }
    return replace(complete, intervals=intervals)


def dci(
    codes: np.ndarray,
    factors: Factors,
    *,
    groups: np.ndarray | None = None,
    model: ImportanceModel = "l1_logistic",
    l1: float = 0.02,
    num_trees: int = 50,
    items_per_tree: int = 5000,
    test_share: float = 0.2,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Dci:
    """Disentanglement, completeness and informativeness (Eastwood & Williams 2018).

    The importance of dimension i for factor j is |w_ij| of a linear model with an L1 penalty on standardized codes
    (summed over classes), or the mean decrease in impurity of a forest of extremely randomized trees (Geurts et al.
    2006) that consider every dimension at every split: with the usual random subset, dimensions of noise get splits
    where the relevant dimension is not in the subset. The two models disagree on the same code, so report both. `l1` is
    fixed rather than tuned: a tuned value would differ between codes and change completeness. Columns are scaled to sum
    1, so that discrete and continuous factors have the same weight in `disentanglement`. Two warnings: a code of noise
    gets a few arbitrary weights, so if informativeness is at chance, the other two scores are meaningless; and values
    are not comparable between codes with different numbers of dimensions.

    Args:
        codes: `(items, dims)`, at least 2 dimensions.
        factors: At least 2, as in `disentanglement`.
        groups: See `disentanglement`; a group is in the training or in the test part.
        model: "l1_logistic" (Lasso for a continuous factor) or "forest".
        l1: A single dimension gets no weight if its class means deviate from the overall mean by at most this many
            standard deviations (for classes of equal size), or if its correlation with a continuous factor is at most
            this.
        num_trees: Number of trees of the forest.
        items_per_tree: Maximum number of training items that are drawn per tree; the time is proportional to it.
        test_share: See `disentanglement`.
        seed: Seed of the split and the forest.
        device: Device to fit the logistic regression on.

    Raises:
        ValueError: A value is not finite, a factor is constant, lengths disagree, there are too few dimensions, factors
            or groups, or the classes of a factor in the test part do not occur in the training part.
    """
    known = _checked(codes, factors, min_factors=2)
    train, test = _split(_groups(groups, len(codes)), test_share, seed)
    standardized = _standardized(codes, train)
    results = []
    for factor in known:
        _check_split(factor, train, test)
        if model == "forest":
            results.append(_forest(standardized, factor, train, test, num_trees, items_per_tree, seed))
        elif model == "l1_logistic":
            results.append(_sparse_linear(standardized, factor, train, test, l1, device))
        else:
            raise ValueError(f"`model` is {model!r}; choose 'l1_logistic' or 'forest'.")
    weights, scores = (np.stack(parts) for parts in zip(*results, strict=True))
    importance = _shares(weights.T, axis=0)
    of_dims = _concentration(importance, axis=1)
    of_factors = _concentration(importance, axis=0)
    return Dci(
        float(of_dims @ _shares(importance.sum(axis=1), axis=0)),
        float(of_factors.mean()),
        float(scores.mean()),
        importance,
        of_dims,
        of_factors,
        scores,
        np.array([_chance(factor, train, test) for factor in known]),
        tuple(factor.name for factor in known),
    )


def mutual_information_gap(
    codes: np.ndarray, factors: Factors, bins: int = 20, *, binning: Literal["width", "count"] = "width"
) -> MutualInformationGap:
    """Mutual information gap (Chen et al. 2018): the best dimension's information minus the second's, over the entropy.

    Counts overestimate information by about (bins - 1) (classes - 1) / (2 items) nats per dimension, so the best of
    many noise dimensions may seem informative; compare with permuted factors.

    Args:
        codes: `(items, dims)`, at least 2 dimensions.
        factors: See `disentanglement`; continuous ones are divided into `bins`, too.
        bins: Number of bins of every dimension.
        binning: Bins of equal "width", as in published figures, or of equal "count", which is robust to outliers.

    Raises:
        ValueError: A value is not finite, a factor is constant, lengths disagree or there are too few dimensions.
    """
    known = _checked(codes, factors, min_factors=1)
    binned = _binned(codes, bins, binning)
    classes = [_classes(factor, bins, binning) for factor in known]
    information = _information(binned, classes, bins)
    entropy = np.array([_entropy(np.bincount(of) / len(of)) for of in classes])
    gaps = _gap(information) / entropy
    return MutualInformationGap(float(gaps.mean()), gaps, information, entropy, tuple(factor.name for factor in known))


def separated_attribute_predictability(
    codes: np.ndarray,
    factors: Factors,
    *,
    groups: np.ndarray | None = None,
    bins: int = 20,
    test_share: float = 0.2,
    seed: int = 0,
) -> SeparatedAttributePredictability:
    """Separated attribute predictability (Kumar et al. 2018): the best single dimension's score minus the second's.

    The score of a continuous factor is the R^2 of a linear regression. The score of a discrete factor is the balanced
    accuracy on test items, scaled so that chance is 0: (accuracy - 1 / K) / (1 - 1 / K). Kumar's unscaled gap is
    (1 - 1 / K) times this one. The classifier predicts the class with the highest density in the item's bin of the
    dimension. Unlike the linear classifier of Kumar et al., it also recognizes a class that lies between others.

    Args:
        codes: `(items, dims)`, at least 2 dimensions.
        factors: See `disentanglement`.
        groups: See `disentanglement`.
        bins: Number of bins of equal width, for every dimension.
        test_share: See `disentanglement`.
        seed: Seed of the split.

    Raises:
        ValueError: See `dci`.
    """
    known = _checked(codes, factors, min_factors=1)
    train, test = _split(_groups(groups, len(codes)), test_share, seed)
    binned = _binned(codes, bins, "width")
    centered = codes - codes.mean(axis=0, dtype=np.float64)
    columns = []
    for factor in known:
        if factor.discrete:
            _check_split(factor, train, test)
            columns.append(_single_dimension_accuracy(binned, factor, train, test, bins))
        else:
            columns.append(_squared_correlation(centered, factor.values))
    scores = np.stack(columns, axis=1)
    gaps = _gap(scores)
    return SeparatedAttributePredictability(float(gaps.mean()), gaps, scores, tuple(factor.name for factor in known))


def modularity_explicitness(
    codes: np.ndarray,
    factors: Factors,
    *,
    groups: np.ndarray | None = None,
    bins: int = 20,
    test_share: float = 0.2,
    l2: float = 1e-3,
    num_permutations: int = 19,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> ModularityExplicitness:
    """Modularity and explicitness (Ridgeway & Mozer 2018).

    Modularity of dimension i is 1 - sum over the other factors of m_if^2 / ((V - 1) max_f m_if^2), where m_if is mutual
    information. The published mean over all dimensions is dominated by dimensions of pure noise. Here it is a mean over
    the informative dimensions, weighted by max_f m_if: those above the largest value of any dimension in
    `num_permutations` permutations of the factor. With 19, a code of noise of any size has an informative dimension for
    a factor in 1 of 20 cases.

    Explicitness of a discrete factor is the mean over classes of the one-vs-rest area under the ROC curve of a linear
    probe. That area is the fraction of correctly ranked pairs, which is also defined for a continuous factor: there it
    is the concordance of a ridge regression.

    Args:
        codes: `(items, dims)`, at least 2 dimensions.
        factors: At least 2, as in `disentanglement`.
        groups: See `disentanglement`.
        bins: See `mutual_information_gap`.
        test_share: See `disentanglement`; explicitness is measured on that part.
        l2: Factor of the sum of squared weights that is added to the mean loss in both regressions.
        num_permutations: Number of permutations of the factors, to find the largest information by chance.
        seed: Seed of the split and the permutations.
        device: Device to fit the probe on.

    Raises:
        ValueError: See `dci`.
    """
    known = _checked(codes, factors, min_factors=2)
    group = _groups(groups, len(codes))
    train, test = _split(group, test_share, seed)
    standardized = _standardized(codes, train)
    explicitness = []
    for factor in known:
        _check_split(factor, train, test)
        if factor.discrete:
            explicitness.append(_ranking_of_classes(standardized, factor, train, test, l2, device))
        else:
            explicitness.append(_ranking_of_amounts(standardized, factor, train, test, l2))
    binned = _binned(codes, bins, "width")
    classes = [_classes(factor, bins, "width") for factor in known]
    information = _information(binned, classes, bins)
    informative = _informative(binned, classes, information, group, bins, num_permutations, seed)
    return ModularityExplicitness(
        _modularity(information, informative),
        float(np.mean(explicitness)),
        informative,
        np.array(explicitness),
        tuple(factor.name for factor in known),
    )


def permuted_items(groups: np.ndarray, seed: int | np.random.Generator) -> np.ndarray:
    """An order of items, `(items,)`, that makes their factors independent of the codes.

    Every group gets the factors of another group, so factors that change slowly within a group still do: a permutation
    of single frames would underestimate the null. If groups differ in length, factors are taken at the same relative
    position in the other group, some of them twice or not at all. If every item is a separate group, items are permuted
    individually.

    Args:
        groups: `(items,)`.
        seed: Seed of the order.
    """
    names, group = np.unique(groups, return_inverse=True)
    cycle = np.random.default_rng(seed).permutation(len(names))
    other = np.empty(len(names), dtype=np.int64)
    other[cycle] = np.roll(cycle, 1)
    members = np.argsort(group, kind="stable")
    sizes = np.bincount(group)
    starts = np.cumsum(sizes) - sizes
    # For the items in the order of `members`: their group, and their position in it.
    own = np.repeat(np.arange(len(names)), sizes)
    place = np.arange(len(groups)) - starts[own]
    order = np.empty(len(groups), dtype=np.int64)
    order[members] = members[starts[other[own]] + place * sizes[other[own]] // sizes[own]]
    return order


class _Factor(NamedTuple):
    """A factor: class numbers from 0 without gaps, or amounts."""

    name: str
    values: np.ndarray
    discrete: bool
    num_classes: int


def _factor_columns(factors: Factors) -> dict[str, np.ndarray]:
    if isinstance(factors, Mapping):
        return {name: np.asarray(column) for name, column in factors.items()}
    if factors.ndim != 2:
        raise ValueError(f"`factors` has shape {factors.shape}; give (items, factors), or a dictionary of columns.")
    return {f"factor {number}": column for number, column in enumerate(factors.T)}


def _checked(codes: np.ndarray, factors: Factors, *, min_factors: int) -> list[_Factor]:
    """The factors, after checking codes and factors."""
    if codes.ndim != 2 or codes.shape[1] < 2 or len(codes) < 2:
        raise ValueError(f"`codes` has shape {codes.shape}; give (items, dims), at least 2 of each.")
    if not np.isfinite(codes).all():
        raise ValueError("`codes` contains NaN or infinity.")
    columns = _factor_columns(factors)
    if len(columns) < min_factors:
        raise ValueError(f"`factors` has {len(columns)} columns; give at least {min_factors}.")
    return [_factor(name, column, len(codes)) for name, column in columns.items()]


def _factor(name: str, column: np.ndarray, num_items: int) -> _Factor:
    if column.shape != (num_items,):
        raise ValueError(f"factor {name!r} has shape {column.shape}; give one value for each of {num_items} items.")
    discrete = column.dtype.kind != "f"
    if not discrete and not np.isfinite(column).all():
        raise ValueError(f"factor {name!r} contains NaN or infinity; remove these items.")
    classes, values = np.unique(column, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"factor {name!r} is {classes[0]!r} everywhere; remove it.")
    return _Factor(name, values if discrete else column.astype(np.float64), discrete, len(classes))


def _groups(groups: np.ndarray | None, num_items: int) -> np.ndarray:
    if groups is None:
        return np.arange(num_items)
    if len(groups) != num_items:
        raise ValueError(f"`groups` has {len(groups)} items but `codes` {num_items}; give one group per item.")
    return np.asarray(groups)


def _split(groups: np.ndarray, test_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and test items; no group is in both."""
    from sklearn.model_selection import GroupShuffleSplit  # noqa: PLC0415 - of the extra `analysis`

    if len(np.unique(groups)) < 2:
        raise ValueError("`groups` holds a single group; a split into training and test part needs at least 2.")
    train, test = next(GroupShuffleSplit(1, test_size=test_share, random_state=seed).split(groups, groups=groups))
    return train, test


def _check_split(factor: _Factor, train: np.ndarray, test: np.ndarray) -> None:
    known = np.unique(factor.values[train])
    if len(known) < 2 or len(np.unique(factor.values[test])) < 2:
        raise ValueError(
            f"factor {factor.name!r} is constant in the training or the test part; give more groups or another seed."
        )
    if factor.discrete and not np.isin(factor.values[test], known).any():
        raise ValueError(
            f"no class of factor {factor.name!r} in the test part occurs in the training part: "
            "split by groups that the factor varies in, as utterances for a speaker."
        )


def measurable_factors(factors: Factors, groups: np.ndarray, *, test_share: float = 0.2, seed: int = 0) -> list[str]:
    """Names of the factors that vary in both parts of the split of `disentanglement`, before and after permutation.

    Args:
        factors: See `disentanglement`.
        groups: See `disentanglement`.
        test_share: See `disentanglement`.
        seed: See `disentanglement`.

    Raises:
        ValueError: There is a single group.
    """
    train, test = _split(groups, test_share, seed)
    order = permuted_items(groups, np.random.default_rng([seed, 1]))
    found = []
    for name, column in _factor_columns(factors).items():
        try:
            for values in (column, column[order]):
                _check_split(_factor(name, values, len(groups)), train, test)
        except ValueError:
            continue
        found.append(name)
    return found


def _chance(factor: _Factor, train: np.ndarray, test: np.ndarray) -> float:
    if not factor.discrete:
        return 0.0
    return majority_accuracy(factor.values[train], factor.values[test])


def _standardized(codes: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Codes in float32 with mean 0 and standard deviation 1 on training items."""
    mean, scale = codes[train].mean(axis=0, dtype=np.float64), deviations(codes[train])
    return np.asarray((codes - mean) / scale, dtype=np.float32)


def _sparse_linear(
    codes: np.ndarray, factor: _Factor, train: np.ndarray, test: np.ndarray, l1: float, device: str | torch.device
) -> tuple[np.ndarray, float]:
    """Importance `(dims,)` and test score of a linear model with an L1 penalty."""
    if factor.discrete:
        # At 0 the gradient of class k is (its share) x (its mean), so `l1 / K` is a threshold on the mean.
        weight, bias = l1_logistic_regression(
            codes[train], factor.values[train], factor.num_classes, l1=l1 / factor.num_classes, device=device
        )
        predictions = (codes[test] @ weight.T + bias).argmax(axis=1)
        return np.abs(weight).sum(axis=0), float((predictions == factor.values[test]).mean())
    from sklearn.linear_model import Lasso  # noqa: PLC0415 - of the extra `analysis`

    target = (factor.values - factor.values[train].mean()) / factor.values[train].std()
    lasso = Lasso(alpha=l1, precompute=True).fit(codes[train].astype(np.float64), target[train])
    return np.abs(lasso.coef_), float(lasso.score(codes[test], target[test]))


def l1_logistic_regression(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    *,
    l1: float,
    max_iterations: int = 500,
    tolerance: float = 1e-2,
    device: str | torch.device = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression, mean cross-entropy + `l1` x sum |weight|: weight `(classes, features)` and bias.

    Solved by L-BFGS with bounds: a weight is the difference of two non-negative parts, which makes the problem smooth.
    A step consists of two matrix products for all classes, whereas scikit-learn's solver for this penalty processes one
    item at a time.

    Args:
        features: `(items, features)`, standardized.
        labels: `(items,)` integers below `num_classes`.
        num_classes: Number of classes.
        l1: Strength of the penalty; the bias is not penalized.
        max_iterations: Maximum number of steps.
        tolerance: Stop when no entry of the projected gradient exceeds this fraction of `l1`.
        device: Device to compute on, in float32.
    """
    inputs = torch.from_numpy(features.astype(np.float32, copy=False)).to(device)
    targets = torch.from_numpy(labels).to(device)
    shape = (num_classes, features.shape[1])
    size = num_classes * features.shape[1]

    def unpacked(parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (parts[:size] - parts[size : 2 * size]).reshape(shape), parts[2 * size :]

    def objective(parts: np.ndarray) -> tuple[float, np.ndarray]:
        weight, bias = (torch.from_numpy(part).to(device, torch.float32) for part in unpacked(parts))
        log_probabilities = torch.addmm(bias, inputs, weight.T).log_softmax(dim=1)
        loss = torch.nn.functional.nll_loss(log_probabilities, targets).item()
        residual = log_probabilities.exp_()
        residual[torch.arange(len(targets), device=device), targets] -= 1.0
        slope = (residual.T @ inputs / len(inputs)).flatten().double().cpu().numpy()
        of_bias = residual.mean(dim=0).double().cpu().numpy()
        return loss + l1 * parts[: 2 * size].sum(), np.concatenate([slope + l1, l1 - slope, of_bias])

    start = np.zeros(2 * size + num_classes)
    bounds = [(0, None)] * (2 * size) + [(None, None)] * num_classes
    return unpacked(minimized(objective, start, bounds, maxiter=max_iterations, gtol=tolerance * l1, ftol=1e-9))


def _forest(
    codes: np.ndarray,
    factor: _Factor,
    train: np.ndarray,
    test: np.ndarray,
    num_trees: int,
    items_per_tree: int,
    seed: int,
) -> tuple[np.ndarray, float]:
    """Importance `(dims,)` and test score of a forest."""
    from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor  # noqa: PLC0415 - as above

    kind = ExtraTreesClassifier if factor.discrete else ExtraTreesRegressor
    drawn = min(items_per_tree, len(train))
    forest = kind(num_trees, max_features=None, bootstrap=True, max_samples=drawn, random_state=seed)
    forest.fit(codes[train], factor.values[train])
    return forest.feature_importances_, float(forest.score(codes[test], factor.values[test]))


def _shares(amounts: np.ndarray, *, axis: int) -> np.ndarray:
    """Amounts divided by their sum; 0 where all are 0."""
    total = amounts.sum(axis=axis, keepdims=True)
    return np.divide(amounts, total, out=np.zeros(amounts.shape), where=total > 0)


def _concentration(importance: np.ndarray, *, axis: int) -> np.ndarray:
    """1 minus the entropy of the shares along an axis, divided by its maximum; 0 where nothing has importance."""
    shares = _shares(importance, axis=axis)
    concentration = 1.0 - _entropy(shares, axis=axis) / np.log(importance.shape[axis])
    return np.where(shares.sum(axis=axis) > 0, concentration, 0.0)


def _entropy(shares: np.ndarray, axis: int = -1) -> np.ndarray:
    from scipy.special import entr  # noqa: PLC0415 - of the extra `analysis`

    return np.asarray(entr(shares).sum(axis=axis))


def _gap(scores: np.ndarray) -> np.ndarray:
    """Best minus second best of `(dims, factors)`."""
    second, best = np.partition(scores, [-2, -1], axis=0)[-2:]
    return best - second


def _binned(codes: np.ndarray, bins: int, binning: str) -> np.ndarray:
    """Bin of every value, `(dims, items)` in [0, bins)."""
    if bins < 2:
        raise ValueError(f"`bins` is {bins}; give at least 2.")
    if binning == "count":
        edges = np.quantile(codes, np.arange(1, bins) / bins, axis=0)
        return np.stack([np.searchsorted(*pair, side="right") for pair in zip(edges.T, codes.T, strict=True)])
    if binning != "width":
        raise ValueError(f"`binning` is {binning!r}; choose 'width' or 'count'.")
    codes = codes.astype(np.float64)  # integers of few bits would overflow
    low, high = codes.min(axis=0), codes.max(axis=0)
    per_width = bins / np.where(high > low, high - low, 1.0)
    # The highest value belongs to the last bin.
    return np.minimum((codes.T - low[:, None]) * per_width[:, None], bins - 1).astype(np.int32)


def _classes(factor: _Factor, bins: int, binning: str) -> np.ndarray:
    """Class of every item; bins if the factor is continuous."""
    return factor.values if factor.discrete else _binned(factor.values[:, None], bins, binning)[0]


def _counts(binned: np.ndarray, classes: np.ndarray, bins: int, num_classes: int | None = None) -> np.ndarray:
    """Number of items in each bin and class, `(dims, bins, classes)`."""
    num_classes = num_classes or int(classes.max()) + 1
    cells = bins * num_classes
    counts = np.empty((len(binned), cells), dtype=np.int64)
    together = max(1, _COUNTED_TOGETHER // len(classes))
    for start in range(0, len(binned), together):
        part = binned[start : start + together]
        index = part * num_classes + classes + cells * np.arange(len(part))[:, None]
        counts[start : start + len(part)] = np.bincount(index.ravel(), minlength=cells * len(part)).reshape(-1, cells)
    return counts.reshape(len(binned), bins, num_classes)


def _information(binned: np.ndarray, classes: list[np.ndarray], bins: int) -> np.ndarray:
    """Mutual information `(dims, factors)` of dimensions and factors, in nats."""
    return np.stack([_mutual_information(_counts(binned, of, bins)) for of in classes], axis=1)


def _mutual_information(counts: np.ndarray) -> np.ndarray:
    """Mutual information of bins and classes in nats, from `(dims, bins, classes)` counts."""
    joint = counts / counts.sum(axis=(1, 2), keepdims=True)
    # H(bin) + H(class) - H(bin, class); only rounding can make it negative.
    information = _entropy(joint.sum(axis=2)) + _entropy(joint.sum(axis=1)) - _entropy(joint.reshape(len(joint), -1))
    return information.clip(min=0.0)


def _single_dimension_accuracy(
    binned: np.ndarray, factor: _Factor, train: np.ndarray, test: np.ndarray, bins: int
) -> np.ndarray:
    """Balanced test accuracy `(dims,)` of the densest class in each bin, scaled so that chance is 0."""
    seen = _counts(binned[:, train], factor.values[train], bins, factor.num_classes)
    met = _counts(binned[:, test], factor.values[test], bins, factor.num_classes)
    densest = (seen / seen.sum(axis=1, keepdims=True).clip(min=1)).argmax(axis=2, keepdims=True)
    recalls = met / met.sum(axis=1, keepdims=True).clip(min=1)
    accuracy = np.take_along_axis(recalls, densest, axis=2).sum(axis=(1, 2)) / len(np.unique(factor.values[test]))
    chance = 1 / max(2, len(np.unique(factor.values[train])))  # the classes that a bin can have, tested or not
    return (accuracy - chance) / (1 - chance)


def _squared_correlation(centered: np.ndarray, amounts: np.ndarray) -> np.ndarray:
    """R^2 `(dims,)` of a linear regression on each of `(items, dims)` codes of mean 0; 0 if constant."""
    target = amounts - amounts.mean()
    variance = np.einsum("nd,nd->d", centered, centered) * (target @ target)
    return np.divide((target @ centered) ** 2, variance, out=np.zeros(len(variance)), where=variance > 0)


def _informative(
    binned: np.ndarray,
    classes: list[np.ndarray],
    information: np.ndarray,
    groups: np.ndarray,
    bins: int,
    num_permutations: int,
    seed: int,
) -> np.ndarray:
    """Mask `(dims,)`: more information about a factor than any dimension has about its permutations."""
    generator = np.random.default_rng(seed)
    largest = np.zeros(len(classes))
    for _ in range(num_permutations):
        order = permuted_items(groups, generator)
        chance = _information(binned, [of[order] for of in classes], bins)
        largest = np.maximum(largest, chance.max(axis=0))
    return np.asarray((information > largest).any(axis=1))


def _modularity(information: np.ndarray, informative: np.ndarray) -> float:
    """Modularity from `(dims, factors)` nats: mean over informative dimensions, weighted by their largest values."""
    kept = information[informative]
    most = kept.max(axis=1, initial=0.0)
    if not most.sum():
        return 0.0
    shares = (kept / most[:, None]) ** 2
    modularity = 1.0 - (shares.sum(axis=1) - 1.0) / (information.shape[1] - 1)
    return float(modularity @ most / most.sum())


def _ranking_of_classes(
    codes: np.ndarray, factor: _Factor, train: np.ndarray, test: np.ndarray, l2: float, device: str | torch.device
) -> float:
    """Mean over the classes of the test part of the one-vs-rest area under the ROC curve of a linear probe."""
    from scipy.special import softmax  # noqa: PLC0415 - of the extra `analysis`
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415 - as above

    probe = fit_linear_probe(codes[train], factor.values[train], factor.num_classes, l2=l2, device=device)
    probabilities = softmax(((codes[test] - probe.mean) / probe.scale) @ probe.weight.T + probe.bias, axis=1)
    present = np.unique(factor.values[test])
    return float(roc_auc_score(factor.values[test][:, None] == present, probabilities[:, present]))


def _ranking_of_amounts(codes: np.ndarray, factor: _Factor, train: np.ndarray, test: np.ndarray, l2: float) -> float:
    """Concordance of a ridge regression: fraction of test pairs with different factors that are ranked correctly.

    It is (1 + Somers' D) / 2, with D = (concordant - discordant) / (pairs that differ in the factor). Kendall's tau
    would be below 1 for a factor with few levels even if it is predicted perfectly.
    """
    from scipy.stats import kendalltau  # noqa: PLC0415 - of the extra `analysis`
    from sklearn.linear_model import Ridge  # noqa: PLC0415 - as above

    target = factor.values / factor.values[train].std()
    predictions = Ridge(alpha=l2 * len(train)).fit(codes[train], target[train]).predict(codes[test])
    tau = kendalltau(predictions, target[test]).statistic
    if np.isnan(tau):  # all predictions are equal: nothing is ranked
        return 0.5
    somers_d = tau * (_pairs_that_differ(predictions) / _pairs_that_differ(target[test])) ** 0.5
    return (float(somers_d) + 1.0) / 2.0


def _pairs_that_differ(values: np.ndarray) -> float:
    """Twice the number of pairs of different values."""
    _, counts = np.unique(values, return_counts=True)
    return float(len(values) ** 2 - (counts.astype(np.float64) ** 2).sum())
