"""Any data set of audio, images or texts on the Hub, or saved to disk by `datasets`, by id and column names."""

import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import pyarrow.compute
from datasets import (
    Audio,
    ClassLabel,
    Dataset,
    Features,
    GeneratorBasedBuilder,
    Image,
    IterableDataset,
    ReadInstruction,
    Value,
    concatenate_datasets,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)
from datasets.exceptions import DatasetGenerationError
from PIL.Image import Resampling

from modeling_sim.data.corpora.alignments import with_phones
from modeling_sim.data.corpora.audio_file import AudioFile, holds_audio
from modeling_sim.data.corpora.contract import (
    AUDIO_STORAGE,
    MISSING,
    POSITION_RATE,
    UNKNOWN_SPEAKER,
    CorpusInfo,
    as_class_label,
    as_text,
    find_speaker_column,
    png,
    replace_column,
    signal_column,
)
from modeling_sim.data.corpora.splits import SplitRule, split_ids
from modeling_sim.files import nearest
from modeling_sim.text import counted

INFO = CorpusInfo(
    description="A data set of audio, images or texts of the Hub or saved to disk; its own card states the license.",
    license="other",
    path_settings=("lists", "alignments"),
)


_STRINGS = ("string", "large_string", "string_view")


# Modes to which images are converted before they are resized. Pillow does not interpolate palettes and single bits, and
# makes transparent pixels black, which the image processor does not.
_MODES = {"1": "L", "L": "L", "LA": "L", "I;16": "I;16"}


def load(
    *,
    split: str = "train",
    dataset_id: str | Path,
    config: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
    audio_column: str = "audio",
    image_column: str | None = None,
    image_size: int = 32,
    text_column: str | None = None,
    id_column: str | None = None,
    speaker_column: str | None = None,
    label_columns: Mapping[str, str] | Sequence[str] | str = (),
    source_split: str = "train",
    split_by: SplitRule | None = None,
    lists: str | Path | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    alignments: str | Path | None = None,
) -> Dataset | IterableDataset:
    """Loads a split.

    Args:
        split: A split of the data set, a slice of one ("train[:80%]", "train[100:]"), several joined with "+", or
            "all". With `split_by`: "train", "test" or "all" of `source_split`. A single data set written by
            `save_to_disk` has the split that it was loaded as, or "train".
        dataset_id: Hub id, folder of a data set's own files (Parquet, class folders of audio files, tar shards, ...),
            or folder written by `save_to_disk`.
        config: Configuration of the data set, if it has several.
        revision: Commit, branch or tag on the Hub.
        streaming: Return an `IterableDataset`, which is read as it is used.
        audio_column: Column of the audio, in any form that `AudioFile` accepts: files, paths, bytes or samples.
        image_column: Column of images to read instead of audio.
        image_size: Height and width in pixels to which images are resized, once.
        text_column: Column of texts to read instead of audio. Their length is counted in bytes.
        id_column: Column of unique ids; `None` uses the name of the audio file if it has one, else the row number.
            In a stream, files with equal names are numbered, for example "0001 (2)".
        speaker_column: Column of speakers. `None`: `speaker_id`, or the first of the usual names, such as `speaker`,
            `spk` and `client_id`.
        label_columns: Column, or columns, to keep, under their own names or mapped to others. They are converted to
            `ClassLabel`, and cells that are empty, NaN, `nan`, `<NA>` or `None` to null (in lists, to -100), as in the
            corpus `folder`. A stream, whose values are not known in advance, keeps its values.
        source_split: Split, or slice of one, that `split_by` divides.
        split_by: Rule that divides `source_split`, for data sets without a test split (see `data.corpora.splits`). It
            copies the audio once into the cache. A stream can only be divided by "list".
        lists: Folder of `train.txt` and `test.txt`, for "list".
        test_fraction: Fraction of the test set.
        seed: Seed of the division.
        alignments: Phone alignments for the column `phones`: a folder or a file for
            `data.corpora.alignments.read_alignments`.

    Raises:
        ValueError: A column, split or rule does not exist; `audio_column` is not audio; or a row has no image or text,
            or an image that cannot be read.
    """
    source = open_source(
        dataset_id, config, source_split if split_by else split, revision=revision, streaming=streaming
    )
    if isinstance(label_columns, str):
        label_columns = (label_columns,)
    labels = dict(label_columns) if isinstance(label_columns, Mapping) else {name: name for name in label_columns}
    if speaker_column is None and "speaker_id" not in labels.values():
        others = [name for name in source.column_names if name not in (audio_column, id_column, *labels)]
        speaker_column = find_speaker_column(others, str(dataset_id))
    own = {"id": id_column, "speaker_id": speaker_column, "image": image_column, "text": text_column}
    own |= {} if image_column or text_column else {"audio": audio_column}
    wanted = {old: new for new, old in own.items() if old is not None} | labels
    source = choose_columns(source, wanted, str(dataset_id))
    if "audio" not in own:
        source = measured(source, str(image_column or text_column), image_size)
    if isinstance(source, IterableDataset):
        source = complete_stream(source)
        if split_by is not None:
            source = divide_stream(source, split=split, split_by=split_by, lists=lists)
        return with_phones(source, alignments)
    if "id" not in source.column_names:
        source = source.add_column("id", file_or_row_names(source))
    source = as_text(with_classes(source, labels.values(), str(dataset_id)), "id")
    if split_by is not None:
        source = divide(source, split=split, split_by=split_by, lists=lists, test_fraction=test_fraction, seed=seed)
    return with_phones(source, alignments)


