"""Embeddings of data sets in Parquet files."""

import contextlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset, IterableDataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from modeling_sim.data.audio import AudioError, resampled_length
from modeling_sim.data.batches import READER_TIMEOUT, Batches
from modeling_sim.data.corpora import check_corpus_settings, corpus_names, load_corpus
from modeling_sim.data.corpora import corpus_settings as settings_of
from modeling_sim.data.corpora.hub import choose_columns, complete_stream, file_or_row_names
from modeling_sim.data.corpora.scan import check_audio, check_streamed_audio
from modeling_sim.data.digests import corpus_fingerprint, key_name
from modeling_sim.files import read_json, replacing, write_json
from modeling_sim.inference.embedding import Pool, Precision, RecordingReader, SimEmbedder, is_long, say_resampled
from modeling_sim.modeling_sim import CHUNK_SECONDS, SimModel
from modeling_sim.provenance import hub_dataset, hub_id, versions
from modeling_sim.settings import check_data
from modeling_sim.text import printable, say
from modeling_sim.trainer.run_folder import claim_folder, clear_folder, locked_folder

if TYPE_CHECKING:
    from modeling_sim.analysis import LinearTransform

MANIFEST_NAME = "manifest.json"
SKIPPED_NAME = "skipped.tsv"
_SHARDS = "embeddings-*.parquet"
_KIND = "set of embeddings"
_META = b"modeling_sim"

# Maximum bytes of frames per shard, unless one recording has more, and bytes that are written at a time.
_SHARD_BYTES, _GROUP_BYTES = 2**27, 2**25
# Seconds of audio per shard of means, the most that an interruption can lose.
_SECONDS_OF_MEANS = 7200
# Maximum seconds of audio in a batch, per utterance.
_SECONDS_PER_ROW = 20


# ---------------------------------------------------------------------- data


def open_data(
    data: str,
    *,
    split: str = "all",
    data_dir: str | None = None,
    corpus_settings: Mapping[str, Any] | None = None,
    streaming: bool = False,
    on_bad_audio: Literal["raise", "skip"] = "raise",
    bad_audio_list: str | Path | None = None,
) -> Dataset | IterableDataset:
    """Opens recordings: a corpus, a folder, a manifest, an audio file, or a data set.

    Args:
        data: Name of a corpus of this package; a manifest (.csv, .tsv, .jsonl) or an audio file; a folder written by
            `save_to_disk`, of files of a data set (Parquet, ...), or of audio files; or the id of a data set on the
            Hub. The first that matches is used.
        split: A split, or "all".
        data_dir: Folder of a corpus, or base folder of a manifest's paths; the manifest's own folder by default.
        corpus_settings: Further settings of the corpus; see `modeling_sim.data.corpora`.
        streaming: Read a data set as it is used, without a copy on disk.
        on_bad_audio: See `load_corpus`.
        bad_audio_list: See `load_corpus`.

    Raises:
        FileNotFoundError: `data` is none of these.
        ValueError: The corpus has no such setting or split, or settings are given with an audio file.
    """
    check_data("data", data)
    settings = dict(corpus_settings or {})
    path = Path(data)
    if data in corpus_names():
        name = data
        if data_dir is not None:
            settings["data_dir"] = data_dir
    elif path.is_file() and path.suffix.lower() in (".csv", ".tsv", ".jsonl"):
        name, settings = "folder", {"data_dir": data_dir or path.parent, "manifest": path, **settings}
    elif path.is_file():
        if settings:
            raise ValueError(f"`corpus_settings` has {next(iter(settings))!r}, but {path} is one file; remove it.")
        source = Dataset.from_dict({"id": [path.stem], "audio": [str(path)]})
        return as_corpus(source, on_bad_audio=on_bad_audio, bad_audio_list=bad_audio_list)
    elif path.is_dir() and not _is_dataset(path):
        name, settings = "folder", {"data_dir": path, **settings}
    else:
        name, settings = "hub", {"dataset_id": data, **settings}
    if streaming:
        if "streaming" not in settings_of(name):
            raise ValueError(
                f"`streaming` is for data sets of the Hub or on disk; {data} is read as it is used anyway."
            )
        settings["streaming"] = True
    check_corpus_settings(name, settings)  # one named like an argument below would be a TypeError
    return load_corpus(name, split, on_bad_audio=on_bad_audio, bad_audio_list=bad_audio_list, **settings)


