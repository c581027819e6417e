"""Which dimensions two seeds of a model share: correlations of matched dimensions, random axes, and a linear map.

    python studies/axes/agreement.py runs/sim-seed0 runs/sim-seed1 runs/gim-seed0 runs/gim-seed1 --output agreement.json
    python studies/axes/agreement.py --draw agreement.json agreement.png
    python studies/axes/agreement.py runs/sim-seed0 runs/sim-seed1 --corpus librispeech --data_dir LibriSpeech
    python studies/axes/agreement.py runs/sim-seed0 runs/sim-seed1 --temporal --output agreement_temporal.json

Models whose names differ after `-seed` are seeds of one method, and each pair of them is compared, on all frames of
test utterances. The theorem of docs/theory.md fixes the axes of dimensions whose autocorrelations differ from those of
others; so dimensions are sorted by decreasing autocorrelation. With `--temporal`, temporal components (SOBI) are
compared instead of dimensions; those of each model are found on training utterances, with 99 % of the variance.
"""

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from modeling_sim.analysis.axes.seed_consistency import seed_consistency
from modeling_sim.analysis.axes.transforms import FrameMoments, lag_profiles, temporal_components
from modeling_sim.data.batches import utterance_batches
from modeling_sim.data.corpora import load_corpus
from modeling_sim.evaluation.representations import SimModules
from modeling_sim.files import read_json, write_json
from modeling_sim.loading import feature_extractor_of, load_encoder, names_of
from modeling_sim.plots import GRAY, save_figure, style_of

# Dimensions per group in the printed table, from the slowest one.
_GROUPS = (8, 8, 16, 32)


def frames_of(path: str, dataset: Any, module: str) -> tuple[np.ndarray, list[int]]:
    """Means of a module, `(frames, channels)`, of all utterances, and the number of frames of each."""
    extractor = feature_extractor_of(path)
    modules, found = SimModules(path, load_encoder(path), extractor), dict[int, np.ndarray]()
    if module not in modules.modules:
        raise ValueError(f"`module` is {module!r}; {path} has {', '.join(modules.modules)}.")
    for batch in utterance_batches(dataset, extractor, batch_size=8):
        encoded = modules.encode(batch)[module]
        for index, frames, length in zip(batch["index"].tolist(), encoded.values, encoded.lengths, strict=True):
            found[index] = frames[:length]
    parts = [found[index] for index in sorted(found)]
    return np.concatenate(parts), [len(part) for part in parts]


def of_pair(first: np.ndarray, second: np.ndarray, lengths: list[int]) -> dict[str, Any]:
    """Agreement of all dimensions, and of each one of the first model, by decreasing autocorrelation.

    Args:
        first: `(frames, channels)`.
        second: The same frames, encoded by the other model.
        lengths: Frames of each utterance.
    """
    outcome = seed_consistency(first, second)
    profiles = lag_profiles(FrameMoments().add(first, lengths))[1]
    slowness = profiles.mean(axis=1)[outcome.pairs.first]
    order = np.argsort(-slowness)
    columns = {
        "autocorrelation": slowness,
        "matched": outcome.pairs.correlations,
        "rotated": outcome.rotated.mean(axis=0),
        "linear": outcome.multiple[0],
    }
    return {
        "matched_correlation": outcome.matched,
        "matched_correlation_rotated": float(outcome.rotated.mean()),
        "linear_agreement": outcome.linear,
        "share_of_linear": outcome.share,
        "dimensions": {name: [round(float(value), 4) for value in values[order]] for name, values in columns.items()},
    }


def lines(pair: dict[str, Any]) -> list[str]:
    """Means of each column over the slowest dimensions, the next ones, and so on; incomplete groups are skipped."""
    columns = {name: np.array(values) for name, values in pair["dimensions"].items()}
    found = [f"{pair['model']} {pair['other']}: {pair['share_of_linear']:.2f} of the linear agreement"]
    for start, stop in itertools.pairwise(np.cumsum((0, *_GROUPS))):
        if stop <= len(columns["matched"]):
            means = {name: float(values[start:stop].mean()) for name, values in columns.items()}
            text = ", ".join(f"{name} {value:.2f}" for name, value in means.items())
            found.append(f"  dimensions {start + 1} to {stop}: {text}, share {means['matched'] / means['linear']:.2f}")
    return found


