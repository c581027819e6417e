"""Tables and pictures of the results of `run.py`, in `docs/images_text.md`.

python studies/images_text/page.py           # replaces the tables between the marks of the page, draws the pictures
python studies/images_text/page.py --check   # fails if the tables are not those of the results
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Image
from matplotlib.figure import Figure

from modeling_sim.analysis.axes.best_dimensions import best_dimensions
from modeling_sim.data.corpora import load_corpus
from modeling_sim.data.corpora.sprites import FACTORS
from modeling_sim.files import read_json, replacing
from modeling_sim.hub.escaping import markdown_table
from modeling_sim.plots import GRAY, save_figure, style_of
from studies.images_text.run import TASKS

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGE, PICTURES = ROOT / "studies/images_text/results", ROOT / "docs/images_text.md", ROOT / "docs/images"
BEGIN, END = "<!-- {name}: made by studies/images_text/page.py -->", "<!-- end of {name} -->"
_TASKS = ("digits", "mnist", "stress", "grammar")
_PICTURED = "digits"
_PRETRAINED = ("SIM", "GIM", "CPC")
_ORDER = [*list(FACTORS)[1:], "shape"]  # shape, a class, comes last

Runs = list[dict[str, Any]]


def runs_of(task: str) -> Runs:
    """The results of all seeds of a task."""
    return [read_json(path) for path in sorted(RESULTS.glob(f"{task}_seed*.json"))]


def score(method: dict[str, Any], features: str) -> float | None:
    """Test accuracy with features of the module that is best in validation; controls have only one."""
    if "rows" not in method:
        return method["test"] if features == "pooled" else None
    rows = [row for name, row in method["rows"].items() if name.endswith(features)]
    return max(rows, key=lambda row: row["validation"])["test"] if rows else None


def _cell(values: Sequence[float | None], factor: float = 100, digits: int = 1) -> str:
    """Mean and standard deviation over seeds."""
    known = [factor * value for value in values if value is not None]
    if not known:
        return ""
    spread = f" ± {np.std(known, ddof=1):.{digits}f}" if len(known) > 1 and np.ptp(known) > 0 else ""
    return f"{np.mean(known):.{digits}f}{spread}"


def accuracies() -> str:
    """A row per method, a column per task and way of pooling."""
    columns = [
        (task, features, runs)
        for task in _TASKS
        if (runs := runs_of(task))
        for features in ("pooled", "quarters")
        if score(runs[0]["methods"]["SIM"], features) is not None
    ]
    names = dict.fromkeys(name for _, _, runs in columns for name in runs[0]["methods"])
    rows = []
    for name in names:
        found = [
            [score(run["methods"][name], features) if name in run["methods"] else None for run in runs]
            for _, features, runs in columns
        ]
        rows.append([name, *map(_cell, found)])
    rows.append(["most frequent class", *(_cell([run["chance"] for run in runs]) for _, _, runs in columns)])
    differences = [
        [score(run["methods"]["SIM"], features) - score(run["methods"]["CPC"], features) for run in runs]  # type: ignore[operator]
        for _, features, runs in columns
    ]
    rows.append(["SIM minus CPC", *map(_cell, differences)])
    rows.append(["test items", *(str(runs[0]["test_items"]) for _, _, runs in columns)])
    rows.append(["steps of 32 items", *(str(runs[0]["steps"]) for _, _, runs in columns)])
    rows.append(["seeds", *(str(len(runs)) for _, _, runs in columns)])
    return markdown_table(["", *(f"{task}, {features}" for task, features, _ in columns)], rows)


def neighbors() -> str:
    """Fraction of the nearest training items with the class of the test item."""
    found = {task: runs[0]["neighbors_of_the_same_class"] for task in _TASKS if (runs := runs_of(task))}
    names = dict.fromkeys(name for shares in found.values() for name in shares)
    rows = [[name, *(_cell([shares.get(name)]) for shares in found.values())] for name in names]
    return markdown_table(["", *found], rows)


def sprites() -> str:
    """The best dimension for each factor: mean over seeds, and the lowest."""
    runs, rows = runs_of("sprites"), []
    for name in runs[0]["methods"]:
        best = [run["methods"][name]["best"] for run in runs if name in run["methods"]]
        cells = [f"{np.mean([b[f] for b in best]):.2f} ({min(b[f] for b in best):.2f})" for f in _ORDER]
        rows.append([name, *cells, str(len(best))])
    amount = np.linspace(0, 1, 3000, endpoint=False)  # ranks of a latent whose thirds are the classes
    ceiling = best_dimensions(amount[:, None], {"shape": np.floor(3 * amount)}).correlation["shape"]
    rows.append(["a latent that follows the factor exactly", *["1.00"] * (len(_ORDER) - 1), f"{ceiling:.2f}", ""])
    return markdown_table(["", *_ORDER, "seeds"], rows)


def axes() -> str:
    """Own axes next to randomly rotated axes: means over seeds."""
    titles = {
        "dci_disentanglement": "DCI disentanglement",
        "dci_completeness": "DCI completeness",
        "mutual_information_gap": "MIG",
        "best_dimension": "best dimension, mean of factors",
    }
    runs, rows = runs_of("sprites"), []
    for name in runs[0]["methods"]:
        gaps = [run["methods"][name]["own_and_rotated"] for run in runs if name in run["methods"]]
        means = {key: np.mean([gap[key] for gap in gaps], axis=0) for key in titles}
        rows.append([name, *(f"{own:.2f} / {turned:.2f}" for own, turned in means.values())])
    return markdown_table(["own axes / random axes", *titles.values()], rows)


def words() -> str:
    """Nearest training words of some test words."""
    run = runs_of("stress")[0]
    corpus, settings, _, _ = TASKS["stress"]
    train, test = (load_corpus(corpus, split, **settings)["word"][:] for split in ("train", "test"))
    shown = [name for name in run["neighbors"] if name != "bag of 1 to 1-grams"]
    rows = [
        [test[query], *(", ".join(train[row] for row in run["neighbors"][name][number][:3]) for name in shown)]
        for number, query in enumerate(run["queries"][:6])
    ]
    return markdown_table(["test word", *shown], rows)


TABLES: dict[str, Callable[[], str]] = {
    "accuracies": accuracies,
    "neighbors": neighbors,
    "words": words,
    "sprites": sprites,
    "axes": axes,
}


def page(text: str) -> str:
    """The page with the tables of the results."""
    for name, make in TABLES.items():
        begin, end = BEGIN.format(name=name), END.format(name=name)
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n\n{make()}\n\n{end}{after}"
    return text


# ---------------------------------------------------------------------- pictures


def draw_sprites() -> Figure:
    """Bars of the best dimension of each factor, means over seeds, with a dot per seed."""
    runs = runs_of("sprites")
    figure = Figure(figsize=(7.5, 3.0), layout="constrained")
    axis, names = figure.subplots(), list(runs[0]["methods"])
    for number, name in enumerate(names):
        values = np.array([[run["methods"][name]["best"][f] for f in _ORDER] for run in runs if name in run["methods"]])
        places = np.arange(len(_ORDER)) + (number - (len(names) - 1) / 2) / (len(names) + 1)
        axis.bar(places, values.mean(axis=0), 1 / (len(names) + 1.5), label=name, color=style_of(number).color)
        axis.plot(np.tile(places, len(values)), values.ravel(), ".", color="black", markersize=3)
    axis.axhline(0.7, color=GRAY, lw=0.8, ls="--")
    axis.set_xticks(np.arange(len(_ORDER)), _ORDER)
    axis.set_ylabel("best |rank correlation|")
    axis.set_ylim(0, 1.02)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=len(names), fontsize=8)
    _clean(axis)
    return figure


def draw_curves() -> Figure:
    """Contrastive accuracy of the context of each method over the steps, a line per seed."""
    found = {task: runs for task in _TASKS if (runs := runs_of(task))}
    figure = Figure(figsize=(2.6 * len(found), 2.6), layout="constrained")
    for axis, (task, runs) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        for number, name in enumerate(_PRETRAINED):
            for run in runs:
                curve = [100 * row[-1] for row in run["methods"][name]["curve"]]
                steps = (np.arange(len(curve)) + 0.5) * run["steps"] / len(curve)
                label = name if run is runs[0] else None
                axis.plot(steps, curve, color=style_of(number).color, lw=1.2, label=label)
        axis.set_title(task, fontsize=10)
        axis.set_xlabel("step")
        axis.set_ylim(bottom=0)
        _clean(axis)
    figure.axes[0].set_ylabel("contrastive accuracy\nof the context, %")
    figure.axes[0].legend(fontsize=8, frameon=False)
    return figure


def draw_neighbors() -> Figure:
    """Test digits of a task and the training images that are nearest to them."""
    run, (corpus, settings, label, _) = runs_of(_PICTURED)[0], TASKS[_PICTURED]
    train, test = (load_corpus(corpus, split, **settings) for split in ("train", "test"))
    names, queries = list(run["neighbors"]), 5
    figure = Figure(figsize=(1.2 + 0.62 * 6 * len(names), 0.72 * queries), layout="constrained")
    grid = figure.subplots(queries, 6 * len(names), squeeze=False)
    for row in range(queries):
        for block, name in enumerate(names):
            query = run["queries"][row]
            shown = [(test, query), *((train, item) for item in run["neighbors"][name][row])]
            for axis, (split, item) in zip(grid[row, 6 * block : 6 * block + 6], shown, strict=True):
                axis.imshow(np.asarray(Image().decode_example(split[item]["image"])), cmap="gray_r")
                axis.set_xticks([])
                axis.set_yticks([])
                same = split is test or split[item][label] == test[query][label]
                for spine in axis.spines.values():
                    spine.set(color="white" if same else "#D55E00", linewidth=2)
    for block, name in enumerate(names):
        grid[0, 6 * block].set_title("test", fontsize=9)
        grid[0, 6 * block + 3].set_title(f"nearest by {name}", fontsize=9)
    return figure


def _clean(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)


FIGURES: dict[str, Callable[[], Figure]] = {
    "sprites_factors.png": draw_sprites,
    "images_text_curves.png": draw_curves,
    "digits_neighbors.png": draw_neighbors,
}


def main() -> None:
    """Writes or checks the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="Only compare the page with the results.")
    check, before = parser.parse_args().check, PAGE.read_text(encoding="utf-8")
    after = page(before)
    if check and after != before:
        raise SystemExit(f"{PAGE.name} does not show the results; run studies/images_text/page.py.")
    if not check:
        with replacing(PAGE) as temporary:
            temporary.write_text(after, encoding="utf-8")
        for name, draw in FIGURES.items():
            save_figure(draw(), PICTURES / name)


if __name__ == "__main__":
    main()