def with_classes(source: Dataset, labels: Iterable[str], source_name: str) -> Dataset:
    """Converts labels and speakers to `ClassLabel`; if no row names a speaker, all are of one unknown speaker.

    Args:
        source: Rows with these columns, with `speaker_id` or without.
        labels: Columns of labels.
        source_name: Name of the data set in messages.
    """
    has_speakers = "speaker_id" in source.column_names
    for name in [*labels, *(["speaker_id"] if has_speakers else [])]:
        source = as_class_label(source, name, source_name)
    if not has_speakers or source.features["speaker_id"] == ClassLabel(names=[]):
        unknown = ClassLabel(names=[UNKNOWN_SPEAKER])
        source = replace_column(source, "speaker_id", [0] * len(source), unknown)
    return source


def measured(source: Dataset | IterableDataset, column: str, image_size: int) -> Dataset:
    """Adds the lengths of images, after resizing them, or of texts.

    Args:
        source: Rows with `image` or `text`.
        column: Name of this column in messages.
        image_size: Height and width in pixels.

    Raises:
        ValueError: `image_size` is below 1; the rows are a stream; the column holds neither images nor texts; or a row
            is null or blank, cannot be read, or has an image of 32 bits.
    """
    if image_size < 1:
        raise ValueError(f"`image_size` is {image_size}; give at least 1.")
    kind = signal_column(source)
    feature = source.features[kind]
    if isinstance(source, IterableDataset):
        raise ValueError(f"`{kind}_column` needs the complete data set; remove `streaming`.")
    if not (isinstance(feature, Image) if kind == "image" else getattr(feature, "dtype", None) in _STRINGS):
        raise ValueError(f"`{kind}_column` {column!r} is a column of {feature}; give a column of {kind}s.")
    if kind == "image":
        features = Features({**source.features, "image": Image(decode=False)})
        # Part of the name of the cache, which does not see changes of the function.
        resize = partial(_resized, column=column, size=(image_size, image_size), resampling=Resampling.BICUBIC)
        source = source.cast_column("image", Image(decode=False)).map(resize, with_indices=True, features=features)
        lengths = [image_size] * len(source)
    else:
        texts = source["text"][:]
        empty = next((number for number, text in enumerate(texts) if not (text and text.strip())), None)
        if empty is not None:
            raise ValueError(f"`text_column` {column!r}: row {empty} has no text; remove the row.")
        lengths = [len(text.encode()) for text in texts]
    source = source.add_column("num_samples", lengths)
    return source.add_column("sampling_rate", [POSITION_RATE] * len(source))


def _resized(
    row: dict[str, Any], number: int, *, column: str, size: tuple[int, int], resampling: Resampling
) -> dict[str, Any]:
    where = f"`image_column` {column!r}: row {number}"
    if row["image"] is None:
        raise ValueError(f"{where} has no image; remove the row.")
    try:
        image = Image().decode_example(row["image"])
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{where} has an image that cannot be read ({error}); repair or remove it.") from error
    if image.mode in ("I", "F"):
        raise ValueError(f"{where} has an image of mode {image.mode}, of unknown range; convert it to 8 or 16 bits.")
    if image.mode.startswith("I;16") and image.mode != "I;16":  # another byte order, which Pillow resizes wrongly
        image = image.convert("I").convert("I;16")
    return {"image": png(image.convert(_MODES.get(image.mode, "RGB")).resize(size, resampling))}


