"""Batches of crops for training, and of complete utterances for evaluation.

The training data is one endless *stream of positions*. Position n is the crop of epoch `n // len(dataset)` at place
`n % len(dataset)` of that epoch's permutation of the data set. Its samples depend only on the seed, the epoch and the
index of the utterance. So all batches are full and may span two epochs, and a run that resumes, possibly with a
different batch size or number of processes or workers, continues the same stream.
"""

import contextlib
import itertools
import math
import queue
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from torch.utils.data import DataLoader, Sampler
from transformers import SequenceFeatureExtractor

from modeling_sim.data.audio import AudioError, read_audio, resampled_length
from modeling_sim.data.corpora.contract import signal_column
from modeling_sim.data.signals import is_audio, padded, positions

# Last entries of the seeds, which make the draws below independent of each other.
_PERMUTATION, _START, _REPLACEMENT = 1, 2, 3


# Recordings to try in place of an unreadable one before raising an error.
_ATTEMPTS = 10


# Seconds to wait for a batch of a reader process: much more than a slow network disk needs.
READER_TIMEOUT = 300.0


# Longest utterance in seconds that evaluation reads at once, and longest piece of a longer one; bounds memory.
LONGEST_WHOLE, LONGEST_PIECE = 40, 20


# Crops may be up to 4 times as long as the longest recording, or 2 seconds: more would only be padding.
_MOST_PADDING, _SHORT_CROP = 4, 2


# Seconds between two checks that the reader processes are alive.
_CHECK_INTERVAL = 0.5


class ReaderError(RuntimeError):
    """A reader process died, or returned no batch in time."""


class Batches:
    """Iterates over a loader's batches as tensors, and raises an error when a reader process dies or hangs.

    Reader processes send arrays through pipes. Tensors would need shared memory, of which a container has 64 MB, and a
    reader that runs out of it loses its batch silently. A thread reads the pipes, because reading from a process that
    stopped in the middle of a batch never returns.

    Args:
        loader: A loader whose batches are dicts; arrays in them become tensors.
        timeout: Seconds to wait for a batch of a reader process; 0 for no limit.
        pin_memory: Put tensors in page-locked memory.

    Raises:
        ReaderError: On iteration: a reader process died, or returned no batch within `timeout` seconds.
    """

    def __init__(self, loader: DataLoader[Any], *, timeout: float = READER_TIMEOUT, pin_memory: bool = False) -> None:
        self.loader, self.timeout, self.pin_memory = loader, timeout, pin_memory

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yields the batches, read in this process or in the loader's reader processes."""
        source = self._from_readers() if self.loader.num_workers else iter(self.loader)
        for batch in source:
            yield {
                name: self._tensor(value) if isinstance(value, np.ndarray) else value for name, value in batch.items()
            }

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory() if self.pin_memory else tensor

    def _from_readers(self) -> Iterator[dict[str, Any]]:
        others = active_children()
        with _own_sigchld_handler():
            batches = iter(self.loader)
        readers = [process for process in active_children() if process not in others]
        wanted: queue.SimpleQueue[bool] = queue.SimpleQueue()
        found: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=_answer, args=(batches, wanted, found), daemon=True).start()
        del batches  # only the thread refers to it: when the thread ends, so do the readers
        try:
            while True:
                wanted.put(True)
                answer = self._await(found, readers)
                if isinstance(answer, StopIteration):
                    return
                if isinstance(answer, BaseException):
                    if isinstance(answer, (RuntimeError, EOFError, OSError)):
                        _require_alive(readers)
                    raise answer
                yield answer
        except ReaderError:
            for reader in readers:
                reader.kill()  # a stopped process ignores other signals, and the program would wait for it on exit
            raise
        finally:
            wanted.put(False)

    def _await(self, found: "queue.SimpleQueue[Any]", readers: list[BaseProcess]) -> Any:
        """Waits for the next batch or error of the thread."""
        waited_since = time.monotonic()
        while True:
            try:
                return found.get(timeout=_CHECK_INTERVAL)
            except queue.Empty:
                _require_alive(readers)
            if self.timeout and time.monotonic() - waited_since > self.timeout:
                raise ReaderError(
                    f"the reader processes returned no batch for {self.timeout:g} seconds; check for a disk or a "
                    "network that hangs, increase `reader_timeout`, or set `num_workers` to 0 to read in the main "
                    "process"
                )


