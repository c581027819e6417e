"""Times encoding: seconds of audio per second, next to wav2vec2-base, and a stream's time per chunk.

    python benchmarks/encoding.py --output benchmarks/results/encoding.json

"encoder" is the plain `SimModel`, "folded" the encoder that `modeling-sim embed` uses for the context (see
`inference/folding.py`), "call" a `SimEmbedder` on one file, and "embed" the command's function on a folder of 16 files
of the same length, from the search for files to the written result. wav2vec2-base has random weights, because time does
not depend on them. All are timed in turn, in one process, dtype by dtype, so that changes of the machine's speed affect
them equally; quote the ratios, which are medians over rounds. `--threads` sets torch's threads; with one thread CPU
time is measured, with more threads wall-clock time, for which nothing else should run on the machine.

The stream gets chunks of 20 ms of one microphone. The tail is the time of the slowest chunks.
"""

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import soundfile
import torch
from transformers import Wav2Vec2Config, Wav2Vec2Model

from benchmarks.arguments import output_file, whole_number
from modeling_sim import SimConfig, SimEmbedder, SimModel, SimStream, embed
from modeling_sim.files import write_json
from modeling_sim.inference.folding import fold
from modeling_sim.provenance import versions
from modeling_sim.settings import HelpFormatter

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_RATE, _CHUNK_MS, _FILES = 16_000, 20, 16
_WARM_UP_CHUNKS = 10


def in_turn(steps: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every step, round by round; the first round warms up.

    With one thread it is CPU time, on which other programs have little effect.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(rounds + 1):
        for name, step in steps.items():
            begin = clock()
            step()
            if round_:
                times[name].append(clock() - begin)
    return times


@torch.inference_mode()
def encoding(preset: str, dtype: str, batch_size: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Seconds of audio per second of each encoder, and ratios to wav2vec2-base."""
    torch.manual_seed(0)
    recordings = torch.randn(_FILES, int(seconds * _RATE)) / 10
    waveforms = recordings[:batch_size]
    cast = waveforms.to(_DTYPES[dtype])
    plain = SimModel(SimConfig.preset(preset)).eval()
    folded = fold(plain, plain.config.num_modules - 1, dtype=_DTYPES[dtype])
    embedder = SimEmbedder(plain, pool="mean", device="cpu", precision=dtype)  # type: ignore[arg-type]
    other = Wav2Vec2Model(Wav2Vec2Config()).eval().to(_DTYPES[dtype])
    plain = plain.to(_DTYPES[dtype])
    with tempfile.TemporaryDirectory() as folder:
        for number, waveform in enumerate(recordings):
            soundfile.write(f"{folder}/{number}.flac", waveform.clamp(-1, 1).numpy(), _RATE)

        def embedded() -> None:
            with tempfile.TemporaryDirectory() as out:
                embed(embedder, folder, out, batch_size=batch_size)

        steps: dict[str, Callable[[], Any]] = {
            "wav2vec2-base": lambda: other(cast),
            "encoder": lambda: plain(cast),
            "folded": lambda: folded(waveforms),
            "call": lambda: embedder(f"{folder}/0.flac"),
            "embed": embedded,
        }
        amounts = dict.fromkeys(steps, batch_size * seconds) | {"call": seconds, "embed": _FILES * seconds}
        times = {name: [time_ / amounts[name] for time_ in own] for name, own in in_turn(steps, rounds).items()}
    ratios = {
        name: statistics.median(a / b for a, b in zip(times["wav2vec2-base"], own, strict=True))
        for name, own in times.items()
    }
    to_folded = statistics.median(a / b for a, b in zip(times["folded"], times["embed"], strict=True))
    return {
        "preset": preset,
        "dtype": dtype,
        "threads": torch.get_num_threads(),
        "batch_size": batch_size,
        "seconds": seconds,
        "audio_seconds_per_second": {name: 1 / statistics.median(own) for name, own in times.items()},
        "times_wav2vec2_base": ratios,
        "embed_to_folded": to_folded,
    }


def streaming(preset: str, num_chunks: int) -> dict[str, Any]:
    """Wall-clock time and CPU time per chunk of 20 ms, in milliseconds."""
    stream = SimStream(SimModel(SimConfig.preset(preset)))
    chunk = torch.randn(_RATE * _CHUNK_MS // 1000) / 10
    clock, processor = [], []
    for _ in range(_WARM_UP_CHUNKS + num_chunks):
        begin, begin_processor = time.perf_counter(), time.process_time()
        stream.feed(chunk)
        clock.append(1000 * (time.perf_counter() - begin))
        processor.append(1000 * (time.process_time() - begin_processor))
    result: dict[str, Any] = {
        "preset": preset,
        "chunk_ms": _CHUNK_MS,
        "chunks": num_chunks,
        "latency_ms": stream.latency,
    }
    for name, times in (("clock_ms", clock), ("processor_ms", processor)):
        quantiles = np.quantile(times[_WARM_UP_CHUNKS:], [0, 0.5, 0.95, 0.99, 1])
        result[name] = dict(zip(("least", "median", "95 %", "99 %", "most"), map(float, quantiles), strict=True))
    result["times_real_time"] = {name: _CHUNK_MS / result[name]["median"] for name in ("clock_ms", "processor_ms")}
    return result


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--preset", default="sim", help="Preset of the encoder.")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="Threads of torch.")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 16], help="Recordings per batch.")
    parser.add_argument("--dtypes", nargs="+", default=list(_DTYPES), choices=list(_DTYPES), help="Precisions.")
    parser.add_argument("--seconds", type=float, default=10.0, help="Length of a recording.")
    parser.add_argument("--rounds", type=whole_number(1), default=5, help="Rounds after the warm-up.")
    parser.add_argument("--chunks", type=whole_number(0), default=2000, help="Chunks of the stream; 0 for no stream.")
    parser.add_argument("--output", type=output_file, help="File for the results.")
    arguments = parser.parse_args()
    results: dict[str, Any] = {"machine": platform.processor() or platform.machine(), "versions": versions()}
    torch.set_num_threads(1)
    if arguments.chunks:
        results["streaming"] = streaming("sim-small", arguments.chunks)
        print(results["streaming"])
    results["encoding"] = []
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for dtype in arguments.dtypes:
            for batch_size in arguments.batch_sizes:
                found = encoding(arguments.preset, dtype, batch_size, arguments.seconds, arguments.rounds)
                results["encoding"].append(found)
                print({key: found[key] for key in ("dtype", "threads", "batch_size", "times_wav2vec2_base")})
                if arguments.output:
                    write_json(arguments.output, results)
    if arguments.output:
        write_json(arguments.output, results)


if __name__ == "__main__":
    main()
