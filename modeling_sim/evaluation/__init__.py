"""Measures of models: probes, ABX and the scorecard, as functions of their settings.

Example:
    >>> from modeling_sim.evaluation import ProbeArguments, probe
    >>> settings = ProbeArguments(model=["runs/sim-small"], corpus="synthetic_syllables", label="vowel")
    >>> results = probe(settings)  # doctest: +SKIP
"""

from modeling_sim.evaluation.abx_scores import abx
from modeling_sim.evaluation.probe_scores import probe
from modeling_sim.evaluation.scorecard import evaluate
from modeling_sim.evaluation.settings import AbxArguments, AnalysisArguments, ProbeArguments

__all__ = ["AbxArguments", "AnalysisArguments", "ProbeArguments", "abx", "evaluate", "probe"]
