"""Figures of the report as inline SVG: small panels without a background, in the color of the page's text.

Panels are narrow, so that they fit on a phone without scaling; the page draws the legends.
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, ScalarFormatter
from scipy.stats import norm

from modeling_sim.evaluation.results import Kind
from modeling_sim.plots import GRAY, PALETTE, plot_text, save_figure, style_of
from modeling_sim.report.tables import Entry, belongs, modules_of
from modeling_sim.text import decimal, percent, printable

# Replaced by the color of the text when the SVG is added to the page.
_INK = "#010203"


_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _INK,
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.4,
    "lines.linewidth": 1.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.18,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}


# In inches, of 72 SVG units each.
_SIZE, _SQUARE, _GRID = (4.4, 2.9), (4.4, 3.7), (4.4, 1.5)


# Few levels, which a PNG compresses well. Signed values are transparent at 0, and opacity increases faster than values,
# so that correlations of 0.1 are visible.
_BLUE, _ORANGE = (0, 0.447, 0.698), (0.835, 0.369, 0)


SIGNED = ListedColormap(
    [(*(_BLUE if value < 0 else _ORANGE), abs(value) ** 0.7) for value in np.linspace(-1, 1, 41)], "signed"
)


_POSITIVE = mpl.colormaps["viridis"].resampled(48)


# Curves of a decoder: description, dashes, and whether the curve has the model's color or is gray, as a control.
_CONTROLS = {
    "dimensions": ("own dimensions", "", True),
    "oracle": ("own dimensions, ranked by decoding each alone", "7 2 1.5 2", True),
    "random": ("own dimensions, random order", "1.2 2.4", True),
    "rotation": ("randomly rotated axes", "", False),
    "pca": ("principal components", "5 3", False),
    "ica": ("independent components", "7 2 1.5 2", False),
    "temporal": ("temporal components (SOBI)", "9 2 2 2 2 2", False),
    "paper": ("the paper's measure, on waveforms", "11 3", True),
    "paper_pca": ("the paper's measure, in principal components", "11 3", False),
}


# Dashes of a model's controls, which have the color of the model, and of other controls.
_DASHES = {
    " untrained": "1.2 2.4",
    " + PCA": "5 3",
    " + ICA": "7 2 1.5 2",
    " + SOBI": "9 2 2 2 2 2",
    " + SFA": "2 2",
    " + noise": "11 3",
}


_OTHER_DASHES = "3 3"


# Marker of a kind in other axes, by the suffix of its name, and its explanation.
_MARKERS = {
    "": ("o", "dots are own axes"),
    " untrained": ("x", "crosses the untrained network"),
    " + PCA": ("^", "triangles PCA"),
    " + ICA": ("v", "triangles pointing down ICA"),
    " + SOBI": ("s", "squares SOBI"),
    " + SFA": ("D", "diamonds SFA"),
}


class Key(NamedTuple):
    """An entry of a legend; `dashes` are lengths of strokes and gaps, empty for an unbroken line."""

    label: str
    color: str
    dashes: str

    @property
    def css(self) -> str:
        """The CSS color, for light and dark pages."""
        return _css_color(self.color)


class Panel(NamedTuple):
    """A picture, a note on it, and a description for screen readers."""

    caption: str
    figure: Figure
    name: str
    text: str

    @property
    def svg(self) -> Markup:
        """The picture as part of a page."""
        return _inline(self.figure, self.name, self.text)


class Plot(NamedTuple):
    """Panels on one subject, by module."""

    anchor: str
    title: str
    sentence: str
    legend: list[Key]
    modules: list[tuple[str, list[Panel]]]


def make_plots(curves: Mapping[str, Sequence[Entry]], kinds: Sequence[Kind]) -> list[Plot]:
    """A plot for every available curve; entries without values are skipped.

    Args:
        curves: `curves` of the analysis.
        kinds: `kinds` of the analysis; their order determines their colors.
    """
    plots = []
    for name, subject in _SUBJECTS.items():
        entries = [entry for entry in curves.get(name) or [] if entry.get("values") or entry.get("densities")]
        if not entries:
            continue
        shown = [kind for kind in kinds if any(entry["kind"] == kind.name for entry in entries)]
        modules = modules_of(
            [(entry["kind"], entry["module"]) for entry in entries], [kind.name for kind in kinds if kind.is_control]
        )
        with mpl.rc_context(_STYLE):
            drawn = [
                (
                    module,
                    list(
                        subject.panels(
                            [each for each in entries if belongs(each["module"], module, modules)], kinds, module
                        )
                    ),
                )
                for module in modules
            ]
        legend = subject.legend(entries, kinds, shown)
        plots.append(Plot(name.replace("_", "-"), subject.title, subject.sentence, legend, drawn))
    return plots


def save_panels(plots: Sequence[Plot], folder: Path, prefix: str, figure_format: str) -> None:
    """Writes every panel to a file, after adding a legend to it.

    Args:
        plots: Return value of `make_plots`.
        folder: Folder to write to.
        prefix: Start of the files' names.
        figure_format: "png", "svg" or "pdf".
    """
    for plot in plots:
        for _, panels in plot.modules:
            for panel in panels:
                lines = [
                    Line2D(
                        [],
                        [],
                        color=_INK if key.color == "currentColor" else key.color,
                        linestyle=_linestyle(key.dashes),
                        label=plot_text(key.label),
                    )
                    for key in plot.legend
                ]
                with mpl.rc_context({**_STYLE, "savefig.dpi": 200}):
                    if lines:
                        panel.figure.legend(
                            handles=lines, loc="outside lower center", ncols=2, fontsize=7, handlelength=4
                        )
                    name = re.sub(r"[^\w.-]+", "_", panel.name)
                    save_figure(panel.figure, folder / f"{prefix}{name}.{figure_format}")


# ---------------------------------------------------------------------- styles and legends


def kind_style(kinds: Sequence[Kind], name: str) -> tuple[str, str]:
    """Color of a kind and dashes of its lines: controls of a model have its color and dashes."""
    trained = sorted((kind.name for kind in kinds if not kind.is_control), key=len, reverse=True)
    roots = {kind.name: _root(kind.name, trained) for kind in kinds}
    color = style_of(list(dict.fromkeys(roots.values())).index(roots[name])).color
    if name in trained:
        return color, ""
    return color, _DASHES.get(name.removeprefix(roots[name]), _OTHER_DASHES)


def _root(name: str, trained: Sequence[str]) -> str:
    """The trained kind, or spectrum, that a control belongs to by its name; other kinds return themselves."""
    if name in trained:
        return name
    of_other_axes = (name.removesuffix(ending) for ending in _DASHES if name.endswith(ending))
    return next((of for of in trained if name.removeprefix(of) in _DASHES), next(of_other_axes, name))


def _control(control: str, color: str) -> Key:
    """Legend entry of a curve of a decoder, with the given color of its model."""
    label, dashes, is_own = _CONTROLS.get(control, (control, _OTHER_DASHES, False))
    return Key(label, color if is_own else GRAY, dashes)


def _linestyle(dashes: str) -> Any:
    return (0, tuple(map(float, dashes.split()))) if dashes else "-"


def _kind_legend(_: Sequence[Entry], kinds: Sequence[Kind], shown: Sequence[Kind]) -> list[Key]:
    return [Key(kind.name, *kind_style(kinds, kind.name)) for kind in shown]


def _control_legend(entries: Sequence[Entry], kinds: Sequence[Kind], shown: Sequence[Kind]) -> list[Key]:
    """Own dimensions have the color of their model, or a neutral color if there are several models."""
    color = kind_style(kinds, shown[0].name)[0] if len(shown) == 1 else "currentColor"
    present = {entry["control"] for entry in entries}
    ordered = [name for name in _CONTROLS if name in present] + sorted(present - set(_CONTROLS))
    return [_control(control, color) for control in ordered]


def _no_legend(*_: Any) -> list[Key]:
    return []


# ---------------------------------------------------------------------- lines


def _accuracy_panels(entries: Sequence[Entry], kinds: Sequence[Kind], module: str) -> Iterator[Panel]:
    figure, axis = _axes("dimensions kept", "accuracy")
    summaries = []
    for kind, own in _by_kind(entries, kinds):
        summaries.append(_draw_curves(axis, kind, own, kind_style(kinds, kind)))
    _logarithmic(axis, [k for entry in entries for k in entry["ks"]])
    axis.set_ylim(0, 1.02)
    axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    chances = sorted({entry["chance"] for entry in entries if entry.get("chance") is not None})
    for chance in chances:
        axis.axhline(chance, color=_INK, linestyle=":", linewidth=1)
    note = f"Dotted: chance, {' and '.join(percent(chance) for chance in chances)}." if chances else ""
    yield Panel(note, figure, f"accuracy-{module}", f"Accuracy by dimensions in {module}. {' '.join(summaries)}")


def _reconstruction_panels(entries: Sequence[Entry], kinds: Sequence[Kind], module: str) -> Iterator[Panel]:
    ceiling = max([1.0, *(value for entry in entries for value in entry["values"] if value is not None)])
    for kind, own in _by_kind(entries, kinds):
        figure, axis = _axes("dimensions replaced", "error left", _SQUARE)
        summaries, areas = [], []
        for control in dict.fromkeys(entry["control"] for entry in own):
            curves = [entry for entry in own if entry["control"] == control]
            name, *style = _control(control, kind_style(kinds, kind)[0])
            summaries.append(_draw_curves(axis, name, curves, (style[0], style[1])))
            measured = [entry["area"] for entry in curves if entry.get("area") is not None]
            if measured and control in _AREAS:
                areas.append(f"{name} {decimal(sum(measured) / len(measured))}")
        _logarithmic(axis, [k for entry in own for k in entry["ks"]])
        axis.set_ylim(0, 1.05 * ceiling)
        note = f" Area (lower is faster): {', '.join(areas)}." if areas else ""
        text = f"Reconstruction by dimensions of {kind} in {module}. {' '.join(summaries)}"
        yield Panel(f"{kind}.{note}", figure, f"reconstruction-{kind}-{module}", text)


# Curves whose area the caption names.
_AREAS = ("dimensions", "rotation", "pca", "temporal")


def _kl_panels(entries: Sequence[Entry], kinds: Sequence[Kind], module: str) -> Iterator[Panel]:
    figure, axis = _axes("dimension, by rank", "KL, nats per frame")
    summaries = []
    for kind, own in _by_kind(entries, kinds):
        ranked = [{"ks": list(range(1, len(entry["values"]) + 1)), **entry} for entry in own]
        summaries.append(_draw_curves(axis, kind, ranked, kind_style(kinds, kind)))
    axis.set_ylim(bottom=0)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    yield Panel("", figure, f"kl-{module}", f"KL by dimension in {module}. {' '.join(summaries)}")


def _draw_curves(axis: Axes, name: str, entries: Sequence[Entry], style: tuple[str, str]) -> str:
    """A thin line for every model and a thick one for their mean; returns the first and last value of the mean."""
    color, dashes = style
    line: dict[str, Any] = {"color": color, "linestyle": _linestyle(dashes)}
    curves = [(tuple(entry["ks"]), np.array(entry["values"], dtype=float)) for entry in entries]
    # Models of different widths have different numbers of dimensions, so their curves have no common mean.
    ks, values = curves[0]
    if len({each for each, _ in curves}) == 1:
        values = np.mean([each for _, each in curves], axis=0)
    else:
        line["linewidth"] = 0.8
    if len(curves) > 1:
        for each, own in curves:
            axis.plot(each, own, color=color, linewidth=0.7, alpha=0.55)
    axis.plot(ks, values, **line)
    if not ks:
        return ""
    ends = [decimal(None if np.isnan(value) else float(value)) for value in values[[0, -1]]]
    return f"{name}: {ends[0]} at {ks[0]}, {ends[1]} at {ks[-1]}."


def _logarithmic(axis: Axes, ks: Sequence[int]) -> None:
    """Sets a scale of powers of 2 that includes 0."""
    if not ks:
        return
    if min(ks) > 0:
        axis.set_xscale("log", base=2)
    else:
        axis.set_xscale("symlog", base=2, linthresh=1)
    powers = [k for k in (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048) if min(ks) <= k <= max(ks)]
    axis.xaxis.set_major_locator(FixedLocator(powers))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(ScalarFormatter())


# ---------------------------------------------------------------------- best dimensions


def _best_panels(entries: Sequence[Entry], kinds: Sequence[Kind], module: str) -> Iterator[Panel]:
    """A picture for each trained kind, its controls and log-mel: a row per property, a marker per model and axes."""
    trained = sorted((kind.name for kind in kinds if not kind.is_control), key=len, reverse=True)
    for root in (kind.name for kind in kinds if not kind.is_control):
        own = [entry for entry in entries if root in (entry["kind"], _root(entry["kind"], trained))]
        if not own:
            continue
        own += [entry for entry in entries if _is_of_log_mel(entry["kind"])]
        names = list(dict.fromkeys(name for entry in own for name in entry["properties"]))
        figure, axis = _axes("correlation of the best dimension", "", (_SIZE[0], 1.1 + 0.34 * len(names)))
        shown: dict[str, None] = {}
        summaries = []
        for entry in own:
            of_root = not _is_of_log_mel(entry["kind"])
            ending = entry["kind"].removeprefix(root if of_root else "log-mel")
            marker, what = _MARKERS.get(ending, _MARKERS[""])
            color = kind_style(kinds, root)[0] if of_root else GRAY
            rows = np.array([names.index(name) for name in entry["properties"]])
            values = np.array(entry["values"], dtype=float)
            filled: dict[str, Any] = (
                {"color": color} if not ending or marker == "x" else {"edgecolor": color, "facecolor": "none"}
            )
            axis.scatter(
                values, rows + (0.0 if of_root else 0.24), s=30, marker=marker, linewidth=1.2, zorder=3, **filled
            )
            shown[what] = None
            for row, rotated in zip(rows, entry["rotated"], strict=True):
                if rotated:
                    axis.plot([min(rotated), max(rotated)], [row, row], color=color, linewidth=7, alpha=0.3)
            if not ending:
                pairs = zip(entry["properties"], entry["values"], strict=True)
                summaries.append(", ".join(f"{name} {decimal(value, 2)}" for name, value in pairs))
        axis.set_yticks(range(len(names)), [plot_text(name.replace("_", " ")) for name in names])
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.set_xlim(0, 1)
        text = f"Best dimension of {root} for each property in {module}. {' '.join(summaries)}"
        note = f"{root}: {', '.join(shown)}; bars are the range of random rotations. Gray: the same of log-mel."
        yield Panel(note, figure, f"best-{root}-{module}", text)


def _is_of_log_mel(kind: str) -> bool:
    return kind == "log-mel" or kind.startswith("log-mel + ")


# ---------------------------------------------------------------------- histograms and heat maps


def _histogram_panels(entries: Sequence[Entry], kinds: Sequence[Kind], module: str) -> Iterator[Panel]:
    """A small picture for each dimension, on common axes."""
    ceiling = 1.05 * max([0.4, *(value for entry in entries for row in entry["densities"] for value in row if value)])
    for kind, entry in _first_models(entries, kinds):
        columns = min(4, len(entry["densities"]))
        rows = -(-len(entry["densities"]) // columns)
        figure = Figure(figsize=(_GRID[0], _GRID[1] * rows), layout=ConstrainedLayoutEngine(h_pad=0.08))
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        color = kind_style(kinds, kind)[0]
        grid = np.linspace(entry["edges"][0], entry["edges"][-1], 200)
        for axis, row, dimension in zip(axes.flat, entry["densities"], entry["dimensions"], strict=False):
            values = np.nan_to_num(np.array(row, dtype=float))
            axis.stairs(values, entry["edges"], color=color, fill=True, alpha=0.35)
            axis.stairs(values, entry["edges"], color=color, linewidth=0.9)
            axis.plot(grid, norm.pdf(grid), color=_INK, linestyle=":", linewidth=1.2)
            axis.set_title(f"dimension {dimension}", fontsize=8)
            axis.set(xlim=(grid[0], grid[-1]), ylim=(0, ceiling), yticks=[])
            axis.spines["left"].set_visible(False)
        for axis in axes.flat[len(entry["densities"]) :]:
            axis.set_axis_off()
        dimensions = f"{len(entry['densities'])} latent dimensions of {entry['representation']}"
        text = f"Histograms of {dimensions} in {module} over N(0, 1)."
        yield Panel(f"{kind}, {entry['representation']}.", figure, f"histograms-{kind}-{module}", text)


def _weight_panels(entries: Sequence[Entry], kinds: Sequence[Kind], module: str) -> Iterator[Panel]:
    for kind, entry in _first_models(entries, kinds):
        weights = np.nan_to_num(np.array(entry["values"], dtype=float))
        # Dimensions of one class are adjacent: if each is used for one class, there are blocks along the diagonal.
        weights = weights[:, np.lexsort((-weights.max(axis=0), weights.argmax(axis=0)))]
        figure, axis = _axes("dimension, by the class it weighs most for", "", _SQUARE)
        picture = axis.imshow(weights, cmap=_POSITIVE, vmin=0, aspect="auto", interpolation="nearest")
        _class_ticks(axis, entry["classes"])
        _scale(figure, axis, picture)
        text = (
            f"Heat map of standardized probe weights of {entry['representation']} in {module}, classes by dimensions."
        )
        yield Panel(f"{kind}, {entry['representation']}.", figure, f"weights-{kind}-{module}", text)


def _class_ticks(axis: Axes, classes: Sequence[Any]) -> None:
    """Sets the names of classes as ticks, as many as are legible."""
    step = -(-len(classes) // 24)
    axis.set_yticks(range(0, len(classes), step), [plot_text(name) for name in classes[::step]])
    axis.tick_params(left=False)


def _correlation_panels(entries: Sequence[Entry], kinds: Sequence[Kind], module: str) -> Iterator[Panel]:
    for kind, entry in _first_models(entries, kinds):
        correlation = np.array(entry["values"], dtype=float)
        figure, axis = _axes("dimension", "dimension", _SQUARE)
        picture = axis.imshow(correlation, cmap=SIGNED, vmin=-1, vmax=1, interpolation="nearest")
        _scale(figure, axis, picture)
        between = np.abs(correlation[~np.eye(len(correlation), dtype=bool)])
        between = between[np.isfinite(between)]
        note = f" Mean size between two dimensions {decimal(float(between.mean()))}." if between.size else ""
        text = f"Correlation matrix of the dimensions of {entry['representation']} in {module}.{note}"
        yield Panel(f"{kind}, {entry['representation']}.{note}", figure, f"correlation-{kind}-{module}", text)


def _scale(figure: Figure, axis: Axes, picture: Any) -> None:
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    bar = figure.colorbar(picture, ax=axis, fraction=0.05, pad=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2)


def _by_kind(entries: Sequence[Entry], kinds: Sequence[Kind]) -> Iterator[tuple[str, list[Entry]]]:
    for kind in kinds:
        own = [entry for entry in entries if entry["kind"] == kind.name]
        if own:
            yield kind.name, own


def _first_models(entries: Sequence[Entry], kinds: Sequence[Kind]) -> Iterator[tuple[str, Entry]]:
    """The first model of every kind."""
    for kind, own in _by_kind(entries, kinds):
        yield kind, own[0]


# ---------------------------------------------------------------------- SVG


def _axes(xlabel: str, ylabel: str, size: tuple[float, float] = _SIZE) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axis = figure.subplots()
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.grid(visible=True)
    return figure, axis


# A color in an SVG tag, but not the start of a reference.
_HEX = re.compile(r"#[0-9a-f]{6}\b")


def _css_color(color: str) -> str:
    """Converts a color of a figure to a CSS variable, for light and dark pages."""
    if color == _INK:
        return "currentColor"
    if color == GRAY:
        return "var(--gray)"
    return f"var(--c{PALETTE.index(color.upper())})" if color.upper() in PALETTE else color


def _inline(figure: Figure, name: str, text: str) -> Markup:
    """A figure as an `svg` element with a description for screen readers and unique ids.

    Args:
        figure: The figure.
        name: Name of the figure, unique in the report.
        text: Description for screen readers.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, dpi=110, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    used = set(re.findall(r"url\(#([^)]+)\)", svg)) | set(re.findall(r'href="#([^"]+)"', svg))
    # Only inside tags: text between them may be the name of a class.
    svg = re.sub(
        r"<[^>]*>",
        lambda tag: _HEX.sub(
            lambda color: _css_color(color[0]),
            re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", tag[0]),
        ),
        svg,
    )
    body = svg[svg.index(">") + 1 :]
    width, height = (72 * inches for inches in figure.get_size_inches())
    return Markup(  # noqa: S704 - matplotlib escapes the names it writes
        f'<svg role="img" aria-label="{escape(printable(text))}" viewBox="0 0 {width:g} {height:g}">{body.strip()}'
    )


