"""How informative single dimensions of saved models are: own axes, PCA, SOBI and random axes.

    python studies/axes/measure.py runs/gim runs/sim-seed0 runs/sim-seed1 --output axes.json

Models read the test utterances of synthetic syllables, whose factors are known; axes are found and probes fitted on
training utterances. Each row, of one model, module and axes, is printed and written when it is measured.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from modeling_sim import SimFeatureExtractor
from modeling_sim.analysis import fit_linear_probe
from modeling_sim.analysis._arrays import deviations
from modeling_sim.analysis.axes.best_dimensions import axis_gaps, axis_scores
from modeling_sim.analysis.axes.transforms import principal_components, random_axes, temporal_components
from modeling_sim.analysis.gaussianity import standardized
from modeling_sim.analysis.scorecard import SPECTRUM_MODULE
from modeling_sim.data.batches import utterance_batches
from modeling_sim.data.corpora.alignments import LABEL_RATE, label_centers
from modeling_sim.data.corpora.synthetic_syllables import load
from modeling_sim.evaluation.representations import SimModules, Spectra, TimedFrames
from modeling_sim.files import write_json
from modeling_sim.loading import feature_extractor_of, load_encoder, names_of
from modeling_sim.settings import chosen_numbers

AMOUNTS = ("pitch", "tract", "gain")
CLASSES = ("vowel", "syllable", "speaker")
# `error_of_few` keeps one dimension per this number of channels of the model.
CHANNELS_PER_DIMENSION = 8
# Label frames, of 10 ms, from one item to the next.
FRAME_STEP = 4
LOG_MEL = "log-mel"


class Encoded:
    """Modules of a model on a split: all frames, and those in voiced vowels with their factors.

    Args:
        name: Folder of the model, or "log-mel" for spectra.
        dataset: Synthetic syllables.
        modules: Names of modules, or `None` for all.
    """

    def __init__(self, name: str, dataset: Dataset, modules: list[str] | None) -> None:
        encode, extractor = spectra() if name == LOG_MEL else encoder(name, modules)
        phones = dataset.features["phones"].feature.names
        vowels = [phones.index(vowel) for vowel in dataset.features["vowel"].feature.names]
        rows = dataset.remove_columns("audio")
        frames, codes, factors, divergences = (defaultdict[str, list[np.ndarray]](list) for _ in range(4))
        for batch in utterance_batches(dataset, extractor, batch_size=16):
            found = [moments(rows[index], vowels) for index in batch["index"].tolist()]
            for _, of_row in found:
                for factor, values in of_row.items():
                    factors[factor].append(values)
            for module, (timed, log_variances) in encode(batch).items():
                for row, (length, (seconds, _)) in enumerate(zip(timed.lengths, found, strict=True)):
                    means = timed.values[row, :length]
                    frames[module].append(means)
                    codes[module].append(timed.at(row, seconds))
                    if log_variances is not None:
                        of_row = log_variances[row, :length]
                        divergences[module].append((np.square(means) + np.exp(of_row) - 1 - of_row).sum(axis=1) / 2)
        self.names, self.frames = list(frames), frames
        self.codes = {module: np.concatenate(parts) for module, parts in codes.items()}
        self.factors = {factor: np.concatenate(parts) for factor, parts in factors.items()}
        self.kl = {module: float(np.concatenate(parts).mean()) for module, parts in divergences.items()}


Encoder = Callable[[dict[str, Any]], dict[str, tuple[TimedFrames, np.ndarray | None]]]


def encoder(path: str, modules: list[str] | None) -> tuple[Encoder, SimFeatureExtractor]:
    """A function that returns the means and log-variances of a batch for each module of a saved model."""
    model, extractor = load_encoder(path), feature_extractor_of(path)
    representation = SimModules(path, model, extractor)
    chosen = chosen_numbers(representation.modules, "all" if modules is None else ",".join(modules))
    names = {name: number for name, number in representation.modules.items() if number in chosen}

    @torch.no_grad()
    def encode(batch: dict[str, Any]) -> dict[str, tuple[TimedFrames, np.ndarray | None]]:
        outputs = model(batch["input_values"], batch["attention_mask"], sample=False, output_hidden_states=True)
        log_variances = dict(enumerate(outputs.log_variances or ()))
        found = {}
        for name, number in names.items():
            of_module = log_variances.get(number)
            timed = representation.timed(number, outputs.hidden_states[number].float().numpy(), batch)
            found[name] = timed, None if of_module is None else of_module.float().numpy()
        return found

    return encode, extractor


def spectra() -> tuple[Encoder, SimFeatureExtractor]:
    """A function that returns the log-mel frames of a batch."""
    representation = Spectra()
    return lambda batch: {SPECTRUM_MODULE: (representation.encode(batch)[LOG_MEL], None)}, representation.extractor


def moments(row: dict[str, Any], vowels: list[int]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Seconds at which an utterance has a voiced vowel, every 40 ms, and its factors there."""
    phones, pitch = np.array(row["phones"]), np.array(row["f0_track"])
    of_vowel = np.isin(phones, vowels)
    # Vowels are not adjacent, one per syllable, so a vowel has the number of its syllable.
    number = np.cumsum(np.diff(of_vowel, prepend=False) & of_vowel) - 1
    chosen = np.flatnonzero(of_vowel & (pitch > 0))
    chosen = chosen[chosen % FRAME_STEP == 0]
    same = np.ones(len(chosen))
    return label_centers(len(phones))[chosen] / LABEL_RATE, {
        "pitch": np.log(pitch[chosen].astype(np.float64)),
        "tract": row["vocal_tract_length"] * same,
        "gain": row["gain"] * same,
        "vowel": np.searchsorted(vowels, phones[chosen]),
        "syllable": np.array(row["syllable"])[number[chosen]],
        "speaker": np.full(len(chosen), row["speaker_id"]),
        "utterance": np.full(len(chosen), int(row["id"].rsplit("-")[-1])),
    }