def open_source(
    dataset_id: str | Path, config: str | None, split: str, *, revision: str | None = None, streaming: bool = False
) -> Dataset | IterableDataset:
    """Unchanged rows of a data set on the Hub or on disk.

    Args:
        dataset_id: See `load`.
        config: See `load`.
        split: A split, a slice of one, several joined with "+", or "all".
        revision: See `load`.
        streaming: See `load`.

    Raises:
        ValueError: The split does not exist, or is a slice of a stream that needs the stream's length.
    """
    splits: Mapping[str, Any]
    folder = Path(dataset_id)
    if (folder / "dataset_info.json").is_file() or (folder / "dataset_dict.json").is_file():
        saved = load_from_disk(str(folder))
        # A data set that was loaded as "test[:10]" and saved becomes the split "test".
        splits = {str(saved.split or "train").partition("[")[0]: saved} if isinstance(saved, Dataset) else saved
    else:
        try:
            splits = _load_splits(str(dataset_id), config, revision=revision, streaming=streaming)
        except DatasetGenerationError as error:
            raise ValueError(f"cannot read `dataset_id` {dataset_id}: {error.__cause__ or error}") from error
    names = list(splits) if split == "all" and "all" not in splits else split.split("+")
    rows = concatenate_datasets([_rows(splits, name.strip(), str(dataset_id)) for name in names])
    if isinstance(rows, IterableDataset):
        return rows if rows.column_names is not None else rows._resolve_features()  # noqa: SLF001
    return rows.to_iterable_dataset() if streaming else rows


def _load_splits(dataset_id: str, config: str | None, *, revision: str | None, streaming: bool) -> Mapping[str, Any]:
    """Every split by name."""
    if streaming:
        streams = load_dataset(dataset_id, config, revision=revision, streaming=True)
        return {name: stream.decode(enable=False) if stream.features else stream for name, stream in streams.items()}
    builder = load_dataset_builder(dataset_id, config, revision=revision)
    if isinstance(builder, GeneratorBasedBuilder):  # audio files or tar shards; the builder encodes every value
        _encode_without_torchcodec(builder)
    builder.download_and_prepare()
    return builder.as_dataset()


def _encode_without_torchcodec(builder: GeneratorBasedBuilder) -> None:
    """Makes a builder use `AudioFile` for audio; passing it `features` instead would change the name of its cache."""
    find_splits = builder._split_generators  # noqa: SLF001 - also finds the features

    def find_splits_of_files(*arguments: Any) -> Any:
        splits = find_splits(*arguments)
        found = builder.info.features
        builder.info.features = Features({name: _file_feature(feature) for name, feature in found.items()})
        return splits

    builder._split_generators = find_splits_of_files  # noqa: SLF001


def _file_feature(feature: Any) -> Any:
    return AudioFile() if isinstance(feature, Audio) else feature


def _rows(splits: Mapping[str, Any], split: str, source_name: str) -> Dataset | IterableDataset:
    """A split or a slice of one, in the spelling of `datasets`: "train", "train[:100]", "train[-20%:]"."""
    if split in splits:
        return splits[split]
    name, bracket, bounds = split.partition("[")
    if name not in splits:
        is_stream = any(isinstance(rows, IterableDataset) for rows in splits.values())
        instead = "`train[1000:]`), or set `split_by` to 'list'" if is_stream else "`train[:80%]`), or set `split_by`"
        raise ValueError(
            f"{source_name} has no split {name!r}{nearest(name, list(splits))} Available: {', '.join(splits)}. Give "
            f"one of them or a slice ({instead} to divide one."
        )
    rows = splits[name]
    if isinstance(rows, IterableDataset) and ("%" in bounds or "-" in bounds):
        raise ValueError(f"`split` is {split!r}, but the length of a stream is unknown; count rows from its start.")
    length = sys.maxsize if isinstance(rows, IterableDataset) else len(rows)
    try:
        (part,) = ReadInstruction.from_spec(f"rows{bracket}{bounds}").to_absolute({"rows": length})
    except ValueError as error:
        raise ValueError(f"`split` is {split!r}; give a slice like `train[:80%]` or `train[100:200]`.") from error
    if part.from_ >= part.to and isinstance(rows, Dataset):
        raise ValueError(f"`split` is {split!r}, which has no rows; {name} has {len(rows)}.")
    if isinstance(rows, IterableDataset):
        rows = rows.skip(part.from_)
        return rows if part.to == length else rows.take(max(0, part.to - part.from_))
    return rows.select(range(part.from_, part.to))


