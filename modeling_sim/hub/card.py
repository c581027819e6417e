"""Model cards: rendered from a run's configuration, settings and results, and checked against them.

    python model_cards/make.py           # renders model_cards/NAME.md for every small run in model_cards/results
    python model_cards/make.py --check   # says which of them are not what the results give

No figure of a card is typed: `render_card` takes all of them from JSON, and `check_card` looks every number and every
metric of a card up in the files that the card links to.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from modeling_sim import SimConfig
from modeling_sim.hub.card_parts import (
    data_flag,
    data_text,
    dataset_of,
    field_milliseconds,
    license_line,
    license_of,
    metadata_of,
    start_of,
)
from modeling_sim.hub.citation import Method, citation, method_of
from modeling_sim.hub.escaping import Markdown, code, link, markdown, markdown_table, python_text, shown
from modeling_sim.text import count, decimal, percent, points

_TEMPLATES = Path(__file__).parent / "templates"


PAPER_URL = "https://arxiv.org/abs/2408.12936"


# Settings that a reader needs to judge or repeat a run.
_SETTINGS = (
    "execution", "max_steps", "batch_size", "gradient_accumulation_steps", "crop_samples", "learning_rate",
    "weight_decay", "lr_scheduler_type", "warmup_steps", "kl_warmup_steps", "max_grad_norm", "mixed_precision", "seed",
)  # fmt: skip


_LANGUAGES = {"librispeech": "en"}


_ABX_CONDITIONS = ("within any", "within triphone", "across any", "across triphone")


def card_template(name: str) -> Template:
    """A template of cards; what it needs and is not given is an error."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - the text is Markdown, which `shown` escapes
        finalize=shown,
    )
    environment.filters["python"] = python_text
    return environment.get_template(name)


# ---------------------------------------------------------------------- rendering


def render_card(
    config: SimConfig,
    settings: Mapping[str, Any],
    measures: Mapping[str, dict[str, Any]],
    *,
    title: str,
    model_id: str,
    config_link: str,
    settings_link: str | None = None,
    pictures: Mapping[str, str] | None = None,
    published: bool = True,
    measured_as: str | None = None,
    fingerprint: str | None = None,
    stated_license: str | None = None,
) -> str:
    """The text of a card.

    Args:
        config: Of the model.
        settings: Of the training run, every one by its name.
        measures: What was measured, by the link to it: the results of training (exactly one), and any number of
            results of `probe.py` and `abx.py`.
        title: Heading, and the model's name in the metadata.
        model_id: What to give to `from_pretrained`.
        config_link: Link to the configuration.
        settings_link: Link to the settings, if they are another file.
        pictures: Link to a picture by the link to the measure it shows.
        published: Whether the weights are there to load.
        measured_as: Name that measures know the model by; `None` if it is the title.
        fingerprint: Of the weights, `feature_store.weights_fingerprint`; `None` if they are not there to ask.
        stated_license: Licence that the publisher states; `None` takes that of the results.

    Raises:
        ValueError: Not exactly one of the measures is of training; one is of other models; or the stated licence is
            looser than what the model was made of allows.
        jinja2.UndefinedError: The template needs something that is not given.
    """
    by_kind: dict[str, list[str]] = {"training": [], "probe": [], "abx": []}
    for target, measure in measures.items():
        by_kind[_kind(measure, target)].append(target)
    if len(by_kind["training"]) != 1:
        raise ValueError(f"a card needs the results of one training run; there are {len(by_kind['training'])}.")
    training = measures[by_kind["training"][0]]
    pictures = pictures or {}
    own_names = {
        link: own_name(measures[link], link, title=measured_as or title, fingerprint=fingerprint)
        for link in (*by_kind["probe"], *by_kind["abx"])
    }
    probes = {link: own_names[link] for link in by_kind["probe"]}
    method = method_of(config)
    return card_template("card.md").render(
        metadata=_metadata(
            config,
            training,
            title=title,
            license_id=license_of(training, stated_license),
            probe_metrics=_probe_metrics([(measures[link], name) for link, name in probes.items()]),
        ),
        title=title,
        model_id=model_id,
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
        paper_url=Markdown(PAPER_URL),
        modules_table=_modules_table(config),
        settings_table=_settings_table(settings, training, config),
        results_table=_results_table(
            config, training, before="at the start" if settings.get("init_from") else "untrained"
        ),
        hardware=hardware_of(training),
        probes=[
            _probe_section(measures[link], name, pictures.get(link), trained_on=(training["corpus"], settings))
            for link, name in probes.items()
        ],
        abx_measures=[_abx_section(measures[link], own_names[link], pictures.get(link)) for link in by_kind["abx"]],
        pictures={"training": _picture(pictures.get(by_kind["training"][0]))},
        sources=_sources([*measures, *([settings_link] if settings_link else []), config_link]),
        citation=Markdown(citation(method)),
        count=count,
        decimal=decimal,
        train_utterances="a stream of" if training["train_utterances"] is None else count(training["train_utterances"]),
    )


