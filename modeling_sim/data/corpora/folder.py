"""A folder of audio files, with labels from folder names or from a manifest."""

import csv
import io
import json
import math
import os
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pyarrow as pa
from datasets import Dataset

from modeling_sim.data.audio import file_path
from modeling_sim.data.corpora.alignments import with_phones
from modeling_sim.data.corpora.contract import (
    UNKNOWN_SPEAKER,
    CorpusInfo,
    class_names,
    find_speaker_column,
    known_classes,
    make_dataset,
    plain_array,
)
from modeling_sim.data.corpora.splits import SplitRule, say_division, split_ids
from modeling_sim.data.corpora.tree import audio_files, file_key
from modeling_sim.files import nearest, read_text
from modeling_sim.text import counted, printable, say_once, utf8_name

INFO = CorpusInfo(
    description="Audio files in a folder and its subfolders.",
    license="other",
    path_settings=("data_dir", "manifest", "lists", "alignments"),
)


_SUFFIXES = {".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3"}


# Columns that are always measured from the files, and ignored in a manifest.
_MEASURED = ("audio", "num_samples", "sampling_rate")


# Columns that cannot be labels.
_NO_LABELS = ("id", "file", "split", *_MEASURED)


_DELIMITERS = {".csv": ",;\t", ".tsv": "\t,;"}  # the usual one first


_Row = dict[str, Any]


