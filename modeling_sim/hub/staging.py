"""Collects the files of a run for an upload."""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from jinja2 import UndefinedError
from safetensors import SafetensorError, safe_open

from modeling_sim import SimConfig
from modeling_sim.evaluation.axes import AXES_NAME, save_axes
from modeling_sim.evaluation.results import ANALYSIS_NAME, Results
from modeling_sim.files import read_json, read_results, read_text, write_json
from modeling_sim.hub.card import is_task, own_name, render_card, render_task_card
from modeling_sim.hub.card_check import check_card
from modeling_sim.hub.scrubbing import scrub, scrub_file
from modeling_sim.hub.upload import CARD_NAME, MODEL_MESSAGE, RUN_FILES, upload
from modeling_sim.inference.axes import read_temporal_axes
from modeling_sim.loading import check_reads_audio, check_weights, load_encoder
from modeling_sim.provenance import weights_fingerprint
from modeling_sim.trainer.checkpoints import STATE_NAME, find_checkpoint, sealed
from modeling_sim.trainer.run_folder import CURVES_NAME, RESULTS_NAME, SETTINGS_NAME

_INDEX_NAME = "model.safetensors.index.json"


MEASURES = ("probe_*.json", "abx*.json", ANALYSIS_NAME)
"""Patterns of the results of measures in a repository."""


Place = Callable[[Path, Path], Any]
"""Makes a file available at another path, by a link or a copy."""


def push_run(output_dir: Path, repo_id: str) -> str:
    """Publishes a finished run with a card; returns the URL of the commit, and what happened to other files.

    Raises:
        ValueError: A file is not a file of the trainer, or is damaged.
        OSError: The Hub cannot be reached, or denies access.
    """
    with tempfile.TemporaryDirectory() as temporary:
        stage_run(output_dir, Path(temporary), repo_id=repo_id)
        return str(upload(HfApi(), repo_id, Path(temporary), message=MODEL_MESSAGE))


# ---------------------------------------------------------------------- what is uploaded


def stage_run(
    folder: Path,
    staged: Path,
    *,
    repo_id: str,
    measures: Sequence[Path] = (),
    card: Path | None = None,
    stated_license: str | None = None,
    with_training_state: bool = False,
) -> None:
    """Collects the files of a run to upload in an empty folder, large ones as links.

    Raises:
        FileNotFoundError: A file of the model is missing, or there are no results to render a card from.
        ValueError: A file is damaged or lacks weights, or refers to a file outside of its folder; or the card has
            problems.
    """
    if (folder / "config.json").is_file():
        check_reads_audio(str(folder))  # cards describe speech
    stage_model(folder, staged, os.symlink)
    check_weights(str(folder))
    for name in RUN_FILES:
        if (folder / name).is_file():
            _stage_file(folder / name, staged / name, os.symlink)
    has_axes = (folder / AXES_NAME).is_file()
    fingerprint = weights_fingerprint(load_encoder(str(folder))) if measures or has_axes else None
    axes = stage_axes(folder, staged, fingerprint) if has_axes and fingerprint else None
    pictures = _stage_measures(measures, staged, title=folder.resolve().name, fingerprint=fingerprint)
    if (staged / CURVES_NAME).is_file():
        pictures[RESULTS_NAME] = CURVES_NAME
    if with_training_state:
        _stage_training_state(folder, staged)
    if card is None:
        text = _card_of(
            folder, staged, repo_id, pictures, axes=axes, fingerprint=fingerprint, stated_license=stated_license
        )
    else:
        text = read_text(card)
    (staged / CARD_NAME).write_text(text, encoding="utf-8")
    problems = check_card(staged / CARD_NAME)
    if problems:
        raise ValueError(f"nothing was uploaded because the card has problems: {'; '.join(problems)}.")


def stage_model(folder: Path, staged: Path, place: Place) -> None:
    """Collects the files for `from_pretrained`: weights, configurations and code.

    Raises:
        FileNotFoundError: One of these files is missing.
        ValueError: Weights are truncated, a configuration is not JSON or does not name its code, or a file refers to a
            file outside of its folder.
    """
    for name in ("config.json", "preprocessor_config.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}; give the output folder of a finished run.")
    weights = _weights(folder)
    if not weights:
        raise FileNotFoundError(f"{folder} has no weights (*.safetensors); give the output folder of a finished run.")
    for path in weights:
        _require_inside(path)
        try:
            with safe_open(path, "pt") as tensors:
                tensors.keys()
        except SafetensorError as error:
            raise ValueError(f"{path} is truncated or corrupt: {error}.") from error
    check_code(folder)
    code = _code(folder)
    configurations = [folder / "config.json", folder / "preprocessor_config.json"]
    if (folder / _INDEX_NAME).is_file():
        configurations.append(folder / _INDEX_NAME)
    for path in (*weights, *configurations, *code):
        _stage_file(path, staged / path.name, place)


