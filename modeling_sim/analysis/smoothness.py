"""Smoothness: does the decoded sound change evenly along a path of latents from one utterance to another?

Latents are standardized, so that the scale of a model's latents has no effect, and sounds are compared by log-mel
spectra. Training a decoder on noisy latents makes it smoother: compare models with decoders of the same architecture
and training, with the same noise on their standardized latents.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from modeling_sim.latents import Path, points_between
from modeling_sim.text import inner_bar

from ._arrays import scale_of
from .decoding import Decode, Features, LogMel, check_latents, decoded_features, draw_pairs
from .intervals import Interval, bootstrap_pairs

Statistic = Callable[[np.ndarray], np.floating]
# Latents `(batch, frames, channels)` to classes `(batch,)`, integers.
Predict = Callable[[torch.Tensor], torch.Tensor]


_NO_DERIVATIVE = "the output of `decode` does not depend on its latents; does it use `torch.no_grad` or `detach`?"


@dataclass(frozen=True)
class CleanTransitions:
    """Transitions of a classifier along paths between items of different classes.

    Args:
        rate: Share of paths on which the predicted class changes once, from the class of the start to that of the end.
        recognized: Fraction of paths whose two ends are predicted correctly, an upper bound of `rate`.
        num_paths: Number of paths between items of different classes.
    """

    rate: Interval
    recognized: float
    num_paths: int


@dataclass(frozen=True)
class LabeledClassifier:
    """A classifier of latents, and the classes of the items.

    Args:
        predict: Maps latents `(batch, frames, channels)`, not standardized, to classes `(batch,)`.
        labels: `(items,)`, with the class numbers of `predict`.
    """

    predict: Predict
    labels: np.ndarray


@dataclass(frozen=True)
class Smoothness:
    """Outcome of `smoothness`; intervals are over items.

    Args:
        path_ratio: Median of `path_ratio`; 1 is a straight path.
        jump_ratio: Median of `jump_ratio`; 1 is a uniform path.
        lipschitz_median: Median, over one random point per path, of the largest change of features for a unit step of
            standardized latents, divided by `mean_distance`; `None` if `lipschitz_pairs` is 0.
        lipschitz_95: 95th percentile of the same.
        mean_distance: Mean distance of features between the ends of pairs.
        transitions: Transitions of a classifier, if one was given.
    """

    path_ratio: Interval
    jump_ratio: Interval
    lipschitz_median: Interval | None
    lipschitz_95: Interval | None
    mean_distance: float
    transitions: CleanTransitions | None


def smoothness(
    decode: Decode,
    latents: torch.Tensor,
    *,
    features: Features | None = None,
    sampling_rate: int = 16_000,
    num_pairs: int = 200,
    steps: int = 20,
    path: Path = "linear",
    lipschitz_pairs: int = 64,
    classifier: LabeledClassifier | None = None,
    batch_size: int = 32,
    resamples: int = 1000,
    seed: int = 0,
) -> Smoothness:
    """All measures of this file along paths between random pairs of items.

    Args:
        decode: The decoder, in evaluation mode: `(batch, frames, channels)` to `(batch, samples)`, each item
            independently, with gradients (not under `torch.no_grad`).
        latents: `(items, frames, channels)`.
        features: Features of waveforms, compared by Euclidean distance; log-mel spectra by default.
        sampling_rate: Sampling rate of the decoded audio, for log-mel spectra.
        num_pairs: Number of pairs to draw. More pairs than items add little information, since pairs that share an item
            are dependent.
        steps: Number of steps of a path. More steps increase both ratios of a nonlinear decoder, so compare models with
            the same number.
        path: See `interpolation_path`; paths are in standardized latents.
        lipschitz_pairs: Number of these pairs to compute derivatives for; 0 for none.
        classifier: For `transitions`.
        batch_size: Number of latents that are decoded at a time.
        resamples: Number of resamples of items for intervals.
        seed: Seed of pairs, points and resamples.

    Raises:
        ValueError: Latents are not finite or of another shape, the decoder is constant or has no gradients, there is
            not one label per item, or fewer than 2 pairs have different labels.
    """
    check_latents(latents)
    if classifier is not None and len(classifier.labels) != len(latents):
        raise ValueError(f"`classifier` has {len(classifier.labels)} labels for {len(latents)} items; give one each.")
    generator = np.random.default_rng(seed)
    first, second = draw_pairs(len(latents), num_pairs, generator)
    mean, scale = latents.mean(dim=(0, 1)), scale_of(latents)
    standardized = (latents - mean) / scale
    start, end = standardized[first], standardized[second]
    features = features or LogMel(sampling_rate)

    def interval(statistic: Statistic, values: np.ndarray, pairs: np.ndarray | slice = slice(None)) -> Interval:
        return bootstrap_pairs(
            lambda drawn: float(statistic(values[drawn])), first[pairs], second[pairs], resamples=resamples, seed=seed
        )

    def restored(values: torch.Tensor) -> torch.Tensor:
        return values * scale + mean

    def decode_standardized(values: torch.Tensor) -> torch.Tensor:
        return decode(restored(values))

    straight, jumps, distances = _along_paths(decode_standardized, features, start, end, steps, path, batch_size)
    mean_distance = float(distances.mean())
    if mean_distance == 0:
        raise ValueError("the two ends of every pair decode to the same features; is the decoder constant?")

    lipschitz_median = lipschitz_95 = None
    if lipschitz_pairs:
        chosen = generator.permutation(len(first))[:lipschitz_pairs]
        places = torch.from_numpy(generator.uniform(size=(len(chosen), 1, 1))).to(start)
        between = points_between(start[chosen], end[chosen], places, path)
        slopes = [
            _largest_singular_values(decode_standardized, part, features, seed=seed)
            for part in inner_bar(between.split(batch_size), desc="derivatives")
        ]
        relative = torch.cat(slopes).double().cpu().numpy() / mean_distance
        if not relative.any():
            raise ValueError(_NO_DERIVATIVE)
        lipschitz_median = interval(np.median, relative, chosen)
        lipschitz_95 = interval(partial(np.quantile, q=0.95), relative, chosen)

    transitions = None
    if classifier is not None:
        start_labels, end_labels = classifier.labels[first], classifier.labels[second]
        differ = start_labels != end_labels
        if differ.sum() < 2:
            raise ValueError("fewer than 2 of the pairs have different labels; draw more pairs.")
        classes = _predicted(
            lambda values: classifier.predict(restored(values)), start[differ], end[differ], steps, path, batch_size
        )
        clean = _is_clean(classes, start_labels[differ], end_labels[differ])
        recognized = (classes[:, 0] == start_labels[differ]) & (classes[:, -1] == end_labels[differ])
        transitions = CleanTransitions(interval(np.mean, clean, differ), float(recognized.mean()), len(clean))
    return Smoothness(
        interval(np.median, straight),
        interval(np.median, jumps),
        lipschitz_median,
        lipschitz_95,
        mean_distance,
        transitions,
    )


def interpolation_path(start: torch.Tensor, end: torch.Tensor, steps: int, path: Path = "linear") -> torch.Tensor:
    """Points from start to end, both included: `(items, steps + 1, frames, channels)`.

    Args:
        start: `(items, frames, channels)`.
        end: Latents of the same shape.
        steps: Number of steps, equal in the path's parameter.
        path: See `points_between`.

    Raises:
        ValueError: `steps` is below 1, shapes differ or `path` is unknown.
    """
    if start.shape != end.shape:
        raise ValueError(f"`start` has shape {tuple(start.shape)}, `end` {tuple(end.shape)}; give the same.")
    if steps < 1:
        raise ValueError(f"`steps` is {steps}; give at least 1.")
    places = torch.linspace(0, 1, steps + 1, dtype=start.dtype, device=start.device)[:, None, None]
    return points_between(start[:, None], end[:, None], places, path)


def step_distances(points: torch.Tensor) -> torch.Tensor:
    """Euclidean distances `(paths, steps)` between consecutive points `(paths, steps + 1, ...)`."""
    return points.flatten(2).diff(dim=1).norm(dim=2)


def path_ratio(points: torch.Tensor) -> torch.Tensor:
    """Length of paths divided by the distance of their ends, `(paths,)`: at least 1, and 1 if straight.

    Infinite for a path that returns to its start; 1 for a path of equal points.

    Args:
        points: `(paths, steps + 1, ...)`.
    """
    length = step_distances(points).sum(dim=1)
    return torch.where(length > 0, length / (points[:, -1] - points[:, 0]).flatten(1).norm(dim=1), 1.0)


def jump_ratio(points: torch.Tensor) -> torch.Tensor:
    """Longest step of paths divided by their mean step, `(paths,)`: 1 if all are equal, at most the number of steps.

    1 for a path of equal points.

    Args:
        points: `(paths, steps + 1, ...)`.
    """
    distances = step_distances(points)
    longest = distances.amax(dim=1)
    return torch.where(longest > 0, longest / distances.mean(dim=1), 1.0)


def local_lipschitz(
    decode: Decode,
    latents: torch.Tensor,
    *,
    features: Features | None = None,
    max_iterations: int = 100,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> torch.Tensor:
    """Largest singular value `(batch,)` of each item's Jacobian, of features with respect to latents.

    By the Lanczos method on J^T J, with Jacobian-vector and vector-Jacobian products for all items at once (Golub and
    Van Loan, Matrix Computations, 10.1), which needs a fraction of the steps of power iteration. The value is
    approached from below, so it is underestimated before convergence.

    Args:
        decode: See `smoothness`.
        latents: `(batch, frames, channels)`.
        features: Features of waveforms; `None` for the waveforms themselves.
        max_iterations: Maximum number of iterations.
        tolerance: Stop when no value changes by more than this fraction.
        seed: Seed of the initial directions.

    Raises:
        ValueError: All derivatives are 0.
    """
    values = _largest_singular_values(
        decode, latents, features, max_iterations=max_iterations, tolerance=tolerance, seed=seed
    )
    if not values.any():
        raise ValueError(_NO_DERIVATIVE)
    return values


def _largest_singular_values(
    decode: Decode,
    latents: torch.Tensor,
    features: Features | None,
    *,
    max_iterations: int = 100,
    tolerance: float = 1e-3,
    seed: int,
) -> torch.Tensor:
    """`local_lipschitz` of each item; 0 if its output does not depend on its latents, as with inactive ReLUs."""

    def of_latents(values: torch.Tensor) -> torch.Tensor:
        waveforms = decode(values)
        return (waveforms if features is None else features(waveforms)).flatten(1)

    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed), dtype=latents.dtype)
    direction, previous = _unit(noise.to(latents.device)), torch.zeros_like(latents)
    value, reach = torch.zeros(2, len(latents), dtype=torch.float64, device=latents.device)
    # Entries of the tridiagonal matrix of J^T J in the basis of the directions so far, `(batch,)` each.
    diagonal: list[torch.Tensor] = []
    off_diagonal: list[torch.Tensor] = []
    # Derivatives only with respect to latents: a graph of the decoder's weights would be kept in memory between steps.
    with torch.no_grad():
        pull_back = torch.func.vjp(of_latents, latents)[1]
        push_forward = _linear_part(of_latents, latents)
        for _ in range(max_iterations):
            pulled = pull_back(push_forward(direction))[0]
            diagonal.append((direction.double() * pulled).flatten(1).sum(dim=1))
            before, value = value, _largest_eigenvalue(diagonal, off_diagonal).clamp(min=0).sqrt()
            if ((value - before).abs() <= tolerance * value).all():
                break
            shares = torch.stack([diagonal[-1], reach]).to(latents)[..., None, None]
            following = pulled - shares[0] * direction - shares[1] * previous
            reach = following.flatten(1).double().norm(dim=1)
            # An item without further directions continues with 0, which does not change its eigenvalues.
            reach = torch.where(reach > torch.finfo(latents.dtype).eps * value.square(), reach, 0.0)
            off_diagonal.append(reach)
            previous, direction = direction, _unit(following) * (reach > 0)[:, None, None]
    return value.to(latents)


def _largest_eigenvalue(diagonal: list[torch.Tensor], off_diagonal: list[torch.Tensor]) -> torch.Tensor:
    """Largest eigenvalue `(batch,)` of symmetric tridiagonal matrices, from their entries, `(batch,)` each."""
    matrix = torch.diag_embed(torch.stack(diagonal, dim=1))
    if off_diagonal:
        lower = torch.diag_embed(torch.stack(off_diagonal, dim=1), offset=-1)
        matrix = matrix + lower + lower.mT
    return torch.linalg.eigvalsh(matrix)[:, -1]


def _linear_part(
    function: Callable[[torch.Tensor], torch.Tensor], at: torch.Tensor
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The product of a function's Jacobian and a vector; everything independent of the vector is computed once.

    Takes a quarter of the time of `torch.func.jvp`, which evaluates the function again for every product.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Attempted to insert a get_attr Node")  # warns when it folds constants
        product: Callable[[torch.Tensor], torch.Tensor] = torch.func.linearize(function, at)[1]
    return product


def clean_transition_rate(
    predict: Predict,
    start: torch.Tensor,
    end: torch.Tensor,
    start_labels: np.ndarray,
    end_labels: np.ndarray,
    *,
    steps: int = 20,
    path: Path = "linear",
    batch_size: int = 32,
) -> float:
    """Share of paths on which the predicted class changes once, from the start's to the end's.

    A path whose end is predicted incorrectly is not clean, so the rate is only meaningful if the classifier is good.

    Args:
        predict: Maps latents `(batch, frames, channels)` to classes `(batch,)`.
        start: `(paths, frames, channels)`.
        end: Latents of the same shape.
        start_labels: `(paths,)`, classes of the starts.
        end_labels: `(paths,)`, classes of the ends, each different from that of the start.
        steps: See `interpolation_path`.
        path: See `interpolation_path`.
        batch_size: Approximate number of latents that are classified at a time.

    Raises:
        ValueError: A start and its end have the same class, or lengths disagree.
    """
    classes = _predicted(predict, start, end, steps, path, batch_size)
    return float(_is_clean(classes, np.asarray(start_labels), np.asarray(end_labels)).mean())


def _along_paths(
    decode: Decode,
    features: Features,
    start: torch.Tensor,
    end: torch.Tensor,
    steps: int,
    path: Path,
    batch_size: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Path ratio, jump ratio and distance of the ends, `(paths,)` each."""
    results = []
    for part in inner_bar(_parts(len(start), steps, batch_size), desc="paths"):
        latents = interpolation_path(start[part], end[part], steps, path)
        decoded = decoded_features(decode, latents.flatten(0, 1), features, batch_size=batch_size)
        points = decoded.unflatten(0, latents.shape[:2])
        ends = (points[:, -1] - points[:, 0]).flatten(1).norm(dim=1)
        results.append(torch.stack([path_ratio(points), jump_ratio(points), ends]))
    straight, jumps, distances = torch.cat(results, dim=1).double().cpu().numpy()
    return straight, jumps, distances