def method_of(name: str) -> str:
    """The method of a model: its name without the seed."""
    return name.rsplit("-seed", 1)[0]


def draw(results: dict[str, Any]) -> Figure:
    """A panel per method: a point per dimension and pair, next to random axes and the best linear map."""
    pairs, drawn = results["pairs"], "temporal component" if results.get("axes") == "temporal" else "dimension"
    methods = list(dict.fromkeys(method_of(pair["model"]) for pair in pairs))
    figure = Figure(figsize=(4.6 * len(methods), 4), layout="constrained", dpi=120)
    axes = figure.subplots(1, len(methods), sharex=True, sharey=True, squeeze=False)[0]
    for method, axis in zip(methods, axes, strict=True):
        own = [pair["dimensions"] for pair in pairs if method_of(pair["model"]) == method]
        columns = {name: np.concatenate([pair[name] for pair in own]) for name in own[0]}
        slowness = columns["autocorrelation"]
        axis.plot(slowness, columns["linear"], ".", color=style_of(1).color, label="best linear map")
        axis.plot(slowness, columns["matched"], "o", color=style_of(0).color, label=f"one {drawn}", markersize=4)
        hollow = {"markerfacecolor": "none", "markeredgecolor": GRAY, "markersize": 4}
        axis.plot(slowness, columns["rotated"], "o", label="one random axis, matched", **hollow)
        axis.set_title(f"{method}, {len(own)} pair{'s' * (len(own) > 1)} of seeds", loc="left", fontsize=10)
        axis.set_xlabel("mean autocorrelation over lags of 1, 2, 4, ..., 64 frames")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_ylim(0, 1)
    figure.axes[0].set_ylabel("correlation with the other seed")
    figure.axes[0].legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def main() -> None:
    """Measures the models that the command line names, or draws results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="folders of saved models, as 'sim-seed0'")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--corpus", default="synthetic_syllables", help="corpus of the test utterances")
    parser.add_argument("--data_dir", help="folder of the corpus, if it is read from disk")
    parser.add_argument("--lists", help="folder with train.txt and test.txt, as in `--corpus_settings`")
    parser.add_argument("--module", default="module 2")
    parser.add_argument("--utterances", type=int, default=256, help="number of utterances per split")
    parser.add_argument("--temporal", action="store_true", help="compare temporal components")
    parser.add_argument("--draw", nargs=2, type=Path, metavar=("RESULTS", "PICTURE"), help="only draw these results")
    arguments = parser.parse_args()
    if arguments.draw:
        save_figure(draw(read_json(arguments.draw[0])), arguments.draw[1])
        return
    names = names_of(arguments.models)
    chosen = [pair for pair in itertools.combinations(names, 2) if method_of(pair[0]) == method_of(pair[1])]
    if not chosen:
        parser.error("no two models are seeds of one method; name their folders NAME-seed0, NAME-seed1, ...")
    settings = {"data_dir": arguments.data_dir} if arguments.data_dir else {}
    settings |= {"split_by": "list", "lists": arguments.lists} if arguments.lists else {}
    paths = dict(zip(names, arguments.models, strict=True))

    def frames_of_models(split: str) -> dict[str, tuple[np.ndarray, list[int]]]:
        dataset = load_corpus(arguments.corpus, split, **settings)
        dataset = dataset.select(range(min(len(dataset), arguments.utterances)))
        return {name: frames_of(path, dataset, arguments.module) for name, path in paths.items()}

    frames = frames_of_models("test")
    if arguments.temporal:
        for name, (values, lengths) in frames_of_models("train").items():
            test, of_test = frames[name]
            frames[name] = temporal_components(values, lengths).apply(test), of_test
    pairs = []
    for first, second in chosen:
        codes, lengths = frames[first]
        found = of_pair(codes, frames[second][0], lengths)
        size = {"utterances": len(lengths), "frames": sum(lengths)}
        pairs.append({"model": first, "other": second, "module": arguments.module, **size, **found})
        print("\n".join(lines(pairs[-1])), flush=True)
    if arguments.output:
        axes = "temporal" if arguments.temporal else "own"
        write_json(arguments.output, {"schema": 1, "corpus": arguments.corpus, "axes": axes, "pairs": pairs})


if __name__ == "__main__":
    main()
