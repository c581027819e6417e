"""Other axes for latents: principal, independent, temporal and slow components, random ones.

Compare a measure that depends on axes with the same measure on axes that need no training. The strongest baselines are
those based on time, `temporal_components` and `slow_features`: properties that latents encode usually differ in how
fast they change.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from modeling_sim.analysis._arrays import ROUNDING, principal_axes_of, random_rotation, second_moment
from modeling_sim.analysis.axes.joint_diagonalization import joint_diagonalization

LAGS = (1, 2, 4, 8, 16, 32, 64)
# Components whose variance is a smaller fraction of the largest one contain only rounding errors.
_RANK = 1e-6
# Number of frames that are added at a time: with fewer, adding matrices would take more time than the products.
_TOGETHER = 8192

Frames = TypeVar("Frames", np.ndarray, torch.Tensor)


@dataclass(frozen=True)
class LinearTransform:
    """A linear map to coordinates, `(frames - center) @ matrix`, and its inverse, `coordinates @ inverse + center`.

    With fewer components than dims, the inverse returns the projection onto their span.

    Args:
        matrix: `(dims, components)`.
        inverse: `(components, dims)`; `inverse @ matrix` is the identity.
        center: `(dims,)`.
    """

    matrix: torch.Tensor
    inverse: torch.Tensor
    center: torch.Tensor

    def apply(self, frames: Frames) -> Frames:
        """Coordinates `(..., components)` of frames `(..., dims)`, with the frames' dtype and device."""
        if isinstance(frames, np.ndarray):
            return self.apply(torch.from_numpy(np.require(frames, requirements="W"))).numpy()
        return (frames - self.center.to(frames)) @ self.matrix.to(frames)

    def invert(self, coordinates: Frames) -> Frames:
        """Frames `(..., dims)` of coordinates `(..., components)`."""
        if isinstance(coordinates, np.ndarray):
            return self.invert(torch.from_numpy(coordinates)).numpy()
        return coordinates @ self.inverse.to(coordinates) + self.center.to(coordinates)

    def fingerprint(self) -> str:
        """Digest of the transform's numbers."""
        digest = hashlib.sha256()
        for value in vars(self).values():
            digest.update(value.cpu().numpy().tobytes())
        return digest.hexdigest()


