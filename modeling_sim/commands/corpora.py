"""Looks at a corpus: `modeling-sim corpora --corpus NAME [--SETTING VALUE ...] [--describe] [--plot FILE]`."""

import argparse
import sys
from typing import Any

import yaml
from datasets import disable_progress_bars

from modeling_sim.data.corpora import corpus_info, corpus_names, corpus_settings, explain_settings, load_corpus
from modeling_sim.data.corpora.describe import describe, description_table, plot_utterance


def main(arguments: list[str] | None = None) -> None:
    """Describe or draw a corpus; without either, describe it.

    Args:
        arguments: Command line; `None` for the program's own.
    """
    parser = argparse.ArgumentParser(
        prog="modeling-sim corpora",
        description="Look at a corpus. Every setting of the corpus is an option too, as in --data_dir FOLDER; with "
        "--corpus NAME, --help explains those of the corpus.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this message and exit")
    parser.add_argument("--corpus", choices=corpus_names(), help="the corpus; without it, the corpora are listed")
    parser.add_argument("--splits", nargs="+", default=["train", "test"], help="splits to look at (default: both)")
    parser.add_argument("--describe", action="store_true", help="print a table of counts, lengths and labels")
    parser.add_argument("--plot", metavar="FILE", help="draw an utterance of the first split")
    parser.add_argument("--utterance", metavar="ID", help="which one (default: the first)")
    parser.add_argument("--start", type=float, default=0.0, help="second that the picture begins at (default: 0)")
    parser.add_argument("--seconds", type=float, default=3.5, help="seconds that the picture shows (default: 3.5)")
    parser.add_argument("--on_bad_audio", choices=["raise", "skip"], default="raise", help="stop, or leave out")
    options, others = parser.parse_known_args(arguments)
    if options.help:
        parser.epilog = None if options.corpus is None else explain_settings(options.corpus)
        parser.print_help()
        return
    if options.corpus is None:
        for name in corpus_names():
            info = corpus_info(name)
            print(f"{name:<20} {info.description} License: {info.license}.")
        return
    disable_progress_bars()
    try:
        settings = _settings(options.corpus, others) | {"on_bad_audio": options.on_bad_audio}
        datasets = {split: load_corpus(options.corpus, split, **settings) for split in options.splits}
        if options.describe or options.plot is None:
            info = corpus_info(options.corpus)
            print(f"{options.corpus}: {info.description} License: {info.license}.\n")
            print(description_table({split: describe(dataset) for split, dataset in datasets.items()}))
        if options.plot is not None:
            dataset = datasets[options.splits[0]]
            row = 0 if options.utterance is None else _row(dataset["id"], options.utterance)
            plot_utterance(dataset, row, options.plot, start=options.start, seconds=options.seconds)
    except (ValueError, OSError, yaml.YAMLError) as error:
        sys.exit(f"error: {error}")


def _settings(corpus: str, options: list[str]) -> dict[str, Any]:
    """The remaining `--SETTING VALUE` pairs, values read as YAML: numbers, true, [a, b]."""
    settings = {}
    for name, value in zip(options[::2], options[1::2], strict=False):
        settings[name.removeprefix("--")] = yaml.safe_load(value)
    if len(options) % 2 or not all(name.startswith("--") for name in options[::2]):
        raise ValueError(
            f"cannot read {' '.join(options)!r}; settings of {corpus}: {', '.join(corpus_settings(corpus))}"
        )
    if settings.get("streaming"):
        raise ValueError("a stream cannot be described before its end; remove `streaming`")
    return settings


def _row(ids: list[str], wanted: str) -> int:
    for row, name in enumerate(ids):
        if name == wanted:
            return row
    raise ValueError(f"there is no utterance {wanted!r} in this split")
