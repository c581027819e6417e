"""Measures of models: features, probes, ABX, the scorecard."""
