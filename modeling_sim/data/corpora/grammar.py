"""Sentences of a small grammar, with exact factors that are drawn independently of each other.

| factor | classes |
| --- | --- |
| topic | which nouns and verbs: animals, people, weather |
| number | of the subject: singular, plural |
| tense | past, present, future |
| polarity | affirmative, negative |

A sentence is the subject with an adjective, the verb and an adverb: "the small dogs will not jump again".
"""

import numpy as np
from datasets import Dataset

from modeling_sim.data.corpora.contract import POSITION_RATE, CorpusInfo, make_dataset, signal_columns, size_of_split

INFO = CorpusInfo(
    description="Sentences of a grammar with four exact factors: topic, number, tense, polarity.",
    license="apache-2.0",
    language="en",
    generated=True,
    splits=("train", "test"),
    defaults={
        "preset": "sim-small",
        "crop_samples": 48,
        "batch_size": 64,
        "max_steps": 600,
        "output_dir": "runs/grammar",
        "model_settings": {
            "input_kind": "tokens",
            "sampling_rate": POSITION_RATE,
            "vocabulary": list("abcdefghijklmnopqrstuvwxyz "),
            "conv_kernel": [[1, 4], [4]],
            "conv_stride": [[1, 2], [2]],
            "conv_padding": [[0, 1], [1]],
            "num_prediction_steps": 6,
            "negative_sharing": "batch",
            "num_negatives": 255,
            "kl_weight": 1.0e-3,
        },
    },
)

FACTORS = {
    "topic": ["animals", "people", "weather"],
    "number": ["singular", "plural"],
    "tense": ["past", "present", "future"],
    "polarity": ["affirmative", "negative"],
}
_NOUNS = {
    "animals": ["dog", "horse", "bird", "snake", "tiger"],
    "people": ["teacher", "doctor", "farmer", "singer", "neighbor"],
    "weather": ["cloud", "storm", "shower", "breeze", "shadow"],
}
_VERBS = {
    "animals": ["bark", "jump", "roar", "hunt"],
    "people": ["talk", "work", "cook", "listen"],
    "weather": ["pass", "drift", "fade", "return"],
}
_ADJECTIVES = ["small", "old", "quiet", "strange", "gentle"]
_ADVERBS = ["again", "today", "slowly", "alone", "soon"]


def load(*, split: str = "train", num_train: int = 2000, num_test: int = 500, seed: int = 0) -> Dataset:
    """Makes a split.

    Args:
        split: "train" or "test".
        num_train: Sentences of the training split.
        num_test: Sentences of the test split; some also occur in training.
        seed: Seed of all random draws.

    Raises:
        ValueError: A count is below 1, or the split is unknown.
    """
    count = size_of_split("grammar", split, num_train=num_train, num_test=num_test)
    rows = [_sentence(np.random.default_rng([seed, split == "test", row])) for row in range(count)]
    texts = [row.pop("text") for row in rows]
    columns = signal_columns("text", texts, [len(text) for text in texts], split)
    columns |= {name: [row[name] for row in rows] for name in FACTORS}
    return make_dataset(columns, labels={"speaker_id": ["unknown"], **FACTORS})


def _sentence(generator: np.random.Generator) -> dict[str, str]:
    """A text and its factors."""
    row = {name: str(generator.choice(classes)) for name, classes in FACTORS.items()}
    noun, verb = generator.choice(_NOUNS[row["topic"]]), str(generator.choice(_VERBS[row["topic"]]))
    plural, negative = row["number"] == "plural", row["polarity"] == "negative"
    if row["tense"] == "future":
        verb = f"will {'not ' if negative else ''}{verb}"
    elif negative:
        verb = f"{'did' if row['tense'] == 'past' else 'do' if plural else 'does'} not {verb}"
    elif row["tense"] == "past":
        verb += "d" if verb.endswith("e") else "ed"
    elif not plural:
        verb += "es" if verb.endswith("s") else "s"
    words = ["the", generator.choice(_ADJECTIVES), noun + "s" * plural, verb, generator.choice(_ADVERBS)]
    return {"text": " ".join(words), **row}
