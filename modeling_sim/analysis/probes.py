"""Probes: small classifiers on frozen features."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from modeling_sim.text import inner_bar

from ._arrays import deviations, minimized, principal_axes

# Penalties that `choose_l2` tries.
L2_GRID = (1e-5, 1e-4, 1e-3, 1e-2)


@dataclass(frozen=True)
class LinearProbe:
    """A multinomial logistic regression on standardized features.

    Args:
        weight: `(classes, features)`, of standardized features, so that its entries are comparable between features.
        bias: `(classes,)`.
        mean: `(features,)`, subtracted from features before `weight` is applied.
        scale: `(features,)`, standard deviations, by which features are then divided.
    """

    weight: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    scale: np.ndarray

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Most likely class of `(items, features)`, `(items,)`."""
        return (((features - self.mean) / self.scale) @ self.weight.T + self.bias).argmax(axis=1)


def fit_linear_probe(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    *,
    l2: float = 1e-4,
    max_iterations: int = 1000,
    device: str | torch.device = "cpu",
) -> LinearProbe:
    """Fits multinomial logistic regression by L-BFGS, until it converges to the global optimum.

    Features of a network are strongly correlated. If `l2` is small, L-BFGS on such features is far from the optimum
    even after hundreds of steps, and a comparison of models would depend on their condition numbers. Therefore the
    problem is preconditioned: it is solved in principal components, scaled so that the curvature of the loss is about
    equal in all directions, and the solution is converted back. The problem, including the penalty, is the same.

    Args:
        features: `(items, features)`.
        labels: `(items,)` integers below `num_classes`.
        num_classes: Number of classes; a class without items is never predicted.
        l2: Factor of the sum of squared weights; the bias is not penalized.
        max_iterations: Maximum number of iterations of L-BFGS, which stops earlier if the loss no longer decreases.
        device: Device to compute on, in float32.

    Raises:
        ValueError: Only one class has items, lengths disagree, or a feature is not finite.
    """
    check_items(features, labels, num_classes)
    mean, scale = _standardization(features)
    inputs = torch.from_numpy(((features - mean) / scale).astype(np.float32)).to(device)
    targets = torch.from_numpy(labels.astype(np.int64)).to(device)
    one_hot = F.one_hot(targets, num_classes).T.to(inputs.dtype).contiguous()
    absent = one_hot.sum(dim=1, keepdim=True) == 0
    axes, curvatures = _curvature(inputs, num_classes, l2)
    # From here `(features, items)`: with few classes, a softmax is fastest if items are the last axis.
    inputs = ((axes / curvatures.sqrt()).T @ inputs.T).contiguous()
    penalty = l2 / curvatures

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        """For weights and bias (the last column); without autograd, whose overhead exceeds the time of small fits."""
        parameters = torch.from_numpy(flat).view(num_classes, -1).to(inputs)
        weight, bias = parameters[:, :-1], parameters[:, -1:].masked_fill(absent, -torch.inf)
        log_probabilities = torch.addmm(bias, weight, inputs).log_softmax(dim=0)
        loss = (penalty * weight.square()).sum() - log_probabilities.gather(0, targets[None]).mean()
        residuals = log_probabilities.exp_().sub_(one_hot).div_(len(targets))
        of_weight = residuals @ inputs.T + 2 * penalty * weight
        gradient = torch.cat([of_weight, residuals.sum(dim=1, keepdim=True)], dim=1)
        return float(loss), gradient.double().flatten().cpu().numpy()

    start = np.zeros(num_classes * (features.shape[1] + 1))
    found = minimized(loss_and_gradient, start, maxiter=max_iterations, maxcor=20, ftol=1e-9, gtol=1e-7)
    parameters = torch.from_numpy(found).view(num_classes, -1).to(inputs)
    weight = (parameters[:, :-1] / curvatures.sqrt()) @ axes.T
    bias = parameters[:, -1:].masked_fill(absent, -torch.inf)[:, 0]
    return LinearProbe(weight.cpu().numpy(), bias.cpu().numpy(), mean, scale)