class FrameMoments:
    """Sums over frames, from which principal, temporal and slow components are computed.

    Memory is `dims ** 2` numbers per lag, for any number of frames. The functions below accept such moments in place of
    frames.

    Args:
        lags: Lags of the covariances in frames. Only pairs of frames of the same utterance are counted.
    """

    def __init__(self, lags: Sequence[int] = LAGS) -> None:
        if not all(isinstance(lag, (int, np.integer)) and lag >= 1 for lag in lags):
            raise ValueError(f"`lags` are {list(lags)}; give integers of at least 1, in frames.")
        self.lags = tuple(sorted(set(lags)))
        self.count = 0
        self.pairs = dict.fromkeys(self.lags, 0)

    def add(self, frames: np.ndarray | torch.Tensor, lengths: Sequence[int] | None = None) -> "FrameMoments":
        """Adds frames `(utterances, frames, dims)`, or `(frames, dims)` of utterances of these `lengths`.

        Without `lengths`, `(frames, dims)` are one utterance.

        Raises:
            ValueError: Frames are not finite or of another shape, or `lengths` do not sum to them.
        """
        values, sizes = _checked(frames, lengths)
        if not self.count:
            # Sum differences from a point among the frames: a mean far from 0 would cause rounding errors.
            self._origin = values.mean(dim=0)
            self._sum = torch.zeros_like(self._origin, dtype=torch.float64)
            self._largest = torch.zeros_like(self._origin)
            square = torch.zeros(len(self._origin), len(self._origin)).to(self._sum)
            self._products = {lag: square.clone() for lag in (0, *self.lags)}
            self._ends = {lag: (self._sum.clone(), self._sum.clone()) for lag in self.lags}
            self._steps = square.clone()
        self._largest = torch.maximum(self._largest, values.abs().amax(dim=0))
        for part, of_part in _groups(values - self._origin.to(values), sizes):
            self._add(part, of_part)
        return self

    def _add(self, values: torch.Tensor, sizes: np.ndarray) -> None:
        self.count += len(values)
        self._sum += values.sum(dim=0, dtype=torch.float64)
        self._products[0] += second_moment(values, values)
        utterance = np.repeat(np.arange(len(sizes)), sizes)
        for lag in self.lags:
            first = np.flatnonzero(utterance[:-lag] == utterance[lag:]) if lag < len(utterance) else utterance[:0]
            if not len(first):
                continue
            index = torch.from_numpy(first).to(values.device)
            before, after = values[index], values[index + lag]
            self.pairs[lag] += len(first)
            self._products[lag] += second_moment(before, after)
            for total, end in zip(self._ends[lag], (before, after), strict=True):
                total.add_(end.sum(dim=0, dtype=torch.float64))
            if lag == 1:  # separately: computed from the products, small steps would be lost to rounding
                steps = after - before
                self._steps += second_moment(steps, steps)

    def _mean_offset(self) -> torch.Tensor:
        """Mean of the differences from the origin, `(dims,)`; raises a ValueError if there are no frames."""
        if not self.count:
            raise ValueError("`frames` are moments of no frame; `add` some first.")
        return self._sum / self.count

    @property
    def center(self) -> torch.Tensor:
        """Mean frame `(dims,)`."""
        return self._mean_offset() + self._origin.double()

    @property
    def scale(self) -> torch.Tensor:
        """Standard deviations `(dims,)`; 1 where a dimension is constant up to rounding."""
        scale = torch.diagonal(self.covariance()).clamp(min=0).sqrt()
        return torch.where(scale > ROUNDING * self._largest.double().clamp(min=1e-30), scale, 1.0)

    def covariance(self, lag: int = 0) -> torch.Tensor:
        """Covariance `(dims, dims)` of frames with those a lag later, made symmetric.

        The sum over pairs is divided by the number of all frames, so that lags with few pairs get a low weight.
        """
        offset = self._mean_offset()
        if lag == 0:
            return self._products[0] / self.count - torch.outer(offset, offset)
        before, after = self._ends[lag]
        centered = self._products[lag] - torch.outer(before, offset) - torch.outer(offset, after)
        centered = (centered + self.pairs[lag] * torch.outer(offset, offset)) / self.count
        return (centered + centered.T) / 2

    def steps(self) -> torch.Tensor:
        """Mean product `(dims, dims)` of differences between consecutive frames."""
        return self._steps / max(1, self.pairs.get(1, 0))


def lag_profiles(moments: FrameMoments, transform: LinearTransform | None = None) -> tuple[list[int], np.ndarray]:
    """Lags with at least one pair of frames, and autocorrelations of each dimension at these, `(dims, lags)`.

    Args:
        moments: Sums over frames.
        transform: Axes of the dimensions; `None` for the axes of the frames.
    """
    lags = [lag for lag in moments.lags if moments.pairs[lag]]

    def diagonal(lag: int) -> np.ndarray:
        covariance = moments.covariance(lag)
        if transform is not None:
            matrix = transform.matrix.double()
            return np.asarray((matrix * (covariance @ matrix)).sum(dim=0))
        return np.asarray(covariance.diagonal())

    variances = diagonal(0).clip(min=1e-12)
    columns = [diagonal(lag) * moments.count / moments.pairs[lag] / variances for lag in lags]
    return lags, np.stack(columns, axis=1).clip(-1, 1) if lags else np.zeros((len(variances), 0))


