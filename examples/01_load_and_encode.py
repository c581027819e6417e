"""Load a checkpoint and read the Gaussian latents of every module.

    python examples/01_load_and_encode.py runs/demo [speech.wav]

Without a file it encodes a second of synthetic speech.
"""

import sys

import soundfile
import soxr
import torch
from transformers import AutoFeatureExtractor, AutoModel

import modeling_sim  # noqa: F401 - tells the Auto classes of the models
from training.audio import read_audio
from training.corpora import load_corpus


def main(checkpoint: str, audio_file: str | None = None) -> None:
    """Prints what each module makes of an utterance."""
    extractor = AutoFeatureExtractor.from_pretrained(checkpoint)
    model = AutoModel.from_pretrained(checkpoint)

    if audio_file is None:
        utterance = load_corpus("synthetic_syllables", "test")[0]
        waveform = read_audio(utterance["audio"], sampling_rate=extractor.sampling_rate)
    else:
        samples, rate = soundfile.read(audio_file, dtype="float32", always_2d=True)
        waveform = soxr.resample(samples.mean(axis=1), rate, extractor.sampling_rate)

    inputs = extractor(waveform, sampling_rate=extractor.sampling_rate, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs, output_hidden_states=True)

    config = model.config
    print(f"{len(waveform) / extractor.sampling_rate:.2f} s of speech")
    for module, (name, hidden) in enumerate(zip(config.module_names, outputs.hidden_states, strict=True)):
        _, frames, channels = hidden.shape
        line = f"{name}: {frames} frames of {channels} channels, {config.frame_rate(module):g} a second"
        if outputs.log_variances is not None and module < config.num_conv_modules:
            deviation = torch.exp(0.5 * outputs.log_variances[module]).mean()
            line += f"; posterior standard deviation {deviation:.2f} on average"
        print(line)


if __name__ == "__main__":
    main(*sys.argv[1:])
