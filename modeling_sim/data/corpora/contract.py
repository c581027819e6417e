"""The contract of a corpus: its columns, how to build them, and its description.

Columns of every corpus:

| column | type | meaning |
| --- | --- | --- |
| `id` | string | unique within the corpus, across all splits |
| `audio` | `Audio(decode=False)` | `{"path", "bytes"}`, decoded by `modeling_sim.data.audio` |
| `num_samples` | int | length at the file's sampling rate |
| `sampling_rate` | int | the file's sampling rate in Hz |
| `speaker_id` | `ClassLabel` | one class "unknown" if the corpus does not name speakers |

A corpus of images has `image`, an `Image(decode=False)`, in place of `audio`, and one of texts has `text`, a string.
Their `num_samples` is the height in pixels or the number of symbols, and `sampling_rate` is `POSITION_RATE`.

Label columns are `ClassLabel`, or sequences of them. `phones` is the same in all corpora: one class per 10 ms frame, as
defined in `modeling_sim.data.corpora.alignments`, and null for an utterance without an alignment.
The splits of a corpus share the class names of every label column.
"""

import io
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
from datasets import Audio, ClassLabel, Dataset, Features, Image, IterableDataset, List, Value

from modeling_sim.text import counted, printable, say_once

SIGNALS = {"waveform": "audio", "patches": "image", "tokens": "text"}
"""The column of a corpus that a model reads, by the model's `input_kind`."""

POSITION_RATE = 100  # that of `configuration_sim`, repeated here because importing it imports torch


def signal_columns(kind: str, values: Sequence[Any], lengths: Sequence[int], split: str) -> dict[str, Any]:
    """The columns of images or texts other than labels.

    Args:
        kind: "image" or "text".
        values: The files of `png`, or the texts.
        lengths: Heights in pixels, or numbers of symbols.
        split: Prefix of the ids.
    """
    return {
        "id": [f"{split}-{number:06d}" for number in range(len(values))],
        kind: values,
        "num_samples": lengths,
        "sampling_rate": [POSITION_RATE] * len(values),
        "speaker_id": [UNKNOWN_SPEAKER] * len(values),
    }


def png(image: Any) -> dict[str, Any]:
    """An `image`: pixels `(height, width[, channels])` uint8, or an image of PIL, as a file in memory."""
    file = io.BytesIO()
    (PIL.Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, format="PNG")
    return {"path": None, "bytes": file.getvalue()}


def signal_column(dataset: Dataset | IterableDataset) -> str:
    """The column that a model reads: `audio`, `image` or `text`, the first that the data set has."""
    return next((name for name in SIGNALS.values() if name in dataset.column_names), "audio")


def check_signal(corpus: str, dataset: Dataset | IterableDataset, input_kind: str) -> None:
    """Checks that a corpus has what a model reads.

    Args:
        corpus: Name of the corpus.
        dataset: One of its splits.
        input_kind: What the model reads, as in `SimConfig`.

    Raises:
        ValueError: It has another signal, for example images for a model of audio.
    """
    signal, wanted = signal_column(dataset), SIGNALS[input_kind]
    if signal != wanted:
        raise ValueError(
            f"`corpus` {corpus!r} has the column `{signal}`, but a model with `input_kind` {input_kind!r} reads "
            f"`{wanted}`; choose another corpus, or a model of {signal}."
        )


def with_same_classes(train: Dataset, test: Dataset) -> tuple[Dataset, Dataset]:
    """Gives both splits the same class names and numbers in every class column.

    If the splits of a data set were numbered separately, equal numbers would mean different classes. Classes that only
    the test split has come last.
    """
    for column in train.column_names:
        if column not in test.column_names:
            continue
        known, other = class_label(train, column), class_label(test, column)
        if known is None or other is None or known.names == other.names:
            continue
        names = [*known.names, *(name for name in other.names if name not in known.names)]
        number = {name: names.index(name) for name in other.names}
        renumber = [number[name] for name in other.names]

        def renumbered(value: Any, renumber: list[int] = renumber) -> Any:
            if isinstance(value, list):
                return [renumbered(item) for item in value]
            return value if value is None or value < 0 else renumber[value]

        of_lists = isinstance(train.features[column], List)
        feature = List(ClassLabel(names=names)) if of_lists else ClassLabel(names=names)
        train = replace_column(train, column, train[column][:], feature)
        test = replace_column(test, column, [renumbered(value) for value in test[column][:]], feature)
    return train, test


def label_classes(dataset: Dataset, label: str) -> list[str]:
    """Names of a label's classes.

    Raises:
        ValueError: The corpus has no class column of this name.
    """
    known = [name for name in dataset.column_names if class_label(dataset, name) is not None]
    feature = class_label(dataset, label) if label in dataset.column_names else None
    if feature is None:
        raise ValueError(f"`label` is {label!r}, but there is no column of classes with this name; available: {known}.")
    return list(feature.names)


