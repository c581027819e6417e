"""Train a small classifier on a frozen checkpoint and use it in a transformers pipeline.

    python examples/05_use_in_a_pipeline.py runs/demo

The classifier recognizes the vowel of a synthetic syllable; any class column of any corpus can be used instead.
`read_audio` also reads files, at any rate: `read_audio({"path": "speech.wav"}, sampling_rate=16000)`. Given a path
instead of an array, the pipeline needs FFmpeg.
"""

import argparse

from transformers import pipeline

import modeling_sim  # noqa: F401 - tells the Auto classes of the models
from modeling_sim.commands import finetune
from modeling_sim.data.audio import read_audio
from modeling_sim.data.corpora import load_corpus


def main(checkpoint: str, output_dir: str, steps: int) -> None:
    """Trains, and classifies three syllables that were not trained on."""
    data = ["--corpus", "synthetic_syllables", "--corpus_settings", "{num_syllables: 1}", "--crop_samples", "8000"]
    run = ["--max_steps", str(steps), "--learning_rate", "1e-2", "--output_dir", output_dir, "--overwrite_output_dir"]
    finetune.main(["--model", checkpoint, "--label", "vowel", "--freeze_encoder", *data, *run])
    classify = pipeline("audio-classification", model=output_dir, device="cpu")
    syllables = load_corpus("synthetic_syllables", "test", num_syllables=1)
    names = syllables.features["vowel"].names
    for row in syllables.select(range(3)):
        answers = classify(read_audio(row["audio"], sampling_rate=16000), top_k=2)
        guesses = ", ".join(f"{answer['label']} {answer['score']:.0%}" for answer in answers)
        print(f"spoken {names[row['vowel']]}, recognized {guesses}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="Folder or Hub id of a checkpoint.")
    parser.add_argument("--output_dir", default="runs/vowels", help="Folder for the classifier.")
    parser.add_argument("--steps", type=int, default=100, help="Optimizer steps.")
    arguments = parser.parse_args()
    main(arguments.checkpoint, arguments.output_dir, arguments.steps)
