"""The task of finetuning: a classifier of utterances or frames, with a trained or a frozen encoder."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import SequenceFeatureExtractor

from modeling_sim import SimConfig, SimForAudioFrameClassification, SimForSequenceClassification
from modeling_sim.analysis import bootstrap_interval
from modeling_sim.analysis.intervals import accuracy, macro_f1
from modeling_sim.data.corpora.alignments import LABEL_HOP, LABEL_RATE, LABEL_WINDOW, labels_at_frames
from modeling_sim.data.corpora.contract import IGNORED, is_frame_label, label_classes, with_same_classes
from modeling_sim.loading import check_encoder, feature_extractor_of, is_classifier, load_model, module_number
from modeling_sim.processing_sim import new_processor
from modeling_sim.text import counted, say
from modeling_sim.trainer.devices import send, to_device
from modeling_sim.trainer.log import Scores, bars_are_shown
from modeling_sim.trainer.optimization import Part
from modeling_sim.trainer.run import load_data
from modeling_sim.trainer.settings import ClassifierArguments, DataArguments, FinetuningArguments, RunArguments
from modeling_sim.trainer.task import CropTask

_TOKEN_OFFSET = (LABEL_WINDOW - LABEL_HOP) / 2 / LABEL_RATE

Classifier = SimForSequenceClassification | SimForAudioFrameClassification


class ClassificationTask(CropTask):
    """Trains a classifier; has one row of scores, named after the module that the classifier reads.

    Args:
        model: The classifier, on the accelerator's device; its `id2label` are the classes of the label.
        extractor: Feature extractor of the model.
        accelerator: Provides processes and mixed precision.
        data: Settings of the data.
        settings: Settings of the training.
        train_data: Data to train on, in crops; every row has a label.
        test_data: Data to evaluate on, in complete utterances; every row has a label.
        label: Class column, with one class per utterance or per label frame.
    """

    metrics = ("loss", "accuracy")

    def __init__(
        self,
        model: Classifier,
        extractor: SequenceFeatureExtractor,
        accelerator: Accelerator,
        data: DataArguments,
        settings: RunArguments,
        train_data: Dataset,
        test_data: Dataset,
        *,
        label: str,
    ) -> None:
        super().__init__(accelerator, data, settings)
        self.model: Classifier = model
        self.extractor, self.label, self.columns = extractor, label, [label]
        self.train_data: Dataset = train_data
        self.test_data = test_data
        self.module = model.probe_module
        config = model.config
        self.title = f"{label} of {data.corpus}"
        self.row_names = [config.module_names[model.probe_module]]
        self.chance = _most_frequent(train_data[label][:], test_data[label][:])
        self.cells: dict[str, np.ndarray] = {}

    def comparable_config(self) -> dict[str, Any]:
        """Adds the label and its classes to the fields that must match when a run is resumed."""
        return {
            **super().comparable_config(),
            "label": self.label,
            "classes": list(self.model.config.id2label.values()),
        }

    def parts(self) -> list[Part]:
        """One part: the complete model, or the classifier on a frozen encoder."""
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        frozen = self.model.config.freeze_encoder
        return [Part(parameters, [] if frozen else list(self.model.buffers()))]

    def labels(self, batch: dict[str, Any]) -> torch.Tensor:
        """Classes `(batch,)`, or `(batch, frames)` aligned with the probed module's frames; -100 for none."""
        values = [row[self.label] for row in batch["columns"]]
        if not isinstance(values[0], list):
            return send(torch.tensor(values), self.accelerator.device)
        config, module = self.model.config, self.model.probe_module
        # The label frame of a token starts with the token; that of an audio frame is the 25 ms window with the nearest
        # center.
        offset = 0.0 if config.input_kind == "waveform" else _TOKEN_OFFSET
        centers = config.frame_centers(int(config.num_frames(batch["input_values"].shape[1], module)), module)
        starts = batch.get("start", torch.zeros(len(values))).tolist()
        placed = [
            labels_at_frames(np.asarray(row), centers + start, sampling_rate=config.sampling_rate, label_offset=offset)
            for row, start in zip(values, starts, strict=True)
        ]
        return send(torch.from_numpy(np.stack(placed)), self.accelerator.device)

    def backward(self, batch: dict[str, Any], step: int, *, loss_scale: float, accumulating: bool) -> torch.Tensor:
        """Cross entropy and accuracy of a batch of crops."""
        labels = self.labels(batch)
        with self.accelerator.autocast():
            outputs = self.model(
                *to_device(batch, self.accelerator.device), labels=labels, generator=self.generator(step)
            )
        self.backward_pass(outputs.loss, loss_scale=loss_scale, accumulating=accumulating)
        counted = labels != IGNORED
        hits = ((outputs.logits.argmax(dim=-1) == labels) & counted).sum() / counted.sum().clamp(min=1)
        return torch.stack([outputs.loss.detach(), hits])[None]

    @torch.no_grad()
    def evaluate(self) -> list[Scores]:
        """Cross entropy, accuracy and mean F1 over all labeled utterances or frames of the held-out split.

        Pieces of an utterance longer than 40 seconds count as utterances; see `utterance_batches`.
        """
        model, accelerator = self.model, self.accelerator
        batches = self.held_out_batches()
        model.eval()
        found: list[tuple[float, dict[str, np.ndarray]]] = []
        for batch in tqdm(batches, desc="evaluating", leave=False, disable=not bars_are_shown(accelerator)):
            labels = self.labels(batch)
            inputs, mask = to_device(batch, accelerator.device)
            with accelerator.autocast():
                logits = model(inputs, mask).logits.float()
            if mask is not None and labels.dim() == 2:
                labels = labels.masked_fill(model.sim.get_frame_mask(mask, model.probe_module) == 0, IGNORED)
            loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="sum", ignore_index=IGNORED)
            found.append((float(loss), _cells(batch["id"], labels.cpu().numpy(), logits.cpu().numpy())))
        everywhere = self.gather_objects(found)
        self.cells = {}
        for _, rows in itertools.chain(*everywhere):
            for name, cells in rows.items():
                self.cells[name] = self.cells.get(name, 0) + cells
        total = np.sum(list(self.cells.values()), axis=0)
        loss_sum = sum(loss for of_process in everywhere for loss, _ in of_process)
        return [
            {
                "loss": loss_sum / max(1, total.sum()),
                "accuracy": float(accuracy(total)),
                "macro_f1": float(macro_f1(total)),
            }
        ]

    def summary(self, scores: list[Scores]) -> str:
        """Accuracy next to chance, and loss."""
        return f"accuracy {scores[0]['accuracy']:.3f} (chance {self.chance:.3f}), loss {scores[0]['loss']:.3f}"

    def results(self) -> dict[str, Any]:
        """The label, and the latest scores with confidence intervals over utterances."""
        cells = np.stack(list(self.cells.values()))
        intervals = {}
        if len(cells) > 1:
            for name, score in (("accuracy", accuracy), ("macro_f1", macro_f1)):
                intervals[name] = vars(bootstrap_interval(cells, score, seed=self.settings.seed))
        return {
            "label": self.label,
            "classes": list(self.model.config.id2label.values()),
            "frozen_encoder": self.model.config.freeze_encoder,
            "chance": self.chance,
            **intervals,
            "confusion": cells.sum(axis=0).tolist(),
        }