# ---------------------------------------------------------------------- subjects


class _Subject(NamedTuple):
    """A subject of curves: its texts in the report, and the function that draws it."""

    title: str
    sentence: str
    panels: Callable[[Sequence[Entry], Sequence[Kind], str], Iterator[Panel]]
    legend: Callable[..., list[Key]] = _no_legend


_ONE_MODEL = "The first model of each method is shown."


_SUBJECTS = {
    "accuracy_by_dimensions": _Subject(
        "Accuracy by number of dimensions",
        "Accuracy of a probe of only k dimensions. Thick lines are means over models, thin lines single models. "
        "Controls are dashed.",
        _accuracy_panels,
        _kind_legend,
    ),
    "best_dimensions": _Subject(
        "Best dimension for each property",
        "Largest rank correlation of one dimension with a property of the sound, for classes the correlation ratio of "
        "ranks. Axes are meaningful if dots are to the right of the bar of random rotations.",
        _best_panels,
    ),
    "probe_weights": _Subject(
        "Probe weights",
        "Absolute weight of each dimension for each class, on standardized features. Blocks along the diagonal mean "
        f"that each dimension is used for one class. {_ONE_MODEL}",
        _weight_panels,
    ),
    "histograms": _Subject(
        "Distribution of single dimensions",
        f"Histograms of single latent dimensions over all frames. Dotted: N(0, 1). {_ONE_MODEL}",
        _histogram_panels,
    ),
    "kl_spectrum": _Subject(
        "KL to N(0, 1) by dimension",
        "Dimensions sorted by KL. A dimension near 0 carries no information. Only Gaussian latents have a KL.",
        _kl_panels,
        _kind_legend,
    ),
    "correlation": _Subject(
        "Correlation between dimensions",
        f"Pearson correlation over frames: blue is negative, orange positive, and transparent is zero. {_ONE_MODEL}",
        _correlation_panels,
    ),
    "reconstruction": _Subject(
        "Reconstruction by number of dimensions",
        "The first k dimensions of one utterance are replaced by those of another, and the result is decoded. The "
        "curve is the remaining distance to the other utterance, from 1 (none replaced) to 0 (all replaced). Own "
        "dimensions have the model's color; other axes are gray.",
        _reconstruction_panels,
        _control_legend,
    ),
}
