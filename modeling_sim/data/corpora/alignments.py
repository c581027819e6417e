"""Phone labels: where they are read from, and where they stand in time.

A *label frame* is a window of 25 ms every 10 ms that never leaves the signal (Kaldi's frames with "snip edges"): frame
i is samples 160 i to 160 i + 400 at 16 kHz, and its center 160 i + 200. All corpora label these frames. A model's
frames are elsewhere: `labels_at_frames` brings labels to them by time.
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

from modeling_sim.data.corpora.contract import replace_column
from modeling_sim.data.corpora.tree import decode_text, read_text, visible_files
from modeling_sim.text import say_once

LABEL_RATE = 16_000  # samples a second in which the next two are counted


LABEL_WINDOW = 400


LABEL_HOP = 160


IGNORED = -100  # torch's default `ignore_index`


PHONES = "phones"


_LONGEST = 1_000_000  # seconds of a recording, by which a wrong end is known


_SILENCE, _NOISE = "SIL", "SPN"


_CPC_FILES = ("aligned_phones.txt", "converted_aligned_phones.txt")


_SEGMENT_FILES = ("segments.tsv", "segments.tsv.gz")


_SEGMENT_COLUMNS = ("utt", "tier", "start_frame", "n_frames", "label")


def num_label_frames(num_samples: int) -> int:
    """10 ms label frames of a recording of `num_samples` at 16 kHz: whole windows of 400 every 160."""
    return max(0, (num_samples - LABEL_WINDOW) // LABEL_HOP + 1)


def label_centers(num_labels: int) -> np.ndarray:
    """Centers of the first label frames, in samples at 16 kHz, `(num_labels,)` float64: 160 i + 200."""
    return LABEL_WINDOW / 2 + LABEL_HOP * np.arange(num_labels, dtype=np.float64)


def labels_from_segments(ends: np.ndarray, labels: np.ndarray, num_samples: int) -> np.ndarray:
    """Label of the segment that holds each label frame's center, `(label frames,)`.

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
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or not fields[1].isdecimal():
            raise ValueError(f"{path}, line {number}: {line!r} is not a name and its number")
        names[int(fields[1])] = fields[0]
    if sorted(names) != list(range(len(names))):
        raise ValueError(f"{path}: class numbers must run from 0 to {len(names) - 1} without gaps")
    return [names[number] for number in range(len(names))]


def read_frame_labels(path: str | Path) -> dict[str, np.ndarray]:
    """Frame labels by utterance id, from a file in the layout of CPC's converted_aligned_phones.txt.

    One utterance per line, `ID LABEL LABEL ...`, set apart by blanks or tabs; one whole number per label frame.

    Raises:
        ValueError: A label is not a whole number of 0 or more, or an id has two lines.
    """
    labels: dict[str, np.ndarray] = {}
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        utterance, *values = line.split(maxsplit=1) or [""]
        if not utterance:
            continue
        if utterance in labels:
            raise ValueError(f"{path}, line {number}: a second line of {utterance!r}")
        try:
            labels[utterance] = np.array(values[0].split() if values else [], dtype=np.int64)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{path}, line {number}: a label is not a whole number") from error
        if labels[utterance].min(initial=0) < 0:
            raise ValueError(f"{path}, line {number}: a label is below 0")
    return labels


class Alignments(NamedTuple):
    """Phone labels of a corpus.

    Args:
        names: Class names.
        labels: Class numbers per label frame, by utterance id. Those of a tree of TextGrids are their names without
            suffix, or their paths below the tree where files in several folders share a name.
    """

    names: list[str]
    labels: dict[str, np.ndarray]


