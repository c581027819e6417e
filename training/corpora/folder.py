"""Any tree of audio files, with labels from folder names or from a manifest."""

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset

from training.corpora.contract import UNKNOWN_SPEAKER, CorpusInfo, class_names, make_dataset
from training.corpora.splits import SplitRule, split_ids

INFO = CorpusInfo(description="Audio files in a tree of folders.", license="other")

_SUFFIXES = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3"}
# Columns that every corpus takes from the files; a manifest has no say in them.
_MEASURED = ("audio", "num_samples", "sampling_rate")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def load(
    *,
    split: str = "train",
    data_dir: str | Path,
    manifest: str | Path | None = None,
    folder_label: str | None = None,
    label_columns: tuple[str, ...] | list[str] | str = (),
    split_by: SplitRule | None = None,
    lists: str | Path | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Dataset:
    """Load a split.

    Without a manifest, every wav, flac, ogg, opus and mp3 file below `data_dir` is an utterance, and its id is its path
    below `data_dir` without the suffix; links are followed. With one, the utterances are those of the manifest: a CSV,
    TSV or JSONL file with a column `file`, a path below `data_dir`. Its columns `id`, `speaker_id` and `split` are
    understood, those in `label_columns` become `ClassLabel`, and all others are passed on as they are, except for what
    is read from the files themselves: `audio`, `num_samples` and `sampling_rate`.

    Args:
        split: "train", "test" or "all"; any name of the manifest's column `split`, if it has one.
        data_dir: The tree.
        manifest: The manifest; `None` for none.
        folder_label: Column to make of the name of the folder each file is in, such as "speaker_id" or "word".
        label_columns: Column, or columns, of the manifest that hold classes.
        split_by: Rule that makes "train" and "test" (`training.corpora.splits`). `None`: the manifest's column `split`
            if there is one, else "list" where `lists` is given, else "utterance".
        lists: Folder of `train.txt` and `test.txt` with ids.
        test_fraction: Share of the test set.
        seed: Seed of the split.

    Raises:
        FileNotFoundError: The tree or the manifest is not there, or the tree has no audio.
        ValueError: A manifest without the columns it must have, of another suffix, or not of its suffix' format.
    """
    root = Path(data_dir)
    if not root.is_dir():
        raise FileNotFoundError(f"`data_dir` is {root}, which is not a folder")
    if isinstance(label_columns, str):
        label_columns = (label_columns,)
    if folder_label in ("id", *_MEASURED):
        raise ValueError(f"`folder_label` is {folder_label!r}, which every corpus has already; choose another name")
    rows = _walk(root) if manifest is None else _read_manifest(Path(manifest))
    for row in rows:
        path = root / row["file"]
        row.setdefault("id", Path(row["file"]).with_suffix("").as_posix())
        if folder_label is not None:
            row[folder_label] = path.parent.name
        row["speaker_id"] = str(row.get("speaker_id", UNKNOWN_SPEAKER))
    present = list(dict.fromkeys(name for row in rows for name in row))
    missing = sorted(set(label_columns) - set(present))
    if missing:
        raise ValueError(f"{manifest} has no column {' and no '.join(missing)}; columns there: {', '.join(present)}")
    classes = list(dict.fromkeys(["speaker_id", *label_columns, *([folder_label] if folder_label else [])]))
    # Names of the whole corpus, so that its splits share them.
    labels = {name: class_names(_text(row.get(name)) for row in rows) for name in classes}
    chosen = _choose(rows, split, split_by, lists, test_fraction, seed)
    columns: dict[str, Any] = {
        name: [row.get(name) for row in chosen] for name in present if name not in ("file", "split", *_MEASURED)
    }
    columns |= {name: [_text(row.get(name)) for row in chosen] for name in classes}
    columns["audio"] = [{"path": str(root / row["file"])} for row in chosen]
    return make_dataset(columns, labels=labels)


def _text(value: Any) -> str | None:
    """A class name; nothing, or an empty cell, is none."""
    return None if value in (None, "") else str(value)


def _choose(
    rows: list[dict[str, Any]],
    split: str,
    split_by: SplitRule | None,
    lists: str | Path | None,
    test_fraction: float,
    seed: int,
) -> list[dict[str, Any]]:
    """Rows of the split."""
    if split_by is None and "split" in rows[0] and split != "all":
        chosen = [row for row in rows if row["split"] == split]
        if not chosen:
            raise ValueError(f"`split` is {split!r}; the manifest has {sorted({row['split'] for row in rows})}")
        return chosen
    rule = split_by or ("utterance" if lists is None else "list")
    speakers = {row["id"]: row["speaker_id"] for row in rows}
    folder = None if lists is None else Path(lists)
    ids = split_ids(speakers, split=split, rule=rule, lists=folder, test_fraction=test_fraction, seed=seed)
    wanted = set(ids)
    # A listed id without a file goes on as a row whose file is not there, and the scan reports it.
    absent = [
        {**dict.fromkeys(rows[0]), "id": name, "file": f"{name} (listed)"} for name in ids if name not in speakers
    ]
    return [row for row in rows if row["id"] in wanted] + absent


def _walk(root: Path) -> list[dict[str, Any]]:
    # A link to nothing goes on, and the scan reports it.
    files = sorted(path for path in _entries(root) if path.is_file() or path.is_symlink())
    if not files:
        raise FileNotFoundError(f"{root} holds no file with a suffix of {', '.join(sorted(_SUFFIXES))}")
    return [{"file": path.relative_to(root).as_posix()} for path in files]


def _entries(root: Path) -> Iterator[Path]:
    """Entries below a folder that have a suffix of audio; linked folders are entered, each folder once."""
    entered = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        where = os.path.realpath(folder)
        if where in entered:
            folders.clear()
            continue
        entered.add(where)
        folders.sort()  # so that of a folder and a link to it the same one comes first everywhere
        yield from (Path(folder, name) for name in names if Path(name).suffix.lower() in _SUFFIXES)


def _read_manifest(path: Path) -> list[dict[str, Any]]:
    """Rows of a CSV, TSV or JSONL file."""
    if not path.is_file():
        raise FileNotFoundError(f"`manifest` is {path}, which is not a file")
    suffix = path.suffix.lower()
    if suffix not in (*_DELIMITERS, ".jsonl"):
        raise ValueError(f"`manifest` is {path}; its suffix must be .csv, .tsv or .jsonl")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8; save it anew in that encoding") from error
    if suffix == ".jsonl":
        rows = [_read_json(path, number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    else:
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=_DELIMITERS[suffix]))
        wide = [number for number, row in enumerate(rows, start=1) if None in row]
        if wide:
            raise ValueError(f"{path}: row {wide[0]} has more cells than the header; quote those that hold a delimiter")
    incomplete = [number for number, row in enumerate(rows, start=1) if not row.get("file")]
    if incomplete or not rows:
        raise ValueError(
            f"{path}: "
            + (f"row {incomplete[0]} has no `file`" if rows else "no rows below the header")
            + "; every row names an audio file below `data_dir` in the column `file`"
        )
    return rows


def _read_json(path: Path, number: int, line: str) -> dict[str, Any]:
    """A line of a JSONL file."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f"{path}, line {number}: must be an object with a `file`")
    return row
