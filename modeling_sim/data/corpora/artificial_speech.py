"""The artificial speech of the Smooth InfoMax paper: words of three syllables, spoken by one man.

The data set is licensed CC BY-NC-SA 4.0. It is not part of this project and must not be redistributed with it; users
provide their own copy. The card of a checkpoint trained on it must state this license.

There are two folders, each with `train` and `test`: `reshuffledv2` with words (`babadu_1.wav`: word, take), and
`split up data padded` with syllables cut from words and padded with zeros (`bagigi_1_1_ba.wav`: word, take, position,
syllable). Files may be WAV as published, or FLAC.

The take in the name of a syllable is always 1, and every test word has the name of a training word. But the recordings
differ: by waveform correlation the training syllables are cut from take 1 of the words and the test syllables from take
2. `id`, `take` and `recording` refer to the actual recording, so they are unique.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple

from datasets import Dataset

from modeling_sim.data.corpora.contract import CorpusInfo, make_dataset
from modeling_sim.data.corpora.splits import share_of_groups
from modeling_sim.data.corpora.tree import visible_files

INFO = CorpusInfo(
    description="Words and syllables of the Smooth InfoMax paper, one male speaker (recordings by Bart de Boer); in "
    "the published split, test words are different recordings of training words.",
    license="cc-by-nc-sa-4.0",
    path_settings=("data_dir",),
    splits=("train", "test", "all"),
)


_FOLDERS = {"words": "reshuffledv2", "syllables": "split up data padded"}


_VOWELS = ["a", "i", "u"]


_CONSONANTS = ["b", "d", "g"]


_SYLLABLES = [consonant + vowel for consonant in _CONSONANTS for vowel in _VOWELS]


_SUFFIXES = (".wav", ".flac")


class _Recording(NamedTuple):
    id: str
    path: Path
    published_split: str
    word: str
    take: int
    position: int | None  # of a syllable in its word, from 1
    syllables: list[str]


def load(
    *,
    split: str = "train",
    data_dir: str | Path,
    units: Literal["words", "syllables"] = "words",
    protocol: Literal["published", "unseen", "word_disjoint"] = "published",
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Dataset:
    """Loads a split.

    Columns in addition to those of every corpus: `word`, `take` and `recording` (word and take); `vowel`, `consonant`
    and `syllable`, one class for a syllable and three for a word; `position` of a syllable in its word, from 1.

    Args:
        split: "train", "test" or "all".
        data_dir: Folder with the two folders of the data set.
        units: "words", on which the paper pretrains, or "syllables", on which it probes vowels and syllables.
        protocol: "published": the folders as published. "unseen": without the test syllables whose recordings are among
            the training words (most of them), so that pretraining has not seen a test recording. "word_disjoint": the
            test set is a random fraction of the words, with all of their recordings; words and syllables with the
            same seed have the same test words.
        test_fraction: Fraction of the words in the test set of "word_disjoint".
        seed: Seed of "word_disjoint".

    Raises:
        FileNotFoundError: A folder does not exist or has no recordings.
        ValueError: The split, the units or the protocol is unknown, or a file name has a different form.
    """
    for name, value, known in (
        ("split", split, INFO.splits),
        ("units", units, tuple(_FOLDERS)),
        ("protocol", protocol, ("published", "unseen", "word_disjoint")),
    ):
        if value not in known:
            raise ValueError(f"`{name}` is {value!r}; choose {', '.join(map(repr, known))}.")
    recordings = _find(Path(data_dir), units)
    words = recordings if units == "words" else _find(Path(data_dir), "words")
    if protocol == "published":
        test = {recording.id for recording in recordings if recording.published_split == "test"}
    elif protocol == "unseen":
        seen = {(word.word, word.take) for word in words if word.published_split == "train"}
        recordings = [
            recording
            for recording in recordings
            if recording.published_split == "train" or (recording.word, recording.take) not in seen
        ]
        test = {recording.id for recording in recordings if recording.published_split == "test"}
    else:
        test_words = share_of_groups([word.word for word in words], test_fraction, seed)
        test = {recording.id for recording in recordings if recording.word in test_words}
    chosen = [recording for recording in recordings if split == "all" or (recording.id in test) == (split == "test")]
    return _to_dataset(chosen, units)


def _find(data_dir: Path, units: str) -> list[_Recording]:
    """Every recording of one of the two folders, in the order of the ids."""
    recordings = []
    for published_split in ("train", "test"):
        folder = data_dir / _FOLDERS[units] / published_split
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} does not exist; `data_dir` must hold {' and '.join(_FOLDERS.values())}")
        recordings += [
            _parse(path, units, published_split) for path in visible_files(folder) if path.suffix.lower() in _SUFFIXES
        ]
        if not any(recording.published_split == published_split for recording in recordings):
            raise FileNotFoundError(f"{folder} has no {' or '.join(_SUFFIXES)} files")
    return sorted(recordings, key=lambda recording: recording.id)


def _parse(path: Path, units: str, published_split: str) -> _Recording:
    """Parses a file name, and corrects the take."""
    fields = path.stem.split("_")
    word = fields[0]
    spoken = [word[place : place + 2] for place in range(0, len(word), 2)]
    forms = {"words": 2, "syllables": 4}
    if (
        len(fields) != forms[units]
        or not all(field.isdigit() for field in fields[1:3])
        or set(spoken) - set(_SYLLABLES)
    ):
        raise ValueError(f"{path}: the name must be like 'babadu_1' (words) or 'bagigi_1_1_ba' (syllables)")
    if units == "words":
        return _Recording(path.stem, path, published_split, word, int(fields[1]), None, spoken)
    take = 2 if published_split == "test" else int(fields[1])
    name = f"{word}_{take}_{fields[2]}_{fields[3]}"
    return _Recording(name, path, published_split, word, take, int(fields[2]), [fields[3]])


def _to_dataset(recordings: list[_Recording], units: str) -> Dataset:
    syllables = [recording.syllables for recording in recordings]
    vowels = [[syllable[1] for syllable in row] for row in syllables]
    consonants = [[syllable[0] for syllable in row] for row in syllables]
    columns: dict[str, Any] = {
        "id": [recording.id for recording in recordings],
        "audio": [{"path": str(recording.path)} for recording in recordings],
        "speaker_id": [0] * len(recordings),
        "word": [recording.word for recording in recordings],
        "take": [recording.take for recording in recordings],
        "recording": [f"{recording.word}_{recording.take}" for recording in recordings],
        "vowel": vowels,
        "consonant": consonants,
        "syllable": syllables,
    }
    labels = {"speaker_id": ["de_boer"]}
    names = {"vowel": _VOWELS, "consonant": _CONSONANTS, "syllable": _SYLLABLES}
    if units == "words":
        return make_dataset(columns, labels=labels, sequence_labels=names)
    columns |= {
        "vowel": [row[0] for row in vowels],
        "consonant": [row[0] for row in consonants],
        "syllable": [row[0] for row in syllables],
        "position": [recording.position for recording in recordings],
    }
    return make_dataset(columns, labels=labels | names)
