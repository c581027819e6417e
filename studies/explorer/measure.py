r"""Evaluates the explorer: how many labels are correct, and what the extreme frames of a dimension have in common.

    python studies/explorer/measure.py labels studies/explorer/results/labels.json CHECKPOINT [CHECKPOINT ...]
    python studies/explorer/measure.py moments studies/explorer/results/moments_readable_own.json CHECKPOINT \
        --data_dir LibriSpeech

`labels`: every dimension of every module, on its own axes, is labeled on the test split of `synthetic_syllables`, as on
the page, and labels are judged on new utterances by the rule in `modeling_sim/explore/evidence.py`. Untrained networks
with the architecture of the first checkpoint are labeled in the same way.

`moments`: describes the 20 largest and the 20 smallest frames of the first ten dimensions of module 2 on the page, on
its own axes or those of `--axes`, by phones, speakers and acoustics, on LibriSpeech speakers that were not trained on.
See `compare`.
"""

import math
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import false_discovery_control, rankdata
from tqdm.auto import trange
from transformers import set_seed

from modeling_sim import SimModel
from modeling_sim.analysis import dimension_labels, loudest_moments, random_rotation
from modeling_sim.analysis.gaussianity import generator_of, standardized
from modeling_sim.data.corpora.contract import class_label
from modeling_sim.evaluation.factors import rows_of, sound_at
from modeling_sim.evaluation.feature_store import Items
from modeling_sim.explore.evidence import drawn_moments, planted_factors, properties_at, right_labels
from modeling_sim.explore.explorer import AXES, Explorer
from modeling_sim.explore.settings import ExploreArguments
from modeling_sim.files import write_json
from modeling_sim.loading import feature_extractor_of, load_encoder, names_of

_UNTRAINED, _FRESH_SEED = 2, 1

# ---------------------------------------------------------------------- labels


def judged(model: str, cache_dir: str) -> list[dict[str, Any]]:
    """Labels of every module, and which of them are correct."""
    explorer, fresh = (
        Explorer(
            ExploreArguments(model=model, cache_dir=cache_dir, corpus_settings={} if seed is None else {"seed": seed})
        )
        for seed in (None, _FRESH_SEED)
    )
    (name,) = explorer.representations
    items = fresh.items(name)
    chosen, _ = properties_at(fresh.dataset, items, fresh.label)
    chosen = chosen[drawn_moments(len(chosen), 0)]
    factors = {factor: values[chosen] for factor, values in planted_factors(fresh.dataset, items).items()}
    rows = []
    for feature in explorer.features(name):
        evidence = explorer.evidence(name, feature)
        planted = dimension_labels(fresh.codes(name, feature)[chosen], factors)
        right = right_labels(evidence.labels, planted)
        labels = [
            {
                "dimension": dim,
                "label": evidence.words(dim),
                "right": right[dim],
                "planted": max(factors, key=lambda factor: planted.leads[factor][dim]),
            }
            for dim in evidence.order()
            if evidence.labels[dim] is not None
        ]
        rows.append({"module": feature, "dimensions": evidence.num_dims, "labels": labels})
        print(feature, *labels, sep="\n    ", flush=True)
    return rows


def write_labels(path: str, checkpoints: Sequence[str]) -> None:
    """Measures labels and writes the result."""
    with tempfile.TemporaryDirectory() as temporary:
        trained = [
            {**row, "model": name}
            for name, each in zip(names_of(checkpoints), checkpoints, strict=True)
            for row in judged(each, temporary)
        ]
        untrained, checkpoint = [], checkpoints[0]
        for seed in range(_UNTRAINED):
            set_seed(seed)
            folder = str(Path(temporary) / f"untrained-{seed}")
            SimModel(load_encoder(checkpoint).config).save_pretrained(folder)
            feature_extractor_of(checkpoint).save_pretrained(folder)
            untrained += judged(folder, temporary)
    labels = [label for row in trained for label in row["labels"]]
    write_json(
        path,
        {
            "corpus": "synthetic_syllables",
            "trained": {
                "networks": len(checkpoints),
                "dimensions": sum(row["dimensions"] for row in trained),
                "labels": len(labels),
                "right": sum(label["right"] for label in labels),
                "modules": trained,
            },
            "untrained": {
                "networks": _UNTRAINED,
                "dimensions": sum(row["dimensions"] for row in untrained),
                "labels": sum(len(row["labels"]) for row in untrained),
                "modules": untrained,
            },
        },
    )


