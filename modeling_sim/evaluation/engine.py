"""Runs all measures: `evaluate`, with `probe` and `abx` as presets; see `modeling-sim evaluate --help`."""

import csv
import itertools
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from modeling_sim.analysis import bootstrap_difference
from modeling_sim.analysis.scorecard import LOG_MEL, MEASURES, SPECTRUM_MODULE, Row, compare
from modeling_sim.data.corpora import corpus_info
from modeling_sim.evaluation.axes import AXES_NAME, save_axes
from modeling_sim.evaluation.cache import Analysis, AnalysisParts, measuring_settings
from modeling_sim.evaluation.consistency import measure_consistency
from modeling_sim.evaluation.decoder_scores import measure_decoder
from modeling_sim.evaluation.models import attach_decoders, decoder_kind, facts_of, load_representations
from modeling_sim.evaluation.module_scores import measure_objective, measure_representation
from modeling_sim.evaluation.pictures import draw, draw_confusion
from modeling_sim.evaluation.probe_scores import CHANCE, Groups, measure_chance, tested_items
from modeling_sim.evaluation.representations import AudioEncoder, Representation, SimModules
from modeling_sim.evaluation.results import (
    ANALYSIS_NAME,
    CURVES_NAME,
    FIGURES,
    MEDIA_NAME,
    REPORT_NAME,
    Difference,
    Kind,
    Results,
)
from modeling_sim.evaluation.settings import (
    AbxArguments,
    AnalysisArguments,
    ProbeArguments,
    claim_output_dir,
)
from modeling_sim.evaluation.task import LabelTask
from modeling_sim.files import replacing
from modeling_sim.loading import check_reads_audio, names_of
from modeling_sim.provenance import git_revision, hub_dataset, versions, weights_fingerprint
from modeling_sim.text import counted
from modeling_sim.trainer.run_folder import clear_folder

# Standard deviations beyond all latents, where the output of a decoder is meaningless.
_FURTHEST = 20

WEIGHTS_NAME = "weights.npz"


def probe(arguments: ProbeArguments) -> Results:
    """The measures "probes" of every module of every model, in `probe.json` with pictures; raises like `evaluate`."""
    return _run(AnalysisArguments(**vars(arguments), measures="probes", align_modules=False), "probe")


def abx(arguments: AbxArguments) -> Results:
    """The measures "abx" of every module of every model, in `abx.json` with a picture; raises like `evaluate`."""
    return _run(AnalysisArguments(**vars(arguments), measures="abx", align_modules=False), "ABX measurement")


def evaluate(arguments: AnalysisArguments) -> Results:
    """Measures everything that the settings name, writes the results and returns them.

    Raises:
        ValueError: A label, group of measures or module is unknown, a decoder belongs to none of the models, or nothing
            can be measured.
        OSError: A model or the data cannot be found.
    """
    return _run(arguments, "analysis")


# Files of each preset, the one with the rows last, and pictures without their endings.
_FILES = {
    "probe": ([WEIGHTS_NAME, "probe.json"], ["probe", "confusion"]),
    "ABX measurement": (["abx.json"], ["abx"]),
    "analysis": (
        [REPORT_NAME, "analysis.csv", WEIGHTS_NAME, AXES_NAME, MEDIA_NAME, CURVES_NAME, ANALYSIS_NAME],
        [FIGURES],
    ),
}


def _run(arguments: AnalysisArguments, preset: str) -> Results:
    _check(arguments)
    groups, files = arguments.groups(), _FILES[preset]
    task = LabelTask(arguments)
    task.check_utterance()
    claim_output_dir(arguments, preset, *files)
    representations = load_representations(
        arguments, align=arguments.align_modules, sample=arguments.latents == "sample"
    )
    models = [each for each in representations if not each.control]
    sims = [model for model in models if isinstance(model, SimModules)]
    attach_decoders(sims, arguments.decoder, arguments.device)
    _check_dims(arguments, sims)
    analysis = Analysis(arguments)
    parts = AnalysisParts(analysis, task.fingerprint())
    if "probes" in groups:
        train, test = task.items(representations[0])
        parts.add("chance", {"measured": "chance"}, lambda part: measure_chance(part, task, train, test))
    played: set[str] = set()  # one model per kind
    for representation in tqdm(representations, desc="models"):
        with_clips = not representation.control and representation.kind not in played
        measure_representation(parts, task, representation, with_clips=with_clips)
        played |= {representation.kind} if with_clips else set()
    if "consistency" in groups:
        measure_consistency(parts, task, models)
    for path, model in zip(arguments.model, models, strict=True):
        if "objective" in groups and isinstance(model, SimModules):
            measure_objective(parts, task, path, model)
    played_decoders: set[tuple[str, str]] = set()
    decoders = [(of, module, decoder) for of in sims for module, own in of.decoders.items() for decoder in own]
    for of, module, decoder in tqdm(decoders if "decoders" in groups else [], desc="decoders", disable=not decoders):
        kind = (decoder_kind(of, decoder), module)
        if measure_decoder(
            parts, task, of, module, decoder, with_clips=kind not in played_decoders
        ):  # one model per kind
            played_decoders.add(kind)
    controls = [place["kind"] for each in representations if each.control for place in each.places().values()]
    of_controls = (CHANCE["kind"], *controls)  # kinds with other axes begin with these
    if all(row.kind.startswith(of_controls) for row in analysis.rows):
        reason = parts.errors[0] if parts.errors else "the measures apply to none of their modules."
        raise ValueError(f"the models could not be measured: {reason}")
    if parts.found:
        print(f"read from {parts.folder}: {counted(parts.found, 'part')} measured before")
    results = _results(analysis, task, representations)
    _write(results, analysis, preset)
    return results


