"""Measures of models: probes, ABX and the scorecard, as functions of their settings.

Example:
    >>> from modeling_sim.evaluation import ProbeArguments, probe
    >>> settings = ProbeArguments(model=["runs/sim-small"], corpus="synthetic_syllables", label="vowel")
    >>> results = probe(settings)  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from modeling_sim.evaluation.settings import AbxArguments, AnalysisArguments, ProbeArguments

if TYPE_CHECKING:
    from modeling_sim.evaluation.engine import abx, evaluate, probe
    from modeling_sim.evaluation.results import Results

_MODULES = {"Results": "results", "abx": "engine", "evaluate": "engine", "probe": "engine"}


def __getattr__(name: str) -> Any:
    """Imports the functions on first use: this takes seconds, and settings can be read without them."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


__all__ = ["AbxArguments", "AnalysisArguments", "ProbeArguments", "Results", "abx", "evaluate", "probe"]
