"""Lists the corpora. With `--corpus`, describes one in a table, or draws an utterance.

    modeling-sim corpora --corpus librispeech --data_dir LibriSpeech --describe --plot utterance.png
    modeling-sim corpora --corpus folder --help

The last line also describes the settings of the corpus.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from modeling_sim.commands.command import command
from modeling_sim.data.corpora import corpus_info, corpus_names, load_corpus
from modeling_sim.settings import (
    CORPUS_SETTINGS_HELP,
    DATASET_NAME_HELP,
    ON_BAD_AUDIO_HELP,
    Mappings,
    check_folder,
    corpus_help,
    setting,
)
from modeling_sim.trainer.settings import YamlMapping


@dataclass
class CorporaArguments(Mappings):
    """The corpus and what to show."""

    corpus: str | None = setting(None, lambda: f"{corpus_help()} Unset to list the corpora.")
    data_dir: str | None = setting(
        None, "Folder of the corpus, for corpora that are read from disk.", check=check_folder
    )
    dataset_name: str | None = setting(None, DATASET_NAME_HELP)
    corpus_settings: YamlMapping = setting("{}", CORPUS_SETTINGS_HELP)  # noqa: RUF009 - a field
    splits: list[str] = setting(["train", "test"], "Splits to describe.")  # noqa: RUF009 - a field
    describe: bool = setting(False, "Print a table of counts, lengths and labels; the default without `plot`.")
    plot: str | None = setting(None, "Draw an utterance of the first split to this file.")
    utterance: str | None = setting(None, "Id of the utterance to draw; unset for the first one.")
    start: float = setting(0.0, "Start of the figure in seconds.")
    seconds: float = setting(3.5, "Duration of the figure in seconds.")
    on_bad_audio: Literal["raise", "skip"] = setting("raise", ON_BAD_AUDIO_HELP)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    with command("corpora", __doc__, argv, CorporaArguments) as (settings,):
        if settings.corpus is None:
            for name in corpus_names():
                info = corpus_info(name)
                print(f"{name:<20} {info.description} License: {info.license}.")
        else:
            look(settings.corpus, settings)


def look(name: str, settings: CorporaArguments) -> None:
    """Describes a corpus, draws an utterance of it, or both.

    Raises:
        ValueError: A setting is invalid, or the utterance does not exist.
        OSError: The corpus does not exist, or the figure cannot be written.
    """
    from datasets import disable_progress_bars  # noqa: PLC0415

    from modeling_sim.data.corpora.describe import describe, description_table, plot_utterance  # noqa: PLC0415

    disable_progress_bars()
    more = {**settings.corpus_settings, "on_bad_audio": settings.on_bad_audio}
    if settings.data_dir is not None:
        more["data_dir"] = settings.data_dir
    if more.get("streaming"):
        raise ValueError("a stream cannot be described; remove `streaming`.")
    datasets: dict[str, Any] = {}
    for split in settings.splits:
        try:
            datasets[split] = load_corpus(name, split, **more)
        except ValueError as error:
            if not datasets:
                raise
            raise ValueError(
                f"{error} To describe only the other splits, give `--splits {' '.join(datasets)}`."
            ) from error
    if settings.describe or settings.plot is None:
        info = corpus_info(name)
        print(f"{name}: {info.description} License: {info.license}.\n")
        print(description_table({split: describe(dataset) for split, dataset in datasets.items()}))
    if settings.plot is not None:
        dataset = datasets[settings.splits[0]]
        ids = list(dataset["id"])
        if settings.utterance not in (None, *ids):
            raise ValueError(f"`utterance` is {settings.utterance!r}, but split {settings.splits[0]!r} has no such id.")
        row = 0 if settings.utterance is None else ids.index(settings.utterance)
        plot_utterance(dataset, row, settings.plot, start=settings.start, seconds=settings.seconds)
