"""Model cards of pretrained models, classifiers and decoders, rendered from their configuration, settings and results.

All numbers of a card come from the JSON files that the card links to. `results.json` records what only the training
machine knows: `dataset_id`, the Hub id of the data set, or null for a folder or generated speech; and `base_model`, the
Hub id of the model that training started from, or null for a folder or a new model. Results and cards of earlier
versions have neither.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from modeling_sim import SimConfig
from modeling_sim.analysis.scorecard import PROPERTY_NAMES, REGRESSED, Row, features_name
from modeling_sim.data.corpora import corpus_info, corpus_names
from modeling_sim.data.corpora.contract import CorpusInfo
from modeling_sim.data.licenses import check_license, license_name
from modeling_sim.evaluation.representations import SPECTRA
from modeling_sim.evaluation.results import Results
from modeling_sim.evaluation.settings import AXES
from modeling_sim.hub.citation import METHODS, Method, citation, method_of
from modeling_sim.hub.escaping import Markdown, code, link, markdown, markdown_table, python_text, shown
from modeling_sim.text import bounded, count, counted, decimal, duration, interval, percent, points

_TEMPLATES = Path(__file__).parent / "templates"


_HUB = "https://huggingface.co"


_PAPER_URL = "https://arxiv.org/abs/2408.12936"


# Settings that a reader needs to assess or reproduce a run; settings that a run does not have are skipped.
_SETTINGS = (
    "execution",
    "max_steps",
    "batch_size",
    "gradient_accumulation_steps",
    "crop_samples",
    "learning_rate",
    "weight_decay",
    "lr_scheduler_type",
    "warmup_steps",
    "kl_warmup_steps",
    "max_grad_norm",
    "mixed_precision",
    "seed",
)


_ABX_CONDITIONS = {
    "abx_within": "within any",
    "abx_within_triphone": "within triphone",
    "abx_across": "across any",
    "abx_across_triphone": "across triphone",
}
"""Measures of ABX, and their names in tables."""


_DIMENSIONS = {
    **{f"best_{key}": name for key, name, _ in PROPERTY_NAMES},
    "best_dimension": "mean of all properties",
    **{f"linear_{key}": f"{name}, linear regression on all dimensions (R²)" for key, name in REGRESSED},
}
"""Measures of single dimensions, and regressions on all of them, with their names in tables."""


_GAPS = {
    "best_dimension_gap": "mean of all properties",
    "dci_completeness_gap": "DCI completeness",
    "dci_disentanglement_gap": "DCI disentanglement",
}
"""Measures on a model's axes minus those on random axes, and their names in tables."""