# ---------------------------------------------------------------------- loudest moments

NUM_DIMENSIONS, NUM_MOMENTS = 10, 20

# Conditions for a description: a class needs three frames and 1.5 times its fraction of all frames, and half of the
# frames must be in such classes; an amount needs a median in the outer quarter of all frames.
_FEWEST, _TIMES, _MOST_OF_THEM, _OUTER = 3, 1.5, 0.5, 0.25

_LEVEL = 0.05  # false discovery rate

_CONTROLS = 10

UNITS = {"pitch": "Hz", "level": "dB", "F1": "Hz", "F2": "Hz"}
"""Amounts and their units."""


class Property:
    """A property of all frames, and what a subset of them has in common.

    Args:
        values: `(frames,)`: integers are classes, floats are amounts, NaN if missing.
        names: Names of the classes.
    """

    def __init__(self, values: np.ndarray, names: Sequence[str] = ()) -> None:
        self.values, self.names = values, names
        self.is_class = values.dtype.kind != "f"
        if self.is_class:
            self.shares = np.bincount(values, minlength=len(names)) / len(values)
        else:
            has = np.isfinite(values)
            self.places = np.full(len(values), np.nan)
            self.places[has] = (rankdata(values[has]) - 0.5) / has.sum()

    def distance(self, chosen: np.ndarray) -> float:
        """How much a subset of frames differs from a random subset.

        For classes this is the log-likelihood ratio `sum k ln(k / n p)` of their counts, for amounts the absolute
        z-score of their mean rank, with ranks scaled to [0, 1].
        """
        if self.is_class:
            counts = np.bincount(self.values[chosen], minlength=len(self.names))
            seen = counts > 0
            return float((counts[seen] * np.log(counts[seen] / (len(chosen) * self.shares[seen]))).sum())
        places = self.places[chosen]
        places = places[np.isfinite(places)]
        return float(abs(places.sum() - 0.5 * len(places)) * math.sqrt(12 / max(1, len(places))))

    def summary(self, chosen: np.ndarray) -> dict[str, Any]:
        """More frequent classes and their fraction, or the median, in a subset and in all frames."""
        if self.is_class:
            counts = np.bincount(self.values[chosen], minlength=len(self.names))
            frequent = (counts >= _FEWEST) & (counts >= _TIMES * len(chosen) * self.shares)
            order = [number for number in np.argsort(-counts, kind="stable").tolist() if frequent[number]]
            return {
                "classes": [self.names[number] for number in order],
                "share": float(counts[order].sum() / len(chosen)),
                "of_all": float(self.shares[order].sum()),
            }
        values = self.values[chosen][np.isfinite(self.values[chosen])]
        return {
            "median": float(np.median(values)) if len(values) else None,
            "of_all": float(np.nanmedian(self.values)),
            "measured": len(values),
        }

    def words(self, name: str, chosen: np.ndarray) -> str | None:
        """Describes what a subset of frames has in common, with its and the overall numbers; `None` if too little."""
        found = self.summary(chosen)
        if self.is_class:
            numbers = f"{100 * found['share']:.0f} %; {100 * found['of_all']:.0f} %"
            return f"{', '.join(found['classes'])} ({numbers})" if found["share"] >= _MOST_OF_THEM else None
        if found["measured"] < _MOST_OF_THEM * len(chosen):
            return None
        low, high = np.nanquantile(self.values, [_OUTER, 1 - _OUTER])
        if low < found["median"] < high:
            return None
        side = "low" if found["median"] <= low else "high"
        return f"{side} {name} ({found['median']:.0f} {UNITS[name]}; {found['of_all']:.0f})"