def data_name(data: str, *, data_dir: str | None = None, corpus_settings: Mapping[str, Any] | None = None) -> str:
    """A public name of the data of `open_data`: a corpus, a Hub id, or the last part of a path."""
    if data in corpus_names():
        return hub_dataset(data, data_dir, corpus_settings or {}) or data
    return hub_id(data) or Path(data).resolve().name


def _is_dataset(folder: Path) -> bool:
    """Whether a folder is a data set of `datasets` rather than a tree of audio files."""
    marks = ("dataset_info.json", "dataset_dict.json", "README.md")
    return any((folder / mark).is_file() for mark in marks) or any(
        next(folder.rglob(f"*.{suffix}"), None) is not None for suffix in ("parquet", "arrow", "tar")
    )


def as_corpus(
    dataset: Dataset | IterableDataset,
    *,
    on_bad_audio: Literal["raise", "skip"] = "raise",
    bad_audio_list: str | Path | None = None,
) -> Dataset | IterableDataset:
    """Adds the columns of a corpus to a data set with a column `audio`; a corpus is unchanged.

    Without a column `id`, ids are the names of the files, or the numbers of the rows.
    """
    columns = dataset.column_names or []
    if {"id", "audio", "num_samples", "sampling_rate"} <= set(columns):
        return dataset
    names = {name: name for name in ("audio", *(["id"] if "id" in columns else []))}
    dataset = choose_columns(dataset, names, "the data set")
    check: Callable[..., Any] = check_audio
    if isinstance(dataset, IterableDataset):
        dataset, check = complete_stream(dataset), check_streamed_audio
    elif "id" not in names:
        dataset = dataset.add_column("id", file_or_row_names(dataset))
    checked: Dataset | IterableDataset = check(dataset, on_bad_audio=on_bad_audio, bad_audio_list=bad_audio_list)
    return checked


# ---------------------------------------------------------------------- shards