def card_template(name: str) -> Template:
    """A card template; missing variables are errors."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - the text is Markdown, which `shown` escapes
        finalize=shown,
    )
    environment.filters |= {"python": python_text, "duration": duration}
    return environment.get_template(name)


# ---------------------------------------------------------------------- rendering


def render_card(
    config: SimConfig,
    settings: Mapping[str, Any],
    measures: Mapping[str, dict[str, Any] | Results],
    *,
    title: str,
    model_id: str,
    config_link: str,
    settings_link: str | None = None,
    pictures: Mapping[str, str] | None = None,
    axes: Mapping[str, Any] | None = None,
    published: bool = True,
    measured_as: str | None = None,
    fingerprint: str | None = None,
    stated_license: str | None = None,
) -> str:
    """The card of a pretrained model.

    Args:
        config: Configuration of the model.
        settings: All settings of the training run.
        measures: Results by the link to their file: training results (exactly one mapping), and any number of
            evaluations.
        title: Heading, and the model's name in the metadata.
        model_id: Argument of `from_pretrained`.
        config_link: Link to the configuration.
        settings_link: Link to the settings, if they are in a different file.
        pictures: Link to an image by the link to its results.
        axes: Facts about the temporal axes saved with the weights, if there are any.
        published: Whether the weights can be downloaded.
        measured_as: The model's name in the measures; by default the title.
        fingerprint: `weights_fingerprint` of the model, which identifies its measures; `None` uses its name.
        stated_license: License stated by the publisher; `None` uses that of the results.

    Raises:
        ValueError: There is not exactly one training result, a measure does not include the model, or the stated
            license is less strict than that of the data or of the model that training started from.
        KeyError, jinja2.UndefinedError: The results lack a field.
    """
    runs = [target for target, measure in measures.items() if not isinstance(measure, Results)]
    if len(runs) != 1:
        raise ValueError(f"a card needs the results of exactly one training run, but there are {len(runs)}.")
    training: Any = measures[runs[0]]
    if "modules" not in training:
        raise ValueError(f"{runs[0]} has no results of pretraining.")
    if "objective" in training:
        raise ValueError(
            f"{runs[0]} has `objective` {training['objective']!r}, but cards only describe SIM, GIM and "
            "CPC; write a card by hand and upload the folder with `hf upload`."
        )
    pictures = pictures or {}
    evaluations = {target: measure for target, measure in measures.items() if isinstance(measure, Results)}
    own_names = {
        target: own_name(measure, target, title=measured_as or title, fingerprint=fingerprint)
        for target, measure in evaluations.items()
    }
    probes = {target: measure for target, measure in evaluations.items() if _has(measure, measure.probe_measure)}
    abx = {target: measure for target, measure in evaluations.items() if _has(measure, *_ABX_CONDITIONS)}
    dimensions = {target: measure for target, measure in evaluations.items() if _has(measure, "best_dimension")}
    for target in set(evaluations) - set(probes) - set(abx) - set(dimensions):
        raise ValueError(f"{target} has no results of a probe, of ABX or of single dimensions.")
    method = method_of(config)
    return card_template("card.md").render(
        metadata=_metadata(
            training,
            license_of(training, stated_license),
            title=title,
            tag="feature-extraction",
            method=method,
            results=[
                *_training_metrics(training, settings.get("eval_split", "test")),
                *_probe_metrics((measure, own_names[target]) for target, measure in probes.items()),
            ],
        ),
        title=title,
        model_id=model_id,
        axes=axes,
        published=published,
        settings_file=Markdown((settings_link or config_link).removeprefix("../")),
        config=config,
        method=method,
        training=training,
        summary=_summary(config, method),
        license_line=license_line(training, stated_license),
        started_from=start_of(training, settings.get("init_from")),
        data=data_text(training),
        data_flag=Markdown(data_flag(training)),
        paper_url=Markdown(_PAPER_URL),
        modules_table=_modules_table(config),
        settings_table=_settings_table(
            settings,
            ["seconds per crop", count(settings["crop_samples"] / config.sampling_rate)],
            ["steps taken", count(training["steps"])],
            ["crops seen", count(training["crops"])],
        ),
        results_table=_results_table(
            config, training, before="at the start" if settings.get("init_from") else "untrained"
        ),
        hardware=_hardware(training),
        probes=[
            _probe_section(measure, own_names[target], pictures.get(target), trained_on=(training["corpus"], settings))
            for target, measure in probes.items()
        ],
        abx_measures=[
            _abx_section(measure, own_names[target], pictures.get(target)) for target, measure in abx.items()
        ],
        dimensions=[
            _dimensions_section(measure, own_names[target], trained_on=(training["corpus"], settings))
            for target, measure in dimensions.items()
        ],
        pictures={"training": _picture(pictures.get(runs[0]))},
        sources=_sources([*measures, *([settings_link] if settings_link else []), config_link]),
        citation=Markdown(citation(method)),
        count=count,
        decimal=decimal,
        train_utterances="a stream of" if training["train_utterances"] is None else count(training["train_utterances"]),
    )


def _has(measure: Results, *keys: str) -> bool:
    """Whether results include one of some measures."""
    return any(row.measure in keys for row in measure.rows)


def is_task(training: Mapping[str, Any]) -> bool:
    """Whether results are those of a classifier or a decoder rather than of pretraining."""
    return "label" in training or "decoder_loss" in training


def render_task_card(
    config: Mapping[str, Any],
    settings: Mapping[str, Any],
    training: Mapping[str, Any],
    *,
    title: str,
    model_id: str,
    links: Sequence[str],
    picture: str | None,
    stated_license: str | None = None,
) -> str:
    """The card of a classifier or a decoder.

    Args:
        config: Configuration of the model, as in `config.json`.
        settings: All settings of the run.
        training: Results of the run.
        title: Heading, and the model's name in the metadata.
        model_id: Argument of `from_pretrained`.
        links: Links to the files that the numbers come from.
        picture: Link to the training curves, if there are any.
        stated_license: License stated by the publisher; `None` uses that of the results.

    Raises:
        ValueError: The stated license is less strict than that of the data or of the base model.
        KeyError, jinja2.UndefinedError: The results lack a field.
    """
    parts = _classifier(config, training) if "label" in training else _decoder(config, training)
    return card_template("task_card.md").render(
        metadata=_metadata(
            training,
            license_of(training, stated_license),
            title=title,
            tag=parts["tag"],
            method=METHODS["sim"],
            results=[
                _metric(
                    training,
                    split=settings.get("eval_split", "test"),
                    task_type=parts["tag"],
                    metric_type=name,
                    metric_name=metric,
                    value=value,
                )
                for name, metric, value in parts["metrics"]
            ],
        ),
        title=title,
        model_id=model_id,
        kind="classifier" if "label" in training else "decoder",
        frames=config["architectures"][0] == "SimForAudioFrameClassification",
        sampling_rate=config["sampling_rate"],
        count=count,
        parameters=count(training["parameters"]),
        license_line=license_line(training, stated_license),
        data=data_text(training),
        base_model=start_of(training, settings.get("model"))
        or Markdown(f"a new encoder of the preset {code(settings.get('preset', ''))}"),
        settings_table=_settings_table(settings),
        hardware=_hardware(training),
        sources=_sources(links),
        picture=_picture(picture),
        paper_url=Markdown(_PAPER_URL),
        citation=Markdown(citation(METHODS["sim"])),
        **parts["text"],
    )


def _classifier(config: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, Any]:
    """Texts and metrics of a classifier's card."""
    after, before = training["modules"][0]["trained"], training["modules"][0]["untrained"]
    names = {"accuracy": "accuracy", "macro_f1": "mean F1 of the classes"}
    rows = [
        [title, percent(after[name]), _interval(training.get(name), percent), percent(before[name])]
        for name, title in names.items()
    ]
    rows.append(["chance, the most frequent class", percent(training["chance"]), "-", "-"])
    state = "frozen" if training["frozen_encoder"] else "fine-tuned"
    return {
        "tag": "audio-classification",
        "metrics": [(name, title, after[name]) for name, title in names.items()],
        "text": {
            "summary": Markdown(
                f"Classifies {code(training['label'])} ({count(len(training['classes']))} classes) of speech: a linear "
                f"layer on {markdown(training['modules'][0]['name'])} of a Smooth InfoMax encoder, which was {state}."
            ),
            "classes": Markdown(", ".join(map(code, training["classes"][:60]))),
            "results_table": markdown_table(["", "held out", "95 % interval", "before training"], rows),
            "module": config["probe_module"],
        },
    }