def _curvature(inputs: torch.Tensor, num_classes: int, l2: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Principal axes as columns `(features, features)`, and the approximate curvature of a probe's loss along each."""
    axes, variances = principal_axes(inputs)
    curvatures = variances / num_classes + 2 * l2
    # Without a penalty, directions without variance have no curvature.
    return axes.to(inputs), curvatures.clamp(min=1e-9 * float(curvatures.max())).to(inputs)


def choose_l2(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    num_classes: int,
    *,
    grid: tuple[float, ...] = L2_GRID,
    validation_share: float = 0.2,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> float:
    """The penalty with the best accuracy on held-out training groups, after fits on the others.

    Args:
        features: `(items, features)`.
        labels: `(items,)`.
        groups: `(items,)`, utterances or speakers, each in one part only.
        num_classes: Number of classes.
        grid: Penalties to try.
        validation_share: Fraction of the groups to validate on.
        seed: Seed of the choice of these groups.
        device: See `fit_linear_probe`.

    Raises:
        ValueError: There are fewer than 2 groups, or every choice of held-out groups leaves fewer than two classes.
    """
    names = np.random.default_rng(seed).permutation(np.unique(groups))
    count = max(1, round(validation_share * len(names)))
    for first in range(len(names)):
        validation = np.isin(groups, np.roll(names, -first)[:count])
        if len(np.unique(labels[~validation])) > 1:
            break
    else:
        raise ValueError(
            "choosing `l2` needs held-out training groups (utterances or speakers), and two classes in the others; "
            "set `l2` instead."
        )
    best, best_accuracy = grid[0], -1.0
    for l2 in grid:
        probe = fit_linear_probe(features[~validation], labels[~validation], num_classes, l2=l2, device=device)
        accuracy = float((probe.predict(features[validation]) == labels[validation]).mean())
        if accuracy > best_accuracy:
            best, best_accuracy = l2, accuracy
    return best


def linear_r2(
    features: np.ndarray,
    values: np.ndarray,
    groups: np.ndarray,
    *,
    l2: float = 1e-3,
    num_folds: int = 5,
    seed: int = 0,
) -> float:
    """R^2 of a ridge regression of an amount on standardized features, cross-validated over groups.

    0 is the R^2 of predicting the mean. It can be negative, for example if the amount differs only between groups.

    Args:
        features: `(items, features)`.
        values: `(items,)`, for example the logarithm of the pitch.
        groups: `(items,)`, utterances or speakers, each in one fold only.
        l2: Strength of the penalty on weights, per item.
        num_folds: Number of folds, reduced to the number of groups if there are fewer.
        seed: Seed of the folds.

    Raises:
        ValueError: Lengths disagree, a value is not finite, all values are equal, or there are fewer than 2 groups.
    """
    from sklearn.linear_model import Ridge  # noqa: PLC0415 - of the extra `analysis`
    from sklearn.model_selection import GroupKFold, cross_val_predict  # noqa: PLC0415 - as above
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415 - as above
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415 - as above

    count = len(np.unique(groups))
    if count < 2:
        raise ValueError(f"`groups` holds {count} group; cross-validation needs at least 2.")
    features, values = np.asarray(features, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if values.size and np.ptp(values) == 0:
        raise ValueError("`values` are all equal; there is no variance to explain.")
    folds = GroupKFold(min(num_folds, count), shuffle=True, random_state=seed)
    # The penalty uses the number of all items; each fold is fitted to slightly fewer, which makes little difference.
    regression = make_pipeline(StandardScaler(), Ridge(alpha=l2 * len(features)))
    predicted = cross_val_predict(regression, features, values, groups=groups, cv=folds)
    return float(1 - np.square(values - predicted).mean() / values.var())


def fit_mlp_probe(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    *,
    hidden_size: int = 256,
    epochs: int = 20,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-2,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> torch.nn.Module:
    """Trains a network with one hidden layer on standardized features; it takes `(items, features)` in float32.

    Args:
        features: `(items, features)`.
        labels: `(items,)`.
        num_classes: Number of classes.
        hidden_size: Units of the hidden layer.
        epochs: Number of epochs.
        batch_size: Items per step.
        learning_rate: Initial learning rate of AdamW, with a cosine schedule to 0.
        weight_decay: Weight decay of AdamW.
        seed: Seed of initialization and order.
        device: Device to compute on.
    """
    check_items(features, labels, num_classes)
    mean, scale = _standardization(features)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = torch.nn.Sequential(
            _Standardize(mean, scale),
            torch.nn.Linear(features.shape[1], hidden_size),
            torch.nn.ReLU(),
            torch.nn.Linear(hidden_size, num_classes),
        ).to(device)
    inputs = torch.from_numpy(features.astype(np.float32))
    targets = torch.from_numpy(labels.astype(np.int64))
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=weight_decay)
    steps = epochs * -(-len(inputs) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in inner_bar(range(epochs), desc="MLP probe"):
        for batch in torch.randperm(len(inputs), generator=generator).split(batch_size):
            loss = F.cross_entropy(network(inputs[batch].to(device)), targets[batch].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


class _Standardize(torch.nn.Module):
    """Standardizes features to mean 0 and standard deviation 1."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, mean: np.ndarray, scale: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(mean).float())
        self.register_buffer("scale", torch.from_numpy(scale).float())

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return (features - self.mean) / self.scale


def knn_predictions(
    features: np.ndarray, labels: np.ndarray, queries: np.ndarray, *, num_neighbors: int = 10
) -> np.ndarray:
    """Most frequent class of the nearest training items, by Euclidean distance of standardized features.

    Args:
        features: `(items, features)` of the training items.
        labels: `(items,)`.
        queries: `(queries, features)`.
        num_neighbors: Number of neighbors that vote, reduced to the number of items if there are fewer.
    """
    from sklearn.neighbors import KNeighborsClassifier  # noqa: PLC0415 - of the extra `analysis`

    mean, scale = _standardization(features)
    classifier = KNeighborsClassifier(min(num_neighbors, len(features)))
    classifier.fit((features - mean) / scale, labels)
    return np.asarray(classifier.predict((queries - mean) / scale))


def _standardization(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every feature; 1 where a feature is constant."""
    mean, scale = features.mean(axis=0, dtype=np.float64), deviations(features)  # half precision would overflow
    # In the precision of the features, at least float32: float64 would double the memory of standardized features.
    dtype = np.result_type(features, np.float32)
    return mean.astype(dtype), scale.astype(dtype)


def check_items(features: np.ndarray, labels: np.ndarray, num_classes: int) -> None:
    """Checks that a probe can learn from items; raises a ValueError."""
    if len(features) != len(labels):
        raise ValueError(f"`features` has {len(features)} items but `labels` {len(labels)}; give one label per item.")
    if not np.isfinite(features).all():
        raise ValueError("`features` contains NaN or infinity.")
    if len(np.unique(labels)) < 2:
        raise ValueError("`labels` holds a single class; a probe needs at least 2.")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"`labels` must be in [0, {num_classes}); found {labels.min()} to {labels.max()}.")


def control_labels(
    labels: Sequence[np.ndarray], speakers: Sequence[np.ndarray], num_classes: int, *, seed: int = 0
) -> list[np.ndarray] | None:
    """Labels of a control task (Hewitt & Liang 2019) of the training and of the test items.

    Every speaker's classes are renamed at random, with the class frequencies of the training items. Any accuracy of a
    probe on them is due to memorization.

    Args:
        labels: Classes of the training items and of the test items, `(items,)` each.
        speakers: Speakers of the training items and of the test items, `(items,)` each.
        num_classes: Number of classes.
        seed: Seed of the new names.

    Returns:
        New labels of both. `None` if there is only one speaker, no test speaker is in training, or the new training
        labels have only one class.
    """
    known = np.unique(np.concatenate(speakers))
    if len(known) < 2 or not np.isin(speakers[1], speakers[0]).any():
        return None
    names = np.random.default_rng(seed).choice(labels[0], size=(len(known), num_classes))
    renamed = [
        names[np.searchsorted(known, own_speakers), own_labels]
        for own_labels, own_speakers in zip(labels, speakers, strict=True)
    ]
    return renamed if len(np.unique(renamed[0])) > 1 else None
