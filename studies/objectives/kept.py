"""What module 2 and the context encode about the current sound and the previous phone: why objectives differ.

    python studies/objectives/kept.py runs/.../sim-0 runs/.../sim-1 runs/.../simclr-0 --output kept.json

The models are those of final rows of `run.py` on synthetic syllables. The page of the study has a table of the output.
The log-mel spectrum and the untrained first model are also measured. Per model and module:

- `R2`: of a linear regression of properties of the sound in voiced frames, cross-validated over utterances;
- `phone_before`: accuracy of a linear probe that predicts the previous vowel from the last frame of a consonant,
  cross-validated over utterances; chance is one in three;
- `vowels`, `consonants`, `mixed`: ABX errors within speakers, of pairs of vowels, pairs of consonants, and pairs of one
  of each;
- `distance_before`: ABX error within speakers of the previous vowel, among consonants: low if consonants are closest to
  others after the same vowel.
"""

from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import GroupKFold
from tqdm.auto import tqdm

from modeling_sim.analysis import AbxScore, abx, fit_linear_probe, linear_r2
from modeling_sim.evaluation.models import load_representations
from modeling_sim.evaluation.representations import Representation, SimModules
from modeling_sim.evaluation.settings import AnalysisArguments
from modeling_sim.evaluation.task import LabelTask, Tokens
from modeling_sim.files import read_json, write_json
from modeling_sim.hub.escaping import markdown_table
from modeling_sim.settings import HelpFormatter
from modeling_sim.text import decimal

FILE_NAME = "kept.json"
"""Name of the output in the folder of the study's results, whose page then contains the table."""

MODULES = ("module 2", "context")

_PROPERTIES = ("F1", "F2", "pitch", "gain")

# Names of phones that are vowels.
_VOWELS = ("a", "i", "u", "e", "o")

_PERCENT = ("phone_before", "distance_before", "vowels", "consonants", "mixed")

# Kinds of the spectra and of untrained networks.
_CONTROLS = ("spectrum", "untrained")


def of_module(task: LabelTask, representation: Representation, module: str) -> dict[str, Any]:
    """Measures a module, or a spectrum.

    Args:
        task: Phones of synthetic syllables.
        representation: A model, or the spectra.
        module: One of its modules or spectra.
    """
    is_vowel = np.isin(task.classes, _VOWELS)
    moments, (_, test) = task.moments(representation), task.items(representation)
    features, tokens = moments.features[module], task.tokens(moments)
    factors, utterances = task.factors(test), moments.utterances[tokens.starts]
    values = {name: factors.all[name] for name in _PROPERTIES}
    codes, groups = test.features[module][factors.items], test.utterances[factors.items]
    before = np.array([previous for previous, _ in tokens.contexts])
    after_vowel = ~is_vowel[tokens.phones] & is_vowel[before]
    return {
        "R2": {name: linear_r2(codes, each, groups) for name, each in values.items()},
        "phone_before": _phone_before(features, tokens, before, after_vowel, utterances),
        "distance_before": _score(features, tokens, before, after_vowel).error,
        **_errors(features, tokens, is_vowel),
    }


def _phone_before(
    features: np.ndarray, tokens: Tokens, before: np.ndarray, chosen: np.ndarray, utterances: np.ndarray
) -> float:
    """Accuracy for the previous phone, from the last frames of chosen tokens, cross-validated over utterances."""
    inputs, labels = np.asarray(features[tokens.ends[chosen] - 1]), before[chosen]
    # Shuffled, because the speaker of an utterance follows from its number.
    folds = GroupKFold(5, shuffle=True, random_state=0).split(inputs, labels, utterances[chosen])
    right = 0
    for train, test in folds:
        probe = fit_linear_probe(inputs[train], labels[train], int(before.max()) + 1, l2=1e-3)
        right += int((probe.predict(inputs[test]) == labels[test]).sum())
    return right / len(labels)


def _errors(features: np.ndarray, tokens: Tokens, is_vowel: np.ndarray) -> dict[str, float]:
    """ABX errors by type of pair. That of mixed pairs is computed from the error of all pairs and the other two."""
    vowels = is_vowel[tokens.phones]
    own = {"vowels": vowels, "consonants": ~vowels}
    parts = {name: _score(features, tokens, tokens.phones, chosen) for name, chosen in own.items()}
    total = _score(features, tokens, tokens.phones, np.ones_like(vowels))
    rest = total.error * total.num_pairs - sum(part.error * part.num_pairs for part in parts.values())
    mixed = rest / (total.num_pairs - sum(part.num_pairs for part in parts.values()))
    return {**{name: part.error for name, part in parts.items()}, "mixed": mixed}


def _score(features: np.ndarray, tokens: Tokens, classes: np.ndarray, chosen: np.ndarray) -> AbxScore:
    """ABX within speakers of all chosen tokens: a random choice would differ between types of pairs."""
    segments = [features[start:end] for start, end in zip(tokens.starts[chosen], tokens.ends[chosen], strict=True)]
    return abx(segments, classes[chosen].tolist(), tokens.speakers[chosen].tolist(), max_tokens=len(features))


def table(path: Path, names_of_kinds: Mapping[str, str]) -> str:
    """A Markdown table of the output: means over the models of each kind.

    Args:
        path: The output.
        names_of_kinds: Names of kinds in the table; other kinds keep their names.
    """
    models = read_json(path)["models"]
    names = [
        *_PROPERTIES,
        "vowel before, %",
        "ABX error of the vowel before, %",
        "of vowels",
        "of consonants",
        "of a vowel and a consonant",
    ]
    rows = []
    for kind in dict.fromkeys(model["kind"] for model in models):
        of_kind = [model["modules"] for model in models if model["kind"] == kind]
        for module in of_kind[0]:
            found = [model[module] for model in of_kind]
            cells = [decimal(float(np.mean([each["R2"][name] for each in found])), 2) for name in _PROPERTIES]
            cells += [decimal(100 * float(np.mean([each[name] for each in found])), 1) for name in _PERCENT]
            rows.append([f"{names_of_kinds.get(kind, kind)}, {module}", str(len(of_kind)), *cells])
    return markdown_table(["", "models", *names], rows)


def _chosen(representations: Sequence[Representation]) -> list[Representation]:
    """The spectra, the first untrained network, and all models."""
    controls = [each for each in representations if each.control]
    return controls[:2] + [each for each in representations if not each.control]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("models", nargs="+", help="folders of models, named by the kind, a hyphen and the seed")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--cache_dir", default="runs/cache", help="folder of features")
    given = parser.parse_args(argv)
    arguments = AnalysisArguments(
        model=given.models,
        corpus="synthetic_syllables",
        label="phones",
        measures="disentanglement,abx",
        axes="own",
        max_items=5000,
        cache_dir=given.cache_dir,
    )
    task, found = LabelTask(arguments), []
    for each in tqdm(_chosen(load_representations(arguments)), unit="model"):
        is_network = isinstance(each, SimModules)
        kind = _CONTROLS[is_network] if each.control else each.name.rpartition("-")[0]
        measured = {name: of_module(task, each, name) for name in (MODULES if is_network else ("log-mel",))}
        found.append({"kind": kind, "model": each.name, "modules": measured})
    write_json(given.output, {"models": found})
    print(table(given.output, {}))


if __name__ == "__main__":
    main()
