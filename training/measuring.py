"""What the measuring commands share: the corpus, the models, and the controls beside them."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import ClassLabel, Dataset, List
from huggingface_hub.constants import HF_HOME
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, SequenceFeatureExtractor, set_seed

from modeling_sim import SimConfig, SimDecoder, SimDecoderConfig, SimModel
from training.arguments import CORPUS_SETTINGS_HELP, DATASET_NAME_HELP, HelpFormatter, mapping_of, with_dataset_name
from training.corpora import corpus_info, load_corpus
from training.corpora.contract import class_label, replace_column
from training.corpora.overlap import say_shared_recordings, say_shared_speakers
from training.feature_store import Items, weights_fingerprint
from training.features import Encoder, ModelEncoder, SpectralEncoder, module_numbers
from training.output_folder import claim_folder
from training.plots import FIGURE_FORMAT_HELP, FIGURE_FORMATS
from training.provenance import git_revision, hub_dataset, versions

UNTRAINED = "untrained"
SPECTRA = "spectra"


class Source(NamedTuple):
    """Features to measure: what makes them of a batch, what makes the batch, and their name in tables."""

    name: str
    encoder: Encoder
    extractor: SequenceFeatureExtractor

    def row_name(self, feature: str) -> str:
        """Name of one of its features in tables."""
        return feature if self.name == SPECTRA else f"{self.name}, {feature}"


def measuring_parser(description: str | None, *, output_dir: str) -> ArgumentParser:
    """A parser with the flags of every measuring command."""
    parser = ArgumentParser(description=description, formatter_class=HelpFormatter)
    parser.add_argument("--model", nargs="+", required=True, help="Checkpoints, folders or Hub ids, to compare.")
    parser.add_argument("--corpus", default="librispeech", help="A corpus of training.corpora.")
    parser.add_argument("--data_dir", help="Its folder.")
    parser.add_argument("--dataset_name", help=DATASET_NAME_HELP)
    parser.add_argument("--corpus_settings", default="{}", help=CORPUS_SETTINGS_HELP)
    parser.add_argument("--label", default="phones", help="A column of classes: phones, speaker_id, vowel, ...")
    parser.add_argument("--modules", default="all", help="'all', or some: '0,2,context'.")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    parser.add_argument("--batch_size", type=int, default=8, help="Utterances a batch.")
    parser.add_argument("--seed", type=int, default=0, help="Of the untrained network and of every draw.")
    parser.add_argument(
        "--cache_dir",
        default=str(Path(HF_HOME) / "modeling_sim" / "features"),
        help="Folder where features and parts of analyses are kept; what is in it can be deleted.",
    )
    parser.add_argument("--output_dir", default=output_dir, help="Folder for results and pictures.")
    parser.add_argument(
        "--overwrite_output_dir", action="store_true", help="Replace what this command left in `output_dir` earlier."
    )
    parser.add_argument("--figure_format", choices=FIGURE_FORMATS, default="png", help=FIGURE_FORMAT_HELP)
    return parser


def claim_output_dir(arguments: Namespace, kind: str, names: Sequence[str], pictures: Sequence[str]) -> None:
    """Makes the output folder, or refuses one with results that would be replaced.

    Call it before anything is measured. A command that ended before it wrote the last of its files may be repeated.

    Args:
        arguments: Of `measuring_parser`.
        kind: What the command writes, for messages.
        names: Files that it writes, the last one last.
        pictures: Pictures that it writes, without their endings.

    Raises:
        FileExistsError: The folder holds results of this kind and `overwrite_output_dir` is not set, or files of
            another program.
        NotADirectoryError: It is a file, or below one.
    """
    output_dir = Path(arguments.output_dir)
    drawn = [f"{picture}.{ending}" for picture in pictures for ending in FIGURE_FORMATS]
    claim_folder(
        output_dir, kind, [*names, *drawn],
        overwrite=arguments.overwrite_output_dir, resume=not (output_dir / names[-1]).exists(),
    )  # fmt: skip


def load_split(arguments: Namespace, split: str) -> Dataset:
    """A split of the corpus that the flags name."""
    settings = _corpus_settings(arguments)
    if arguments.data_dir:
        settings["data_dir"] = arguments.data_dir
    dataset: Dataset = load_corpus(arguments.corpus, split, **settings)
    return dataset


def _corpus_settings(arguments: Namespace) -> dict[str, Any]:
    settings = mapping_of("corpus_settings", arguments.corpus_settings)
    return with_dataset_name(arguments.corpus, settings, arguments.dataset_name, data_dir=arguments.data_dir)


def measured_sources(arguments: Namespace, *, sample: bool = False) -> list[Source]:
    """Log-mel and MFCC, the first model's architecture with fresh weights, then the models, in evaluation mode.

    Args:
        arguments: Of `measuring_parser`.
        sample: Samples of the latents instead of their means.
    """
    check_device(arguments.device)
    extractors = [feature_extractor_of(path) for path in arguments.model]
    models = [load_encoder(path) for path in arguments.model]
    set_seed(arguments.seed)
    untrained = SimModel(models[0].config)
    sources = [Source(SPECTRA, SpectralEncoder(), extractors[0])]
    for name, model, extractor in zip(
        [UNTRAINED, *names_of(arguments.model)], [untrained, *models], [extractors[0], *extractors], strict=True
    ):
        modules = module_numbers(model.config, arguments.modules)
        encoder = ModelEncoder(model.to(arguments.device).eval(), modules, sample=sample, seed=arguments.seed)
        sources.append(Source(name, encoder, extractor))
    return sources


def with_provenance(arguments: Namespace, results: dict[str, Any], sources: Sequence[Source]) -> dict[str, Any]:
    """Results with where they come from.

    The fingerprint of every model goes with them, by which a card knows the rows of its own.
    """
    models = names_of(arguments.model)
    corpus_settings = _corpus_settings(arguments)
    encoders = {source.name: source.encoder for source in sources}
    return {
        "corpus": arguments.corpus,
        "corpus_license": corpus_info(arguments.corpus).license,
        "corpus_settings": corpus_settings,
        "dataset_id": hub_dataset(arguments.corpus, arguments.data_dir, corpus_settings),
        "models": models,
        "fingerprints": {
            model: weights_fingerprint(encoder.model)
            for model in models
            if isinstance(encoder := encoders[model], ModelEncoder)
        },
        **results,
        "versions": versions(),
        "git": git_revision(),
    }


def feature_extractor_of(path: str) -> SequenceFeatureExtractor:
    """The feature extractor of a checkpoint.

    Raises:
        FileNotFoundError: A path that looks like a folder is none.
    """
    _check_place(path)
    return AutoFeatureExtractor.from_pretrained(path)


def control_labels(
    train: Items, test: Items, num_classes: int, *, label: str, seed: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Labels of a control task (Hewitt & Liang 2019) of the training and of the test items.

    Every speaker's classes are renamed at random, with the classes' own frequencies; what a probe reaches there it has
    by learning names by heart. `None` where there is one speaker, test speakers are not those of training, or the label
    is the speaker.
    """
    speakers = np.unique(np.concatenate([train.speakers, test.speakers]))
    if len(speakers) < 2 or not set(train.speakers) & set(test.speakers) or label == "speaker_id":
        return None
    names = np.random.default_rng(seed).choice(train.labels, size=(len(speakers), num_classes))
    train_labels, test_labels = (names[np.searchsorted(speakers, of.speakers), of.labels] for of in (train, test))
    return train_labels, test_labels