def load(
    *,
    split: str = "train",
    data_dir: str | Path,
    manifest: str | Path | None = None,
    label_columns: Sequence[str] | str = (),
    speaker_column: str | None = None,
    folder_label: str | None = None,
    split_by: SplitRule | None = None,
    lists: str | Path | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    alignments: str | Path | None = None,
) -> Dataset:
    """Loads a split.

    Without a manifest, every wav, flac, ogg, opus and mp3 file below `data_dir` is an utterance; its id is its path
    below `data_dir` without the suffix. Hidden files are skipped, and a file with several names by links counts once
    (see `data.corpora.tree`). A manifest is a CSV, TSV or JSONL file with one row per utterance and a column `file`, a
    path below `data_dir`. The columns `id` and `split` are used, those in `label_columns` become `ClassLabel`, and all
    others are kept unchanged, except `audio`, `num_samples` and `sampling_rate`, which are read from the files. Cells
    that are empty, null or NaN are missing values; for classes and speakers, `nan`, `NaN`, `<NA>` and `None` also
    count as missing, which is reported.

    Args:
        split: "train", "test" or "all", or a value of the manifest's column `split`, if it has one.
        data_dir: Folder of the recordings.
        manifest: A CSV, TSV or JSONL file with one row per recording and a column `file`; `None` for none.
        label_columns: Column, or columns, of the manifest with classes for probes and classifiers.
        speaker_column: Column of the manifest with the speakers. `None`: `speaker_id`, or the first of the usual names,
            such as `speaker`, `spk` and `client_id`.
        folder_label: Name of a column to create from the name of each file's folder, such as "speaker_id" or "word".
        split_by: Rule that defines "train" and "test": "utterance", "speaker" (no speaker is in both) or "list".
            `None`: the manifest's column `split` if there is one, else "list" if `lists` is given, else "utterance".
        lists: Folder of `train.txt` and `test.txt` with ids.
        test_fraction: Fraction of the test set.
        seed: Seed of the split.
        alignments: Phone alignments for the column `phones`: a folder or a file for
            `data.corpora.alignments.read_alignments`.

    Raises:
        FileNotFoundError: The folder or the manifest does not exist, or the folder has no audio.
        ValueError: The manifest lacks required columns, has an unknown suffix, is not in the format of its suffix, or
            names files outside of `data_dir`; or an id or a file is in several splits.
    """
    root = Path(data_dir)
    if not root.is_dir():
        raise FileNotFoundError(f"`data_dir` is {printable(root)}, which is not a folder")
    source = printable(root if manifest is None else manifest)
    rows = _walk(root) if manifest is None else _read_manifest(Path(manifest), root)
    present = list(dict.fromkeys(name for row in rows for name in row))
    label_columns = [label_columns] if isinstance(label_columns, str) else list(label_columns)
    _check_columns(present, label_columns, speaker_column, folder_label, source)
    if folder_label is not None:
        label_columns = list(dict.fromkeys([*label_columns, folder_label]))
        for row in rows:
            row[folder_label] = Path(row["file"]).parent.name or utf8_name(root.resolve().name)
    if speaker_column is None:
        filled = [name for name in present if any(row.get(name) not in (None, "") for row in rows)]
        speaker_column = find_speaker_column([*filled, *label_columns], source)

    def texts(column: str) -> list[str | None]:
        return [_text(row.get(column), column, source) for row in rows]

    # Class names and types are derived from all rows, so that the splits share them.
    columns: dict[str, Any] = {
        name: plain_array(name, [row.get(name) for row in rows]) for name in present if name not in _NO_LABELS
    }
    columns |= {name: known_classes(texts(name), name, source) for name in label_columns}
    columns["speaker_id"] = (
        [] if speaker_column is None else known_classes(texts(speaker_column), speaker_column, source)
    )
    if not any(columns["speaker_id"]):
        columns["speaker_id"] = [UNKNOWN_SPEAKER] * len(rows)
    labels = {name: class_names(columns[name]) for name in ("speaker_id", *label_columns)}
    empty = [name for name, names in labels.items() if not names]
    if empty:
        raise ValueError(f"{source}: the column {empty[0]} has no classes, as it is empty in every row")
    columns["id"] = [own or _id_of(row["file"]) for own, row in zip(texts("id"), rows, strict=True)]
    columns["audio"] = [{"path": f"{utf8_name(root)}/{row['file']}"} for row in rows]

    parts = texts("split")
    absent: list[str] = []
    if split_by is None and split != "all" and any(parts):
        _check_split(parts, columns["speaker_id"], split, source)
    else:
        speakers = {
            name: own or UNKNOWN_SPEAKER for name, own in zip(columns["id"], columns["speaker_id"], strict=True)
        }
        ids = split_ids(
            speakers,
            split=split,
            rule=split_by or ("utterance" if lists is None else "list"),
            lists=None if lists is None else Path(lists),
            test_fraction=test_fraction,
            seed=seed,
        )
        # A listed id without a file becomes a row whose file does not exist, which the scan reports.
        absent = [name for name in ids if name not in speakers]
        chosen = set(ids)
        parts = [split if name in chosen else "the rest" for name in columns["id"]]
    if manifest is not None:  # without one, every file has one row
        _refuse_leaks(rows, columns["id"], [file_key(audio["path"]) for audio in columns["audio"]], parts, source)
    places = [place for place, part in enumerate(parts) if part == split] + [None] * len(absent)
    columns = {name: _at(values, places) for name, values in columns.items()}
    columns["id"][len(places) - len(absent) :] = absent
    columns["audio"][len(places) - len(absent) :] = [{"path": f"{utf8_name(root)}/{name} (listed)"} for name in absent]
    return with_phones(make_dataset(columns, labels=labels), alignments)


def _check_columns(
    present: Sequence[str],
    label_columns: Sequence[str],
    speaker_column: str | None,
    folder_label: str | None,
    source: str,
) -> None:
    """Raises if a column does not exist, or has another meaning in every corpus."""
    if folder_label in _NO_LABELS:
        raise ValueError(f"`folder_label` is {folder_label!r}, a column of every corpus; choose another name")
    if folder_label in present:
        raise ValueError(f"`folder_label` is {folder_label!r}, a column of {source}; choose another name")
    if set(label_columns) & set(_NO_LABELS):
        raise ValueError(f"`label_columns` is {list(label_columns)}; {', '.join(_NO_LABELS)} cannot be labels")
    wanted = [*label_columns, *([] if speaker_column is None else [speaker_column])]
    missing = sorted(set(wanted) - {*present, folder_label})
    if missing:
        raise ValueError(f"{source} has no column {' and no '.join(missing)}; available: {', '.join(present)}")


