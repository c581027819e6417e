"""The scorecard: every measure of every module of some models, with controls; see `modeling-sim evaluate --help`."""

import csv
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from modeling_sim.analysis.scorecard import compare, measures_as_rows
from modeling_sim.data.corpora import corpus_info
from modeling_sim.data.corpora.contract import label_classes
from modeling_sim.evaluation.cache import AnalysisParts, measuring_settings
from modeling_sim.evaluation.decoder_scores import measure_decoder
from modeling_sim.evaluation.models import AnalyzedModel, attach_decoders, decoder_kind, load_models, untrained
from modeling_sim.evaluation.module_scores import SPECTRUM, measure_model, measure_objective, measure_spectrum
from modeling_sim.evaluation.results import (
    ANALYSIS_NAME,
    CURVES_NAME,
    FIGURES,
    MEDIA_NAME,
    REPORT_NAME,
    Analysis,
    LabelTask,
)
from modeling_sim.evaluation.settings import AnalysisArguments, claim_output_dir, load_splits
from modeling_sim.files import replacing, save_results
from modeling_sim.provenance import git_revision, versions, weights_fingerprint
from modeling_sim.trainer.run_folder import clear_folder


def evaluate(arguments: AnalysisArguments) -> Path:
    """Measures everything, writes the results, and returns the folder that they are in.

    Raises:
        ValueError: An unknown label, no test utterance of a label, a decoder of none of the models, or nothing that can
            be measured.
        OSError: A model or the data is not there.
    """
    check(arguments)
    splits = load_splits(arguments)
    claim_output_dir(
        arguments, "analysis", (REPORT_NAME, "analysis.csv", MEDIA_NAME, CURVES_NAME, ANALYSIS_NAME), [FIGURES]
    )
    models = load_models(arguments.model, arguments.device, arguments.modules)
    attach_decoders(models, arguments.decoder, arguments.device)
    controls = untrained(models, arguments.seed)
    analysis = Analysis(arguments)
    task = LabelTask(arguments, splits, len(label_classes(splits["train"], arguments.label)))

    parts = AnalysisParts(analysis, task.fingerprint())
    measure_spectrum(parts, task)
    for of in tqdm([*models, *controls], desc="models"):
        measure_model(parts, task, of, is_control=of in controls)
    for path, of in zip(arguments.model, models, strict=True):
        measure_objective(parts, task, path, of)
    heard: set[tuple[str, str]] = set()
    decoders = [(of, module, decoder) for of in models for module, own in of.decoders.items() for decoder in own]
    for of, module, decoder in tqdm(decoders, desc="decoders", disable=not decoders):
        kind = (decoder_kind(of, decoder), module)
        try:
            measure_decoder(parts, task, of, module, decoder, is_heard=kind not in heard)  # one model a kind
        except ValueError as error:
            tqdm.write(f"the decoder of {module} of {of.name} is left out: {error}")
        else:
            heard.add(kind)
    if not analysis.values:
        raise ValueError("nothing could be measured; what was left out is told above.")
    if parts.found:
        print(f"{parts.found} parts were measured before and are read from {parts.folder}")
    write_results(analysis, task, models)
    return Path(arguments.output_dir)


def check(arguments: AnalysisArguments) -> None:
    """Refuses flags that mean nothing, before anything is measured."""
    if arguments.num_utterances < 4 or arguments.num_pairs < 4:
        raise ValueError("`num_utterances` and `num_pairs` must be at least 4: two ways, each between two utterances.")
    if arguments.steps < 1 or arguments.max_frames < 2:
        raise ValueError("`steps` must be at least 1 and `max_frames` at least 2.")


def _firsts(models: Sequence[AnalyzedModel]) -> list[AnalyzedModel]:
    """The first model of each kind."""
    return list({of.kind: of for of in reversed(models)}.values())[::-1]


def write_results(analysis: Analysis, task: LabelTask, models: Sequence[AnalyzedModel]) -> None:
    """Writes JSON, CSV and audio."""
    arguments = analysis.arguments
    output_dir = Path(arguments.output_dir)
    clear_folder(output_dir, "analysis")  # a report of earlier numbers must not lie next to new ones
    found = list(dict.fromkeys(row["kind"] for row in analysis.values))
    trained = [of.kind for of in _firsts(models)]
    results = {
        "corpus": arguments.corpus,
        "corpus_license": corpus_info(arguments.corpus).license,
        "label": arguments.label,
        "settings": measuring_settings(arguments),
        "classes": task.class_names(),
        "factors": list(task.factors),
        "train_items": task.train_items,
        "test_items": task.test_items,
        "intervals_over": f"test utterances ({len(task.splits['test'])}), or those of them that are decoded; rotations "
        "for the rotation gap",
        "fingerprints": {of.name: weights_fingerprint(of.model) for of in models},
        "kinds": [
            {
                "name": kind,
                "description": _describe(kind, trained),
                "is_control": kind not in trained,
                "models": list(dict.fromkeys(row["model"] for row in analysis.values if row["kind"] == kind)),
            }
            for kind in [*trained, *(kind for kind in found if kind not in trained)]
        ],
        "measures": measures_as_rows({row["measure"] for row in analysis.values}),
        "values": analysis.values,
        # The first kind with all others, and trained kinds with each other: the best of them has won against all.
        "comparisons": compare(
            analysis.values,
            [*((trained[0], kind) for kind in found if kind != trained[0]), *itertools.combinations(trained[1:], 2)],
        ),
        "reconstruction_quality": analysis.quality,
        "media": analysis.media.items,
        "versions": versions(),
        "git": git_revision(),
    }
    with replacing(output_dir / "analysis.csv") as temporary, temporary.open("w", newline="") as file:
        columns = ["kind", "model", "module", "measure", "value", "low", "high", "null"]
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(analysis.values)
    with replacing(output_dir / MEDIA_NAME) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **analysis.media.arrays)
    save_results(output_dir / CURVES_NAME, analysis.curves)
    save_results(output_dir / ANALYSIS_NAME, results)


def _describe(kind: str, trained: Sequence[str]) -> str:
    """One sentence on a kind."""
    sentences = {
        "SIM": "Smooth InfoMax: Gaussian latents, a contrastive and a KL loss at every module, no gradient between.",
        "SIM, mean": "Smooth InfoMax that hands on means instead of samples.",
        "SIM, beta 0": "Smooth InfoMax without the KL term.",
        "GIM": "Greedy InfoMax as the authors of SIM have it: deterministic, with a linear head at every module.",
        "GIM (Löwe)": "Greedy InfoMax of Löwe et al.: a module a convolution, the ReLU's output is the latent.",
        "CPC": "Contrastive Predictive Coding: one loss at the context, trained end to end.",
        SPECTRUM: "80 log-mel energies: what the spectrum itself tells.",
    }
    of = next((name for name in sorted(trained, key=len, reverse=True) if kind.startswith(name)), kind)
    more = {
        " untrained": "The same network with fresh weights.",
        " + PCA": "The same latents in principal components: what a rotation alone does.",
        " + ICA": "The same latents in independent components: what a change of axes alone does.",
        " + noise": "The same model through a decoder that was trained with noise on its latents; how much, stands "
        "with the quality of the decoders.",
    }
    extra = kind.removeprefix(of)
    return more.get(extra, sentences.get(of.split(" #")[0], ""))