def stage_axes(folder: Path, staged: Path, fingerprint: str) -> dict[str, Any]:
    """Adds the axes of a checkpoint, with scrubbed facts about them, which are returned.

    Raises:
        ValueError: The file is damaged, belongs to other weights, or is a link to a file outside of its folder.
    """
    _require_inside(folder / AXES_NAME)
    transforms, facts = read_temporal_axes(str(folder), fingerprint)
    facts = scrub({"settings": facts})["settings"]
    save_axes(staged / AXES_NAME, transforms, facts)
    return facts


def _weights(folder: Path) -> list[Path]:
    """Weights of the model, excluding other tensors in the folder, such as the optimizer's."""
    index = folder / _INDEX_NAME
    if not index.is_file():
        return [folder / "model.safetensors"] if (folder / "model.safetensors").is_file() else []
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict):
        raise ValueError(f"{index} has no `weight_map`; save the model again.")
    for name in named.values():
        if not isinstance(name, str) or not re.fullmatch(r"model-\d+-of-\d+\.safetensors", name):
            raise ValueError(
                f"`weight_map` of {index} has {name!r}, which is not a file of weights; save the model again."
            )
    return sorted(folder / name for name in set(named.values()))


def _code(folder: Path) -> list[Path]:
    """Code files to load the model without the package, including their imports, but no other scripts."""
    waiting = {_module_of(reference) for reference in _auto_map(folder).values()}
    found: dict[str, Path] = {}
    while waiting:
        name = waiting.pop()
        path = folder / f"{name}.py"
        if name in found or not path.is_file():
            continue
        _require_inside(path)
        found[name] = path
        waiting |= set(re.findall(r"^\s*from \.(\w+) import", path.read_text(encoding="utf-8"), flags=re.MULTILINE))
    return sorted(found.values())


def check_code(folder: Path) -> None:
    """Checks that every class in the `auto_map` of the configurations has its file.

    Raises:
        ValueError: Classes or files are missing, or are not named `module.Class`.
    """
    named = _auto_map(folder)
    missing = {"AutoConfig", "AutoModel", "AutoFeatureExtractor"} - set(named)
    files = {f"{_module_of(reference)}.py" for reference in named.values()}
    missing |= {name for name in files if not (folder / name).is_file()}
    if missing:
        raise ValueError(
            f"{folder} lacks {', '.join(sorted(missing))} to load it without the package; save the model and the "
            "feature extractor with `save_pretrained` of this package."
        )


def _auto_map(folder: Path) -> dict[str, str]:
    """Classes to load the model without the package, by Auto class."""
    named: dict[str, str] = {}
    for path in (folder / "config.json", folder / "preprocessor_config.json"):
        _require_inside(path)
        auto_map = read_json(path).get("auto_map", {})
        for auto_class, reference in auto_map.items() if isinstance(auto_map, dict) else [("", auto_map)]:
            if not isinstance(reference, str) or not re.fullmatch(r"[A-Za-z_]\w*\.[A-Za-z_]\w*", reference, re.ASCII):
                raise ValueError(
                    f"`auto_map` of {path} has {reference!r}, which is not of the form modeling_sim.SimModel; save the "
                    "model with `save_pretrained` of this package."
                )
            named[auto_class] = reference
    return named


def _module_of(reference: str) -> str:
    return reference.split(".", maxsplit=1)[0]