def _kind(measure: Mapping[str, Any], link: str) -> str:
    """Which command wrote a results file."""
    for field, kind in (("modules", "training"), ("label", "probe"), ("tokens", "abx")):
        if field in measure:
            return kind
    raise ValueError(f"{link} is not what pretrain.py, probe.py or abx.py writes.")


def _metadata(
    config: SimConfig,
    training: dict[str, Any],
    *,
    title: str,
    license_id: str,
    probe_metrics: Iterable[EvalResult],
) -> str:
    """What the Hub reads, as YAML."""
    tags = ["audio", "speech", "self-supervised", method_of(config).name.lower().replace(" ", "-"), "arxiv:2408.12936"]
    return metadata_of(
        training,
        license_id,
        title=title,
        tag="feature-extraction",
        tags=tags,
        results=[*_training_metrics(training), *probe_metrics],
        language=_LANGUAGES.get(training["corpus"]),
    )


def _training_metrics(training: dict[str, Any]) -> Iterator[EvalResult]:
    for module in training["modules"]:
        value = module["trained"]["contrastive_accuracy"]
        if value is not None:
            yield EvalResult(
                task_type="feature-extraction",
                task_name="Contrastive prediction on held-out speech",
                dataset_type=dataset_of(training) or training["corpus"],
                dataset_name=training["corpus"],
                dataset_split="test",
                metric_type="accuracy",
                metric_name=f"contrastive accuracy, {module['name']}",
                metric_value=round(value, 4),
            )


def _probe_metrics(probes: Iterable[tuple[dict[str, Any], str]]) -> Iterator[EvalResult]:
    for probe, name in probes:
        for row in probe["rows"]:
            if row["source"] == name:
                yield EvalResult(
                    task_type="audio-classification",
                    # The Hub puts all metrics of a task and data set together, under the first one's names.
                    task_name="Probes of the frozen model",
                    dataset_type=dataset_of(probe) or probe["corpus"],
                    dataset_name=probe["corpus"],
                    dataset_split="test",
                    metric_type="accuracy",
                    metric_name=f"accuracy of a {probe['probe']} probe of {probe['label']}, {row['feature']}",
                    metric_value=round(row["accuracy"]["value"], 4),
                )


def _summary(config: SimConfig, method: Method) -> str:
    rates = ", ".join(f"{count(config.frame_rate(module))} ({name})" for module, name in enumerate(config.module_names))
    latents = "a Gaussian" if config.latent_distribution == "gaussian" else "a point"
    return (
        f"A {method.name} model of speech: from waveforms of {count(config.sampling_rate)} samples a second, its "
        f"{config.num_modules} modules give {rates} frames a second. Each frame of a convolutional module is {latents} "
        f"in {config.hidden_size} dimensions."
    )


