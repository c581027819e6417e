"""Escapes text for Markdown, so that names of classes, speakers, models and files are shown literally.

Card templates escape every text except `Markdown`, like HTML templates do with `Markup`.
"""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from modeling_sim.text import printable

# Special characters of Markdown, HTML and formulas; an underscore between letters is not special.
_SPECIAL = re.compile(r"[\\`*\[\]<>|&$~{}]|(?<![^\W_])_|_(?![^\W_])|(?<=\w)://")


class Markdown(str):
    """Text that is already Markdown."""

    __slots__ = ()


def markdown(text: object) -> Markdown:
    """Escapes a text for Markdown, in one line; `Markdown` is returned unchanged."""
    if isinstance(text, Markdown):
        return text
    return Markdown(_SPECIAL.sub(_entities, printable(text)))


def code(text: object) -> Markdown:
    """A text as inline code, also valid in tables."""
    shown = printable(text)
    if shown.strip() == shown and shown and not re.search(r"[`|\\]", shown):
        return Markdown(f"`{shown}`")
    return Markdown(f"<code>{markdown(shown)}</code>")


def python_text(text: object) -> Markdown:
    """A text as a Python string, for blocks of code."""
    return Markdown(json.dumps(str(text)))


def link(text: object, target: str) -> Markdown:
    """A link; the target is not escaped."""
    return Markdown(f"[{markdown(text)}]({target})")


def markdown_table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> Markdown:
    """A table; cells that are not `Markdown` are escaped."""
    lines = [head, [Markdown("---")] * len(head), *rows]
    return Markdown("\n".join(f"| {' | '.join(map(markdown, line))} |" for line in lines))


def shown(value: Any) -> Any:
    """Escapes a value in a template if it is text."""
    return markdown(value) if isinstance(value, str) else value


def _entities(found: re.Match[str]) -> str:
    return "".join(f"&#{ord(letter)};" for letter in found[0])
