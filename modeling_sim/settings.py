"""Settings: dataclasses filled from a YAML file and then from flags."""

import re
from argparse import ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import asdict, field
from pathlib import Path
from typing import Any

import yaml

from modeling_sim.data.corpora import corpus_names
from modeling_sim.data.corpora import corpus_settings as settings_of


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
        included = ", ".join(sorted(file.name for file in _included()))
        raise FileNotFoundError(f"`--config` is {path}, which is not a file; the package includes {included}.")
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
