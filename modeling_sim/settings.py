"""Settings: dataclasses filled from a YAML file and then from flags, and checked.

Nothing here imports torch, which takes seconds, so that a mistake is reported before it is imported.
"""

import contextlib
import math
import os
import re
import sys
from argparse import (
    SUPPRESS,
    Action,
    ArgumentError,
    ArgumentParser,
    ArgumentTypeError,
    Namespace,
    RawDescriptionHelpFormatter,
)
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.util import module_from_spec, spec_from_file_location
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers.hf_argparser import HfArgumentParser, string_to_bool

from modeling_sim.data.corpora import check_corpus_settings, corpus_info, corpus_names, explain_settings
from modeling_sim.data.corpora import corpus_settings as settings_of
from modeling_sim.files import nearest, read_json, read_text
from modeling_sim.text import in_one_line

Preset = Literal[
    "sim",
    "sim-artificial",
    "gim",
    "gim-lowe",
    "cpc",
    "sim-readable",
    "sim-small",
    "sim-readable-small",
    "gim-small",
]
"""`SimConfig.preset_names()`, repeated here because importing `SimConfig` imports torch."""

FigureFormat = Literal["png", "svg", "pdf"]
FIGURE_FORMAT_HELP = "Format of figures: png, or svg or pdf for papers."


def setting(
    default: Any, help_line: str | Callable[[], str], *, check: Callable[[str, Any], None] | None = None
) -> Any:
    """A dataclass field with a help line; each instance gets a copy of a dict or list default.

    Args:
        default: The default; `dataclasses.MISSING` for a setting that must be given.
        help_line: For `--help`; a function if the text takes time to make.
        check: Raises if a value is invalid, given the name of the setting and the value, or each value of a list. A
            command calls it before it imports torch, unless the value is `None`.
    """
    metadata = {"help": help_line, "check": check}
    if isinstance(default, (dict, list)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


# A setting that the parser reads as text, and `Mappings` converts to a mapping.
if TYPE_CHECKING:
    YamlMapping = dict[str, Any]
else:
    YamlMapping = str


# Fields that hold a mapping: a file or a flag adds to them rather than replacing them.
_MAPPINGS = ("model_settings", "corpus_settings", "objective_settings")


class Mappings:
    """Base of settings that hold mappings, which may be given as YAML text; `None` is an empty one."""

    def __post_init__(self) -> None:
        for name in _MAPPINGS:
            if hasattr(self, name):
                value = getattr(self, name)
                setattr(self, name, {} if value is None else mapping_of(name, value))


class _Loader(yaml.SafeLoader):
    """Reads 1e-3 as a number and refuses a key given twice, as YAML 1.2 does; PyYAML reads text, and the last value."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Composes a mapping; raises `yaml.YAMLError` if it has a key twice."""
        node = super().compose_mapping_node(anchor)
        keys = set()
        for key, _ in node.value:  # before `<<` adds the keys of other mappings
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in keys:
                    raise yaml.MarkedYAMLError(problem=f"key {key.value!r} is given twice", problem_mark=key.start_mark)
                keys.add((key.tag, key.value))
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("+-0123456789")
)


_REQUIRED = "(required)"


class HelpFormatter(RawDescriptionHelpFormatter):
    """Hides empty, None and False defaults, writes `~` for the home folder, keeps a description's line breaks."""

    def add_arguments(self, actions: Iterable[Action]) -> None:
        """Adds required settings before others; those of a dataclass come after the ones it inherits."""
        super().add_arguments(sorted(actions, key=lambda action: not (action.help or "").endswith(_REQUIRED)))

    def _get_help_string(self, action: Action) -> str:
        text = action.help or ""
        default = " ".join(action.default) if isinstance(action.default, list) else str(action.default)
        if action.nargs == 0 or default in ("", "{}", "None", "False", SUPPRESS):
            return text
        home = str(Path("~").expanduser())
        if default.startswith(f"{home}{os.sep}"):
            default = f"~{default.removeprefix(home)}"
        return f"{text} (default: {default.replace('%', '%%')})"