@contextlib.contextmanager
def _own_sigchld_handler() -> Iterator[None]:
    """Restores the SIGCHLD handler; torch's own raises the death of a reader in the middle of a training step."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)


def _answer(batches: Iterator[Any], wanted: "queue.SimpleQueue[bool]", found: "queue.SimpleQueue[Any]") -> None:
    """Puts a batch into `found` for each request in `wanted`, or the exception that stopped the iteration."""
    while wanted.get():
        try:
            found.put(next(batches))
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            found.put(error)
            return


def _require_alive(readers: list[BaseProcess]) -> None:
    """Raises a `ReaderError` if a reader process died."""
    for reader in readers:
        if reader.exitcode:
            how = f"exited with code {reader.exitcode}"
            if reader.exitcode < 0:
                how = f"was killed by {signal.Signals(-reader.exitcode).name}"
            if reader.exitcode == -9:
                how += ", possibly out of memory"
            raise ReaderError(
                f"a reader process (pid {reader.pid}) {how}; reduce `num_workers`, or set it to 0 to read in the main "
                "process"
            )


class Piece(NamedTuple):
    """A span of an utterance: `num_samples` samples from `start` on, or all of them if `None`."""

    index: int  # type: ignore[assignment]  # a tuple's method has this name
    start: int = 0
    num_samples: int | None = None


class Place(NamedTuple):
    """A position of the stream, with its epoch and the index of its utterance."""

    position: int
    epoch: int
    index: int  # type: ignore[assignment]  # a tuple's method has this name


def crop_batches(
    dataset: Dataset | IterableDataset,
    feature_extractor: SequenceFeatureExtractor,
    *,
    crop_samples: int,
    batch_size: int,
    seed: int,
    start_position: int = 0,
    process_index: int = 0,
    num_processes: int = 1,
    num_workers: int = 0,
    reader_timeout: float = READER_TIMEOUT,
    pin_memory: bool = False,
    on_bad_audio: Literal["raise", "skip"] = "raise",
    keep_in_memory: bool = False,
    columns: Sequence[str] = (),
) -> Batches:
    """Endless batches of random crops.

    The batches are those of one process; do not prepare or shard them again. In step s, counted from 0, process r of P
    reads the `batch_size` positions from `start_position + (s P + r) batch_size` on. To resume a run after s steps,
    add `s P batch_size` to `start_position`.

    A batch is a dict: `input_values` (batch, crop_samples) float32 and `attention_mask` (batch, crop_samples),
    `position`, `index` and `start`, the crop's first sample, (batch,) int64, `id` a list of strings, `num_replaced` an
    int, and `columns`, a list with one dict per crop. An utterance shorter than the crop is padded with zeros that the
    mask excludes. If it is shorter than the extractor's `min_samples`, too short for one frame of a model, it is first
    extended to that length with silence that counts as audio.

    An `IterableDataset` has no random access and is read in its own order, epoch after epoch; shuffle it with
    `dataset.shuffle(seed, buffer_size=...)` first. Its `index` counts the rows of an epoch. Every process reads the
    entire stream and decodes its own share, a resumed run reads the skipped rows again, and at most one worker is
    allowed.

    Args:
        dataset: A corpus, or a stream of one.
        feature_extractor: Converts waveforms to padded model inputs; crops have its `sampling_rate`.
        crop_samples: Length of a crop in samples.
        batch_size: Crops per process and step.
        seed: Seed of the order and of the crops.
        start_position: Position of the stream at which the first batch starts.
        process_index: Index of this process.
        num_processes: Number of processes that share the stream.
        num_workers: Worker processes that read ahead; they do not change the samples.
        reader_timeout: Seconds to wait for a worker's batch before raising a `ReaderError`; 0 for no limit.
        pin_memory: Put batches in page-locked memory, for copies to a GPU.
        on_bad_audio: What to do if a recording turns out to be unreadable: "raise", or "skip", which replaces its crop
            by a crop of another utterance, chosen reproducibly, and counts it in `num_replaced`. A stream always
            raises: load it with `decode_all` to exclude such recordings.
        keep_in_memory: Decode each recording once, when it is first used, and cut later crops from memory: 4 bytes per
            sample and reading process. Crops are the same, up to rounding if resampled. Ignored for a stream.
        columns: Further columns of the data set to return unchanged in `columns` of a batch.

    Raises:
        ValueError: A count is out of range.
        ReaderError: On iteration: a worker process died, or returned no batch in time.
    """
    streamed = isinstance(dataset, IterableDataset)
    for name, value, least in (
        ("crop_samples", crop_samples, getattr(feature_extractor, "min_samples", 1)),
        ("batch_size", batch_size, 1),
        ("start_position", start_position, 0),
        ("num_workers", num_workers, 0),
        ("len(dataset)", 1 if streamed else len(dataset), 1),
    ):
        if value < least:
            raise ValueError(f"`{name}` is {value}; it must be at least {least}.")
    _check_process(process_index, num_processes)
    if not streamed:
        longest = max(_lengths(dataset, feature_extractor))
        if crop_samples > max(_MOST_PADDING * longest, _SHORT_CROP * feature_extractor.sampling_rate):
            raise ValueError(
                f"`crop_samples` is {crop_samples}, but the longest recording has {longest} samples and the rest would "
                "be padding; reduce it."
            )
    if streamed and num_workers > 1:
        raise ValueError(f"`num_workers` is {num_workers}; give 0 or 1 for a stream, which workers cannot share.")
    crops = _Crops(
        _rows(dataset, columns),
        crop_samples=crop_samples,
        feature_extractor=feature_extractor,
        seed=seed,
        skip_bad_audio=on_bad_audio == "skip",
        keep_in_memory=keep_in_memory and not streamed,
    )
    share = _Share.of(start_position, batch_size, process_index, num_processes)
    source: dict[str, Any]
    if streamed:
        source = {"dataset": _StreamedCrops(crops, share), "batch_size": batch_size}
    else:
        source = {"dataset": crops, "batch_sampler": _PlaceBatches(len(dataset), seed, share)}
    loader: DataLoader[Any] = DataLoader(
        **source,
        collate_fn=_Collate(feature_extractor, padding="max_length", max_length=crop_samples),
        num_workers=num_workers,
        # Without its own generator, the loader would advance the global one, which the trainer uses.
        generator=torch.Generator().manual_seed(seed),
    )
    return Batches(loader, timeout=reader_timeout, pin_memory=pin_memory)


def first_crops(
    dataset: Dataset,
    feature_extractor: SequenceFeatureExtractor,
    *,
    crop_samples: int,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    num_processes: int = 1,
    num_workers: int = 0,
    reader_timeout: float = READER_TIMEOUT,
) -> Batches:
    """The first epoch's crop of every utterance, once, in the order of the data set.

    Arguments and batches are those of `crop_batches`; the last batch may be smaller.
    """
    _check_process(process_index, num_processes)
    crops = _Crops(
        _rows(dataset),
        crop_samples=crop_samples,
        feature_extractor=feature_extractor,
        seed=seed,
        skip_bad_audio=False,
    )
    starts = range(process_index * batch_size, len(dataset), num_processes * batch_size)
    loader: DataLoader[Any] = DataLoader(
        crops,
        batch_sampler=[
            [Place(index, 0, index) for index in range(start, min(start + batch_size, len(dataset)))]
            for start in starts
        ],
        collate_fn=_Collate(feature_extractor, padding="max_length", max_length=crop_samples),
        num_workers=num_workers,
        generator=torch.Generator().manual_seed(seed),
    )
    return Batches(loader, timeout=reader_timeout)


def utterance_batches(
    dataset: Dataset,
    feature_extractor: SequenceFeatureExtractor,
    *,
    batch_size: int = 8,
    max_samples: int | None = None,
    min_utterances: int = 1,
    process_index: int = 0,
    num_processes: int = 1,
    num_workers: int = 0,
    reader_timeout: float = READER_TIMEOUT,
    columns: Sequence[str] = (),
    cut: bool = False,
) -> Batches:
    """Every utterance once, in batches of similar lengths, shortest first.

    With `cut`, utterances longer than 40 seconds are cut into the fewest equal pieces of at most 20 seconds. Each
    piece is a separate row with the utterance's `id` and its `start`. A batch then never exceeds `batch_size` times 40
    seconds, however long the recordings are.

    Batches are dicts like those of `crop_batches`, without `position` and `num_replaced`; `input_values` are as long as
    the longest utterance of the batch.

    Args:
        dataset: A corpus.
        feature_extractor: Converts waveforms to padded model inputs.
        batch_size: Maximum number of utterances per batch.
        max_samples: Maximum number of samples per batch, including padding, to limit memory; a longer utterance forms
            its own batch. `None` for no limit.
        min_utterances: Minimum number of utterances per batch, if there are enough: 2 if negatives come from other
            utterances. Takes precedence over the other two limits.
        process_index: Index of this process, which reads every `num_processes`-th batch.
        num_processes: Number of processes that share the batches; some may get one batch more than others.
        num_workers: Worker processes that read ahead.
        reader_timeout: See `crop_batches`.
        columns: Further columns of the data set to return.
        cut: Cut long utterances into pieces.
    """
    _check_process(process_index, num_processes)
    if batch_size < 1:
        raise ValueError(f"`batch_size` is {batch_size}; it must be at least 1.")
    if max_samples is not None and max_samples < 1:
        raise ValueError(f"`max_samples` is {max_samples}; give at least 1, or None for no limit.")
    rate = feature_extractor.sampling_rate
    pieces = [
        (number if piece.num_samples is None else piece.num_samples, piece)
        for index, number in enumerate(_lengths(dataset, feature_extractor))
        for piece in (_pieces(index, number, rate) if cut else [Piece(index)])
    ]
    batches: list[list[Piece]] = [[]]
    for length, piece in sorted(pieces, key=lambda item: (item[0], item[1].index, item[1].start)):
        # Sorted by length: this utterance is the longest so far, and the batch would be padded to it.
        too_large = max_samples is not None and (len(batches[-1]) + 1) * length > max_samples
        if len(batches[-1]) >= max(1, min_utterances) and (len(batches[-1]) >= batch_size or too_large):
            batches.append([])
        batches[-1].append(piece)
    if len(batches) > 1 and len(batches[-1]) < min_utterances:
        batches[-2:] = [batches[-2] + batches[-1]]
    loader: DataLoader[Any] = DataLoader(
        _Utterances(_rows(dataset, columns), feature_extractor),
        batch_sampler=batches[process_index::num_processes],
        collate_fn=_Collate(feature_extractor, padding="longest"),
        num_workers=num_workers,
        generator=torch.Generator().manual_seed(0),
    )
    return Batches(loader, timeout=reader_timeout)


_COLUMNS = ("id", "audio", "num_samples", "sampling_rate")


def _rows(dataset: Dataset | IterableDataset, columns: Sequence[str] = ()) -> Dataset | IterableDataset:
    """The columns of a batch; an image or a text takes the place of `audio`."""
    signal = signal_column(dataset)
    rows = dataset.with_format(None).select_columns(
        [signal if name == "audio" else name for name in _COLUMNS] + [*columns]
    )
    return rows if signal == "audio" else rows.rename_column(signal, "audio")


def _lengths(dataset: Dataset, feature_extractor: SequenceFeatureExtractor) -> list[int]:
    """Length of every utterance in samples of the feature extractor, or in tokens of the tokenizer."""
    if signal_column(dataset) == "text":
        return [len(positions(text, feature_extractor)) for text in dataset["text"][:]]
    return [
        resampled_length(num_samples, own_rate, feature_extractor.sampling_rate)
        for num_samples, own_rate in zip(dataset["num_samples"][:], dataset["sampling_rate"][:], strict=True)
    ]


def _pieces(index: int, length: int, rate: int) -> list[Piece]:
    """The complete utterance, or its pieces if it is long."""
    if length <= LONGEST_WHOLE * rate:
        return [Piece(index)]
    count = math.ceil(length / (LONGEST_PIECE * rate))
    edges = [number * length // count for number in range(count + 1)]
    return [Piece(index, start, stop - start) for start, stop in itertools.pairwise(edges)]


def _check_process(process_index: int, num_processes: int) -> None:
    if not 0 <= process_index < num_processes:
        raise ValueError(f"`process_index` is {process_index}, but `num_processes` is {num_processes}.")


class _Share(NamedTuple):
    """One process' share of the stream: `size` positions from `first` on, and again after every `step` positions."""

    first: int
    size: int
    step: int

    @classmethod
    def of(cls, start_position: int, batch_size: int, process_index: int, num_processes: int) -> "_Share":
        """The share of a process, from a position of the stream on."""
        return cls(start_position + process_index * batch_size, batch_size, num_processes * batch_size)

    def has(self, position: int) -> bool:
        """Whether a position is in this share."""
        return position >= self.first and (position - self.first) % self.step < self.size


