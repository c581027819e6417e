"""Embeddings of recordings and data sets: frames of one module, or their means, in Parquet files."""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soxr
import torch
from datasets import Dataset, IterableDataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import SequenceFeatureExtractor

from modeling_sim.data.audio import AudioError, read_audio, read_header, resampled_length
from modeling_sim.data.batches import READER_TIMEOUT, Batches
from modeling_sim.data.corpora import corpus_names, load_corpus
from modeling_sim.data.corpora import corpus_settings as settings_of
from modeling_sim.data.corpora.hub import choose_columns, complete_stream, file_or_row_names
from modeling_sim.data.corpora.scan import check_audio, check_streamed_audio
from modeling_sim.feature_extraction_sim import SimFeatureExtractor
from modeling_sim.files import read_json, replacing, write_json
from modeling_sim.inference.folding import fold
from modeling_sim.loading import check_device, feature_extractor_of, load_encoder, module_numbers
from modeling_sim.modeling_sim import CHUNK_SECONDS, LONG_SECONDS, SimModel
from modeling_sim.provenance import model_fingerprint, versions
from modeling_sim.text import printable, say, say_once
from modeling_sim.trainer.run_folder import claim_folder, clear_folder, locked_folder

Pool = Literal["mean", "none"]
Precision = Literal["fp32", "bf16"]

MANIFEST_NAME = "manifest.json"
SKIPPED_NAME = "skipped.tsv"
_SHARDS = "embeddings-*.parquet"
_KIND = "set of embeddings"
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_META = b"modeling_sim"

# Bytes of frames that a shard holds at most, unless one recording has more, and that are written at a time.
_SHARD_BYTES, _GROUP_BYTES = 2**27, 2**25
# Seconds of audio per shard of means, which is what a kill can lose at most.
_SECONDS_OF_MEANS = 7200
# Seconds of audio per utterance that a batch may hold.
_SECONDS_PER_ROW = 20