def of_space(
    codes: np.ndarray, asked: np.ndarray, factors: dict[str, np.ndarray], wanted: dict[str, np.ndarray]
) -> dict[str, float]:
    """Test scores of linear models fitted to training codes: R² of amounts, accuracies of classes."""
    weights, questions = ridge(codes, asked, np.stack([factors[amount] for amount in AMOUNTS], axis=1))
    row = {}
    for number, amount in enumerate(AMOUNTS):
        rest = wanted[amount] - factors[amount].mean() - questions @ weights[:, number]
        row[f"{amount}_r2"] = float(1 - np.square(rest).mean() / wanted[amount].var())
    for label in CLASSES:
        probe = fit_linear_probe(codes, factors[label], int(factors[label].max()) + 1, l2=1e-3)
        row[f"{label}_accuracy"] = float((probe.predict(asked) == wanted[label]).mean())
    return row


def ridge(codes: np.ndarray, asked: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights `(dims, targets)` from standardized training codes to centered targets, and standardized test codes."""
    center, scale = codes.mean(axis=0, dtype=np.float64), deviations(codes)
    inputs = (codes - center) / scale
    gram = inputs.T @ inputs / len(inputs) + 1e-3 * np.eye(inputs.shape[1])
    return np.linalg.solve(gram, inputs.T @ (targets - targets.mean(axis=0)) / len(inputs)), (asked - center) / scale


def error_of_few(codes: np.ndarray, asked: np.ndarray, spectrum: np.ndarray, kept: int) -> float:
    """Error of a linear decoder that uses only a few dimensions, relative to its output with all dimensions.

    A ridge regression from training codes to log-mel frames is the decoder. The dimensions that change its output most
    are kept, and the others are replaced by their means. The squared distance to the output of all dimensions is
    divided by that with no dimension kept, so all dimensions have an error of 0 and none of 1.

    Args:
        codes: `(items, dims)`, training codes.
        asked: `(test items, dims)`.
        spectrum: `(items, bands)`, log-mel frames at the same moments as the training codes.
        kept: Number of dimensions that are kept.
    """
    weights, questions = ridge(codes, asked, spectrum)
    dropped = np.argsort(-np.linalg.norm(weights, axis=1), kind="stable")[kept:]
    rest = questions[:, dropped] @ weights[dropped]
    return float(np.square(rest).sum() / np.square(questions @ weights).sum())


def of_model(
    name: str, train: Encoded, test: Encoded, module: str, spectrum: np.ndarray, rotations: int
) -> list[dict[str, Any]]:
    """Rows of one module: own axes, principal and temporal components, and random rotations of own and temporal ones.

    Components are white, so random axes of temporal components are also the control of principal components. `spectrum`
    is `(items, bands)`, log-mel frames at the times of the training codes.
    """
    frames, lengths = np.concatenate(train.frames[module]), [len(part) for part in train.frames[module]]
    factors = test.factors
    codes = {
        "own": (train.codes[module], test.codes[module]),
        **{
            axes: (transform.apply(train.codes[module]), transform.apply(test.codes[module]))
            for axes, transform in (
                ("PCA", principal_components(frames, keep=0.99)),
                ("SOBI", temporal_components(frames, lengths)),
            )
        },
    }
    wanted, groups = {key: factors[key] for key in (*AMOUNTS, "vowel")}, factors["utterance"]
    kept = frames.shape[1] // CHANNELS_PER_DIMENSION
    rows: list[dict[str, Any]] = []
    for axes, (of_train, of_test) in codes.items():
        row = {"axes": axes, "dims": of_test.shape[1], **of_space(of_train, of_test, train.factors, factors)}
        row["error_of_few"] = error_of_few(of_train, of_test, spectrum, kept)
        if axes == "PCA":
            rows.append(row | axis_scores(of_test, wanted, groups))
            continue
        gaps = axis_gaps(of_test, wanted, groups, num_rotations=rotations)
        turned = [random_axes(of_train, seed) for seed in range(rotations)]
        errors = [error_of_few(each.apply(of_train), each.apply(of_test), spectrum, kept) for each in turned]
        rows += [
            row | {key: gap.aligned for key, gap in gaps.items()},
            {"axes": "rotated" if axes == "own" else f"{axes}, rotated", "dims": of_test.shape[1]}
            | {key: float(gap.rotated.mean()) for key, gap in gaps.items()}
            | {"error_of_few": float(np.mean(errors))}
            | {f"{key}_largest": float(gap.rotated.max()) for key, gap in gaps.items()},
        ]
    frames = standardized(np.concatenate(test.frames[module]))
    correlation = frames.T @ frames / len(frames)
    rows[0]["participation_ratio"] = float(np.trace(correlation) ** 2 / np.square(correlation).sum())
    rows[0]["kl"] = test.kl.get(module)
    return [{"model": name, "module": module, **row} for row in rows]


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as aligned text, a column per number; rows without a number have a dash."""
    columns = list(dict.fromkeys(key for row in rows for key in row if not key.endswith("_largest")))
    cells = [columns] + [
        [f"{row[key]:.3f}" if isinstance(row.get(key), float) else str(row.get(key, "-")) for key in columns]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)


def main() -> None:
    """Measures the models that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="folders of saved models, or log-mel")
    parser.add_argument("--output", type=Path, help="JSON file to write; it is written again after each model")
    parser.add_argument("--modules", nargs="+", help="names of modules, as 'module 2' or 'context'; all by default")
    parser.add_argument("--utterances", type=int, default=256, help="number of utterances per split")
    parser.add_argument("--rotations", type=int, default=5)
    arguments = parser.parse_args()
    splits = {
        split: load(split=split, num_train=arguments.utterances, num_test=arguments.utterances)
        for split in ("train", "test")
    }
    spectrum = Encoded(LOG_MEL, splits["train"], None).codes[SPECTRUM_MODULE]
    rows: list[dict[str, Any]] = []
    for path, name in zip(arguments.models, names_of(arguments.models), strict=True):
        start = time.perf_counter()
        train, test = (Encoded(path, data, arguments.modules) for data in splits.values())
        of_this = [
            row for module in test.names for row in of_model(name, train, test, module, spectrum, arguments.rotations)
        ]
        rows += of_this
        print(table(of_this), f"{name}: {time.perf_counter() - start:.0f} s", sep="\n", end="\n\n", flush=True)
        if arguments.output:
            write_json(arguments.output, {"schema": 1, "rows": rows})


if __name__ == "__main__":
    main()
