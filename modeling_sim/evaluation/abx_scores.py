"""ABX: how well tokens of phones are told apart by every feature; see `modeling-sim abx --help`."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from modeling_sim.analysis import abx as abx_of_tokens
from modeling_sim.data.corpora.contract import label_classes
from modeling_sim.evaluation.features import extract
from modeling_sim.evaluation.representations import load_representations, with_provenance
from modeling_sim.evaluation.settings import AbxArguments, claim_output_dir, load_split
from modeling_sim.files import save_results
from modeling_sim.plots import GRAY, plot_text, save_figure, style_of
from modeling_sim.text import printable

_NO_PHONES = ("SIL", "SPN", "sil", "spn")


CONDITIONS = tuple(itertools.product(("within", "across"), ("any", "triphone")))


class Tokens(NamedTuple):
    """Segments of an alignment, the same for all features; bounds are positions in the items."""

    starts: np.ndarray
    ends: np.ndarray
    phones: np.ndarray
    contexts: list[tuple[int, int]]
    """Classes before and after."""
    speakers: np.ndarray


def abx(arguments: AbxArguments) -> dict[str, Any]:
    """Measures every feature; writes the results and returns them."""
    dataset = load_split(arguments, arguments.split)
    classes = label_classes(dataset, arguments.label)
    claim_output_dir(arguments, "ABX measurement", ("abx.json",), ("abx",))
    rows: list[dict[str, Any]] = []
    sources = load_representations(arguments)
    for source in sources:
        items = extract(
            dataset,
            source,
            label=arguments.label,
            pooling="frame",
            frame_step=1,
            batch_size=arguments.batch_size,
            cache_dir=Path(arguments.cache_dir),
            description=source.name,
        )
        tokens = find_tokens(items.labels, items.utterances, items.speakers, classes)
        for feature, values in tqdm(items.features.items(), desc=f"ABX {source.name}", leave=False):
            segments = [values[start:end] for start, end in zip(tokens.starts, tokens.ends, strict=True)]
            row: dict[str, Any] = {"name": source.row_name(feature), "source": source.name, "feature": feature}
            for mode, context in CONDITIONS:
                score = abx_of_tokens(
                    segments,
                    tokens.phones.tolist(),
                    tokens.speakers.tolist(),
                    tokens.contexts if context == "triphone" else None,
                    mode=mode,  # type: ignore[arg-type]
                    max_tokens=arguments.max_tokens,
                    seed=arguments.seed,
                )
                row[f"{mode} {context}"] = vars(score)
            rows.append(row)
    results = with_provenance(
        arguments, {"split": arguments.split, "tokens": len(tokens.phones), "rows": rows}, sources
    )
    output_dir = Path(arguments.output_dir)
    if arguments.figure_format is not None:
        draw(results, output_dir / f"abx.{arguments.figure_format}")
    save_results(output_dir / "abx.json", results)  # last: it says that the picture is there
    return results


def find_tokens(labels: np.ndarray, utterances: np.ndarray, speakers: np.ndarray, classes: Sequence[str]) -> Tokens:
    """Runs of one label in an utterance, without silence and noise, and without the first and last of an utterance."""
    starts, ends = _runs((labels[1:] != labels[:-1]) | (utterances[1:] != utterances[:-1]))
    phones = labels[starts]
    inner = np.zeros(len(starts), dtype=bool)
    same = utterances[starts][1:] == utterances[starts][:-1]
    inner[1:-1] = same[:-1] & same[1:]
    kept = np.flatnonzero(inner & ~np.isin(phones, [classes.index(name) for name in _NO_PHONES if name in classes]))
    contexts = [(int(phones[token - 1]), int(phones[token + 1])) for token in kept]
    return Tokens(starts[kept], ends[kept], phones[kept], contexts, speakers[starts][kept])


def utterance_tokens(labels: np.ndarray, utterances: np.ndarray, speakers: np.ndarray) -> Tokens:
    """Whole utterances, which have one label and no context."""
    starts, ends = _runs(utterances[1:] != utterances[:-1])
    return Tokens(starts, ends, labels[starts], [(-1, -1)] * len(starts), speakers[starts])


def _runs(changes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of runs of items, by where an item differs from the one before, `(items - 1,)`."""
    bounds = np.flatnonzero(np.concatenate([[True], changes, [True]]))
    return bounds[:-1], bounds[1:]


def table(results: dict[str, Any]) -> str:
    """The results as text."""
    columns = [f"{mode} {context}" for mode, context in CONDITIONS]
    lines = [
        f"ABX error on {results['tokens']} tokens of {results['corpus']} ({results['split']}); chance is 50 %",
        "",
        f"{'':<44}" + "".join(f"{column:>17}" for column in columns),
    ]
    for row in results["rows"]:
        errors = "".join(f"{row[column]['error']:>17.1%}" for column in columns)
        lines += [f"{printable(row['name']):<44}{errors}"]
    return "\n".join(lines)


def draw(results: dict[str, Any], path: Path) -> None:
    """Errors of every feature, one panel within and one across speakers."""
    rows = results["rows"][::-1]
    figure = Figure(figsize=(9, 1.4 + 0.32 * len(rows)), layout="constrained", dpi=120)
    axes = figure.subplots(1, 2, sharey=True, sharex=True)
    for axis, mode in zip(axes, ("within", "across"), strict=True):
        for context, marker in (("any", "o"), ("triphone", "D")):
            errors = [row[f"{mode} {context}"]["error"] for row in rows]
            models = results["models"]
            colors = [style_of(models.index(row["source"])).color if row["source"] in models else GRAY for row in rows]
            axis.scatter(errors, range(len(rows)), c=colors, marker=marker, s=28)
            axis.scatter([], [], c=GRAY, marker=marker, s=28, label=f"{context} context")
        axis.axvline(0.5, color=GRAY, linestyle="--", linewidth=1)
        axis.set_title(f"{mode} speakers", loc="left", fontsize=10)
        axis.set_xlabel("ABX error (chance 50 %)")
        axis.set_xlim(0, 0.55)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axis.grid(axis="x", alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(rows)), [plot_text(row["name"]) for row in rows], fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside lower center", ncols=2)
    save_figure(figure, path)