def _cells(ids: list[str], labels: np.ndarray, logits: np.ndarray) -> dict[str, np.ndarray]:
    """Confusion matrix of every utterance of a batch, indexed by true class, then predicted class."""
    predictions = logits.argmax(axis=-1)
    cells: dict[str, np.ndarray] = {}
    for name, true, predicted in zip(ids, labels, predictions, strict=True):
        true, predicted = np.atleast_1d(true), np.atleast_1d(predicted)  # noqa: PLW2901 - one label or many
        counted = true != IGNORED
        cells.setdefault(name, np.zeros((logits.shape[-1],) * 2, dtype=np.int64))
        np.add.at(cells[name], (true[counted], predicted[counted]), 1)
    return cells


def _most_frequent(train: list[Any], test: list[Any]) -> float:
    """Accuracy of always predicting the most frequent training label, on the test labels."""
    train_labels, test_labels = (np.concatenate([np.atleast_1d(value) for value in labels]) for labels in (train, test))
    most = np.bincount(train_labels[train_labels >= 0]).argmax()
    return float((test_labels[test_labels >= 0] == most).mean())


def build(
    accelerator: Accelerator, arguments: ClassifierArguments, data: DataArguments, settings: FinetuningArguments
) -> ClassificationTask:
    """Builds the task of finetuning from its settings.

    Raises:
        ValueError: The label or the module does not exist, the label has a single class, or the data is a stream.
        OSError: The model does not exist.
    """
    if data.corpus_settings.get("streaming"):
        raise ValueError("finetuning must count classes first; load the corpus without `streaming`.")
    config, extractor = encoder_config(arguments)
    train_data, test_data = with_same_classes(*load_data(accelerator, data, settings, config, extractor))
    classes = label_classes(train_data, arguments.label)
    train_data, test_data = (with_label(dataset, arguments.label) for dataset in (train_data, test_data))
    check_classes(train_data, arguments.label, classes)
    config.id2label, config.label2id = dict(enumerate(classes)), {name: number for number, name in enumerate(classes)}
    config.problem_type = "single_label_classification"  # replaces that of an earlier head
    config.probe_module = module_number(config, arguments.probe_module, "probe_module")
    config.freeze_encoder = False
    model = build_classifier(arguments.model, config, frames=is_frame_label(train_data, arguments.label))
    if arguments.freeze_encoder:
        model.freeze_base_model()
    model.to(accelerator.device)
    return ClassificationTask(
        model, extractor, accelerator, data, settings, train_data, test_data, label=arguments.label
    )


