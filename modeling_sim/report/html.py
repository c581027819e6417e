"""A report of an analysis: one HTML file that opens from disk, on a phone or a screen, without a network.

modeling-sim report runs/evaluation

It is made only from `analysis.json`, `curves.json` and `media.npz`, which `modeling-sim evaluate` writes to its
output folder: a number that is not in those files is not in the report.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from modeling_sim.analysis.scorecard import DIRECTION_WORDS
from modeling_sim.data.licenses import license_name
from modeling_sim.evaluation.feature_store import ARCHIVE_ERRORS
from modeling_sim.evaluation.results import ANALYSIS_NAME, FIGURES, MEDIA_NAME, REPORT_NAME, ModelFacts, Results
from modeling_sim.files import replacing
from modeling_sim.plots import GRAY, GRAY_ON_DARK, PALETTE, PALETTE_ON_DARK
from modeling_sim.report.headlines import headlines
from modeling_sim.report.plots import Plot, make_plots, save_panels
from modeling_sim.report.sounds import Sounds, by_module, load_item
from modeling_sim.report.tables import NEEDS_SEEDS, effect_tables, module_scores, opponents, quality_rows
from modeling_sim.text import counted, printable

_TEMPLATE = "template.html"


_MEDIA_GROUPS = {
    "reconstruction": ("Reconstructions", "An utterance, and its latents decoded."),
    "interpolation": (
        "From one utterance to another, all dimensions",
        "All latents change along a straight line from the first utterance to the second.",
    ),
    "interpolation_k": (
        "From one utterance to another, a few dimensions",
        "Only k dimensions change; the others keep the values of the first utterance.",
    ),
    "traversal": ("One dimension at a time", "One dimension is changed in all frames; the others are unchanged."),
    "moments": (
        "Extremes of one dimension",
        (
            "Speech around the frames in which a dimension is largest or smallest. A line in the spectrogram marks the "
            "frame; its value is in standard deviations from the mean. Dimensions have the highest rank correlation "
            "(for classes, correlation ratio) with a property."
        ),
    ),
    "prior": (
        "Samples from the prior",
        "Samples from N(0, I), decoded: how latents would sound if they matched their prior.",
    ),
}


def read_analysis(output_dir: str | Path) -> Results:
    """Reads the analysis of a folder, with its curves.

    Raises:
        FileNotFoundError: There is no analysis.
        ValueError: See `Results.read`.
    """
    path = Path(output_dir) / ANALYSIS_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give the output folder of `modeling-sim evaluate`.")
    return Results.read(path, with_curves=True)


def read_media(output_dir: str | Path, analysis: Results) -> list[Sounds]:
    """Sounds by group. A group without items is skipped.

    Raises:
        FileNotFoundError: The analysis lists sounds, but `media.npz` does not exist.
        ValueError: A group is unknown, the file is damaged, or a clip cannot be used.
    """
    if not analysis.media:
        return []
    path = Path(output_dir) / MEDIA_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist, but {ANALYSIS_NAME} lists sounds in it.")
    unknown = {item["group"] for item in analysis.media} - set(_MEDIA_GROUPS)
    if unknown:
        raise ValueError(f"`media` of {ANALYSIS_NAME} has group {min(unknown)!r}; known: {list(_MEDIA_GROUPS)}.")
    try:
        with np.load(path) as file:
            arrays = dict(file)
    except ARCHIVE_ERRORS as error:
        raise ValueError(f"{path} is damaged; run `modeling-sim evaluate` again.") from error
    sounds = []
    for group, (title, sentence) in _MEDIA_GROUPS.items():
        items = [load_item(item, arrays) for item in analysis.media if item["group"] == group]
        if items:
            sounds.append(Sounds(group.replace("_", "-"), title, sentence, by_module(items)))
    return sounds


def render(analysis: Results, media: list[Sounds], plots: list[Plot]) -> str:
    """The report as HTML.

    Args:
        analysis: Return value of `read_analysis`.
        media: Return value of `read_media`.
        plots: Return value of `make_plots`.
    """
    groups, rivals = opponents(analysis)
    module, numbers = headlines(analysis)
    first = next(iter(analysis.kinds), None)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    license_id = analysis.corpus_license
    return environment.get_template(_TEMPLATE).render(
        analysis=analysis,
        directions=DIRECTION_WORDS,
        needs_seeds=NEEDS_SEEDS,
        first="no model" if first is None else first.name,
        method="" if first is None else first.description,
        facts=[
            facts_text(each) for each in analysis.facts if first is None or each.representation in first.representations
        ],
        headline_module=module,
        shown_of=lambda modules: next((name for name, _ in modules if name == module), modules[0][0]),
        headlines=numbers,
        rivals=[kind.name for kind in analysis.kinds[1:] if " + " not in kind.name],
        light_colors=_variables([GRAY, *PALETTE]),
        dark_colors=_variables([GRAY_ON_DARK, *PALETTE_ON_DARK]),
        license_name=license_name(license_id),
        non_commercial="-nc" in license_id,
        share_alike="-sa" in license_id,
        compared_groups=groups,
        opponents=rivals,
        modules=module_scores(analysis),
        plots=plots,
        effects=effect_tables(analysis.curves.get("traversal_effects") or []),
        quality=quality_rows(analysis.reconstruction_quality),
        media=media,
    )


def facts_text(facts: ModelFacts) -> dict[str, str]:
    """Description of a model by heading; unknown facts are skipped."""
    size = f"{facts.parameters:,} parameters in {counted(facts.modules, 'module')}"
    if facts.dims is not None and facts.frame_rate is not None:
        size += f"; {counted(facts.dims, 'dimension')}, {facts.frame_rate:g} frames per second"
    trained = [facts.corpus] if facts.corpus is not None else []
    trained += [f"{facts.hours:.1f} hours of speech"] if facts.hours is not None else []
    trained += [counted(facts.steps, "step")] if facts.steps is not None else []
    return {"Model": facts.representation, "Size": size} | ({"Trained on": ", ".join(trained)} if trained else {})


def _variables(colors: Sequence[str]) -> str:
    """CSS variables for the colors of pictures: gray, then the palette."""
    names = ["--gray", *(f"--c{number}" for number in range(len(colors) - 1))]
    return " ".join(f"{name}: {color};" for name, color in zip(names, colors, strict=True))


def _shown(value: Any) -> Any:
    """A value for the page, with control characters of names escaped; `autoescape` escapes HTML."""
    return printable(value) if type(value) is str else value


def write_report(output_dir: str | Path, *, figure_format: str | None = None) -> Path:
    """Renders the report of an analysis into its folder and returns its path.

    Args:
        output_dir: The folder.
        figure_format: Also write every picture to a separate file: "png", "svg" or "pdf".

    Raises:
        FileNotFoundError: The analysis, or the file of its sounds, does not exist.
        ValueError: One of them cannot be used; the message names the field.
    """
    analysis = read_analysis(output_dir)
    plots = make_plots(analysis.curves, analysis.kinds)
    text = render(analysis, read_media(output_dir, analysis), plots)
    if figure_format is not None:
        save_panels(plots, Path(output_dir), FIGURES.removesuffix("*"), figure_format)
    path = Path(output_dir) / REPORT_NAME
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
