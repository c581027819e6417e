"""Writes what the documentation shows of results: tables, text with numbers, and pictures.

    python docs/make.py           # writes the pages of docs/templates and docs/images/*.png
    python docs/make.py --check   # fails if a page does not match the results

All numbers come from committed files: `model_cards/results`, `benchmarks/results` and `studies/*/results`. The command
also writes the address of the repository, if `pyproject.toml` has one, into the README's links.
"""

import json
import re
import shutil
import sys
import tomllib
from argparse import ArgumentParser
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from modeling_sim.analysis.scorecard import DIRECTION_WORDS
from modeling_sim.evaluation.results import Results
from modeling_sim.files import read_results, replacing
from modeling_sim.hub.escaping import Markdown, code, markdown_table
from modeling_sim.plots import GRAY, save_figure, style_of
from modeling_sim.text import decimal, interval, percent
from studies import tables
from studies.ablation import run as ablation
from studies.axes import page as axes
from studies.kl_weight import run as kl_weight
from studies.objectives import run as objectives
from studies.paper_claims import make as claims
from studies.runner import Place

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
CARD_RESULTS = ROOT / "model_cards" / "results"
README = ROOT / "README.md"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

_PAPER = {  # Denoodt et al. 2025: accuracies of syllables and vowels, in %
    "untrained": (9.9, 32.4),
    "SIM": (44.5, 92.6),
    "GIM": (50.0, 95.2),
    "CPC": (49.8, 96.9),
    "supervised": (83.3, 91.2),
}
_METHODS = ("SIM", "GIM", "CPC")
_TASKS = ("published syllable", "word_disjoint syllable", "published vowel", "word_disjoint vowel")

# Measures of each claim, in the order of the heat maps.
CLAIMS = {
    "linear_accuracy": "Information",
    "abx_within": "Information",
    "wasserstein": "N(0, I)",
    "wasserstein_standardized": "N(0, I)",
    "mmd_whitened": "N(0, I)",
    "curve_area_paper": "Few dimensions",
    "curve_area": "Few dimensions",
    "gini": "Few dimensions",
    "total_correlation": "Independence",
    "dci_disentanglement": "One factor each",
    "mutual_information_gap": "One factor each",
    "traversal_selectivity": "One factor each",
    "path_ratio": "Smoothness",
    "jump_ratio": "Smoothness",
    "lipschitz_95": "Smoothness",
    "log_mel": "Decoders",
}
RIVALS = ("GIM", "GIM (Löwe)", "CPC", "GIM + noise", "GIM + PCA", "GIM + ICA", "log-mel")
_VERDICTS = ("loss", "undecided", "win")

