"""Figures: distinguishable colors, names as text, equal bytes for equal figures."""

import itertools

import numpy as np
import pytest
from matplotlib.figure import Figure

from modeling_sim.plots import PALETTE, PALETTE_ON_DARK, plot_text, save_figure, style_of

# Machado, Oliveira & Fernandes (2009): what readers without one kind of cone see, in linear RGB.
_EYES = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


def lab(color, eyes):
    """CIE L*a*b* of a color as these eyes see it."""
    rgb = np.array([int(color[start : start + 2], 16) for start in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(_EYES[eyes]) @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(np.maximum(np.array(to_xyz) @ seen / [0.9505, 1, 1.089], 1e-4))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eyes", _EYES)
def test_colors_can_be_told_apart(eyes):
    seen = [lab(color, eyes) for color in PALETTE]
    assert min(np.linalg.norm(first - second) for first, second in itertools.combinations(seen, 2)) > 15
    assert len(PALETTE) > 10


def test_colors_on_dark_pages_are_bright_enough_and_can_be_told_apart():
    def luminance(color):
        rgb = np.array([int(color[start : start + 2], 16) for start in (1, 3, 5)]) / 255
        return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

    contrasts = [(luminance(color) + 0.05) / (luminance("#15181b") + 0.05) for color in PALETTE_ON_DARK]
    assert len(contrasts) == len(PALETTE)
    assert min(contrasts) >= 4.5  # WCAG 2.1, 1.4.3
    seen = [lab(color, "all cones") for color in PALETTE_ON_DARK]
    assert min(np.linalg.norm(first - second) for first, second in itertools.combinations(seen, 2)) > 10


def test_styles_of_many_models_differ():
    assert len({style_of(number) for number in range(84)}) == 84
    assert len({style_of(number).color for number in range(len(PALETTE))}) == len(PALETTE)


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
@pytest.mark.parametrize("name", ["$", "$\\frac$", "a$b$c", "\\$5", "\x1b[31m\n", "\udce9", "x" * 5000, "\u3042", ""])
@pytest.mark.filterwarnings("ignore:Glyph")
def test_any_name_can_be_drawn(name, ending, tmp_path):
    contents = []
    for number in range(2):
        figure = Figure(figsize=(2, 2), layout="constrained")
        figure.subplots().set_yticks([0], [plot_text(name)])
        save_figure(figure, tmp_path / f"{number}.{ending}")
        contents.append((tmp_path / f"{number}.{ending}").read_bytes())
    if ending != "svg":  # ids are random there unless a salt is given
        assert contents[0] == contents[1]
