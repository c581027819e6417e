"""The common style of all figures, and how they are saved."""

import io
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from PIL import Image

from modeling_sim.files import replacing
from modeling_sim.text import printable

GRAY, GRAY_ON_DARK = "#666666", "#9AA0A6"


# Okabe and Ito's palette without black and yellow, then colors chosen one by one to be as different as possible from
# the previous ones, for readers with and without red-green blindness, on dark and light pages.
PALETTE = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5A0FFF", "#3C78FF", "#B40F2D", "#5AC369",
    "#784B69", "#FF96A5", "#1E96F0", "#782DC3",
)  # fmt: skip


# The same colors for a dark page, mixed with white until they have a contrast of 4.5 with it.
PALETTE_ON_DARK = (
    "#2989BE", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#9261FF", "#3C78FF", "#CC5C70", "#5AC369",
    "#98768D", "#FF96A5", "#1E96F0", "#9E68D4",
)  # fmt: skip


_MARKERS = "osD^vP"


# Colors of a saved PNG: enough for smooth edges of lines and letters.
_NUM_COLORS = 128


_LONGEST_NAME = 60


class Style(NamedTuple):
    """Color and marker of a model."""

    color: str
    marker: str


def style_of(number: int) -> Style:
    """Style of a model by its index in a comparison; the first 84 are all different."""
    again, place = divmod(number, len(PALETTE))
    return Style(PALETTE[place], _MARKERS[(place + again) % len(_MARKERS)])


def plot_text(name: object) -> str:
    """A name for matplotlib: dollar signs and nonprintable characters are escaped, and long names are shortened."""
    text = printable(name)
    text = text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 3]}..."
    return text.replace("$", r"\$")


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure in the format of the file's extension; equal figures give equal bytes.

    A PNG is quantized to few colors, which takes a third of the bytes: figures are uploaded with every model.
    """
    drawn = io.BytesIO()
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    image_format = path.suffix.removeprefix(".")
    figure.savefig(drawn, format=image_format, metadata=dates.get(image_format))
    with replacing(path) as temporary, temporary.open("wb") as file:
        if image_format == "png":
            picture = Image.open(drawn).convert("RGB").quantize(_NUM_COLORS, dither=Image.Dither.NONE)
            picture.save(file, format="png", optimize=True)
        else:
            file.write(drawn.getvalue())
