"""The measures of probes and ABX as metrics of `evaluate`, to combine with others; nothing is loaded from a network.

    from modeling_sim.analysis.metrics import GroupedAccuracy, GroupedMacroF1
    import evaluate

    metrics = evaluate.combine([GroupedAccuracy(), GroupedMacroF1()])
    metrics.compute(references=labels, predictions=predictions, groups=utterances)

It needs the extra `analysis`, and is not imported with the other measures.
"""

from typing import Any

import evaluate
import numpy as np
from datasets import Features, Sequence, Value

from .abx import abx
from .intervals import Score, accuracy, bootstrap_interval, confusions, macro_f1

_CITATION = "Efron, B. (1979). Bootstrap methods: another look at the jackknife. The Annals of Statistics 7(1)."
_INPUTS = """
Args:
    references: Class numbers, from 0.
    predictions: Class numbers.
    groups: Group of each item as text, utterance or speaker; groups are resampled for the interval.
    level: Level of the interval, 0.95 by default.
    resamples: Number of bootstrap resamples, 1000 by default.
    seed: Seed of the bootstrap, 0 by default.

Returns:
    {name}, {name}_low, {name}_high: the score and its interval; both bounds are NaN if there is only one group.
"""


class _Grouped(evaluate.Metric):
    """A classification score with a bootstrap interval over groups."""

    score_name: str
    description: str

    @staticmethod
    def score(confusion: np.ndarray) -> np.ndarray:
        """The score of `(..., classes, classes)` counts."""
        raise NotImplementedError

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.description,
            citation=_CITATION,
            inputs_description=_INPUTS.format(name=self.score_name),
            features=Features({"predictions": Value("int64"), "references": Value("int64"), "groups": Value("string")}),
        )

    def _compute(
        self,
        predictions: Any,
        references: Any,
        groups: Any,
        *,
        level: float = 0.95,
        resamples: int = 1000,
        seed: int = 0,
    ) -> dict[str, float]:
        labels, guesses = np.asarray(references), np.asarray(predictions)
        if min(labels.min(), guesses.min()) < 0:
            raise ValueError("`references` and `predictions` must be class numbers from 0; remove ignored items.")
        cells = confusions(labels, guesses, np.asarray(groups), int(max(labels.max(), guesses.max())) + 1)
        score: Score = type(self).score
        if len(cells) < 2:
            value, low, high = float(score(cells[0])), np.nan, np.nan
        else:
            interval = bootstrap_interval(cells, score, level=level, resamples=resamples, seed=seed)
            value, low, high = interval.value, interval.low, interval.high
        return {self.score_name: value, f"{self.score_name}_low": low, f"{self.score_name}_high": high}


class GroupedAccuracy(_Grouped):
    """Fraction of correct items; chance is the fraction of the most frequent class."""

    score_name = "accuracy"
    description = "Fraction of correct items, with a bootstrap interval over groups of items that are not independent."
    score = staticmethod(accuracy)


class GroupedMacroF1(_Grouped):
    """Mean F1 over the classes that occur."""

    score_name = "macro_f1"
    description = "Mean F1 of the classes that occur, with a bootstrap interval over groups of items."
    score = staticmethod(macro_f1)


class AbxError(evaluate.Metric):
    """Phone discriminability; 0.5 is chance, 0 perfect."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="ABX error: fraction of triples in which a token is closer to one of another phone.",
            citation="Schatz, T. et al. (2013). Evaluating speech features with the Minimal-Pair ABX task.",
            inputs_description=(
                "Args:\n    predictions: Frames of each token, lists of (frames, channels).\n    references: Phone of "
                "each token.\n    speakers: Speaker of each token.\n    mode: 'within' (default) or 'across' speakers."
                "\n    max_tokens, max_speakers, seed: as modeling_sim.analysis.abx.\n\nReturns:\n    abx_error"
            ),
            features=Features(
                {
                    "predictions": Sequence(Sequence(Value("float32"))),
                    "references": Value("string"),
                    "speakers": Value("string"),
                }
            ),
        )

    def _compute(self, predictions: Any, references: Any, speakers: Any, **settings: Any) -> dict[str, float]:
        segments = [np.asarray(frames, dtype=np.float32) for frames in predictions]
        return {"abx_error": abx(segments, list(references), list(speakers), **settings).error}


__all__ = ["AbxError", "GroupedAccuracy", "GroupedMacroF1"]
