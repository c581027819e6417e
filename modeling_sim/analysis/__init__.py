"""Measures of representations, on plain arrays: nothing here knows of models, corpora or files."""

from .abx import AbxScore, abx
from .intervals import Interval, bootstrap_difference, bootstrap_interval, bootstrap_statistic
from .probes import LinearProbe, choose_l2, fit_linear_probe, fit_mlp_probe, knn_predictions

__all__ = [
    "AbxScore",
    "Interval",
    "LinearProbe",
    "abx",
    "bootstrap_difference",
    "bootstrap_interval",
    "bootstrap_statistic",
    "choose_l2",
    "fit_linear_probe",
    "fit_mlp_probe",
    "knn_predictions",
]
