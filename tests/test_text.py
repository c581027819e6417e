"""Numbers as text."""

import pytest

from modeling_sim.text import counted


@pytest.mark.parametrize(
    ("words", "text"),
    [((1, "step"), "1 step"), ((0, "step"), "0 steps"), ((1200, "process", "processes"), "1,200 processes")],
)
def test_counts_are_in_the_singular_or_the_plural(words, text):
    assert counted(*words) == text
