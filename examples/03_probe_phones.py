"""Predict phones from the frames of every module with a linear probe, next to the spectrum and an untrained network.

    python examples/03_probe_phones.py runs/demo

`training/probe.py` does this for any corpus and label, with intervals and pictures; this example shows its parts.
"""

import argparse
import tempfile
from pathlib import Path

from transformers import AutoFeatureExtractor, AutoModel

from modeling_sim import SimModel
from modeling_sim.analysis import bootstrap_interval, fit_linear_probe
from modeling_sim.analysis.intervals import confusions
from modeling_sim.analysis.scorecard import features_name
from modeling_sim.data.corpora import load_corpus
from modeling_sim.data.corpora.contract import label_classes
from modeling_sim.evaluation.features import extract
from modeling_sim.evaluation.representations import SimModules, Spectra


def main(checkpoint: str, num_train: int) -> None:
    """Prints the accuracy of a probe on each kind of frames of synthetic syllables."""
    extractor = AutoFeatureExtractor.from_pretrained(checkpoint)
    model = AutoModel.from_pretrained(checkpoint).eval()
    untrained = SimModel(model.config).eval()
    splits = {
        split: load_corpus("synthetic_syllables", split, num_train=num_train, num_test=32)
        for split in ("train", "test")
    }
    classes = label_classes(splits["train"], "phones")
    for representation in (
        Spectra(),
        SimModules("untrained", untrained, extractor),
        SimModules("trained", model, extractor),
    ):
        with tempfile.TemporaryDirectory() as cache:
            train, test = (
                extract(data, representation, label="phones", pooling="frame", cache_dir=Path(cache))
                for data in splits.values()
            )
            for feature in train.features:
                probe = fit_linear_probe(train.features[feature], train.labels, len(classes), l2=1e-3)
                guesses = probe.predict(test.features[feature])
                accuracy = bootstrap_interval(confusions(test.labels, guesses, test.utterances, len(classes)))
                place = representation.places()[feature]
                row = features_name(place["representation"], place["module"])
                print(f"{row:<20} {accuracy.value:6.1%}  [{accuracy.low:.1%}, {accuracy.high:.1%}]")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="Folder or Hub id of a checkpoint.")
    parser.add_argument("--num_train", type=int, default=128, help="Utterances to fit probes on.")
    arguments = parser.parse_args()
    main(arguments.checkpoint, arguments.num_train)