def _decoder(config: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, Any]:
    """Texts and metrics of a decoder's card."""
    after, before = training["modules"][0]["trained"], training["modules"][0]["untrained"]
    source = (
        " Source-filter: the pitch is a linear function of the latents."
        if config.get("architecture") == "source_filter"
        else ""
    )
    names = {
        "log_mel": "log-mel distance, nats",
        "log_mel_of_silence": "log-mel distance of silence, nats",
        "spectral": "multi-resolution spectral distance",
        "spectral_of_silence": "multi-resolution spectral distance of silence",
        "si_sdr": "SI-SDR, dB (only meaningful if trained on the waveform)",
    }
    rows = [
        [
            title,
            decimal(after[name]),
            _interval(training["reconstruction"].get(name), decimal),
            "-" if name.endswith("silence") else decimal(before[name]),
        ]
        for name, title in names.items()
    ]
    return {
        "tag": "audio-to-audio",
        "metrics": [(name, names[name], after[name]) for name in ("log_mel", "spectral")],
        "text": {
            "summary": Markdown(
                f"Decodes latents of {markdown(training['modules'][0]['name'])} of a Smooth InfoMax encoder to the "
                f"waveform. Trained on {markdown(training['latents'])}s of the latents with the loss "
                f"{code(training['decoder_loss'])}; added noise: {count(training['noise'])} standard deviations."
                + source
            ),
            "classes": "",
            "results_table": markdown_table(["", "held out", "95 % interval", "before training"], rows),
            "module": config["module"],
        },
    }


