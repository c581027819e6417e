"""Reconstruction curve: how much of the difference between two utterances do a few dimensions of the latents carry?

The first k dimensions of utterance i are replaced, in all frames, by those of utterance j, and decoded. The relative
error of k is the distance to the decoded j, divided by the distance between the decoded i and j. If the curve decreases
fast, few dimensions distinguish the two for this decoder. This does not mean that they are disentangled: a rotation to
principal components already makes a curve decrease faster. Therefore a curve is shown with its controls.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from modeling_sim.text import inner_bar

from ._arrays import scale_of
from .axes.transforms import (
    LinearTransform,
    independent_components,
    principal_components,
    random_axes,
    temporal_components,
)
from .concentration import mean_along
from .decoding import Decode, LogMel, check_latents, decoded_features, draw_pairs
from .intervals import Interval, bootstrap_pairs

Ranking = Literal["pair", "global", "random"]
Distance = Literal["mse", "log_mel"]


@dataclass(frozen=True)
class ReconstructionCurve:
    """Outcome of `reconstruction_curve`.

    Args:
        ks: Numbers of replaced dimensions.
        error: `(ks,)`, mean error divided by mean largest error, both over pairs: 1 for k = 0, 0 for all dimensions.
        median_ratio: `(ks,)`, median over pairs of the error divided by the pair's own largest error, without pairs of
            equal sounds. Unlike it, `error` is dominated by the most distant pairs.
        area: Mean of `error` over log2 k between the smallest and the largest k > 0, by the trapezoidal rule; lower
            means a faster decrease.
        area_interval: Bootstrap interval of `area` over items.
        first: `(pairs,)`, items whose dimensions are replaced.
        second: `(pairs,)`, items that these dimensions come from.
        pair_errors: `(pairs, ks)`, distances to the decoded second item.
        largest_errors: `(pairs,)`, the same without replacement.
    """

    ks: tuple[int, ...]
    error: np.ndarray
    median_ratio: np.ndarray
    area: float
    area_interval: Interval
    first: np.ndarray = field(repr=False)
    second: np.ndarray = field(repr=False)
    pair_errors: np.ndarray = field(repr=False)
    largest_errors: np.ndarray = field(repr=False)


def reconstruction_curve(
    latents: torch.Tensor,
    decode: Decode,
    ks: Sequence[int] | None = None,
    *,
    ranking: Ranking | torch.Tensor = "global",
    standardize: bool = True,
    distance: Distance = "log_mel",
    transform: LinearTransform | None = None,
    sampling_rate: int = 16_000,
    num_pairs: int | None = 1000,
    batch_size: int = 32,
    resamples: int = 200,
    seed: int = 0,
    decoded: torch.Tensor | None = None,
) -> ReconstructionCurve:
    """Relative reconstruction error against the number of replaced dimensions.

    The defaults compare models fairly. `ranking="pair", standardize=False, distance="mse", num_pairs=None` is the
    measure of the Smooth InfoMax paper: dimensions are ranked for each pair by squared differences of means over time,
    which favors models with a few dimensions of high variance, and waveforms are compared, so that a phase shift counts
    as an error.

    Args:
        latents: `(items, frames, dims)`.
        decode: The decoder, in evaluation mode: `(batch, frames, dims)` to `(batch, samples)`, each item independently.
        ks: Numbers of dimensions, each in [0, dims]; powers of 2 and all dimensions by default.
        ranking: "pair": by the squared difference of the pair's means over time; "global": by the mean of that over all
            pairs; "random": a random order for each pair; or `(dims,)` dimensions in the order of replacement.
        standardize: Whether dimensions are first scaled to standard deviation 1 over all frames.
        distance: Mean squared error of waveforms ("mse") or of their log-mel spectra ("log_mel").
        transform: Coordinates in which dimensions are ranked and replaced, as many as dims; `standardize` is then
            ignored.
        sampling_rate: Sampling rate of the decoded audio, for "log_mel".
        num_pairs: Ordered pairs of different items to draw; `None` for all.
        batch_size: Number of latents that are decoded at a time.
        resamples: Number of resamples for the interval.
        seed: Seed of pairs, of the random ranking and of the interval.
        decoded: `(items, ...)`, features of the decoded latents that `distance` compares, if already computed:
            waveforms for "mse", log-mel spectra for "log_mel".

    Raises:
        ValueError: Latents are not finite or of another shape, `ks` or `ranking` does not fit them, or all pairs sound
            the same.
    """
    check_latents(latents)
    numbers = _checked_ks(ks, latents.shape[2])
    first, second = draw_pairs(len(latents), num_pairs, seed)
    replacement = _Replacement(latents, decode, standardize, distance, transform, sampling_rate, batch_size, decoded)
    order = _order(replacement.means, ranking, first, second, seed)
    # Position of every dimension in its pair's order: the first k are replaced.
    positions = order.argsort(dim=1)
    largest = replacement.largest_errors(first, second)
    errors = np.zeros((len(first), len(numbers)))
    errors[:, numbers == 0] = largest[:, None]
    # Replacing no or all dimensions needs no decoding: the latents are those of one item.
    inner = (numbers > 0) & (numbers < latents.shape[2])
    bounds = torch.from_numpy(numbers[inner])[:, None].to(positions)
    if inner.any():
        for part in _parts(len(first), batch_size // len(bounds)):
            errors[part, inner] = replacement.errors(first[part], second[part], positions[part, None] < bounds)
    return _curve(numbers, errors, largest, first, second, resamples, seed)


def reconstruction_controls(
    latents: torch.Tensor,
    decode: Decode,
    ks: Sequence[int] | None = None,
    *,
    distance: Distance = "log_mel",
    sampling_rate: int = 16_000,
    num_pairs: int | None = 1000,
    oracle_pairs: int = 8,
    batch_size: int = 32,
    resamples: int = 200,
    seed: int = 0,
) -> dict[str, ReconstructionCurve]:
    """The fair curve of the model's own dimensions and its controls, all on the same pairs.

    "dimensions" is the curve of standardized dimensions with a global ranking. "random" uses a random order. "rotation"
    is the fair curve after a random rotation, "pca", "ica" and "temporal" are the fair curves in principal, independent
    and temporal components. If single dimensions are meaningful, their curve should decrease faster than "rotation"; if
    a model's own axes are claimed to be better, it should also decrease faster than "pca", "ica" and "temporal" of the
    other model. "oracle" ranks dimensions by the effect of replacing each alone on the decoded sound. It is not the
    optimal ranking, which would require trying sets of dimensions.

    Args:
        latents: See `reconstruction_curve`.
        decode: See `reconstruction_curve`.
        ks: See `reconstruction_curve`.
        distance: See `reconstruction_curve`.
        sampling_rate: See `reconstruction_curve`.
        num_pairs: See `reconstruction_curve`.
        oracle_pairs: Number of pairs for the "oracle" ranking; each is decoded once per dimension.
        batch_size: See `reconstruction_curve`.
        resamples: See `reconstruction_curve`.
        seed: See `reconstruction_curve`; also the seed of the rotation and ICA.
    """
    check_latents(latents)
    features = _features(distance, sampling_rate)
    settings: dict[str, Any] = {
        "distance": distance,
        "sampling_rate": sampling_rate,
        "batch_size": batch_size,
        "decoded": decoded_features(decode, latents, features, batch_size=batch_size),
    }
    order = single_replacement_ranking(latents, decode, num_pairs=oracle_pairs, seed=seed + 1, **settings)
    variants: dict[str, dict[str, Any]] = {
        "dimensions": {},
        "random": {"ranking": "random"},
        "rotation": {"transform": random_axes(latents, seed)},
        "pca": {"transform": principal_components(latents)},
        "ica": {"transform": independent_components(latents, seed=seed)},
        "temporal": {"transform": temporal_components(latents, complete=True)},
        "oracle": {"ranking": order},
    }
    settings |= {"num_pairs": num_pairs, "resamples": resamples, "seed": seed}
    return {
        name: reconstruction_curve(latents, decode, ks, **settings, **own)
        for name, own in inner_bar(variants.items(), desc="curves")
    }


def single_replacement_ranking(
    latents: torch.Tensor,
    decode: Decode,
    *,
    distance: Distance = "log_mel",
    sampling_rate: int = 16_000,
    num_pairs: int = 8,
    batch_size: int = 32,
    seed: int = 0,
    decoded: torch.Tensor | None = None,
) -> torch.Tensor:
    """Dimensions `(dims,)` in ascending order of the mean error that remains after replacing each alone.

    Args:
        latents: See `reconstruction_curve`.
        decode: See `reconstruction_curve`.
        distance: See `reconstruction_curve`.
        sampling_rate: See `reconstruction_curve`.
        num_pairs: Number of pairs to average over; use a different seed than for the curve.
        batch_size: See `reconstruction_curve`.
        seed: Seed of the pairs.
        decoded: See `reconstruction_curve`.
    """
    check_latents(latents)
    first, second = draw_pairs(len(latents), num_pairs, seed)
    replacement = _Replacement(latents, decode, False, distance, None, sampling_rate, batch_size, decoded)
    total = np.zeros(latents.shape[2])
    single = torch.eye(latents.shape[2], dtype=torch.bool, device=latents.device)
    for pair in _parts(len(first), 1):
        for dims in _parts(len(single), batch_size):
            total[dims] += replacement.errors(first[pair], second[pair], single[None, dims])[0]
    return torch.from_numpy(total).argsort()


class _Replacement:
    """Latents in the coordinates of the replacement, and features of every decoded item.

    Args:
        latents: `(items, frames, dims)`.
        decode: See `reconstruction_curve`.
        standardize: See `reconstruction_curve`.
        distance: See `reconstruction_curve`.
        transform: See `reconstruction_curve`.
        sampling_rate: See `reconstruction_curve`.
        batch_size: See `reconstruction_curve`.
        decoded: See `reconstruction_curve`.
    """

    def __init__(
        self,
        latents: torch.Tensor,
        decode: Decode,
        standardize: bool,
        distance: Distance,
        transform: LinearTransform | None,
        sampling_rate: int,
        batch_size: int,
        decoded: torch.Tensor | None,
    ) -> None:
        self.decode, self.batch_size = decode, batch_size
        self.features = _features(distance, sampling_rate)
        self.transform = transform
        # Without a transform, the scale only affects the ranking: replaced values are copied exactly.
        self.coordinates = latents
        self.means = latents.mean(dim=1) / (scale_of(latents) if standardize else 1.0)
        if transform is not None:
            if transform.matrix.shape != (latents.shape[2],) * 2:
                raise ValueError(
                    f"`transform` has shape {tuple(transform.matrix.shape)} but latents have {latents.shape[2]} dims."
                )
            self.coordinates = transform.apply(latents)
            self.means = self.coordinates.mean(dim=1)
        if decoded is None:
            decoded = decoded_features(decode, latents, self.features, batch_size=batch_size)
        self.decoded = decoded

    def largest_errors(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Mean squared distances `(pairs,)` of the decoded items themselves."""
        errors = [
            (self.decoded[first[part]] - self.decoded[second[part]]).square().flatten(1).mean(dim=1)
            for part in _parts(len(first), self.batch_size)
        ]
        return torch.cat(errors).double().cpu().numpy()

    def errors(self, first: np.ndarray, second: np.ndarray, masks: torch.Tensor) -> np.ndarray:
        """Mean squared distances `(pairs, variants)` to the decoded second items after replacements.

        Args:
            first: `(pairs,)`.
            second: `(pairs,)`.
            masks: `(pairs, variants, dims)`, true for dimensions that come from the second item.
        """
        mixed = torch.where(masks[:, :, None], self.coordinates[second][:, None], self.coordinates[first][:, None])
        mixed = mixed.flatten(0, 1)
        if self.transform is not None:
            mixed = self.transform.invert(mixed)
        decoded = decoded_features(self.decode, mixed, self.features, batch_size=self.batch_size)
        difference = decoded.unflatten(0, masks.shape[:2]) - self.decoded[second][:, None]
        return difference.square().flatten(2).mean(dim=2).double().cpu().numpy()


