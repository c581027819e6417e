"""Measures of models: probes, ABX and the scorecard, as functions of their settings.

Example:
    >>> from modeling_sim.evaluation import ProbeArguments, probe
    >>> settings = ProbeArguments(model=["runs/sim-small"], corpus="synthetic_syllables", label="vowel")
    >>> results = probe(settings)  # doctest: +SKIP
"""

from modeling_sim.evaluation.engine import abx, evaluate, probe
from modeling_sim.evaluation.results import Results
from modeling_sim.evaluation.settings import AbxArguments, AnalysisArguments, ProbeArguments

__all__ = ["AbxArguments", "AnalysisArguments", "ProbeArguments", "Results", "abx", "evaluate", "probe"]