def names_of(paths: Sequence[str]) -> list[str]:
    """Names for tables: a Hub id as it is, of a folder as many of its last parts as tell it from the others."""
    resolved = [Path(path).resolve().parts if Path(path).is_dir() else (path,) for path in paths]
    longest = max(map(len, resolved))
    for count in range(1, longest + 1):
        names = ["/".join(parts[-count:]) for parts in resolved]
        if len(set(names)) == len(set(resolved)):
            return names
    return names


def check_device(name: str) -> None:
    """Refuses a device that this machine or this build of torch does not have.

    Raises:
        ValueError: The message names it.
    """
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"`device` is {name!r}, which cannot be used here ({str(error).splitlines()[0]}).") from error


def load_encoder(path: str) -> SimModel:
    """The encoder of a checkpoint, in float32 and in evaluation mode.

    Raises:
        ValueError: The checkpoint is of something else, a decoder for instance.
        FileNotFoundError: A path that looks like a folder is none.
    """
    check_encoder(path)
    return AutoModel.from_pretrained(path).float().eval()


def load_decoder(path: str) -> SimDecoder:
    """A decoder, in float32 and in evaluation mode; raises as `load_encoder`."""
    _check_kind(path, SimDecoderConfig.model_type, "a decoder")
    return AutoModel.from_pretrained(path).float().eval()


def check_encoder(path: str) -> None:
    """Refuses what is no checkpoint of an encoder, by its configuration alone; raises as `load_encoder`."""
    _check_kind(path, SimConfig.model_type, "an encoder")


def _check_kind(path: str, model_type: str, kind: str) -> None:
    _check_place(path)
    try:
        found = AutoConfig.from_pretrained(path).model_type
    except OSError as error:
        reason = " ".join(str(error).split())
        raise FileNotFoundError(
            f"{path} is no checkpoint's folder here, and no model that can be read from the Hub now: {reason}"
        ) from error
    if found != model_type:
        raise ValueError(f"{path} is a model of type {found!r}, not {kind} ({model_type!r}).")


def _check_place(path: str) -> None:
    if path.startswith(("/", ".", "~")) and not Path(path).is_dir():
        raise FileNotFoundError(f"{path} is not a folder; give a checkpoint's folder, or a Hub id as org/name.")


def load_splits(arguments: Namespace) -> dict[str, Dataset]:
    """Both splits of the corpus that the flags name, with the same class numbers.

    A warning is printed if they share recordings, or speakers unless it is speakers that are told apart.
    """
    train, test = (load_split(arguments, split) for split in ("train", "test"))
    say_shared_recordings(train, test)
    if arguments.label != "speaker_id":
        say_shared_speakers(train, test)
    return dict(zip(("train", "test"), with_same_classes(train, test), strict=True))


def with_same_classes(train: Dataset, test: Dataset) -> tuple[Dataset, Dataset]:
    """Both splits with the same names and numbers of classes in every column of classes.

    A data set whose splits were numbered each by itself would else have other classes under equal numbers. Classes of
    the test split that training lacks come last.
    """
    for column in train.column_names:
        if column not in test.column_names:
            continue
        known, other = class_label(train, column), class_label(test, column)
        if known is None or other is None or known.names == other.names:
            continue
        names = [*known.names, *(name for name in other.names if name not in known.names)]
        number = {name: names.index(name) for name in other.names}
        renumber = [number[name] for name in other.names]

        def renumbered(value: Any, renumber: list[int] = renumber) -> Any:
            if isinstance(value, list):
                return [renumbered(item) for item in value]
            return value if value is None or value < 0 else renumber[value]

        of_lists = isinstance(train.features[column], List)
        feature = List(ClassLabel(names=names)) if of_lists else ClassLabel(names=names)
        train = replace_column(train, column, train[column][:], feature)
        test = replace_column(test, column, [renumbered(value) for value in test[column][:]], feature)
    return train, test
