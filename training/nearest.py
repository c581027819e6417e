"""The nearest known word to a mistyped one, for error messages."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """The end of an error message that names the nearest known word, if one is near.

    Args:
        word: What was given.
        known: What could have been given.
        cutoff: Least similarity, from 0 to 1, of a word that is named.
    """
    matches = difflib.get_close_matches(word, known, n=1, cutoff=cutoff)
    return f"; did you mean {matches[0]!r}?" if matches else "."
