"""Measure a model from Python, as in a notebook: settings go in, results come out as typed rows and as files.

    python examples/08_evaluate_in_a_notebook.py runs/demo --output_dir runs/notebook

`AbxArguments` with `abx`, and `AnalysisArguments` with `evaluate`, work the same way; the fields of the settings are
the flags of the commands.
"""

import argparse
from pathlib import Path

from modeling_sim.evaluation import ProbeArguments, probe


def main(checkpoint: str, output_dir: Path) -> None:
    """Prints how well a nearest-neighbor probe predicts the vowel from each module, and how much training adds."""
    results = probe(
        ProbeArguments(
            model=[checkpoint],
            corpus="synthetic_syllables",
            corpus_settings={"num_train": 96, "num_test": 32, "num_syllables": 1},
            label="vowel",
            probe="knn",
            output_dir=str(output_dir),
            cache_dir=str(output_dir / "features"),
            overwrite_output_dir=True,
        )
    )
    for row in results.rows:
        if row.measure == "knn_accuracy":
            print(f"{row.features:<40} {row.value:6.1%}, chance {row.null or row.value:.1%}")
    for each in results.differences:
        print(f"{each.representation} - {each.against}, {each.module}: {100 * each.value:+.1f} points")
    print(f"picture: {output_dir / 'probe.png'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="Folder or Hub id of a checkpoint.")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/notebook"), help="Folder for the results.")
    arguments = parser.parse_args()
    main(arguments.checkpoint, arguments.output_dir)
