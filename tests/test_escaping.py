"""Names in cards are shown literally, without being interpreted as Markdown."""

import html
import re

import pytest

from modeling_sim.hub.card import card_template
from modeling_sim.hub.escaping import Markdown, code, markdown, markdown_table, python_text

HTML = ["<script>alert(1)</script>", "&lt;", "</code>"]
MARKDOWN = ["`rm`", "a|b", "$x_1$", "[a](http://b)", "![a](b)", "**a**", "_a_", "~~a~~", "\\", "\\|", "a`|\\"]
NAMES = [*HTML, *MARKDOWN, "{{ 7 * 7 }}", "http://a.org", "a\nb", "\x1b[31m", "\u202eabc", "\udce9", " a ", ""]


def plain(text):
    """What a reader sees of text that holds no Markdown."""
    return html.unescape(text)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_text_of_one_line_and_holds_no_markdown(name):
    text = markdown(name)
    assert re.sub(r"&#\d+;", "", text).isprintable()
    assert not set(re.sub(r"&#\d+;", "", text)) & set("<>[]`*|\\$~{}")
    assert not re.search(r"&(?!#)|\w://", text)
    assert plain(text).encode("utf-8").decode("unicode_escape", "ignore") is not None
    if name.isprintable():
        assert plain(text) == name
    assert markdown(text) is text


@pytest.mark.parametrize("name", NAMES)
def test_code_ends_where_the_name_does(name):
    text = code(name)
    if text.startswith("<code>"):
        inner = text.removeprefix("<code>").removesuffix("</code>")
        assert not set(inner) & set("<>`|\\[]")
    else:
        inner = text[1:-1]
        assert inner
        assert not set(inner) & set("`|\\\n")
    if name.isprintable():
        assert plain(inner) == name or text == f"`{name}`"


def test_a_table_has_the_cells_it_is_given():
    rows = [[name, code(name), Markdown("**b**")] for name in NAMES]
    lines = markdown_table(["a", "b", "c"], rows).splitlines()
    assert len(lines) == len(NAMES) + 2
    assert {len(re.findall(r"(?<!\\\\)\|", line)) for line in lines} == {4}
    assert lines[2].endswith(" **b** |")


def test_templates_escape_every_text_that_is_no_markdown(monkeypatch, tmp_path):
    (tmp_path / "t.md").write_text("{{ name }} {{ done }} {{ number }} f({{ name | python }})")
    monkeypatch.setattr("modeling_sim.hub.card._TEMPLATES", tmp_path)
    text = card_template("t.md").render(name='<b>"', done=Markdown("**b**"), number=3)
    assert text == '&#60;b&#62;" **b** 3 f("<b>\\"")'
    assert python_text("\n") == '"\\n"'
