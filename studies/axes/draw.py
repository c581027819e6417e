"""Draws which dimensions two seeds agree on: matched correlations against autocorrelations.

    python studies/axes/draw.py studies/axes/results/syllables.json docs/images/seed_agreement.png

The file is one of `studies/axes/measure.py`, with pairs of models.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from modeling_sim.files import read_json
from modeling_sim.plots import GRAY, save_figure, style_of

# Dimensions per group from the slowest one, so that each of 64 belongs to one.
GROUPS = (8, 8, 16, 32)


def groups(pair: dict[str, list[float]]) -> list[dict[str, float]]:
    """Means of each column over the slowest dimensions, the next ones, and so on; incomplete groups are skipped."""
    bounds = np.cumsum((0, *GROUPS))
    columns = {name: np.array(values) for name, values in pair.items()}
    return [
        {name: float(values[start:stop].mean()) for name, values in columns.items()}
        for start, stop in itertools.pairwise(bounds)
        if stop <= len(columns["matched"])
    ]


def draw(pairs: list[dict[str, object]]) -> Figure:
    """A panel per method of the pairs: a point per dimension and pair, next to random axes and the upper bound."""
    methods = list(dict.fromkeys(str(pair["model"]).rsplit("-seed", 1)[0] for pair in pairs))
    figure = Figure(figsize=(4.6 * len(methods), 4), layout="constrained", dpi=120)
    for method, axis in zip(methods, figure.subplots(1, len(methods), sharey=True, squeeze=False)[0], strict=True):
        own = [pair["dimensions"] for pair in pairs if str(pair["model"]).rsplit("-seed", 1)[0] == method]
        columns = {name: np.concatenate([pair[name] for pair in own]) for name in own[0]}
        slowness = columns["autocorrelation"]
        order = np.argsort(slowness)
        axis.plot(slowness[order], columns["linear"][order], ".", color=style_of(1).color, label="best linear map")
        axis.plot(slowness[order], columns["matched"][order], "o", color=style_of(0).color, label="one dimension", ms=4)
        axis.plot(slowness[order], columns["rotated"][order], ".", color=GRAY, label="one random axis")
        axis.set_title(f"{method}, {len(own)} pairs of seeds", loc="left", fontsize=10)
        axis.set_xlabel("mean autocorrelation over 10 to 640 ms")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_ylim(0, 1)
    figure.axes[0].set_ylabel("correlation with the other seed")
    figure.axes[0].legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def main() -> None:
    """Draws what the command line names, and prints the means of groups."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="file of measure.py")
    parser.add_argument("picture", type=Path, help="file to write")
    arguments = parser.parse_args()
    pairs = read_json(arguments.results)["pairs"]
    for pair in pairs:
        for group, number in zip(groups(pair["dimensions"]), GROUPS, strict=False):
            print(pair["model"], pair["other"], number, {name: round(value, 2) for name, value in group.items()})
    save_figure(draw(pairs), arguments.picture)


if __name__ == "__main__":
    main()
