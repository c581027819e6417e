"""Encode audio while it arrives, and print the classes of a frame classifier.

    python examples/09_stream.py runs/phones speech.wav

The checkpoint is an output of `modeling-sim finetune` with a frame label, such as phones; see example 03 for probes.
The file is read in real time, in chunks of 20 ms, unless `--fast` is given; `--microphone` listens instead and needs
the package sounddevice. A frame is printed as soon as the last sample of its receptive field has arrived.
"""

import argparse
import time
from collections.abc import Iterator

import numpy as np
import torch
from transformers import AutoModelForAudioFrameClassification

from modeling_sim import SimStream
from modeling_sim.data.audio import read_audio
from modeling_sim.modeling_sim import SimModelOutput

CHUNK_SECONDS = 0.02


def of_file(path: str, rate: int, *, fast: bool) -> Iterator[np.ndarray]:
    """Yields chunks of a file at the speed of a microphone."""
    samples, size, begin = read_audio({"path": path}, sampling_rate=rate), int(CHUNK_SECONDS * rate), time.monotonic()
    for start in range(0, len(samples), size):
        chunk = samples[start : start + size]
        if not fast:
            time.sleep(max(0.0, begin + (start + len(chunk)) / rate - time.monotonic()))
        yield chunk


def of_microphone(rate: int) -> Iterator[np.ndarray]:
    """Chunks of the default microphone, until Ctrl-C."""
    import sounddevice  # noqa: PLC0415 - optional

    with sounddevice.InputStream(rate, channels=1, dtype="float32") as stream:
        while True:
            yield stream.read(int(CHUNK_SECONDS * rate))[0][:, 0]


def encoded(stream: SimStream, chunks: Iterator[np.ndarray]) -> Iterator[SimModelOutput]:
    """Yields the frames that each chunk completes, then the last ones, whose receptive field includes padding."""
    yield from map(stream.feed, chunks)
    yield stream.finish()


def main(checkpoint: str, audio_file: str | None, *, fast: bool, microphone: bool) -> None:
    """Prints the class of the frames whenever it changes."""
    model = AutoModelForAudioFrameClassification.from_pretrained(checkpoint).eval()
    config, stream = model.config, SimStream(model)
    name = config.module_names[model.probe_module]
    print(f"{name}: a frame is complete {stream.latency[name]:.0f} ms after the first sample of its receptive field")
    if not microphone and audio_file is None:
        raise SystemExit("give a file, or --microphone")
    rate = config.sampling_rate
    chunks = of_microphone(rate) if microphone else of_file(str(audio_file), rate, fast=fast)
    seen, said = 0, ""
    for output in encoded(stream, chunks):
        frames = output.hidden_states[model.probe_module]
        with torch.inference_mode():
            answers = model.classifier(frames)[0].argmax(dim=-1).tolist()
        for answer in answers:
            if config.id2label[answer] != said:
                said = config.id2label[answer]
                print(f"{seen / config.frame_rate(model.probe_module):7.2f} s  {said}", flush=True)
            seen += 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="Folder or Hub id of a frame classifier.")
    parser.add_argument("audio_file", nargs="?", help="An audio file of any rate.")
    parser.add_argument("--fast", action="store_true", help="Read the file as fast as it is encoded.")
    parser.add_argument("--microphone", action="store_true", help="Listen to the microphone.")
    arguments = parser.parse_args()
    main(arguments.checkpoint, arguments.audio_file, fast=arguments.fast, microphone=arguments.microphone)
