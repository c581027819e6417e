"""Joint diagonalization of symmetric matrices by one rotation."""

import torch

# Number of axes of the blocks that are rotated in pairs, small enough for a processor's cache.
_BLOCK = 16


def joint_diagonalization(
    matrices: torch.Tensor, *, tolerance: float = 1e-3, max_sweeps: int = 100
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rotation that makes symmetric matrices as diagonal as possible, by Jacobi rotations.

    Each step rotates the plane of two axes by the angle that minimizes the sum of squares off the diagonals of all
    matrices (Cardoso & Souloumiac 1996). Steps in planes without a common axis are computed at the same time, and
    matrices with more than a few dozen axes are divided into blocks: all planes within a pair of blocks are rotated
    before the blocks form new pairs. This only changes the order of the planes. The initial rotation consists of the
    eigenvectors of the matrices' sum.

    Args:
        matrices: `(matrices, dims, dims)`.
        tolerance: Stop when a sweep over all planes reduces the squares off the diagonals by less than this fraction.
        max_sweeps: Maximum number of sweeps.

    Returns:
        The rotation `(dims, dims)`, one axis per column, and the diagonals `(matrices, dims)` of the rotated matrices.
    """
    dims = matrices.shape[1]
    start = torch.linalg.eigh(matrices.sum(dim=0))[1]
    blocks = 2 * -(-dims // (2 * _BLOCK)) if dims > 2 * _BLOCK else 1
    size = -(-dims // blocks)
    # Axes that are 0 in all matrices are added to make both halves equally large. Their angles are 0, so they are never
    # rotated.
    missing = blocks * size - dims if blocks > 1 else dims % 2
    turned = torch.nn.functional.pad(start.T @ matrices @ start, (0, missing, 0, missing))
    rotation = torch.nn.functional.pad(start.T, (0, 0, 0, missing))
    total, left = float(turned.square().sum()), _off_diagonal(turned)
    for _ in range(max_sweeps):
        if blocks == 1:
            turned, rotation = (part[0] for part in _sweep(turned[None], rotation[None]))
        else:
            turned, rotation = _sweep_of_blocks(turned, rotation, blocks)
        before, left = left, _off_diagonal(turned)
        if before - left <= tolerance * before or left <= 1e-20 * total:
            break
    return rotation[:dims].T, torch.diagonal(turned, dim1=1, dim2=2)[:, :dims]


def _off_diagonal(matrices: torch.Tensor) -> float:
    return float(matrices.square().sum() - torch.diagonal(matrices, dim1=1, dim2=2).square().sum())


def _rounds(count: int, device: torch.device) -> torch.Tensor:
    """The permutation of a round-robin tournament for an even number of players.

    Applied repeatedly, it pairs each player with every other one. In each round player i of the first half meets player
    i of the second half; one player stays in place, the others rotate.
    """
    half = count // 2
    first, second = torch.arange(half, device=device), torch.arange(half, count, device=device)
    if half == 1:
        return torch.cat([first, second])
    return torch.cat([first[:1], second[:1], first[1:-1], second[1:], first[-1:]])


def _sweep(matrices: torch.Tensor, rotation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotates every plane once in each of `(batch, matrices, dims, dims)`; rows of `rotation` are axes."""
    half = matrices.shape[-1] // 2
    order = _rounds(2 * half, matrices.device)

    def mixed(values: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
        first, second = values[..., :half, :], values[..., half:, :]
        return torch.cat([cosine * first + sine * second, cosine * second - sine * first], dim=-2)[..., order, :]

    for _ in range(2 * half - 1):
        diagonal = torch.diagonal(matrices, dim1=-2, dim2=-1)
        difference = diagonal[..., :half] - diagonal[..., half:]
        shared = 2 * torch.diagonal(matrices[..., :half, half:], dim1=-2, dim2=-1)
        angle = (
            torch.atan2(2 * (difference * shared).sum(dim=1), (difference.square() - shared.square()).sum(dim=1))[
                ..., None
            ]
            / 4
        )
        cosine, sine = angle.cos(), angle.sin()
        matrices = mixed(matrices, cosine[:, None], sine[:, None]).transpose(-2, -1)
        matrices = mixed(matrices, cosine[:, None], sine[:, None])
        rotation = mixed(rotation, cosine, sine)
    return matrices, rotation


def _sweep_of_blocks(matrices: torch.Tensor, rotation: torch.Tensor, blocks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotates the planes of every pair of blocks of axes, `(matrices, dims, dims)`; rows of `rotation` are axes."""
    count, dims, _ = matrices.shape
    half, size = blocks // 2, dims // blocks
    places = torch.arange(dims, device=matrices.device).view(blocks, size)
    # Permutes blocks from a round's order so that pairs are adjacent, and from there to the next round's order.
    meeting = places.view(2, half, size).transpose(0, 1).flatten()
    back = meeting.argsort().view(blocks, size)[_rounds(blocks, matrices.device)].flatten()

    def mixed(values: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
        return (turns @ values.unflatten(-2, (half, 2 * size))).flatten(-3, -2)

    matrices, rotation = matrices[:, meeting][:, :, meeting], rotation[meeting]
    for step in range(blocks - 1):
        of_pairs = torch.diagonal(matrices.view(count, half, 2 * size, half, 2 * size), dim1=1, dim2=3)
        identity = torch.eye(2 * size).to(matrices).expand(half, -1, -1)
        _, turns = _sweep(of_pairs.movedim(-1, 0), identity)
        matrices = mixed(mixed(matrices, turns).transpose(1, 2), turns)
        rotation = mixed(rotation, turns)
        following = back[meeting] if step < blocks - 2 else back
        matrices, rotation = matrices[:, following][:, :, following], rotation[following]
    return matrices, rotation
