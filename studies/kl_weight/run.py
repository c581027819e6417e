"""The KL weight per depth: accuracy and readability of each module, from no KL term to one that is too strong.

    python studies/kl_weight/run.py --budget 8h

The weight is that of all modules, or of one module while the others keep theirs. Further rows start the posterior at
the prior, like the paper, or do not penalize some nats of each dimension (`free_bits`), a target for the KL. Rerun the
same command after an interruption; `--plan` lists the rows.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from modeling_sim import SimConfig
from modeling_sim.analysis.scorecard import SPECTRUM_MODULE
from modeling_sim.plots import GRAY, save_figure, style_of
from studies.pages import TEMPORAL, results_of, write_page
from studies.runner import Place, Study, StudyRow, main
from studies.tables import modules_of, values_of

WEIGHTS = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
# For one module at a time, these come first: smaller ones on all modules hardly changed the accuracy of one seed.
_LARGE = (1e-2, 1e-1)
SEEDS = (0, 1, 2)
_PRESET = "sim-small"
_FIRST = "all modules, 0.001"
# A decoder of full size costs more than the encoder, and each row has one per module.
_DECODERS = {"decoder_hidden_size": 64, "batch_size": 8}
# A weight is too large for a module if its accuracy is this much below its best.
_TOLERANCE = 0.02


def rows() -> list[StudyRow]:
    """One seed of weights on all modules, large ones on one, other starts and targets; seeds; small ones on one."""
    config = SimConfig.preset(_PRESET)

    def alone(module: int, weight: float) -> StudyRow:
        weights = list(config.kl_weights)
        weights[module] = weight
        return _row(f"module {module} alone, {weight:g}", {"kl_weight": weights})

    modules, small = range(config.num_conv_modules), [weight for weight in WEIGHTS if weight not in _LARGE]
    found = [_row(f"all modules, {weight:g}", {"kl_weight": weight}) for weight in WEIGHTS]
    found.sort(key=lambda row: row.kind != _FIRST)  # the first row has controls, and is compared with the others
    found += [alone(module, weight) for module in modules for weight in _LARGE]
    for weight in WEIGHTS[2:]:
        wide = {"kl_weight": weight, "initial_log_variance": 0.0}
        found.append(_row(f"posterior from the prior, {weight:g}", wide))
    found += [_row(f"free bits, {bits:g}", {"kl_weight": 1e-2, "free_bits": bits}) for bits in (0.01, 0.1, 1.0)]
    for seed in SEEDS[1:]:
        found += [_row(f"all modules, {weight:g}", {"kl_weight": weight}, seed) for weight in WEIGHTS]
    return found + [alone(module, weight) for module in modules for weight in small]


def _row(kind: str, settings: dict[str, object], seed: int = 0) -> StudyRow:
    name = f"{kind.replace(', ', '-').replace(' ', '-')}-seed{seed}"
    own = {"preset": _PRESET, "model_settings": settings}
    decoders = (0, 1, 2) if seed == 0 and kind.startswith("all") else ()
    return StudyRow(name, kind, own, seed, has_controls=kind == _FIRST, decoders=decoders, decoder_settings=_DECODERS)


# ---------------------------------------------------------------------- picture and sentences

_LINE = re.compile(r"(.+), ([\d.e-]+)")

# The smallest weight that is labeled in the picture.
_NAMED_FROM = 0.01


Curves = dict[tuple[str, str], list[tuple[float, float, float]]]
"""Weight, accuracy of phones and gap of the best dimension, by line ("all modules", ...) and module."""

_CONTROL = "log-mel"


def curves(place: Place) -> tuple[Curves, Curves, tuple[float, float] | None]:
    """The curves of the models' own axes and of their temporal components, and the point of log-mel components."""
    kinds = list(dict.fromkeys(row.kind for row in place.rows))
    results = results_of(place, "phones", kinds)
    found: tuple[Curves, Curves] = {}, {}
    for module in modules_of(results):
        for kind in kinds:
            line, weight = _LINE.fullmatch(kind).groups()  # type: ignore[union-attr]
            accuracies = values_of(results, "linear_accuracy", module, kind)
            for lines, axes in zip(found, ("", TEMPORAL), strict=True):
                gaps = values_of(results, "best_dimension_gap", module, kind + axes)
                if accuracies and gaps:
                    point = float(weight), float(np.mean(accuracies)), float(np.mean(gaps))
                    lines.setdefault((line, module), []).append(point)
    own, temporal = ({key: sorted(points) for key, points in lines.items()} for lines in found)
    accuracies, gaps = (
        values_of(results, measure, SPECTRUM_MODULE, _CONTROL + axes)
        for measure, axes in (("linear_accuracy", ""), ("best_dimension_gap", TEMPORAL))
    )
    control = (float(np.mean(accuracies)), float(np.mean(gaps))) if accuracies and gaps else None
    return own, temporal, control


