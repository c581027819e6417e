"""LibriSpeech (Panayotov et al. 2015): from the Hub, or from a local tree in the corpus' own layout."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Features, IterableDataset, List

from training.corpora.alignments import read_alignments
from training.corpora.contract import (
    CorpusInfo,
    as_class_label,
    as_text,
    class_names,
    make_dataset,
    replace_column,
)
from training.corpora.hub import choose_columns, complete_stream, divide, divide_stream, open_source
from training.corpora.splits import SplitRule, split_ids

INFO = CorpusInfo(
    description="Read English speech from LibriVox audiobooks.",
    license="cc-by-4.0",
    hub_id="openslr/librispeech_asr",
    num_utterances=292_367,
)

_SEXES = ["F", "M"]


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

    - "list": the utterance ids in `train.txt` and `test.txt`, one a line, as in the CPC paper;
    - "utterance": a seeded share of every speaker's utterances is the test set;
    - "speaker": a seeded share of the speakers of either sex is the test set, so that no speaker is in both.

    It may also be "all" of the parts, or parts by their own names ("train.100+train.360", "dev-clean"). The corpus' own
    test part is `split="all", parts="test"` on the Hub.

    Columns beside the contract's: `text`, `chapter_id` (string), `sex` (null on the Hub, which does not have it), and
    `phones` where there are alignments.

    Args:
        split: As above.
        data_dir: Folder with the tree `PART/SPEAKER/CHAPTER/*.flac`, or with the `LibriSpeech` folder of an unpacked
            archive in it. `None` reads the Hub.
        dataset_id: Id on the Hub, or a folder with a copy of it.
        config: On the Hub: "clean", "other" or "all".
        revision: On the Hub: commit, branch or tag.
        streaming: From the Hub: an `IterableDataset`. Its `speaker_id` is text, and of the rules it knows "list".
        parts: What is divided, several joined with "+". `None`: all folders of a local tree; "train.100" on the Hub.
        split_by: The rule; `None` takes "list" where the lists are, else "utterance".
        lists: Folder of `train.txt` and `test.txt`; `None` looks in `data_dir`.
        test_fraction: Share of the test set under "utterance" and "speaker".
        seed: Seed of the split under "utterance" and "speaker".
        alignments: Phone alignments, a folder or a file that `training.corpora.alignments.read_alignments` reads;
            `None` looks for a folder `alignments` in `data_dir`.

    Raises:
        FileNotFoundError: `data_dir`, a list, or alignments that are not there.
        ValueError: An unknown split, part or rule.
    """
    if split not in ("train", "test", "all"):
        parts, split = split, "all"
    if split_by is None:
        found = lists is not None or (data_dir is not None and (Path(data_dir) / f"{split}.txt").is_file())
        split_by = "list" if found else "utterance"
    if data_dir is None:
        source = open_source(dataset_id, config, parts or "train.100", revision=revision, streaming=streaming)
        dataset = _from_hub(
            source, split=split, split_by=split_by, lists=lists, test_fraction=test_fraction, seed=seed, name=dataset_id
        )
    else:
        root = Path(data_dir)
        if not root.is_dir():
            raise FileNotFoundError(f"`data_dir` is {root}, which is not a folder")
        if streaming:
            raise ValueError("`streaming` is for the Hub; a local tree is read as it is used already.")
        if alignments is None and (root / "alignments").is_dir():
            alignments = root / "alignments"
        files = _find_files(root, parts)
        speakers = {utterance: utterance.split("-")[0] for utterance in files}
        sexes = _read_sexes(root)
        lists = Path(lists) if lists else root
        ids = split_ids(
            speakers, split=split, rule=split_by, lists=lists, test_fraction=test_fraction, seed=seed, strata=sexes
        )
        dataset = _from_files(root, files, sorted(ids), speakers, sexes)
    return dataset if alignments is None else _with_phones(dataset, alignments)


def _find_files(root: Path, parts: str | None) -> dict[str, list[Path]]:
    """Files of every utterance, one unless something is wrong, by its id, in the order of the ids."""
    tree = root / "LibriSpeech" if (root / "LibriSpeech").is_dir() else root
    found = sorted(folder.name for folder in tree.iterdir() if next(folder.glob("*/*/*.flac"), None))
    chosen = found if parts is None else parts.split("+")
    missing = sorted(set(chosen) - set(found)) or ([] if found else ["PART/SPEAKER/CHAPTER/*.flac"])
    if missing:
        raise ValueError(f"{tree} has no {' and no '.join(missing)}; parts there: {', '.join(found) or 'none'}")
    files = defaultdict(list)
    for path in sorted((path for part in chosen for path in (tree / part).glob("*/*/*.flac")), key=_stem):
        files[path.stem].append(path)
    return files


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
        "audio": [{"path": str(path)} for _, path in rows],
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


def _with_phones(dataset: Dataset | IterableDataset, alignments: str | Path) -> Dataset | IterableDataset:
    """Add `phones` by utterance id."""
    names, labels = read_alignments(alignments)
    feature = List(ClassLabel(names=names))
    if isinstance(dataset, IterableDataset):
        features = Features({**dataset.features, "phones": feature})
        lists = {utterance: values.tolist() for utterance, values in labels.items()}
        return dataset.map(lambda row: {"phones": lists.get(row["id"])}, features=features)
    return replace_column(dataset, "phones", [labels.get(utterance) for utterance in dataset["id"][:]], feature)


def _stem(path: Path) -> str:
    return path.stem


def _read_sexes(root: Path) -> dict[str, str]:
    """Sex, "F" or "M", by speaker, from SPEAKERS.TXT where it is there."""
    for path in (root / "SPEAKERS.TXT", root / "LibriSpeech" / "SPEAKERS.TXT"):
        if path.is_file():
            lines = path.read_text(encoding="utf-8").split("\n")
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
        for path in chapter.glob("*.trans.txt"):
            for line in path.read_text(encoding="utf-8").split("\n"):
                utterance, _, text = line.partition(" ")
                transcripts[utterance] = text
    return transcripts
