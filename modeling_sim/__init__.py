"""Smooth InfoMax: interpretable representations of speech, images and text, with one local loss per module.

Importing this package registers its models with `AutoModel` and the other Auto classes of transformers.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# The console command imports the names below on first use, so that it can report a wrong flag before importing torch,
# which takes seconds. Every other program imports them at once, which registers the Auto classes.
_program = Path((sys.argv or [""])[0]).stem
_IS_COMMAND = _program == "modeling-sim" or (_program == "-m" and "modeling_sim.cli" in sys.orig_argv)

# Imported on first use: they need more packages than transformers and torch.
_LAZY = {
    "SimEmbedder": "modeling_sim.inference.embedding",
    "SimStream": "modeling_sim.inference.streaming",
    "embed": "modeling_sim.inference.embedding_files",
}

if TYPE_CHECKING:
    from modeling_sim.inference.embedding import SimEmbedder
    from modeling_sim.inference.embedding_files import embed
    from modeling_sim.inference.streaming import SimStream

if TYPE_CHECKING or not _IS_COMMAND:
    from modeling_sim._family import (
        SimConfig,
        SimDecoder,
        SimDecoderConfig,
        SimFeatureExtractor,
        SimForAudioFrameClassification,
        SimForPreTraining,
        SimForSequenceClassification,
        SimImageProcessor,
        SimModel,
        SimTokenizer,
        info_nce,
        kl_to_standard_normal,
    )


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY.get(name, "modeling_sim._family")), name)


__all__ = [
    "SimConfig",
    "SimDecoder",
    "SimDecoderConfig",
    "SimEmbedder",
    "SimFeatureExtractor",
    "SimForAudioFrameClassification",
    "SimForPreTraining",
    "SimForSequenceClassification",
    "SimImageProcessor",
    "SimModel",
    "SimStream",
    "SimTokenizer",
    "embed",
    "info_nce",
    "kl_to_standard_normal",
]