def draw(own: Curves, temporal: Curves, control: tuple[float, float] | None) -> Figure:
    """Accuracy on one axis and readability on the other: a point per weight, a line per module, a panel per line.

    Larger points are larger weights. Most weights below 0.01 have nearly the same point, so only the others are
    labeled.
    """
    names = list(dict.fromkeys(name for name, _ in own))
    rank = {weight: number for number, weight in enumerate(sorted({each[0] for line in own.values() for each in line}))}
    columns = max(1, min(2, len(names)))
    count = max(1, -(-len(names) // columns))
    figure = Figure(figsize=(4.5 * columns, 1 + 3.6 * count), layout="constrained", dpi=120)
    axes = list(figure.subplots(count, columns, sharex=True, sharey=True, squeeze=False).flat)
    for name, axis in zip(names, axes, strict=False):
        _draw_line(axis, own, temporal, name, rank)
        if control is not None:
            axis.plot(*control, "s", color=GRAY, markersize=6, label=f"{_CONTROL}, temporal components")
        axis.set_title(name, loc="left", fontsize=10)
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    for axis in axes[: len(names)][-columns:]:  # the last of each column
        axis.set_xlabel("accuracy of phones")
        axis.tick_params(labelbottom=True)
    for axis in axes[::columns]:
        axis.set_ylabel("gap of the best dimension over random axes")
    if names:
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8
        )
    return figure


def _draw_line(axis: Axes, own: Curves, temporal: Curves, name: str, rank: Mapping[float, int]) -> None:
    """Draws the points of a line for each module, with own axes and temporal components."""
    modules = list(dict.fromkeys(module for _, module in own))
    for number, module in enumerate(modules):
        color = style_of(number).color
        for lines, style, ending in ((own, "o-", ""), (temporal, "s:", ", temporal components")):
            if points := lines.get((name, module)):
                weights, accuracies, gaps = zip(*points, strict=True)
                axis.plot(accuracies, gaps, style, color=color, markersize=3, label=module + ending)
                sizes = [8 + 10 * rank[weight] for weight in weights]
                axis.scatter(accuracies, gaps, sizes, color=color, marker=style[0], alpha=0.7)
                for weight, accuracy, gap in points:
                    if weight >= _NAMED_FROM:
                        axis.annotate(f"{weight:g}", (accuracy, gap), (4, 4), textcoords="offset points", fontsize=7)


def sentences(own: Curves, temporal: Curves) -> list[str]:
    """For each module, the weights that preserve accuracy, and those with the largest gap of the best dimension."""
    found = []
    for (name, module), points in own.items():
        if name == "all modules" and len(points) > 1:
            best = max(accuracy for _, accuracy, _ in points)
            largest = max(weight for weight, accuracy, _ in points if accuracy >= best - _TOLERANCE)
            gaps = [
                f"{gap:.3f} at {weight:g} ({axes})"
                for axes, lines in (("own axes", own), ("temporal components", temporal))
                if (name, module) in lines
                for weight, _, gap in [max(lines[name, module], key=lambda point: point[2])]
            ]
            found.append(
                f"- {module}: accuracy stays within {_TOLERANCE:g} of its best, {best:.3f}, up to a weight of "
                f"{largest:g}; the largest gap of the best dimension is {', '.join(gaps)}."
            )
    return found


def page(place: Place) -> None:
    """Writes tables, pictures and sentences of all finished rows."""
    own, temporal, control = curves(place)
    extra = []
    if own:
        save_figure(draw(own, temporal, control), place.results / "accuracy_and_readability.png")
        picture = "![Accuracy and readability of each module](accuracy_and_readability.png)"
        extra = ["## Where accuracy and readability diverge", "", picture, "", *sentences(own, temporal)]
    write_page(
        place,
        "The KL weight across depths",
        "Made by `python studies/kl_weight/run.py` from the results next to it. Means over seeds; **+** and "
        "**\N{MINUS SIGN}** say that a weight of 0.001 on all modules is better or worse than that of the column.",
        controls=("untrained", _CONTROL),
        drawn={"phones": ("linear_accuracy", "kl", "active_units", "best_dimension_gap", "jump_ratio", "curve_area")},
        extra=extra,
    )


STUDY = Study(Path(__file__).resolve(), __doc__ or "", rows(), page)

if __name__ == "__main__":
    main(STUDY)