class _PlaceBatches(Sampler[list[Place]]):
    """Endless batches of places in a map-style data set."""

    def __init__(self, length: int, seed: int, share: _Share) -> None:
        self.length, self.seed, self.share = length, seed, share

    def __iter__(self) -> Iterator[list[Place]]:
        @lru_cache(maxsize=2)  # a batch touches two epochs, unless it is larger than the data set
        def permutation(epoch: int) -> np.ndarray:
            return np.random.default_rng([self.seed, epoch, _PERMUTATION]).permutation(self.length)

        def place(position: int) -> Place:
            epoch, rank = divmod(position, self.length)
            return Place(position, epoch, int(permutation(epoch)[rank]))

        for first in itertools.count(self.share.first, self.share.step):
            yield [place(position) for position in range(first, first + self.share.size)]


def place_batches(
    length: int, *, batch_size: int, seed: int, start_position: int = 0, process_index: int = 0, num_processes: int = 1
) -> Sampler[list[Place]]:
    """Endless batches of the places that `crop_batches` reads, for another source with one row per utterance."""
    return _PlaceBatches(length, seed, _Share.of(start_position, batch_size, process_index, num_processes))


class _Crops(torch.utils.data.Dataset[dict[str, Any]]):
    """The crop at a place of the stream."""

    def __init__(
        self,
        dataset: Dataset,
        *,
        crop_samples: int,
        feature_extractor: SequenceFeatureExtractor,
        seed: int,
        skip_bad_audio: bool,
        keep_in_memory: bool = False,
    ) -> None:
        self.dataset, self.crop_samples, self.feature_extractor = dataset, crop_samples, feature_extractor
        self.seed, self.skip_bad_audio, self.keep_in_memory = seed, skip_bad_audio, keep_in_memory
        self.kept: dict[int, dict[str, Any]] = {}

    def __getitem__(self, place: Place) -> dict[str, Any]:
        index = place.index
        replacements = np.random.default_rng([self.seed, place.epoch, place.index, _REPLACEMENT])
        attempt = 0
        while True:
            try:
                crop = self.crop(self.row(index), place.epoch, index)
            except AudioError:
                attempt += 1
                if not self.skip_bad_audio or attempt == _ATTEMPTS:
                    raise
                index = int(replacements.integers(len(self.dataset)))
            else:
                return {**crop, "position": place.position, "num_replaced": min(attempt, 1)}

    def row(self, index: int) -> dict[str, Any]:
        """A row of the data set, with samples in place of `audio` if they are kept in memory."""
        if not self.keep_in_memory:
            return dict(self.dataset[index])
        if index not in self.kept:
            row = self.dataset[index]
            self.kept[index] = {**row, "audio": _samples(row, self.feature_extractor)}
        return self.kept[index]

    def crop(self, row: dict[str, Any], epoch: int, index: int) -> dict[str, Any]:
        """The crop of a row in an epoch."""
        if is_audio(self.feature_extractor):
            length = resampled_length(row["num_samples"], row["sampling_rate"], self.feature_extractor.sampling_rate)
        else:
            row = {**row, "audio": _samples(row, self.feature_extractor)}
            length = len(row["audio"])
        # Uniform over every start of a complete crop, including the first and the last.
        starts = max(0, length - self.crop_samples) + 1
        start = int(np.random.default_rng([self.seed, epoch, index, _START]).integers(starts))
        return {**_with_samples(row, self.feature_extractor, start, self.crop_samples), "index": index}