def _predicted(
    predict: Predict, start: torch.Tensor, end: torch.Tensor, steps: int, path: Path, batch_size: int
) -> np.ndarray:
    """Classes along paths, `(paths, steps + 1)`."""
    results = []
    with torch.no_grad():
        for part in _parts(len(start), steps, batch_size):
            latents = interpolation_path(start[part], end[part], steps, path)
            results.append(predict(latents.flatten(0, 1)).unflatten(0, latents.shape[:2]).cpu().numpy())
    return np.concatenate(results)


def _is_clean(classes: np.ndarray, start_labels: np.ndarray, end_labels: np.ndarray) -> np.ndarray:
    if not len(classes) == len(start_labels) == len(end_labels):
        raise ValueError(f"{len(classes)} paths, {len(start_labels)} and {len(end_labels)} labels; give one each.")
    if (start_labels == end_labels).any():
        raise ValueError("a path starts and ends in the same class; remove such paths.")
    once = (np.diff(classes, axis=1) != 0).sum(axis=1) == 1
    return once & (classes[:, 0] == start_labels) & (classes[:, -1] == end_labels)


def _parts(paths: int, steps: int, batch_size: int) -> list[slice]:
    """Slices of paths whose points make about one batch."""
    together = max(1, batch_size // (steps + 1))
    return [slice(at, at + together) for at in range(0, paths, together)]


def _unit(directions: torch.Tensor) -> torch.Tensor:
    """Directions `(batch, frames, channels)` with norm 1 per item; 0 stays 0."""
    norm = directions.flatten(1).norm(dim=1)[:, None, None]
    return directions / norm.clamp(min=torch.finfo(directions.dtype).tiny)