def _interval(score: Mapping[str, float] | None, form: Any) -> str:
    return (score and interval(score["low"], score["high"], form)) or "-"


# ---------------------------------------------------------------------- metadata


def _metadata(
    training: Mapping[str, Any],
    license_id: str,
    *,
    title: str,
    tag: str,
    method: Method,
    results: Sequence[EvalResult],
) -> Markdown:
    """Metadata for the Hub, as YAML."""
    dataset_id, info = dataset_of(training), _info(training["corpus"])
    return Markdown(
        ModelCardData(
            language=info.language if info else None,
            base_model=training.get("base_model"),
            library_name="transformers",
            pipeline_tag=tag,
            tags=["audio", "speech", "self-supervised", method.name.lower().replace(" ", "-"), "arxiv:2408.12936"],
            datasets=[dataset_id] if dataset_id else None,
            model_name=title,
            eval_results=list(results),
            license=license_id,
            license_name="not-stated" if license_id == "other" else None,
        ).to_yaml()
    )


def _training_metrics(training: Mapping[str, Any], split: str) -> Iterator[EvalResult]:
    for module in training["modules"]:
        value = module["trained"]["contrastive_accuracy"]
        if value is not None:
            yield _metric(
                training,
                split=split,
                task_type="feature-extraction",
                task_name="Contrastive prediction on held-out speech",
                metric_name=f"contrastive accuracy, {module['name']}",
                value=value,
            )


def _probe_metrics(probes: Iterable[tuple[Results, str]]) -> Iterator[EvalResult]:
    for probe, name in probes:
        for row in probe.rows:
            if row.representation == name and row.measure == probe.probe_measure and row.value is not None:
                yield _metric(
                    {"corpus": probe.corpus, "dataset_id": probe.dataset_id},
                    split="test",
                    task_type="audio-classification",
                    # The Hub groups all metrics of a task and data set under the names of the first one.
                    task_name="Probes of the frozen model",
                    metric_name=f"accuracy of a {probe.probe_name} probe of {probe.label}, {row.module}",
                    value=row.value,
                )


def _metric(
    results: Mapping[str, Any],
    *,
    split: str,
    task_type: str,
    task_name: str | None = None,
    metric_type: str = "accuracy",
    metric_name: str,
    value: float,
) -> EvalResult:
    """One metric of the metadata."""
    return EvalResult(
        task_type=task_type,
        task_name=task_name,
        dataset_type=dataset_of(results) or results["corpus"],
        dataset_name=results["corpus"],
        dataset_split=split,
        metric_type=metric_type,
        metric_name=metric_name,
        metric_value=round(value, 4),
    )


# ---------------------------------------------------------------------- license, data and start


def license_of(training: Mapping[str, Any], stated: str | None) -> str:
    """Hub id of a model's license: the one stated by its publisher, otherwise that of its results.

    Raises:
        ValueError: The stated license is less strict than that of the data or of the model that training started from.
    """
    if stated is None:
        license_id: str = training.get("license", training["corpus_license"])
        return license_id
    check_license(stated, training)
    return stated


