"""Training curves: a figure of a run's log.

modeling-sim curves runs/sim-small --figure_format pdf
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from modeling_sim.files import read_text
from modeling_sim.plots import GRAY, plot_text, save_figure, style_of
from modeling_sim.text import in_one_line
from modeling_sim.trainer.loop import Callback
from modeling_sim.trainer.run_folder import CURVES_NAME, LOG_NAME

# Fields of each line of a log.
_FIELDS = {"step", "split", "title", "chance", "modules"}

# Quantities with a panel, if the log has them.
_PANELS = {
    "loss": "Loss",
    "contrastive_accuracy": "Contrastive accuracy",
    "accuracy": "Accuracy",
    "macro_f1": "Mean F1 of the classes",
    "kl": "KL to N(0, I), nats per frame",
    "active_units": "Active units (variance of the mean > 0.01)",
    "log_mel": "Log-mel distance, nats",
    "spectral": "Multi-resolution spectral distance",
}


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """Reads the lines of a run's log, in order.

    Raises:
        FileNotFoundError: There is no log.
        ValueError: The file is not UTF-8 text, or a line is not valid JSON or lacks fields of a log.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give the output folder of a training run.")
    lines = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        try:
            found = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: invalid JSON ({error})") from error
        if not isinstance(found, dict) or _FIELDS - found.keys():
            raise ValueError(
                f"{path}, line {number}: not a line of a training log, which has {', '.join(sorted(_FIELDS))}."
            )
        lines.append(found)
    return lines


def draw_curves(log: list[dict[str, Any]], *, chance: float | None, title: str = "") -> Figure:
    """Plots loss, accuracies and the other quantities of the log against the step, one line per module.

    Args:
        log: Lines of `read_log`. Training is drawn as curves, evaluations as dots.
        chance: Chance accuracy; `None` if there is no accuracy.
        title: Title of the figure.
    """
    logged = {quantity for line in log for module in line["modules"] for quantity in module}
    panels = [(quantity, label) for quantity, label in _PANELS.items() if quantity in logged]
    columns = {1: 1, 3: 3}.get(len(panels), 2)  # without empty panels
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3 + 4 * columns, 3.5 * rows), layout="constrained", dpi=120)
    figure.suptitle(plot_text(title), fontsize=12)
    axes = figure.subplots(rows, columns, sharex=True, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    names = [plot_text(module["name"]) for module in log[0]["modules"]] if log else []
    for axis, (quantity, label) in zip(axes.flat, panels, strict=False):
        for number in range(len(names)):
            color = style_of(number).color
            # Counts of units often coincide: lines of lower modules are wider, so that they stay visible.
            extra = (len(names) - 1 - number) * (0.9 if quantity == "active_units" else 0.0)
            for split, style in (
                ("train", {"linewidth": 1.6 + extra}),
                ("test", {"marker": "o", "markersize": 6 + extra, "linestyle": "none"}),
            ):
                points = [
                    (line["step"], line["modules"][number][quantity])
                    for line in log
                    if line["split"] == split and line["modules"][number].get(quantity) is not None
                ]
                # Loss and KL of 0 mean that the module has none.
                if points and (quantity not in ("loss", "kl") or any(value for _, value in points)):
                    axis.plot(*zip(*points, strict=True), color=color, **style)
        axis.set_title(label, loc="left", fontsize=10)
        _dress(axis, quantity, chance)
    losses = [value for line in log for module in line["modules"] if (value := module["loss"]) and value > 0]
    if losses and max(losses) / min(losses) > 10:
        axes[0, 0].set_yscale("log")
    for axis in axes.flat[: len(panels)][-columns:]:
        axis.set_xlabel("step")
        axis.tick_params(labelbottom=True)
    held_out = Line2D([], [], color=GRAY, marker="o", linestyle="none", label="held-out data")
    modules = [Line2D([], [], color=style_of(number).color, label=name) for number, name in enumerate(names)]
    axes[0, 0].legend(handles=[*modules, held_out], frameon=False, fontsize=9)
    return figure


def _dress(axis: Axes, quantity: str, chance: float | None) -> None:
    """Sets grid, range and ticks of a panel after its lines are drawn, and marks chance accuracy."""
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axis.ticklabel_format(axis="y", useOffset=False)
    if chance is not None and quantity in ("contrastive_accuracy", "accuracy"):
        axis.axhline(chance, color=GRAY, linestyle="--", linewidth=1)
        axis.annotate(
            f"chance {chance:.3f}",
            (1, chance),
            (0, -3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=8,
            color=GRAY,
        )
        axis.set_ylim(0, 1)
    elif axis.lines and quantity != "loss":
        axis.set_ylim(bottom=0)
    if quantity == "active_units":
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_ylim(top=max(1, axis.get_ylim()[1]))
    if not axis.lines and quantity == "kl":
        axis.text(0.5, 0.5, "deterministic latents: no KL", transform=axis.transAxes, ha="center", color=GRAY)
        axis.grid(visible=False)
        axis.tick_params(left=False, labelleft=False)


def write_curves(output_dir: str | Path, figure_format: str = "png") -> Path:
    """Draws the curves of a run into its folder and returns the path of the figure."""
    output_dir = Path(output_dir)
    log = read_log(output_dir / LOG_NAME)
    if not log:
        raise ValueError(f"{output_dir / LOG_NAME} is empty; wait until the run has logged a step.")
    figure = draw_curves(log, chance=log[0]["chance"], title=log[0]["title"])
    path = (output_dir / CURVES_NAME).with_suffix(f".{figure_format}")
    save_figure(figure, path)
    return path


class DrawCurves(Callback):
    """Draws the curves of a run into its folder at every evaluation and at the end; only reports errors."""

    def on_begin(self, run_folder: Path, say: Callable[[str], None]) -> None:
        """Stores `say`."""
        del run_folder
        self.say = say

    def on_evaluation(self, run_folder: Path) -> None:
        """Draws the curves."""
        try:
            write_curves(run_folder)
        except (OSError, ValueError) as error:
            self.say(f"could not draw the curves ({in_one_line(error)}); run `modeling-sim curves` later")

    def on_end(self, run_folder: Path) -> None:
        """Draws the curves unless the figure is newer than the log."""
        picture, log = run_folder / CURVES_NAME, run_folder / LOG_NAME
        if not picture.is_file() or picture.stat().st_mtime_ns < log.stat().st_mtime_ns:
            self.on_evaluation(run_folder)
