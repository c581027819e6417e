"""Cards of classifiers and decoders, as `cards.py` makes them of pretrained models: every figure from the results."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult

from modeling_sim.hub.card import PAPER_URL, card_template, hardware_of, interval_text, setting_text
from modeling_sim.hub.card_parts import data_text, dataset_of, license_line, license_of, metadata_of, start_of
from modeling_sim.hub.citation import METHODS, citation
from modeling_sim.hub.escaping import Markdown, code, link, markdown, markdown_table
from modeling_sim.text import count, decimal, percent

_SETTINGS = (
    "max_steps", "batch_size", "gradient_accumulation_steps", "crop_samples", "learning_rate", "weight_decay",
    "lr_scheduler_type", "warmup_steps", "max_grad_norm", "seed",
)  # fmt: skip


def is_task(training: Mapping[str, Any]) -> bool:
    """Whether results are of a classifier or a decoder rather than of pretraining."""
    return "label" in training or "decoder_loss" in training


def render_task_card(
    config: Mapping[str, Any],
    settings: Mapping[str, Any],
    training: Mapping[str, Any],
    *,
    title: str,
    model_id: str,
    links: Mapping[str, str],
    picture: str | None,
    stated_license: str | None = None,
) -> str:
    """The text of the card of a finished run of finetune.py or train_decoder.py.

    Args:
        config: Of the model, as JSON.
        settings: Of the run.
        training: Its results.
        title: Heading, and the model's name in the metadata.
        model_id: What to give to `from_pretrained`.
        links: Links to the files that the figures come from, by their names.
        picture: Link to the curves, if they are there.
        stated_license: Licence that the publisher states; `None` takes that of the results.

    Raises:
        ValueError: The stated licence is looser than what the model was made of allows.
    """
    parts = _classifier(config, training) if "label" in training else _decoder(config, training)
    return card_template("task_card.md").render(
        metadata=_metadata(training, parts, title, license_of(training, stated_license)),
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
        settings_table=markdown_table(
            ["setting", "value"],
            [[code(name), setting_text(settings[name])] for name in _SETTINGS],
        ),
        hardware=hardware_of(training),
        sources=Markdown(", ".join(link(name, target) for name, target in links.items())),
        picture=None if picture is None else Markdown(picture),
        paper_url=Markdown(PAPER_URL),
        citation=Markdown(citation(METHODS["sim"])),
        **parts["text"],
    )


def _classifier(config: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, Any]:
    """What the card of a classifier says, and its metrics."""
    after, before = training["modules"][0]["trained"], training["modules"][0]["untrained"]
    names = {"accuracy": "accuracy", "macro_f1": "mean F1 of the classes"}
    rows = [
        [title, percent(after[name]), _interval(training.get(name), percent), percent(before[name])]
        for name, title in names.items()
    ]
    rows.append(["chance, the most frequent class", percent(training["chance"]), "-", "-"])
    state = "frozen" if training["frozen_encoder"] else "trained with it"
    return {
        "tag": "audio-classification",
        "metrics": [(name, title, after[name]) for name, title in names.items()],
        "text": {
            "summary": Markdown(
                f"Tells {code(training['label'])} ({count(len(training['classes']))} classes) of speech: a linear "
                f"layer on {markdown(training['modules'][0]['name'])} of a Smooth InfoMax encoder, which was {state}."
            ),
            "classes": Markdown(", ".join(map(code, training["classes"][:60]))),
            "results_table": markdown_table(["", "held out", "95 % interval", "before training"], rows),
            "module": config["probe_module"],
        },
    }


def _decoder(config: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, Any]:
    """What the card of a decoder says, and its metrics."""
    after, before = training["modules"][0]["trained"], training["modules"][0]["untrained"]
    names = {
        "log_mel": "log-mel distance, nats", "log_mel_of_silence": "the same of silence",
        "spectral": "multi-resolution spectral distance", "spectral_of_silence": "the same of silence",
        "si_sdr": "SI-SDR, dB (means little unless trained on the waveform)",
    }  # fmt: skip
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
                f"Makes a waveform of the latents of {markdown(training['modules'][0]['name'])} of a Smooth InfoMax "
                f"encoder. It was trained on {markdown(training['latents'])}s, with noise of "
                f"{count(training['noise'])} standard deviations added, by the loss {code(training['decoder_loss'])}."
            ),
            "classes": "",
            "results_table": markdown_table(["", "held out", "95 % interval", "before training"], rows),
            "module": config["module"],
        },
    }


def _interval(score: Mapping[str, float] | None, form: Any) -> str:
    return "-" if score is None else interval_text(score, form)


def _metadata(training: Mapping[str, Any], parts: Mapping[str, Any], title: str, license_id: str) -> str:
    """What the Hub reads, as YAML."""
    results = [
        EvalResult(
            task_type=parts["tag"],
            dataset_type=dataset_of(training) or training["corpus"],
            dataset_name=training["corpus"],
            dataset_split="test",
            metric_type=name,
            metric_name=metric,
            metric_value=round(value, 4),
        )
        for name, metric, value in parts["metrics"]
    ]
    tags = ("audio", "speech", "smooth-infomax", "arxiv:2408.12936")
    return metadata_of(training, license_id, title=title, tag=parts["tag"], tags=tags, results=results)