def _at(values: Any, places: Sequence[int | None]) -> Any:
    """A column's values at the given places, null for `None`."""
    if isinstance(values, pa.Array):
        return values.take(pa.array(places, type=pa.int64()))
    return [None if place is None else values[place] for place in places]


def _text(value: Any, column: str, source: str) -> str | None:
    """A cell as the name of a class, a speaker, an utterance or a file; `None` if it is empty."""
    if isinstance(value, (list, dict)):
        raise ValueError(f"{source}: the column {column} holds a list or an object; it must hold one name per row")
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # programs write integers in a column with gaps as floats
    return None if value in (None, "") else str(value)


def _id_of(file: str) -> str:
    """Default id of an utterance: its path without the suffix, with composed characters (NFC)."""
    return normalize("NFC", Path(file).with_suffix("").as_posix())


def _check_split(parts: Sequence[str | None], speakers: Sequence[str | None], split: str, source: str) -> None:
    """Raises if a manifest does not have a split, and prints its splits.

    Args:
        parts: Split of each row.
        speakers: Speaker of each row.
        split: The split to load.
        source: Name of the manifest in messages.
    """
    known: dict[str, list[str | None]] = {part: [] for part in parts if part is not None}
    for part, speaker in zip(parts, speakers, strict=True):
        if part is not None:
            known[part].append(speaker)
    nowhere = parts.count(None)
    if split not in known:
        raise ValueError(f"`split` is {split!r}{nearest(split, sorted(known))} The manifest has {sorted(known)}.")
    if nowhere:
        say_once(f"{source}: skipped {nowhere} of {counted(len(parts), 'row')} in no split")
    say_division(f"the column `split` of {source}", known)


def _refuse_leaks(
    rows: Sequence[_Row], ids: Sequence[str], files: Sequence[Hashable], parts: Sequence[str | None], source: str
) -> None:
    """Raises if an id or a file, by whatever name, is in two splits."""
    for keys, what in ((ids, "have the same id"), (files, "are the same file")):
        first: dict[Hashable, int] = {}
        for place, key in enumerate(keys):
            if parts[place] is not None and parts[first.setdefault(key, place)] != parts[place]:
                names = " and ".join(printable(rows[at]["file"]) for at in (first[key], place))
                raise ValueError(f"{source}: {names} {what} but are in different splits; keep one of the rows")


def _walk(root: Path) -> list[_Row]:
    """One row per file."""
    rows = []
    for path in audio_files(root, _SUFFIXES):
        file = utf8_name(path.relative_to(root))
        row = {"id": _id_of(file), "file": file}
        if file.encode() != os.fsencode(path.relative_to(root)):
            row["file"] += " (rename it: its name is not UTF-8)"  # does not exist, so the scan reports it
        rows.append(row)
    if not rows:
        raise FileNotFoundError(f"{printable(root)} has no files with suffix {', '.join(sorted(_SUFFIXES))}")
    return rows


def _read_manifest(path: Path, root: Path) -> list[_Row]:
    """Rows of a CSV, TSV or JSONL file; `file` is a path below the root."""
    if not path.is_file():
        candidate = root / path
        hint = f"; did you mean {printable(candidate)}?" if candidate.is_file() else ""
        raise FileNotFoundError(f"`manifest` is {printable(path)}, which does not exist{hint}")
    suffix = path.suffix.lower()
    if suffix not in (*_DELIMITERS, ".jsonl"):
        raise ValueError(f"`manifest` is {printable(path)}; its suffix must be .csv, .tsv or .jsonl")
    text, source = read_text(path), printable(path)
    rows = _read_lines(source, text) if suffix == ".jsonl" else _read_table(source, text, _DELIMITERS[suffix])
    if not rows:
        raise ValueError(f"{source}: has no rows; give one per recording, with a column `file`")
    present = list(dict.fromkeys(name for row in rows for name in row))
    if "file" not in present:
        raise ValueError(
            f"{source} has no column `file`, which names an audio file below `data_dir`; available: "
            f"{', '.join(map(printable, present))}"
        )
    outside = {}
    for number, row in enumerate(rows, start=1):
        file = _text(row.get("file"), "file", source)
        if file is None:
            raise ValueError(f"{source}: row {number} has no `file`; every row must name an audio file")
        row["file"], is_inside = _below(root, file)
        if not is_inside:
            outside[number] = row["file"]
    if outside:
        common = os.path.commonpath([utf8_name(root.resolve()), *(str(Path(file).parent) for file in outside.values())])
        number, file = next(iter(outside.items()))
        raise ValueError(
            f"{source}: row {number} names {printable(file)}, which is outside of `data_dir`, {printable(root)}; set "
            f"`data_dir` to a folder with all recordings, such as {printable(common)}, and give paths relative to it"
        )
    return rows