def moments_of(codes: np.ndarray, utterances: np.ndarray, seconds: np.ndarray) -> Iterable[np.ndarray]:
    """Positions of the largest frames of each column of codes `(frames, dims)`, `(20,)` each."""
    position = {place: number for number, place in enumerate(zip(utterances.tolist(), seconds.tolist(), strict=True))}
    for column in codes.T:
        loudest = loudest_moments(column, utterances, seconds, count=NUM_MOMENTS)
        yield np.array([position[moment.utterance, moment.seconds] for moment in loudest])


def compare(
    codes: np.ndarray,
    dims: Sequence[int],
    utterances: np.ndarray,
    seconds: np.ndarray,
    properties: Mapping[str, Property],
    seed: int = 0,
) -> dict[str, Any]:
    """What the largest frames of some dimensions, and of their negatives, have in common.

    The p-value of a property is the fraction of axes of random rotations whose largest frames differ at least as much
    from a random subset (`Property.distance`). A property is described if it is significant at a false discovery rate
    of 5 % over all dimensions, signs and properties (Benjamini-Hochberg), and common enough (`Property.words`). As a
    control, the same is done for ten times as many random axes.

    Args:
        codes: `(frames, dims)`.
        dims: Dimensions to describe.
        utterances: `(frames,)`, names.
        seconds: `(frames,)`, times in the utterances.
        properties: Properties by name.
        seed: Seed of the rotations.

    Returns:
        "ends", the largest and smallest frames of each dimension, and the "control".
    """
    generator, points = generator_of(seed, "moments"), standardized(codes)
    tests = 2 * len(dims) * len(properties)
    num_rotations = math.ceil(tests / _LEVEL / points.shape[1])  # enough for the smallest p-value to be significant

    def distances(chosen: Iterable[np.ndarray]) -> np.ndarray:
        return np.array([[each.distance(moments) for each in properties.values()] for moments in chosen])

    def rotated() -> np.ndarray:
        return points @ random_rotation(points.shape[1], generator)

    def found_at(ends: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, list[list[str]]]:
        chosen = list(moments_of(ends, utterances, seconds))
        reached = (null[None] >= distances(chosen)[:, None]).sum(axis=1)
        ps = (reached + 1) / (len(null) + 1)
        beyond = false_discovery_control(ps.ravel()).reshape(ps.shape) <= _LEVEL
        words = [
            [
                text
                for (name, each), is_beyond in zip(properties.items(), row, strict=True)
                if is_beyond and (text := each.words(name, moments))
            ]
            for moments, row in zip(chosen, beyond, strict=True)
        ]
        return chosen, ps, beyond, words

    null = np.concatenate(
        [distances(moments_of(rotated(), utterances, seconds)) for _ in trange(num_rotations, desc="random axes")]
    )
    columns = points[:, list(dims)]
    chosen, ps, beyond, words = found_at(np.concatenate([columns, -columns], axis=1))
    controls = []
    for _ in range(_CONTROLS):
        axes = rotated()[:, : len(dims)]
        controls.append(found_at(np.concatenate([axes, -axes], axis=1)))
    random = [moments for control in controls for moments in control[0]]
    ends = [
        {
            "dimension": dim,
            "end": end,
            "utterances": len(np.unique(utterances[chosen[row]])),
            "words": words[row],
            "properties": {
                name: {
                    **each.summary(chosen[row]),
                    "p": float(ps[row, place]),
                    "beyond_random": bool(beyond[row, place]),
                }
                for place, (name, each) in enumerate(properties.items())
            },
        }
        for row, (end, dim) in enumerate((end, dim) for end in ("largest", "smallest") for dim in dims)
    ]
    return {
        "ends": sorted(ends, key=lambda end: list(dims).index(end["dimension"])),
        "control": {
            "axes": num_rotations * points.shape[1],
            "ends": len(random),
            "with_words": sum(bool(each) for control in controls for each in control[3]),
            "properties": {
                name: _usual([each.summary(moments) for moments in random]) for name, each in properties.items()
            },
        },
    }


