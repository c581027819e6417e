"""Train a decoder on one module, change one of its dimensions, and write the sounds.

    python examples/06_hear_one_dimension.py runs/demo --output_dir runs/heard

Writes WAV files: an utterance, its reconstruction, an interpolation to another utterance, and one dimension at five
values, and prints how pitch, level and formants change with the dimension.
"""

import argparse
from pathlib import Path

import numpy as np
import soundfile
import torch
from transformers import AutoFeatureExtractor, AutoModel

from modeling_sim.analysis.sound_properties import PROPERTIES
from modeling_sim.commands import train_decoder
from modeling_sim.data.corpora import load_corpus
from modeling_sim.evaluation.clips import traversal_changes
from modeling_sim.evaluation.models import trimmed_waveforms
from modeling_sim.latents import decode, encode, interpolate, traverse


def main(checkpoint: str, output_dir: Path, module: int, steps: int) -> None:
    """Trains the decoder on synthetic syllables, and writes decoded sounds."""
    settings = "{num_syllables: 1, num_train: 128, num_test: 16}"
    data = ["--corpus", "synthetic_syllables", "--corpus_settings", settings, "--crop_samples", "8000"]
    run = ["--max_steps", str(steps), "--output_dir", str(output_dir / "decoder"), "--overwrite_output_dir"]
    decoder = ["--module", str(module), "--architecture", "source_filter", "--loss", "stft"]
    train_decoder.main(["--model", checkpoint, *decoder, *data, *run])
    model, decoder = (AutoModel.from_pretrained(path).eval() for path in (checkpoint, output_dir / "decoder"))
    extractor = AutoFeatureExtractor.from_pretrained(checkpoint)
    syllables = load_corpus("synthetic_syllables", "test", num_syllables=1, num_train=128, num_test=16)
    _, waveforms = trimmed_waveforms(syllables, extractor)
    num_samples = waveforms.shape[1]
    latents = encode(model, waveforms, module=module)

    spread = latents.std(dim=(0, 1))
    dim = int(latents.mean(dim=1).var(dim=0).div(spread.square().clamp(min=1e-12)).argmax())
    values = latents[..., dim].mean() + spread[dim] * torch.tensor([-3.0, -1.5, 0.0, 1.5, 3.0])
    for name, clips in (
        ("spoken", waveforms[:1]),
        ("decoded", decode(decoder, latents[:1], num_samples)),
        ("way", decode(decoder, interpolate(latents[0], latents[1], steps=5), num_samples)),
        (f"dimension_{dim}", decode(decoder, traverse(latents[0], dim, values), num_samples)),
    ):
        soundfile.write(output_dir / f"{name}.wav", clips.flatten().numpy(), extractor.sampling_rate)
    print(f"wrote WAV files to {output_dir}; dimension {dim}, up by a standard deviation, changes")
    (changes,) = traversal_changes(decoder, latents[:4], spread * torch.eye(len(spread))[[dim]], num_samples)
    for name, change in zip(PROPERTIES, np.nanmedian(changes, axis=0), strict=True):
        print(f"  {name}: {change:+.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="Folder or Hub id of a checkpoint.")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/heard"), help="Folder for the files.")
    parser.add_argument("--module", type=int, default=2, help="Module to decode.")
    parser.add_argument("--steps", type=int, default=300, help="Steps of the decoder's training.")
    arguments = parser.parse_args()
    main(arguments.checkpoint, arguments.output_dir, arguments.module, arguments.steps)
