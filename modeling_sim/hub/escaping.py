"""Text in Markdown: names of classes, speakers, models and files are shown as they are, whatever characters they have.

Cards are made of templates that escape every text but `Markdown`, as templates of pages do with `Markup`.
"""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from modeling_sim.text import printable

# What begins or ends anything in Markdown, HTML or a formula; an underscore between letters does not.
_SPECIAL = re.compile(r"[\\`*\[\]<>|&$~{}]|(?<![^\W_])_|_(?![^\W_])|(?<=\w)://")


class Markdown(str):
    """Text that is Markdown already."""

    __slots__ = ()


def markdown(text: object) -> Markdown:
    """A text as Markdown that shows it, in a line; `Markdown` as it is."""
    if isinstance(text, Markdown):
        return text
    return Markdown(_SPECIAL.sub(_entities, printable(text)))


def code(text: object) -> Markdown:
    """A text as code in a line, in tables too."""
    shown = printable(text)
    if shown.strip() == shown and shown and not re.search(r"[`|\\]", shown):
        return Markdown(f"`{shown}`")
    return Markdown(f"<code>{markdown(shown)}</code>")


def python_text(text: object) -> Markdown:
    """A text as Python writes it, for blocks of code."""
    return Markdown(json.dumps(str(text)))


def link(text: object, target: str) -> Markdown:
    """A link; the target is one of this program's or an id of the Hub."""
    return Markdown(f"[{markdown(text)}]({target})")


def markdown_table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> Markdown:
    """A table; cells that are no `Markdown` are escaped."""
    lines = [head, [Markdown("---")] * len(head), *rows]
    return Markdown("\n".join(f"| {' | '.join(map(markdown, line))} |" for line in lines))


def shown(value: Any) -> Any:
    """What a template shows of a value: texts are escaped, numbers are not."""
    return markdown(value) if isinstance(value, str) else value


def _entities(found: re.Match[str]) -> str:
    return "".join(f"&#{ord(letter)};" for letter in found[0])
