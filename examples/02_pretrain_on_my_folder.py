"""Pretrain a small Smooth InfoMax model on a folder of recordings.

    python examples/02_pretrain_on_my_folder.py my_speech --output_dir runs/mine

The folder may contain WAV, FLAC, Ogg or MP3 files of any sampling rate, in any subfolders; the name of a file's folder
is its speaker. Without a folder, the model is trained on a few synthetic utterances in a temporary folder.
"""

import argparse
import tempfile
from pathlib import Path

import soundfile

from modeling_sim.data.audio import read_audio
from modeling_sim.data.corpora import load_corpus
from modeling_sim.trainer.curves import DrawCurves
from modeling_sim.trainer.pretraining import pretrain
from modeling_sim.trainer.settings import DataArguments, ModelArguments, PretrainingArguments


def write_some_speech(folder: Path) -> None:
    """Writes synthetic utterances of two speakers to a folder, like a user's recordings."""
    for row in load_corpus("synthetic_syllables", "train", num_train=12, num_speakers=2):
        path = folder / f"speaker_{row['speaker_id']}" / f"{row['id']}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, read_audio(row["audio"]), 16000)


def main(folder: str, output_dir: str, steps: int) -> None:
    """Trains on four fifths of every speaker's recordings and scores the rest."""
    settings = {"folder_label": "speaker_id"}
    pretrain(
        ModelArguments(preset="sim-small"),
        DataArguments(corpus="folder", data_dir=folder, corpus_settings=settings, crop_samples=10240),
        PretrainingArguments(
            output_dir=output_dir, overwrite_output_dir=True, max_steps=steps, warmup_steps=steps // 10, batch_size=8
        ),
        [DrawCurves()],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", help="Folder of recordings; synthetic speech if not given.")
    parser.add_argument("--output_dir", default="runs/mine", help="Folder for the model.")
    parser.add_argument("--steps", type=int, default=200, help="Optimizer steps.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.folder is None:
            write_some_speech(Path(temporary))
        main(arguments.folder or temporary, arguments.output_dir, arguments.steps)