def _checked(frames: np.ndarray | torch.Tensor, lengths: Sequence[int] | None) -> tuple[torch.Tensor, np.ndarray]:
    """Frames `(frames, dims)` of at least float32, and the length of each utterance."""
    values = torch.as_tensor(frames)
    if values.ndim not in (2, 3) or not values.numel():
        raise ValueError(
            f"`frames` has shape {tuple(values.shape)}; give (frames, dims) or (utterances, frames, dims)."
        )
    if not values.is_floating_point() or not values.isfinite().all():
        raise ValueError("`frames` must be floating point numbers without NaN or infinity.")
    if values.ndim == 3:
        if lengths is not None:
            raise ValueError("`lengths` can only be given with (frames, dims), not with (utterances, frames, dims).")
        lengths, values = [values.shape[1]] * len(values), values.flatten(0, 1)
    sizes = np.array([len(values)] if lengths is None else lengths)
    if sizes.dtype.kind not in "iu" or (sizes < 0).any():
        raise ValueError(f"`lengths` are {sizes.tolist()}; give non-negative integers, in frames.")
    if sizes.sum() != len(values):
        raise ValueError(f"`lengths` sum to {sizes.sum()}; there are {len(values)} `frames`.")
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values, sizes


def _groups(values: torch.Tensor, sizes: np.ndarray) -> Iterator[tuple[torch.Tensor, np.ndarray]]:
    """Groups of consecutive utterances with some thousands of frames in total, and their lengths."""
    number = np.cumsum(sizes) // _TOGETHER
    for of_group in np.split(np.arange(len(sizes)), np.flatnonzero(np.diff(number)) + 1):
        start = sizes[: of_group[0]].sum()
        length = sizes[of_group].sum()
        if length:
            yield values[start : start + length], sizes[of_group]


Observed = np.ndarray | torch.Tensor | FrameMoments


def random_axes(frames: Observed, seed: int, *, standardize: bool = True) -> LinearTransform:
    """A random rotation, uniform over all of them (and over those with a reflection, which changes no axis).

    Args:
        frames: See `principal_components`.
        seed: Seed of the rotation.
        standardize: See `principal_components`.
    """
    found = _Standardized(frames, None, (), standardize)
    turned = random_rotation(len(found.scale), np.random.default_rng(seed))
    rotation = torch.from_numpy(turned).to(found.scale)
    return found.transform(rotation, rotation.T)


def principal_components(frames: Observed, *, standardize: bool = True, keep: float = 1.0) -> LinearTransform:
    """Rotation to principal components over all frames, largest variance first.

    Args:
        frames: `(frames, dims)` or `(utterances, frames, dims)`, or their moments.
        standardize: Whether dimensions are first scaled to standard deviation 1.
        keep: Minimum fraction of the variance, reached with as few components as possible. 1 keeps all dims, including
            those without variance, so that the inverse is exact.

    Raises:
        ValueError: Frames are not finite or of another shape, or `keep` is not in (0, 1].
    """
    found = _Standardized(frames, None, (), standardize)
    axes, variances = found.principal()
    kept = _num_kept(variances, keep)
    if keep < 1:
        axes = axes[:, :kept]
    return found.transform(axes, axes.T)


def independent_components(
    frames: np.ndarray | torch.Tensor, *, standardize: bool = True, max_frames: int = 20_000, seed: int = 0
) -> LinearTransform:
    """Transform to independent components by FastICA (Hyvärinen 1999).

    ICA does not determine the scale of a component. It is set so that a unit of each component changes the latents by a
    unit, and components are sorted by variance, like principal components. Directions in which the latents do not vary
    are unchanged. There are at most 100 iterations, because it does not converge for Gaussian latents.

    Args:
        frames: `(frames, dims)` or `(utterances, frames, dims)`.
        standardize: See `principal_components`.
        max_frames: Maximum number of frames to fit on, drawn at random.
        seed: Seed of this draw and of the initialization of FastICA.

    Raises:
        ValueError: See `principal_components`.
    """
    from sklearn.decomposition import FastICA  # noqa: PLC0415 - of the extra `analysis`

    values, _ = _checked(frames, None)
    found = _Standardized(values, None, (), standardize)
    axes, variances = found.principal()
    varying = _num_kept(variances, 1.0)
    chosen = np.random.default_rng(seed).permutation(len(values))[:max_frames]
    drawn = values[torch.from_numpy(chosen).to(axes.device)].double()
    scores = (drawn - found.center) / found.scale @ axes[:, :varying]
    ica = FastICA(whiten="unit-variance", random_state=seed, max_iter=100, tol=1e-3).fit(scores.cpu().numpy())
    unmixing, mixing = (torch.from_numpy(part).to(axes) for part in (ica.components_.T, ica.mixing_))
    return _with_rest(found, axes, unmixing, mixing.T, complete=True)