def read_settings(
    path: str | Path | None, *, as_text: bool = False, extended_by: Sequence[Path] = ()
) -> dict[str, Any]:
    """Reads a settings file on top of the file that it `extends`.

    Args:
        path: The file, or the name of a settings file of the package, with or without its folder; `None` gives `{}`.
        as_text: Return scalars as they are written, except null: YAML reads `mixed_precision: no` as false, and
            `output_dir: 007` as a number.
        extended_by: Files that extend this one; the path in `extends` is relative to the file that names it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not UTF-8 text, not YAML or holds no mapping, has a key twice, or extends itself.
    """
    if path is None:
        return {}
    if not extended_by:
        path = _found(Path(path))
    path = Path(path).resolve()
    if not path.is_file():
        if extended_by:
            raise FileNotFoundError(f"{extended_by[-1]} extends {path}, which does not exist.")
        included = sorted(file.name for file in _included())
        raise FileNotFoundError(
            f"`--config` is {path}, which does not exist{nearest(path.name, included)} The package includes "
            f"{', '.join(included)}."
        )
    if path in extended_by:
        raise ValueError(f"{path} extends itself.")
    settings = _yaml(read_text(path), str(path), as_text=as_text) or {}
    if not isinstance(settings, dict):
        raise ValueError(f"{path} must contain `key: value` lines, not a {type(settings).__name__}.")
    base = {}
    if "extends" in settings:
        extended = path.parent / str(settings.pop("extends"))
        base = read_settings(extended, as_text=as_text, extended_by=[*extended_by, path])
    return merged(base, settings)


