"""Tables and pictures of `docs/axes.md` and `docs/decoded_axes.md`, from the results in `studies/axes/results`."""

import csv
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from modeling_sim.files import read_json
from modeling_sim.hub.escaping import Markdown, code, markdown_table
from modeling_sim.plots import GRAY, Style, style_of
from modeling_sim.text import bounded, counted, decimal, interval
from studies.tables import leave_only_vertical_lines

RESULTS = Path(__file__).with_name("results")
CRITICS = Path(__file__).parents[2] / "benchmarks" / "results" / "critics.json"
_OWN, _TEMPORAL = style_of(0), style_of(1)

_LOG_MEL = "log-mel frames"
# Each model of synthetic syllables: name in tables, prefix of its name in results, number of steps.
_SYLLABLES = (
    ("SIM", "sim-small-seed", 1500),
    ("GIM", "gim-small-seed", 1500),
    ("GIM of Löwe et al.", "gim-lowe-seed", 1500),
    ("CPC", "cpc-small-seed", 1500),
    ("untrained", "untrained-seed", 0),
    ("sim-readable-small", "sim-readable-small-1500-seed", 1500),
    ("sim-readable-small, longer", "sim-readable-small-3000-seed", 3000),
    ("sim-readable-small, stopped halfway", "sim-readable-small-seed", 1500),
    ("sim-readable-small, no penalties", "sim-readable-small-no-penalties-seed", 1500),
    ("sim-readable-small, bilinear critic", "sim-readable-small-bilinear-seed", 1500),
    ("sim-readable-small, nested blocks", "sim-readable-small-nested-seed", 1500),
    ("SIM, KL weight 0.001", "sim-small-kl-0.001-seed", 1500),
    ("SIM, KL weight 0.01", "sim-small-kl-0.01-seed", 1500),
    ("SIM, KL weight 0.01, offsets to 63", "sim-small-kl-0.01-long-seed", 1500),
    (_LOG_MEL, "log-mel", 0),
)
_FACTORS = {"pitch": "pitch", "tract": "tract length", "gain": "gain", "vowel": "vowel"}

# Each model of LibriSpeech by its kind in the results; the first choice of axes is its own.
_LIBRISPEECH = {
    "SIM": "SIM",
    "SIM + SOBI": "SIM",
    "GIM": "GIM",
    "GIM + SOBI": "GIM",
    "readable SIM": "sim-readable-small",
    "readable SIM + SOBI": "sim-readable-small",
    "16 latents": "16 latents",
    "log-mel": "log-mel",
    "log-mel + SOBI": "log-mel",
}
_PROPERTIES = {"pitch": "pitch", "F1": "F1", "F2": "F2", "level": "level", "phones": "phone", "speaker_id": "speaker"}
_GAPS = {
    "dci_completeness_gap": "DCI completeness",
    "dci_disentanglement_gap": "DCI disentanglement",
    "rotation_gap": "concentration (Gini)",
}

_PRICE = {
    ("SIM as published", "sim-small"): "SIM, 128 latents",
    (
        "SIM, KL 0.01, offsets to 63",
        "sim-small-kl0.01-long",
    ): "SIM, 128 latents, KL weight 0.01, offsets 1, 2, 4, ..., 63",
    ("64 latents, KL 0.01", "latents64-kl0.01"): "KL weight 0.01",
    ("64 latents, KL 0.001", "latents64-kl0.001"): "KL weight 0.001 (`sim-readable-small`)",
    ("offsets to 16", "latents64-kl0.001-offsets16"): "KL weight 0.001, offsets 1, 2, 4, 8, 16",
    (
        "11 offsets",
        "latents64-kl0.001-offsets11",
    ): ("KL weight 0.001, offsets 1, 2, 3, 4, 6, 8, 10, 12, 16, 32, 63; context 1 to 10"),
    ("slow and fast groups", "latents64-kl0.001-groups"): (
        "KL weight 0.001, 32 latents at offsets 8, 16, 32, 63 and 32 at 1, 2, 4, 8; context 1 to 10"
    ),
    ("64 latents, KL 0.0001", "latents64-kl0.0001-context10"): "KL weight 0.0001; context 1 to 10",
}


class Line(NamedTuple):
    """A model with one choice of axes: scores per seed of these axes and of random rotations of them."""

    label: str
    steps: int
    temporal: bool
    own: list[dict[str, Any]]
    rotated: list[dict[str, Any]]

    def both(self, key: str) -> str:
        """Means over seeds, of these axes and of random ones."""
        return f"{_mean(self.own, key)} / {_mean(self.rotated, key)}"


