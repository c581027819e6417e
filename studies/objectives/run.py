"""Other self-supervised objectives on the same encoder, next to SIM and CPC: SimCLR, MoCo, BYOL, VICReg, LeJEPA, DINO.

    python studies/objectives/run.py --budget 8h
    python studies/objectives/run.py --corpus librispeech --data_dir LibriSpeech --scale paper --processes 8

All methods train the same layers at equal seconds of audio through the encoder: methods that read two views of each
crop take half of the steps. For each, the best of 8 short runs of one seed on a development split determines the
settings of its final runs of three seeds. Rows with a loss per module ("greedy") use the settings that were best end to
end. The effect of augmentation, which makes the two views, is tested separately in SIM + augmentation and CPC +
augmentation. Controls are the log-mel spectrum, the untrained encoder, and the same encoder trained on phones.

Positives are frames. Objectives whose positives are utterances would discard phones by construction, and are not
included.

Rerun the same command after an interruption. `--plan` lists the rows.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from modeling_sim.hub.escaping import markdown_table
from modeling_sim.settings import merged
from modeling_sim.text import decimal
from studies import tables
from studies.objectives import kept
from studies.pages import TEMPORAL, results_of, write_page
from studies.runner import Place, Study, StudyRow, main

SEEDS = (0, 1, 2)

# One gradient and one loss, at the last module.
_END_TO_END = {"gradient_isolation": False, "contrastive_modules": "context"}
# A loss at every module, without gradients between modules.
_PER_MODULE = {"gradient_isolation": True, "contrastive_modules": "all"}
_RATES = (1e-3, 3e-4, 3e-3, 1e-4)

# The momentum increases to 1 within a run. In the 150 steps of a tuning run, the momentum network would keep 74 % of
# its random initial weights at DINO's default of 0.996; with 0.99 it keeps 47 %, with 0.96 5 %.
_MOMENTA: list[dict[str, Any]] = [{"objective_settings": {"momentum": momentum}} for momentum in (0.99, 0.96)]

# Settings of each method, and the choices that are tuned in addition to the learning rate (`{}`: the default). In the
# order of rows: controls and the most informative methods come first.
_METHODS: tuple[tuple[str, dict[str, Any], list[dict[str, Any]]], ...] = (
    (
        "SIM",
        {"preset": "sim-small"},
        [{}, {"model_settings": {"kl_weight": [1e-2, 2.5e-3, 1.25e-3]}}],
    ),
    (
        "CPC",
        {"preset": "gim-small", "model_settings": _END_TO_END},
        [{}, {"model_settings": {"num_negatives": 127}}],
    ),
    (
        "supervised",
        {"preset": "gim-small", "label": "phones"},
        [{}, {"weight_decay": 0.05}],
    ),
    ("SimCLR", {"objective": "simclr"}, [{}, {"objective_settings": {"temperature": 0.3}}]),
    ("VICReg", {"objective": "vicreg"}, [{}, {"objective_settings": {"covariance_weight": 1.0}}]),
    ("DINO", {"objective": "dino"}, _MOMENTA),
    ("BYOL", {"objective": "byol"}, _MOMENTA),
    ("MoCo", {"objective": "moco"}, [{}, {"objective_settings": {"temperature": 0.3}}]),
    ("LeJEPA", {"objective": "lejepa"}, [{}, {"objective_settings": {"weight": 0.2}}]),
    ("GIM", {"preset": "gim-small"}, [{}, {"model_settings": {"num_negatives": 127}}]),
)

_GREEDY = ("SimCLR", "VICReg", "DINO", "BYOL", "MoCo", "LeJEPA")
_AUGMENTED = ("SIM", "CPC")


def rows() -> list[StudyRow]:
    """The rows: method by method its tuning and its seeds; then augmentation; then a loss per module."""
    found: list[StudyRow] = []
    for kind, settings, choices in _METHODS:
        found += _of_method(kind, _full(settings), choices)
    final = {row.kind: row for row in found if not row.tuning}
    for kind in _AUGMENTED:
        found += _seeds(f"{kind} + augmentation", {**final[kind].settings, "augmentation": "all"}, final[kind].tuned_by)
    for kind in _GREEDY:
        settings = {**final[kind].settings, "model_settings": _PER_MODULE}
        found += _seeds(f"{kind}, greedy", settings, final[kind].tuned_by)
    return found


def _full(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a method with the common encoder, that of GIM."""
    if "objective" not in settings:
        return settings
    return {"preset": "gim-small", **settings, "model_settings": _END_TO_END}