class _StreamedCrops(torch.utils.data.IterableDataset[dict[str, Any]]):
    """The crops of one process' share of a stream, in order."""

    def __init__(self, crops: _Crops, share: _Share) -> None:
        self.crops, self.share = crops, share

    def __iter__(self) -> Iterator[dict[str, Any]]:
        position = 0
        for epoch in itertools.count():
            self.crops.dataset.set_epoch(epoch)
            for index, row in enumerate(self.crops.dataset):
                if self.share.has(position):
                    yield {**self.crops.crop(row, epoch, index), "position": position, "num_replaced": 0}
                position += 1
            if position == 0:
                raise ValueError("the stream has no utterances")


class _Utterances(torch.utils.data.Dataset[dict[str, Any]]):
    """The utterance at an index, or a piece of it."""

    def __init__(self, dataset: Dataset, feature_extractor: SequenceFeatureExtractor) -> None:
        self.dataset, self.feature_extractor = dataset, feature_extractor

    def __getitem__(self, piece: Piece) -> dict[str, Any]:
        samples = _with_samples(self.dataset[piece.index], self.feature_extractor, piece.start, piece.num_samples)
        return {**samples, "index": piece.index}


def _with_samples(
    row: dict[str, Any], feature_extractor: SequenceFeatureExtractor, start: int = 0, num_samples: int | None = None
) -> dict[str, Any]:
    """A row of the data set with `samples` in place of `audio`."""
    samples = _samples(row, feature_extractor, start, num_samples)
    missing = getattr(feature_extractor, "min_samples", 1) - len(samples)
    if missing > 0:
        samples = np.pad(samples, (0, missing))
    # Separate from the keys of a batch, as a data set may have columns of any name.
    columns = {name: value for name, value in row.items() if name not in _COLUMNS}
    return {"id": str(row["id"]), "columns": columns, "samples": samples, "start": start}


