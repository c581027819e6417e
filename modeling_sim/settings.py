"""Settings: dataclasses filled from a YAML file and then from flags, without torch, whose import takes seconds."""

import contextlib
import re
import sys
from argparse import (
    SUPPRESS,
    Action,
    ArgumentDefaultsHelpFormatter,
    ArgumentError,
    ArgumentParser,
    ArgumentTypeError,
    RawDescriptionHelpFormatter,
)
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from modeling_sim.data.corpora import check_corpus_settings, corpus_names, explain_settings
from modeling_sim.data.corpora import corpus_settings as settings_of
from modeling_sim.files import nearest

Preset = Literal["sim", "sim-artificial", "gim", "gim-lowe", "cpc", "sim-small", "gim-small"]
"""`SimConfig.preset_names()`, which cannot be asked without torch."""

FigureFormat = Literal["png", "svg", "pdf"]
FIGURE_FORMAT_HELP = "Format of pictures: png, or svg or pdf for papers."


def setting(default: Any, help_line: str) -> Any:
    """A dataclass field with a help line; a default that is a dict or list is copied for each instance."""
    if isinstance(default, (dict, list)):
        return field(default_factory=lambda: type(default)(default), metadata={"help": help_line})
    return field(default=default, metadata={"help": help_line})


DATASET_NAME_HELP = "Data set, a Hub id or a folder, for corpora that take one: their setting `dataset_id`."


# Fields that hold a mapping: a file or a flag adds to them rather than replacing them.
_MAPPINGS = ("model_settings", "corpus_settings")


class _Loader(yaml.SafeLoader):
    """Reads 1e-3 as a number, as YAML 1.2 does; to PyYAML it is text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("+-0123456789")
)


class HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Shows defaults, and a description as it is written."""


def with_dataset_name(
    corpus: str, settings: dict[str, Any], dataset_name: str | None, *, data_dir: str | None = None
) -> dict[str, Any]:
    """The settings of a corpus with `dataset_name` as their `dataset_id`; as they are if there is none.

    Raises:
        ValueError: The corpus takes no data set, or the settings or `data_dir` say another place.
    """
    if dataset_name is None:
        return settings
    if "dataset_id" not in settings_of(corpus):
        able = [name for name in corpus_names() if "dataset_id" in settings_of(name)]
        raise ValueError(f"`dataset_name` is for the corpora {' and '.join(able)}; {corpus!r} takes no data set.")
    given = settings.get("dataset_id", dataset_name)
    if given != dataset_name:
        raise ValueError(
            f"`dataset_name` is {dataset_name!r}, and `dataset_id` in `corpus_settings` is {given!r}; give one of them."
        )
    if data_dir is not None:
        raise ValueError(
            f"`dataset_name` is {dataset_name!r}, and `data_dir` is {data_dir!r}; give the data set or the folder."
        )
    return {**settings, "dataset_id": dataset_name}


def read_settings(
    path: str | Path | None, *, as_text: bool = False, extended_by: Sequence[Path] = ()
) -> dict[str, Any]:
    """A settings file as a dict, on top of the file it `extends`, a path relative to its own folder.

    A relative path that is no file here may name a settings file of the package, with or without its folder.

    With `as_text` values are as they are written, `None` and mappings excepted: YAML reads `mixed_precision: no` as
    false, and `output_dir: 007` as a number.
    """
    if path is None:
        return {}
    if not extended_by:
        path = _found(Path(path))
    path = Path(path).resolve()
    if not path.is_file():
        if extended_by:
            raise FileNotFoundError(f"{extended_by[-1]} extends {path}, which is not a file.")
        included = sorted(file.name for file in _included())
        raise FileNotFoundError(
            f"`--config` is {path}, which is not a file{nearest(path.name, included)} The package includes "
            f"{', '.join(included)}."
        )
    if path in extended_by:
        raise ValueError(f"{path} extends itself.")
    settings = _yaml(path.read_text(encoding="utf-8-sig"), str(path), as_text=as_text) or {}
    if not isinstance(settings, dict):
        raise ValueError(f"{path} must hold `key: value` lines, not a {type(settings).__name__}.")
    base = {}
    if "extends" in settings:
        extended = path.parent / str(settings.pop("extends"))
        base = read_settings(extended, as_text=as_text, extended_by=[*extended_by, path])
    for name in _MAPPINGS:
        if name in settings:
            settings[name] = {**base.get(name, {}), **mapping_of(name, settings[name])}
    return {**base, **settings}


