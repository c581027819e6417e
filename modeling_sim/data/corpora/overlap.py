"""What a training and a test split share: recordings, which no test may, and speakers, which say less of new ones."""

from collections.abc import Hashable
from typing import Any

from datasets import Dataset

from modeling_sim.data.corpora.contract import UNKNOWN_SPEAKER, class_label
from modeling_sim.data.corpora.tree import file_key
from modeling_sim.text import printable, say_once

# Of ids and lengths that are equal, as many are looked at: data sets without ids number their rows, in every split.
_LOOKED_AT = 100


def say_shared_recordings(train: Dataset, test: Dataset) -> None:
    """Print a warning if recordings of the test split are in the training split: the same file, or the same bytes."""
    if not {"id", "num_samples", "audio"} <= set(train.column_names) & set(test.column_names):
        return
    rows = {key: row for row, key in enumerate(zip(train["id"][:], train["num_samples"][:], strict=True))}
    pairs = [
        (rows[key], row)
        for row, key in enumerate(zip(test["id"][:], test["num_samples"][:], strict=True))
        if key in rows
    ][:_LOOKED_AT]
    shared = [test[own]["id"] for other, own in pairs if _content(train[other]) == _content(test[own])]
    if shared:
        count = f"{len(shared)} or more" if len(pairs) == _LOOKED_AT else f"{len(shared)}"
        say_once(
            f"warning: {count} recordings of the test split are in the training split too, such as "
            f"{printable(repr(shared[0]))}; a test on them says nothing about new ones"
        )


def _content(row: dict[str, Any]) -> Hashable:
    """What rows of one recording share: its bytes, or its file by whatever path."""
    audio = row["audio"]
    return audio["bytes"] if audio["bytes"] is not None else file_key(audio["path"])


def say_shared_speakers(train: Dataset, test: Dataset) -> None:
    """Print a warning if speakers of the test split are in the training split; none where speakers are not named."""
    of_train, of_test = _speakers(train), _speakers(test)
    shared = of_train & of_test
    if shared:
        say_once(
            f"warning: {len(shared)} of {len(of_test)} speakers of the test split are among the {len(of_train)} of the "
            "training split, so scores are for known speakers; keep them apart with `split_by: speaker`"
        )


def _speakers(dataset: Dataset) -> set[str]:
    classes = class_label(dataset, "speaker_id") if "speaker_id" in dataset.column_names else None
    if classes is None:
        return set()
    present = {value for value in dataset["speaker_id"][:] if value is not None}
    return {classes.names[value] for value in present} - {UNKNOWN_SPEAKER}
