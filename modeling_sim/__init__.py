"""Smooth InfoMax: interpretable speech representations, with one local loss per module, on the Hugging Face stack.

Importing this package registers its models with `AutoModel` and the other Auto classes of transformers.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# The console command imports the names below on first use, so that it can report a wrong flag before importing torch,
# which takes seconds. Every other program imports them at once, which registers the Auto classes.
_program = Path((sys.argv or [""])[0]).stem
_IS_COMMAND = _program == "modeling-sim" or (_program == "-m" and "modeling_sim.cli" in sys.orig_argv)

if TYPE_CHECKING or not _IS_COMMAND:
    from modeling_sim._family import (
        SimConfig,
        SimDecoder,
        SimDecoderConfig,
        SimFeatureExtractor,
        SimForAudioFrameClassification,
        SimForPreTraining,
        SimForSequenceClassification,
        SimModel,
        info_nce,
        kl_to_standard_normal,
    )
else:

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from modeling_sim import _family  # noqa: PLC0415

        return getattr(_family, name)


__all__ = [
    "SimConfig",
    "SimDecoder",
    "SimDecoderConfig",
    "SimFeatureExtractor",
    "SimForAudioFrameClassification",
    "SimForPreTraining",
    "SimForSequenceClassification",
    "SimModel",
    "info_nce",
    "kl_to_standard_normal",
]
