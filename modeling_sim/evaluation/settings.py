"""Flags and corpora of the measuring commands."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from huggingface_hub.constants import HF_HOME

from modeling_sim.data.corpora import load_corpus
from modeling_sim.data.corpora.contract import with_same_classes
from modeling_sim.data.corpora.overlap import say_shared_recordings, say_shared_speakers
from modeling_sim.plots import FIGURE_FORMAT_HELP, FIGURE_FORMATS
from modeling_sim.settings import DATASET_NAME_HELP, HelpFormatter, mapping_of, with_dataset_name
from modeling_sim.trainer.run_folder import claim_folder
from modeling_sim.trainer.settings import CORPUS_SETTINGS_HELP


def measuring_parser(description: str | None, *, output_dir: str) -> ArgumentParser:
    """A parser with the flags of every measuring command."""
    parser = ArgumentParser(description=description, formatter_class=HelpFormatter)
    parser.add_argument("--model", nargs="+", required=True, help="Checkpoints, folders or Hub ids, to compare.")
    parser.add_argument("--corpus", default="librispeech", help="A corpus of modeling_sim.data.corpora.")
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


def load_splits(arguments: Namespace) -> dict[str, Dataset]:
    """Both splits of the corpus that the flags name, with the same class numbers.

    A warning is printed if they share recordings, or speakers unless it is speakers that are told apart.
    """
    train, test = (load_split(arguments, split) for split in ("train", "test"))
    say_shared_recordings(train, test)
    if arguments.label != "speaker_id":
        say_shared_speakers(train, test)
    return dict(zip(("train", "test"), with_same_classes(train, test), strict=True))