def license_line(training: Mapping[str, Any], stated: str | None) -> str:
    """The license of a model and its origin."""
    license_id = license_of(training, stated)
    if license_id == "other":
        return Markdown("not stated; ask for the license of the training data")
    line: str = markdown(license_name(license_id))
    if "-nc" in license_id:
        line += ", **not for commercial use**"
    if stated is not None and stated != training.get("license", training["corpus_license"]):
        return Markdown(f"{line}, as stated by the publisher of the model")
    if training.get("base_license"):
        return Markdown(f"{line}, the stricter license of the training data and the model that training started from")
    return Markdown(f"{line}, the license of the training data")


def dataset_of(training: Mapping[str, Any]) -> str | None:
    """Hub id of the training data, also of a local copy; `None` if it is not on the Hub."""
    info = _info(training["corpus"])
    return training.get("dataset_id") or (info.hub_id if info else None)


def is_local(training: Mapping[str, Any]) -> bool:
    """Whether the data was read from a folder, if that was recorded."""
    info = _info(training["corpus"])
    return training.get("dataset_id", "unknown") is None and not (info and info.generated)


def data_text(training: Mapping[str, Any]) -> str:
    """Source, amount and license of the data of training and evaluation."""
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
        amount = f"a stream of utterances for training, {held_out}"
    else:
        is_subset = info is not None and info.num_utterances is not None and train + test < info.num_utterances
        amount = f"{'a subset of ' if is_subset else ''}{counted(train + test, 'utterance')}"
        amount += f", {count(train)}{_hours(training, 'train_hours')} for training, {held_out}"
    description = f" {info.description}" if info else ""
    return Markdown(
        f"{place}: {amount}.{description} License of the data: {markdown(license_name(training['corpus_license']))}."
    )


def data_flag(training: Mapping[str, Any]) -> str:
    """The flag of a training command for the folder of the data, if it was read from a folder."""
    has_folder = is_local(training) and training["corpus"] != "hub"
    return f" --data_dir PATH_TO_{training['corpus'].upper()}" if has_folder else ""


def _hours(training: Mapping[str, Any], name: str) -> str:
    hours = training.get(name)
    return "" if hours is None else f" ({decimal(hours, 2 if hours >= 0.01 else 4)} hours)"


def _speakers(training: Mapping[str, Any]) -> str:
    """Number of held-out speakers, and how many of them are in the training data."""
    found = training.get("held_out_speakers")
    if not found:
        return ""
    speakers, known = found["speakers"], found["heard_in_training"]
    if speakers == 1:
        return f", from one speaker, who is {'' if known else 'not '}in the training data"
    part = {0: "none of whom is", 1: "one of whom is", speakers: "all of whom are"}
    return f", from {count(speakers)} speakers, {part.get(known, f'{count(known)} of whom are')} in the training data"


def _info(corpus: str) -> CorpusInfo | None:
    return corpus_info(corpus) if corpus in corpus_names() else None


def start_of(training: Mapping[str, Any], given: str | None) -> str | None:
    """Describes the model that training started from; `None` for a new model.

    Args:
        training: Results of the run.
        given: Value of the setting `init_from` or `model`.
    """
    if not given:
        return None
    if training.get("base_model"):
        return _link(training["base_model"])
    return Markdown(f"{code(Path(given).name)}, a local checkpoint") if "base_model" in training else code(given)


def _link(name: str, section: str = "") -> str:
    return link(name, f"{_HUB}/{section}{quote(name)}")


# ---------------------------------------------------------------------- sections and tables


