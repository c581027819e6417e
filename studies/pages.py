"""The page of a study: finished rows, their costs, tables of each label and module, and pictures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modeling_sim.analysis.scorecard import MEASURES, Row, compare
from modeling_sim.data.corpora import corpus_info
from modeling_sim.evaluation.results import Kind, Results
from modeling_sim.files import replacing
from modeling_sim.plots import save_figure, style_of
from modeling_sim.text import in_one_line
from studies import tables
from studies.runner import Place

PAGE_NAME = "results.md"

SHOWN = tuple(
    str.split(
        "linear_accuracy abx_within abx_across kl active_units wasserstein wasserstein_standardized mmd mmd_whitened "
        "total_correlation gini rotation_gap dci_informativeness dci_disentanglement_gap dci_completeness_gap "
        "best_dimension best_dimension_gap path_ratio jump_ratio lipschitz_95 curve_area curve_area_pca log_mel"
    )
)
"""Measures in tables, if they were measured."""

TEMPORAL = " + SOBI"
"""Suffix of the kinds whose single dimensions are temporal components."""

_SHOWN_OF_AXES = tuple(
    str.split("rotation_gap dci_disentanglement_gap dci_completeness_gap best_dimension best_dimension_gap")
)

_PRECISIONS = {"no": "fp32", None: "unknown"}  # results of earlier versions have none

_NULLS = {"best_dimension": "The same, random axes"}


def results_of(place: Place, label: str, kinds: Sequence[str], controls: Sequence[str] = ()) -> Results:
    """The results of a label over all finished final rows; comparisons are with the first kind.

    A spectrum, which has no seed, has one value per model that it was measured with, because probes have seeds.
    """
    final = [result for result in place.done() if not result["row"]["tuning"]]
    rows = [Row(**each) for result in final for each in result["labels"].get(label, [])]
    present = {row.measure for row in rows}
    return Results(
        corpus=place.corpus,
        corpus_license=corpus_info(place.corpus).license,
        kinds=[
            Kind(kind, "", kind in controls, sorted({row.representation for row in rows if row.kind == kind}))
            for kind in kinds
        ],
        measures=[measure for measure in MEASURES if measure.key in present],
        rows=rows,
        comparisons=compare(rows, [(kinds[0], kind) for kind in kinds[1:]]),
        label=label,
    )


def write_page(
    place: Place,
    title: str,
    text: str,
    *,
    controls: Sequence[str] = (),
    drawn: Mapping[str, Sequence[str]],
    extra: Sequence[str] = (),
) -> None:
    """Writes `results.md` and pictures into the folder of results.

    Args:
        place: The study.
        title: Heading.
        text: Question of the study, and explanation of the page.
        controls: Kinds for comparison, drawn hollow; those without rows come last.
        drawn: Measures in the picture of each label.
        extra: Further lines, after the costs.
    """
    final = [row for row in place.rows if not row.tuning]
    kinds = list(dict.fromkeys([*(row.kind for row in final), *controls]))
    colors = {kind: style_of(number).color for number, kind in enumerate(kinds)}
    lines = [f"# {title}", "", text, "", f"Corpus `{place.corpus}`, scale `{place.scale_name}`.", ""]
    lines += [*_state(place), "", *_costs(place), *(["", *extra] if extra else [])]
    labels = dict.fromkeys(label for result in place.done() for label in result["labels"])
    for label in labels:
        results = results_of(place, label, kinds, controls)
        if not results.rows:
            continue
        modules = tables.modules_of(results)
        present = {row.measure for row in results.rows}
        lines += ["", f"## {label}", *_without_components(results, kinds)]
        if measures := [key for key in drawn.get(label, ()) if key in present]:
            figure = tables.draw(
                results,
                f"{title}, {label}: a point per model; controls are hollow",
                colors=colors,
                measures=measures,
                modules=modules,
            )
            save_figure(figure, place.results / f"{label}.png")
            lines += ["", f"![{title}, {label}]({label}.png)"]
        for module in modules:
            shown = tables.table(results, module, kinds=kinds, measures=SHOWN, nulls=_NULLS)
            lines += ["", f"### {label}, {module}", "", *shown]
            components = [kind + TEMPORAL for kind in kinds]
            if any(tables.values_of(results, "best_dimension", module, kind) for kind in components):
                shown = tables.table(results, module, kinds=components, measures=_SHOWN_OF_AXES, nulls=_NULLS)
                lines += ["", "Temporal components:", "", *shown]
    with replacing(place.results / PAGE_NAME) as temporary:
        temporary.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _without_components(results: Results, kinds: Sequence[str]) -> list[str]:
    """A line on kinds with models whose single dimensions were only measured on their own axes, and their number."""
    measured = {(row.kind, row.representation) for row in results.rows if row.measure.startswith("best_dimension")}
    counts = Counter(kind for kind, name in measured if (kind + TEMPORAL, name + TEMPORAL) not in measured)
    found = [f"{kind} ({counts[kind]})" for kind in kinds if counts[kind]]
    return ["", f"Measured with own axes only, without temporal components: {'; '.join(found)}."] if found else []


def _state(place: Place) -> list[str]:
    """Lines on missing and failed rows, and on measures that failed."""
    found = {row.name: place.result(row) for row in place.rows}
    done = [name for name, result in found.items() if result and "error" not in result]
    lines = [f"{len(done)} of {len(found)} rows are done."]
    missing = Counter(row.kind + " (tuning)" * row.tuning for row in place.rows if found[row.name] is None)
    if missing:
        lines.append(f"Missing: {'; '.join(f'{kind} ({count})' for kind, count in missing.items())}.")
    lines += [f"Failed: {name} ({result['error']})." for name, result in found.items() if result and "error" in result]
    lines += [
        f"Not measured in {name}, {label}, a dash in tables: {in_one_line(ValueError('; '.join(errors)))}."
        for name, result in found.items()
        for label, errors in (result or {}).get("errors", {}).items()
    ]
    return lines


def _costs(place: Place) -> list[str]:
    """A table of the cost of each kind, and its settings if they were tuned."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for result in place.done():
        if not result["row"]["tuning"]:
            by_kind.setdefault(result["row"]["kind"], []).append(result)
    if not by_kind:
        return []
    lines = [
        "| | seeds | steps | hours of audio | training, min | precision | settings |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kind, results in by_kind.items():
        minutes = np.mean([result["training_seconds"] for result in results]) / 60
        hours = np.mean([result["seconds_of_audio"] for result in results]) / 3600
        names = [result.get("precision") for result in results]
        precision = ", ".join(sorted({_PRECISIONS.get(name, name) for name in names}))
        settings = ", ".join(f"{name} {value}" for name, value in results[0]["settings"].items())
        lines.append(
            f"| {kind} | {len(results)} | {results[0]['steps']} | {hours:.2f} | {minutes:.1f} | {precision} | "
            f"`{settings}` |"
        )
    return lines