def _usual(summaries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Medians of the numbers of several summaries."""
    numbers = [name for name in summaries[0] if name != "classes"]
    return {name: float(np.median([each[name] for each in summaries if each[name] is not None])) for name in numbers}


def properties_of(explorer: Explorer, items: Items) -> dict[str, Property]:
    """Properties of the frames: phone, speaker and sex from the corpus, the others measured from the sound."""
    dataset = explorer.dataset
    names = {column: class_label(dataset, column).names for column in (explorer.label, "speaker_id")}
    pitch, level, _, first, second = sound_at(dataset, items).T
    voiced, loud = (np.isfinite(each).astype(np.int64) for each in (pitch, level))
    hertz = [np.where(voiced, 2 ** (each / 12), np.nan) for each in (pitch, first, second)]
    sexes = np.array(dataset["sex"][:], dtype=np.int64)[rows_of(dataset, items.utterances)]
    return {
        "phone": Property(items.labels, names[explorer.label]),
        "speaker": Property(items.speakers, [f"speaker {name}" for name in names["speaker_id"]]),
        "sex": Property(sexes, ["women", "men"]),
        "voicing": Property(voiced, ["unvoiced", "voiced"]),
        "loudness": Property(loud, ["quiet", "loud"]),
        **dict(zip(UNITS, (Property(each) for each in (hertz[0], level, *hertz[1:])), strict=True)),
    }


def write_moments(path: str, checkpoint: str, data_dir: str, axes: str, feature: str = "module 2") -> None:
    """Describes the extreme frames and writes the result."""
    with tempfile.TemporaryDirectory() as temporary:
        settings = {"split_by": "speaker", "test_fraction": 0.33}
        explorer = Explorer(
            ExploreArguments(
                model=checkpoint,
                corpus="librispeech",
                data_dir=data_dir,
                corpus_settings=settings,
                minutes=60.0,
                cache_dir=temporary,
            )
        )
        (name,) = explorer.representations
        items, evidence = explorer.items(name), explorer.evidence(name, feature, axes)
        dims = evidence.order()[:NUM_DIMENSIONS]
        codes = explorer.codes(name, feature, axes)
        found = compare(codes, dims, items.utterances, items.seconds, properties_of(explorer, items))
        for end in found["ends"]:
            dim = end["dimension"]
            best = evidence.labels[dim] or max(evidence.correlations, key=lambda each: evidence.correlations[each][dim])
            end |= {
                "label": evidence.labels[dim],
                "best": best,
                "correlation": evidence.correlations[best][dim],
                "random_axes": evidence.random_axes[best],
            }
    write_json(
        path,
        {
            "corpus": "librispeech",
            "module": feature,
            "axes": axes,
            "speakers": len(np.unique(items.speakers)),
            "utterances": len(np.unique(items.utterances)),
            "moments": len(items.labels),
            "labels": sum(label is not None for label in evidence.labels),
            "dimensions": evidence.num_dims,
            **found,
        },
    )


def main() -> None:
    """Runs the command."""
    parser = ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    labels = commands.add_parser("labels", help="how many labels are correct")
    moments = commands.add_parser("moments", help="what the extreme frames have in common")
    for command in (labels, moments):
        command.add_argument("output", help="file of the result")
    labels.add_argument("checkpoints", nargs="+", help="folders of models")
    moments.add_argument("checkpoint", help="folder of a model")
    moments.add_argument("--data_dir", required=True, help="folder of LibriSpeech")
    moments.add_argument("--axes", choices=AXES, default="own", help="axes of the dimensions")
    arguments = parser.parse_args()
    if arguments.command == "labels":
        write_labels(arguments.output, arguments.checkpoints)
    else:
        write_moments(arguments.output, arguments.checkpoint, arguments.data_dir, arguments.axes)


if __name__ == "__main__":
    main()
