"""Measures of representations, on plain arrays: nothing here knows of models, corpora or files."""

from .abx import AbxScore, abx
from .dependence import TotalCorrelation, stratified_total_correlation, total_correlation
from .gaussianity import Gaussianity, gaussianity, maximum_mean_discrepancy, standardised, whitened
from .intervals import Interval, bootstrap_difference, bootstrap_interval, bootstrap_statistic
from .probes import LinearProbe, choose_l2, fit_linear_probe, fit_mlp_probe, knn_predictions

__all__ = [
    "AbxScore",
    "Gaussianity",
    "Interval",
    "LinearProbe",
    "TotalCorrelation",
    "abx",
    "bootstrap_difference",
    "bootstrap_interval",
    "bootstrap_statistic",
    "choose_l2",
    "fit_linear_probe",
    "fit_mlp_probe",
    "gaussianity",
    "knn_predictions",
    "maximum_mean_discrepancy",
    "standardised",
    "stratified_total_correlation",
    "total_correlation",
    "whitened",
]
