"""Load a checkpoint and read the Gaussian latents of every module.

    python examples/01_load_and_encode.py runs/demo [speech.wav]

Without a file it encodes a second of synthetic speech.
"""

import argparse

import torch
from transformers import AutoFeatureExtractor, AutoModel

import modeling_sim  # noqa: F401 - tells the Auto classes of the models
from modeling_sim.data.audio import read_audio
from modeling_sim.data.corpora import load_corpus


def main(checkpoint: str, audio_file: str | None = None) -> None:
    """Prints the latents of each module for an utterance."""
    extractor = AutoFeatureExtractor.from_pretrained(checkpoint)
    model = AutoModel.from_pretrained(checkpoint)

    audio = load_corpus("synthetic_syllables", "test")[0]["audio"] if audio_file is None else {"path": audio_file}
    waveform = read_audio(audio, sampling_rate=extractor.sampling_rate)
    inputs = extractor(waveform, sampling_rate=extractor.sampling_rate, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs, output_hidden_states=True)

    config = model.config
    print(f"{len(waveform) / extractor.sampling_rate:.2f} s of speech")
    for module, (name, hidden) in enumerate(zip(config.module_names, outputs.hidden_states, strict=True)):
        _, frames, channels = hidden.shape
        line = f"{name}: {frames} frames of {channels} channels, {config.frame_rate(module):g} per second"
        if outputs.log_variances is not None and module < config.num_conv_modules:
            deviation = torch.exp(0.5 * outputs.log_variances[module]).mean()
            line += f"; posterior standard deviation {deviation:.2f} on average"
        print(line)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="Folder or Hub id of a checkpoint.")
    parser.add_argument("audio_file", nargs="?", help="An audio file of any rate; synthetic speech if not given.")
    arguments = parser.parse_args()
    try:
        main(arguments.checkpoint, arguments.audio_file)
    except (ValueError, OSError) as error:
        raise SystemExit(f"{error}") from error