def merged(base: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """`base` overridden by `settings`; mappings are merged."""
    mappings = {
        name: {**base.get(name, {}), **mapping_of(name, settings[name])} for name in _MAPPINGS if name in settings
    }
    return {**base, **settings, **mappings}


def _included() -> list[Path]:
    """The settings files of the package: next to this file in a wheel, in `training` in a checkout."""
    folders = (Path(__file__).parent / "configs", Path(__file__).parents[1] / "training" / "configs")
    return next((files for folder in folders if (files := list(folder.rglob("*.yaml")))), [])


def _found(path: Path) -> Path:
    """The path of an existing file, or of the settings file of the package with this name."""
    if path.is_file():
        return path
    return next((file for file in _included() if file.as_posix().endswith(f"/{path.as_posix()}")), path)


def mapping_of(name: str, value: Any) -> dict[str, Any]:
    """The value of a setting that is a mapping, from YAML text or as read from a file."""
    value = _yaml(value, f"`{name}`") if isinstance(value, str) else value
    if not isinstance(value, dict):
        raise ValueError(f"`{name}` is {value!r}; give a mapping, for example '{{key: value}}'.")
    if wrong := [key for key in value if not isinstance(key, str)]:
        raise ValueError(f"`{name}` has the key {wrong[0]!r}, which is not text; give the name of a setting.")
    return value


def _yaml(text: str, name: str, *, as_text: bool = False) -> Any:
    """Reads YAML, with errors of one line; with `as_text` the scalars of a mapping are returned as they are written."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        value = loader.construct_document(node)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date
        raise ValueError(f"{name} is not YAML: {in_one_line(error)}") from error
    if as_text and isinstance(value, dict):
        for key, item in node.value:  # includes merged mappings
            if (
                isinstance(item, yaml.ScalarNode)
                and isinstance(key, yaml.ScalarNode)
                and value.get(key.value) is not None
            ):
                value[key.value] = item.value
    return value


def as_dict(groups: Sequence[Any]) -> dict[str, Any]:
    """All settings in one dict, as in a settings file."""
    return {name: value for group in groups for name, value in asdict(group).items()}


# ---------------------------------------------------------------------- checks of values

_HUB_TIMEOUT_SECONDS = 5


def at_least(minimum: float, maximum: float = math.inf) -> Callable[[str, float], None]:
    """A check of `setting` that a number is finite, not below a minimum and not above a maximum."""

    def check(name: str, value: float) -> None:
        if not (minimum <= value <= maximum and math.isfinite(value)):
            limit = "and finite" if math.isinf(maximum) else f"and at most {maximum}"
            raise ValueError(f"`{name}` is {value}; it must be at least {minimum:g} {limit}.")

    return check


check_seed = at_least(0, 2**32 - 1)
"""A check of `setting` that a seed is in NumPy's range."""


def check_folder(name: str, value: str) -> None:
    """Checks that a folder exists.

    Raises:
        FileNotFoundError: It does not; the message names the setting.
    """
    if not Path(value).is_dir():
        raise FileNotFoundError(f"`{name}` is {value}, which is not a folder{nearest_path(value)}")


def check_sim_checkpoint(name: str, value: str) -> None:
    """Checks that a checkpoint exists and, if it is a folder, holds an encoder of this package.

    Raises:
        ValueError: The folder holds another model, for example a decoder.
    """
    check_checkpoint(name, value)
    if Path(value).is_dir() and (found := read_json(Path(value) / "config.json").get("model_type")) != "sim":
        raise ValueError(f"`{name}` is {value}, which has model type {found!r}; give an encoder ('sim').")


def check_checkpoint(name: str, value: str) -> None:
    """Checks that a checkpoint is a folder with a model, or a model in the cache or on the Hub.

    Sends one request for a model on the Hub: without a network, transformers sends six, with pauses.

    Raises:
        FileNotFoundError: It is neither; or it is the folder of an unfinished run, and the message names its newest
            checkpoint.
    """
    folder = Path(value)
    config = folder / "config.json"
    if config.is_file() or config.is_symlink():  # a broken link raises an error of its own later
        return
    if folder.is_dir():
        saved = {path.parent for path in folder.glob("checkpoint-*/config.json")}
        if not saved:
            raise FileNotFoundError(f"`{name}` is {value}, which has no config.json; give the folder of a saved model.")
        newest = max(saved, key=lambda path: (len(path.name), path.name))
        raise FileNotFoundError(
            f"`{name}` is {value}, an unfinished run, which has no config.json; give its checkpoint {newest}, or rerun "
            "the command of the run to finish it."
        )
    if value.startswith(("/", ".", "~")):
        raise FileNotFoundError(
            f"`{name}` is {value}, which is not a folder{nearest_path(value)} Give the folder of a saved model, or "
            "the id of a model on the Hub."
        )
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache  # noqa: PLC0415

    def ask() -> None:
        if not isinstance(try_to_load_from_cache(value, "config.json"), str):
            get_hf_file_metadata(hf_hub_url(value, "config.json"), timeout=_HUB_TIMEOUT_SECONDS)

    if error := _hub_error(ask):
        raise FileNotFoundError(
            f"`{name}` is {value}, which is neither a folder nor a model available on the Hub ({in_one_line(error)})"
            f"{nearest_path(value)} Give the folder of a saved model, or the id of a model on the Hub, whose first "
            "use needs network access."
        ) from error


def check_data(name: str, value: str) -> None:
    """Checks that recordings are a corpus, a file or a folder, or a data set on the Hub, whose id has a slash.

    Raises:
        FileNotFoundError: They are none of these.
    """
    if value in corpus_names():
        return
    if not Path(value).exists() and not re.fullmatch(r"\w[\w.-]*/[\w.-]+", value):
        raise FileNotFoundError(
            f"`{name}` is {value}, which is neither a file, a folder nor a corpus"
            f"{nearest_path(value, corpus_names())} The corpora are {', '.join(corpus_names())}; data sets on the Hub "
            "have ids such as 'org/name'."
        )
    check_dataset(name, value)


def check_dataset(name: str, value: str) -> None:
    """Checks that a data set is a file or a folder, or in the cache or on the Hub.

    Sends one request to the Hub: without a network, datasets sends six, with pauses.

    Raises:
        FileNotFoundError: It is none of these.
    """
    if Path(value).exists():
        return
    from huggingface_hub import HfApi  # noqa: PLC0415 - a folder does not need it

    if error := _hub_error(lambda: HfApi().dataset_info(value, timeout=_HUB_TIMEOUT_SECONDS)):
        from datasets import config  # noqa: PLC0415 - slow to import

        organization, slash, _ = value.partition("/")
        if any(Path(config.HF_DATASETS_CACHE).glob(organization + "___*" * bool(slash))):
            return
        raise FileNotFoundError(
            f"`{name}` is {value}, which is neither a file, a folder nor a data set available on the Hub "
            f"({in_one_line(error)}){nearest_path(value)}"
        ) from error


def _hub_error(ask: Callable[[], object]) -> Exception | None:
    """The error of a request to the Hub that fails: no network, no answer, no such name."""
    import httpx2  # noqa: PLC0415 - a folder does not need it
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415

    try:
        ask()
    except (httpx2.HTTPError, OSError, HFValidationError) as error:
        return error
    return None


def nearest_path(path: str, others: Iterable[str] = ()) -> str:
    """The end of an error message, which suggests the most similar path in the same folder, or word of `others`."""
    folder = Path(path).parent
    paths = [str(other) for other in folder.iterdir()] if folder.is_dir() else []
    return nearest(path, [*others, *paths], cutoff=0.8)


def chosen_numbers(names: Mapping[str, int], chosen: str, setting: str = "modules") -> list[int]:
    """Parses a selection by names: "all", or names separated by commas.

    Args:
        names: Numbers by name.
        chosen: Value of the setting.
        setting: Name of the setting in the error message.

    Raises:
        ValueError: A name is unknown.
    """
    if chosen == "all":
        return list(dict.fromkeys(names.values()))
    wanted = [name.strip() for name in chosen.split(",")]
    for name in wanted:
        if name not in names:
            raise ValueError(
                f"`{setting}` names {name!r}, which is not one of {', '.join(names)}{nearest(name, names)} Give "
                "some of them, or 'all'."
            )
    return [names[name] for name in wanted]


def check_model_settings(settings: Mapping[str, Any], preset: str | None) -> None:
    """Checks fields of `SimConfig`.

    Args:
        settings: The fields to set differently.
        preset: Preset that they change; `None` if they change a checkpoint, whose values are checked when it is read.

    Raises:
        ValueError: There is no such field, or a value is invalid.
    """
    config_class = _config_class()
    if preset is None:
        config_class.check_names(settings)
    else:
        config_class.preset(preset, **settings)


def _config_class() -> Any:
    """`SimConfig`; before torch is imported, which `PreTrainedConfig` needs, the same class on a base without it."""
    if "torch" in sys.modules:
        from modeling_sim import SimConfig  # noqa: PLC0415

        return SimConfig
    spec: Any = spec_from_file_location("configuration_sim", Path(__file__).with_name("configuration_sim.py"))
    module, bare = module_from_spec(spec), ModuleType("transformers")
    vars(bare)["PreTrainedConfig"] = _BareConfig
    sys.modules["transformers"], transformers = bare, sys.modules["transformers"]
    try:
        spec.loader.exec_module(module)
    finally:
        sys.modules["transformers"] = transformers
    return module.SimConfig


@dataclass
class _BareConfig:
    """The part of `PreTrainedConfig` that `SimConfig` needs."""

    num_labels: int = 2

    def __init_subclass__(cls) -> None:
        dataclass(cls)

    def __post_init__(self) -> None:
        pass


# ---------------------------------------------------------------------- the corpus

DEFAULT_CORPUS = "synthetic_syllables"
"""The corpus of commands that train or measure, if none is given: it needs neither files nor a network."""

CORPUS_SETTINGS_HELP = (
    "Settings of the corpus, as YAML: '{num_train: 256}'. `modeling-sim corpora --corpus NAME --help` describes them."
)


def corpus_help() -> str:
    """Help line of a corpus."""
    return f"Corpus: {', '.join(corpus_names())}."


@dataclass(kw_only=True)
class CorpusArguments(Mappings):
    """The data that a command reads."""

    corpus: str = setting(DEFAULT_CORPUS, corpus_help)
    data_dir: str | None = setting(
        None, "Folder of the corpus, for corpora that are read from disk.", check=check_folder
    )
    dataset_name: str | None = setting(
        None, "Hub id or folder of the data set, for corpora with a setting `dataset_id`."
    )
    corpus_settings: YamlMapping = setting("{}", CORPUS_SETTINGS_HELP)  # noqa: RUF009 - a field
    on_bad_audio: Literal["raise", "skip"] = setting(
        "raise", "What to do with unreadable recordings: 'raise' an error, or 'skip' and list them."
    )

    def with_dataset(self) -> dict[str, Any]:
        """`corpus_settings`, with `dataset_id` set to `dataset_name` if that is given.

        Raises:
            ValueError: The corpus has no setting `dataset_id`, or a setting or `data_dir` names a different source.
        """
        if self.dataset_name is None:
            return self.corpus_settings
        if "dataset_id" not in settings_of(self.corpus):
            able = " and ".join(name for name in corpus_names() if "dataset_id" in settings_of(name))
            raise ValueError(f"`dataset_name` cannot be used with corpus {self.corpus!r}; only {able} accept it.")
        given = self.corpus_settings.get("dataset_id", self.dataset_name)
        if given != self.dataset_name:
            raise ValueError(
                f"`dataset_name` is {self.dataset_name!r}, but `dataset_id` in `corpus_settings` is {given!r}; give "
                "only one."
            )
        if self.data_dir is not None:
            raise ValueError(
                f"`dataset_name` ({self.dataset_name!r}) and `data_dir` ({self.data_dir!r}) exclude each other; give "
                "only one."
            )
        return {**self.corpus_settings, "dataset_id": self.dataset_name}

    def for_loading(self) -> dict[str, Any]:
        """Settings of the corpus for `load_corpus`, including its folder; raises like `with_dataset`."""
        return {**self.with_dataset(), **({"data_dir": self.data_dir} if self.data_dir else {})}


# ---------------------------------------------------------------------- the command line


# Booleans of YAML 1.1 that flags do not accept.
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
        command: Name of the command in messages; the program's name if `None`.
        positional: Fields that may also be given as positional arguments, in this order; only the last one may be a
            list, which takes all remaining arguments.

    Returns:
        An instance of each class.

    Raises:
        ValueError: A key of the file or a setting of the corpus is unknown (the message suggests the closest known
            one), or the file is not YAML.
        FileNotFoundError: The file, or the one it `extends`, does not exist.
        SystemExit: A flag is unknown or its value has the wrong type.
    """
    typed = sys.argv[1:] if argv is None else argv
    argv = [_with_underscores(word) for word in typed]
    first = ArgumentParser(prog=command, add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    first.add_argument("--corpus")
    first.add_argument("--model")
    first.add_argument("--init_from")
    given = first.parse_known_args(argv)[0]
    parser = _Parser(
        classes,
        with_help=bool({"-h", "--help"} & {*argv}),
        prog=command,
        description=description,
        epilog=explain_settings(given.corpus) if given.corpus in corpus_names() else None,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    places = map(parser.usage_of, positional)
    parser.usage = " ".join(["%(prog)s", *places, "[--config FILE] [--SETTING VALUE ...]"])
    parser.add_argument("--config", default=SUPPRESS, help="YAML file of settings; flags override it.")
    parser.refuse_unknown_flags(typed)
    argv = parser.with_values_of_bools(argv)
    defaults = {field_.name: field_.default for arguments in classes for field_ in fields(arguments)}
    from_file = _on_defaults_of_corpus(read_settings(given.config, as_text=True), given, defaults)
    parser.set_defaults_of_file(from_file, defaults)
    parser.set_defaults(**{name: "{}" for name in _MAPPINGS if name in defaults})  # those of the file are added below
    needed = parser.make_optional(positional)
    *parsed, words = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True, look_for_args_file=False)
    groups = tuple(parsed[: len(classes)])  # the last one holds `config`
    by_place = parser.values_by_place(positional, words)
    for group in groups:
        for name, value in by_place.items():
            if hasattr(group, name):
                setattr(group, name, value)
        for name in needed & vars(group).keys():
            if getattr(group, name) is None:
                parser.error(f"`{name}` is missing.")
        for name in _MAPPINGS:
            if hasattr(group, name):
                setattr(group, name, {**from_file.get(name, {}), **getattr(group, name)})
        if isinstance(group, CorpusArguments) and group.corpus is not None:
            group.corpus_settings = group.with_dataset()
            check_corpus_settings(group.corpus, group.corpus_settings)
    return groups


def _on_defaults_of_corpus(from_file: dict[str, Any], given: Namespace, known: Collection[str]) -> dict[str, Any]:
    """Settings of a file on top of the corpus' suggestions, without those for the model if a checkpoint is given."""
    corpus = given.corpus or from_file.get("corpus")
    if corpus not in corpus_names():
        return from_file
    starts_from = given.model or given.init_from or from_file.get("model") or from_file.get("init_from")
    usable = set(known) - ({"preset", "model_settings"} if starts_from else set())
    suggested = {name: value for name, value in corpus_info(corpus).defaults.items() if name in usable}
    return merged(suggested, from_file)


class _Parser(HfArgumentParser):
    """Suggests the closest known word for an unknown one, and takes defaults from settings files."""

    def __init__(self, classes: Iterable[Any], *, with_help: bool, **options: Any) -> None:
        self.with_help = with_help
        super().__init__(classes, **options)

    def add_argument(self, *flags: Any, **options: Any) -> Action:
        """Adds a flag in its spelling with underscores; a help line is made only with `with_help`, if it takes time."""
        options.pop("check", None)  # from the metadata of a field
        if callable(options.get("help")):
            options["help"] = options["help"]() if self.with_help else None
        if options.get("action") == "store_false":
            options["help"] = f"Turn off `--{options['dest']}`."
        if options.get("required"):
            options["help"] = f"{options['help']} {_REQUIRED}"
        return super().add_argument(*(flag for flag in flags if "-" not in flag.lstrip("-")), **options)

    def refuse_unknown_flags(self, argv: Sequence[str]) -> None:
        """Ends the command at an unknown flag; argparse would first report a misspelled required flag as missing."""
        known = self._option_string_actions
        for flag in (word.partition("=")[0] for word in argv if word.startswith("--")):
            name = _with_underscores(flag).removeprefix("--")
            if f"--{name}" in known:
                continue
            if "--corpus_settings" in known and any(name in settings_of(corpus) for corpus in corpus_names()):
                self.error(f"unknown flag {flag}; use --corpus_settings '{{{name}: ...}}'.")
            names = [option for option in known if option.startswith("--") and option != "--help"]
            self.error(f"unknown flag {flag}{nearest(flag, names)}")

    def with_values_of_bools(self, argv: Sequence[str]) -> list[str]:
        """Writes a bool flag without a value as `--flag=true`, so that a positional argument may follow it."""
        words = []
        for word, following in pairwise([*argv, ""]):
            action = self._option_string_actions.get(word)
            is_bool_flag = action is not None and action.type is string_to_bool
            words.append(f"{word}=true" if is_bool_flag and not _is_bool(following) else word)
        return words

    def set_defaults_of_file(self, settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        """Makes the settings of a file the defaults of their flags; raises like `parse_arguments`."""
        for key, value in settings.items():
            if key not in defaults:
                raise ValueError(f"unknown key {key!r} in the settings file{nearest(str(key), list(defaults))}")
            if value is None and defaults[key] is not None:
                raise ValueError(f"`{key}` has no value in the settings file; give one or remove the key.")
            action = self._option_string_actions[f"--{key}"]
            action.required = False
            self.set_defaults(**{key: _as_flag(action, value)})

    def usage_of(self, name: str) -> str:
        """A positional argument in the usage line, in brackets if it is optional."""
        words = f"{name} [{name} ...]" if self.is_list(name) else name
        return words if self._option_string_actions[f"--{name}"].required else f"[{words}]"

    def is_list(self, name: str) -> bool:
        """Whether a setting has several values."""
        return self._option_string_actions[f"--{name}"].nargs == "+"

    def values_by_place(self, names: Sequence[str], words: Sequence[str]) -> dict[str, Any]:
        """Values of positional arguments by name; ends the command if there are too many."""
        values: list[Any] = list(words)
        if names and self.is_list(names[-1]) and len(words) >= len(names):
            values[len(names) - 1 :] = [words[len(names) - 1 :]]
        unknown = [word for word in words if word.startswith("-")] + values[len(names) :]
        if unknown:
            self.error(f"unexpected argument {unknown[0]!r}.")
        return dict(zip(names, values, strict=False))

    def make_optional(self, names: Sequence[str]) -> set[str]:
        """Makes the flags of positional arguments optional, and returns the names that still need a value."""
        flags = [self._option_string_actions[f"--{name}"] for name in names]
        needed = {flag.dest for flag in flags if flag.required}
        for flag in flags:
            flag.required = False
        return needed

    def _check_value(self, action: Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise ArgumentError(action, _no_choice(value, action.choices))


def _with_underscores(word: str) -> str:
    """A flag that may be spelled with dashes, `--data-dir=x`, as `--data_dir=x`; other words are unchanged."""
    flag, equals, value = word.partition("=")
    return f"--{flag[2:].replace('-', '_')}{equals}{value}" if word.startswith("--") else word


def _is_bool(word: str) -> bool:
    try:
        string_to_bool(word)
    except ArgumentTypeError:
        return False
    return True


def _no_choice(value: Any, choices: Iterable[Any]) -> str:
    """The end of an error message about an invalid choice."""
    words = [str(choice) for choice in choices]
    return f"{value!r} is not one of {', '.join(words)}{nearest(str(value), words)}"


@contextlib.contextmanager
def errors_in_one_line(name: str) -> Iterator[None]:
    """Ends the command with a one-line message, without a traceback, on errors that the user can fix."""
    try:
        yield
    except StrictDataclassError as error:  # its message has several indented lines
        raise SystemExit(f"{name}: {in_one_line(error)}") from error
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"{name}: {error}") from error


def _as_flag(action: Action, value: Any) -> str | list[str] | None:
    """A value of a settings file as text, so that it is converted and checked like a flag's."""
    if value is None:
        return None
    if action.nargs == "+":
        return [str(item) for item in (value if isinstance(value, list) else [value])]
    word = str(value)
    if action.type is string_to_bool:
        word = _YAML_WORDS.get(word.lower(), word)
    if action.choices is not None and word not in action.choices:
        raise ValueError(f"`{action.dest}` in the settings file: {_no_choice(word, action.choices)}")
    return word
