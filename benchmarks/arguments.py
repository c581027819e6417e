"""Types of flags that the benchmarks share, so that a wrong one is refused before measuring."""

from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path


def whole_number(minimum: int) -> Callable[[str], int]:
    """A type of integers that are not below a minimum."""

    def parse(word: str) -> int:
        if not word.isdecimal() or int(word) < minimum:
            raise ArgumentTypeError(f"{word!r} is not an integer of at least {minimum}")
        return int(word)

    return parse


def output_file(word: str) -> Path:
    """The path of a file to write, whose folder is made."""
    path = Path(word)
    if path.is_dir():
        raise ArgumentTypeError(f"{word!r} is a folder; give a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArgumentTypeError(str(error)) from error
    return path