def _summary(config: SimConfig, method: Method) -> str:
    rates = ", ".join(f"{count(config.frame_rate(module))} ({name})" for module, name in enumerate(config.module_names))
    latents = "a Gaussian" if config.latent_distribution == "gaussian" else "a vector"
    return (
        f"A {method.name} model of speech: it encodes waveforms at {count(config.sampling_rate)} Hz, and its "
        f"{config.num_modules} modules have {rates} frames per second. Each frame of a convolutional module is "
        f"{latents} in {config.num_latents} dimensions."
    )


def _modules_table(config: SimConfig) -> str:
    rows = []
    for module, name in enumerate(config.module_names):
        is_context = module >= config.num_conv_modules
        field, hop = config.receptive_field(module), config.hop_length(module)
        rows.append(
            [
                name,
                "GRU" if is_context else counted(len(config.conv_kernel[module]), "convolution"),
                count(config.num_channels(module)),
                f"{count(field)} samples ({decimal(1000 * field / config.sampling_rate, 1)} ms)",
                f"{count(hop)} samples",
                count(config.frame_rate(module)),
                "-" if is_context or config.latent_distribution != "gaussian" else count(config.kl_weights[module]),
            ]
        )
    return markdown_table(
        ["module", "layers", "channels", "receptive field", "hop", "frames per second", "KL weight"], rows
    )


def _settings_table(settings: Mapping[str, Any], *more: Sequence[str]) -> Markdown:
    rows = [[code(name), _setting_text(settings[name])] for name in _SETTINGS if name in settings]
    return markdown_table(["setting", "value"], [*rows, *more])


def _setting_text(value: Any) -> str:
    if value is None:
        return "set by the launcher"
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return count(value) if is_number else code(value)


def _results_table(config: SimConfig, training: dict[str, Any], *, before: str) -> str:
    gaussian = config.latent_distribution == "gaussian"
    head = ["module", "contrastive accuracy", before, "InfoNCE, nats", before]
    rows = []
    for number, module in enumerate(training["modules"]):
        trained, start = module["trained"], module["untrained"]
        row = [module["name"]]
        for quantity in ("contrastive_accuracy", "contrastive_loss"):
            # A module without a loss has no accuracy, and its loss of 0 is meaningless.
            has_loss = trained["contrastive_accuracy"] is not None
            row += [decimal(scores[quantity] if has_loss else None, 3) for scores in (trained, start)]
        if gaussian:
            row.append(decimal(trained["kl"] if number < config.num_conv_modules else None, 1))
        rows.append([*row, count(trained["active_units"])])
    return markdown_table([*head, *(["KL"] if gaussian else []), "active units"], rows)


def _hardware(training: Mapping[str, Any]) -> str:
    """Hardware and speed of a run."""
    seconds, rate = count(training["seconds"]), count(training["crops_per_second"])
    hardware = training.get("hardware")
    if hardware is None:
        return f"{seconds} seconds in training steps ({rate} crops per second); the device was not recorded."
    return (
        f"{counted(hardware['processes'], 'process', 'processes')} on {hardware['device']} with "
        f"{counted(hardware['threads'], 'thread')} each, {counted(hardware['cores'], 'core')} in the machine; "
        f"{seconds} seconds in training steps ({rate} crops per second)."
    )


def own_name(measure: Results, file: str, *, title: str, fingerprint: str | None) -> str:
    """The name of a card's model in results, found by its weights, or by its name if there is no fingerprint.

    Args:
        measure: Results of an evaluation.
        file: Path or link of the results, for the error message.
        title: Name of the model.
        fingerprint: `weights_fingerprint` of the model, if it is known.

    Raises:
        ValueError: The results do not include the model.
    """
    if measure.fingerprints and fingerprint is not None:
        basis = "weights"
        found = [name for name in measure.models if measure.fingerprints.get(name) == fingerprint][:1]
    else:
        basis, found = "name", [name for name in measure.models if title in (name, name.split("/")[-1])]
    if len(found) != 1:
        raise ValueError(
            f"{file} has results of {', '.join(measure.models)}, but not of {title} (compared by {basis}); measure "
            "this checkpoint with `modeling-sim probe`, `abx` or `evaluate`, and give these results."
        )
    return found[0]