# Pictures of studies, copied to docs/images because the site holds no other files.
STUDY_PICTURES = {
    "study_objectives.png": "objectives/results/narrow_synthetic_syllables/phones.png",
    "study_kl_weight.png": "kl_weight/results/small_synthetic_syllables/accuracy_and_readability.png",
    "study_ablation.png": "ablation/results/small_synthetic_syllables/phones.png",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = ArgumentParser(description="Write the pages and pictures of results.")
    parser.add_argument("--check", action="store_true", help="Write nothing; fail if a page is not up to date.")
    arguments = parser.parse_args(argv)
    pages = {
        DOCS / "results.md": results_page(),
        DOCS / "paper_claims.md": claims_page(),
        DOCS / "explorer.md": explorer_page(),
        DOCS / "axes.md": axes_page(),
        DOCS / "decoded_axes.md": decoded_axes_page(),
        DOCS / "studies.md": studies_page(),
    }
    pages[README] = with_address(README.read_text(encoding="utf-8"), PROJECT.get("urls", {}).get("Repository"))
    stale = [path for path, text in pages.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    if arguments.check:
        if stale:
            names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
            raise SystemExit(f"not up to date: {names}; run `python docs/make.py`.")
        return
    for path in stale:
        with replacing(path) as temporary:
            temporary.write_text(pages[path], encoding="utf-8")
    save_figure(draw_results(), DOCS / "images" / "results.png")
    for name, (title, path) in claims.RESULTS.items():
        save_figure(draw_verdicts(Results.read(path), title), DOCS / "images" / f"claims_{name}.png")
    save_figure(axes.draw_syllables(), DOCS / "images" / "axes_syllables.png")
    save_figure(axes.draw_librispeech(), DOCS / "images" / "axes_librispeech.png")
    save_figure(axes.draw_pitch(), DOCS / "images" / "decoded_pitch.png")
    for name, path in STUDY_PICTURES.items():
        shutil.copyfile(ROOT / "studies" / path, DOCS / "images" / name)


# ---------------------------------------------------------------------- the address of the repository


def with_address(text: str, repository: str | None) -> str:
    """A text whose links to files of the repository are absolute, as PyPI needs, or relative if it has no address."""

    def link(match: re.Match[str]) -> str:
        view = "raw" if match[1].endswith((".png", ".svg")) else "blob"
        return f"]({repository}/{view}/main/{match[1]})" if repository else f"]({match[1]})"

    return re.sub(r"\]\((?:https://[^\s()]+?/(?:blob|raw)/main/)?(?!https?:|#)([^\s()]+)\)", link, text)


# ---------------------------------------------------------------------- pages


def render(name: str, **values: Any) -> str:
    """The page of a template; a value that it names and does not get is an error."""
    loader = FileSystemLoader(DOCS / "templates")
    environment = Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True)  # noqa: S701 - Markdown
    return environment.get_template(name).render(**values)


def results_page() -> str:
    """The page of the small models: training, probes, ABX, speed and memory."""
    run = read_results(CARD_RESULTS / "librispeech_small.json", schema=1)
    phones = Results.read(CARD_RESULTS / "librispeech_small_phone_probe.json")
    speed = json.loads((CARD_RESULTS / "benchmark_cpu.json").read_text(encoding="utf-8"))
    encoding = json.loads((ROOT / "benchmarks" / "results" / "encoding.json").read_text(encoding="utf-8"))
    paper_probe = {label: read_probe(f"paper's probe, published {label}") for label in ("syllable", "vowel")}
    return render(
        "results.md",
        run=run,
        run_table=markdown_table(
            ["", *(module["name"] for module in run["modules"])],
            [
                ["contrastive accuracy", *_each(run, "trained", "contrastive_accuracy")],
                ["the same network untrained", *_each(run, "untrained", "contrastive_accuracy")],
                ["KL to N(0, I), nats per frame", *_each(run, "trained", "kl", digits=0)],
                ["active units", *_each(run, "trained", "active_units", digits=0)],
            ],
        ),
        phones=phones,
        phones_table=_probe_table(phones),
        gain=next(each for each in phones.differences if each.module == "context"),
        abx_table=_abx_table(Results.read(CARD_RESULTS / "librispeech_small_abx.json")),
        accuracy_table=_accuracy_table(),
        probes_table=_probes_table(),
        untrained={label: percent(found["untrained, context"][0]) for label, found in paper_probe.items()},
        speed=speed,
        speed_table=_speed_table(speed),
        stream=encoding["streaming"],
        encoding=encoding["encoding"],
        encoding_table=_encoding_table(encoding["encoding"]),
        depth=json.loads((ROOT / "benchmarks" / "results" / "memory_depth.json").read_text(encoding="utf-8")),
    )


def _each(run: dict[str, Any], state: str, field: str, digits: int = 2) -> list[str]:
    """A score of every module of a run; a dash where a module has none."""
    values = [module[state][field] for module in run["modules"]]
    names = [module["name"] for module in run["modules"]]
    return [
        decimal(None if field == "kl" and name == "context" else value, digits)
        for name, value in zip(names, values, strict=True)
    ]


def _probe_table(results: Results) -> str:
    rows = []
    for name, measured in results.by_features().items():
        accuracy = measured["linear_accuracy"]
        rows.append(
            [
                name.removeprefix("chance: ").replace(results.models[0], "trained"),
                _in_percent(accuracy.value),
                interval(accuracy.low, accuracy.high, _in_percent) or "-",
                *(_in_percent(measured[key].value) if key in measured else "-" for key in ("macro_f1", "selectivity")),
            ]
        )
    return markdown_table(["features", "accuracy", "interval", "macro F1", "selectivity"], rows)


def _abx_table(results: Results) -> str:
    titles = {measure.key: measure.title.removeprefix("ABX error, ") for measure in results.measures}
    rows = [
        [name.replace(results.models[0], "trained"), *(_in_percent(measured[key].value) for key in titles)]
        for name, measured in results.by_features().items()
    ]
    return markdown_table(["features", *titles.values()], rows)


def _accuracy_table() -> str:
    """Contrastive accuracy of the methods on artificial speech."""
    modules, rows = ("module 0", "module 1", "module 2", "context"), []
    for method in _METHODS:
        run = read_results(CARD_RESULTS / f"{method.lower()}_artificial_small.json", schema=1)
        by_name = {module["name"]: module["trained"]["contrastive_accuracy"] for module in run["modules"]}
        rows.append([method, *(decimal(by_name.get(module)) for module in modules)])
    return markdown_table(["", *modules], rows)


def _probes_table() -> str:
    """Probes of the context on artificial speech, next to controls and to what the paper reports."""
    data = probes_of_artificial_speech()
    return markdown_table(
        ["", "syllables", "syllables, new words", "vowels", "vowels, new words", "paper: syllables, vowels"],
        [
            [name, *(_spread(data[task][name]) for task in _TASKS), _published(name)]
            for name in ("chance", "log-mel", "untrained", *_METHODS, "supervised")
        ],
    )


def read_probe(task: str) -> dict[str, list[float]]:
    """Accuracies of each row of a probe on the artificial speech, by its name without the seed."""
    found: dict[str, list[float]] = {}
    rows = read_results(CARD_RESULTS / "artificial_small_probes.json", schema=1)["probes"][task]["rows"]
    for row in rows:
        name = re.sub(r"-\d, ", ", ", row["name"]).removesuffix(": most frequent class")
        found.setdefault(name, []).append(row["accuracy"]["value"])
    return found


def probes_of_artificial_speech() -> dict[str, dict[str, list[float]]]:
    """Accuracies by task and by what is shown: controls, the context of each method, supervised training."""
    supervised = read_results(CARD_RESULTS / "artificial_small_probes.json", schema=1)["supervised"]
    data = {}
    for task in _TASKS:
        rows = read_probe(task)
        data[task] = {
            "chance": rows["chance"],
            "log-mel": rows["log-mel"],
            "untrained": rows["untrained, context"],
            **{method: rows[f"{method.lower()}, context"] for method in _METHODS},
            "supervised": [seed["value"] for seed in supervised[task]],
        }
    return data


def _spread(values: list[float]) -> str:
    mean = _in_percent(float(np.mean(values)))
    return mean if len(values) == 1 else f"{mean} ± {_in_percent(float(np.std(values, ddof=1)))}"


def _published(name: str) -> str:
    return f"{_PAPER[name][0]}, {_PAPER[name][1]}" if name in _PAPER else "-"


def _encoding_table(measured: list[dict[str, Any]]) -> str:
    """Encoders by precision, threads and batch size, as ratios to wav2vec2-base."""
    names = ("encoder", "folded", "embed")
    rows = [
        [
            run["dtype"],
            str(run["threads"]),
            str(run["batch_size"]),
            f"{run['audio_seconds_per_second']['wav2vec2-base']:.0f}",
            *(f"{run['times_wav2vec2_base'][name]:.1f} x" for name in names),
            f"{100 * run['embed_to_folded']:.0f} %",
        ]
        for run in measured
    ]
    return markdown_table(
        [
            "",
            "threads",
            "batch",
            "wav2vec2-base",
            code("SimModel"),
            "folded",
            code("embed"),
            Markdown("`embed` of folded"),
        ],
        rows,
    )


def _speed_table(speed: dict[str, Any]) -> str:
    rows, names = [], {"plain": "plain implementation", "bf16": Markdown(f"{code('per_module')}, bfloat16")}
    for name, way in speed["ways"].items():
        stages = f", {len(way['stages'])} processes" if "stages" in way else ""
        rows.append(
            [
                names.get(name, Markdown(f"{code(name)}{stages}")),
                decimal(way["samples_per_second"]),
                f"{way['throughput_against_plain']:.2f} x",
                f"{way['saved_megabytes']:.0f} MB" if "saved_megabytes" in way else "-",
                f"{way['peak_megabytes']:.0f} MB" if "peak_megabytes" in way else "-",
                f"{100 * way['share_of_bound']:.0f} %",
            ]
        )
    return markdown_table(
        [code("--execution"), "samples/s", "throughput", "saved for backward", "peak", "of a large matrix product"],
        rows,
    )


def _in_percent(value: float | None) -> str:
    return decimal(None if value is None else 100 * value, 1)


# ---------------------------------------------------------------------- studies.md


def studies_page() -> str:
    """The page of the studies that have rows, with tables of the objectives."""
    scales = ((objectives.STUDY, "narrow"), (kl_weight.STUDY, "small"), (ablation.STUDY, "small"))
    places = {study.name: Place.committed(study, scale, "synthetic_syllables") for study, scale in scales}
    return render(
        "studies.md",
        done={name: len(place.done()) for name, place in places.items()},
        rows={name: len(place.rows) for name, place in places.items()},
        objectives_overview=objectives.overview(places["objectives"]),
        objectives_kept=objectives.what_is_kept(places["objectives"]),
    )


# ---------------------------------------------------------------------- explorer.md


def explorer_page() -> str:
    """The page of the explorer: how many labels are right, and what the loudest moments have in common."""
    labels = read_explorer("labels")
    moments = {
        name: read_explorer(name) for name in ("moments_sim_temporal", "moments_sim_own", "moments_readable_own")
    }
    worded = {name: sum(bool(end["words"]) for end in found["ends"]) for name, found in moments.items()}
    return render(
        "explorer.md",
        labels=labels,
        labels_table=_labels_table(labels),
        moments=moments,
        temporal=moments["moments_sim_temporal"],
        moments_table=_moments_table(moments["moments_sim_temporal"]["ends"]),
        worded=worded,
    )


def read_explorer(name: str) -> dict[str, Any]:
    """Results of `studies/explorer/measure.py`, by their name."""
    return json.loads((ROOT / "studies" / "explorer" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def _labels_table(results: dict[str, Any]) -> str:
    """Labels and right ones of each network, over its modules, and of networks without training."""
    rows = []
    for model, found in groupby(results["trained"]["modules"], key=itemgetter("model")):
        modules = list(found)
        labels = [label for row in modules for label in row["labels"]]
        dims = sum(row["dimensions"] for row in modules)
        rows.append([code(model), str(dims), str(len(labels)), str(sum(label["right"] for label in labels))])
    floor = results["untrained"]
    rows.append([f"without training, {floor['networks']} seeds", str(floor["dimensions"]), str(floor["labels"]), ""])
    return markdown_table(["network", "dimensions", "labels", "right"], rows)


def _moments_table(ends: Sequence[dict[str, Any]]) -> str:
    """What the largest and the smallest moments of each dimension have in common, in words."""
    rows = []
    for dim in dict.fromkeys(end["dimension"] for end in ends):
        both = {end["end"]: end for end in ends if end["dimension"] == dim}
        found = both["largest"]
        follows = f"{found['best']} {decimal(found['correlation'])} / {decimal(found['random_axes'])}"
        words = ["; ".join(both[end]["words"]) or "-" for end in ("largest", "smallest")]
        rows.append([str(dim), follows, *words])
    return markdown_table(["component", "follows most", "20 largest frames", "20 smallest frames"], rows)


# ---------------------------------------------------------------------- axes.md, decoded_axes.md


def axes_page() -> str:
    """The page of readable dimensions: what they follow, and which of them seeds share."""
    return render(
        "axes.md",
        syllables_table=axes.syllables_table(),
        thresholds_table=axes.thresholds_table(),
        critics_table=axes.critics_table(),
        fixed_table=axes.fixed_table(),
        temporal_agreement_table=axes.temporal_agreement_table(),
        librispeech_table=axes.librispeech_table(),
        price_table=axes.price_table(),
    )


def decoded_axes_page() -> str:
    """The page of dimensions that are moved in decoded sound."""
    return render(
        "decoded_axes.md",
        librispeech_table=axes.selectivity_table("librispeech_decoders"),
        pitch_table=axes.pitch_table(),
        changes_table=axes.changes_table(),
        syllables_table=axes.selectivity_table("syllables_decoders"),
        linear_decoder_table=axes.linear_decoder_table(),
    )


# ---------------------------------------------------------------------- paper_claims.md


class Scores:
    """Both scorecards, asked for counts of verdicts and for means."""

    def __init__(self) -> None:
        self.results = {name: Results.read(path) for name, (_, path) in claims.RESULTS.items()}

    def verdicts(self, measure: str, rival: str) -> dict[str, int]:
        """How often SIM is better ("win"), worse ("loss") or neither, over corpora and modules."""
        found = [
            each.verdict
            for results in self.results.values()
            for each in results.comparisons
            if (each.measure, each.first, each.second) == (measure, claims.KINDS[0], rival)
        ]
        return {verdict: found.count(verdict) for verdict in _VERDICTS}

    def against(self, measure: str, rival: str) -> str:
        """These counts in words."""
        found = self.verdicts(measure, rival)
        return f"{found['win']} better, {found['loss']} worse, {found['undecided']} undecided"

    def means(self, measure: str, kind: str) -> dict[tuple[str, str], float]:
        """Mean over seeds by corpus and module."""
        return {
            (name, module): float(np.mean(found))
            for name, results in self.results.items()
            for module in tables.modules_of(results)
            if (found := tables.values_of(results, measure, module, kind))
        }

    def ratios(self, measure: str, rival: str) -> tuple[float, float]:
        """Smallest and largest ratio of a rival's mean to SIM's, over corpora and modules."""
        own, theirs = self.means(measure, claims.KINDS[0]), self.means(measure, rival)
        found = [theirs[place] / own[place] for place in own if place in theirs]
        return min(found), max(found)

    def average(self, measure: str, field: str = "value") -> float:
        """Mean over all models that are no spectra."""
        return float(
            np.mean(
                [
                    getattr(row, field)
                    for results in self.results.values()
                    for row in results.rows
                    if row.measure == measure and getattr(row, field) is not None
                ]
            )
        )


def claims_page() -> str:
    """The page of what holds of the paper's claims: pictures, text with counts, all tables."""
    scores, sim = Scores(), claims.KINDS[0]
    probe = {kind: scores.means("linear_accuracy", kind)["syllables", "module 1"] for kind in (sim, "GIM")}
    modules = dict.fromkeys(module for _, module in scores.means("linear_accuracy", sim))
    return render(
        "paper_claims.md",
        against=scores.against,
        gini=float(np.mean([*scores.means("gini", sim).values()])),
        steep=scores.ratios("lipschitz_95", "GIM"),
        noisy=scores.ratios("lipschitz_95", "GIM + noise"),
        selectivity=scores.average("traversal_selectivity"),
        random_selectivity=scores.average("traversal_selectivity", "null"),
        sim_probe=probe[sim],
        gim_probe=probe["GIM"],
        tables=[
            (title, module, "\n".join(claims.table(scores.results[name], module)))
            for name, (title, _) in claims.RESULTS.items()
            for module in modules
        ],
    )


# ---------------------------------------------------------------------- pictures


def draw_results() -> Figure:
    """What probes predict: phones of LibriSpeech with intervals, syllables of the artificial speech with every seed."""
    figure = Figure(figsize=(9, 3.4), layout="constrained", dpi=150)
    left, right = figure.subplots(1, 2)
    phones = Results.read(CARD_RESULTS / "librispeech_small_phone_probe.json")
    rows: list[tuple[str, list[float], tuple[float, float] | None, str]] = []
    for name, measured in phones.by_features().items():
        row = measured["linear_accuracy"]
        trained = row.representation in phones.models
        if not row.value or row.representation == "MFCC" or (not trained and row.module not in ("frame", "context")):
            continue
        label = {"chance: most frequent class": "chance", "untrained, context": "untrained context"}.get(name, name)
        label = f"SIM, {row.module}" if trained else label
        rows.append((label, [row.value], (row.low or 0, row.high or 1), style_of(0).color if trained else GRAY))
    _dots(left, rows, "Phones of LibriSpeech\nlinear probe of one frame; bars: 95 % intervals")
    data = probes_of_artificial_speech()[_TASKS[0]]
    colors = {method: style_of(number).color for number, method in enumerate(_METHODS)}
    _dots(
        right,
        [(name, values, None, colors.get(name, GRAY)) for name, values in data.items()],
        "Syllables of the paper's artificial speech\nlinear probe of the context; dots: seeds",
    )
    return figure


def _dots(axis: Any, rows: Sequence[tuple[str, list[float], tuple[float, float] | None, str]], title: str) -> None:
    """A line per row, its values as points; what is gray is a control."""
    for place, (_, values, bounds, color) in enumerate(rows):
        shares = [100 * value for value in values]
        axis.plot(shares, [place] * len(shares), "o", color=color, markersize=5)
        if bounds:
            low, high = (100 * bound for bound in bounds)
            axis.plot([low, high], [place, place], "|-", color=color, markersize=11, linewidth=1)
        axis.annotate(
            f"{np.mean(shares):.0f}",
            (max(shares), place),
            (8, 0),
            textcoords="offset points",
            va="center",
            color=color,
            fontsize=9,
        )
    axis.set_yticks(range(len(rows)), [row[0] for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlim(0, 100)
    axis.set_xlabel("accuracy, %")
    axis.set_title(title, loc="left", fontsize=10)
    tables.leave_only_vertical_lines(axis)


def draw_verdicts(results: Results, title: str) -> Figure:
    """A cell per measure, rival and module: whether SIM is better, worse, or neither."""
    found = {
        (each.measure, each.second, each.module): _VERDICTS.index(each.verdict) - 1
        for each in results.comparisons
        if each.first == claims.KINDS[0]
    }
    titles = {measure.key: measure for measure in results.measures}
    measures = [key for key in CLAIMS if key in titles]
    modules = ("module 0", "module 1", "module 2", "context")
    columns = [
        (rival, module)
        for rival in RIVALS
        for module in modules
        if any((measure, rival, module) in found for measure in measures)
    ]
    cells = np.array([[found.get((key, *column), np.nan) for column in columns] for key in measures])
    figure = Figure(figsize=(10, 1.3 + 0.27 * len(measures)), layout="constrained", dpi=130)
    axis = figure.subplots()
    colors = ListedColormap([style_of(1).color, "#e4e4e4", style_of(0).color])
    axis.pcolormesh(cells, cmap=colors, vmin=-1.5, vmax=1.5, edgecolors="white", linewidth=1.5)
    axis.invert_yaxis()
    names = [
        f"{titles[key].title} ({DIRECTION_WORDS[titles[key].direction].removesuffix(' is better')})" for key in measures
    ]
    axis.set_yticks(np.arange(len(measures)) + 0.5, names, fontsize=8)
    axis.set_xticks(
        np.arange(len(columns)) + 0.5, [module[-1] if module != "context" else "c" for _, module in columns]
    )
    axis.tick_params(length=0, labelsize=8)
    for start, end, rival in _runs([rival for rival, _ in columns]):
        axis.axvline(end, color="white", linewidth=5)
        axis.text((start + end) / 2, -0.25, rival, ha="center", va="bottom", fontsize=8.5, fontweight="bold")
    for start, end, claim in _runs([CLAIMS[key] for key in measures]):
        axis.text(len(columns) + 0.25, (start + end) / 2, claim, va="center", fontsize=8.5, fontweight="bold")
        axis.axhline(end, color="white", linewidth=5)
    axis.spines[:].set_visible(False)
    axis.set_xlabel("module that is compared (c: context)", fontsize=8, color=GRAY)
    handles = [
        axis.plot([], [], "s", color=color, markersize=9, label=label)[0]
        for color, label in (
            (style_of(0).color, "SIM is better"),
            ("#e4e4e4", "undecided"),
            (style_of(1).color, "SIM is worse"),
        )
    ]
    figure.legend(handles=handles, loc="outside lower right", ncols=3, fontsize=8, frameon=False)
    figure.suptitle(f"{title}: Smooth InfoMax against other methods and controls", fontsize=11, x=0.01, ha="left")
    return figure


def _runs(names: Sequence[str]) -> list[tuple[int, int, str]]:
    """Start, end and name of each run of equal names."""
    starts = [place for place, name in enumerate(names) if place == 0 or names[place - 1] != name]
    return [(start, end, names[start]) for start, end in zip(starts, [*starts[1:], len(names)], strict=True)]


if __name__ == "__main__":
    sys.exit(main())