def _samples(
    row: dict[str, Any], feature_extractor: SequenceFeatureExtractor, start: int = 0, num_samples: int | None = None
) -> np.ndarray:
    """The samples of a row, cut from those in memory, or decoded."""
    if isinstance(row["audio"], np.ndarray):
        return row["audio"][start:][:num_samples]
    if not is_audio(feature_extractor):
        return positions(row["audio"], feature_extractor)[start:][:num_samples]
    return read_audio(
        row["audio"],
        start=start,
        num_samples=num_samples,
        sampling_rate=feature_extractor.sampling_rate,
        found=(row["num_samples"], row["sampling_rate"]),
    )


class _Collate:
    """Pads waveforms with the feature extractor and collects the rest in arrays, which `Batches` turns into tensors.

    A class, so that spawned workers can unpickle it.
    """

    def __init__(self, feature_extractor: SequenceFeatureExtractor, **padding: Any) -> None:
        self.feature_extractor, self.padding = feature_extractor, padding

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        samples, batch = columns.pop("samples"), dict[str, Any]()
        if is_audio(self.feature_extractor):
            batch |= self.feature_extractor(  # type: ignore[operator]
                samples,
                sampling_rate=self.feature_extractor.sampling_rate,
                return_attention_mask=True,
                return_tensors="np",
                **self.padding,
            )
        else:
            batch |= padded(samples, self.feature_extractor, **self.padding)
        if "num_replaced" in columns:
            batch["num_replaced"] = sum(columns.pop("num_replaced"))
        for name, values in columns.items():
            numbers = all(isinstance(value, (int, float)) for value in values)
            batch[name] = torch.tensor(values).numpy() if numbers else values
        return batch
