"""Loading models to measure, and the untrained network beside them."""

from collections.abc import Sequence
from pathlib import Path
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
            name,
            cast("SimModel", AutoModel.from_pretrained(path).to(device).eval()),
            AutoFeatureExtractor.from_pretrained(path),
        )
        for name, path in zip(names_of(paths), paths, strict=True)
    ]
    set_seed(seed)
    fresh = SimModel(trained[0].model.config).to(device).eval()
    return [Source(UNTRAINED, fresh, trained[0].extractor), *trained]


def names_of(paths: Sequence[str]) -> list[str]:
    """Names for tables: a Hub id as it is, a folder's last part unless two share it."""
    names = [Path(path).resolve().name if Path(path).is_dir() else path for path in paths]
    return [path if names.count(name) > 1 else name for name, path in zip(names, paths, strict=True)]
