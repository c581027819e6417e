"""The probes of the Smooth InfoMax paper as in its code, so that results can be compared with the paper's.

In the authors' code (github.com/fdenoodt/Smooth-InfoMax), a linear layer is trained with Adam for some epochs, without
standardization of features and without a validation set. The test set is shuffled, and the last incomplete batch is
dropped. The layer has a bias for the context, but none for a convolutional module.

There are two differences: here phones are aligned with frames by time, whereas the authors drop a model's first frames
until the numbers agree; and here an item is a complete utterance or a chunk of it, whereas they test speakers on one
random crop per utterance.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from modeling_sim.analysis.probes import check_items
from modeling_sim.text import inner_bar


@dataclass(frozen=True)
class PaperSettings:
    """Training settings of the paper's probe for a label."""

    epochs: int
    learning_rate: float
    batch_size: int
    max_grad_norm: float | None = None


_SETTINGS = {
    "speaker_id": PaperSettings(epochs=10, learning_rate=1e-3, batch_size=8, max_grad_norm=1.0),
    "phones": PaperSettings(epochs=10, learning_rate=1e-4, batch_size=1270, max_grad_norm=1.0),
}


_SYLLABLES = PaperSettings(epochs=50, learning_rate=1e-3, batch_size=64)


def paper_settings(label: str) -> PaperSettings:
    """Settings for a label; for labels that the paper does not have, those of vowels and syllables.

    The authors train phones with one utterance per step; here a batch has as many frames as an average utterance.
    """
    return _SETTINGS.get(label, _SYLLABLES)


def items_tested(num_items: int, settings: PaperSettings, seed: int) -> np.ndarray:
    """Test items as in the paper, `(kept,)`: shuffled, without an incomplete last batch."""
    kept = num_items // settings.batch_size * settings.batch_size or num_items
    return np.random.default_rng(seed).permutation(num_items)[:kept]


def paper_predictions(
    features: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    num_classes: int,
    *,
    settings: PaperSettings,
    bias: bool,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Predictions of the paper's probe, `(queries,)`.

    Args:
        features: `(items, channels)` to train on, not standardized.
        labels: `(items,)`.
        queries: `(queries, channels)`.
        num_classes: Number of classes.
        settings: Settings of the training.
        bias: Whether the layer has a bias.
        seed: Seed of the initialization and the order.
        device: Device to compute on.

    Raises:
        ValueError: A feature or query is not finite, or labels are invalid (see `check_items`).
    """
    check_items(features, labels, num_classes)
    if not np.isfinite(queries).all():
        raise ValueError("`queries` contains NaN or infinity.")
    generator = torch.Generator().manual_seed(seed)
    layer = torch.nn.Linear(features.shape[1], num_classes, bias=bias)
    torch.nn.init.xavier_normal_(layer.weight, generator=generator)
    if bias:
        torch.nn.init.zeros_(layer.bias)
    layer.to(device)
    optimizer = torch.optim.Adam(layer.parameters(), lr=settings.learning_rate)
    inputs = torch.from_numpy(np.array(features, dtype=np.float32)).to(device)
    targets = torch.from_numpy(labels.astype(np.int64)).to(device)
    for _ in inner_bar(range(settings.epochs), desc="the paper's probe"):
        order = torch.randperm(len(inputs), generator=generator).to(device)
        full = len(order) // settings.batch_size * settings.batch_size or len(order)
        for batch in order[:full].split(settings.batch_size):
            loss = F.cross_entropy(layer(inputs[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            if settings.max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(layer.parameters(), settings.max_grad_norm)
            optimizer.step()
    with torch.no_grad():
        return layer(torch.from_numpy(np.array(queries, dtype=np.float32)).to(device)).argmax(dim=1).cpu().numpy()