def choose_columns(
    source: Dataset | IterableDataset, names: Mapping[str, str], source_name: str
) -> Dataset | IterableDataset:
    """Selects and renames columns, and keeps `audio` encoded.

    Args:
        source: The data set.
        names: New name by old name; one of the new names is `audio`, `image` or `text`.
        source_name: Name of the data set in messages.

    Raises:
        ValueError: A column does not exist.
    """
    missing = sorted(set(names) - set(source.column_names))
    if missing:
        raise ValueError(
            f"{source_name} has no column {' and no '.join(missing)}; available: {', '.join(source.column_names)}"
        )
    source = source.select_columns(list(names))
    audio_column = next((old for old, new in names.items() if new == "audio"), None)
    if audio_column is None:
        return source.rename_columns({old: new for old, new in names.items() if old != new})
    feature = source.features[audio_column]
    if not holds_audio(feature):
        raise ValueError(f"`audio_column` {audio_column} of {source_name} is {feature}; give a column of audio")
    as_file = AudioFile(root=source_name if Path(source_name).is_dir() else None)
    if isinstance(source, IterableDataset):
        source = source.cast_column(audio_column, as_file)
    else:
        if not isinstance(feature, Audio):
            features = Features({**source.features, audio_column: AUDIO_STORAGE})
            convert = partial(_convert_audio, column=audio_column, as_file=as_file)
            source = source.with_format("arrow").map(convert, batched=True, batch_size=100, features=features)
        source = source.with_format(None).cast_column(audio_column, Audio(decode=False))
    return source.rename_columns({old: new for old, new in names.items() if old != new})


def _convert_audio(table: pa.Table, *, column: str, as_file: AudioFile) -> pa.Table:
    """Converts a column of paths, bytes or samples to files."""
    chunks = [as_file.cast_storage(chunk) for chunk in table[column].chunks]
    return table.set_column(table.column_names.index(column), column, pa.chunked_array(chunks, type=as_file.pa_type))


def complete_stream(source: IterableDataset, text_columns: Sequence[str] = ()) -> IterableDataset:
    """Adds the columns `id` and `speaker_id` to a stream, as text, since its classes are not known in advance.

    Args:
        source: A stream with encoded `audio`.
        text_columns: Further columns of numbers to convert to text.
    """
    texts = ["id", *text_columns]
    if not isinstance(source.features.get("speaker_id"), ClassLabel):
        texts.append("speaker_id")
    features = Features({**source.features, "audio": AUDIO_STORAGE, **dict.fromkeys(texts, Value("string"))})
    return source.map(_Complete(texts), with_indices=True, features=features)


class _Complete:
    """Fills in ids and speakers, row by row; a class, so that spawned readers can unpickle it."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self.seen: Counter[str] = Counter()

    def __call__(self, row: dict[str, Any], number: int) -> dict[str, str | None]:
        if number == 0:  # a new epoch
            self.seen.clear()
        values = {name: None if row.get(name) in (None, "") else str(row[name]) for name in self.texts}
        if values["id"] is None:
            path = (row["audio"] or {}).get("path")
            name = PurePath(path).stem if path else f"{number:08d}"
            self.seen[name] += 1
            values["id"] = name if self.seen[name] == 1 else f"{name} ({self.seen[name]})"
        if "speaker_id" in values and (values["speaker_id"] or "") in MISSING:
            values["speaker_id"] = UNKNOWN_SPEAKER
        return values


def divide(
    source: Dataset, *, split: str, split_by: SplitRule, lists: str | Path | None, test_fraction: float, seed: int
) -> Dataset:
    """The rows of a split, by the rules of `modeling_sim.data.corpora.splits`.

    Raises:
        ValueError: A list names utterances that do not exist.
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
            f"{lists}/{split}.txt names {counted(len(absent), 'utterance')} that the data set does not have, for "
            f"example {absent[0]!r}; remove them from the list, or load their split"
        )
    wanted = set(ids)
    return source.select([row for row, utterance in enumerate(source["id"][:]) if utterance in wanted])


def divide_stream(
    source: IterableDataset, *, split: str, split_by: SplitRule, lists: str | Path | None
) -> IterableDataset:
    """The rows of a split, by its list; the other rules need the complete data set."""
    if split == "all":
        return source
    if split_by != "list":
        raise ValueError(f"`split_by` {split_by!r} needs the complete data set; set it to 'list', or do not stream.")
    wanted = set(split_ids({}, split=split, rule="list", lists=None if lists is None else Path(lists)))
    return source.filter(partial(_is_listed, wanted=wanted))


def _is_listed(row: Mapping[str, Any], *, wanted: Collection[str]) -> bool:
    return row["id"] in wanted


def file_or_row_names(source: Dataset) -> list[str]:
    """File names without suffix if they are unique, else row numbers."""
    if "audio" not in source.column_names:
        return [f"{row:08d}" for row in range(len(source))]
    paths = [
        path
        for batch in source.with_format("arrow").select_columns("audio").iter(1000)
        for path in pyarrow.compute.struct_field(batch["audio"], "path").to_pylist()
    ]
    stems = [PurePath(path).stem for path in paths if path]
    return stems if len(set(stems)) == len(source) else [f"{row:08d}" for row in range(len(source))]