def _rows_of(measure: Results, name: str) -> dict[str, dict[str, Row]]:
    """Rows of the model and of its controls, by features and measure, excluding other models."""
    others = set(measure.models) - {name}
    others |= {f"{other} untrained" for other in others}
    return {
        features: rows
        for features, rows in measure.by_features().items()
        if next(iter(rows.values())).representation not in others
    }


def _probe_section(
    probe: Results, name: str, picture: str | None, *, trained_on: tuple[str, Mapping[str, Any]]
) -> dict[str, Any]:
    accuracy = probe.probe_measure
    rows = {features: row for features, row in _rows_of(probe, name).items() if accuracy in row}
    has_control = any("selectivity" in row for row in rows.values())
    settings = probe.settings
    pooled = {"frame": "", "chunk": ", averaged over chunks", "mean": ", averaged over utterances"}[settings["pooling"]]
    name_of_probe = probe.probe_name if probe.probe_name.startswith("the ") else f"a {probe.probe_name}"
    text: str = (
        f"{markdown(name_of_probe[0].upper() + name_of_probe[1:])} probe on frames of the frozen model{pooled}. "
        f"Data: {_corpus_text(probe)}, {count(probe.train_items)} training items and {count(probe.test_items)} test "
        f"items, with 95 % intervals over {markdown(_groups(probe))}, next to chance, spectra and the same "
        "network untrained."
    )
    if _has_new_speakers(probe):
        text += " No speaker of the test items is among those of the training items."
    if probe.probe_name == "linear" and "l2" in settings:
        l2 = settings["l2"]
        strength = "chosen on a part of the training items" if l2 is None else f"set to {count(l2)}"
        text += f" The strength of its L2 penalty is {strength}."
    columns = {accuracy: "accuracy", "": "interval", "macro_f1": "macro F1"}
    if has_control:
        text += (
            " The control task permutes the classes of every speaker at random; selectivity is the accuracy minus that "
            "of the control task."
        )
        columns |= {"control_accuracy": "control", "selectivity": "selectivity"}
    else:
        text += (
            " There is no control task: it needs several speakers in both splits, and a label other than the speaker."
        )
    scores = [row[accuracy] for row in rows.values()]
    if _best(row for row in scores if row.kind in SPECTRA) > _best(row for row in scores if row.representation == name):
        text += " Spectra alone score higher than every module of this model."
    if _is_other_split(probe, *trained_on):
        text += (
            " The probe and pretraining use different splits, so pretraining may have used test items of the probe, "
            "without their labels."
        )
    table = []
    for features, row in rows.items():
        cells = [percent(row[key].value if key in row else None) for key in columns]
        cells[1] = interval(row[accuracy].low, row[accuracy].high, percent) or "-"
        table.append([features, *cells])
    differences = [
        [features, against, points(each.value), interval(each.low, each.high, points) or "-"]
        for each in probe.differences
        if (features := features_name(each.representation, each.module)) in rows
        and (against := features_name(each.against, each.module)) in rows
    ]
    return {
        "heading": f"Probe: {probe.label}",
        "text": Markdown(text),
        "table": markdown_table(["features", *columns.values()], table),
        "differences": markdown_table(["features", "minus", "difference", "interval"], differences)
        if differences
        else None,
        "picture": _picture(picture),
    }


def _best(rows: Iterable[Row]) -> float:
    """The highest value of some rows."""
    return max((row.value for row in rows if row.value is not None), default=0.0)


def _corpus_text(measure: Results) -> str:
    """The corpus of a measure, with its settings that differ from the defaults."""
    settings = ", ".join(f"{name}: {value}" for name, value in measure.corpus_settings.items())
    return code(measure.corpus) + (f" ({code(settings)})" if settings else "")


def _groups(measure: Results) -> str:
    """Number and name of the groups of test items: "6 speakers", or "73 utterances" if training has their speakers."""
    return (measure.intervals_over or "").partition(";")[0]


