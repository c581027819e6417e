"""Whether two models have the same axes, on the test items of the label."""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from modeling_sim.analysis import LinearTransform, seed_consistency
from modeling_sim.analysis.scorecard import features_name
from modeling_sim.evaluation.axes import place_in_axes
from modeling_sim.evaluation.cache import Analysis, AnalysisParts
from modeling_sim.evaluation.representations import Representation
from modeling_sim.evaluation.settings import AXES
from modeling_sim.evaluation.task import LabelTask

# Components with this fraction of the variance are compared; the rest is noise, which never agrees.
_VARIANCE = 0.99


def measure_consistency(parts: AnalysisParts, task: LabelTask, models: Sequence[Representation]) -> None:
    """Measures matched correlations and linear agreement of each pair of models, per module and axes that both have."""
    for first, second in itertools.combinations(models, 2):
        features = [{place["module"]: (name, place) for name, place in of.places().items()} for of in (first, second)]
        for module in features[0].keys() & features[1].keys():
            sides = [(of, *found[module]) for of, found in zip((first, second), features, strict=True)]
            for axes in (None, *task.arguments.other_axes()):
                places = [place if axes is None else place_in_axes(place, axes) for _, _, place in sides]
                names = [features_name(place["representation"], module) for place in places]
                transforms = [None if axes is None else parts.analysis.transforms.get(name) for name in names]
                if axes is not None and None in transforms:
                    continue
                ending = "" if axes is None else f" + {AXES[axes]}"
                place = {
                    "kind": f"pairs of {' and '.join(dict.fromkeys([first.kind, second.kind]))}{ending}",
                    "representation": f"{first.name} & {second.name}{ending}",
                    "module": module,
                }
                key: dict[str, Any] = {"measured": "consistency", **place, "first": first.key, "second": second.key}
                key["axes_minutes"] = task.arguments.axes_minutes if axes else None
                key["variance"] = _VARIANCE if axes else None
                measure = partial(_measure, task=task, sides=sides, transforms=transforms, place=place)
                parts.add(f"consistency of {features_name(place['representation'], module)}", key, measure)


def _measure(
    analysis: Analysis,
    task: LabelTask,
    sides: Sequence[tuple[Representation, str, dict[str, str]]],
    transforms: Sequence[LinearTransform | None],
    place: dict[str, str],
) -> None:
    codes = []
    for (of, feature, _), transform in zip(sides, transforms, strict=True):
        features = np.asarray(task.items(of)[1].features[feature])
        codes.append(features if transform is None else varying_components(transform.apply(features)))
    outcome = seed_consistency(codes[0], codes[1], seed=task.arguments.seed)
    rotated = float(outcome.rotated.mean())
    analysis.add(place, "matched_correlation", outcome.matched, null=rotated)
    analysis.add(place, "linear_agreement", outcome.linear)
    null = rotated / outcome.linear if outcome.linear > 0 else None
    analysis.add(place, "axis_consistency", outcome.share, null=null)


def varying_components(components: np.ndarray) -> np.ndarray:
    """The smallest number of `(items, components)` with 99 % of the variance, in the same order."""
    variances = components.var(axis=0, dtype=np.float64)
    falling = np.argsort(-variances, kind="stable")
    count = np.searchsorted(np.cumsum(variances[falling]), _VARIANCE * variances.sum()) + 1
    return components[:, np.sort(falling[:count])]
