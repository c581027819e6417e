"""Films of one sprite drawn on the fly, with the exact value of every generating factor in every frame.

Six factors change independently of each other. Each is a stationary Gaussian process that oscillates with its own
period: frames k apart have the correlation `0.95^k cos(2 pi k / period)`. It is mapped to a range:

| factor | range | period in frames |
| --- | --- | --- |
| shape | diamond, ellipse, rectangle, of equal area | 24 |
| x, y | center, .35 to .65 of the frame | 12, 8 |
| turn | -60 to 60 degrees | 6 |
| scale | root of the area, .25 to .42 of the frame | 4 |
| brightness | .35 to 1 of the largest value | 3 |

The periods follow from the theory (docs/theory.md). A product of factors is also a possible source, whose
autocorrelation is the product of theirs. At the offsets 1, 2, 3, 4, 6, 8 each factor is more predictable than any
product of two, and any two factors differ. With processes that only decay, either all have about the same rate and are
hard to distinguish, or the square of a slow factor is slower than a fast factor.

A film is one image in which frames are stacked vertically, so a model whose patch is a frame reads a film from top to
bottom. With `num_frames` 1 each image is a single sprite. Film i of a split only depends on the seed, the split and i.
"""

import numpy as np
from datasets import Dataset
from scipy.special import ndtr

from modeling_sim.data.corpora.contract import (
    POSITION_RATE,
    CorpusInfo,
    make_dataset,
    png,
    signal_columns,
    size_of_split,
)

_FRAME = 20

INFO = CorpusInfo(
    description="Films of a sprite with six exact factors: shape, x, y, scale, turn, brightness.",
    license="apache-2.0",
    generated=True,
    splits=("train", "test"),
    defaults={
        "preset": "sim-readable-small",
        "crop_samples": 32 * _FRAME,
        "batch_size": 32,
        "max_steps": 1200,
        "output_dir": "runs/sprites",
        "model_settings": {
            "input_kind": "patches",
            "sampling_rate": POSITION_RATE,
            "patch_size": _FRAME,
            "patch_stride": _FRAME,
            "context_size": 0,
            "conv_kernel": [[1, 1, 1]],
            "conv_stride": [[1, 1, 1]],
            "conv_padding": [[0, 0, 0]],
            "latent_size": 8,
            "kl_weight": 1.0e-2,
            "prediction_offsets": [1, 2, 3, 4, 6, 8],
        },
    },
)

SHAPES = ("diamond", "ellipse", "rectangle")
# Exponents p of |x|^p + |y|^p < 1, and the area of that curve.
_EXPONENTS, _AREAS = np.array([1.0, 2.0, 8.0]), np.array([2.0, 3.1416, 3.8997])

# Period in frames, lowest and highest value; x, y and scale relative to the frame.
FACTORS = {
    "shape": (24, 0, 3),
    "x": (12, 0.35, 0.65),
    "y": (8, 0.35, 0.65),
    "turn": (6, -60, 60),
    "scale": (4, 0.25, 0.42),
    "brightness": (3, 0.35, 1.0),
}
DAMPING = 0.95  # correlation of neighboring frames, without the oscillation

_ELONGATION = 1.7  # width over height of a sprite that is not rotated


def load(
    *, split: str = "train", num_train: int = 512, num_test: int = 128, num_frames: int = 32, seed: int = 0
) -> Dataset:
    """Draws a split.

    Args:
        split: "train" or "test".
        num_train: Films of the training split.
        num_test: Films of the test split.
        num_frames: Frames per film, of 20 by 20 pixels; 1 for single images.
        seed: Seed of all random draws.

    Raises:
        ValueError: A count is below 1, or the split is unknown.
    """
    count = size_of_split("sprites", split, num_train=num_train, num_test=num_test)
    if num_frames < 1:
        raise ValueError(f"`num_frames` is {num_frames}; give at least 1.")
    films = [_factors(np.random.default_rng([seed, split == "test", film]), num_frames) for film in range(count)]
    columns = signal_columns("image", [png(draw(film)) for film in films], [num_frames * _FRAME] * count, split)
    columns |= {name: [film[name] for film in films] for name in FACTORS}
    labels = {"speaker_id": ["unknown"]}
    if num_frames == 1:
        columns |= {name: [film[name][0] for film in films] for name in FACTORS}
        labels["shape"] = list(SHAPES)
    return make_dataset(columns, labels=labels)


def _factors(generator: np.random.Generator, num_frames: int) -> dict[str, np.ndarray]:
    """Values of every factor, each `(num_frames,)`."""
    found = {}
    for name, (period, lowest, highest) in FACTORS.items():
        process = generator.standard_normal((num_frames, 2)) @ [1, 1j]  # rotates in the complex plane
        for frame in range(1, num_frames):
            turned = DAMPING * np.exp(2j * np.pi / period) * process[frame - 1]
            process[frame] = turned + np.sqrt(1 - DAMPING**2) * process[frame]
        found[name] = lowest + (highest - lowest) * ndtr(process.real)
    found["shape"] = found["shape"].astype(np.int64)
    return found


def draw(factors: dict[str, np.ndarray]) -> np.ndarray:
    """Draws a film, `(num_frames * 20, 20)` uint8, from values of `FACTORS`, each `(num_frames,)`."""
    shape, x, y, turn, scale, brightness = (np.asarray(factors[name])[:, None, None] for name in FACTORS)
    down, right = np.mgrid[:_FRAME, :_FRAME] / _FRAME + 0.5 / _FRAME
    cosine, sine = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    along = (right - x) * cosine + (down - y) * sine
    across = (down - y) * cosine - (right - x) * sine
    half = scale / np.sqrt(_AREAS[shape])  # of an axis, so that the area is the square of the scale
    exponent, stretch = _EXPONENTS[shape], np.sqrt(_ELONGATION)
    radius = (np.abs(along / stretch) ** exponent + np.abs(across * stretch) ** exponent) ** (1 / exponent)
    edge = np.clip((half - radius) * _FRAME + 0.5, 0, 1)  # one pixel wide
    return np.round(255 * brightness * edge).astype(np.uint8).reshape(-1, _FRAME)
