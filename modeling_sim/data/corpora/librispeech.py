"""LibriSpeech (Panayotov et al. 2015): from the Hub, or from a local tree in the corpus' own layout."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, IterableDataset

from modeling_sim.data.corpora.alignments import find_alignments, with_phones
from modeling_sim.data.corpora.contract import CorpusInfo, as_class_label, as_text, class_names, make_dataset
from modeling_sim.data.corpora.hub import choose_columns, complete_stream, divide, divide_stream, open_source
from modeling_sim.data.corpora.splits import SplitRule, find_list, split_ids
from modeling_sim.data.corpora.tree import read_text, visible_files
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


# The corpus comes as FLAC; the others are what copies of it are encoded in.
_SUFFIXES = (".flac", ".ogg", ".opus", ".wav")


# Splits of the Hub's configurations "clean" and "other", and of "all", by the names of the published archives.
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
    """Load a split.

    The split is "train" or "test" of the chosen parts by one of three rules, the same for the Hub and a local tree:

    - "list": the utterance ids in `train.txt` and `test.txt`, or `train_split.txt` and `test_split.txt` as the CPC
      authors publish them, one per line;
    - "utterance": a seeded share of every speaker's utterances is the test set;
    - "speaker": a seeded share of the speakers of either sex is the test set, so that no speaker is in both.

    It may also be "all" of the parts, or parts by their own names ("train-clean-100+train-clean-360", "test-clean").
    One line is printed that says what is taken.

    Columns beside the contract's: `text`, `chapter_id` (string), `sex` (null on the Hub, which does not have it), and
    `phones` where there are alignments.

    Args:
        split: As above.
        data_dir: Folder with the tree `PART/SPEAKER/CHAPTER/*.flac`, or with the `LibriSpeech` folder of an unpacked
            archive in it; a copy may have `.ogg`, `.opus` or `.wav` instead. Hidden files are skipped. `None` reads
            the Hub.
        dataset_id: Id on the Hub, or a folder with a copy of it.
        config: On the Hub: "clean", "other" or "all".
        revision: On the Hub: commit, branch or tag.
        streaming: From the Hub: an `IterableDataset`. Its `speaker_id` is text, and of the rules it knows "list".
        parts: What is divided, several joined with "+", by the archives' names or the Hub's ("train.100"). `None`:
            train-clean-100, or a local tree's only part; never all parts, since the corpus' own test set is one.
        split_by: The rule; `None` takes "list" where the lists are, else "utterance".
        lists: Folder of the two lists; `None` looks in `data_dir`.
        test_fraction: Share of the test set under "utterance" and "speaker".
        seed: Seed of the split under "utterance" and "speaker".
        alignments: Phone alignments, a folder or a file that `data.corpora.alignments.read_alignments` reads;
            `None` looks in `data_dir` for a folder `alignments`, or for `converted_aligned_phones.txt` and its like.

    Raises:
        FileNotFoundError: `data_dir`, a list, or alignments that are not there.
        ValueError: An unknown split, part or rule; a tree of several parts without train-clean-100 and `parts`.
    """
    if split not in ("train", "test", "all"):
        parts, split = split, "all"
    if split_by is None:
        folder = lists if lists is not None else data_dir
        listed = folder is not None and any(find_list(Path(folder), name) for name in ("train", "test"))
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
        raise ValueError("`streaming` is for the Hub; a local tree is read as it is used already.")
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
    say_once(f"librispeech: {split} of {parts}" + (f"; not taken: {', '.join(others)}" if others else ""))


def _hub_split(part: str, config: str) -> str:
    """A part's name on the Hub; a name of the Hub's own is left as it is."""
    if part not in _HUB_SPLITS:
        return part
    if config != "all" and config not in part.split("-"):
        raise ValueError(f"the part {part!r} is not in `config` {config!r}; set it to {part.split('-')[1]!r} or 'all'.")
    return _HUB_SPLITS[part][config == "all"]


def _choose_parts(tree: Path, parts: str | None) -> tuple[list[str], list[str]]:
    """The parts of a tree to take, and those that are there too."""
    folders = sorted(folder for folder in tree.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    found = [folder.name for folder in folders if any(map(_is_utterance, folder.glob("*/*/*")))]
    if parts is not None:
        archives = {name: archive for archive, names in _HUB_SPLITS.items() for name in names if name != "validation"}
        chosen = [part if part in found else archives.get(part, part) for part in parts.split("+")]
    elif len(found) > 1 and _DEFAULT_PART not in found:
        raise ValueError(f"{tree} has several parts; set `parts` to those to take, of {', '.join(found)}")
    else:
        chosen = found if len(found) == 1 else [_DEFAULT_PART] if found else ["PART/SPEAKER/CHAPTER/*.flac"]
    missing = sorted(set(chosen) - set(found))
    if missing:
        raise ValueError(f"{tree} has no {' and no '.join(missing)}; parts there: {', '.join(found) or 'none'}")
    return chosen, sorted(set(found) - set(chosen))


def _find_files(tree: Path, parts: Iterable[str]) -> dict[str, list[Path]]:
    """Files of every utterance, one unless something is wrong, by its id, in the order of the ids."""
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
    # An id that only a list has gets a file that is not there, and one with two files has two rows: the scan says so.
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
    """The columns of a local tree, from those on the Hub."""
    same = {column: column for column in ("audio", "id", "speaker_id", "chapter_id", "text")}
    source = choose_columns(source, same, str(name))
    if isinstance(source, IterableDataset):
        source = complete_stream(source, text_columns=["chapter_id"])
        return divide_stream(source, split=split, split_by=split_by, lists=lists)
    source = as_class_label(as_text(as_text(source, "id"), "chapter_id"), "speaker_id")
    source = source.add_column("sex", [None] * len(source), feature=ClassLabel(names=_SEXES))
    return source if split == "all" else divide(source, split=split, split_by=split_by, lists=lists, **draw)


def _read_sexes(root: Path) -> dict[str, str]:
    """Sex, "F" or "M", by speaker, from SPEAKERS.TXT where it is there."""
    for path in (root / "SPEAKERS.TXT", root / "LibriSpeech" / "SPEAKERS.TXT"):
        if path.is_file():
            lines = read_text(path).split("\n")
            fields = [line.split("|") for line in lines if line.strip() and not line.startswith(";")]
            if any(len(row) < 2 or row[1].strip() not in _SEXES for row in fields):
                wrong = next(row for row in fields if len(row) < 2 or row[1].strip() not in _SEXES)
                raise ValueError(f"{path}: {'|'.join(wrong)!r} does not begin with a speaker and a sex, F or M")
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
