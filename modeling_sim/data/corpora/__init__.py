"""Corpora of speech, each a `datasets.Dataset` with the columns of `modeling_sim.data.corpora.contract`.

A corpus is a module of this package with `INFO`, a `CorpusInfo`, and `load(*, split, ...)`, whose keyword arguments are
the corpus' settings.
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

_NAMES = ("artificial_speech", "folder", "hub", "librispeech", "synthetic_syllables")


_KINDS = {bool: bool, int: numbers.Integral, float: numbers.Real}


def corpus_names() -> list[str]:
    """Names that `load_corpus` knows."""
    return list(_NAMES)


def corpus_info(name: str) -> CorpusInfo:
    """What a corpus says about itself: description, license, Hub id."""
    return _corpus(name).INFO


def corpus_settings(name: str) -> list[str]:
    """Names of a corpus' settings: the keyword arguments of its `load` except the split."""
    return [argument for argument in inspect.signature(_corpus(name).load).parameters if argument != "split"]


def settings_overview() -> str:
    """The settings of every corpus by name, in one line for `--help`."""
    known = "; ".join(f"{name}: {', '.join(corpus_settings(name))}" for name in corpus_names())
    return f"Settings by corpus: {known}. `modeling-sim corpora --corpus NAME --help` explains them."


def explain_settings(name: str) -> str:
    """What the docstring of a corpus' `load` says of the corpus and of each setting, with the defaults."""
    load = _corpus(name).load
    about, _, settings = inspect.cleandoc(load.__doc__).partition("\nArgs:\n")
    settings = re.sub(r"^    split: .*\n(        .*\n)*", "", settings.partition("\n\n")[0])  # the command's own flag
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
        split: "train", "test", or what else the corpus offers.
        on_bad_audio: "raise" stops with a table of the recordings that cannot be used; "skip" leaves them out.
        bad_audio_list: Under "skip", file that the recordings left out are written to, with reasons; `None` for none.
        decode_all: Look at every sample, not at headers alone: slow, but then nothing breaks later.
        **arguments: Settings of the corpus: the keyword arguments of its `load`.

    Raises:
        ValueError: Unknown corpus, setting or split, the message names the nearest one; a setting that is missing or of
            another type; a split without utterances.
        BadAudioError: Recordings that cannot be used, under "raise".
        FileNotFoundError: A folder or list that is not there.
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
            raise ValueError(
                f"split {split!r} of {name} holds no utterance; look at the settings that divide the corpus."
            )
    return check(dataset, on_bad_audio=on_bad_audio, bad_audio_list=bad_audio_list, decode_all=decode_all)


def _corpus(name: str) -> ModuleType:
    if name not in _NAMES:
        raise ValueError(f"there is no corpus {name!r}{_nearest(name, _NAMES)}")
    return importlib.import_module(f"{__name__}.{name}")


def check_corpus_settings(name: str, settings: Mapping[str, Any]) -> None:
    """Refuses settings that a corpus does not have, or that have another type, as a YAML file may hold them.

    Raises:
        ValueError: The message names the setting, and the nearest known one.
    """
    known = corpus_settings(name)
    kinds = get_type_hints(_corpus(name).load)
    for setting, value in settings.items():
        if setting not in known:
            raise ValueError(f"corpus {name!r} has no setting {setting!r}{_nearest(setting, known)}")
        kind = kinds[setting]
        if kind in _KINDS and (not isinstance(value, _KINDS[kind]) or isinstance(value, bool) != (kind is bool)):
            raise ValueError(f"`{setting}` is {value!r}; it must be of type {kind.__name__}.")
        if kind == Sequence[str] and not isinstance(value, Sequence):
            raise ValueError(f"`{setting}` is {value!r}; it must be a list of names.")


def _nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest known word, and all of them."""
    known = sorted(known)
    return f"{nearest(word, known, cutoff=0.4)} Known: {', '.join(known)}."
