"""Standard deviations, rotations and principal axes, which several measures use."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

# A channel whose spread, relative to its largest value, is at most this is constant up to rounding.
ROUNDING = 1e-6


def deviations(values: np.ndarray) -> np.ndarray:
    """Standard deviations `(dims,)` of `(items, dims)`, in float64; 1 where a dimension is constant."""
    # Sums of squares in half precision overflow.
    scale = np.asarray(values.std(axis=0, dtype=np.float64))
    return np.where(scale > ROUNDING * np.abs(values).max(axis=0).clip(min=1e-30), scale, 1.0)


def scale_of(frames: torch.Tensor) -> torch.Tensor:
    """`deviations` over all frames of a tensor `(..., dims)`, on its device."""
    frames = frames.flatten(0, -2)
    scale = frames.std(dim=0, correction=0)
    return torch.where(scale > ROUNDING * frames.abs().amax(dim=0).clamp(min=1e-30), scale, 1.0)


def minimized(
    loss_and_gradient: Callable[[np.ndarray], tuple[float, np.ndarray]],
    start: np.ndarray,
    bounds: Sequence[tuple[float | None, float | None]] | None = None,
    **options: Any,
) -> np.ndarray:
    """The minimum `(size,)` of a function of a vector by L-BFGS-B.

    SciPy is limited to one thread: its vectors are short, and its threads would compete with those of PyTorch. On two
    cores a fit would take ten times as long.

    Args:
        loss_and_gradient: The function and its gradient `(size,)`, in float64.
        start: `(size,)`, initial value.
        bounds: Smallest and largest value of each entry; `None` for none.
        **options: Options of SciPy's method.
    """
    from scipy.optimize import minimize  # noqa: PLC0415 - of the extra `analysis`
    from threadpoolctl import threadpool_limits  # noqa: PLC0415 - of the extra `analysis`

    with threadpool_limits(1, user_api="blas"):
        found = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return np.asarray(found.x)


def random_rotation(dims: int, generator: np.random.Generator) -> np.ndarray:
    """An orthogonal matrix `(dims, dims)`, uniform in Haar's sense; it may include a reflection, which changes no axis.

    It is Q of the QR decomposition of a Gaussian matrix; the decomposition is unique, and Q uniform, once the diagonal
    of R is made positive (Mezzadri 2007).

    Args:
        dims: Size of the matrix.
        generator: Generator for the Gaussian matrix.
    """
    orthogonal, triangular = np.linalg.qr(generator.standard_normal((dims, dims)))
    return orthogonal * np.sign(np.diagonal(triangular))


def principal_axes(frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Principal axes, as columns `(dims, dims)`, and variances `(dims,)`, largest first, of centered `(items, dims)`.

    Products have the precision of the frames; sums and everything after them are float64.
    """
    return principal_axes_of(second_moment(frames, frames) / len(frames))


def principal_axes_of(covariance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`principal_axes` from a covariance `(dims, dims)`."""
    variances, axes = torch.linalg.eigh(covariance)
    return axes.flip(1), variances.flip(0).clamp(min=0.0)


def second_moment(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """`first.T @ second` in float64, of `(items, dims)`; summed over parts, so that float32 does not lose precision."""
    moment = torch.zeros(first.shape[1], second.shape[1], dtype=torch.float64, device=first.device)
    for part, other in zip(first.split(8192), second.split(8192), strict=True):
        moment += part.T @ other
    return moment
