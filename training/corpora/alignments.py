"""Phone labels: where they are read from, and where they stand in time.

A *label frame* is a window of 25 ms every 10 ms that never leaves the signal (Kaldi's frames with "snip edges"): frame
i is samples 160 i to 160 i + 400 at 16 kHz, and its centre 160 i + 200. All corpora label these frames. A model's
frames are elsewhere: `labels_at_frames` brings labels to them by time.
"""

import csv
import gzip
import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

LABEL_RATE = 16_000  # samples a second in which the next two are counted
LABEL_WINDOW = 400
LABEL_HOP = 160
IGNORED = -100  # torch's default `ignore_index`

_CPC_FILES = ("aligned_phones.txt", "converted_aligned_phones.txt")
_SEGMENT_FILES = ("segments.tsv", "segments.tsv.gz")


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
    """Phone labels from a folder or a file, in any of three layouts.

    - CPC: `aligned_phones.txt` or `converted_aligned_phones.txt`, read by `read_frame_labels`.
    - Segments: `segments.tsv` or `segments.tsv.gz` with the columns utt, tier, start_frame, n_frames, label, of which
      the rows of tier "phone" are read; gaps are silence.
    - Montreal Forced Aligner: a tree of `ID.TextGrid` files, read by `read_textgrid_phones`; a label frame has the
      phone at its centre.

    In the last two, stress marks of ARPAbet vowels are dropped (AH0 is AH), empty intervals, "sil" and "sp" are SIL,
    "spn" and "+NSN+" are SPN.

    A file `phones.txt` beside them gives class names and numbers. Without it they are "SIL" and the labels in
    alphabetic order, or the numbers themselves for the CPC layout, whose published file names none.

    Raises:
        FileNotFoundError: There is no such folder or file, or no alignment in it.
        ValueError: A file is not of its layout, or a label is not in `phones.txt`.
    """
    path = Path(path)
    if path.is_dir():
        for name in (*_CPC_FILES, *_SEGMENT_FILES):
            if (path / name).is_file():
                return read_alignments(path / name)
        grids = sorted(path.rglob("*.TextGrid"))
        if not grids:
            raise FileNotFoundError(
                f"{path}: no alignment there; looked for {', '.join((*_CPC_FILES, *_SEGMENT_FILES))}, *.TextGrid"
            )
        return _with_names({grid.stem: read_textgrid_phones(grid) for grid in grids}, path / "phones.txt")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such folder or file of alignments")
    if path.name.endswith((".tsv", ".tsv.gz")):
        return _with_names(_read_segments(path), path.with_name("phones.txt"))
    labels = read_frame_labels(path)
    if path.with_name("phones.txt").is_file():
        return Alignments(read_phone_names(path.with_name("phones.txt")), labels)
    number = 1 + max((int(values.max(initial=-1)) for values in labels.values()), default=-1)
    return Alignments([str(phone) for phone in range(number)], labels)


def read_textgrid_phones(path: str | Path) -> list[str]:
    """Phone at the centre of each label frame, from the tier "phones" of a Praat TextGrid, long or short.

    Raises:
        ValueError: The file is no TextGrid or has no tier of intervals named "phones".
    """
    content = Path(path).read_bytes()
    text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    # What Praat reads of either form: quoted texts, free-standing numbers, <flags>; all else is comment.
    tokens = iter(re.findall(r'"(?:[^"]|"")*"|<[^>\s]*>|(?<!\S)[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?(?!\S)', text))

    def number() -> float:
        return float(next(tokens))

    try:
        if (next(tokens), next(tokens)) != ('"ooTextFile"', '"TextGrid"'):
            raise ValueError(f"{path}: not a TextGrid in text form")
        _, end, _, tiers = number(), number(), next(tokens), int(number())
        for _ in range(tiers):
            kind, name = next(tokens), next(tokens).strip('"')
            _, _, count = number(), number(), int(number())
            if kind != '"IntervalTier"':
                for _ in range(count):
                    number(), next(tokens)
                continue
            intervals = [(number(), number(), next(tokens)[1:-1]) for _ in range(count)]
            if name == "phones" or name.endswith(" - phones"):
                return _phones_at_frames(intervals, end)
    except StopIteration:
        raise ValueError(f"{path}: ends in the middle of a tier") from None
    raise ValueError(f"{path}: has no tier of intervals named 'phones'")