@dataclass
class _Shard:
    """Consecutive rows of a data set, from `start` on; the counts are written to the file's metadata."""

    number: int
    start: int
    rows: list[dict[str, Any]]
    seconds: float = 0.0
    resampled: int = 0
    skipped: list[dict[str, str]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return _SHARDS.replace("*", f"{self.number:05d}")


class _Waveforms(torch.utils.data.Dataset[tuple[int, np.ndarray | str]]):
    """Positions of rows, with their waveforms, or the reason why they cannot be read."""

    def __init__(self, reader: RecordingReader, rows: Sequence[Mapping[str, Any]]) -> None:
        self.reader, self.rows = reader, rows

    def __getitem__(self, place: int) -> tuple[int, np.ndarray | str]:
        try:
            return place, self.reader.samples(self.rows[place])
        except AudioError as error:
            return place, str(error)

    def collate(self, items: list[tuple[int, np.ndarray | str]]) -> dict[str, Any]:
        """Padded inputs of the readable rows, their positions, and the errors of the others by position."""
        read = {place: samples for place, samples in items if not isinstance(samples, str)}
        batch: dict[str, Any] = self.reader.batch(list(read.values())) if read else {}
        return {**batch, "places": list(read), "errors": {place: error for place, error in items if place not in read}}


def _shards(rows: Iterable[Mapping[str, Any]], shard_seconds: float) -> Iterator[_Shard]:
    """Yields rows in shards of at most `shard_seconds` of audio, unless one row has more."""
    shard = _Shard(0, 0, [])
    total = 0.0
    for row in rows:
        seconds = row["num_samples"] / row["sampling_rate"]
        if shard.rows and total + seconds > shard_seconds:
            yield shard
            shard, total = _Shard(shard.number + 1, shard.start + len(shard.rows), []), 0.0
        shard.rows.append(dict(row))
        total += seconds
    if shard.rows:
        yield shard


def _batches_of(rows: Sequence[Mapping[str, Any]], rate: int, batch_size: int) -> list[list[int]]:
    """Positions of the rows that are not long, in batches of similar length, longest first."""
    lengths = {
        place: resampled_length(row["num_samples"], row["sampling_rate"], rate)
        for place, row in enumerate(rows)
        if not is_long(row)
    }
    batches: list[list[int]] = []
    longest = 0
    for place in sorted(lengths, key=lambda place: -lengths[place]):
        is_full = batches and (
            len(batches[-1]) == batch_size or (len(batches[-1]) + 1) * longest > batch_size * _SECONDS_PER_ROW * rate
        )
        if not batches or is_full:
            batches.append([])
            longest = lengths[place]
        batches[-1].append(place)
    return batches


class _Writer:
    """Writes rows to a Parquet file, a group of rows at a time."""

    def __init__(self, path: Path, embedder: SimEmbedder) -> None:
        vector = pa.list_(pa.float32(), embedder.channels)
        self.is_mean = embedder.pool == "mean"
        fields = {"id": pa.string(), "seconds": pa.float64()}
        fields |= {"embedding": vector} if self.is_mean else {"start": pa.int64(), "embedding": pa.list_(vector)}
        self.schema, self.vector = pa.schema(fields), vector
        self.writer = pq.ParquetWriter(path, self.schema, write_page_checksum=True)
        self.columns: dict[str, list[Any]] = {name: [] for name in self.schema.names}
        self.bytes, self.last, self.start = 0, "", 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.close()

    def add(self, name: str, seconds: float, values: np.ndarray) -> None:
        """Adds the embeddings of a recording; for a long recording, the next ones."""
        self.start = self.start if name == self.last else 0
        row = {"id": name, "seconds": seconds, "start": self.start, "embedding": values}
        for column, added in self.columns.items():
            added.append(row[column])
        self.last, self.start = name, self.start + len(values)
        self.bytes += values.nbytes
        if self.bytes > _GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Writes the rows that were added."""
        values = self.columns["embedding"]
        flat = np.concatenate([array.reshape(-1) for array in values]) if values else np.empty(0, np.float32)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), type=self.vector)
        if not self.is_mean:
            edges = np.cumsum([0, *map(len, values)], dtype=np.int32)
            vectors = pa.ListArray.from_arrays(pa.array(edges), vectors)
        arrays = [vectors if name == "embedding" else pa.array(column) for name, column in self.columns.items()]
        self.writer.write_table(
            pa.Table.from_arrays(
                [array.cast(type_) for array, type_ in zip(arrays, self.schema.types, strict=True)], schema=self.schema
            )
        )
        self.columns = {name: [] for name in self.columns}
        self.bytes = 0

    def close(self, meta: Mapping[str, Any]) -> None:
        """Completes the file with metadata."""
        self.flush()
        self.writer.add_key_value_metadata({_META: json.dumps(meta)})


class _ShardWriter:
    """Embeds shards into files.

    Args:
        embedder: Makes the embeddings.
        batch_size: Recordings per batch.
        num_workers: Processes that read ahead.
        skip_bad_audio: Skip unreadable recordings instead of raising an error.
        progress: Counts seconds of audio.
    """

    def __init__(
        self, embedder: SimEmbedder, batch_size: int, num_workers: int, *, skip_bad_audio: bool, progress: Any
    ) -> None:
        self.embedder, self.batch_size, self.num_workers = embedder, batch_size, num_workers
        self.skip_bad_audio, self.progress = skip_bad_audio, progress

    def write(self, shard: _Shard, source: Any, path: Path) -> None:
        """Embeds the rows of a shard, whose audio is in `source`, and writes them in order."""
        found, problems = self._short(shard, source)
        with replacing(path) as temporary, _Writer(temporary, self.embedder) as writer:
            for place, row in enumerate(shard.rows):
                seconds = row["num_samples"] / row["sampling_rate"]
                if place not in found and place not in problems:
                    try:
                        self._long(writer, source[place])
                    except AudioError as error:
                        problems[place] = str(error)
                elif place in found:
                    writer.add(str(row["id"]), seconds, found.pop(place))
                if place in problems:
                    self._skip(shard, row, problems[place])
                else:
                    shard.seconds += seconds
                    shard.resampled += row["sampling_rate"] != self.embedder.reader.rate
            counts = {name: getattr(shard, name) for name in ("seconds", "resampled", "skipped")}
            writer.close({"utterances": len(shard.rows) - len(shard.skipped), **counts})

    def _short(self, shard: _Shard, source: Any) -> tuple[dict[int, np.ndarray], dict[int, str]]:
        """Embeddings of the rows that are not long, and the errors of unreadable ones, by position in the shard."""
        rows, waveforms = shard.rows, _Waveforms(self.embedder.reader, source)
        loader: DataLoader[Any] = DataLoader(
            waveforms,
            batch_sampler=_batches_of(rows, self.embedder.reader.rate, self.batch_size),
            collate_fn=waveforms.collate,
            num_workers=self.num_workers,
            generator=torch.Generator().manual_seed(0),
        )
        found: dict[int, np.ndarray] = {}
        problems: dict[int, str] = {}
        for batch in Batches(loader, timeout=READER_TIMEOUT):
            problems |= batch["errors"]
            if problems and not self.skip_bad_audio:
                raise AudioError(next(iter(problems.values())))
            if batch["places"]:
                found |= zip(batch["places"], self.embedder.encode(batch), strict=True)
            self.progress.update(
                sum(rows[place]["num_samples"] / rows[place]["sampling_rate"] for place in batch["places"])
            )
        return found, problems

    def _long(self, writer: _Writer, row: Mapping[str, Any]) -> None:
        """Embeds a long row piece by piece, after checking all of it, because written rows cannot be removed."""
        self.embedder.reader.check(row)
        seconds = row["num_samples"] / row["sampling_rate"]
        for piece in self.embedder.pieces(row):
            writer.add(str(row["id"]), seconds, piece)
            self.progress.update(seconds / math.ceil(seconds / CHUNK_SECONDS))

    def _skip(self, shard: _Shard, row: Mapping[str, Any], problem: str) -> None:
        if not self.skip_bad_audio:
            raise AudioError(problem)
        shard.skipped.append({"id": str(row["id"]), "reason": problem})
        say(f"skipped: {printable(row['id'])}  {printable(problem)}")


# ---------------------------------------------------------------------- data sets


def embed(
    model: SimEmbedder | SimModel | str | Path,
    dataset: Dataset | IterableDataset | str | Callable[..., Dataset | IterableDataset],
    output_dir: str | Path,
    *,
    module: str | int = "context",
    pool: Pool = "mean",
    device: str | None = None,
    precision: Precision = "fp32",
    average_channels: bool = False,
    axes: "str | LinearTransform" = "own",
    batch_size: int = 16,
    num_workers: int = 0,
    on_bad_audio: Literal["raise", "skip"] = "raise",
    shard_seconds: float | None = None,
    overwrite_output_dir: bool = False,
) -> dict[str, Any]:
    """Embeds every recording of a data set into Parquet files of a folder, which `load_dataset("parquet")` reads.

    Files are written complete or not at all. After an interruption, the same call resumes with the incomplete file and
    rewrites missing or damaged ones. Data sets are identified by the ids, lengths and content of their recordings,
    streams by the first 20 ids and lengths.

    Memory is limited to that of one file for recordings of any length: those of more than a minute are read and encoded
    piece by piece, and their frames are stored in several rows, in which `start` is the number of the first frame.

    Args:
        model: The encoder, its folder or Hub id; or a `SimEmbedder`, and then `module` to `axes` are ignored.
        dataset: A corpus, any data set with a column `audio`, or the first argument of `open_data`; or a function that
            returns a data set, called with `on_bad_audio` and `bad_audio_list` after the folder was checked.
        output_dir: The folder.
        module: See `SimEmbedder`.
        pool: See `SimEmbedder`.
        device: See `SimEmbedder`.
        precision: See `SimEmbedder`.
        average_channels: See `SimEmbedder`.
        axes: See `SimEmbedder`.
        batch_size: Maximum number of recordings per batch, for an average length of 20 seconds.
        num_workers: Processes that read ahead; 0 reads in this process.
        on_bad_audio: "raise" stops at an unreadable recording; "skip" lists it in `skipped.tsv`.
        shard_seconds: Seconds of audio per file; by default 128 MB of frames, or two hours of audio for means.
        overwrite_output_dir: Replace existing embeddings in the folder.

    Returns:
        The manifest. `load_dataset("parquet", data_files=f"{output_dir}/*.parquet")` reads the embeddings: columns
        `id`, `seconds` of the recording, `embedding`, and without pooling `start`.

    Raises:
        FileExistsError: The folder holds other files, or embeddings of another model, module, data set or setting.
        FileNotFoundError: There is no such model or data set, or no file of axes.
        AudioError: A recording cannot be read, or is stereo without `average_channels`, with "raise".
        BadAudioError: The same, if its header shows it.
        BlockingIOError: Another process writes to the folder.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
        if value < least:
            raise ValueError(f"`{name}` is {value}; it must be at least {least}.")
    if shard_seconds is not None and not 0 < shard_seconds < math.inf:  # NaN as well
        raise ValueError(f"`shard_seconds` is {shard_seconds}; give finite seconds above 0, or None.")
    if not isinstance(model, SimEmbedder):
        model = SimEmbedder(
            model, module, pool, device=device, precision=precision, average_channels=average_channels, axes=axes
        )
    folder = Path(output_dir)
    description = model.description()
    with _claimed(folder, description, overwrite_output_dir=overwrite_output_dir):
        bad_audio: dict[str, Any] = {"on_bad_audio": on_bad_audio, "bad_audio_list": folder / SKIPPED_NAME}
        if isinstance(dataset, str):
            dataset = open_data(dataset, **bad_audio)
        elif callable(dataset):
            dataset = dataset(**bad_audio)
        dataset = as_corpus(dataset, **bad_audio)
        if shard_seconds is None:
            per_second = model.config.frame_rate(model.module) * model.channels * 4
            shard_seconds = _SECONDS_OF_MEANS if model.pool == "mean" else _SHARD_BYTES / per_second
        skip = on_bad_audio == "skip"
        description |= {"data_fingerprint": _data_fingerprint(dataset, skip=skip), "shard_seconds": shard_seconds}
        manifest = {"schema": 2, "complete": False, **description}
        then = _read_manifest(folder)
        _refuse_others(folder, then, manifest)
        lost = _lost_shards(folder, then.get("shards", []))
        if then.get("complete") and not lost:
            say(f"the embeddings in {folder} are already complete")
            manifest = then
        else:
            manifest["versions"] = versions()
            write_json(folder / MANIFEST_NAME, manifest)
            for name in lost:
                say(f"{folder / name} is missing or damaged and is written again")
                (folder / name).unlink(missing_ok=True)
            _write_shards(model, dataset, folder, shard_seconds, batch_size, num_workers, skip=skip)
        write_json(folder / MANIFEST_NAME, {**manifest, **_totals(folder)})
        return _read_manifest(folder)


@contextlib.contextmanager
def _claimed(folder: Path, description: Mapping[str, Any], *, overwrite_output_dir: bool) -> Iterator[None]:
    """Locks the folder for this process, after checking its content."""
    with locked_folder(folder):
        claim_folder(
            folder,
            _KIND,
            [_SHARDS, MANIFEST_NAME, SKIPPED_NAME],
            overwrite_output_dir=overwrite_output_dir,
            resume=True,
        )
        if overwrite_output_dir:
            clear_folder(folder, _KIND)
        _refuse_others(folder, _read_manifest(folder), description)
        for path in folder.glob(f".{_SHARDS}.*"):  # left by a killed process
            path.unlink()
        yield


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST_NAME
    return {"axes": "own", **read_json(path)} if path.is_file() else {}  # earlier versions only had these


def _refuse_others(folder: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises if the embeddings in a folder are of another model, data set or setting."""
    different = [name for name in now if name in then and name != "complete" and then[name] != now[name]]
    if different:
        raise FileExistsError(
            f"`output_dir` {folder} has embeddings with another `{'`, `'.join(different)}`; give another folder, or "
            "set `overwrite_output_dir` to replace them."
        )


def _data_fingerprint(dataset: Dataset | IterableDataset, *, skip: bool) -> str:
    """Digest of the recordings; for a stream, which can only be read once, of the first ids and lengths."""
    if not isinstance(dataset, IterableDataset):
        return corpus_fingerprint(dataset, skip_unreadable=skip)
    columns = ["id", "num_samples", "sampling_rate"]
    return key_name([[row[name] for name in columns] for row in islice(dataset.select_columns(columns), 20)])


def _lost_shards(folder: Path, written: Sequence[str]) -> list[str]:
    """Names of shards that cannot be read completely, and of missing ones of `written`."""
    there = {path.name: _is_intact(path) for path in folder.glob(_SHARDS)}
    return sorted(name for name in {*there, *written} if not there.get(name))


def _is_intact(shard: Path) -> bool:
    """Whether a shard can be read completely and matches its checksums."""
    with contextlib.suppress(OSError, ValueError, TypeError, pa.ArrowException):
        file = pq.ParquetFile(shard, page_checksum_verification=True)
        for group in range(file.num_row_groups):  # one at a time, to limit memory
            file.read_row_group(group)
        return _META in file.metadata.metadata
    return False


def _write_shards(
    embedder: SimEmbedder,
    dataset: Dataset | IterableDataset,
    folder: Path,
    shard_seconds: float,
    batch_size: int,
    num_workers: int,
    *,
    skip: bool,
) -> None:
    """Writes the missing shards."""
    is_stream = isinstance(dataset, IterableDataset)
    lengths = ["id", "num_samples", "sampling_rate"]
    dataset = dataset.with_format(None).select_columns([*lengths, "audio"])
    total = None
    if not is_stream:
        # Above the sum: a bar warns when it passes its total.
        total = int(np.divide(dataset["num_samples"][:], dataset["sampling_rate"][:]).sum()) + 1
    with tqdm(total=total, unit="s", unit_scale=True, desc="seconds of audio", leave=False) as progress:
        writer = _ShardWriter(embedder, batch_size, num_workers, skip_bad_audio=skip, progress=progress)
        for shard in _shards(dataset if is_stream else dataset.select_columns(lengths), shard_seconds):
            path = folder / shard.name
            if path.is_file():
                progress.update(sum(row["num_samples"] / row["sampling_rate"] for row in shard.rows))
                continue
            say_resampled((row["sampling_rate"] for row in shard.rows), embedder.reader.rate)
            source: Any = shard.rows
            if not is_stream:
                source = dataset.select(range(shard.start, shard.start + len(shard.rows)))
            writer.write(shard, source, path)


def _totals(folder: Path) -> dict[str, Any]:
    """Totals over all shards; skipped recordings are added to the list of those with unreadable headers."""
    shards = sorted(folder.glob(_SHARDS))
    metas = [json.loads(pq.read_metadata(shard).metadata[_META]) for shard in shards]
    listed = folder / SKIPPED_NAME
    lines = listed.read_text(encoding="utf-8").splitlines() if listed.is_file() else []
    lines += [f"{printable(row['id'])}\t\t{printable(row['reason'])}" for meta in metas for row in meta["skipped"]]
    if lines:
        with replacing(listed) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in dict.fromkeys(lines)), encoding="utf-8")
    else:
        listed.unlink(missing_ok=True)
    counts = {name: sum(meta[name] for meta in metas) for name in ("utterances", "seconds", "resampled")}
    return {**counts, "skipped": len(set(lines)), "shards": [shard.name for shard in shards], "complete": True}
