"""Any audio data set on the Hub, or saved on disk by `datasets`, by id and column names."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import pyarrow.compute
from datasets import (
    Audio,
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    IterableDataset,
    Value,
    concatenate_datasets,
    load_dataset,
    load_from_disk,
)

from training.corpora.contract import AUDIO_STORAGE, UNKNOWN_SPEAKER, CorpusInfo, as_class_label, as_text
from training.corpora.splits import SplitRule, split_ids

INFO = CorpusInfo(
    description="An audio data set of the Hub or saved on disk, whose own card has its licence.",
    license="other",
)


def load(
    *,
    split: str = "train",
    dataset_id: str | Path,
    config: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
    audio_column: str = "audio",
    id_column: str | None = None,
    speaker_column: str | None = None,
    label_columns: Mapping[str, str] | Sequence[str] | str = (),
    source_split: str = "train",
    split_by: SplitRule | None = None,
    lists: str | Path | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Dataset | IterableDataset:
    """Load a split.

    Args:
        split: A split of the data set, or several joined with "+". With `split_by`: "train", "test" or "all" of
            `source_split`.
        dataset_id: Id on the Hub, folder of a data set's own files (Parquet), or folder that `save_to_disk` wrote.
        config: Configuration of the data set, if it has several.
        revision: Commit, branch or tag on the Hub.
        streaming: Give an `IterableDataset`, which is read as it is used.
        audio_column: Column of the audio.
        id_column: Column of unique ids; `None` takes the audio's file name where it has one, else the row number.
        speaker_column: Column of speakers; `None` for none.
        label_columns: Column, or columns, to pass on, under their own names or mapped to others. What is not a
            `ClassLabel` yet becomes one, except in a stream, whose values are not known before its end.
        source_split: What `split_by` divides.
        split_by: Rule to divide `source_split` by, for data sets without a test split (`training.corpora.splits`). A
            division copies the audio once into the cache. A stream can be divided by "list" alone.
        lists: Folder of `train.txt` and `test.txt`, for "list".
        test_fraction: Share of the test set.
        seed: Seed of the division.

    Raises:
        ValueError: A column, split or rule that is not there, or `audio_column` is not audio.
    """
    source = open_source(
        dataset_id, config, source_split if split_by else split, revision=revision, streaming=streaming
    )
    if isinstance(label_columns, str):
        label_columns = (label_columns,)
    labels = dict(label_columns) if isinstance(label_columns, Mapping) else {name: name for name in label_columns}
    wanted = {audio_column: "audio", id_column: "id", speaker_column: "speaker_id", **labels}
    source = choose_columns(source, {old: new for old, new in wanted.items() if old is not None}, str(dataset_id))
    if isinstance(source, IterableDataset):
        source = complete_stream(source)
        return divide_stream(source, split=split, split_by=split_by, lists=lists) if split_by else source
    if "id" not in source.column_names:
        source = source.add_column("id", _file_or_row_names(source))
    if "speaker_id" not in source.column_names:
        source = source.add_column("speaker_id", [UNKNOWN_SPEAKER] * len(source))
    for name in ("speaker_id", *labels.values()):
        source = as_class_label(source, name)
    source = as_text(source, "id")
    if split_by is None:
        return source
    return divide(source, split=split, split_by=split_by, lists=lists, test_fraction=test_fraction, seed=seed)


def open_source(
    dataset_id: str | Path, config: str | None, split: str, *, revision: str | None = None, streaming: bool = False
) -> Dataset | IterableDataset:
    """A split, or several joined with "+", of a data set on the Hub or on disk, as it is stored there."""
    folder = Path(dataset_id)
    if not ((folder / "dataset_info.json").is_file() or (folder / "dataset_dict.json").is_file()):
        return load_dataset(str(dataset_id), config, split=split, revision=revision, streaming=streaming)
    saved = load_from_disk(str(folder))
    if isinstance(saved, Dataset) and split == "test" and saved.split != "test":
        raise ValueError(f"{folder} holds a single data set and no split 'test'; set `split_by` to divide it.")
    if isinstance(saved, DatasetDict):
        parts = split.split("+")
        missing = sorted(set(parts) - set(saved))
        if missing:
            raise ValueError(f"{folder} has no split {' and no '.join(missing)}; splits there: {', '.join(saved)}")
        saved = concatenate_datasets([saved[part] for part in parts])
    return saved.to_iterable_dataset() if streaming else saved


def choose_columns(
    source: Dataset | IterableDataset, names: Mapping[str, str], source_name: str
) -> Dataset | IterableDataset:
    """Keep columns under new names, and take `audio` undecoded.

    Args:
        source: The data set.
        names: New name by old name; one of the new names is `audio`.
        source_name: Name of the data set for messages.

    Raises:
        ValueError: A column is not there.
    """
    if source.column_names is None:
        source = source._resolve_features()  # noqa: SLF001
    missing = sorted(set(names) - set(source.column_names))
    if missing:
        raise ValueError(
            f"{source_name} has no column {' and no '.join(missing)}; columns there: {', '.join(source.column_names)}"
        )
    source = source.select_columns(list(names))
    audio_column = next(old for old, new in names.items() if new == "audio")
    feature = source.features[audio_column]
    encoded = isinstance(feature, Audio) or feature in (Value("string"), Value("binary"), Value("large_binary"))
    if not encoded and not (isinstance(feature, Mapping) and set(feature) & set(AUDIO_STORAGE)):
        raise ValueError(f"column {audio_column} of {source_name} is {feature}, not audio; give another `audio_column`")
    undecoded = AUDIO_STORAGE if isinstance(source, IterableDataset) else Audio(decode=False)
    source = source.cast_column(audio_column, undecoded)
    return source.rename_columns({old: new for old, new in names.items() if old != new})


def complete_stream(source: IterableDataset, text_columns: Sequence[str] = ()) -> IterableDataset:
    """Give a stream the columns `id` and `speaker_id`, as text: a stream's classes are not known before its end.

    Args:
        source: A stream with undecoded `audio`.
        text_columns: Further columns of numbers to turn into text.
    """
    given = source.features
    texts = ["id", *text_columns]
    if not isinstance(given.get("speaker_id"), ClassLabel):
        texts.append("speaker_id")

    def complete(row: dict[str, Any], number: int) -> dict[str, str]:
        path = (row["audio"] or {}).get("path")
        defaults = {"id": PurePath(path).stem if path else f"{number:08d}", "speaker_id": UNKNOWN_SPEAKER}
        return {name: str({**defaults, **row}[name]) for name in texts}

    features = Features({**given, **dict.fromkeys(texts, Value("string"))})
    return source.map(complete, with_indices=True, features=features)


def divide(
    source: Dataset, *, split: str, split_by: SplitRule, lists: str | Path | None, test_fraction: float, seed: int
) -> Dataset:
    """The rows of a split, by the rules of `training.corpora.splits`.

    Raises:
        ValueError: A list names utterances that are not there.
    """
    names = source.features["speaker_id"].names
    speakers = {
        utterance: UNKNOWN_SPEAKER if speaker is None else names[speaker]
        for utterance, speaker in zip(source["id"][:], source["speaker_id"][:], strict=True)
    }
    lists = None if lists is None else Path(lists)
    ids = split_ids(speakers, split=split, rule=split_by, lists=lists, test_fraction=test_fraction, seed=seed)
    absent = [utterance for utterance in ids if utterance not in speakers]
    if absent:
        raise ValueError(
            f"{lists}/{split}.txt names {len(absent)} utterances that are not in the data set, such as {absent[0]!r}; "
            "take them out of the list, or load the split they are in"
        )
    wanted = set(ids)
    return source.select([row for row, utterance in enumerate(source["id"][:]) if utterance in wanted])


def divide_stream(
    source: IterableDataset, *, split: str, split_by: SplitRule, lists: str | Path | None
) -> IterableDataset:
    """The rows of a split, by its list: the other rules need to see the whole data set first."""
    if split == "all":
        return source
    if split_by != "list":
        raise ValueError(f"`split_by` {split_by!r} needs the whole data set; set it to 'list', or do not stream.")
    wanted = set(split_ids({}, split=split, rule="list", lists=None if lists is None else Path(lists)))
    return source.filter(lambda row: row["id"] in wanted)


def _file_or_row_names(source: Dataset) -> list[str]:
    """File names without suffix where every row has one of its own, else row numbers."""
    paths = [
        path
        for batch in source.with_format("arrow").select_columns("audio").iter(1000)
        for path in pyarrow.compute.struct_field(batch["audio"], "path").to_pylist()
    ]
    stems = [PurePath(path).stem for path in paths if path]
    return stems if len(set(stems)) == len(source) else [f"{row:08d}" for row in range(len(source))]