def _below(root: Path, file: str) -> tuple[str, bool]:
    """Path of a manifest's file relative to the root, or absolute if outside of it, and whether it is below the root.

    Links in the folder may point anywhere, as its owner made them; a manifest may come from someone else.
    """
    # The path may come from Windows, or from macOS, which composes characters differently.
    spellings = (file, file.replace("\\", "/"), *(normalize(form, file) for form in ("NFC", "NFD")))
    file = next((name for name in spellings if _is_there(root / name)), spellings[1])
    path = Path(os.fsdecode(file_path(file)))
    if path.is_absolute() and path.is_relative_to(root.absolute()):
        path = path.relative_to(root.absolute())
    if not path.is_absolute() and ".." not in path.parts:
        return utf8_name(path.as_posix()), True
    real = (root / path).parent.resolve() / path.name
    if ".." not in path.name and real.is_relative_to(root.resolve()):
        return utf8_name(real.relative_to(root.resolve()).as_posix()), True
    return utf8_name(real.as_posix()), False


def _is_there(path: Path) -> bool:
    try:
        return os.path.exists(file_path(path))  # noqa: PTH110 - of bytes
    except ValueError:  # a zero byte in the path
        return False


def _read_table(source: str, text: str, delimiters: str) -> list[_Row]:
    """Rows of a table by column name; empty rows, and spaces around names and cells, are dropped.

    Args:
        source: Name of the file in messages.
        text: Text of the file.
        delimiters: Possible delimiters, the usual one first; the header determines which is used.
    """
    header = text.lstrip().partition("\n")[0]
    fitting = [mark for mark in delimiters if "file" in (name.strip(' "') for name in header.split(mark))]
    delimiter = (fitting or delimiters)[0]
    # Tables with tabs have no quoting, unless the column names are quoted.
    is_quoted = delimiter != "\t" or header.startswith('"')
    if is_quoted:
        text = re.sub(rf'(?<=[^"]")[ \t]+(?=[{delimiter}\n]|\Z)', "", text)  # `csv` allows no space after a quote
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if is_quoted else csv.QUOTE_NONE,
        skipinitialspace=True,
        strict=True,
    )
    try:
        table = [row for row in ([cell.strip() for cell in row] for row in reader) if any(row)]
    except csv.Error as error:
        raise ValueError(f"{source}, line {reader.line_num}: invalid quoting ({error})") from error
    names, *cells = table or [[]]
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise ValueError(f"{source}: has two columns {printable(twice[0])}; rename one")
    for number, row in enumerate(cells, start=1):
        if any(row[len(names) :]):
            how = "quote cells with a delimiter" if is_quoted else "remove tabs from cells"
            raise ValueError(f"{source}: row {number} has more cells than the header; {how}")
    # A column without a name holds row numbers.
    return [{name: _clean(cell) for name, cell in zip(names, row, strict=False) if name} for row in cells]


def _read_lines(source: str, text: str) -> list[_Row]:
    """Rows of a JSONL file."""
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{source}, line {number}: invalid JSON ({error})") from error
        if not isinstance(row, dict):
            raise ValueError(f"{source}, line {number}: must be an object with a `file`")
        rows.append({_clean(name): _clean(value) for name, value in row.items() if name.strip()})
    return rows


def _clean(value: Any) -> Any:
    """Strips a cell and makes it valid UTF-8; NaN becomes `None`."""
    if isinstance(value, str):
        return value.strip().encode("utf-8", "backslashreplace").decode()
    return None if isinstance(value, float) and math.isnan(value) else value
