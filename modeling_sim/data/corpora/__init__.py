"""Corpora, each a `datasets.Dataset` with the columns of `modeling_sim.data.corpora.contract`.

A corpus is a module of this package with `INFO`, a `CorpusInfo`, and `load(*, split, ...)`, whose keyword arguments are
the settings of the corpus.
"""

import importlib
import inspect
import numbers
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_type_hints

from datasets import Dataset, IterableDataset

from modeling_sim.data.corpora.contract import CorpusInfo
from modeling_sim.data.corpora.scan import check_audio, check_streamed_audio
from modeling_sim.files import nearest

_NAMES = (
    "artificial_speech", "digits", "folder", "grammar", "hub", "librispeech", "sprites", "synthetic_syllables", "words",
)  # fmt: skip


_TYPES = {bool: bool, int: numbers.Integral, float: numbers.Real}


def corpus_names() -> list[str]:
    """Names that `load_corpus` accepts."""
    return list(_NAMES)


def corpus_info(name: str) -> CorpusInfo:
    """Description, license and Hub id of a corpus."""
    return _corpus(name).INFO


def corpus_settings(name: str) -> list[str]:
    """Names of the settings of a corpus: the keyword arguments of its `load` except `split`."""
    return [argument for argument in inspect.signature(_corpus(name).load).parameters if argument != "split"]


def settings_overview() -> str:
    """Names of the settings of every corpus, in one line for `--help`."""
    known = "; ".join(f"{name}: {', '.join(corpus_settings(name))}" for name in corpus_names())
    return f"Settings per corpus: {known}. `modeling-sim corpora --corpus NAME --help` describes them."


def explain_settings(name: str) -> str:
    """Help text of a corpus: the docstring of its `load`, with the default of each setting."""
    load = _corpus(name).load
    about, _, settings = inspect.cleandoc(load.__doc__).partition("\nArgs:\n")
    settings = re.sub(r"^    split: .*\n(        .*\n)*", "", settings.partition("\n\n")[0])  # a flag of its own
    for setting, parameter in inspect.signature(load).parameters.items():
        default = "required" if parameter.default is parameter.empty else f"default: {parameter.default!r}"
        settings = re.sub(rf"^    {setting}: ", f"  {setting} ({default}): ", settings, flags=re.MULTILINE)
    return f"Settings of the corpus {name!r}\n\n{about.partition(chr(10))[2].strip()}\n\n{settings}"


def load_corpus(
    name: str,
    split: str = "train",
    *,
    on_bad_audio: Literal["raise", "skip"] = "raise",
    bad_audio_list: str | Path | None = None,
    decode_all: bool = False,
    **arguments: Any,
) -> Dataset | IterableDataset:
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
    dataset = _corpus(name).load(split=split, **arguments)
    check: Any = check_streamed_audio
    if isinstance(dataset, Dataset):
        check = check_audio
        if len(dataset) == 0:
            raise ValueError(f"split {split!r} of {name} has no utterances; check the settings that define the splits.")
    return check(dataset, on_bad_audio=on_bad_audio, bad_audio_list=bad_audio_list, decode_all=decode_all)


def _corpus(name: str) -> ModuleType:
    if name not in _NAMES:
        raise ValueError(f"unknown corpus {name!r}{_nearest(name, _NAMES)}")
    return importlib.import_module(f"{__name__}.{name}")


def check_corpus_settings(name: str, settings: Mapping[str, Any]) -> None:
    """Checks the names and types of settings, which may come from a YAML file.

    Raises:
        ValueError: A setting is unknown or has the wrong type.
    """
    known = corpus_settings(name)
    types = get_type_hints(_corpus(name).load)
    for setting, value in settings.items():
        if setting not in known:
            raise ValueError(f"corpus {name!r} has no setting {setting!r}{_nearest(setting, known)}")
        expected = types[setting]
        if expected in _TYPES and (
            not isinstance(value, _TYPES[expected]) or isinstance(value, bool) != (expected is bool)
        ):
            raise ValueError(f"`{setting}` is {value!r}; it must be of type {expected.__name__}.")
        if expected == Sequence[str] and not isinstance(value, Sequence):
            raise ValueError(f"`{setting}` is {value!r}; it must be a list of names.")


def _nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error message: the closest known word, and all known words."""
    known = sorted(known)
    return f"{nearest(word, known, cutoff=0.4)} Known: {', '.join(known)}."