def labels_at_frames(
    labels: np.ndarray,
    frame_centers: np.ndarray,
    *,
    sampling_rate: int = LABEL_RATE,
    label_offset: float = 0.0,
) -> np.ndarray:
    """Label of each frame of a model: the label frame whose centre is nearest in time, `(frames,)` int64.

    A frame gets `IGNORED` (-100, which torch's cross entropy passes over) where no label's centre is within half a
    label hop (5 ms): before the first label's and after the last one's.

    Args:
        labels: Class numbers of an utterance's label frames, `(label frames,)`.
        frame_centers: Centres of the model's frames in samples, `(frames,)`, as `SimConfig.frame_centers` gives them.
        sampling_rate: Samples a second of `frame_centers`.
        label_offset: Seconds by which labels are read later than the frame: a frame at time t gets the label of time
            `t + label_offset`. 0 is right for labels and frames that are both placed by their centres.
    """
    seconds = np.asarray(frame_centers, dtype=np.float64) / sampling_rate + label_offset
    nearest = (seconds * LABEL_RATE - LABEL_WINDOW / 2) / LABEL_HOP
    index = np.floor(nearest + 0.5).astype(np.int64)
    inside = (index >= 0) & (index < len(labels))
    placed = np.full(len(index), IGNORED, dtype=np.int64)
    placed[inside] = np.asarray(labels)[index[inside]]
    return placed


def _phones_at_frames(intervals: list[tuple[float, float, str]], end: float) -> list[str]:
    """Phone at each label frame's centre; what no interval covers is silence."""
    phones = ["SIL"] * num_label_frames(round(end * LABEL_RATE))
    centers = label_centers(len(phones)) / LABEL_RATE
    for start, stop, text in intervals:
        for frame in range(*np.searchsorted(centers, (start, stop))):
            phones[frame] = _plain_phone(text)
    return phones


def _plain_phone(text: str) -> str:
    """A phone without its stress, with one name for silence and one for noise, whatever aligner wrote it."""
    text = text.strip()
    if text.lower() in ("", "sil", "sp"):
        return "SIL"
    if text.lower() == "spn" or text.startswith("+"):  # +NSN+ and its like are the noises of CMU Sphinx
        return "SPN"
    return re.sub(r"(?<=[A-Z])[012]$", "", text)


def _read_segments(path: Path) -> dict[str, list[str]]:
    """Phone of each label frame by utterance id."""
    phones: dict[str, list[str]] = defaultdict(list)
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            if row["tier"] == "phone":
                frames = phones[row["utt"]]
                start = int(row["start_frame"])
                if start < len(frames):
                    raise ValueError(f"{path}: the segments of {row['utt']} overlap at frame {start}")
                frames += ["SIL"] * (start - len(frames)) + [_plain_phone(row["label"])] * int(row["n_frames"])
    return dict(phones)


def _with_names(phones: dict[str, list[str]], names_file: Path) -> Alignments:
    """Names to numbers, by `phones.txt` or in alphabetic order."""
    used = {phone for frames in phones.values() for phone in frames}
    names = read_phone_names(names_file) if names_file.is_file() else ["SIL", *sorted(used - {"SIL"})]
    unknown = sorted(used - set(names))
    if unknown:
        raise ValueError(f"{names_file} does not name {', '.join(unknown)}")
    numbers = {name: number for number, name in enumerate(names)}
    return Alignments(names, {key: np.array([numbers[phone] for phone in frames]) for key, frames in phones.items()})
