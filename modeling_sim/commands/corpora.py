"""Lists the corpora. With `--corpus`, describes one in a table, or draws an utterance.

    modeling-sim corpora --corpus librispeech --data_dir LibriSpeech --describe --plot utterance.png
    modeling-sim corpora --corpus folder --help

The last line also describes the settings of the corpus.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modeling_sim.commands.command import command
from modeling_sim.data.corpora import corpus_info, corpus_names, load_corpus
from modeling_sim.settings import CorpusArguments, corpus_help, setting


@dataclass(kw_only=True)
class CorporaArguments(CorpusArguments):
    """The corpus and what to show."""

    # The only command that runs without a corpus.
    corpus: str | None = setting(  # type: ignore[assignment]
        None, lambda: f"{corpus_help()} Unset to list the corpora."
    )
    splits: list[str] = setting(["train", "test"], "Splits to describe.")  # noqa: RUF009 - a field
    describe: bool = setting(False, "Print a table of counts, lengths and labels; the default without `plot`.")
    plot: str | None = setting(None, "Draw an utterance of the first split to this file.")
    utterance: str | None = setting(None, "Id of the utterance to draw; unset for the first one.")
    start: float = setting(0.0, "Start of the figure in seconds.")
    seconds: float = setting(3.5, "Duration of the figure in seconds.")


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
    more = {**settings.for_loading(), "on_bad_audio": settings.on_bad_audio}
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
