"""Corpora, each a `datasets.Dataset` with the columns of `modeling_sim.data.corpora.contract`.

A corpus is a module with `INFO`, a `CorpusInfo`, and `load(*, split, ...)`, whose keyword arguments are the settings of
the corpus. Other packages register theirs by an entry point of the group `modeling_sim.corpora`:

    [project.entry-points."modeling_sim.corpora"]
    my_corpus = "my_package.my_corpus"

The name of a corpus of this package always means that corpus. Modules of corpora are imported when they are used, as
`datasets` takes a second.
"""

import importlib
import inspect
import numbers
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from modeling_sim.files import nearest

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    from modeling_sim.data.corpora.contract import CorpusInfo

ENTRY_POINTS = "modeling_sim.corpora"
"""Group of the entry points of other packages' corpora."""

_NAMES = (
    "artificial_speech",
    "digits",
    "folder",
    "grammar",
    "hub",
    "librispeech",
    "sprites",
    "synthetic_syllables",
    "words",
)


_TYPES = {bool: bool, int: numbers.Integral, float: numbers.Real}


def corpus_names() -> list[str]:
    """Names that `load_corpus` accepts."""
    return sorted({*_NAMES, *_entry_points()})


def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def corpus_info(name: str) -> "CorpusInfo":
    """Description, license and Hub id of a corpus."""
    info: CorpusInfo = _corpus(name).INFO
    return info


def corpus_settings(name: str) -> list[str]:
    """Names of the settings of a corpus: the keyword arguments of its `load` except `split`."""
    return [argument for argument in inspect.signature(_corpus(name).load).parameters if argument != "split"]


def explain_settings(name: str) -> str:
    """Help text of a corpus: the docstring of its `load`, with defaults that are not empty."""
    load = _corpus(name).load
    about, _, settings = inspect.cleandoc(load.__doc__).partition("\nArgs:\n")
    settings = re.sub(r"^    split: .*\n(        .*\n)*", "", settings.partition("\n\n")[0])  # a flag of its own
    for setting, parameter in inspect.signature(load).parameters.items():
        if parameter.default is parameter.empty:
            note = " (required)"
        else:
            note = "" if parameter.default in (None, ()) else f" (default: {parameter.default!r})"
        settings = re.sub(rf"^    {setting}: ", f"  {setting}{note}\n        ", settings, flags=re.MULTILINE)
    return f"Settings of the corpus {name!r}\n\n{about.partition(chr(10))[2].strip()}\n\n{settings}"


def load_corpus(
    name: str,
    split: str = "train",
    *,
    on_bad_audio: Literal["raise", "skip"] = "raise",
    bad_audio_list: str | Path | None = None,
    decode_all: bool = False,
    **arguments: Any,
) -> "Dataset | IterableDataset":
    """Load a split of a corpus and check the header of every recording.

    Args:
        name: One of `corpus_names()`.
        split: "train", "test", or another split of the corpus.
        on_bad_audio: "raise" stops with a table of the unusable recordings; "skip" excludes them.
        bad_audio_list: With "skip", file that lists the skipped recordings and the reasons; `None` for none.
        decode_all: Decode every sample instead of checking headers only. Slow, but finds all errors in advance.
        **arguments: Settings of the corpus: the keyword arguments of its `load`.

    Raises:
        ValueError: The corpus, a setting or the split is unknown (the message suggests the closest known one), a
            setting is missing or has the wrong type, or the split has no utterances.
        BadAudioError: There are unusable recordings, with "raise".
        FileNotFoundError: A folder or a list does not exist.
    """
    check_corpus_settings(name, arguments)
    for parameter in inspect.signature(_corpus(name).load).parameters.values():
        if parameter.default is parameter.empty and parameter.name not in arguments:
            raise ValueError(f"corpus {name!r} needs the setting {parameter.name!r}.")
    if on_bad_audio not in ("raise", "skip"):
        raise ValueError(f"`on_bad_audio` is {on_bad_audio!r}; choose 'raise' or 'skip'.")
    from datasets import Dataset  # noqa: PLC0415 - takes a second

    from modeling_sim.data.corpora.scan import check_audio, check_streamed_audio  # noqa: PLC0415

    check_split(name, split)
    dataset = _corpus(name).load(split=split, **arguments)
    check: Any = check_streamed_audio
    if isinstance(dataset, Dataset):
        check = check_audio
        if len(dataset) == 0:
            raise ValueError(
                f"split {split!r} of corpus {name!r} has no utterances; check the settings that define the splits."
            )
    return check(dataset, on_bad_audio=on_bad_audio, bad_audio_list=bad_audio_list, decode_all=decode_all)


def _corpus(name: str) -> Any:
    """The module of a corpus, or any other object with its `INFO` and `load`."""
    if name in _NAMES:
        return importlib.import_module(f"{__name__}.{name}")
    point = _entry_points().get(name)
    if point is None:
        raise ValueError(f"unknown corpus {name!r}{_nearest(name, corpus_names())}")
    module = point.load()
    if not (hasattr(module, "INFO") and hasattr(module, "load")):
        raise ImportError(f"the entry point {name!r} of {ENTRY_POINTS} is {point.value}, which lacks `INFO` or `load`.")
    return module


def check_split(name: str, split: str) -> None:
    """Checks the name of a split, for corpora whose splits do not depend on their settings.

    Raises:
        ValueError: The corpus has no such split.
    """
    splits = corpus_info(name).splits
    if splits and split not in splits:
        raise ValueError(f"`split` is {split!r}, which corpus {name!r} does not have{_nearest(split, splits)}")


def check_corpus_settings(name: str, settings: Mapping[str, Any]) -> None:
    """Checks the names and types of settings, which may come from a YAML file.

    Raises:
        ValueError: A setting is unknown or has the wrong type.
    """
    known = corpus_settings(name)
    types = get_type_hints(_corpus(name).load)
    for setting, value in settings.items():
        if setting not in known:
            raise ValueError(f"corpus {name!r} has no setting {setting!r}{_nearest(setting, sorted(known))}")
        expected = types[setting]
        if expected in _TYPES and (
            not isinstance(value, _TYPES[expected]) or isinstance(value, bool) != (expected is bool)
        ):
            raise ValueError(f"`{setting}` is {value!r}; it must be of type {expected.__name__}.")
        if expected == Sequence[str] and not isinstance(value, Sequence):
            raise ValueError(f"`{setting}` is {value!r}; it must be a list of names.")


def _nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error message: the closest known word, and all known words."""
    return f"{nearest(word, known, cutoff=0.4)} Known: {', '.join(known)}."