def _mean(rows: Iterable[dict[str, Any]], key: str, digits: int = 2) -> str:
    found = [row.get(key) for row in rows]
    return "-" if None in found else decimal(float(np.mean(found)), digits)


def _percent(share: float | None) -> str:
    return decimal(None if share is None else 100 * share, 1)


@cache
def _read(name: str) -> Any:
    return read_json(RESULTS / f"{name}.json")


@cache
def _rows(name: str) -> list[dict[str, Any]]:
    """Rows of a CSV file, with numbers where there are some."""
    with (RESULTS / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = ("value", "low", "high", "null")
    return [row | {key: float(row[key]) for key in numbers if row[key]} for row in rows]


def _scores(name: str) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Rows of a CSV file by kind of model, module and measure."""
    return {(row["kind"], row["module"], row["measure"]): row for row in _rows(name)}


def _librispeech() -> dict[tuple[str, str, str], dict[str, Any]]:
    """Scores of the checkpoints; the later file also has random axes of temporal components."""
    later = _scores("librispeech_temporal")
    renamed = {(kind.replace("SIM #2", "readable SIM"), *place): row for (kind, *place), row in later.items()}
    return _scores("librispeech_release_phones") | renamed


# ---------------------------------------------------------------------- synthetic syllables


def lines_of_syllables() -> list[Line]:
    """Own axes and temporal components of all models of synthetic syllables."""
    rows, lines = _read("syllables")["rows"], []
    for label, start, steps in _SYLLABLES:
        of_model = [row for row in rows if row["model"].startswith(start)]
        for axes, rotated in (("own", "rotated"), ("SOBI", "SOBI, rotated")):
            by_axes = [[row for row in of_model if row["axes"] == each] for each in (axes, rotated)]
            if by_axes[0]:
                lines.append(Line(label, steps, axes == "SOBI", *by_axes))
    return lines


def _of_first_runs() -> list[Line]:
    """The Gaussian critic with 16 latents."""
    names = {
        "SIM, 1,500 steps: 16 latents": "Gaussian critic, 16 latents",
        "SIM, 3,000 steps: 16 latents": "Gaussian critic, 16 latents, longer",
        "SIM, 1,500 steps: 16 independent latents": "Gaussian critic, 16 independent latents",
    }
    runs = {run["run"]: run for run in _read("first_runs")["runs"]}
    return [
        Line(
            label,
            runs[name]["max_steps"],
            False,
            *([row for row in runs[name]["rows"] if row["axes"] == axes] for axes in ("own", "rotated")),
        )
        for name, label in names.items()
    ]


def syllables_table() -> str:
    """Best dimensions by factor, next to random rotations of the same dimensions."""
    rows = []
    for line in [*lines_of_syllables(), *_of_first_runs()]:
        space = [
            _mean(line.own, "pitch_r2"),
            *(_percent(np.mean([row[f"{key}_accuracy"] for row in line.own])) for key in ("vowel", "speaker")),
            _mean(line.own, "kl", 0),
        ]
        rows.append(
            [
                "its temporal components" if line.temporal else _named(line.label, len(line.own)),
                "" if line.temporal else f"{line.steps:,}" if line.steps else "-",
                *(line.both(f"best_{key}") for key in _FACTORS),
                line.both("dci_completeness"),
                *([""] * len(space) if line.temporal else space),
            ]
        )
    of_space = ["pitch R²", "vowels, %", "speakers, %", "KL, nats"]
    return markdown_table(["model", "steps", *_FACTORS.values(), "DCI completeness", *of_space], rows)


# Thresholds that were set before measuring: for the best dimension, and for gaps over random axes.
_THRESHOLDS = {"pitch": 0.75, "tract": 0.45, "gain": 0.7, "vowel": 0.7}
_GAP_THRESHOLDS = {"dci_completeness": 0.15, "dci_disentanglement": 0.1}
# Acceptable loss of a linear probe in points, compared with SIM.
_MAY_LOSE = {"vowel": 1.0, "syllable": 1.0, "speaker": 0.0}


def thresholds_table() -> str:
    """Thresholds and values of axes, from the smallest to the largest seed; bold if all seeds reach the threshold."""
    lines = {(line.label, line.temporal): line for line in lines_of_syllables()}
    shown = {
        "SIM": lines["SIM", False],
        "SIM, temporal components": lines["SIM", True],
        "`sim-readable-small`": lines["sim-readable-small", False],
        "`sim-readable-small`, longer": lines["sim-readable-small, longer", False],
        "its temporal components": lines["sim-readable-small, longer", True],
        "log-mel, temporal components": lines[_LOG_MEL, True],
    }

    asked: list[tuple[str, str, float]] = [
        *((title, f"best_{name}", _THRESHOLDS[name]) for name, title in _FACTORS.items()),
        *((f"gap of {_GAPS[f'{name}_gap']}", name, threshold) for name, threshold in _GAP_THRESHOLDS.items()),
    ]
    for name, points in _MAY_LOSE.items():
        key = f"{name}_accuracy"
        of_sim = float(np.mean([row[key] for row in lines["SIM", False].own]))
        asked.append((f"{name}s predicted, %", key, of_sim - points / 100))
    rows = []
    for title, key, threshold in asked:
        write = _percent if title.endswith("%") else decimal
        row: list[str | Markdown] = [title, write(threshold)]
        for line in shown.values():
            controls = [rotated[key] if key in _GAP_THRESHOLDS else 0 for rotated in line.rotated]
            values = sorted(own[key] - control for own, control in zip(line.own, controls, strict=True))
            text = interval(values[0], values[-1], write) or write(values[0])
            row.append(Markdown(f"**{text}**") if values[0] >= threshold else text)
        rows.append(row)
    return markdown_table(["", "threshold", *map(Markdown, shown)], rows)


def linear_decoder_table() -> str:
    """Errors of a few dimensions of the linear decoder, next to random rotations and principal components."""
    rows = []
    for line in lines_of_syllables():
        models = {row["model"] for row in line.own if "error_of_few" in row}
        if models and not line.temporal:
            measured = [row for row in _read("syllables")["rows"] if row["model"] in models]
            means = [
                _mean((row for row in measured if row["axes"] == axes), "error_of_few")
                for axes in ("own", "rotated", "SOBI", "SOBI, rotated", "PCA")
            ]
            rows.append([_named(line.label, len(models)), f"{line.steps:,}" if line.steps else "-", *means])
    columns = ["own dimensions", "rotated", "temporal components", "rotated", "principal components"]
    return markdown_table(["model", "steps", *columns], rows)


def _named(label: str, seeds: int) -> Markdown:
    """A model and its number of seeds, for a table."""
    name = label.replace("sim-readable-small", "`sim-readable-small`")
    return Markdown(name if label == _LOG_MEL else f"{name}, {counted(seeds, 'seed')}")


def draw_syllables() -> Figure:
    """The table of best dimensions as points: one per seed, and random axes as hollow ones."""
    shown = {f"best_{key}": title for key, title in _FACTORS.items()}
    return draw_best(
        [
            (
                line.label,
                line.temporal,
                {
                    key: [(row[key], turned[key]) for row, turned in zip(line.own, line.rotated, strict=True)]
                    for key in shown
                },
            )
            for line in lines_of_syllables()
        ],
        shown,
    )


def draw_best(
    lines: Sequence[tuple[str, bool, dict[str, list[tuple[float, float]]]]], panels: dict[str, str]
) -> Figure:
    """Draws best dimensions: a row per model and a panel per property; points of random rotations are hollow.

    Args:
        lines: Model, whether the axes are temporal components, and pairs of these and random axes by score.
        panels: Titles by score.
    """
    models = list(dict.fromkeys(label for label, *_ in lines))
    figure = Figure(figsize=(10.5, 0.42 * len(models) + 1.3), layout="constrained", dpi=150)
    axes = figure.subplots(1, len(panels), sharey=True)
    for axis, (key, title) in zip(axes, panels.items(), strict=True):
        for label, temporal, scores in lines:
            style, place = (_TEMPORAL, 0.18) if temporal else (_OWN, -0.18)
            _points(axis, models.index(label) + place, scores[key], style)
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_xlim(0, 1)
        axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        leave_only_vertical_lines(axis)
    axes[0].set_yticks(range(len(models)), models)
    axes[0].set_ylim(len(models) - 0.5, -0.5)
    for style, label in ((_OWN, "own dimension"), (_TEMPORAL, "temporal component (SOBI)")):
        axes[0].plot([], [], style.marker, color=style.color, label=label)
    axes[0].plot(
        [], [], "o", markerfacecolor="white", markeredgecolor=GRAY, label="random axes, mean of five rotations"
    )
    title = "|rank correlation| of the best dimension with each property (for classes: correlation ratio of ranks)"
    figure.suptitle(title, x=0.005, ha="left", fontsize=10)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _points(
    axis: Axes, place: float, pairs: Sequence[tuple[float, float]], style: Style, label: str | None = None
) -> None:
    """Values as filled points in one row, random axes as hollow ones, and a line through all of them."""
    values, turned = np.array(pairs).T
    axis.plot([np.min(pairs), np.max(pairs)], [place, place], color=style.color, linewidth=1, alpha=0.5)
    axis.plot(values, [place] * len(values), style.marker, color=style.color, markersize=4.5, label=label)
    axis.plot(turned, [place] * len(turned), "o", markerfacecolor="white", markeredgecolor=GRAY, markersize=4.5)


def critics_table() -> str:
    """Parameters and time of a training step with each critic, from `benchmarks/critics.py`."""
    presets = read_json(CRITICS)["presets"]
    rows = [
        [name, *(cell for found in presets.values() for cell in _of_critic(found[name]))] for name in presets["sim"]
    ]
    head = [f"{channels} channels: {what}" for channels in (512, 128) for what in ("parameters", "time per step")]
    return markdown_table(["", *head], rows)


def _of_critic(row: dict[str, Any]) -> tuple[str, str]:
    return f"{row['parameters']:,}", f"{row['time_against_bilinear']:.2f} x"


# ---------------------------------------------------------------------- agreement of seeds


def fixed_table() -> str:
    """How well two seeds of the preset agree, slow dimensions first."""
    pairs = [pair for pair in _read("agreement_syllables")["pairs"] if pair["model"].startswith("sim-readable")]
    rows = []
    for first, last in ((1, 8), (9, 16), (17, 32), (33, 64)):
        names = ("autocorrelation", "matched", "rotated", "linear")
        means = np.array([[np.mean(pair["dimensions"][name][first - 1 : last]) for name in names] for pair in pairs])
        share = np.mean(means[:, 1] / means[:, 3])
        rows.append([f"{first} to {last}", *(decimal(value) for value in [*means.mean(axis=0), share])])
    return markdown_table(
        [
            "dimensions, slowest first",
            "autocorrelation",
            "one dimension",
            "random axis",
            "linear map",
            "share of the linear map",
        ],
        rows,
    )


def temporal_agreement_table() -> str:
    """How well temporal components of two seeds agree."""
    rows = []
    models = {"sim-small": "SIM", "gim-small": "GIM", "sim-readable-small": code("sim-readable-small")}
    for model, label in models.items():
        pairs = [pair for pair in _read("agreement_temporal")["pairs"] if pair["model"].startswith(f"{model}-seed")]
        counts = [len(pair["dimensions"]["matched"]) for pair in pairs]
        slow = [[np.mean(pair["dimensions"][name][:8]) for name in ("matched", "linear")] for pair in pairs]
        share = [pair["share_of_linear"] for pair in pairs]
        rows.append(
            [
                Markdown(f"{label}, {len(pairs)} pairs"),
                " to ".join(dict.fromkeys(map(str, (min(counts), max(counts))))),
                *(
                    _mean(pairs, key)
                    for key in ("matched_correlation", "matched_correlation_rotated", "linear_agreement")
                ),
                f"{decimal(float(np.mean(share)))} ({decimal(min(share))} to {decimal(max(share))})",
                decimal(float(np.mean([matched / linear for matched, linear in slow]))),
            ]
        )
    head = [
        "components",
        "one component",
        "random axis",
        "linear map",
        "share of the linear map",
        "of the slowest eight",
    ]
    return markdown_table(["", *head], rows)


# ---------------------------------------------------------------------- LibriSpeech


def librispeech_table() -> str:
    """Best dimensions of module 2 by property, gaps over random rotations, and what probes predict."""
    scores, speakers = _librispeech(), _scores("librispeech_release_speakers")
    rows: list[list[object]] = []
    for key, title in _PROPERTIES.items():
        found = [scores[_place(kind, f"best_{key}")] for kind in _LIBRISPEECH]
        rows.append([title, *(f"{decimal(row['value'])} / {decimal(row['null'])}" for row in found)])
    for key, title in _GAPS.items():
        found = [scores[_place(kind, key)] for kind in _LIBRISPEECH]
        cells = [Markdown(f"**{_with_bounds(row)}**") if row["low"] > 0 else _with_bounds(row) for row in found]
        rows.append([f"gap of {title}", *cells])
    found = [scores.get(_place(kind, "linear_pitch")) for kind in _LIBRISPEECH]
    rows.append(["pitch, R² of all dimensions", *(decimal(row["value"]) if row else "" for row in found)])
    for title, of_label in (("phones", scores), ("known speakers", speakers)):
        cells = [
            " / ".join(
                _percent(of_label[kind, module, "linear_accuracy"]["value"])
                for module in ("module 2", "context", "frame")
                if (kind, module, "linear_accuracy") in of_label
            )
            for kind in _LIBRISPEECH
        ]
        rows.append([f"{title} predicted, module 2 / context, %", *cells])
    head = [
        Markdown(f"{_model(label)}{', temporal components' * kind.endswith('SOBI')}")
        for kind, label in _LIBRISPEECH.items()
    ]
    return markdown_table(["", *head], rows)


def _place(kind: str, measure: str) -> tuple[str, str, str]:
    return kind, "frame" if kind.startswith("log-mel") else "module 2", measure


def _model(name: str) -> Markdown | str:
    return code(name) if name.startswith("sim-") else name


def draw_librispeech() -> Figure:
    """The best dimensions of LibriSpeech as points."""
    shown, scores = {f"best_{key}": title for key, title in _PROPERTIES.items()}, _librispeech()
    lines = []
    for kind, label in _LIBRISPEECH.items():
        found = {key: scores[_place(kind, key)] for key in shown}
        lines.append((label, kind.endswith("SOBI"), {key: [(row["value"], row["null"])] for key, row in found.items()}))
    return draw_best(lines, shown)


def price_table() -> str:
    """Phones, speakers and axes of models whose settings change step by step."""
    values = {
        (row["kind"], row["representation"], row["module"], row["measure"]): row["value"]
        for row in _rows("librispeech_price")
    }
    rows = []
    for model, label in _PRICE.items():
        phones = [values.get((*model, module, "linear_accuracy")) for module in ("module 2", "context")]
        scores = [values.get((*model, "module 2", key)) for key in ("best_pitch", "best_phones", *_GAPS)]
        rows.append(
            [
                Markdown(label),
                " / ".join(map(_percent, phones)),
                _percent(values[*model, "module 2", "speaker_linear_accuracy"]),
                *map(decimal, scores),
            ]
        )
    head = ["phones, module 2 / context, %", "speakers, module 2, %", "pitch", "phone"]
    return markdown_table(["model", *head, *(f"gap of {title}" for title in _GAPS.values())], rows)


# ---------------------------------------------------------------------- decoded sound


def selectivity_table(name: str) -> str:
    """Selectivity of changing one axis, for all decoders in a CSV file."""
    found = {(row["representation"], row["decoder"], row["measure"]): row for row in _rows(name)}
    rows = []
    for model, decoder in dict.fromkeys((model, decoder) for model, decoder, _ in found):
        own, temporal, oracle = (
            found[model, decoder, f"traversal_selectivity{axes}"] for axes in ("", "_temporal", "_oracle")
        )
        cells = [_with_bounds(own), decimal(own["null"]), _with_bounds(temporal), decimal(temporal["null"])]
        rows.append([_decoded_model(model), _DECODERS[decoder], *cells, _with_bounds(oracle)])
    head = ["own dimensions", "rotated", "temporal components", "rotated", "regression directions"]
    return markdown_table(["model", "decoder", *head], rows)


_DECODERS = {
    "convolutions": "convolutions",
    "source_filter": "source-filter",
    "stft": Markdown("convolutions, `stft`"),
    "log_mel": Markdown("convolutions, `log_mel`"),
}


def _with_bounds(row: dict[str, Any]) -> str:
    return bounded(row["value"], row["low"], row["high"])


def _decoders() -> dict[tuple[str, str, str], dict[str, Any]]:
    """Decoders of synthetic syllables by model, architecture and loss, in the order of the tables."""
    found = {
        (name.split()[0], decoder["architecture"], decoder["loss"]): decoder
        for name, decoder in _read("decoded_pitch")["decoders"].items()
    }
    order = [("convolutions", "log_mel"), ("convolutions", "stft"), ("source_filter", "stft")]
    return {(model, *kind): found[model, *kind] for model in ("sim-readable-small", "sim-small") for kind in order}


def _decoded_model(name: str) -> str:
    """Name of a decoder's model in tables."""
    if name.startswith("sim-small") and "librispeech" not in name:
        return "SIM, KL weight 0.001"  # the only one of SIM whose decoders were trained on syllables
    return code(name.removesuffix("-1500-seed1"))


def pitch_table() -> str:
    """Effect of changing, replacing and keeping dimensions on the decoded pitch, for each decoder."""
    rows = []
    for (model, architecture, loss), found in _decoders().items():
        pairs = {row["dimensions"]: row for row in found["replaced"]}
        moves = [found["moves"][axes] for axes in ("own", "temporal")]
        rows.append(
            [
                _decoded_model(model),
                Markdown(f"{_DECODERS[architecture]}, {code(loss)}"),
                f"{100 * found['decoded_within_a_semitone']:.0f} %",
                *(f"{abs(each['semitones'][0]):.1f} / {each['random_axes']['semitones'][0]:.1f}" for each in moves),
                f"{pairs[0]['pitch_of_utterance']} / {pairs[8]['pitch_of_utterance']}",
                str(pairs[8]["pitch_of_other"]),
                f"{100 * found['within_a_semitone_by_slowest_8']:.0f} %",
            ]
        )
    head = [
        "model",
        "decoder",
        "right pitch",
        "semitones by own dimension / rotated",
        "by temporal component / rotated",
        "pairs with own pitch before / after 8 are replaced",
        "pairs with the other pitch after",
        "right pitch, others constant",
    ]
    return markdown_table(head, rows)


def changes_table() -> str:
    """Other changes when the pitch changes, for source-filter decoders."""
    decoders, synthesizer = _decoders(), _read("decoded_pitch")["synthesizer"]
    spread = next(iter(decoders.values()))["spread"]

    def changes(found: dict[str, Any]) -> list[str]:
        return [decimal(abs(found["changes"][0][key]) / spread[key]) for key in spread]

    rows = [["the synthesizer's pitch", *changes(synthesizer), decimal(synthesizer["share"][0]), "-"]]
    for model in ("sim-readable-small", "sim-small"):
        for axes, title in (("own", "own dimension"), ("temporal", "temporal component")):
            found = decoders[model, "source_filter", "stft"]["moves"][axes]
            shares = [found["share"][0], found["random_axes"]["share"][0]]
            label = Markdown(f"{title} of {_decoded_model(model)}")
            rows.append([label, *changes(found), *map(decimal, shares)])
    names = [key.split(",")[0] for key in spread]
    return markdown_table(["what is moved", *names, "share of the pitch", "share, rotated"], rows)


def draw_pitch() -> Figure:
    """Draws the fraction of correct pitches, and the effect of one axis on the pitch, for each decoder."""
    decoders = _decoders()
    figure = Figure(figsize=(10.5, 3.6), layout="constrained", dpi=150)
    left, right = figure.subplots(1, 2, sharey=True)
    for place, found in enumerate(decoders.values()):
        for shift, key, color, what in (
            (-0.15, "decoded_within_a_semitone", _OWN.color, "all dimensions"),
            (0.15, "within_a_semitone_by_slowest_8", GRAY, "the 8 slowest, the others constant"),
        ):
            left.barh(place + shift, 100 * found[key], height=0.28, color=color, label=None if place else what)
        for axes, style, shift in (("own", _OWN, -0.14), ("temporal", _TEMPORAL, 0.14)):
            move = found["moves"][axes]
            pair = abs(move["semitones"][0]), move["random_axes"]["semitones"][0]
            label = None if place else {"own": "own dimension", "temporal": "temporal component"}[axes]
            _points(right, place + shift, [pair], style, label)
    names = [f"{_short(model)}, {_short(kind)}, {loss}" for model, kind, loss in decoders]
    left.set_yticks(range(len(decoders)), names)
    left.set_ylim(len(decoders) - 0.4, -0.6)
    left.set_xlim(0, 100)
    left.set_title("Right pitch, % of utterances", loc="left", fontsize=10)
    left.legend(frameon=False, fontsize=8, loc="upper right")
    right.set_xlim(left=-0.15)
    right.set_title("Pitch moved by one standard deviation", loc="left", fontsize=10)
    right.set_xlabel("semitones", fontsize=9)
    right.plot([], [], "o", markerfacecolor="white", markeredgecolor=GRAY, label="rotated at random, mean of ten")
    right.legend(frameon=False, fontsize=8, loc="upper right")
    leave_only_vertical_lines(left)
    leave_only_vertical_lines(right)
    return figure


def _short(name: str) -> str:
    return {"sim-small": "SIM", "sim-readable-small": "readable", "source_filter": "source-filter"}.get(name, name)