def _stage_file(source: Path, target: Path, place: Place) -> bytes | None:
    """Adds a file; JSON is scrubbed, and its new content is returned if that changed it."""
    _require_inside(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix in (".json", ".jsonl"):
        content = scrub_file(source)
        target.write_bytes(content)
        return content if content != source.read_bytes() else None
    place(source.resolve(), target)
    return None


def _require_inside(path: Path) -> None:
    """Checks that a file is not a link to a file outside of its folder, which could upload private files.

    Raises:
        ValueError: The file is such a link.
    """
    if not path.resolve().is_relative_to(path.parent.resolve()):
        raise ValueError(f"{path} is a link to a file outside of its folder; replace it by the file.")


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-links a file, so that it survives the removal of the original; copies it if that is impossible."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _stage_measures(measures: Sequence[Path], staged: Path, *, title: str, fingerprint: str | None) -> dict[str, str]:
    """Adds results of `probe`, `abx` and `evaluate` with their figures; returns the figures by results file."""
    pictures = {}
    for given in measures:
        written = [given / name for name in ("probe.json", "abx.json", ANALYSIS_NAME)]
        found = [given] if given.is_file() else [path for path in written if path.is_file()]
        if not found:
            raise FileNotFoundError(f"{given} has no probe.json, abx.json or {ANALYSIS_NAME}.")
        for path in found:
            _require_inside(path)
            measure = Results.read(path)
            own_name(measure, str(path), title=title, fingerprint=fingerprint)
            name = _name_of(measure, path)
            if (staged / f"{name}.json").exists():
                raise ValueError(f"{path} and another one of `measures` have the same task; give one of them.")
            _stage_file(path, staged / f"{name}.json", os.symlink)
            if f"{name}.json" == ANALYSIS_NAME:  # without the data of the report, which is most of it
                small = replace(Results.read(staged / ANALYSIS_NAME), media=[], comparisons=[])
                small.write(staged / ANALYSIS_NAME)
            if path.with_suffix(".png").is_file():
                _stage_file(path.with_suffix(".png"), staged / f"{name}.png", os.symlink)
                pictures[f"{name}.json"] = f"{name}.png"
    return pictures


def _name_of(measure: Results, path: Path) -> str:
    """Name of a measure's file in the repository, without its suffix."""
    if measure.train_items is None:
        return _plain(path.stem) if path.stem.startswith("abx") else "abx"
    if not any(row.measure == measure.probe_measure for row in measure.rows):
        return Path(ANALYSIS_NAME).stem
    label, pooling = measure.label, measure.settings.get("pooling")
    if pooling not in ("frame", "chunk", "mean"):
        raise ValueError(f"`pooling` of {path} is {pooling!r}; it must be frame, chunk or mean.")
    if not isinstance(label, str) or label.startswith(".") or not label.isprintable() or re.search(r"[/\\]", label):
        raise ValueError(f"`label` of {path} is {label!r}, which cannot be a file name; rename it, and probe again.")
    return f"probe_{_plain(label)}_{pooling}"


def _plain(name: str) -> str:
    """Replaces characters of a name that need escaping in URLs."""
    return re.sub(r"[^\w.-]+", "_", name)


def _stage_training_state(folder: Path, staged: Path) -> None:
    """Adds the newest complete checkpoint, with new checksums of scrubbed files."""
    checkpoint, _ = find_checkpoint(folder)
    if checkpoint is None:
        raise FileNotFoundError(f"{folder} has no complete checkpoint to resume from; omit --with_training_state.")
    target = staged / checkpoint.path.name
    _require_inside(checkpoint.path)
    own = [checkpoint.path / name for name in (*read_json(checkpoint.path / STATE_NAME)["files"], STATE_NAME)]
    for path in own:
        if path.parent != checkpoint.path or not path.resolve().is_relative_to(checkpoint.path.resolve()):
            raise ValueError(f"{path} is not inside of {checkpoint.path}; give a checkpoint of the trainer.")
    changed = {
        path.name: hashlib.sha256(content).hexdigest()
        for path in sorted(own)
        if (content := _stage_file(path, target / path.name, os.symlink)) is not None
    }
    state = read_json(target / STATE_NAME)
    state["files"] |= {name: digest for name, digest in changed.items() if name in state["files"]}
    write_json(target / STATE_NAME, sealed(state))


def _card_of(
    folder: Path,
    staged: Path,
    repo_id: str,
    pictures: dict[str, str],
    *,
    axes: dict[str, Any] | None,
    fingerprint: str | None,
    stated_license: str | None,
) -> str:
    """Renders the card of the collected files."""
    if not (staged / RESULTS_NAME).is_file() or not (staged / SETTINGS_NAME).is_file():
        raise FileNotFoundError(
            f"{folder} lacks {RESULTS_NAME} or {SETTINGS_NAME} to render a card from; give a finished run, or your own "
            "card with --card."
        )
    training, settings = read_results(staged / RESULTS_NAME), read_results(staged / SETTINGS_NAME)["settings"]
    title = repo_id.rsplit("/", maxsplit=1)[-1]
    found = sorted(path for pattern in MEASURES for path in staged.glob(pattern))
    measures = {RESULTS_NAME: training} | {path.name: Results.read(path) for path in found}
    try:
        if is_task(training):
            return render_task_card(
                read_json(staged / "config.json"),
                settings,
                training,
                title=title,
                model_id=repo_id,
                links=[RESULTS_NAME, SETTINGS_NAME, "config.json"],
                picture=pictures.get(RESULTS_NAME),
                stated_license=stated_license,
            )
        return render_card(
            SimConfig.from_pretrained(staged),
            settings,
            measures,
            title=title,
            model_id=repo_id,
            measured_as=folder.resolve().name,
            config_link="config.json",
            settings_link=SETTINGS_NAME,
            pictures=pictures,
            axes=axes,
            fingerprint=fingerprint,
            stated_license=stated_license,
        )
    except (KeyError, UndefinedError) as error:
        raise ValueError(f"results in {folder} are from another version of this package (missing {error}).") from error
