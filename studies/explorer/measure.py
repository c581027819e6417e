"""How many of the explorer's labels are right, where the factors that generated the speech are known.

    python studies/explorer/measure.py studies/explorer/results/labels.json CHECKPOINT [CHECKPOINT ...]

Labels are given on the test split of `synthetic_syllables`, as the page gives them, to every dimension of every module
on its own axes, and judged on fresh utterances by the rule in `modeling_sim/explore/evidence.py`. Networks of the shape
of the first checkpoint without training get theirs in the same way.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from transformers import set_seed

from modeling_sim import SimModel
from modeling_sim.analysis import dimension_labels
from modeling_sim.explore.evidence import drawn_moments, planted_factors, properties_at, right_labels
from modeling_sim.explore.explorer import Explorer
from modeling_sim.explore.settings import ExploreArguments
from modeling_sim.files import write_json
from modeling_sim.loading import feature_extractor_of, load_encoder

_UNTRAINED, _FRESH_SEED = 2, 1


def judged(model: str, cache_dir: str) -> list[dict[str, Any]]:
    """Labels of every module, and which of them are right."""
    explorer, fresh = (
        Explorer(
            ExploreArguments(model=model, cache_dir=cache_dir, corpus_settings={} if seed is None else {"seed": seed})
        )
        for seed in (None, _FRESH_SEED)
    )
    (name,) = explorer.representations
    items = fresh.items(name)
    chosen, _ = properties_at(fresh.dataset, items, fresh.label)
    chosen = chosen[drawn_moments(len(chosen), 0)]
    factors = {factor: values[chosen] for factor, values in planted_factors(fresh.dataset, items).items()}
    rows = []
    for feature in explorer.features(name):
        evidence = explorer.evidence(name, feature)
        planted = dimension_labels(fresh.codes(name, feature)[chosen], factors)
        right = right_labels(evidence.labels, planted)
        labels = [
            {
                "dimension": dim,
                "label": evidence.words(dim),
                "right": right[dim],
                "planted": max(factors, key=lambda factor: planted.leads[factor][dim]),
            }
            for dim in evidence.order()
            if evidence.labels[dim] is not None
        ]
        rows.append({"module": feature, "dimensions": evidence.num_dims, "labels": labels})
        print(feature, *labels, sep="\n    ", flush=True)
    return rows


def main() -> None:
    """Measures and writes the result."""
    path, *checkpoints = sys.argv[1:]
    with tempfile.TemporaryDirectory() as temporary:
        trained = [
            {**row, "model": number} for number, each in enumerate(checkpoints) for row in judged(each, temporary)
        ]
        untrained, checkpoint = [], checkpoints[0]
        for seed in range(_UNTRAINED):
            set_seed(seed)
            folder = str(Path(temporary) / f"untrained-{seed}")
            SimModel(load_encoder(checkpoint).config).save_pretrained(folder)
            feature_extractor_of(checkpoint).save_pretrained(folder)
            untrained += judged(folder, temporary)
    labels = [label for row in trained for label in row["labels"]]
    write_json(
        path,
        {
            "corpus": "synthetic_syllables",
            "trained": {
                "networks": len(checkpoints),
                "dimensions": sum(row["dimensions"] for row in trained),
                "labels": len(labels),
                "right": sum(label["right"] for label in labels),
                "modules": trained,
            },
            "untrained": {
                "networks": _UNTRAINED,
                "dimensions": sum(row["dimensions"] for row in untrained),
                "labels": sum(len(row["labels"]) for row in untrained),
                "modules": untrained,
            },
        },
    )


if __name__ == "__main__":
    main()