def _included() -> list[Path]:
    """The settings files of the package: in a wheel they lie next to this file, in a checkout in `training`."""
    folders = (Path(__file__).parent / "configs", Path(__file__).parents[1] / "training" / "configs")
    return next((files for folder in folders if (files := list(folder.rglob("*.yaml")))), [])


def _found(path: Path) -> Path:
    """The file itself, or the settings file of the package that the path names."""
    if path.is_file():
        return path
    return next((file for file in _included() if file.as_posix().endswith(f"/{path.as_posix()}")), path)


def mapping_of(name: str, value: Any) -> dict[str, Any]:
    """A setting that is a mapping, from YAML text or as read from a file."""
    value = _yaml(value, f"`{name}`") if isinstance(value, str) else value
    if not isinstance(value, dict):
        raise ValueError(f"`{name}` is {value!r}; give a mapping, as in '{{key: value}}'.")
    return value


def _yaml(text: str, name: str, *, as_text: bool = False) -> Any:
    """Reads YAML; an error is one line. With `as_text` the scalars of a mapping are as they are written."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        value = loader.construct_document(node)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that there is not
        raise ValueError(f"{name} is not YAML: {' '.join(str(error).split())}") from error
    if as_text and isinstance(value, dict):
        for key, item in node.value:  # with merged mappings in place
            if (
                isinstance(item, yaml.ScalarNode)
                and isinstance(key, yaml.ScalarNode)
                and value.get(key.value) is not None
            ):
                value[key.value] = item.value
    return value


def as_dict(groups: Sequence[Any]) -> dict[str, Any]:
    """All settings in one dict, as a settings file would hold them."""
    return {name: value for group in groups for name, value in asdict(group).items()}


# ---------------------------------------------------------------------- the command line


# Of YAML 1.1, where a flag takes true and false, yes and no.
_YAML_WORDS = {"on": "true", "off": "false"}


def parse_arguments(
    description: str,
    argv: Sequence[str] | None,
    classes: Sequence[Any],
    *,
    command: str | None = None,
    positional: Sequence[str] = (),
) -> Any:
    """Reads the settings of a command: defaults, then the file of `--config`, then the other flags.

    Args:
        description: What the command does, for `--help`.
        argv: Flags; those of the process if `None`.
        classes: Dataclasses of the settings.
        command: The command, for messages; the program's name if `None`.
        positional: Fields whose values may be given without their flags, in this order.

    Returns:
        An instance of each class.

    Raises:
        ValueError: A key of the file or a setting of the corpus is unknown, and the message names the nearest known
            one; or the file is not YAML.
        FileNotFoundError: The file, or the one it `extends`, is not there.
        SystemExit: A flag is unknown or its value has the wrong type.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    first = ArgumentParser(prog=command, add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    first.add_argument("--corpus")
    given = first.parse_known_args(argv)[0]
    parser = _Parser(
        classes,
        prog=command,
        usage=" ".join(["%(prog)s", *(f"[{name}]" for name in positional), "[--config FILE] [--SETTING VALUE ...]"]),
        description=description,
        epilog=explain_settings(given.corpus) if given.corpus in corpus_names() else None,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", default=SUPPRESS, help="YAML file of settings; flags override it.")
    parser.refuse_unknown_flags(argv)
    argv = parser.with_values_of_bools(argv)
    from_file = read_settings(given.config, as_text=True)
    defaults = {field_.name: field_.default for arguments in classes for field_ in fields(arguments)}
    parser.set_defaults_of_file(from_file, defaults)
    parser.set_defaults(**{name: "{}" for name in _MAPPINGS if name in defaults})  # the file's are added below
    needed = parser.make_optional(positional)
    parsed = parser.parse_args_into_dataclasses(args=argv, return_remaining_strings=True, look_for_args_file=False)
    groups, words = parsed[: len(classes)], parsed[-1]
    unknown = [word for word in words if word.startswith("-")] + words[len(positional) :]
    if unknown:
        parser.error(f"{unknown[0]!r} belongs to no flag.")
    for group in groups:
        for name, word in zip(positional, words, strict=False):
            if hasattr(group, name):
                setattr(group, name, word)
        for name in needed & vars(group).keys():
            if getattr(group, name) is None:
                parser.error(f"`{name}` is missing.")
        for name in _MAPPINGS:
            if hasattr(group, name):
                setattr(group, name, {**from_file.get(name, {}), **mapping_of(name, getattr(group, name))})
        if getattr(group, "corpus", None) is not None:
            group.corpus_settings = with_dataset_name(
                group.corpus, group.corpus_settings, group.dataset_name, data_dir=group.data_dir
            )
            check_corpus_settings(group.corpus, group.corpus_settings)
    return groups


class _Parser(HfArgumentParser):
    """Makes flags of the fields of dataclasses, and names the nearest word where one is unknown."""

    def refuse_unknown_flags(self, argv: Sequence[str]) -> None:
        """Ends the command at a flag that there is not, before a required one is missed that is misspelled."""
        known = self._option_string_actions
        for flag in (word.partition("=")[0] for word in argv if word.startswith("--")):
            name = flag.removeprefix("--")
            if flag in known:
                continue
            if "--corpus_settings" in known and any(name in settings_of(corpus) for corpus in corpus_names()):
                self.error(f"unknown flag {flag}; give it as --corpus_settings '{{{name}: ...}}'.")
            self.error(f"unknown flag {flag}{nearest(flag, known)}")

    def with_values_of_bools(self, argv: Sequence[str]) -> list[str]:
        """Writes a bool flag as `--flag=true` unless yes or no follows: the next word may be a positional."""
        words = []
        for word, following in pairwise([*argv, ""]):
            action = self._option_string_actions.get(word)
            is_bool_flag = action is not None and action.type is string_to_bool and action.nargs == "?"
            words.append(f"{word}=true" if is_bool_flag and not _is_bool(following) else word)
        return words

    def set_defaults_of_file(self, settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        """Makes the settings of a file the defaults of their flags; raises as `parse_arguments`."""
        for key, value in settings.items():
            if key not in defaults:
                raise ValueError(f"unknown key {key!r} in the settings file{nearest(str(key), list(defaults))}")
            if value is None and defaults[key] is not None:
                raise ValueError(f"`{key}` has no value in the settings file; give it one, or leave the key out.")
            action = self._option_string_actions[f"--{key}"]
            action.required = False
            self.set_defaults(**{key: _as_flag(action, value, is_bool=isinstance(defaults[key], bool))})

    def make_optional(self, names: Sequence[str]) -> set[str]:
        """Lets flags be missing that may be positionals, and returns those that must be given one way or the other."""
        flags = [self._option_string_actions[f"--{name}"] for name in names]
        needed = {flag.dest for flag in flags if flag.required}
        for flag in flags:
            flag.required = False
        return needed

    def _check_value(self, action: Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise ArgumentError(action, _no_choice(value, action.choices))


def _is_bool(word: str) -> bool:
    try:
        string_to_bool(word)
    except ArgumentTypeError:
        return False
    return True


def _no_choice(value: Any, choices: Iterable[Any]) -> str:
    """The end of a message about a value that is no choice."""
    words = [str(choice) for choice in choices]
    return f"{value!r} is none of {', '.join(words)}{nearest(str(value), words)}"


@contextlib.contextmanager
def errors_in_one_line(name: str) -> Iterator[None]:
    """What the user can mend ends the command with a message that says how, without a traceback."""
    try:
        yield
    except StrictDataclassError as error:  # a field of a configuration: one line instead of an indented chain
        raise SystemExit(f"{name}: {' '.join(str(error).split())}") from error
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"{name}: {error}") from error


def _as_flag(action: Action, value: Any, *, is_bool: bool) -> str | list[str] | None:
    """A value of a settings file as text, so that it is converted and refused as that of a flag is."""
    if value is None:
        return None
    if action.nargs == "+":
        return [str(item) for item in (value if isinstance(value, list) else [value])]
    word = _YAML_WORDS.get(str(value).lower(), str(value)) if is_bool else str(value)
    if action.choices is not None and word not in action.choices:
        raise ValueError(f"`{action.dest}` in the settings file: {_no_choice(word, action.choices)}")
    return word