def is_frame_label(dataset: Dataset, label: str) -> bool:
    """Whether a column has one class per label frame rather than one per utterance."""
    return isinstance(dataset.features[label], List)


UNKNOWN_SPEAKER = "unknown"


# What programs write for a missing class or speaker.
MISSING = ("", "nan", "NaN", "<NA>", "None")


IGNORED = -100  # torch's default `ignore_index`


# Names of a speaker column, ignoring case and all characters but letters, the most specific first.
_SPEAKER_COLUMNS = tuple(
    str.split(
        "speakerid speaker spkid spk spkrid spkr speakername speakercode clientid talkerid talker readerid reader "
        "narratorid narrator singerid singer voiceid participantid participant subjectid subject actorid actor userid "
        "user"
    )
)


# Arrow storage of an `Audio` column. A stream's `audio` has this type: its values are the same, but the feature `Audio`
# would encode every value of a stream, which needs torchcodec.
AUDIO_STORAGE = {"bytes": Value("binary"), "path": Value("string")}


@dataclass(frozen=True)
class CorpusInfo:
    """Description of a corpus.

    Args:
        description: One sentence.
        license: License identifier of the Hub, or "other" with the reason in `description`.
        hub_id: Hub id of the data set, if it is on the Hub.
        num_utterances: Size of the complete corpus, if it is fixed.
        language: Language code of the Hub, if there is one language.
        generated: Whether the data is generated rather than read from files.
        defaults: Settings of training commands to use unless others are given, for corpora that the defaults, which are
            those of speech, do not fit.
        path_settings: Settings whose value can only be a file or a folder. Before publication their values are
            shortened to the last part of the path. `dataset_id` is not one of them, because it may be a Hub id.
        splits: Names of all splits, if they do not depend on the settings; a wrong name is then reported at once.
    """

    description: str
    license: str
    hub_id: str | None = None
    num_utterances: int | None = None
    language: str | None = None
    generated: bool = False
    path_settings: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    splits: tuple[str, ...] = ()


def size_of_split(corpus: str, split: str, *, num_train: int, num_test: int) -> int:
    """Number of rows of a split of a generated corpus.

    Raises:
        ValueError: The split is neither "train" nor "test", or its number is below 1.
    """
    if split not in ("train", "test"):
        raise ValueError(f"`split` is {split!r}; {corpus} has train and test.")
    size = num_train if split == "train" else num_test
    if size < 1:
        raise ValueError(f"`num_{split}` is {size}; give at least 1.")
    return size


def find_speaker_column(columns: Collection[str], source: str) -> str | None:
    """The column that names the speakers by one of the usual names, `speaker_id` first; prints which one is used.

    Args:
        columns: Names of the columns.
        source: Name of the data set in that message.
    """
    found = {re.sub(r"[^a-z]", "", column.lower()): column for column in reversed([*columns])}
    if "speaker_id" in columns:
        found["speakerid"] = "speaker_id"
    column = next((found[name] for name in _SPEAKER_COLUMNS if name in found), None)
    if column not in (None, "speaker_id"):
        say_once(f"{source}: the speakers are those of the column {printable(column)}")
    return column


def make_dataset(
    columns: Mapping[str, Any],
    *,
    labels: Mapping[str, Sequence[str]],
    sequence_labels: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Dataset:
    """Builds a data set in memory, without decoding or encoding any file.

    Args:
        columns: One sequence per column, all of the same length. `audio` and `image` hold `{"path", "bytes"}` mappings.
            Label columns hold class numbers or class names, `None` for no label.
        labels: Class names of each `ClassLabel` column.
        sequence_labels: Class names of each column that is a sequence of `ClassLabel`; its values are arrays.
    """
    files = {"audio": Audio(decode=False), "image": Image(decode=False)}
    arrays: dict[str, pa.Array] = {}
    features = Features()
    for name, values in columns.items():
        if name in files:
            stored = [{key: file.get(key) for key in AUDIO_STORAGE} for file in values]
            arrays[name] = pa.array(stored, type=files[name].pa_type)
            features[name] = AUDIO_STORAGE
        elif name in labels:
            arrays[name] = pa.array(_numbers(values, labels[name]), type=pa.int64())
            features[name] = ClassLabel(names=list(labels[name]))
        elif name in sequence_labels:
            rows = [None if row is None else _numbers(row, sequence_labels[name]) for row in values]
            arrays[name] = pa.array(rows, type=pa.list_(pa.int64()))
            features[name] = List(ClassLabel(names=list(sequence_labels[name])))
        else:
            arrays[name] = plain_array(name, values)
            features[name] = Features.from_arrow_schema(pa.schema({name: arrays[name].type}))[name]
    dataset = Dataset.from_dict(arrays, features=features)
    # Only changes the type; giving it to `from_dict` would encode the audio, which needs torchcodec.
    for name in files.keys() & columns.keys():
        dataset = dataset.cast_column(name, files[name])
    return dataset


def plain_array(name: str, values: Any) -> pa.Array:
    """Converts a column to Arrow; a column that mixes numbers, bools and texts becomes text.

    Args:
        name: Name of the column in messages.
        values: One value per row.

    Raises:
        ValueError: The column holds lists or mappings of several types.
    """
    if isinstance(values, pa.Array):
        return values
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, TypeError, UnicodeError) as error:
        if any(isinstance(value, (list, tuple, dict, np.ndarray)) for value in values):
            raise ValueError(
                f"column {name!r} holds lists or mappings of several types ({error}); give all rows the same type"
            ) from error
    texts = (None if value is None else str(value).encode("utf-8", "backslashreplace").decode() for value in values)
    return pa.array(list(texts), type=pa.string())


