"""Reads phone labels and aligns them with the frames of models.

A *label frame* is a window of 25 ms every 10 ms, without padding (Kaldi's frames with "snip edges"): frame i covers
samples 160 i to 160 i + 400 at 16 kHz, with center 160 i + 200. All corpora label these frames. The frames of a model
have other centers: `labels_at_frames` aligns labels with them by time.
"""

import csv
import gzip
import io
import itertools
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np
from datasets import ClassLabel, Dataset, Features, IterableDataset, List

from modeling_sim.data.corpora.contract import IGNORED, replace_column
from modeling_sim.data.corpora.tree import visible_files
from modeling_sim.files import decode_text, read_text
from modeling_sim.text import counted, say_once

LABEL_RATE = 16_000  # Hz; the sampling rate of the next two


LABEL_WINDOW = 400


LABEL_HOP = 160


PHONES = "phones"


_LONGEST = 1_000_000  # seconds; a later end of a recording is an error


_SILENCE, _NOISE = "SIL", "SPN"


_CPC_FILES = ("aligned_phones.txt", "converted_aligned_phones.txt")


_SEGMENT_FILES = ("segments.tsv", "segments.tsv.gz")


_SEGMENT_COLUMNS = ("utt", "tier", "start_frame", "n_frames", "label")


def num_label_frames(num_samples: int) -> int:
    """Number of label frames of a recording of `num_samples` at 16 kHz: complete windows of 400 every 160."""
    return max(0, (num_samples - LABEL_WINDOW) // LABEL_HOP + 1)


def label_centers(num_labels: int) -> np.ndarray:
    """Centers of the first label frames, in samples at 16 kHz, `(num_labels,)` float64: 160 i + 200."""
    return LABEL_WINDOW / 2 + LABEL_HOP * np.arange(num_labels, dtype=np.float64)


def labels_from_segments(ends: np.ndarray, labels: np.ndarray, num_samples: int) -> np.ndarray:
    """Label of the segment that holds each label frame's center, `(label frames,)`.

    Args:
        ends: End of each segment, in samples at 16 kHz, increasing, `(segments,)`; the first starts at 0.
        labels: One label per segment, `(segments,)`.
        num_samples: Length of the recording at 16 kHz.
    """
    centers = label_centers(num_label_frames(num_samples))
    return labels[np.minimum(np.searchsorted(ends, centers, side="right"), len(ends) - 1)]


def read_phone_names(path: str | Path) -> list[str]:
    """Class names from a file of `NAME NUMBER` lines, like Kaldi's phones.txt; numbers run from 0 without gaps."""
    names: dict[int, str] = {}
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or not fields[1].isdecimal():
            raise ValueError(f"{path}, line {number}: {line!r} is not `NAME NUMBER`")
        names[int(fields[1])] = fields[0]
    if sorted(names) != list(range(len(names))):
        raise ValueError(f"{path}: class numbers must run from 0 to {len(names) - 1} without gaps")
    return [names[number] for number in range(len(names))]


def read_frame_labels(path: str | Path) -> dict[str, np.ndarray]:
    """Frame labels by utterance id, from a file in the layout of CPC's converted_aligned_phones.txt.

    One utterance per line, `ID LABEL LABEL ...`, separated by spaces or tabs; one integer per label frame.

    Raises:
        ValueError: A label is not an integer of 0 or more, or an id has two lines.
    """
    labels: dict[str, np.ndarray] = {}
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        utterance, *values = line.split(maxsplit=1) or [""]
        if not utterance:
            continue
        if utterance in labels:
            raise ValueError(f"{path}, line {number}: {utterance!r} has two lines")
        try:
            labels[utterance] = np.array(values[0].split() if values else [], dtype=np.int64)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{path}, line {number}: a label is not an integer") from error
        if labels[utterance].min(initial=0) < 0:
            raise ValueError(f"{path}, line {number}: a label is negative")
    return labels


class Alignments(NamedTuple):
    """Phone labels of a corpus.

    Args:
        names: Class names.
        labels: Class numbers per label frame, by utterance id. For a tree of TextGrids, ids are the names of the files
            without suffix, or their relative paths if files in several folders share a name.
    """

    names: list[str]
    labels: dict[str, np.ndarray]


def with_phones(dataset: Dataset | IterableDataset, alignments: str | Path | None) -> Dataset | IterableDataset:
    """Adds the column `phones`, null for an utterance without an alignment.

    An alignment matches an utterance if their ids are equal, or if one is the end of the other's path:
    `19/198/19-198-0000` matches the utterance `19-198-0000`, and `0001` matches `ann/0001` if no other utterance ends
    with it.

    Args:
        dataset: A corpus with the column `id`.
        alignments: Folder or file for `read_alignments`; `None` returns the corpus unchanged.

    Raises:
        ValueError: Two alignments match one utterance, or one matches two utterances.
    """
    if alignments is None:
        return dataset
    names, labels = read_alignments(alignments)
    labels = {normalize("NFC", utterance): frames for utterance, frames in labels.items()}
    ends = defaultdict(list)
    for utterance in labels:
        ends[PurePosixPath(utterance).name].append(utterance)
    feature = List(ClassLabel(names=names))
    if isinstance(dataset, IterableDataset):
        add = partial(_add_phones, labels=labels, ends=dict(ends), source=str(alignments))
        return dataset.map(add, features=Features({**dataset.features, PHONES: feature}))
    ids = [str(utterance) for utterance in dataset["id"][:]]
    found = [_alignment_of(utterance, ends, str(alignments)) for utterance in ids]
    owners: dict[str, str] = {}
    for utterance, own in zip(ids, found, strict=True):
        if own is not None and owners.setdefault(own, utterance) != utterance:
            raise ValueError(
                f"{alignments}: the alignment {own!r} matches both {owners[own]!r} and {utterance!r}; arrange "
                "alignments in the same folders as the recordings"
            )
    missing = [utterance for utterance, own in zip(ids, found, strict=True) if own is None]
    if missing:
        say_once(
            f"{alignments}: no alignment for {len(missing)} of {counted(len(ids), 'utterance')}, for example "
            f"{missing[0]!r}"
            + (f"; there are alignments of {next(iter(labels))!r}, ..." if len(missing) == len(ids) and labels else "")
        )
    return replace_column(dataset, PHONES, [None if own is None else labels[own] for own in found], feature)


def _add_phones(
    row: Mapping[str, Any], *, labels: Mapping[str, np.ndarray], ends: Mapping[str, list[str]], source: str
) -> dict[str, list[int] | None]:
    own = _alignment_of(row["id"], ends, source)
    return {PHONES: None if own is None else labels[own].tolist()}


def _alignment_of(utterance: str, ends: Mapping[str, list[str]], source: str) -> str | None:
    """Name of an utterance's alignment.

    Args:
        utterance: Id of the utterance.
        ends: Names of the alignments by their last part.
        source: Folder or file of the alignments, for error messages.
    """
    utterance = normalize("NFC", utterance)
    parts = PurePosixPath(utterance).parts
    candidates = ends.get(PurePosixPath(utterance).name, [])
    if utterance in candidates:
        return utterance
    fitting = []
    for name in candidates:
        others = PurePosixPath(name).parts
        shared = min(len(parts), len(others))
        if parts[-shared:] == others[-shared:]:
            fitting.append(name)
    if len(fitting) > 1:
        raise ValueError(
            f"{source}: {' and '.join(map(repr, fitting))} both match {utterance!r}; keep one, or arrange recordings "
            "in the same folders as the alignments"
        )
    return fitting[0] if fitting else None


def read_alignments(path: str | Path) -> Alignments:
    """Reads phone labels from a folder or a file, in one of three layouts.

    - CPC: `aligned_phones.txt` or `converted_aligned_phones.txt`, read by `read_frame_labels`.
    - Segments: `segments.tsv` or `segments.tsv.gz` with the columns utt, tier, start_frame, n_frames, label; only rows
      of tier "phone" are read, and gaps are silence.
    - Montreal Forced Aligner: a tree of `ID.TextGrid` files, read by `read_textgrid_phones`; the label of a frame is
      the phone at its center. Hidden files are skipped.

    In the last two, stress marks of ARPAbet vowels are dropped (AH0 becomes AH); empty intervals, "sil" and "sp" become
    SIL, "spn" and "+NSN+" become SPN.

    A file `phones.txt` next to them gives class names and numbers. Without it, classes are "SIL" and the labels in
    alphabetic order, or the numbers themselves for the CPC layout, whose published file has no names.

    Raises:
        FileNotFoundError: The folder or file does not exist, or has no alignment.
        ValueError: A file does not have its layout, or a label is not in `phones.txt`; the message names the file.
    """
    path = Path(path)
    if path.is_dir():
        published = find_alignments(path)
        if published is not None:
            return read_alignments(published)
        return _with_names(_read_grids(path), path / "phones.txt")
    if not path.is_file():
        raise FileNotFoundError(f"`alignments` is {path}, which does not exist")
    if path.name.endswith((".tsv", ".tsv.gz")):
        return _with_names(_read_segments(path), path.with_name("phones.txt"))
    if path.suffix.lower() == ".textgrid":
        return _with_names({path.stem: read_textgrid_phones(path)}, path.with_name("phones.txt"))
    labels = read_frame_labels(path)
    number = 1 + max((int(values.max(initial=-1)) for values in labels.values()), default=-1)
    if not path.with_name("phones.txt").is_file():
        return Alignments([str(phone) for phone in range(number)], labels)
    names = read_phone_names(path.with_name("phones.txt"))
    if number > len(names):
        raise ValueError(f"{path}: has the label {number - 1}, but phones.txt names 0 to {len(names) - 1}")
    return Alignments(names, labels)


def _read_grids(folder: Path) -> dict[str, list[str]]:
    """Phone of each label frame of every TextGrid of a tree, by name, or by path if names are not unique."""
    grids = [path for path in visible_files(folder) if path.suffix.lower() == ".textgrid"]
    if not grids:
        raise FileNotFoundError(f"{folder}: has none of {', '.join((*_CPC_FILES, *_SEGMENT_FILES))}, *.TextGrid")
    ids = [grid.stem for grid in grids]
    if len(set(ids)) < len(ids):
        ids = [grid.relative_to(folder).with_suffix("").as_posix() for grid in grids]
    for name, other in itertools.pairwise(sorted(ids)):
        if name == other:
            raise ValueError(f"{folder}: has two TextGrids of {name!r}, whose suffixes differ in case; keep one")
    return {name: read_textgrid_phones(grid) for name, grid in zip(ids, grids, strict=True)}


def find_alignments(folder: Path) -> Path | None:
    """The file with all alignments in a folder, by its published names; `None` if there is none."""
    paths = (folder / name for name in (*_CPC_FILES, *_SEGMENT_FILES))
    return next((path for path in paths if path.is_file()), None)


def read_textgrid_phones(path: str | Path) -> list[str]:
    """Phone at the center of each label frame, from the phone tiers of a Praat TextGrid, long or short.

    A phone tier is an interval tier named "phones" or "SPEAKER - phones". With several tiers, one per speaker, a frame
    has the phone of the active speaker; if several are active with different phones, it is SPN.

    Raises:
        ValueError: The file is not a TextGrid in text form, or has no phone tier.
    """
    end, tiers = _read_tiers(path)
    found = [tier for name, tier in tiers if re.fullmatch(r"(.*-\s*)?phones?", name.strip(), re.IGNORECASE | re.DOTALL)]
    if not found:
        names = ", ".join(name for name, _ in tiers) or "none"
        raise ValueError(f"{path}: has no interval tier 'phones'; available: {names}")
    if not 0 <= end <= _LONGEST:
        raise ValueError(f"{path}: ends at {end} s; it must end between 0 and {_LONGEST} s")
    return [_one_phone(spoken) for spoken in zip(*(_phones_at_frames(tier, end, path) for tier in found), strict=True)]


def _read_tiers(path: str | Path) -> tuple[float, list[tuple[str, list[tuple[float, float, str]]]]]:
    """End of a TextGrid in seconds, and the name and the intervals `(start, end, text)` of its interval tiers."""
    # Praat reads quoted texts, free-standing numbers and <flags> of either form; everything else is a comment.
    pattern = r'"(?:[^"]|"")*"|<[^>\s]*>|(?<!\S)[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?(?!\S)'
    tokens = iter(re.findall(pattern, read_text(path)))

    def number() -> float:
        token = next(tokens)
        try:
            return float(token)
        except ValueError:
            raise ValueError(f"{path}: {token} is not a number") from None

    def quoted() -> str:
        return next(tokens)[1:-1].replace('""', '"')

    found = []
    try:
        if (quoted(), quoted()) != ("ooTextFile", "TextGrid"):
            raise ValueError(f"{path}: not a TextGrid in text form")
        _, end, _, tiers = number(), number(), next(tokens), number()
        for _ in range(int(tiers)):
            tier_class, name = quoted(), quoted()
            _, _, count = number(), number(), int(number())
            if tier_class == "IntervalTier":
                found.append((name, [(number(), number(), quoted()) for _ in range(count)]))
            else:
                for _ in range(count):
                    number(), quoted()
    except (StopIteration, OverflowError):
        raise ValueError(f"{path}: truncated in the middle of a tier") from None
    return end, found


def _one_phone(spoken: Iterable[str]) -> str:
    """Phone of a frame from the phones of all speakers' tiers."""
    phones = set(spoken) - {_SILENCE}
    if not phones:
        return _SILENCE
    return phones.pop() if len(phones) == 1 else _NOISE


def labels_at_frames(
    labels: np.ndarray,
    frame_centers: np.ndarray,
    *,
    sampling_rate: int = LABEL_RATE,
    label_offset: float = 0.0,
) -> np.ndarray:
    """Label of each frame of a model: the label frame whose center is nearest in time, `(frames,)` int64.

    A frame gets `IGNORED` (-100, which torch's cross entropy ignores) if no label's center is within half a label hop
    (5 ms): before the first label and after the last one.

    Args:
        labels: Class numbers of an utterance's label frames, `(label frames,)`.
        frame_centers: Centers of the model's frames in samples, `(frames,)`; see `SimConfig.frame_centers`.
        sampling_rate: Sampling rate of `frame_centers` in Hz.
        label_offset: Shift of the labels in seconds: a frame at time t gets the label of time `t + label_offset`. Keep
            0 to align labels and frames by their centers.
    """
    seconds = np.asarray(frame_centers, dtype=np.float64) / sampling_rate + label_offset
    nearest = (seconds * LABEL_RATE - LABEL_WINDOW / 2) / LABEL_HOP
    index = np.floor(nearest + 0.5).astype(np.int64)
    inside = (index >= 0) & (index < len(labels))
    placed = np.full(len(index), IGNORED, dtype=np.int64)
    placed[inside] = np.asarray(labels)[index[inside]]
    return placed


def _phones_at_frames(intervals: list[tuple[float, float, str]], end: float, path: str | Path) -> list[str]:
    """Phone at each label frame's center; silence outside of intervals."""
    phones = [_SILENCE] * num_label_frames(round(end * LABEL_RATE))
    centers = label_centers(len(phones)) / LABEL_RATE
    for start, stop, text in intervals:
        if start > stop:
            raise ValueError(f"{path}: has an interval from {start} to {stop} s")
        for frame in range(*np.searchsorted(centers, (start, stop))):
            phones[frame] = _plain_phone(text)
    return phones


def _plain_phone(text: str) -> str:
    """Removes stress from a phone, and gives silence and noise one name each for all aligners."""
    text = text.strip()
    if text.lower() in ("", "sil", "sp"):
        return _SILENCE
    if text.lower() == "spn" or text.startswith("+"):  # noises of CMU Sphinx, for example +NSN+
        return _NOISE
    return re.sub(r"(?<=[A-Z])[012]$", "", text)


def _read_segments(path: Path) -> dict[str, list[str]]:
    """Phone of each label frame by utterance id."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: not a valid gzip file: {error}") from error
    reader = csv.DictReader(io.StringIO(decode_text(content, path), newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    missing = [name for name in _SEGMENT_COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(
            f"{path}: has no column {' and no '.join(missing)}; available: {', '.join(reader.fieldnames or ())}"
        )
    phones: dict[str, list[str]] = defaultdict(list)
    for number, row in enumerate(reader, start=2):
        if row["tier"] != "phone":
            continue
        frames = phones[row["utt"]]
        try:
            start, count = int(row["start_frame"]), int(row["n_frames"])
        except (TypeError, ValueError):
            raise ValueError(f"{path}, line {number}: start_frame or n_frames is not an integer") from None
        if not 0 <= start <= start + count <= _LONGEST * LABEL_RATE // LABEL_HOP:
            raise ValueError(f"{path}, line {number}: start_frame {start} or n_frames {count} is out of range")
        if start < len(frames):
            raise ValueError(f"{path}, line {number}: the segments of {row['utt']} overlap at frame {start}")
        frames += [_SILENCE] * (start - len(frames)) + [_plain_phone(row["label"] or "")] * count
    return dict(phones)


def _with_names(phones: dict[str, list[str]], names_file: Path) -> Alignments:
    """Converts names to numbers, by `phones.txt` or in alphabetic order."""
    used = {phone for frames in phones.values() for phone in frames}
    names = read_phone_names(names_file) if names_file.is_file() else [_SILENCE, *sorted(used - {_SILENCE})]
    unknown = sorted(used - set(names))
    if unknown:
        raise ValueError(f"{names_file} does not name {', '.join(unknown)}")
    numbers = {name: number for number, name in enumerate(names)}
    return Alignments(names, {key: np.array([numbers[phone] for phone in frames]) for key, frames in phones.items()})
