"""Loading models to measure, and the untrained network beside them."""

from collections.abc import Sequence
from typing import NamedTuple, cast

from transformers import AutoFeatureExtractor, AutoModel, SequenceFeatureExtractor, set_seed

from modeling_sim import SimModel

UNTRAINED = "untrained"


class Source(NamedTuple):
    """A model, what makes its inputs, and its name in tables."""

    name: str
    model: SimModel
    extractor: SequenceFeatureExtractor


def load_with_untrained(paths: Sequence[str], *, device: str, seed: int) -> list[Source]:
    """The first model's architecture with fresh weights, then the models, in evaluation mode.

    Args:
        paths: Folders or Hub ids.
        device: Where to put them.
        seed: Of the fresh weights.
    """
    trained = [
        Source(
            path,
            cast("SimModel", AutoModel.from_pretrained(path).to(device).eval()),
            AutoFeatureExtractor.from_pretrained(path),
        )
        for path in paths
    ]
    set_seed(seed)
    fresh = SimModel(trained[0].model.config).to(device).eval()
    return [Source(UNTRAINED, fresh, trained[0].extractor), *trained]