def _of_method(kind: str, settings: dict[str, Any], choices: list[dict[str, Any]]) -> list[StudyRow]:
    """Eight tuning rows, and a final row of each seed."""
    views = _views(settings)
    tried = [merged({**settings, "learning_rate": rate}, choice) for choice in choices for rate in _RATES]
    tuning = [
        StudyRow(f"{_name(kind)}-tune{number}", kind, each, views=views, tuning=True)
        for number, each in enumerate(tried)
    ]
    return tuning + _seeds(kind, settings, tuple(row.name for row in tuning))


def _seeds(kind: str, settings: dict[str, Any], tuned_by: tuple[str, ...]) -> list[StudyRow]:
    return [
        StudyRow(
            f"{_name(kind)}-{seed}",
            kind,
            settings,
            seed,
            views=_views(settings),
            tuned_by=tuned_by,
            has_controls=kind == "SIM",
        )
        for seed in SEEDS
    ]


def _views(settings: dict[str, Any]) -> int:
    return 2 if "objective" in settings else 1


def _name(kind: str) -> str:
    return kind.lower().replace(" + ", "-").replace(", ", "-")


_CONTROLS = ("supervised", "untrained", "log-mel")
_MODULES = ("module 2", "context")
_OVERVIEW = {
    "phones, %": ("phones", "linear_accuracy", ""),
    "speakers, %": ("speaker_id", "linear_accuracy", ""),
    "syllables, %": ("syllable", "linear_accuracy", ""),
    "ABX error of phones, across speakers, %": ("phones", "abx_across", ""),
    "gap of the best temporal component": ("phones", "best_dimension_gap", TEMPORAL),
}
"""Columns of the overview: label, measure, and the ending of the kinds that have it."""


def page(place: Place) -> None:
    """Writes tables and pictures of all finished rows, and the table of `kept.py` if its output exists."""
    extra = ["## Overview", "", "Means over seeds, module 2 / context.", "", overview(place)]
    if kept_table := what_is_kept(place):
        text = "Made by `python studies/objectives/kept.py`, which says what the columns are."
        extra += ["", "## What module 2 and the context keep", "", text, "", kept_table]
    write_page(
        place,
        "Objectives on the same encoder",
        "Made by `python studies/objectives/run.py` from the results next to it. Means over seeds; **+** and "
        "**\N{MINUS SIGN}** say that SIM is better or worse than the method of that column with 95 % over seeds. "
        "All methods at equal seconds of audio through the encoder, after 8 tuning runs each.",
        controls=_CONTROLS,
        drawn={
            "phones": ("linear_accuracy", "abx_within", "abx_across", "best_dimension_gap", "rotation_gap"),
            "speaker_id": ("linear_accuracy",),
            "syllable": ("linear_accuracy",),
            "vowel": ("linear_accuracy",),
        },
        extra=extra,
    )


def overview(place: Place) -> str:
    """A Markdown table of the finished kinds: means over seeds, module 2 / context."""
    kinds = list(dict.fromkeys([*(row.kind for row in place.rows), *_CONTROLS]))
    labels = dict.fromkeys(label for label, _, _ in _OVERVIEW.values())
    results = {label: results_of(place, label, kinds, _CONTROLS) for label in labels}
    seeds = Counter(result["row"]["kind"] for result in place.done() if not result["row"]["tuning"])
    rows = []
    for kind in kinds:
        cells = []
        for name, (label, measure, ending) in _OVERVIEW.items():
            found = [tables.values_of(results[label], measure, module, kind + ending) for module in _MODULES]
            factor, digits = (100, 1) if name.endswith("%") else (1, 2)
            means = [decimal(factor * float(np.mean(values)) if values else None, digits) for values in found]
            cells.append(" / ".join(dict.fromkeys(means) if kind == "log-mel" else means))
        if any(cell.strip("- /") for cell in cells):
            rows.append([kind, str(seeds[kind] or "-"), *cells])
    return markdown_table(["", "seeds", *_OVERVIEW], rows)


def what_is_kept(place: Place) -> str:
    """The table of `kept.py`; empty without its output."""
    path = place.results / kept.FILE_NAME
    kinds = {_name(row.kind): row.kind for row in place.rows if not row.tuning}
    return kept.table(path, kinds) if path.is_file() else ""


STUDY = Study(Path(__file__).resolve(), __doc__ or "", rows(), page)

if __name__ == "__main__":
    main(STUDY)
