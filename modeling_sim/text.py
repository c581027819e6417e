"""Formats numbers and names as text."""

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

from tqdm.auto import tqdm


def decimal(value: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """A number with a fixed number of decimals, never -0; a dash for `None`."""
    if value is None:
        return "-"
    return f"{value:{'+' if signed else ''}z.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction in percent."""
    return "-" if value is None else f"{decimal(100 * value, digits)} %"


def points(value: float | None, digits: int = 1) -> str:
    """A difference of fractions in percentage points, with its sign."""
    return "-" if value is None else f"{decimal(100 * value, digits, signed=True)} points"


def count(value: float | None) -> str:
    """An integer with thousands separators; other numbers with all of their digits."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if float(value).is_integer() else repr(value)


def interval(low: float | None, high: float | None, write: Callable[[float], str]) -> str:
    """The bounds of an interval; empty if they are unknown or written alike."""
    if low is None or high is None or write(low) == write(high):
        return ""
    return f"{write(low)} to {write(high)}"


def bounded(value: float | None, low: float | None, high: float | None) -> str:
    """A decimal number with its interval, if it is known: "0.19 (0.17 to 0.21)"."""
    bounds = interval(low, high, decimal)
    return decimal(value) + (f" ({bounds})" if bounds else "")


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number and what it counts, in the singular or the plural: "1 process", "1,200 utterances"."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def duration(minutes: float) -> str:
    """Hours, minutes below one hour, or seconds below one minute."""
    seconds = round(60 * minutes)
    if seconds >= 3597:  # 59.95 minutes and more are written as hours
        return f"{minutes / 60:.1f} hours"
    return f"{minutes:.1f} minutes" if seconds >= 60 else counted(seconds, "second")


def printable(name: object) -> str:
    r"""Escapes all nonprintable characters of a name, for example `\n` and `\x1b`.

    Printable characters, including spaces and letters of any script, are unchanged.
    """
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in str(name))


def in_one_line(error: BaseException) -> str:
    """The message of an error as one line of limited length, or its type if it has no message."""
    return " ".join(str(error).split())[:1000] or type(error).__name__


def utf8_name(path: str | Path) -> str:
    r"""A path as UTF-8 text, with invalid bytes escaped, for example `caf\xe9.wav`.

    The text does not depend on the locale. An escaped path cannot be opened.
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def say(text: str) -> None:
    """Prints a line about the data, only in the first process of a run; escapes what the terminal cannot encode."""
    if os.environ.get("RANK", "0") == "0":
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


say_once = functools.cache(say)  # a program may read a corpus several times


inner_bar = functools.partial(tqdm, leave=False, disable=None)
"""A progress bar below another one, on a terminal or as a notebook's widget: elsewhere text cannot move the cursor."""
