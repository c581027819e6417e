"""The frames where a dimension is largest or smallest."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Moment:
    """A frame: its utterance, its time in seconds, and the dimension's value."""

    utterance: str
    seconds: float
    value: float


def loudest_moments(
    values: np.ndarray,
    utterances: np.ndarray,
    seconds: np.ndarray,
    *,
    count: int = 10,
    apart: float = 0.5,
    smallest: bool = False,
) -> list[Moment]:
    """Frames with the largest values of one dimension, the largest first.

    Args:
        values: `(frames,)`, values of the dimension.
        utterances: `(frames,)`, name of each frame's utterance.
        seconds: `(frames,)`, time of each frame from the start of its utterance.
        count: Maximum number of frames.
        apart: Minimum number of seconds between two frames of one utterance: neighbors of a large value are large, too.
        smallest: Return the smallest values instead, the smallest first.

    Raises:
        ValueError: Lengths disagree, a value is not finite, or `count` or `apart` is out of range.
    """
    values = np.asarray(values)
    if values.ndim != 1 or not len(values) == len(utterances) == len(seconds):
        raise ValueError(
            f"`values` has shape {values.shape}, with {len(utterances)} `utterances` and {len(seconds)} `seconds`; "
            "give one of each per frame."
        )
    if not np.isfinite(values).all():
        raise ValueError("`values` contains NaN or infinity.")
    if count < 1 or not apart >= 0:  # NaN as well
        raise ValueError(f"`count` is {count} and `apart` {apart}; give at least 1, and at least 0 seconds.")
    found: list[Moment] = []
    taken: dict[str, list[float]] = {}
    for frame in np.argsort(values if smallest else -values, kind="stable"):
        name, time = str(utterances[frame]), float(seconds[frame])
        others = taken.setdefault(name, [])
        if all(abs(time - other) >= apart for other in others):
            others.append(time)
            found.append(Moment(name, time, float(values[frame])))
            if len(found) == count:
                break
    return found
