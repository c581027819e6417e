"""Measures of representations, on plain arrays: nothing here knows of models, corpora or files."""

from .abx import AbxScore, abx
from .concentration import (
    AccuracyByDimensions,
    Concentration,
    EffectiveDimensions,
    RotationGap,
    SingleBestDimension,
    accuracy_by_dimensions,
    concentration,
    effective_dimensions,
    gini,
    hoyer,
    random_rotation,
    rank_dimensions,
    rotation_gap,
    single_best_dimension,
    standardised_weights,
)
from .dependence import TotalCorrelation, stratified_total_correlation, total_correlation
from .gaussianity import Gaussianity, gaussianity, maximum_mean_discrepancy, standardised, whitened
from .intervals import Interval, bootstrap_difference, bootstrap_interval, bootstrap_statistic
from .probes import LinearProbe, choose_l2, fit_linear_probe, fit_mlp_probe, knn_predictions

__all__ = [
    "AbxScore",
    "AccuracyByDimensions",
    "Concentration",
    "EffectiveDimensions",
    "Gaussianity",
    "Interval",
    "LinearProbe",
    "RotationGap",
    "SingleBestDimension",
    "TotalCorrelation",
    "abx",
    "accuracy_by_dimensions",
    "bootstrap_difference",
    "bootstrap_interval",
    "bootstrap_statistic",
    "choose_l2",
    "concentration",
    "effective_dimensions",
    "fit_linear_probe",
    "fit_mlp_probe",
    "gaussianity",
    "gini",
    "hoyer",
    "knn_predictions",
    "maximum_mean_discrepancy",
    "random_rotation",
    "rank_dimensions",
    "rotation_gap",
    "single_best_dimension",
    "standardised",
    "standardised_weights",
    "stratified_total_correlation",
    "total_correlation",
    "whitened",
]
