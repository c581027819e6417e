"""Frame labels and their place in time."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

# Kaldi's frames with "snip edges": a window of 25 ms every 10 ms that never leaves the signal. Samples at 16 kHz.
LABEL_RATE = 16_000
LABEL_WINDOW = 400
LABEL_HOP = 160


def num_label_frames(num_samples: int) -> int:
    """10 ms label frames of a recording of `num_samples` at 16 kHz: whole windows of 400 every 160."""
    return max(0, (num_samples - LABEL_WINDOW) // LABEL_HOP + 1)


def label_centers(num_labels: int) -> np.ndarray:
    """Centres of the first label frames, in samples at 16 kHz, `(num_labels,)` float64: 160 i + 200."""
    return LABEL_WINDOW / 2 + LABEL_HOP * np.arange(num_labels, dtype=np.float64)


def labels_from_segments(ends: np.ndarray, labels: np.ndarray, num_samples: int) -> np.ndarray:
    """Label of the segment that holds each label frame's centre, `(label frames,)`.

    Args:
        ends: Where each segment ends, in samples at 16 kHz, rising, `(segments,)`; the first starts at 0.
        labels: One label a segment, `(segments,)`.
        num_samples: Length of the recording at 16 kHz.
    """
    centers = label_centers(num_label_frames(num_samples))
    return labels[np.minimum(np.searchsorted(ends, centers, side="right"), len(ends) - 1)]


def read_phone_names(path: str | Path) -> list[str]:
    """Class names from a file of `NAME NUMBER` lines, as Kaldi's phones.txt; numbers run from 0 without gaps."""
    names: dict[int, str] = {}
    for line in Path(path).read_text(encoding="utf-8").split("\n"):
        if line.strip():
            name, number = line.split()
            names[int(number)] = name
    if sorted(names) != list(range(len(names))):
        raise ValueError(f"{path}: class numbers must run from 0 to {len(names) - 1} without gaps")
    return [names[number] for number in range(len(names))]


def read_frame_labels(path: str | Path) -> dict[str, np.ndarray]:
    """Frame labels by utterance id, from a file in the layout of CPC's converted_aligned_phones.txt.

    One utterance a line, `ID LABEL LABEL ...`, one whole number a label frame.
    """
    labels: dict[str, np.ndarray] = {}
    with Path(path).open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            utterance, _, values = line.partition(" ")
            try:
                labels[utterance.strip()] = np.array(values.split(), dtype=np.int64)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: a label is not a whole number") from error
    return labels


class Alignments(NamedTuple):
    """Phone labels of a corpus.

    Args:
        names: Class names.
        labels: Class numbers a label frame, by utterance id.
    """

    names: list[str]
    labels: dict[str, np.ndarray]


def read_alignments(path: str | Path) -> Alignments:
    """Phone labels from a folder or a file, whatever their layout.

    Raises:
        FileNotFoundError: There is no such folder or file, or no alignment in it.
    """
    path = Path(path)
    for name in ("aligned_phones.txt", "converted_aligned_phones.txt"):
        if (path / name).is_file():
            return read_alignments(path / name)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: neither an alignment file nor a folder with one")
    labels = read_frame_labels(path)
    names_file = path.with_name("phones.txt")
    if names_file.is_file():
        return Alignments(read_phone_names(names_file), labels)
    # The published CPC file has 41 classes and names none of them.
    number = 1 + max(int(values.max(initial=0)) for values in labels.values())
    return Alignments([str(phone) for phone in range(number)], labels)