class _Reader:
    """Reads recordings as the inputs of a model; without the model, since processes that read ahead get it pickled."""

    def __init__(self, extractor: SequenceFeatureExtractor, *, average_channels: bool) -> None:
        self.extractor, self.average_channels = extractor, average_channels
        self.rate = int(extractor.sampling_rate)

    def samples(self, row: Mapping[str, Any], start: int = 0, num_samples: int | None = None) -> np.ndarray:
        """Samples of a row of a corpus at the model's rate, or a part of them; a very short one ends in silence."""
        audio = row["audio"]
        if isinstance(audio, np.ndarray):
            samples = audio[start:] if num_samples is None else audio[start : start + num_samples]
        else:
            samples = read_audio(
                audio,
                start=start,
                num_samples=num_samples,
                sampling_rate=self.rate,
                found=(row["num_samples"], row["sampling_rate"]),
                average_channels=self.average_channels,
            )
        missing = getattr(self.extractor, "min_samples", 1) - len(samples)
        return np.pad(samples, (0, missing)) if missing > 0 and num_samples is None else samples

    def pieces(self, row: Mapping[str, Any]) -> Iterator[np.ndarray]:
        """The samples of a row piece by piece."""
        length = resampled_length(row["num_samples"], row["sampling_rate"], self.rate)
        step = CHUNK_SECONDS * self.rate
        for start in range(0, length, step):
            yield self.samples(row, start, min(step, length - start))

    def check(self, row: Mapping[str, Any]) -> None:
        """Reads a row from end to end, before any of it is written; raises as `read_audio`."""
        for _ in self.pieces(row):
            pass

    def batch(self, waveforms: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Padded inputs of waveforms at the model's rate."""
        return dict(
            self.extractor(  # type: ignore[operator]
                list(waveforms),
                sampling_rate=self.rate,
                padding="longest",
                return_attention_mask=True,
                return_tensors="np",
            )
        )


class SimEmbedder:
    """Makes embeddings of recordings with one module of an encoder.

    Args:
        model: The encoder, or its folder or Hub id. Its weights are copied, see `fold`.
        module: "context", or the number of a module, counted from 0.
        pool: "none": one embedding per frame. "mean": the mean over the frames of a recording.
        feature_extractor: Of the model; that of its folder by default, or one with the model's sampling rate.
        device: Where to encode, as torch names it; by default a GPU if there is one, else the CPU.
        precision: "fp32", or "bf16" for convolutions in half precision, which is faster on GPUs and newer CPUs.
        average_channels: Average the channels of stereo recordings; otherwise these are an error.

    Attributes:
        module: Number of the module.
        channels: Channels of an embedding.

    Example:
        >>> import numpy as np
        >>> from modeling_sim import SimConfig, SimEmbedder, SimModel
        >>> embedder = SimEmbedder(SimModel(SimConfig.preset("sim-small")), pool="none", device="cpu")
        >>> embedder(np.zeros(16000, dtype=np.float32), sampling_rate=16000).shape
        (100, 64)

    Raises:
        ValueError: There is no such module or device.
        FileNotFoundError: There is no such model.
    """

    def __init__(
        self,
        model: SimModel | str | Path,
        module: str | int = "context",
        pool: Pool = "none",
        *,
        feature_extractor: SequenceFeatureExtractor | None = None,
        device: str | None = None,
        precision: Precision = "fp32",
        average_channels: bool = False,
    ) -> None:
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        check_device(self.device)
        if pool not in ("mean", "none"):
            raise ValueError(f"`pool` is {pool!r}; choose 'mean' or 'none'.")
        if precision not in _DTYPES:
            raise ValueError(f"`precision` is {precision!r}; choose of {', '.join(_DTYPES)}.")
        if not isinstance(model, SimModel):
            feature_extractor = feature_extractor or feature_extractor_of(str(model))
            model = load_encoder(str(model))
        self.config = model.config
        (self.module,) = module_numbers(self.config, str(module))
        self.pool, self.precision = pool, precision
        self.fingerprint = model_fingerprint(model)
        feature_extractor = feature_extractor or SimFeatureExtractor(
            sampling_rate=self.config.sampling_rate, min_samples=self.config.receptive_field()
        )
        self.reader = _Reader(feature_extractor, average_channels=average_channels)
        self.encoder = fold(model, self.module, dtype=_DTYPES[precision]).to(self.device)  # type: ignore[arg-type]
        is_context = self.module == self.config.num_conv_modules
        self.channels = self.config.context_size if is_context else self.config.num_latents

    def __call__(self, audio: Any, sampling_rate: int | None = None) -> Any:
        """Embeddings of one recording, or of several in a list.

        Args:
            audio: A path, the bytes of a file, a mapping as data sets have it, with `path` or `bytes`, or with `array`
                and `sampling_rate`; or samples `(samples,)`.
            sampling_rate: Of samples, which are resampled if it is another than the model's; the model's by default.

        Returns:
            Float32 `(channels,)` for the mean, else `(frames, channels)`; for a list, a list of them.

        Raises:
            AudioError: A recording cannot be read, or is stereo without `average_channels`.
        """
        if isinstance(audio, (list, tuple)) and not (len(audio) and np.isscalar(audio[0]) and np.isreal(audio[0])):
            return [self(item, sampling_rate) for item in audio]
        return self._of_row(self._row(audio, sampling_rate))

    def _of_row(self, row: Mapping[str, Any]) -> Any:
        """Embeddings of a row as `_row` gives it."""
        if _is_long(row):
            pieces = list(self.pieces(row))
            return pieces[0] if self.pool == "mean" else np.concatenate(pieces)
        return self.encode(self.reader.batch([self.reader.samples(row)]))[0]

    def of_batch(self, batch: Mapping[str, Sequence[Any]], column: str = "audio") -> dict[str, list[Any]]:
        """Embeddings of a batch of a data set, for `Dataset.map(embedder.of_batch, batched=True)`.

        Args:
            batch: Columns of a data set, of which `column` has recordings as `__call__` takes them.
            column: The column.

        Returns:
            The column `embedding`.
        """
        rows = [self._row(audio, None) for audio in batch[column]]
        short = [number for number, row in enumerate(rows) if not _is_long(row)]
        embeddings: dict[int, Any] = {}
        if short:
            inputs = self.reader.batch([self.reader.samples(rows[number]) for number in short])
            embeddings |= zip(short, self.encode(inputs), strict=True)
        return {
            "embedding": [
                embeddings[number] if number in embeddings else self._of_row(row) for number, row in enumerate(rows)
            ]
        }

    def _row(self, audio: Any, sampling_rate: int | None) -> dict[str, Any]:
        """A recording as a row of a corpus; samples in place of `audio` where these were given."""
        if isinstance(audio, Mapping) and audio.get("array") is not None:
            audio, sampling_rate = audio["array"], audio.get("sampling_rate", sampling_rate)
        if isinstance(audio, (str, os.PathLike)):
            audio = {"path": os.fspath(audio)}
        elif isinstance(audio, bytes):
            audio = {"bytes": audio}
        if isinstance(audio, Mapping):
            header = read_header(audio)
            return {"audio": audio, "num_samples": header.num_samples, "sampling_rate": header.sampling_rate}
        samples, rate = np.asarray(audio), sampling_rate or self.reader.rate
        if rate != self.reader.rate:
            samples = soxr.resample(samples.astype(np.float32, copy=False), rate, self.reader.rate)
        return {"audio": samples, "num_samples": len(samples), "sampling_rate": self.reader.rate}

    def encode(self, batch: Mapping[str, Any]) -> list[np.ndarray]:
        """Embeddings of a batch that the feature extractor made, one array per recording, as `__call__` gives them."""
        inputs, mask = (torch.as_tensor(batch[name]) for name in ("input_values", "attention_mask"))
        lengths = self.encoder.config.num_frames(mask.sum(dim=1))
        with torch.inference_mode():
            frames = self.encoder(
                inputs.to(self.device), None if bool(mask.all()) else mask.to(self.device)
            ).last_hidden_state
            if self.pool == "mean":  # padded frames are 0
                means = frames.float().sum(dim=1) / lengths.to(self.device)[:, None].clamp(min=1)
                return list(means.cpu().numpy())
        values = frames.float().cpu().numpy()
        return [row[:length] for row, length in zip(values, lengths.tolist(), strict=True)]

    @torch.inference_mode()
    def pieces(self, row: Mapping[str, Any]) -> Iterator[np.ndarray]:
        """Embeddings of a long recording, read and encoded piece by piece: its mean, or pieces of its frames."""
        length = resampled_length(row["num_samples"], row["sampling_rate"], self.reader.rate)
        shift, scale = 0.0, 1.0
        if getattr(self.reader.extractor, "do_normalize", False):  # as the extractor does with all samples in memory
            shift = sum(float(samples.sum(dtype=np.float64)) for samples in self.reader.pieces(row)) / length
            squares = (np.square(samples - shift, dtype=np.float64) for samples in self.reader.pieces(row))
            scale = 1 / math.sqrt(sum(float(square.sum()) for square in squares) / length + 1e-7)
        state, total, count, done = self.encoder.initial_state(), np.zeros(self.channels), 0, 0
        for samples in self.reader.pieces(row):
            done += len(samples)
            inputs = torch.from_numpy(((samples - shift) * scale).astype(np.float32))[None].to(self.device)
            modules, state = self.encoder.step(inputs, state, last=done == length)
            frames = modules[-1].hidden_state[0].float().cpu().numpy()
            if self.pool == "none":
                yield frames
            else:
                total, count = total + frames.sum(axis=0, dtype=np.float64), count + len(frames)
        if self.pool == "mean":
            yield (total / count).astype(np.float32)

    def description(self) -> dict[str, Any]:
        """What the embeddings depend on and how they lie in time, as JSON holds it."""
        config, module = self.config, self.module
        return {
            "model_fingerprint": self.fingerprint,
            "module": config.module_names[module],
            "pool": self.pool,
            "precision": self.precision,
            "channels": self.channels,
            "sampling_rate": self.reader.rate,
            "frame_rate": config.frame_rate(module),
            "hop_length": config.hop_length(module),
            "receptive_field": config.receptive_field(module),
            "first_center": float(config.frame_centers(1, module)[0]) / config.sampling_rate,
            "do_normalize": bool(getattr(self.reader.extractor, "do_normalize", False)),
            "average_channels": self.reader.average_channels,
        }


def _is_long(row: Mapping[str, Any]) -> bool:
    return bool(row["num_samples"] > LONG_SECONDS * row["sampling_rate"])


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
    """The recordings that a word names: a corpus, a folder, a manifest, an audio file, or a data set.

    Args:
        data: Name of a corpus of this package; else a manifest (.csv, .tsv, .jsonl) or an audio file; else a folder
            that `save_to_disk` wrote, or of a data set's own files (Parquet, ...), or of audio files; else the id of
            a data set on the Hub.
        split: A split, or "all".
        data_dir: Folder of a corpus, or that the paths of a manifest start from; its own folder by default.
        corpus_settings: Further settings of the corpus; see `modeling_sim.data.corpora`.
        streaming: Read a data set as it is used, without a copy on disk.
        on_bad_audio: As in `load_corpus`.
        bad_audio_list: As in `load_corpus`.
    """
    settings = dict(corpus_settings or {})
    path = Path(data)
    if data in corpus_names():
        name = data
        if data_dir is not None:
            settings["data_dir"] = data_dir
    elif path.is_file() and path.suffix.lower() in (".csv", ".tsv", ".jsonl"):
        name, settings = "folder", {"data_dir": data_dir or path.parent, "manifest": path, **settings}
    elif path.is_file():
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
    return load_corpus(name, split, on_bad_audio=on_bad_audio, bad_audio_list=bad_audio_list, **settings)


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
    """Any data set with a column `audio`, with the columns that a corpus has; a corpus as it is.

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
    """Rows of a data set that follow one another, from `start` on; what is counted goes into the file's metadata."""

    number: int
    start: int
    rows: list[dict[str, Any]]
    seconds: float = 0.0
    resampled: int = 0
    skipped: list[dict[str, str]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return _SHARDS.replace("*", f"{self.number:05d}")


class _Waveforms(torch.utils.data.Dataset[dict[str, Any]]):
    """Waveforms of rows, or why they cannot be read."""

    def __init__(self, reader: _Reader, rows: Sequence[Mapping[str, Any]]) -> None:
        self.reader, self.rows = reader, rows

    def __getitem__(self, place: int) -> dict[str, Any]:
        try:
            return {"place": place, "samples": self.reader.samples(self.rows[place])}
        except AudioError as error:
            return {"place": place, "error": str(error)}

    def collate(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """Padded inputs of those that can be read, their places, and the errors of the others by place."""
        read = [item for item in items if "samples" in item]
        batch: dict[str, Any] = self.reader.batch([item["samples"] for item in read]) if read else {}
        errors = {item["place"]: item["error"] for item in items if "error" in item}
        return {**batch, "places": [item["place"] for item in read], "errors": errors}


def _shards(rows: Iterable[Mapping[str, Any]], shard_seconds: float) -> Iterator[_Shard]:
    """Rows in shards of at most so many seconds of audio, unless one row has more."""
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
    """Places of rows that are not long, in batches of similar length, the longest first."""
    lengths = {
        place: resampled_length(row["num_samples"], row["sampling_rate"], rate)
        for place, row in enumerate(rows)
        if not _is_long(row)
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
        self.writer = pq.ParquetWriter(path, self.schema)
        self.columns: dict[str, list[Any]] = {name: [] for name in self.schema.names}
        self.bytes, self.last, self.start = 0, "", 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.close()

    def add(self, name: str, seconds: float, values: np.ndarray) -> None:
        """Adds the embeddings of a recording; of a long one, those that follow what was added before."""
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
        """Completes the file with what was counted."""
        self.flush()
        self.writer.add_key_value_metadata({_META: json.dumps(meta)})


class _ShardWriter:
    """Embeds shards into files.

    Args:
        embedder: Makes the embeddings.
        batch_size: Recordings per batch.
        num_workers: Processes that read ahead.
        skip_bad_audio: Leave out recordings that cannot be read, instead of an error.
        progress: Counts seconds of audio.
    """

    def __init__(
        self, embedder: SimEmbedder, batch_size: int, num_workers: int, *, skip_bad_audio: bool, progress: Any
    ) -> None:
        self.embedder, self.batch_size, self.num_workers = embedder, batch_size, num_workers
        self.skip_bad_audio, self.progress = skip_bad_audio, progress

    def write(self, shard: _Shard, source: Any, path: Path) -> None:
        """Embeds the rows of a shard, which `source` has with their audio, and writes them in their order."""
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
        """Embeddings of the rows that are not long, and why others cannot be read, by place in the shard."""
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
        """Embeds a long row piece by piece, after a look at all of it: what is written cannot be taken back."""
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
    batch_size: int = 16,
    num_workers: int = 0,
    on_bad_audio: Literal["raise", "skip"] = "raise",
    shard_seconds: float | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Embeds every recording of a data set into Parquet files of a folder, which `load_dataset("parquet")` reads.

    The files are written complete or not at all. After a kill the same call continues with the file that was not
    complete. Memory is bounded by one file, however long recordings are: those of more than a minute are read and
    encoded piece by piece, and their frames make several rows, of which `start` is the number of the first frame.

    Args:
        model: An embedder, whose settings are then used in place of the next five; or the encoder, or its folder or id.
        dataset: A corpus, any data set with a column `audio`, or the first argument of `open_data`; or a function that
            gives a data set, called with `on_bad_audio` and `bad_audio_list` once the folder is known to be free.
        output_dir: The folder.
        module: As in `SimEmbedder`.
        pool: As in `SimEmbedder`.
        device: As in `SimEmbedder`.
        precision: As in `SimEmbedder`.
        average_channels: As in `SimEmbedder`.
        batch_size: Recordings that are encoded together, at most, of 20 seconds on average.
        num_workers: Processes that read ahead; 0 reads in this one.
        on_bad_audio: At a recording that cannot be read: "raise", or "skip", which lists it in `skipped.tsv`.
        shard_seconds: Seconds of audio per file; by default as many as make 128 MB of frames, or two hours for means.
        overwrite: Replace embeddings that the folder holds.

    Returns:
        The manifest. `load_dataset("parquet", data_files=f"{output_dir}/*.parquet")` reads the embeddings: columns
        `id`, `seconds` of the recording, `embedding`, and without pooling `start`.

    Raises:
        FileExistsError: The folder holds other files, or embeddings of another model, module, data set or setting.
        AudioError: A recording cannot be read, or is stereo without `average_channels`, under "raise".
        BadAudioError: The same, found by its header.
        BlockingIOError: Another process writes to the folder.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
        if value < least:
            raise ValueError(f"`{name}` is {value}; it must be at least {least}.")
    if shard_seconds is not None and shard_seconds <= 0:
        raise ValueError(f"`shard_seconds` is {shard_seconds}; give seconds above 0, or None.")
    if not isinstance(model, SimEmbedder):
        model = SimEmbedder(model, module, pool, device=device, precision=precision, average_channels=average_channels)
    folder = Path(output_dir)
    description = model.description()
    with _claimed(folder, description, overwrite=overwrite):
        bad_audio: dict[str, Any] = {"on_bad_audio": on_bad_audio, "bad_audio_list": folder / SKIPPED_NAME}
        if isinstance(dataset, str):
            dataset = open_data(dataset, **bad_audio)
        elif callable(dataset):
            dataset = dataset(**bad_audio)
        dataset = as_corpus(dataset, **bad_audio)
        if shard_seconds is None:
            per_second = model.config.frame_rate(model.module) * model.channels * 4
            shard_seconds = _SECONDS_OF_MEANS if model.pool == "mean" else _SHARD_BYTES / per_second
        description |= {"data_fingerprint": _data_fingerprint(dataset), "shard_seconds": shard_seconds}
        manifest = {"schema": 1, "complete": False, **description}
        then = _read_manifest(folder)
        _refuse_others(folder, then, manifest)
        if not then.get("complete"):
            write_json(folder / MANIFEST_NAME, {**manifest, "versions": versions()})
            _write_shards(model, dataset, folder, shard_seconds, batch_size, num_workers, skip=on_bad_audio == "skip")
            write_json(folder / MANIFEST_NAME, {**manifest, "versions": versions(), **_totals(folder)})
        return _read_manifest(folder)


@contextlib.contextmanager
def _claimed(folder: Path, description: Mapping[str, Any], *, overwrite: bool) -> Iterator[None]:
    """Keeps the folder for this process, after a look at what it holds."""
    with locked_folder(folder, "out"):
        claim_folder(folder, _KIND, [_SHARDS, MANIFEST_NAME, SKIPPED_NAME], overwrite=overwrite, resume=True)
        if overwrite:
            clear_folder(folder, _KIND)
        _refuse_others(folder, _read_manifest(folder), description)
        for path in folder.glob(f".{_SHARDS}.*"):  # of a process that was killed
            path.unlink()
        yield


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST_NAME
    return read_json(path) if path.is_file() else {}


def _refuse_others(folder: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuses a folder whose embeddings are of another model, data set or setting."""
    different = [name for name in now if name in then and name != "complete" and then[name] != now[name]]
    if different:
        raise FileExistsError(
            f"`out` {folder} holds embeddings with another `{'`, `'.join(different)}`; give another folder, or "
            "--overwrite to replace them."
        )


def _data_fingerprint(dataset: Dataset | IterableDataset) -> str:
    """Digest of ids and lengths: of all rows, of a stream of the first ones."""
    columns = ["id", "num_samples", "sampling_rate"]
    digest = hashlib.sha256()
    if isinstance(dataset, IterableDataset):
        rows: Iterable[Any] = islice(dataset.select_columns(columns), 20)
    else:
        rows = dataset.with_format(None).select_columns(columns)
    for row in rows:
        digest.update(json.dumps([row[name] for name in columns]).encode())
    return digest.hexdigest()


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
    """Writes the shards that are not there yet."""
    is_stream = isinstance(dataset, IterableDataset)
    lengths = ["id", "num_samples", "sampling_rate"]
    dataset = dataset.with_format(None).select_columns([*lengths, "audio"])
    total = None
    if not is_stream:
        total = round(float(np.divide(dataset["num_samples"][:], dataset["sampling_rate"][:]).sum()))
    with tqdm(total=total, unit="s", unit_scale=True, desc="seconds of audio", leave=False) as progress:
        writer = _ShardWriter(embedder, batch_size, num_workers, skip_bad_audio=skip, progress=progress)
        for shard in _shards(dataset if is_stream else dataset.select_columns(lengths), shard_seconds):
            path = folder / shard.name
            if path.is_file():
                progress.update(sum(row["num_samples"] / row["sampling_rate"] for row in shard.rows))
                continue
            for rate in {row["sampling_rate"] for row in shard.rows} - {embedder.reader.rate}:
                say_once(f"recordings with {rate} samples per second are resampled to {embedder.reader.rate} (soxr)")
            source: Any = shard.rows
            if not is_stream:
                source = dataset.select(range(shard.start, shard.start + len(shard.rows)))
            writer.write(shard, source, path)


def _totals(folder: Path) -> dict[str, Any]:
    """What all shards hold; recordings that were skipped are added to the list of those with unreadable headers."""
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


__all__ = ["SimEmbedder", "as_corpus", "embed", "open_data"]
