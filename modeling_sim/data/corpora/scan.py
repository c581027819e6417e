"""A look at every recording before a run starts: its header, its last sample, its id, the length of its labels."""

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset, Features, IterableDataset, Value

from modeling_sim.data.audio import AudioError, AudioHeader, audio_name, read_audio, read_header, resampled_length
from modeling_sim.data.corpora.alignments import LABEL_RATE, num_label_frames
from modeling_sim.data.corpora.contract import class_label
from modeling_sim.data.corpora.tree import file_key
from modeling_sim.files import replacing
from modeling_sim.text import printable, say

_SHOWN = 20


# soundfile releases the interpreter while it decodes, and a disk answers several requests at once.
_THREADS = 8


_CHUNK = 256


# Aligners count the last, partial window in different ways; labels are placed by time, so a frame more or less is fine.
_LABEL_TOLERANCE = 2


class BadRecording(NamedTuple):
    """A recording that cannot be used."""

    id: str
    file: str
    reason: str


class BadAudioError(ValueError):
    """Some recordings of a corpus cannot be used.

    Args:
        recordings: All of them; the message shows the first 20 and counts the rest.
        num_scanned: Recordings looked at.
    """

    def __init__(self, recordings: list[BadRecording], num_scanned: int) -> None:
        self.recordings = recordings
        some_left = len(recordings) < num_scanned
        super().__init__(
            f"{len(recordings)} of {num_scanned} recordings cannot be used:\n{bad_audio_table(recordings)}\n"
            + ("Repair or remove them, or leave them out with `on_bad_audio` 'skip'." if some_left else "None is left.")
        )


def bad_audio_table(recordings: list[BadRecording]) -> str:
    """The first 20 recordings with their reasons, one a line, and how many more there are."""
    shown = recordings[:_SHOWN]
    width = max(len(printable(recording.id)) for recording in shown)
    lines = [f"  {printable(recording.id):<{width}}  {printable(recording.reason)}" for recording in shown]
    if len(recordings) > _SHOWN:
        lines.append(f"  ... and {len(recordings) - _SHOWN} more")
    return "\n".join(lines)


def check_audio(
    dataset: Dataset, *, on_bad_audio: str = "raise", bad_audio_list: str | Path | None = None, decode_all: bool = False
) -> Dataset:
    """Fill in `num_samples` and `sampling_rate` from the headers and deal with what cannot be used.

    A data set that has both columns was made by this program and is not looked at again.

    Args:
        dataset: Columns `id` and `audio`, and whatever labels.
        on_bad_audio: "raise" or "skip".
        bad_audio_list: Under "skip", the file to list what was left out in: id, file, reason, separated by tabs.
        decode_all: Decode every recording from end to end, which finds what headers do not show (NaN, corruption in
            the middle), at some hundred times the cost.

    Raises:
        BadAudioError: Under "raise", where any recording cannot be used; under "skip", where none can.
    """
    if {"num_samples", "sampling_rate"} <= set(dataset.column_names):
        return dataset
    headers: list[AudioHeader | None] = []
    bad: list[BadRecording] = []
    seen: Counter[str] = Counter()
    owners: dict[Hashable, str] = {}
    for row, header, problem in _scan(dataset, decode_all=decode_all):
        name = str(row["id"])
        seen[name] += 1
        twice = f"{audio_name(row['audio'])}: a second recording of this id" if seen[name] > 1 else None
        reason = problem or twice
        if reason is None and row["audio"]["bytes"] is None:
            owner = owners.setdefault(file_key(row["audio"]["path"]), name)
            reason = f"{audio_name(row['audio'])}: the recording of {owner} too" if owner != name else None
        if reason is not None:
            bad.append(BadRecording(name, audio_name(row["audio"]), reason))
        headers.append(header if reason is None else None)
    if bad and (on_bad_audio == "raise" or len(bad) == len(headers)):
        raise BadAudioError(bad, len(headers))
    # The columns come before the selection: adding one to a selection would copy the audio.
    dataset = dataset.add_column("num_samples", [header.num_samples if header else 0 for header in headers])
    dataset = dataset.add_column("sampling_rate", [header.sampling_rate if header else 0 for header in headers])
    if bad:
        say(f"{len(bad)} of {len(headers)} recordings are left out:\n{bad_audio_table(bad)}")
        dataset = dataset.select([row for row, header in enumerate(headers) if header is not None])
    if on_bad_audio == "skip" and bad_audio_list is not None:
        _write_list(bad_audio_list, bad)
    return dataset


