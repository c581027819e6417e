"""What cards of all kinds say of the data, the licence and the start of a model, from what its run recorded.

`results.json` holds what only the machine that trained can tell: `dataset_id`, the data set of the Hub that was read,
or null for a folder or generated speech; `base_model`, the model of the Hub that training started from, or null for a
folder or a new model. Results of earlier versions have neither, and their cards then claim neither.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from huggingface_hub import EvalResult, ModelCardData

from modeling_sim import SimConfig
from modeling_sim.data.corpora import corpus_info, corpus_names
from modeling_sim.data.corpora.contract import CorpusInfo
from modeling_sim.data.licenses import known_licenses, license_name, refuse_looser
from modeling_sim.hub.escaping import Markdown, code, link, markdown
from modeling_sim.settings import read_settings
from modeling_sim.text import count, decimal
from modeling_sim.trainer.settings import DataArguments, ModelArguments, PretrainingArguments


def settings_of_file(path: Path) -> dict[str, Any]:
    """Every setting of a run that a settings file starts: its own, and defaults."""
    return {**asdict(DataArguments()), **asdict(PretrainingArguments()), **read_settings(path)}


def config_of_file(path: Path) -> SimConfig:
    """The configuration of the model that a settings file trains."""
    settings = read_settings(path)
    return SimConfig.preset(settings.get("preset", ModelArguments.preset), **settings.get("model_settings", {}))


def field_milliseconds(config: SimConfig, module: int) -> float:
    """Receptive field of a module in milliseconds."""
    return 1000 * config.receptive_field(module) / config.sampling_rate


_GENERATED = ("synthetic_syllables",)


_HUB = "https://huggingface.co"


def license_of(training: Mapping[str, Any], stated: str | None) -> str:
    """Licence of a model, by its id on the Hub: the one that its publisher states, else the one of its results.

    Raises:
        ValueError: The stated one is looser than that of the data or of the model that training started from.
    """
    if stated is None:
        license_id: str = training.get("license", training["corpus_license"])
        return license_id
    refuse_looser(stated, known_licenses(training))
    return stated


def metadata_of(
    training: Mapping[str, Any],
    license_id: str,
    *,
    title: str,
    tag: str,
    tags: Sequence[str],
    results: Sequence[EvalResult],
    language: str | None = None,
) -> str:
    """What the Hub reads of a card, as YAML.

    Args:
        training: Results of the run.
        license_id: Of the model.
        title: The model's name.
        tag: Its pipeline tag.
        tags: What it is about.
        results: Its metrics.
        language: Of the speech, if it has one.
    """
    dataset_id = dataset_of(training)
    return Markdown(
        ModelCardData(
            language=language,
            base_model=training.get("base_model"),
            library_name="transformers",
            pipeline_tag=tag,
            tags=list(tags),
            datasets=[dataset_id] if dataset_id else None,
            model_name=title,
            eval_results=list(results),
            license=license_id,
            **({"license_name": "not-stated"} if license_id == "other" else {}),
        ).to_yaml()
    )


def license_line(training: Mapping[str, Any], stated: str | None) -> str:
    """The licence of a model and where it comes from."""
    license_id = license_of(training, stated)
    if license_id == "other":
        return Markdown("not stated; that of the training data has to be asked for")
    line: str = markdown(license_name(license_id))
    if "-nc" in license_id:
        line += ", **not for commercial use**"
    if stated is not None and stated != training.get("license", training["corpus_license"]):
        return Markdown(f"{line}, as the publisher of the model states")
    if training.get("base_license"):
        return Markdown(f"{line}, the stricter of those of the training data and of the model it started from")
    return Markdown(f"{line}, that of the training data")


# ---------------------------------------------------------------------- data


def dataset_of(training: Mapping[str, Any]) -> str | None:
    """The data set of the Hub that a model was trained on, or a copy of; `None` if it is not there."""
    info = _info(training["corpus"])
    return training.get("dataset_id") or (info.hub_id if info else None)


def is_local(training: Mapping[str, Any]) -> bool:
    """Whether the data is known to have been read from a folder."""
    return training.get("dataset_id", "unknown") is None and training["corpus"] not in _GENERATED


def data_text(training: Mapping[str, Any]) -> str:
    """What a model was trained and evaluated on, where it was read, how much of it, and its licence."""
    corpus, dataset_id, info = training["corpus"], training.get("dataset_id"), _info(training["corpus"])
    place: str = code(corpus)
    if dataset_id:
        place += f", read from {_link(dataset_id, 'datasets/')}"
    elif info is not None and info.hub_id:
        place += f" ({_link(info.hub_id, 'datasets/')} on the Hub)"
    if is_local(training):
        place += ", read from a local folder"
    train, test = training["train_utterances"], training["test_utterances"]
    held_out = f"{count(test)}{_hours(training, 'test_hours')} held out{_speakers(training)}"
    if train is None:
        amount = f"a stream of utterances trained on, {held_out}"
    else:
        is_subset = info is not None and info.num_utterances is not None and train + test < info.num_utterances
        amount = f"{'a subset of ' if is_subset else ''}{count(train + test)} utterances"
        amount += f", {count(train)}{_hours(training, 'train_hours')} trained on, {held_out}"
    description = f" {info.description}" if info else ""
    return Markdown(
        f"{place}: {amount}.{description} Its licence: {markdown(license_name(training['corpus_license']))}."
    )


def data_flag(training: Mapping[str, Any]) -> str:
    """What a training command needs beside its settings file to find data that was read from a folder."""
    has_folder = is_local(training) and training["corpus"] != "hub"
    return f" --data_dir PATH_TO_{training['corpus'].upper()}" if has_folder else ""


def _hours(training: Mapping[str, Any], name: str) -> str:
    hours = training.get(name)
    return "" if hours is None else f" ({decimal(hours, 2 if hours >= 0.01 else 4)} hours)"


def _speakers(training: Mapping[str, Any]) -> str:
    """Whose the held-out utterances are: a score on speakers who were heard in training says less."""
    found = training.get("held_out_speakers")
    if not found:
        return ""
    speakers, heard = found["speakers"], found["heard_in_training"]
    if speakers == 1:
        return f", of one speaker, who was {'' if heard else 'not '}heard in training"
    told = {0: "none of whom was", 1: "one of whom was", speakers: "all of whom were"}
    return f", of {count(speakers)} speakers, {told.get(heard, f'{count(heard)} of whom were')} heard in training"


def _info(corpus: str) -> CorpusInfo | None:
    return corpus_info(corpus) if corpus in corpus_names() else None


# ---------------------------------------------------------------------- the start


def start_of(training: Mapping[str, Any], given: str | None) -> str | None:
    """The model that training started from, as a text; `None` for a new one.

    Args:
        training: Results of the run.
        given: The setting that names it, `init_from` or `model`.
    """
    if not given:
        return None
    if training.get("base_model"):
        return _link(training["base_model"])
    return Markdown(f"{code(Path(given).name)}, a local checkpoint") if "base_model" in training else code(given)


def _link(name: str, kind: str = "") -> str:
    return link(name, f"{_HUB}/{kind}{quote(name)}")
