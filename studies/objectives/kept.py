"""What module 2 and the context keep of the sound now, and of the phone before: why objectives differ.

    python studies/objectives/kept.py runs/.../sim-0 runs/.../sim-1 runs/.../simclr-0 --output kept.json

The models are those of final rows of `run.py` on synthetic syllables. The page of the study has a table of the output.
The log-mel spectrum and the untrained first model are measured next to them. Per model and module:

- `R2`: of a linear regression of properties of the sound at voiced moments, cross-validated over utterances;
- `phone_before`: accuracy of a linear probe that predicts the vowel before from the last frame of a consonant, after a
  fit on half of the utterances; chance is one in three;
- `vowels`, `consonants`, `mixed`: ABX errors within speakers, of pairs of vowels, pairs of consonants, and pairs of one
  of each.
"""

from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from modeling_sim.analysis import abx, fit_linear_probe, linear_r2
from modeling_sim.evaluation.models import load_representations
from modeling_sim.evaluation.representations import Representation, SimModules
from modeling_sim.evaluation.settings import AnalysisArguments
from modeling_sim.evaluation.task import LabelTask, Tokens
from modeling_sim.files import read_json, write_json
from modeling_sim.settings import HelpFormatter
from modeling_sim.text import decimal

FILE_NAME = "kept.json"
"""Name of the output in the folder of the study's results, whose page then has the table."""

MODULES = ("module 2", "context")

_PROPERTIES = ("F1", "F2", "pitch", "gain")

# Names of phones that are vowels.
_VOWELS = ("a", "i", "u", "e", "o")

_PERCENT = ("phone_before", "vowels", "consonants", "mixed")

# Kinds of the spectra and of untrained networks.
_CONTROLS = ("spectrum", "untrained")


def of_module(task: LabelTask, representation: Representation, module: str) -> dict[str, Any]:
    """What a module, or a spectrum, keeps.

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
    return {
        "R2": {name: linear_r2(codes, each, groups) for name, each in values.items()},
        "phone_before": _phone_before(features, tokens, utterances, is_vowel),
        **_errors(features, tokens, is_vowel),
    }


def _phone_before(features: np.ndarray, tokens: Tokens, utterances: np.ndarray, is_vowel: np.ndarray) -> float:
    """Accuracy of the vowel before, from the last frames of consonants of half of the utterances."""
    before = np.array([previous for previous, _ in tokens.contexts])
    chosen = np.flatnonzero(~is_vowel[tokens.phones] & is_vowel[before])
    inputs, labels = np.asarray(features[tokens.ends[chosen] - 1]), before[chosen]
    first_half = np.unique(utterances)[::2]
    train = np.isin(utterances[chosen], first_half)
    probe = fit_linear_probe(inputs[train], labels[train], len(is_vowel), l2=1e-3)
    return float((probe.predict(inputs[~train]) == labels[~train]).mean())


def _errors(features: np.ndarray, tokens: Tokens, is_vowel: np.ndarray) -> dict[str, float]:
    """ABX errors within speakers by the sort of pair. That of mixed pairs is what is left of the error of all pairs.

    No token is left out, so that all three errors are of the same triples.
    """

    def score(chosen: np.ndarray) -> tuple[float, int]:
        bounds = zip(tokens.starts[chosen], tokens.ends[chosen], strict=True)
        segments = [features[start:end] for start, end in bounds]
        found = abx(
            segments, tokens.phones[chosen].tolist(), tokens.speakers[chosen].tolist(), max_tokens=len(features)
        )
        return found.error, found.num_pairs

    vowels = is_vowel[tokens.phones]
    parts = {"vowels": score(vowels), "consonants": score(~vowels)}
    total, count = score(np.ones_like(vowels))
    rest = total * count - sum(error * pairs for error, pairs in parts.values())
    mixed = rest / (count - sum(pairs for _, pairs in parts.values()))
    return {**{name: error for name, (error, _) in parts.items()}, "mixed": mixed}


def table(path: Path, names_of_kinds: Mapping[str, str]) -> list[str]:
    """Lines of a Markdown table of the output: means over the models of each kind.

    Args:
        path: The output.
        names_of_kinds: What to write for kinds; others are written as they are.
    """
    models = read_json(path)["models"]
    names = [*_PROPERTIES, "vowel before, %", "ABX, %: vowels", "consonants", "mixed"]
    lines = [f"| | models | {' | '.join(names)} |", f"|{' --- |' * (len(names) + 2)}"]
    for kind in dict.fromkeys(model["kind"] for model in models):
        of_kind = [model["modules"] for model in models if model["kind"] == kind]
        for module in of_kind[0]:
            found = [model[module] for model in of_kind]
            cells = [decimal(float(np.mean([each["R2"][name] for each in found])), 2) for name in _PROPERTIES]
            cells += [decimal(100 * float(np.mean([each[name] for each in found])), 1) for name in _PERCENT]
            lines.append(f"| {names_of_kinds.get(kind, kind)}, {module} | {len(of_kind)} | {' | '.join(cells)} |")
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("models", nargs="+", help="folders of models, named by the kind, a hyphen and the seed")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--cache_dir", default="runs/cache", help="folder of features")
    given = parser.parse_args(argv)
    found = []
    for folder in tqdm(given.models, unit="model"):
        arguments = AnalysisArguments(
            model=[folder],
            corpus="synthetic_syllables",
            label="phones",
            measures="disentanglement,abx",
            axes="own",
            max_items=5000,
            cache_dir=given.cache_dir,
            output_dir=folder,
        )
        task, name = LabelTask(arguments), Path(folder).name
        for each in load_representations(arguments, controls=folder == given.models[0]):
            is_network = isinstance(each, SimModules)
            kind = _CONTROLS[is_network] if each.control else name.rpartition("-")[0]
            modules = MODULES if is_network else ("log-mel",)
            measured = {module: of_module(task, each, module) for module in modules}
            found.append({"kind": kind, "model": name, "modules": measured})
    write_json(given.output, {"models": found})
    print("\n".join(table(given.output, {})))


if __name__ == "__main__":
    main()