def check_streamed_audio(
    dataset: IterableDataset,
    *,
    on_bad_audio: str = "raise",
    bad_audio_list: str | Path | None = None,
    decode_all: bool = False,
) -> IterableDataset:
    """The same for a stream, row by row as it passes.

    "skip" passes over a bad row; the first time it meets one it prints the reason and adds the row to the list.
    """
    if on_bad_audio == "skip" and bad_audio_list is not None:
        _write_list(bad_audio_list, [])
    check = _StreamCheck(on_bad_audio, bad_audio_list, decode_all)
    numbers = {"num_samples": Value("int64"), "sampling_rate": Value("int64")}
    return dataset.map(check, features=Features({**dataset.features, **numbers})).filter(_has_samples)


class _StreamCheck:
    """Looks at the rows of a stream; a class, since readers that are spawned get it pickled."""

    def __init__(self, on_bad_audio: str, bad_audio_list: str | Path | None, decode_all: bool) -> None:
        self.on_bad_audio, self.bad_audio_list, self.decode_all = on_bad_audio, bad_audio_list, decode_all
        self.left_out: dict[BadRecording, None] = {}  # in the order they came

    def __call__(self, row: Mapping[str, Any]) -> dict[str, int]:
        header, reason = _look_at(row, decode_all=self.decode_all)
        if header is None:
            bad = BadRecording(row["id"], audio_name(row["audio"]), str(reason))
            if self.on_bad_audio == "raise":
                raise BadAudioError([bad], 1)
            if bad not in self.left_out:
                self.left_out[bad] = None
                say(f"left out: {printable(bad.id)}  {printable(bad.reason)}")
                if self.bad_audio_list is not None:
                    _write_list(self.bad_audio_list, list(self.left_out))
            return {"num_samples": 0, "sampling_rate": 0}
        return {"num_samples": header.num_samples, "sampling_rate": header.sampling_rate}


def _has_samples(row: Mapping[str, Any]) -> bool:
    return row["num_samples"] > 0


def _write_list(path: str | Path, recordings: list[BadRecording]) -> None:
    """Id, file and reason of each recording, a line each, separated by tabs; what is not printed is escaped."""
    lines = ["\t".join(map(printable, recording)) + "\n" for recording in recordings]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def _scan(dataset: Dataset, *, decode_all: bool) -> Iterator[tuple[dict[str, Any], AudioHeader | None, str | None]]:
    """Each row with its header, or with the reason why it cannot be used."""
    columns = ["id", "audio"]
    if "phones" in dataset.column_names and class_label(dataset, "phones") is not None:  # else text of a manifest
        columns.append("phones")
    rows = dataset.with_format(None).select_columns(columns)
    look_at = partial(_look_at, decode_all=decode_all)
    with ThreadPoolExecutor(_THREADS) as threads:
        for start in range(0, len(rows), _CHUNK):
            chunk = rows.select(range(start, min(start + _CHUNK, len(rows)))).to_list()
            for row, (header, reason) in zip(chunk, threads.map(look_at, chunk), strict=True):
                yield row, header, reason


def _look_at(row: Mapping[str, Any], *, decode_all: bool) -> tuple[AudioHeader | None, str | None]:
    try:
        header = read_header(row["audio"])
        if decode_all:
            read_audio(row["audio"], sampling_rate=header.sampling_rate)
    except AudioError as error:
        return None, str(error)
    phones = row.get("phones")
    if phones is not None:
        expected = num_label_frames(resampled_length(header.num_samples, header.sampling_rate, LABEL_RATE))
        if abs(len(phones) - expected) > _LABEL_TOLERANCE:
            return None, (
                f"{audio_name(row['audio'])}: {len(phones)} phone labels, but {header.num_samples} samples at "
                f"{header.sampling_rate} Hz have {expected} frames of 10 ms"
            )
    return header, None