def _check(arguments: AnalysisArguments) -> None:
    """Checks the settings before anything is measured."""
    for path in arguments.model:
        check_reads_audio(path)
    arguments.groups()
    arguments.other_axes()
    if arguments.num_utterances < 4 or arguments.num_pairs < 4:
        raise ValueError("`num_utterances` and `num_pairs` must be at least 4: two paths between different utterances.")
    if arguments.steps < 1 or arguments.max_frames < 2:
        raise ValueError("`steps` must be at least 1 and `max_frames` at least 2.")
    arguments.chosen_dims()
    if not 0 < arguments.range <= _FURTHEST:
        raise ValueError(f"`range` is {arguments.range:g}; give standard deviations above 0, at most {_FURTHEST}.")


def _check_dims(arguments: AnalysisArguments, models: Sequence[SimModules]) -> None:
    """Raises if no module of any model has a chosen dimension."""
    sizes = [model.model.config.num_channels(number) for model in models for number in model.modules.values()]
    if sizes and (missing := [dim for dim in arguments.chosen_dims() if dim >= max(sizes)]):
        raise ValueError(f"`dims` names {missing[0]}; the modules have dimensions 0 to {max(sizes) - 1}.")


# ---------------------------------------------------------------------- results


def _results(analysis: Analysis, task: LabelTask, representations: Sequence[Representation]) -> Results:
    """Results: the rows, and everything that describes them."""
    arguments, rows = analysis.arguments, analysis.rows
    models = [each for each in representations if isinstance(each, (SimModules, AudioEncoder)) and not each.control]
    trained, found = (list(dict.fromkeys(each.kind for each in list_)) for list_ in (models, rows))
    present = {row.measure for row in rows}
    corpus_settings = arguments.with_dataset()
    return Results(
        corpus=arguments.corpus,
        corpus_license=corpus_info(arguments.corpus).license,
        corpus_settings=corpus_settings,
        dataset_id=hub_dataset(arguments.corpus, arguments.data_dir, corpus_settings),
        label=arguments.label,
        classes=task.classes,
        settings={
            **measuring_settings(arguments),
            "pooling": task.pooling,
            **{name: getattr(arguments, name) for name in ("dims", "utterance", "range", "on_bad_audio")},
        },
        facts=[facts_of(path, model) for path, model in zip(arguments.model, models, strict=True)],
        fingerprints={model.name: weights_fingerprint(model.model) for model in models},
        kinds=[
            Kind(
                kind,
                _describe(kind, trained),
                kind not in trained,
                list(dict.fromkeys(row.representation for row in rows if row.kind == kind)),
            )
            for kind in [*trained, *(kind for kind in found if kind not in trained)]
        ],
        measures=[measure for measure in MEASURES if measure.key in present],
        rows=rows,
        differences=_differences(analysis),
        # Compare the first kind with all others, and all trained kinds with each other to find the best.
        comparisons=compare(
            rows,
            [*((trained[0], kind) for kind in found if kind != trained[0]), *itertools.combinations(trained[1:], 2)],
        ),
        details=analysis.details,
        reconstruction_quality=analysis.quality,
        media=analysis.media.items,
        curves=analysis.curves,
        versions=versions(),
        git=git_revision(),
        **_items(task, representations[0]),
    )