def with_phones(dataset: Dataset | IterableDataset, alignments: str | Path | None) -> Dataset | IterableDataset:
    """Add the column `phones`, null for an utterance without an alignment.

    An alignment is an utterance's if their ids are equal, or one is the end of the other's path: `19/198/19-198-0000`
    is that of the utterance `19-198-0000`, and `0001` that of `ann/0001` if no other utterance ends so.

    Args:
        dataset: A corpus with the column `id`.
        alignments: What `read_alignments` reads; `None` leaves the corpus as it is.

    Raises:
        ValueError: Two alignments are one utterance's, or one is that of two utterances.
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
                f"{alignments}: the alignment {own!r} is that of {owners[own]!r} and {utterance!r}; put alignments in "
                "folders as the recordings are"
            )
    missing = [utterance for utterance, own in zip(ids, found, strict=True) if own is None]
    if missing:
        say_once(
            f"{alignments}: {len(missing)} of {len(ids)} utterances have no alignment, such as {missing[0]!r}"
            + (f"; alignments there are of {next(iter(labels))!r}, ..." if len(missing) == len(ids) and labels else "")
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
        source: Where they are from, for messages.
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
            f"{source}: {' and '.join(map(repr, fitting))} are both alignments of {utterance!r}; keep one, or "
            "put recordings in folders as the alignments are"
        )
    return fitting[0] if fitting else None


def read_alignments(path: str | Path) -> Alignments:
    """Phone labels from a folder or a file, in any of three layouts.

    - CPC: `aligned_phones.txt` or `converted_aligned_phones.txt`, read by `read_frame_labels`.
    - Segments: `segments.tsv` or `segments.tsv.gz` with the columns utt, tier, start_frame, n_frames, label, of which
      the rows of tier "phone" are read; gaps are silence.
    - Montreal Forced Aligner: a tree of `ID.TextGrid` files, read by `read_textgrid_phones`; a label frame has the
      phone at its center. Hidden files are skipped.

    In the last two, stress marks of ARPAbet vowels are dropped (AH0 is AH), empty intervals, "sil" and "sp" are SIL,
    "spn" and "+NSN+" are SPN.

    A file `phones.txt` next to them gives class names and numbers. Without it they are "SIL" and the labels in
    alphabetic order, or the numbers themselves for the CPC layout, whose published file names none.

    Raises:
        FileNotFoundError: There is no such folder or file, or no alignment in it.
        ValueError: A file is not of its layout, or a label is not in `phones.txt`; the message names the file.
    """
    path = Path(path)
    if path.is_dir():
        published = find_alignments(path)
        if published is not None:
            return read_alignments(published)
        return _with_names(_read_grids(path), path / "phones.txt")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such folder or file of alignments")
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
    """Phone of each label frame of every TextGrid of a tree, by its name, or by its path if names are not distinct."""
    grids = [path for path in visible_files(folder) if path.suffix.lower() == ".textgrid"]
    if not grids:
        raise FileNotFoundError(
            f"{folder}: no alignment there; looked for {', '.join((*_CPC_FILES, *_SEGMENT_FILES))}, *.TextGrid"
        )
    ids = [grid.stem for grid in grids]
    if len(set(ids)) < len(ids):
        ids = [grid.relative_to(folder).with_suffix("").as_posix() for grid in grids]
    for name, other in itertools.pairwise(sorted(ids)):
        if name == other:
            raise ValueError(f"{folder}: holds two TextGrids of {name!r}, with suffixes in other letters; keep one")
    return {name: read_textgrid_phones(grid) for name, grid in zip(ids, grids, strict=True)}


def find_alignments(folder: Path) -> Path | None:
    """The file of all alignments in a folder, by the names it is published under, if there is one."""
    paths = (folder / name for name in (*_CPC_FILES, *_SEGMENT_FILES))
    return next((path for path in paths if path.is_file()), None)


def read_textgrid_phones(path: str | Path) -> list[str]:
    """Phone at the center of each label frame, from the phone tiers of a Praat TextGrid, long or short.

    A phone tier is a tier of intervals with the name "phones" or "SPEAKER - phones". With several, one per speaker, a
    frame has the phone of the speaker who speaks; where two speak and their phones differ, it is SPN.

    Raises:
        ValueError: The file is no TextGrid in text form, or has no phone tier.
    """
    end, tiers = _read_tiers(path)
    found = [tier for name, tier in tiers if re.fullmatch(r"(.*-\s*)?phones?", name.strip(), re.IGNORECASE | re.DOTALL)]
    if not found:
        names = ", ".join(name for name, _ in tiers) or "none"
        raise ValueError(f"{path}: has no tier of intervals named 'phones'; tiers there: {names}")
    if not 0 <= end <= _LONGEST:
        raise ValueError(f"{path}: ends at {end} s; it must end between 0 and {_LONGEST} s")
    return [_one_phone(spoken) for spoken in zip(*(_phones_at_frames(tier, end, path) for tier in found), strict=True)]


def _read_tiers(path: str | Path) -> tuple[float, list[tuple[str, list[tuple[float, float, str]]]]]:
    """End of a TextGrid in seconds, and the name and the intervals `(start, end, text)` of its tiers of intervals."""
    # What Praat reads of either form: quoted texts, free-standing numbers, <flags>; all else is comment.
    pattern = r'"(?:[^"]|"")*"|<[^>\s]*>|(?<!\S)[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?(?!\S)'
    tokens = iter(re.findall(pattern, read_text(path)))

    def number() -> float:
        token = next(tokens)
        try:
            return float(token)
        except ValueError:
            raise ValueError(f"{path}: has {token} in place of a number") from None

    def quoted() -> str:
        return next(tokens)[1:-1].replace('""', '"')

    found = []
    try:
        if (quoted(), quoted()) != ("ooTextFile", "TextGrid"):
            raise ValueError(f"{path}: not a TextGrid in text form")
        _, end, _, tiers = number(), number(), next(tokens), number()
        for _ in range(int(tiers)):
            kind, name = quoted(), quoted()
            _, _, count = number(), number(), int(number())
            if kind == "IntervalTier":
                found.append((name, [(number(), number(), quoted()) for _ in range(count)]))
            else:
                for _ in range(count):
                    number(), quoted()
    except (StopIteration, OverflowError):
        raise ValueError(f"{path}: ends in the middle of a tier") from None
    return end, found


def _one_phone(spoken: Iterable[str]) -> str:
    """Phone of a frame that several speakers' tiers have a phone for."""
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

    A frame gets `IGNORED` (-100, which torch's cross entropy passes over) where no label's center is within half a
    label hop (5 ms): before the first label's and after the last one's.

    Args:
        labels: Class numbers of an utterance's label frames, `(label frames,)`.
        frame_centers: Centers of the model's frames in samples, `(frames,)`, as `SimConfig.frame_centers` gives them.
        sampling_rate: Samples a second of `frame_centers`.
        label_offset: Seconds by which labels are read later than the frame: a frame at time t gets the label of time
            `t + label_offset`. 0 is right for labels and frames that are both placed by their centers.
    """
    seconds = np.asarray(frame_centers, dtype=np.float64) / sampling_rate + label_offset
    nearest = (seconds * LABEL_RATE - LABEL_WINDOW / 2) / LABEL_HOP
    index = np.floor(nearest + 0.5).astype(np.int64)
    inside = (index >= 0) & (index < len(labels))
    placed = np.full(len(index), IGNORED, dtype=np.int64)
    placed[inside] = np.asarray(labels)[index[inside]]
    return placed


def _phones_at_frames(intervals: list[tuple[float, float, str]], end: float, path: str | Path) -> list[str]:
    """Phone at each label frame's center; what no interval covers is silence."""
    phones = [_SILENCE] * num_label_frames(round(end * LABEL_RATE))
    centers = label_centers(len(phones)) / LABEL_RATE
    for start, stop, text in intervals:
        if start > stop:
            raise ValueError(f"{path}: has an interval from {start} to {stop} s")
        for frame in range(*np.searchsorted(centers, (start, stop))):
            phones[frame] = _plain_phone(text)
    return phones


def _plain_phone(text: str) -> str:
    """A phone without its stress, with one name for silence and one for noise, whatever aligner wrote it."""
    text = text.strip()
    if text.lower() in ("", "sil", "sp"):
        return _SILENCE
    if text.lower() == "spn" or text.startswith("+"):  # +NSN+ and its like are the noises of CMU Sphinx
        return _NOISE
    return re.sub(r"(?<=[A-Z])[012]$", "", text)


def _read_segments(path: Path) -> dict[str, list[str]]:
    """Phone of each label frame by utterance id."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    reader = csv.DictReader(io.StringIO(decode_text(content, path), newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    missing = [name for name in _SEGMENT_COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(
            f"{path}: has no column {' and no '.join(missing)}; columns there: {', '.join(reader.fieldnames or ())}"
        )
    phones: dict[str, list[str]] = defaultdict(list)
    for number, row in enumerate(reader, start=2):
        if row["tier"] != "phone":
            continue
        frames = phones[row["utt"]]
        try:
            start, count = int(row["start_frame"]), int(row["n_frames"])
        except (TypeError, ValueError):
            raise ValueError(f"{path}, line {number}: start_frame or n_frames is not a whole number") from None
        if not 0 <= start <= start + count <= _LONGEST * LABEL_RATE // LABEL_HOP:
            raise ValueError(f"{path}, line {number}: {count} frames from {start} on are no segment")
        if start < len(frames):
            raise ValueError(f"{path}: the segments of {row['utt']} overlap at frame {start}")
        frames += [_SILENCE] * (start - len(frames)) + [_plain_phone(row["label"] or "")] * count
    return dict(phones)


def _with_names(phones: dict[str, list[str]], names_file: Path) -> Alignments:
    """Names to numbers, by `phones.txt` or in alphabetic order."""
    used = {phone for frames in phones.values() for phone in frames}
    names = read_phone_names(names_file) if names_file.is_file() else [_SILENCE, *sorted(used - {_SILENCE})]
    unknown = sorted(used - set(names))
    if unknown:
        raise ValueError(f"{names_file} does not name {', '.join(unknown)}")
    numbers = {name: number for number, name in enumerate(names)}
    return Alignments(names, {key: np.array([numbers[phone] for phone in frames]) for key, frames in phones.items()})