def _features(distance: str, sampling_rate: int) -> LogMel | None:
    """Features of waveforms that a distance compares; `None` for the waveforms themselves.

    Raises:
        ValueError: The distance is unknown.
    """
    if distance not in ("mse", "log_mel"):
        raise ValueError(f"`distance` is {distance!r}; choose 'mse' or 'log_mel'.")
    return LogMel(sampling_rate) if distance == "log_mel" else None


def _parts(total: int, size: int) -> Iterator[slice]:
    size = max(1, size)
    starts = range(0, total, size)
    yield from (slice(start, start + size) for start in inner_bar(starts, disable=len(starts) < 100 or None))


def _checked_ks(ks: Sequence[int] | None, dims: int) -> np.ndarray:
    numbers = np.unique([*(2 ** np.arange(dims.bit_length())), dims] if ks is None else list(ks))
    if not len(numbers) or numbers[0] < 0 or numbers[-1] > dims or numbers[-1] == 0:
        raise ValueError(f"`ks` is {ks}; give numbers of dimensions from 0 to {dims}, at least one above 0.")
    return numbers


def _order(
    means: torch.Tensor, ranking: Ranking | torch.Tensor, first: np.ndarray, second: np.ndarray, seed: int
) -> torch.Tensor:
    """Dimensions `(pairs, dims)` in the order of their replacement, from means over time `(items, dims)`."""
    dims = means.shape[1]
    if not isinstance(ranking, str):
        ranking = torch.as_tensor(ranking)
        if ranking.shape != (dims,) or not ranking.sort().values.equal(torch.arange(dims).to(ranking)):
            raise ValueError(f"`ranking` must contain every number from 0 to {dims - 1} once.")
        return ranking.to(means.device).expand(len(first), dims)
    if ranking == "pair":
        return (means[first] - means[second]).square().argsort(dim=1, descending=True, stable=True)
    if ranking == "global":
        # The mean of squared differences over all pairs is twice the variance.
        order = means.var(dim=0, correction=0).argsort(descending=True, stable=True)
        return order.expand(len(first), dims)
    if ranking == "random":
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(len(first), dims, generator=generator).argsort(dim=1).to(means.device)
    raise ValueError(f"`ranking` is {ranking!r}; choose 'pair', 'global' or 'random', or give an order of dimensions.")


def _curve(
    ks: np.ndarray,
    errors: np.ndarray,
    largest: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    resamples: int,
    seed: int,
) -> ReconstructionCurve:
    differ = largest > 0
    if not differ.any():
        raise ValueError("all pairs decode to the same sound, so no error can be relative to their distance.")

    def area(pairs: np.ndarray) -> float:
        # If a resample only has pairs of equal sounds, all its errors are 0; avoid a division by 0.
        return _area(ks, errors[pairs].mean(axis=0) / max(largest[pairs].mean(), 1e-30))

    interval = bootstrap_pairs(area, first, second, resamples=resamples, seed=seed)
    return ReconstructionCurve(
        tuple(ks.tolist()),
        # Contiguous rows are summed in the same order as `largest`, so that the error for k = 0 is exactly 1.
        np.ascontiguousarray(errors.T).mean(axis=1) / largest.mean(),
        np.median(errors[differ] / largest[differ, None], axis=0),
        interval.value,
        interval,
        first,
        second,
        errors,
        largest,
    )


def _area(ks: np.ndarray, error: np.ndarray) -> float:
    """Mean of the error over log2 k, k > 0."""
    return mean_along(np.log2(ks[ks > 0]), error[ks > 0])