def _modules_table(config: SimConfig) -> str:
    rows = []
    for module, name in enumerate(config.module_names):
        is_context = module >= config.num_conv_modules
        field, hop = config.receptive_field(module), config.hop_length(module)
        kind = "GRU" if is_context else _plural(len(config.conv_kernel[module]), "convolution")
        rows.append(
            [
                name, kind, count(config.context_size if is_context else config.hidden_size),
                f"{count(field)} samples ({decimal(field_milliseconds(config, module), 1)} ms)",
                f"{count(hop)} samples", count(config.frame_rate(module)),
                "-" if is_context or config.latent_distribution != "gaussian" else count(config.kl_weights[module]),
            ]
        )  # fmt: skip
    return markdown_table(
        ["module", "kind", "channels", "receptive field", "hop", "frames a second", "KL weight"], rows
    )


def _settings_table(settings: Mapping[str, Any], training: dict[str, Any], config: SimConfig) -> str:
    rows: list[list[str]] = [[code(name), setting_text(settings[name])] for name in _SETTINGS]
    rows.append(["seconds a crop", count(settings["crop_samples"] / config.sampling_rate)])
    rows += [[name, count(training[field])] for name, field in (("steps taken", "steps"), ("crops seen", "crops"))]
    return markdown_table(["setting", "value"], rows)


def setting_text(value: Any) -> str:
    """A setting as cards write it."""
    if value is None:
        return "as launched"
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
            # A module without a loss has no accuracy, and a loss of 0 that says nothing.
            has_loss = trained["contrastive_accuracy"] is not None
            row += [decimal(scores[quantity] if has_loss else None, 3) for scores in (trained, start)]
        if gaussian:
            row.append(decimal(trained["kl"] if number < config.num_conv_modules else None, 1))
        rows.append([*row, count(trained["active_units"])])
    return markdown_table([*head, *(["KL"] if gaussian else []), "active units"], rows)


def hardware_of(training: Mapping[str, Any]) -> str:
    """What was measured of the machine, and what was not recorded."""
    seconds, rate = count(training["seconds"]), count(training["crops_per_second"])
    hardware = training.get("hardware")
    if hardware is None:
        return f"{seconds} seconds in training steps ({rate} crops a second); the device was not recorded."
    return (
        f"{_plural(hardware['processes'], 'process', 'processes')} on {hardware['device']} with "
        f"{_plural(hardware['threads'], 'thread')} each, {_plural(hardware['cores'], 'core')} in the machine; "
        f"{seconds} seconds in training steps ({rate} crops a second)."
    )


def _plural(number: int, one: str, many: str | None = None) -> str:
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def own_name(measure: Mapping[str, Any], file: str, *, title: str, fingerprint: str | None) -> str:
    """Which of the models of a measure the card is of: by its weights, or by its name where these are not known.

    Args:
        measure: What probe.py or abx.py wrote.
        file: Where it lies, for the error.
        title: The model's name.
        fingerprint: Of the model's weights, if they are there.

    Raises:
        ValueError: It measures other models.
    """
    models: list[str] = measure["models"]
    recorded = measure.get("fingerprints")
    if recorded and fingerprint is not None:
        known, found = "weights", [name for name in models if recorded.get(name) == fingerprint][:1]
    else:
        known, found = "name", [name for name in models if title in (name, name.split("/")[-1])]
    if len(found) != 1:
        raise ValueError(
            f"{file} is of {', '.join(models)}, and none of these is {title} by its {known}; measure this checkpoint "
            "with probe.py or abx.py, and give what they write."
        )
    return found[0]


