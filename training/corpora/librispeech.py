"""LibriSpeech (Panayotov et al. 2015): from a local tree in the corpus' own layout, or from the Hub."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset

from training.corpora.alignments import read_alignments
from training.corpora.contract import CorpusInfo, make_dataset
from training.corpora.splits import read_id_list, test_share_of_each, whole_test_groups

INFO = CorpusInfo(
    description="About 1000 hours of read English speech from LibriVox audiobooks.",
    license="cc-by-4.0",
    hub_id="openslr/librispeech_asr",
)


def load(
    *,
    split: str = "train",
    data_dir: str | Path,
    parts: str | None = None,
    split_by: Literal["list", "utterance", "speaker"] | None = None,
    lists: str | Path | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    alignments: str | Path | None = None,
) -> Dataset:
    """Load a split.

    The split is "all", or "train" or "test" by one of three rules, the same for every source:

    - "list": the utterance ids in `train.txt` and `test.txt`, one a line, as in the CPC paper;
    - "utterance": a seeded share of every speaker's utterances is the test set;
    - "speaker": a seeded share of the speakers of either sex is the test set, so that no speaker is in both.

    Args:
        split: "train", "test" or "all".
        data_dir: Folder with the tree `PART/SPEAKER/CHAPTER/*.flac`, or with the `LibriSpeech` folder of an unpacked
            archive in it.
        parts: Parts such as "train-clean-100", several joined with "+"; `None` for all that are there.
        split_by: The rule; `None` takes "list" where the lists are found, else "utterance".
        lists: Folder of `train.txt` and `test.txt`; `None` looks in `data_dir`.
        test_fraction: Share of the test set under "utterance" and "speaker".
        seed: Seed of the split under "utterance" and "speaker".
        alignments: Phone alignments, a folder or a file; `None` looks for `alignments` in `data_dir`.

    Raises:
        FileNotFoundError: `data_dir` or a file that was named is not there.
        ValueError: An unknown split, part or rule.
    """
    root = Path(data_dir)
    if not root.is_dir():
        raise FileNotFoundError(f"`data_dir` is {root}, which is not a folder")
    files = _find_files(root, parts)
    speakers = {utterance: utterance.split("-")[0] for utterance in files}
    sexes = _read_sexes(root)
    ids = _choose_ids(
        speakers,
        sexes,
        split=split,
        split_by=split_by,
        lists=lists,
        data_dir=root,
        test_fraction=test_fraction,
        seed=seed,
    )
    transcripts = _read_transcripts({files[utterance].parent for utterance in ids if utterance in files})
    columns: dict[str, Any] = {
        "id": ids,
        # An id that is only in a list has no file; the scan then says so under this name.
        "audio": [{"path": str(files.get(utterance, root / f"{utterance}.flac"))} for utterance in ids],
        "speaker_id": [speakers.get(utterance) for utterance in ids],
        "chapter_id": [utterance.split("-")[1] for utterance in ids],
        "sex": [sexes.get(speakers.get(utterance)) for utterance in ids],
        "text": [transcripts.get(utterance) for utterance in ids],
    }
    labels = {"speaker_id": sorted(set(speakers.values()), key=_number), "sex": ["F", "M"]}
    sequence_labels = {}
    if alignments is not None or (root / "alignments").is_dir():
        aligned = read_alignments(alignments or root / "alignments")
        columns["phones"] = [aligned.labels.get(utterance) for utterance in ids]
        sequence_labels["phones"] = aligned.names
    return make_dataset(columns, labels=labels, sequence_labels=sequence_labels)


def _find_files(root: Path, parts: str | None) -> dict[str, Path]:
    """Path of every utterance by its id, in the order of the ids."""
    tree = root / "LibriSpeech" if (root / "LibriSpeech").is_dir() else root
    found = sorted(folder.name for folder in tree.iterdir() if next(folder.glob("*/*/*.flac"), None))
    chosen = found if parts is None else parts.split("+")
    missing = sorted(set(chosen) - set(found)) or ([] if found else ["PART/SPEAKER/CHAPTER/*.flac"])
    if missing:
        raise ValueError(f"{tree} has no {' and no '.join(missing)}; parts there: {', '.join(found) or 'none'}")
    files = (path for part in chosen for path in (tree / part).glob("*/*/*.flac"))
    return {path.stem: path for path in sorted(files, key=lambda path: path.stem)}


def _choose_ids(
    speakers: dict[str, str],
    sexes: dict[str, str],
    *,
    split: str,
    split_by: str | None,
    lists: str | Path | None,
    data_dir: Path,
    test_fraction: float,
    seed: int,
) -> list[str]:
    """Ids of the split, in the order of the ids."""
    if split == "all":
        return list(speakers)
    if split not in ("train", "test"):
        raise ValueError(f"`split` is {split!r}; librispeech has 'train', 'test' and 'all'.")
    list_file = Path(lists or data_dir) / f"{split}.txt"
    if split_by is None:
        split_by = "list" if lists is not None or list_file.is_file() else "utterance"
    if split_by == "list":
        if not list_file.is_file():
            raise FileNotFoundError(f"{list_file}: no such list; give `lists`, or set `split_by` to 'utterance'")
        return sorted(read_id_list(list_file))
    if split_by == "utterance":
        test = test_share_of_each(speakers, test_fraction, seed)
    elif split_by == "speaker":
        by_sex = defaultdict(set)
        for speaker in speakers.values():
            by_sex[sexes.get(speaker)].add(speaker)
        test_speakers = set().union(*(whole_test_groups(group, test_fraction, seed) for group in by_sex.values()))
        test = {utterance for utterance, speaker in speakers.items() if speaker in test_speakers}
    else:
        raise ValueError(f"`split_by` is {split_by!r}; choose 'list', 'utterance' or 'speaker'.")
    return [utterance for utterance in speakers if (utterance in test) == (split == "test")]


def _read_sexes(root: Path) -> dict[str, str]:
    """Sex, "F" or "M", by speaker, from SPEAKERS.TXT where it is there."""
    for path in (root / "SPEAKERS.TXT", root / "LibriSpeech" / "SPEAKERS.TXT"):
        if path.is_file():
            lines = path.read_text(encoding="utf-8").split("\n")
            fields = [line.split("|") for line in lines if line.strip() and not line.startswith(";")]
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


def _number(speaker: str) -> tuple[int, str]:
    """Sorts reader numbers as numbers."""
    return (int(speaker), "") if speaker.isdigit() else (0, speaker)
