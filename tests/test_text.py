"""Numbers as text."""

from unittest.mock import MagicMock

import pytest
from tqdm.notebook import tqdm_notebook

from modeling_sim.text import counted, decimal, duration, inner_bar, interval, percent


@pytest.mark.parametrize(
    ("words", "text"),
    [((1, "step"), "1 step"), ((0, "step"), "0 steps"), ((1200, "process", "processes"), "1,200 processes")],
)
def test_counts_are_in_the_singular_or_the_plural(words, text):
    assert counted(*words) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(0.5, 0.51, "50.0 % to 51.0 %"), (0.5, 0.5001, ""), (None, 0.5, ""), (0.5, None, "")],
)
def test_bounds_that_are_unknown_or_written_alike_are_not_written(low, high, text):
    assert interval(low, high, percent) == text


@pytest.mark.parametrize(
    ("minutes", "text"),
    [
        (1 / 60, "1 second"),
        (0.5, "30 seconds"),
        (0.9999, "1.0 minutes"),
        (1.25, "1.2 minutes"),
        (59.98, "1.0 hours"),
        (90, "1.5 hours"),
    ],
)
def test_a_duration_has_a_unit_of_its_size(minutes, text):
    assert duration(minutes) == text


def test_zero_has_no_minus():
    assert [decimal(-0.004), decimal(-0.004, signed=True), decimal(-0.006)] == ["0.00", "+0.00", "-0.01"]


def test_a_bar_inside_of_another_one_writes_nothing_to_a_file(capsys):
    assert list(inner_bar(range(3))) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_a_bar_inside_of_another_one_is_a_widget_in_a_notebook_whose_output_is_no_terminal(monkeypatch):
    widgets = MagicMock(children=[MagicMock() for _ in range(3)])
    monkeypatch.setattr(tqdm_notebook, "status_printer", staticmethod(lambda *_: widgets))
    assert list(tqdm_notebook(range(3), display=False, **inner_bar.keywords)) == [0, 1, 2]
    assert widgets.children[1].value == 3