def _numbers(values: Any, names: Sequence[str]) -> Any:
    """Converts class names to numbers; numbers and `None` stay."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu":
        return values
    numbers = {name: number for number, name in enumerate(names)}
    return [numbers[value] if isinstance(value, str) else value for value in values]


def replace_column(dataset: Dataset, name: str, values: Any, feature: Any) -> Dataset:
    """Replaces or adds a column; unlike `map` and `cast`, it copies no audio.

    Args:
        dataset: A data set, with or without this column.
        name: The column.
        values: One value per row, as Arrow stores them: class numbers for a `ClassLabel`.
        feature: Type of the column.
    """
    if name in dataset.column_names:
        dataset = dataset.remove_columns(name)
    return dataset.add_column(name, values, feature=feature)


def as_text(dataset: Dataset, name: str) -> Dataset:
    """Converts a column of numbers to strings; nulls stay."""
    if dataset.features[name] == Value("string"):
        return dataset
    texts = [None if value is None else str(value) for value in dataset[name][:]]
    return replace_column(dataset, name, texts, Value("string"))


def as_class_label(dataset: Dataset, name: str, source: str) -> Dataset:
    """Converts a column of strings or numbers, or of lists of them, to `ClassLabel`.

    The classes are its sorted distinct values, except names of missing values, which become null, or in a list
    `IGNORED`. A column of `ClassLabel`, or of lists of them, is unchanged.

    Args:
        dataset: A data set with this column.
        name: The column.
        source: Name of the data set in the message about missing values.
    """
    if class_label(dataset, name) is not None:
        return dataset
    values = dataset[name][:]
    if isinstance(dataset.features[name], List):
        texts = known_classes((value for row in values if row is not None for value in row), name, source)
        names = class_names(texts)
        numbers = iter(IGNORED if number is None else number for number in _numbers(texts, names))
        rows = [None if row is None else [next(numbers) for _ in row] for row in values]
        return replace_column(dataset, name, rows, List(ClassLabel(names=names)))
    texts = known_classes(values, name, source)
    names = class_names(texts)
    return replace_column(dataset, name, _numbers(texts, names), ClassLabel(names=names))


def class_label(dataset: Dataset, name: str) -> ClassLabel | None:
    """Classes of a column that is a `ClassLabel` or a list of them; `None` for any other."""
    feature = dataset.features[name]
    feature = getattr(feature, "feature", feature)
    return feature if isinstance(feature, ClassLabel) else None


def known_classes(values: Iterable[Any], column: str, source: str) -> list[str | None]:
    """Values as names of classes, `None` for missing ones; prints how many of the missing values are not empty cells.

    Args:
        values: One value per row.
        column: Name of the column in the message.
        source: Name of the data set in the message.
    """
    names = ["" if value is None else str(value) for value in values]
    for name, number in Counter(name for name in names if name and name in MISSING).items():
        say_once(
            f"{source}: {counted(number, 'cell')} of the column {printable(column)} with {name!r} taken as missing"
        )
    return [None if name in MISSING else name for name in names]


def class_names(values: Iterable[str | None]) -> list[str]:
    """Sorted distinct values without nulls; integers come first, in numeric order."""
    distinct = {value for value in values if value is not None}
    return sorted(distinct, key=_class_order)


def _class_order(name: str) -> tuple[bool, int, str, str]:
    # Without leading zeros, the longer integer is larger; `int` rejects some Unicode digits, and very long numbers.
    digits = name.lstrip("0") if name.isascii() and name.isdecimal() else None
    return digits is None, len(digits or ""), digits or "", name
