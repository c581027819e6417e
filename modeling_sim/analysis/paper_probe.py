"""The probes of the Smooth InfoMax paper as its code runs them, so that its rows can be compared with others.

Facts from the authors' code (github.com/fdenoodt/Smooth-InfoMax): a linear layer by Adam for some epochs on
features as they are, no standardization, no part of the training set to choose anything on; the test set is shuffled
and its last items that do not fill a batch are dropped; the layer has a bias on the context and none on a
convolutional module.

Two things of it are not repeated: phones are placed on frames by time here, where the authors drop a model's first
frames until the numbers agree; and an item is a complete utterance or a chunk of it here, where they test speakers on
one random crop per utterance.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from modeling_sim.analysis.probes import check_items
from modeling_sim.text import inner_bar


@dataclass(frozen=True)
class PaperSettings:
    """How a label's probe is trained there."""

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
    """Settings of a label; those of vowels and syllables for what the paper does not have.

    Phones are trained with one utterance per step there; a batch here has as many frames as an utterance on average.
    """
    return _SETTINGS.get(label, _SYLLABLES)


def items_tested(num_items: int, settings: PaperSettings, seed: int) -> np.ndarray:
    """Test items in the paper's manner: shuffled, and without those that do not fill the last batch, `(kept,)`."""
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
    """Classes that the paper's probe gives to queries, `(queries,)`.

    Args:
        features: `(items, channels)` to train on, not standardized.
        labels: `(items,)`.
        queries: `(queries, channels)`.
        num_classes: Classes there are.
        settings: How to train.
        bias: Whether the layer has a bias.
        seed: Seed of initialization and order.
        device: Device to compute on.

    Raises:
        ValueError: A feature or query is not finite, or labels are not those of a probe.
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
    inputs = torch.from_numpy(np.array(features, dtype=np.float32))
    targets = torch.from_numpy(labels.astype(np.int64))
    for _ in inner_bar(range(settings.epochs), desc="the paper's probe"):
        order = torch.randperm(len(inputs), generator=generator)
        full = len(order) // settings.batch_size * settings.batch_size or len(order)
        for batch in order[:full].split(settings.batch_size):
            loss = F.cross_entropy(layer(inputs[batch].to(device)), targets[batch].to(device))
            optimizer.zero_grad()
            loss.backward()
            if settings.max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(layer.parameters(), settings.max_grad_norm)
            optimizer.step()
    with torch.no_grad():
        return layer(torch.from_numpy(np.array(queries, dtype=np.float32)).to(device)).argmax(dim=1).cpu().numpy()
