"""Trains a classifier on a pretrained encoder, frozen or with it, or on a fresh one, and saves a model for `pipeline`.

    accelerate launch training/finetune.py --model runs/sim-small --label speaker_id

A label of utterances (speaker_id, vowel, syllable) trains a linear layer on the mean of a module's frames, a label of
frames (phones) one on every frame. `--freeze_encoder` trains the layer alone. Without `--model` the encoder is a new
one of `--preset`: trained with it, that is the fully supervised baseline of the Smooth InfoMax paper; frozen, its
random one. The finished folder works in a pipeline, on an array at the model's sampling rate (for a path, or an array
at another rate, transformers' pipeline needs FFmpeg or torchaudio):

    import modeling_sim, soundfile, transformers
    classify = transformers.pipeline("audio-classification", model="runs/finetuned")
    classify(soundfile.read("speech.wav", dtype="float32")[0])
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from datasets import Dataset

from modeling_sim import SimConfig, SimFeatureExtractor, SimForAudioFrameClassification, SimForSequenceClassification
from training.arguments import DataArguments, RunArguments, parse_arguments, setting
from training.classification_task import ClassificationTask, Classifier
from training.command import load_data, run_command
from training.features import is_frame_label, label_classes, module_numbers
from training.measuring import check_encoder, feature_extractor_of, with_same_classes


@dataclass
class ClassifierArguments:
    """Which model is trained, for what."""

    model: str | None = setting(None, "Pretrained checkpoint, a folder or a Hub id; a new encoder if unset.")
    preset: str = setting("sim-small", f"New encoder, without `model`: {', '.join(SimConfig.preset_names())}.")
    model_settings: str = setting("{}", "Fields of SimConfig to set differently, as YAML: '{hidden_size: 64}'.")
    label: str = setting("speaker_id", "Column of classes: speaker_id, vowel, syllable, phones, ...")
    probe_module: str = setting("context", "Module that the classifier reads: a number from 0, or 'context'.")
    freeze_encoder: bool = setting(False, "Train the classifier alone.")


@dataclass
class FinetuningArguments(RunArguments):
    """How it is trained."""

    output_dir: str = setting("runs/finetuned", "Folder for model, log, curves and results.")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    classes = (ClassifierArguments, DataArguments, FinetuningArguments)
    run_command("finetune.py", lambda: parse_arguments(__doc__, argv, classes), build)


def build(
    accelerator: Accelerator, arguments: ClassifierArguments, data: DataArguments, settings: FinetuningArguments
) -> ClassificationTask:
    """The classifier and its data.

    Raises:
        ValueError: No such label or module, a single class, or a stream.
        OSError: The model is not there.
    """
    if data.corpus_settings.get("streaming"):  # type: ignore[attr-defined] - a dict once it is parsed
        raise ValueError("classes are counted before training: load the corpus without `streaming`.")
    config, extractor = encoder_config(arguments)
    train_data, test_data = with_same_classes(*load_data(accelerator, data, settings))
    classes = label_classes(train_data, arguments.label)
    train_data, test_data = (with_label(dataset, arguments.label) for dataset in (train_data, test_data))
    check_classes(train_data, arguments.label, classes)
    config.id2label, config.label2id = dict(enumerate(classes)), {name: number for number, name in enumerate(classes)}
    (config.probe_module,) = module_numbers(config, arguments.probe_module)
    config.freeze_encoder = arguments.freeze_encoder
    model = build_classifier(arguments.model, config, frames=is_frame_label(train_data, arguments.label))
    model.to(accelerator.device)
    return ClassificationTask(
        model, extractor, accelerator, data, settings, train_data, test_data, label=arguments.label
    )


def encoder_config(arguments: ClassifierArguments) -> tuple[SimConfig, SimFeatureExtractor]:
    """Configuration of the encoder, a pretrained or a new one, and its feature extractor."""
    settings: Any = arguments.model_settings
    if arguments.model is None:
        config = SimConfig.preset(arguments.preset, **settings)
        return config, SimFeatureExtractor(sampling_rate=config.sampling_rate, min_samples=config.receptive_field())
    extractor = feature_extractor_of(arguments.model)
    check_encoder(arguments.model)
    return SimConfig.from_pretrained(arguments.model, **settings), extractor


def build_classifier(path: str | None, config: SimConfig, *, frames: bool) -> Classifier:
    """A classifier of frames or of utterances, with the weights of a checkpoint if there is one."""
    kind = SimForAudioFrameClassification if frames else SimForSequenceClassification
    return kind(config) if path is None else kind.from_pretrained(path, config=config).float()


def with_label(dataset: Dataset, label: str) -> Dataset:
    """The rows that have a label."""
    values = dataset[label][:]
    kept = [
        number for number, value in enumerate(values) if value is not None and (isinstance(value, list) or value >= 0)
    ]
    return dataset if len(kept) == len(values) else dataset.select(kept)


def check_classes(dataset: Dataset, label: str, classes: Sequence[str]) -> None:
    """Refuses labels that leave nothing to tell apart."""
    values = dataset[label][:]
    present = {item for value in values for item in (value if isinstance(value, list) else [value]) if item >= 0}
    if len(present) < 2:
        raise ValueError(
            f"`label` {label!r} has {len(present)} class(es) in the training split; a classifier needs at least 2."
        )
    if isinstance(values[0], list) and label != "phones" and len(values[0]) < 20:
        raise ValueError(
            f"`label` {label!r} is a list of {len(values[0])} classes an utterance, not one a 10 ms frame; choose a "
            "corpus setting with one an utterance, as `units: syllables` or `num_syllables: 1`."
        )
    missing = [name for number, name in enumerate(classes) if number not in present]
    if missing:
        print(f"classes without a training example, which cannot be learnt: {', '.join(missing)}")


if __name__ == "__main__":
    sys.exit(main())