def encoder_config(arguments: ClassifierArguments) -> tuple[SimConfig, Any]:
    """Configuration of the pretrained or new encoder, and its feature extractor or other processor."""
    settings = arguments.model_settings
    if arguments.model is None:
        config = SimConfig.preset(arguments.preset, **settings)
        return config, new_processor(config)
    extractor = feature_extractor_of(arguments.model)
    check_encoder(arguments.model)
    return SimConfig.from_pretrained(arguments.model, **settings), extractor


def build_classifier(path: str | None, config: SimConfig, *, frames: bool) -> Classifier:
    """A classifier of frames or utterances, with the weights of a checkpoint if `path` is given.

    The checkpoint's own classifier is kept if it has the same classes and reads the same module; otherwise a message
    says that it is replaced.

    Raises:
        ValueError: The checkpoint lacks weights of the encoder; see `load_model`.
    """
    model_class = SimForAudioFrameClassification if frames else SimForSequenceClassification
    if path is None:
        return model_class(config)
    saved = SimConfig.from_pretrained(path)
    is_same = saved.architectures == [model_class.__name__] and _task_of(saved) == _task_of(config)
    new = "" if is_same else r"classifier\..*"
    model: Classifier = load_model(model_class, path, config, may_be_new=new)
    if is_classifier(saved) and not is_same:
        say(f"{path} has a classifier of another label or module; training starts with a new one")
        model.classifier = model_class(config).classifier
    return model


def _task_of(config: SimConfig) -> tuple[Any, ...]:
    """Classes of a classifier, and the module that it reads."""
    problem_type = config.problem_type or "single_label_classification"
    return problem_type, config.id2label, config.probe_module % config.num_modules


def with_label(dataset: Dataset, label: str) -> Dataset:
    """The rows that have a label."""
    values = dataset[label][:]
    kept = [
        number for number, value in enumerate(values) if value is not None and (isinstance(value, list) or value >= 0)
    ]
    return dataset if len(kept) == len(values) else dataset.select(kept)


def check_classes(dataset: Dataset, label: str, classes: Sequence[str]) -> None:
    """Raises if a label has a single class, or lists of classes that are not frame labels."""
    values = dataset[label][:]
    present = {item for value in values for item in (value if isinstance(value, list) else [value]) if item >= 0}
    if len(present) < 2:
        raise ValueError(
            f"`label` {label!r} has {counted(len(present), 'class', 'classes')} in the training split; a classifier "
            "needs at least 2."
        )
    if isinstance(values[0], list) and label != "phones" and "audio" in dataset.column_names and len(values[0]) < 20:
        raise ValueError(
            f"`label` {label!r} has {len(values[0])} classes per utterance instead of one per 10 ms frame; choose "
            "corpus settings with one per utterance, for example `units: syllables` or `num_syllables: 1`."
        )
    missing = [name for number, name in enumerate(classes) if number not in present]
    if missing:
        print(f"warning: classes without training examples: {', '.join(missing)}")