def _has_new_speakers(measure: Results) -> bool:
    """Whether no speaker of the test items is among those of the training items."""
    return _groups(measure).endswith(" speakers")


def _is_other_split(measure: Results, corpus: str, settings: Mapping[str, Any]) -> bool:
    """Whether a measure splits the corpus of pretraining differently."""
    given = settings.get("corpus_settings", {})
    return measure.corpus == corpus and measure.corpus_settings != ({} if isinstance(given, str) else given)


def _abx_section(abx: Results, name: str, picture: str | None) -> dict[str, Any]:
    rows = [
        [features, *(percent(row[key].value if key in row else None) for key in _ABX_CONDITIONS)]
        for features, row in _rows_of(abx, name).items()
        if any(key in row for key in _ABX_CONDITIONS)
    ]
    return {
        "heading": "ABX: phones",
        "text": Markdown(
            "Fraction of triples in which a token of a phone is closer to a token of another phone than to one of the "
            f"same phone, on {count(abx.tokens)} tokens of {_corpus_text(abx)} (split "
            f"{markdown(abx.settings['split'])}), within and across speakers, in any context or in the same triphone; "
            "chance is 50 %."
        ),
        "table": markdown_table(["features", *_ABX_CONDITIONS.values()], rows),
        "picture": _picture(picture),
    }


def _dimensions_section(
    measure: Results, name: str, *, trained_on: tuple[str, Mapping[str, Any]]
) -> dict[str, Markdown]:
    features = measure.by_features()
    modules = [row.module for row in measure.rows if row.representation == name and row.measure == "best_dimension"]
    own = {module: features[features_name(name, module)] for module in modules}
    columns: dict[str, dict[str, Row]] = {}
    for module in modules:
        columns[module] = own[module]
        components = features_name(f"{name} + {AXES['temporal']}", module)
        if components in features:
            columns[f"{module}, temporal components"] = features[components]
    text: str = (
        "The largest rank correlation of any one dimension with a property of the sound (for classes, the correlation "
        "ratio of ranks). The number after the slash is that of random axes, the same dimensions rotated at random: a "
        f"dimension is meaningful only if it exceeds them. Data: {_corpus_text(measure)}, test split, "
        f"{markdown(_groups(measure))}, "
    )
    text += f"{'none of whom are' if _has_new_speakers(measure) else 'whose speakers may be'} in the training split."
    if _is_other_split(measure, *trained_on):
        text += " Pretraining used a different split, so it may have used these utterances."
    if len(columns) > len(modules):
        text += " Temporal components are linear combinations of all dimensions, found on training utterances."
    weak = [module for module, rows in own.items() if (rows["best_dimension_gap"].low or 0) <= 0]
    if weak:
        text += f" **Single dimensions of {markdown(' and '.join(weak))} do not exceed random axes.**"

    def table(head: str, titles: Mapping[str, str], write: Callable[[Row], str]) -> Markdown:
        return markdown_table(
            [head, *columns],
            [
                [title, *(write(rows[key]) if key in rows else "-" for rows in columns.values())]
                for key, title in titles.items()
                if any(key in rows for rows in columns.values())
            ],
        )

    return {
        "text": Markdown(text),
        "table": table("property", _DIMENSIONS, _next_to_random_axes),
        "gaps": table("minus random axes", _GAPS, lambda row: bounded(row.value, row.low, row.high)),
    }


def _next_to_random_axes(row: Row) -> str:
    is_of_all = row.measure.startswith("linear_")  # a regression does not depend on axes
    return decimal(row.value) + ("" if is_of_all or row.null is None else f" / {decimal(row.null)}")


def _sources(links: Sequence[str]) -> Markdown:
    names = [link(Path(target).name, target) for target in dict.fromkeys(links)]
    return Markdown(", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else names[0])


def _picture(target: str | None) -> Markdown | None:
    return None if target is None else Markdown(target)
