"""Probe and compare SIM and Greedy InfoMax on a folder of recordings and a table of labels.

    python examples/07_my_recordings.py my_speech my_speech/words.csv --label word --output_dir runs/my_recordings

The table has a row per recording: `file`, a path below the folder, `speaker`, and classes in the column of `--label`.
Without a folder, 60 synthetic vowels of four speakers and their table are written to one. The models are small and
trained for few steps, so the numbers only illustrate the procedure: use at least 1,000 steps for your own recordings.
"""

import argparse
import csv
import json
import tempfile
from pathlib import Path

import soundfile

from modeling_sim.commands import evaluate, pretrain, probe
from modeling_sim.data.audio import read_audio
from modeling_sim.data.corpora import load_corpus


def write_some_speech(folder: Path) -> Path:
    """Writes synthetic vowels to a folder, like a user's recordings, and a table of their speakers and labels."""
    vowels = load_corpus("synthetic_syllables", "train", num_train=60, num_speakers=4, num_syllables=1)
    names = vowels.features["vowel"].names
    table = folder / "words.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "speaker", "vowel"])
        for row in vowels:
            name = f"session_{row['speaker_id']}/{row['id']}.wav"
            (folder / name).parent.mkdir(exist_ok=True)
            soundfile.write(folder / name, read_audio(row["audio"]), 16000)
            rows.writerow([name, f"speaker {row['speaker_id']}", names[row["vowel"]]])
    return table


def main(folder: Path, table: Path, label: str, output_dir: Path, steps: int) -> None:
    """Trains both models, probes their modules, and writes the report."""
    settings = json.dumps({"manifest": str(table), "label_columns": label})
    corpus = ["--corpus", "folder", "--data_dir", str(folder), "--corpus_settings", settings]
    models = [output_dir / "sim", output_dir / "gim"]
    for model in models:
        batches = ["--crop_samples", "8000", "--batch_size", "8", "--max_steps", str(steps)]
        run = ["--warmup_steps", str(steps // 10), "--output_dir", str(model), "--overwrite_output_dir"]
        pretrain.main(["--preset", f"{model.name}-small", *corpus, *batches, *run])
    measured = [*corpus, "--model", *map(str, models), "--label", label, "--cache_dir", str(output_dir / "features")]
    probe.main([*measured, "--pooling", "mean", "--output_dir", str(output_dir / "probe")])
    evaluate.main([*measured, "--output_dir", str(output_dir / "report")])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="Folder of recordings; synthetic vowels if not given.")
    parser.add_argument("table", nargs="?", type=Path, help="CSV, TSV or JSONL file (default: words.csv in it).")
    parser.add_argument("--label", default="vowel", help="Column of classes to probe.")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/my_recordings"), help="Folder for the results.")
    parser.add_argument("--steps", type=int, default=40, help="Optimizer steps of each model.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, table = arguments.folder, arguments.table
        if folder is None:
            folder, table = Path(temporary), write_some_speech(Path(temporary))
        main(folder, table or folder / "words.csv", arguments.label, arguments.output_dir, arguments.steps)