def _items(task: LabelTask, representation: Representation) -> dict[str, Any]:
    """Numbers of items and tokens, and factors, which are the same for all representations."""
    groups, found = task.arguments.groups(), dict[str, Any]()
    if "abx" in groups:
        found["tokens"] = len(task.tokens(task.moments(representation)).phones)
    if task.splits:
        train, test = task.items(representation)
        grouped = Groups.of(train, test)
        tested = tested_items(task, test)
        over = f"{len(np.unique(grouped.test[tested]))} {grouped.name}"
        if set(groups) & {"concentration", "decoders"}:
            over += "; rotations for the rotation gap; utterances for measures through a decoder"
        factors = list(task.factors(test).all)
        found |= {"train_items": len(train.labels), "test_items": len(tested), "intervals_over": over}
        found |= {"factors": factors, "skipped_factors": task.skipped_factors}
    return found


def _differences(analysis: Analysis) -> list[Difference]:
    """Differences of every probe's accuracy from the same module untrained, from log-mel, and from the first model."""
    measure = f"{analysis.arguments.probe}_accuracy"
    models = names_of(analysis.arguments.model)
    differences = []
    pairs = [(name, other) for name in models for other in dict.fromkeys([f"{name} untrained", LOG_MEL, models[0]])]
    for name, other in pairs:
        for (representation, module), hits in analysis.hits.items():
            against = analysis.hits.get((other, SPECTRUM_MODULE if other == LOG_MEL else module))
            if representation == name != other and against is not None:
                interval = bootstrap_difference(hits, against, _share, seed=analysis.arguments.seed)
                differences.append(Difference(name, other, module, measure, **vars(interval)))
    return differences


def _share(counts: np.ndarray) -> np.ndarray:
    """Accuracy from counts `(..., 2)` of correct items and of all items."""
    return counts[..., 0] / counts[..., 1].clip(min=1)


def _write(results: Results, analysis: Analysis, preset: str) -> None:
    """Writes all files; the one with the rows last, as its presence means that the others are complete."""
    arguments, output_dir = analysis.arguments, Path(analysis.arguments.output_dir)
    clear_folder(output_dir, preset)  # the report of earlier results would not match the new ones
    names, pictures = _FILES[preset]
    for name, arrays, save in (
        (WEIGHTS_NAME, analysis.weights, np.savez),
        (MEDIA_NAME, analysis.media.arrays, np.savez_compressed),
    ):
        if name in names and arrays:
            with replacing(output_dir / name) as temporary, temporary.open("wb") as file:
                save(file, **arrays)
    if preset == "analysis":
        if analysis.transforms:
            save_axes(output_dir / AXES_NAME, analysis.transforms)
        with replacing(output_dir / "analysis.csv") as temporary, temporary.open("w", newline="") as text:
            writer = csv.DictWriter(text, [field.name for field in fields(Row)])
            writer.writeheader()
            writer.writerows(asdict(row) for row in results.rows)
    elif arguments.figure_format is not None:
        for picture, drawing in zip(pictures, (draw, draw_confusion), strict=False):
            drawing(results, output_dir / f"{picture}.{arguments.figure_format}")
    results.write(output_dir / names[-1])


_METHODS = {
    "SIM": "Smooth InfoMax: Gaussian latents, a contrastive and a KL loss at every module, no gradient between.",
    "SIM, mean": "Smooth InfoMax that passes on means instead of samples.",
    "SIM, beta 0": "Smooth InfoMax without the KL term.",
    "GIM": "Greedy InfoMax as in the code of the SIM authors: deterministic, with a linear head at every module.",
    "GIM (Löwe)": "Greedy InfoMax of Löwe et al.: one module per convolution, the ReLU's output is the latent.",
    "CPC": "Contrastive Predictive Coding: one loss at the context, trained end to end.",
    "log-mel": "80 log-mel energies: what the spectrum alone contains.",
    "MFCC": "13 cepstral coefficients of these energies.",
    "chance": "The most frequent class of the training items.",
}


_CONTROLS = {
    " untrained": "The same network with random weights, before training.",
    " + PCA": "The same latents in principal components: the effect of a rotation alone.",
    " + ICA": "The same latents in independent components: the effect of a change of axes alone.",
    " + SOBI": "The same latents in temporal components, uncorrelated at all lags: axes that follow from time alone.",
    " + SFA": "The same latents in slow features, those that change least from frame to frame first.",
    " + noise": "The same model with a decoder that was trained with noise on the latents; the table of reconstruction "
    "quality has the amount.",
}


def _describe(kind: str, trained: Sequence[str]) -> str:
    """One sentence about a kind."""
    if kind.startswith("pairs of "):
        return "Pairs of models: how well their axes agree."
    of = next((name for name in sorted(trained, key=len, reverse=True) if kind.startswith(name)), kind)
    return _CONTROLS.get(kind.removeprefix(of), _METHODS.get(of.split(" #")[0], ""))
