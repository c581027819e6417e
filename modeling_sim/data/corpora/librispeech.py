"""LibriSpeech (Panayotov et al. 2015), from the Hub or from a local folder in the layout of the corpus."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, IterableDataset

from modeling_sim.data.corpora.alignments import find_alignments, with_phones
from modeling_sim.data.corpora.contract import CorpusInfo, as_class_label, as_text, class_names, make_dataset
from modeling_sim.data.corpora.hub import choose_columns, complete_stream, divide, divide_stream, open_source
from modeling_sim.data.corpora.splits import SplitRule, find_list, split_ids
from modeling_sim.data.corpora.tree import visible_files
from modeling_sim.files import read_text
from modeling_sim.text import say_once, utf8_name

INFO = CorpusInfo(
    description="Read English speech from LibriVox audiobooks.",
    license="cc-by-4.0",
    hub_id="openslr/librispeech_asr",
    num_utterances=292_367,
    language="en",
    path_settings=("data_dir", "lists", "alignments"),
)


_SEXES = ["F", "M"]


_DEFAULT_PART = "train-clean-100"


# The corpus is published as FLAC; copies may be in the other formats.
_SUFFIXES = (".flac", ".ogg", ".opus", ".wav")


# Splits of the Hub's configurations "clean" and "other", and of "all", by name of the published archive.
_HUB_SPLITS = {
    "train-clean-100": ("train.100", "train.clean.100"),
    "train-clean-360": ("train.360", "train.clean.360"),
    "train-other-500": ("train.500", "train.other.500"),
    "dev-clean": ("validation", "validation.clean"),
    "dev-other": ("validation", "validation.other"),
    "test-clean": ("test", "test.clean"),
    "test-other": ("test", "test.other"),
}


def load(
    *,
    split: str = "train",
    data_dir: str | Path | None = None,
    dataset_id: str | Path = "openslr/librispeech_asr",
    config: str = "clean",
    revision: str | None = None,
    streaming: bool = False,
    parts: str | None = None,
    split_by: SplitRule | None = None,
    lists: str | Path | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    alignments: str | Path | None = None,
) -> Dataset | IterableDataset:
    """Loads a split.

    A rule divides the chosen parts into "train" and "test", in the same way for the Hub and a local folder:

    - "list": the utterance ids in `train.txt` and `test.txt`, or in the CPC authors' `train_split.txt` and
      `test_split.txt`, one per line; any other list, such as `development.txt`, is a split by its name;
    - "utterance": the test set is a random fraction of every speaker's utterances;
    - "speaker": the test set is a random fraction of the speakers of either sex, so that no speaker is in both.

    The split may also be "all" of the parts, or names of parts ("train-clean-100+train-clean-360", "test-clean").
    The chosen parts are printed.

    Columns in addition to those of every corpus: `text`, `chapter_id` (string), `sex` (null for the Hub's data set,
    which does not have it), and `phones` if there are alignments.

    Args:
        split: "train", "test", the name of another list, "all", or names of parts.
        data_dir: Folder with files `PART/SPEAKER/CHAPTER/*.flac`, or with the `LibriSpeech` folder of an unpacked
            archive; a copy may have `.ogg`, `.opus` or `.wav` instead. Hidden files are skipped. `None` reads from the
            Hub.
        dataset_id: Hub id, or a folder with a copy of the Hub's data set.
        config: Configuration on the Hub: "clean", "other" or "all".
        revision: Commit, branch or tag on the Hub.
        streaming: Return an `IterableDataset` from the Hub. Its `speaker_id` is text, and it only supports the rule
            "list".
        parts: Parts to divide, several joined with "+", by the names of the archives or of the Hub ("train.100").
            `None`: train-clean-100, or the only part of a local folder; never all parts, which include the test sets.
        split_by: The rule; `None`: "list" if there are lists, else "utterance".
        lists: Folder of the two lists; `None` looks in `data_dir`.
        test_fraction: Fraction of the test set for "utterance" and "speaker".
        seed: Seed of the split for "utterance" and "speaker".
        alignments: Phone alignments: a folder or a file for `data.corpora.alignments.read_alignments`. `None` looks in
            `data_dir` for a folder `alignments`, or for a file such as `converted_aligned_phones.txt`.

    Raises:
        FileNotFoundError: `data_dir`, a list, or alignments do not exist.
        ValueError: The split, a part or the rule is unknown; or the folder has several parts without train-clean-100,
            and `parts` is not given.
    """
    folder = Path(lists or data_dir or "")
    if split not in ("train", "test", "all") and not (split_by == "list" and find_list(folder, split)):
        parts, split = split, "all"
    if split_by is None:
        listed = (lists or data_dir) is not None and any(find_list(folder, name) for name in ("train", "test"))
        split_by = "list" if listed or lists is not None else "utterance"
    if data_dir is None:
        parts = "+".join(_hub_split(part, config) for part in (parts or _DEFAULT_PART).split("+"))
        _say_what_is_taken(split, parts)
        source = open_source(dataset_id, config, parts, revision=revision, streaming=streaming)
        dataset = _from_hub(
            source, split=split, split_by=split_by, lists=lists, test_fraction=test_fraction, seed=seed, name=dataset_id
        )
        return with_phones(dataset, alignments)
    root = Path(data_dir)
    if not root.is_dir():
        raise FileNotFoundError(f"`data_dir` is {root}, which is not a folder")
    if streaming:
        raise ValueError("`streaming` only applies to the Hub; files in `data_dir` are read on demand anyway.")
    if alignments is None:
        alignments = root / "alignments" if (root / "alignments").is_dir() else find_alignments(root)
    tree = root / "LibriSpeech" if (root / "LibriSpeech").is_dir() else root
    chosen, others = _choose_parts(tree, parts)
    _say_what_is_taken(split, "+".join(chosen), others=others)
    files = _find_files(tree, chosen)
    speakers = {utterance: utterance.split("-")[0] for utterance in files}
    sexes = _read_sexes(root)
    lists = Path(lists) if lists else root
    ids = split_ids(
        speakers, split=split, rule=split_by, lists=lists, test_fraction=test_fraction, seed=seed, strata=sexes
    )
    return with_phones(_from_files(root, files, sorted(ids), speakers, sexes), alignments)


def _say_what_is_taken(split: str, parts: str, *, others: Iterable[str] = ()) -> None:
    say_once(f"librispeech: {split} of {parts}" + (f"; not used: {', '.join(others)}" if others else ""))


def _hub_split(part: str, config: str) -> str:
    """Name of a part on the Hub; names of the Hub stay unchanged."""
    if part not in _HUB_SPLITS:
        return part
    if config != "all" and config not in part.split("-"):
        raise ValueError(f"the part {part!r} is not in `config` {config!r}; set it to {part.split('-')[1]!r} or 'all'.")
    return _HUB_SPLITS[part][config == "all"]


def _choose_parts(tree: Path, parts: str | None) -> tuple[list[str], list[str]]:
    """The chosen parts of a folder, and its other parts."""
    folders = sorted(folder for folder in tree.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    found = [folder.name for folder in folders if any(map(_is_utterance, folder.glob("*/*/*")))]
    if parts is not None:
        archives = {name: archive for archive, names in _HUB_SPLITS.items() for name in names if name != "validation"}
        chosen = [part if part in found else archives.get(part, part) for part in parts.split("+")]
    elif len(found) > 1 and _DEFAULT_PART not in found:
        raise ValueError(f"{tree} has several parts; set `parts` to some of {', '.join(found)}")
    else:
        chosen = found if len(found) == 1 else [_DEFAULT_PART] if found else ["PART/SPEAKER/CHAPTER/*.flac"]
    missing = sorted(set(chosen) - set(found))
    if missing:
        raise ValueError(f"{tree} has no {' and no '.join(missing)}; available: {', '.join(found) or 'no parts'}")
    return chosen, sorted(set(found) - set(chosen))


def _find_files(tree: Path, parts: Iterable[str]) -> dict[str, list[Path]]:
    """Files of every utterance by id, in the order of the ids; several files of an id are an error."""
    files = defaultdict(list)
    paths = [path for part in parts for path in visible_files(tree / part) if _is_utterance(path)]
    for path in sorted(paths, key=lambda path: path.stem):
        files[path.stem].append(path)
    return files


def _is_utterance(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES


def _from_files(
    root: Path, files: dict[str, list[Path]], ids: list[str], speakers: dict[str, str], sexes: dict[str, str]
) -> Dataset:
    # A listed id without a file gets a file that does not exist, and one with two files gets two rows: the scan reports
    # both.
    rows = [
        (utterance, path) for utterance in ids for path in files.get(utterance, [root / f"{utterance} (listed).flac"])
    ]
    transcripts = _read_transcripts({path.parent for _, path in rows})
    columns: dict[str, Any] = {
        "id": [utterance for utterance, _ in rows],
        "audio": [{"path": utf8_name(path)} for _, path in rows],
        "speaker_id": [speakers.get(utterance) for utterance, _ in rows],
        "chapter_id": [path.parent.name for _, path in rows],
        "sex": [sexes.get(speakers.get(utterance, "")) for utterance, _ in rows],
        "text": [transcripts.get(utterance) for utterance, _ in rows],
    }
    return make_dataset(columns, labels={"speaker_id": class_names(speakers.values()), "sex": _SEXES})


def _from_hub(
    source: Dataset | IterableDataset, *, split: str, split_by: SplitRule, lists: Any, name: Any, **draw: Any
) -> Dataset | IterableDataset:
    """Converts the columns of the Hub to those of a local folder."""
    same = {column: column for column in ("audio", "id", "speaker_id", "chapter_id", "text")}
    source = choose_columns(source, same, str(name))
    if isinstance(source, IterableDataset):
        source = complete_stream(source, text_columns=["chapter_id"])
        return divide_stream(source, split=split, split_by=split_by, lists=lists)
    source = as_class_label(as_text(as_text(source, "id"), "chapter_id"), "speaker_id", str(name))
    source = source.add_column("sex", [None] * len(source), feature=ClassLabel(names=_SEXES))
    return source if split == "all" else divide(source, split=split, split_by=split_by, lists=lists, **draw)


def _read_sexes(root: Path) -> dict[str, str]:
    """Sex, "F" or "M", by speaker, from SPEAKERS.TXT if it exists."""
    for path in (root / "SPEAKERS.TXT", root / "LibriSpeech" / "SPEAKERS.TXT"):
        if path.is_file():
            lines = read_text(path).split("\n")
            fields = [line.split("|") for line in lines if line.strip() and not line.startswith(";")]
            if any(len(row) < 2 or row[1].strip() not in _SEXES for row in fields):
                wrong = next(row for row in fields if len(row) < 2 or row[1].strip() not in _SEXES)
                raise ValueError(f"{path}: {'|'.join(wrong)!r} does not start with a speaker and a sex, F or M")
            return {speaker.strip(): sex.strip() for speaker, sex, *_ in fields}
    return {}


def _read_transcripts(chapters: Iterable[Path]) -> dict[str, str]:
    """Transcript by utterance id."""
    transcripts = {}
    for chapter in chapters:
        for path in chapter.glob("[!.]*.trans.txt"):
            for line in read_text(path).split("\n"):
                utterance, _, text = line.partition(" ")
                transcripts[utterance] = text
    return transcripts