def _rows_of(measure: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Rows of the model and of its controls, without those of other models."""
    others = set(measure["models"]) - {name}
    return [row for row in measure["rows"] if row["source"] not in others]


def interval_text(score: Mapping[str, float], form: Any) -> str:
    """Bounds of an interval as cards write them."""
    return f"{form(score['low'])} to {form(score['high'])}"


def _probe_section(
    probe: dict[str, Any], name: str, picture: str | None, *, trained_on: tuple[str, Mapping[str, Any]]
) -> dict[str, Any]:
    rows = _rows_of(probe, name)
    names = {row["name"] for row in rows}
    has_control = any("selectivity" in row for row in rows)
    pooled = {"frame": "", "chunk": ", averaged over chunks", "mean": ", averaged over utterances"}[probe["pooling"]]
    kind = "The paper's linear" if probe.get("protocol") == "paper" else f"A {probe['probe']}"
    text = Markdown(
        f"{markdown(kind)} probe on frames of the frozen model{pooled}. Data: {_corpus_text(probe)}, "
        f"{count(probe['train_items'])} items to train on and {count(probe['test_items'])} to test on, with 95 % "
        f"intervals over {markdown(probe['intervals_over'])}, beside chance, spectra and the same network untrained."
    )
    if probe["probe"] == "linear" and "l2" in probe:
        strength = "chosen on a part of the training items" if probe["l2"] is None else f"set to {count(probe['l2'])}"
        text += f" The strength of its L2 penalty is {strength}."
    head = ["features", "accuracy", "interval", "macro F1"]
    if has_control:
        text += " The control task renames every speaker's classes at random; selectivity is the accuracy less that."
        head += ["control", "selectivity"]
    else:
        text += (
            " There is no control task: it needs several speakers who are in both splits, and a label other than the "
            "speaker."
        )
    if _best(rows, "name", "log-mel", "MFCC") > _best(rows, "source", name):
        text += " Spectra alone score higher than every module of this model."
    if _is_other_split(probe, *trained_on):
        text += (
            " What is held out from the probe may have been heard in pretraining, without its label: the two were "
            "split in different ways."
        )
    table = []
    for row in rows:
        cells = [row["name"], percent(row["accuracy"]["value"]), interval_text(row["accuracy"], percent)]
        cells.append(percent(row["macro_f1"]["value"]))
        if has_control:
            cells += [percent(row.get("control_accuracy")), percent(row.get("selectivity"))]
        table.append(cells)
    differences = [
        [row["name"], row["against"], points(row["accuracy"]["value"]), interval_text(row["accuracy"], points)]
        for row in probe["differences"]
        if row["name"] in names and row["against"] in names
    ]
    return {
        "heading": f"Probe: {probe['label']}",
        "text": Markdown(text),
        "table": markdown_table(head, table),
        "differences": markdown_table(["features", "less", "difference", "interval"], differences)
        if differences
        else None,
        "picture": _picture(picture),
    }


def _best(rows: Iterable[Mapping[str, Any]], field: str, *wanted: str) -> float:
    """The highest accuracy of the rows whose field is one of these."""
    return max((row["accuracy"]["value"] for row in rows if row[field] in wanted), default=0.0)


def _corpus_text(measure: Mapping[str, Any]) -> str:
    """The corpus of a measure, with settings that are not its defaults."""
    settings = ", ".join(f"{name}: {value}" for name, value in measure.get("corpus_settings", {}).items())
    return code(measure["corpus"]) + (f" ({code(settings)})" if settings else "")


def _is_other_split(measure: Mapping[str, Any], corpus: str, settings: Mapping[str, Any]) -> bool:
    """Whether a measure divides the corpus of pretraining in another way than pretraining did, as far as is known."""
    if measure["corpus"] != corpus or "corpus_settings" not in measure:
        return False
    of_training = settings.get("corpus_settings", {})
    return measure["corpus_settings"] != ({} if isinstance(of_training, str) else of_training)


def _abx_section(abx: dict[str, Any], name: str, picture: str | None) -> dict[str, Any]:
    rows = [
        [row["name"], *(percent(row[condition]["error"]) for condition in _ABX_CONDITIONS)]
        for row in _rows_of(abx, name)
    ]
    return {
        "heading": "ABX: phones",
        "text": Markdown(
            "Share of triples in which a token of a phone lies nearer to one of another phone than to one of its own, "
            f"on {count(abx['tokens'])} tokens of {_corpus_text(abx)} (split {markdown(abx['split'])}), within and "
            "across speakers, in any context or in the same triphone; chance is 50 %."
        ),
        "table": markdown_table(["features", *_ABX_CONDITIONS], rows),
        "picture": _picture(picture),
    }


def _sources(links: Sequence[str]) -> str:
    names = [link(Path(target).name, target) for target in dict.fromkeys(links)]
    return Markdown(", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else names[0])


def _picture(target: str | None) -> Markdown | None:
    return None if target is None else Markdown(target)
