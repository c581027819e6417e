"""Formats numbers and names as text."""

import functools
import os
import sys
from pathlib import Path


def decimal(value: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """A number with a fixed count of decimals, a dash for none."""
    if value is None:
        return "-"
    return f"{value:{'+' if signed else ''}.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share in percent."""
    return "-" if value is None else f"{decimal(100 * value, digits)} %"


def points(value: float | None, digits: int = 1) -> str:
    """A difference of shares in percentage points, with its sign."""
    return "-" if value is None else f"{decimal(100 * value, digits, signed=True)} points"


def count(value: float | None) -> str:
    """An integer with separated thousands; other numbers with all of their digits."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if float(value).is_integer() else repr(value)


def printable(name: object) -> str:
    r"""A name with line ends, tabs, escape sequences and all else that is not printed escaped, as in `\n` and `\x1b`.

    Printable characters, including blanks and letters of any script, stay as they are.
    """
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in str(name))


def utf8_name(path: str | Path) -> str:
    r"""A path as text that a data set can hold; bytes that are not UTF-8 are escaped, as in `caf\xe9.wav`.

    The same in every locale, whose encoding Python reads the names of files in. An escaped name names no file.
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def say(text: str) -> None:
    """Print a line about the data, in the first process of a run alone; a terminal's encoding ends no run."""
    if os.environ.get("RANK", "0") == "0":
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


say_once = functools.cache(say)  # a corpus is read split by split, and by several parts of a program
