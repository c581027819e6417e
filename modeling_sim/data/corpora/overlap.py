"""Warns of recordings or speakers that the training and the test split share."""

from collections.abc import Hashable
from typing import Any

from datasets import Dataset

from modeling_sim.data.corpora.contract import UNKNOWN_SPEAKER, class_label
from modeling_sim.data.corpora.tree import file_key
from modeling_sim.text import counted, printable, say_once

# At most this many recordings with equal id and length are compared: if rows are numbered, all of them may match.
_MOST_COMPARED = 100


def say_shared_recordings(train: Dataset, test: Dataset) -> None:
    """Prints a warning if the training split has recordings of the test split: the same file, or the same bytes."""
    if not {"id", "num_samples", "audio"} <= set(train.column_names) & set(test.column_names):
        return
    rows = {key: row for row, key in enumerate(zip(train["id"][:], train["num_samples"][:], strict=True))}
    pairs = [
        (rows[key], row)
        for row, key in enumerate(zip(test["id"][:], test["num_samples"][:], strict=True))
        if key in rows
    ][:_MOST_COMPARED]
    shared = [test[own]["id"] for other, own in pairs if _content(train[other]) == _content(test[own])]
    if shared:
        more = " or more" if len(pairs) == _MOST_COMPARED else ""
        say_once(
            f"warning: the test split shares {counted(len(shared), 'recording')}{more} with the training split, for "
            f"example {printable(repr(shared[0]))}; their scores do not generalize to new recordings"
        )


def _content(row: dict[str, Any]) -> Hashable:
    """A key of a recording: its bytes, or its file, the same for all paths to it."""
    audio = row["audio"]
    return audio["bytes"] if audio["bytes"] is not None else file_key(audio["path"])


def say_shared_speakers(train: Dataset, test: Dataset) -> None:
    """Prints a warning if named speakers of the test split are in the training split."""
    of_train, of_test = named_speakers(train), named_speakers(test)
    shared = of_train & of_test
    if shared:
        say_once(
            f"warning: {len(shared)} of {len(of_test)} speakers of the test split are among the {len(of_train)} of the "
            "training split, so scores are for seen speakers; separate them with `split_by: speaker`"
        )


def named_speakers(dataset: Dataset) -> set[str]:
    """Names of a split's speakers, which splits may number differently, without those that are unknown."""
    if "speaker_id" not in dataset.column_names:
        return set()
    label = class_label(dataset, "speaker_id")
    found = [speaker for speaker in dataset.unique("speaker_id") if speaker is not None]
    return set(map(str, found if label is None else label.int2str(found))) - {UNKNOWN_SPEAKER}
