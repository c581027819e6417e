"""Collects the files of a Space that runs the explorer of a model."""

import os
from collections.abc import Sequence
from importlib.metadata import requires, version
from pathlib import Path

import yaml
from packaging.requirements import Requirement

import modeling_sim
from modeling_sim.data.corpora import corpus_info
from modeling_sim.data.licenses import license_of_model, refuse_looser, strictest
from modeling_sim.evaluation.axes import AXES_NAME
from modeling_sim.hub.card import card_template
from modeling_sim.hub.escaping import Markdown
from modeling_sim.hub.staging import stage_axes, stage_model
from modeling_sim.hub.upload import CARD_NAME
from modeling_sim.loading import load_decoder, load_encoder
from modeling_sim.provenance import weights_fingerprint

_PACKAGE = Path(modeling_sim.__file__).parent

# Files of the package, in addition to code, that the explorer reads.
_SUFFIXES = (".py", ".js", ".css", ".html", ".yaml", ".typed")

_EXTRAS = ("train", "analysis")

# Most Spaces have no GPU and do not need the gigabytes of CUDA.
_WHEELS = "--extra-index-url https://download.pytorch.org/whl/cpu"


def stage_space(
    folder: Path,
    staged: Path,
    *,
    repo_id: str,
    decoders: Sequence[Path] = (),
    dataset_name: str | None = None,
    stated_license: str | None = None,
) -> None:
    """Collects a Space in an empty folder: `app.py`, `requirements.txt`, a card, the package, the model and decoders.

    The package is a part of the Space, so that the Space runs the version that made it.

    Args:
        folder: Output folder of a run, or a saved model.
        staged: Folder to fill.
        repo_id: Name of the Space, org/name.
        decoders: Folders of decoders of the model.
        dataset_name: Hub id of the data set whose test split the Space shows; synthetic syllables by default.
        stated_license: License stated by the publisher; by default the strictest of the model and its decoders.

    Raises:
        FileNotFoundError: A file of a model is missing.
        ValueError: A file is damaged, a decoder belongs to another model, or the stated license is less strict than
            that of the model or a decoder.
        ImportError: Gradio is not installed; the Space requires the version that is installed here.
    """
    title = repo_id.rsplit("/", maxsplit=1)[-1]
    fingerprint = weights_fingerprint(load_encoder(str(folder)))
    licenses = [license_of_model(str(path)) for path in (folder, *decoders)]
    default = strictest([*licenses, "apache-2.0"])  # license of the package
    if stated_license not in (None, default):
        refuse_looser(stated_license, [each for each in licenses if each and each != "other"])
    model = f"models/{title}"
    places = [f"decoders/{number}" for number in range(len(decoders))]
    for path, place in zip((folder, *decoders), (model, *places), strict=True):
        if path != folder and load_decoder(str(path)).config.encoder_fingerprint != fingerprint:
            raise ValueError(f"decoder {path} was trained on another model than {folder}; give decoders of {folder}.")
        (staged / place).mkdir(parents=True)
        stage_model(path, staged / place, os.symlink)
    if (folder / AXES_NAME).is_file():
        stage_axes(folder, staged / model, fingerprint)
    for path in sorted(_PACKAGE.rglob("*")):
        is_needed = path.suffix in _SUFFIXES or "templates" in path.parts
        if is_needed and path.is_file() and "__pycache__" not in path.parts:
            target = staged / "modeling_sim" / path.relative_to(_PACKAGE)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path.resolve())
    gradio = version("gradio")
    (staged / "requirements.txt").write_text("\n".join([_WHEELS, *_requirements(), f"gradio=={gradio}"]) + "\n")
    corpus = "synthetic_syllables" if dataset_name is None else "hub"
    values = {"title": title, "model": model, "decoders": places}
    app = card_template("space/app.py.txt").render(
        **values | {"title": Markdown(title)}, corpus=corpus, dataset_name=dataset_name
    )
    (staged / "app.py").write_text(app, encoding="utf-8")
    metadata = {
        "title": title[:60],
        "emoji": "🔊",
        "colorFrom": "blue",
        "colorTo": "yellow",
        "sdk": "gradio",
        "sdk_version": gradio,
        "python_version": "3.11",
        "app_file": "app.py",
        "license": stated_license or default,
        "tags": ["speech", "interpretability", "smooth-infomax"],
        **({"datasets": [dataset_name]} if dataset_name else {}),
    }
    card = card_template("space/README.md").render(
        **values,
        metadata=Markdown(yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True).strip()),
        recordings=dataset_name or corpus_info(corpus).description,
    )
    (staged / CARD_NAME).write_text(card, encoding="utf-8")


def _requirements() -> list[str]:
    """Requirements of the package with the extras of the explorer."""
    found: set[str] = set()
    for line in requires("modeling_sim") or []:
        requirement = Requirement(line)
        marker = requirement.marker
        is_needed = marker is None or any(marker.evaluate({"extra": extra}) for extra in _EXTRAS)
        if is_needed and requirement.name != "modeling_sim":
            found.add(f"{requirement.name}{requirement.specifier}")
    return sorted(found)
