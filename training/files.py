"""Files that are written whole or not at all."""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path beside `path` to write to, and moves it there if nothing went wrong."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Writes a value as indented JSON; NaN and infinity, which JSON does not have, become null."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(finite_or_none(value), indent=2) + "\n")


def finite_or_none(value: Any) -> Any:
    """A value made of dicts, lists and numbers with every number that is not finite replaced by `None`."""
    if isinstance(value, dict):
        return {key: finite_or_none(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_or_none(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
