"""Escapes text in Markdown: names of classes, speakers, models and files are shown as they are, with any characters.

Templates of cards escape every text except `Markdown`, as templates of HTML do with `Markup`.
"""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from modeling_sim.text import printable

# Characters with a meaning in Markdown, HTML or a formula; an underscore between letters has none.
_SPECIAL = re.compile(r"[\\`*\[\]<>|&$~{}]|(?<![^\W_])_|_(?![^\W_])|(?<=\w)://")


class Markdown(str):
    """Text that is Markdown already."""

    __slots__ = ()


def markdown(text: object) -> Markdown:
    """A text as Markdown that shows it in one line; `Markdown` is returned unchanged."""
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
    """A value in a template: text is escaped, numbers are not."""
    return markdown(value) if isinstance(value, str) else value


def _entities(found: re.Match[str]) -> str:
    return "".join(f"&#{ord(letter)};" for letter in found[0])