def temporal_components(
    frames: Observed,
    lengths: Sequence[int] | None = None,
    *,
    lags: Sequence[int] = LAGS,
    keep: float = 0.99,
    complete: bool = False,
    standardize: bool = True,
) -> LinearTransform:
    """Components that are uncorrelated at all lags in time: SOBI (Belouchrani et al. 1997).

    The whitened principal components are rotated so that their symmetrized covariances at all `lags` are as diagonal as
    possible. This finds uncorrelated sources of any distribution if no two of them have the same autocorrelations at
    these lags. In contrast, principal components cannot separate sources of equal variance, and ICA cannot separate
    Gaussian sources. Components are sorted by their squared autocorrelations, summed over lags, most predictable first.
    Their sign is such that the dimension that they change most increases.

    A covariance is the sum over all pairs of frames of one utterance at that lag, divided by the number of all frames,
    so that lags with few pairs get a low weight.

    Args:
        frames: `(frames, dims)`, concatenated utterances, `(utterances, frames, dims)`, or moments at `lags`.
        lengths: Frames of each utterance of `(frames, dims)`; one utterance by default.
        lags: Lags in frames.
        keep: Minimum fraction of the variance, reached with as few whitened components as possible. With all of them,
            whitening would amplify noise in directions with little variance.
        complete: Append the principal components that `keep` drops, so that the inverse is exact.
        standardize: See `principal_components`; it only affects what `keep` drops.

    Returns:
        The transform. A unit of each component changes the (standardized) frames by a unit, as with principal
        components.

    Raises:
        ValueError: See `principal_components`; `lengths` do not sum to the frames, a lag is below 1, or no utterance is
            longer than the shortest lag.
    """
    if not lags:
        raise ValueError("`lags` are empty; give numbers of frames of at least 1.")
    found = _Standardized(frames, lengths, lags, standardize)
    pairs = {lag: found.moments.pairs[lag] for lag in sorted(set(lags))}
    if not any(pairs.values()):
        raise ValueError(f"`lags` start at {min(lags)} frames, and no utterance is longer; give shorter lags.")

    def rotation(whitening: torch.Tensor) -> torch.Tensor:
        covariances = [whitening.T @ found.moments.covariance(lag) @ whitening for lag in pairs if pairs[lag]]
        turned, diagonal = joint_diagonalization(torch.stack(covariances))
        return turned[:, diagonal.square().sum(dim=0).argsort(descending=True, stable=True)]

    return _of_white(found, keep, complete, rotation)


def slow_features(
    frames: Observed,
    lengths: Sequence[int] | None = None,
    *,
    keep: float = 0.99,
    complete: bool = False,
    standardize: bool = True,
) -> LinearTransform:
    """Linear slow feature analysis (Wiskott & Sejnowski 2002): components that change least from frame to frame.

    Among uncorrelated components of variance 1, the first has the smallest mean squared difference between consecutive
    frames, and so on. It uses one lag, `temporal_components` several.

    Args:
        frames: See `temporal_components`.
        lengths: See `temporal_components`.
        keep: See `temporal_components`.
        complete: See `temporal_components`.
        standardize: See `temporal_components`.

    Returns:
        The transform, slowest component first; scale and sign as in `temporal_components`.

    Raises:
        ValueError: See `temporal_components`.
    """
    found = _Standardized(frames, lengths, (1,), standardize)
    if not found.moments.pairs[1]:
        raise ValueError("`lengths` are all below 2 frames; slow features need utterances of at least 2.")
    return _of_white(
        found, keep, complete, lambda whitening: torch.linalg.eigh(whitening.T @ found.moments.steps() @ whitening)[1]
    )


