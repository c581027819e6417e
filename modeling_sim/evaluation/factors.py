"""Factors of items: columns of utterances, or properties of the sound in voiced frames."""

from typing import NamedTuple

import numpy as np
from datasets import Dataset

from modeling_sim.analysis.disentanglement import measurable_factors
from modeling_sim.analysis.sound_properties import PROPERTIES, frame_properties
from modeling_sim.data.audio import read_audio
from modeling_sim.data.corpora.alignments import LABEL_RATE
from modeling_sim.data.corpora.contract import class_label
from modeling_sim.evaluation.feature_store import Items
from modeling_sim.evaluation.settings import FACTORS

# Maximum number of voiced items with factors: the time of DCI, for each of six sets of axes, is proportional to it.
_MOST_ITEMS = 5000

FEWEST_UTTERANCES = 10
"""Number of utterances in which a class must occur, so that both parts of a split contain it."""


class Factors(NamedTuple):
    """Factors of some items, floats for amounts and integers for classes.

    Args:
        items: `(chosen,)`, positions of the items.
        values: Factors to disentangle, `(chosen,)` each.
        properties: Further factors, which depend on the others, as formants do on phones: `(chosen,)` each.
    """

    items: np.ndarray
    values: dict[str, np.ndarray]
    properties: dict[str, np.ndarray]

    @property
    def all(self) -> dict[str, np.ndarray]:
        """All factors."""
        return {**self.values, **self.properties}


def utterance_columns(dataset: Dataset, names: str) -> dict[str, np.ndarray]:
    """Columns with one value per utterance that vary: integers for classes, floats for amounts.

    Args:
        dataset: Utterances.
        names: Columns separated by commas; empty for those of `FACTORS` that can be used.

    Raises:
        ValueError: A named column does not exist, or does not have one varying value per utterance.
    """
    found = {}
    for name in [name.strip() for name in names.split(",")] if names else FACTORS:
        values = dataset[name][:] if name in dataset.column_names else []
        if any(value is None or isinstance(value, (list, str, dict)) for value in values) or len(set(values)) < 2:
            if names:
                raise ValueError(
                    f"`factors` names {name!r}, which is not a column with one class or number per utterance that "
                    f"varies; available: {', '.join(dataset.column_names)}."
                )
            continue
        is_class = class_label(dataset, name) is not None
        found[name] = np.array(values, dtype=np.int64 if is_class else np.float64)
    return found


def of_utterances(columns: dict[str, np.ndarray], dataset: Dataset, items: Items, seed: int) -> Factors:
    """Columns of the items' utterances that vary enough to measure."""
    order = rows_of(dataset, items.utterances)
    factors = {name: values[order] for name, values in columns.items()}
    found = measurable_factors(factors, items.utterances, seed=seed) if factors else []
    return Factors(np.arange(len(order)), {name: factors[name] for name in found}, {})


def of_voiced_moments(
    columns: dict[str, np.ndarray], dataset: Dataset, items: Items, label: str, ignored: list[int], seed: int
) -> Factors:
    """Pitch, level, formants, label and speaker in voiced frames; also vocal tract length and gain, if known.

    Args:
        columns: Result of `utterance_columns`.
        dataset: The utterances, which are read.
        items: Frames of the utterances.
        label: Name of the items' label.
        ignored: Classes that are not speech.
        seed: Seed of the draw, if there are many items, and of the split.
    """
    rows = rows_of(dataset, items.utterances)
    sound = sound_at(dataset, items)
    voiced = np.flatnonzero(np.isfinite(sound).all(axis=1) & ~np.isin(items.labels, ignored))
    occurrences = np.unique(np.stack([items.labels[voiced], rows[voiced]]), axis=1)[0]
    classes, counts = np.unique(occurrences, return_counts=True)
    voiced = voiced[np.isin(items.labels[voiced], classes[counts >= FEWEST_UTTERANCES])]
    chosen = np.sort(np.random.default_rng(seed).permutation(voiced)[:_MOST_ITEMS])
    if not len(chosen):
        return Factors(chosen, {}, {})
    pitch, level, _, first_formant, second_formant = sound[chosen].T
    values: dict[str, np.ndarray] = {"pitch": pitch, label: items.labels[chosen]}
    values |= {name: columns[name][rows[chosen]] for name in ("gain", "vocal_tract_length") if name in columns}
    if "gain" not in values:
        values["level"] = level
    properties = {"level": level, "F1": first_formant, "F2": second_formant, "speaker_id": items.speakers[chosen]}
    groups = items.utterances[chosen]
    if len(np.unique(groups)) < 2:
        return Factors(chosen, {}, {})
    found = set(measurable_factors({**properties, **values}, groups, seed=seed))
    return Factors(
        chosen,
        {name: column for name, column in values.items() if name in found},
        {name: column for name, column in properties.items() if name in found and name not in values},
    )


def sound_at(dataset: Dataset, items: Items) -> np.ndarray:
    """`PROPERTIES` of the sound in given frames, `(items, properties)`; see `frame_properties`.

    Args:
        dataset: The utterances, which are read.
        items: Frames of the utterances.
    """
    rows = rows_of(dataset, items.utterances)
    sound = np.full((len(rows), len(PROPERTIES)), np.nan)
    for row in np.unique(rows).tolist():
        here = rows == row
        waveform = read_audio(dataset[row]["audio"], sampling_rate=LABEL_RATE)
        sound[here] = frame_properties(waveform, LABEL_RATE, items.seconds[here])
    return sound


def rows_of(dataset: Dataset, utterances: np.ndarray) -> np.ndarray:
    """Row of each item's utterance."""
    position = {name: number for number, name in enumerate(dataset["id"][:])}
    return np.array([position[name] for name in utterances], dtype=np.int64)
