"""The style of all pictures, and how they are saved."""

import io
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from PIL import Image

from modeling_sim.files import replacing
from modeling_sim.text import printable

GRAY = "#666666"


# Okabe and Ito's palette without black and yellow, and colors chosen one by one as far as possible from all before, for
# readers with and without red-green blindness, on dark and light pages.
PALETTE = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5A0FFF", "#3C78FF", "#B40F2D", "#5AC369",
    "#784B69", "#FF96A5", "#1E96F0", "#782DC3",
)  # fmt: skip


_MARKERS = "osD^vP"


# Colors of a saved PNG: enough for the smooth edges of lines and letters.
_NUM_COLORS = 128


_LONGEST_NAME = 60


class Style(NamedTuple):
    """How a model is drawn."""

    color: str
    marker: str


def style_of(number: int) -> Style:
    """Style of a model by its place among those that are compared, from 0; no two of the first 84 are the same."""
    again, place = divmod(number, len(PALETTE))
    return Style(PALETTE[place], _MARKERS[(place + again) % len(_MARKERS)])


def plot_text(name: object) -> str:
    """A name as matplotlib draws it: dollar signs are no formula, and what is not printed is escaped."""
    text = printable(name)
    text = text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 3]}..."
    return text.replace("$", r"\$")


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a picture in the format of its ending; the same figure gives the same bytes.

    A PNG has few colors, which take a third of the bytes: pictures go up with every model.
    """
    drawn = io.BytesIO()
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    kind = path.suffix.removeprefix(".")
    figure.savefig(drawn, format=kind, metadata=dates.get(kind))
    with replacing(path) as temporary, temporary.open("wb") as file:
        if kind == "png":
            picture = Image.open(drawn).convert("RGB").quantize(_NUM_COLORS, dither=Image.Dither.NONE)
            picture.save(file, format="png", optimize=True)
        else:
            file.write(drawn.getvalue())