class _Standardized:
    """Covariances of frames after scaling dimensions to mean 0 and, if `standardize`, standard deviation 1."""

    def __init__(self, frames: Observed, lengths: Sequence[int] | None, lags: Sequence[int], standardize: bool) -> None:
        self.moments = frames if isinstance(frames, FrameMoments) else FrameMoments(lags).add(frames, lengths)
        if isinstance(frames, FrameMoments) and (lengths is not None or not set(lags) <= set(frames.lags)):
            raise ValueError(f"`frames` are moments at the `lags` {frames.lags}; give no `lengths` and no other lags.")
        self.center = self.moments.center
        self.scale = self.moments.scale if standardize else torch.ones_like(self.center)

    def principal(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Principal axes `(dims, dims)`, one per column, and variances `(dims,)`, largest first."""
        return principal_axes_of(self.scaled(self.moments.covariance()))

    def scaled(self, matrix: torch.Tensor) -> torch.Tensor:
        """Converts a covariance of the frames to that of standardized frames."""
        return matrix / torch.outer(self.scale, self.scale)

    def transform(self, matrix: torch.Tensor, inverse: torch.Tensor) -> LinearTransform:
        """Converts a transform of standardized frames to one of the original frames."""
        return LinearTransform(matrix / self.scale[:, None], inverse * self.scale, self.center)


def _num_kept(variances: torch.Tensor, keep: float) -> int:
    """Number of the largest variances that reach a fraction of their sum; those of pure rounding errors are ignored."""
    if not 0 < keep <= 1:
        raise ValueError(f"`keep` is {keep}; give a fraction of the variance in (0, 1].")
    varying = int((variances > _RANK * variances[0]).sum())
    if not varying:
        raise ValueError("`frames` are all the same; there are no components.")
    reached = variances[:varying].cumsum(0) >= keep * variances[:varying].sum() * (1 - 1e-12)
    return int(reached.nonzero()[0]) + 1


def _of_white(
    found: _Standardized, keep: float, complete: bool, rotation_of: Callable[[torch.Tensor], torch.Tensor]
) -> LinearTransform:
    """Whitens, then rotates by `rotation_of`, a function of the map `(dims, kept)` from frames to white components."""
    axes, variances = found.principal()
    kept = _num_kept(variances, keep)
    sizes = variances[:kept].sqrt()
    rotation = rotation_of(axes[:, :kept] / sizes / found.scale[:, None])
    return _with_rest(found, axes, rotation / sizes[:, None], (rotation * sizes[:, None]).T, complete=complete)


def _with_rest(
    found: _Standardized, axes: torch.Tensor, unmixing: torch.Tensor, mixing: torch.Tensor, *, complete: bool
) -> LinearTransform:
    """The transform to components of the first principal axes, with scales and signs normalized.

    Args:
        found: The frames.
        axes: `(dims, dims)`, one axis per column.
        unmixing: `(kept, kept)`, from scores on the first axes to components.
        mixing: `(kept, kept)`, from components to scores.
        complete: Append the other axes.
    """
    kept = len(unmixing)
    inverse = mixing @ axes[:, :kept].T
    largest = inverse.gather(1, inverse.abs().argmax(dim=1, keepdim=True))
    scale = inverse.norm(dim=1) * largest[:, 0].sign()
    matrix, inverse = axes[:, :kept] @ unmixing * scale, inverse / scale[:, None]
    if complete:
        matrix, inverse = torch.cat([matrix, axes[:, kept:]], dim=1), torch.cat([inverse, axes[:, kept:].T])
    return found.transform(matrix, inverse)
