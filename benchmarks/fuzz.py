"""Damages audio files in many ways, and counts errors of the package: `python benchmarks/fuzz.py`.

Every damaged file is in a folder with two intact neighbors. The folder is loaded with `on_bad_audio` "skip" and
"raise", and crops of it are read. Counted errors are:

- crash: a process that dies, or any exception except `AudioError` and `BadAudioError`, or one that does not name the
  file;
- hang: more than 60 seconds, or more than 4 GB of memory, for a process of 50 files;
- lost: a complete neighbor that is not read, or an undamaged file that is rejected;
- silent: a file that is accepted and then returns, without an error, a different number of samples than in its header
  when it was scanned, samples outside [-1, 1] or not finite, fewer samples than libsndfile decodes from end to end, or
  as many as if nothing had been cut off or joined on. Samples that are changed but plausible, such as one bit of a PCM
  sample, cannot be detected, and are not counted.

Exits with 1 if any count is not 0. The same seed makes the same files.
"""

import argparse
import contextlib
import io
import itertools
import json
import multiprocessing
import resource
import struct
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from datasets import disable_progress_bars

from modeling_sim import SimFeatureExtractor
from modeling_sim.data.audio import AudioError, read_audio
from modeling_sim.data.batches import crop_batches
from modeling_sim.data.corpora import load_corpus
from modeling_sim.data.corpora.scan import BadAudioError

FORMATS = {
    "wav-pcm16": ("WAV", "PCM_16", {}),
    "wav-pcm24": ("WAV", "PCM_24", {}),
    "wav-pcm32": ("WAV", "PCM_32", {}),
    "wav-float": ("WAV", "FLOAT", {}),
    "wav-ulaw": ("WAV", "ULAW", {}),
    "rifx": ("WAV", "PCM_16", {"endian": "BIG"}),
    "rf64": ("RF64", "PCM_16", {}),
    "flac": ("FLAC", "PCM_16", {}),
    "vorbis": ("OGG", "VORBIS", {}),
    "opus": ("OGG", "OPUS", {}),
    "mp3-cbr": ("MP3", "MPEG_LAYER_III", {"bitrate_mode": "CONSTANT"}),
    "mp3-vbr": ("MP3", "MPEG_LAYER_III", {"bitrate_mode": "VARIABLE"}),
}
SUFFIXES = {"WAV": ".wav", "RF64": ".wav", "FLAC": ".flac", "OGG": ".ogg", "MP3": ".mp3"}
DAMAGES = (
    "none",
    "flip",
    "flip-header",
    "flip-many",
    "truncate",
    "zero",
    "insert",
    "remove",
    "swap-header",
    "join",
    "lie",
)
SHORTENING, OUTCOMES = ("truncate", "join"), ("crash", "hang", "lost", "silent")
BLOCK, SECONDS, MEMORY = 50, 60, 4 << 30


def sound(generator: np.random.Generator, rate: int) -> np.ndarray:
    """Tones and noise, 0.3 to 2 seconds."""
    time = np.arange(int(generator.uniform(0.3, 2) * rate)) / rate
    return 0.3 * np.sin(2 * np.pi * generator.uniform(100, 1000) * time) + 0.05 * generator.standard_normal(len(time))


def encoded(generator: np.random.Generator, name: str) -> bytes:
    """A complete file."""
    file_format, subtype, options = FORMATS[name]
    rate = 16_000 if name == "opus" else int(generator.choice([8_000, 16_000, 22_050, 44_100]))
    buffer = io.BytesIO()
    soundfile.write(buffer, sound(generator, rate), rate, format=file_format, subtype=subtype, **options)
    return buffer.getvalue()


def damaged(generator: np.random.Generator, content: bytes, how: str, other: bytes) -> bytes:
    """The file with one kind of damage."""
    result, size = bytearray(content), len(content)
    place, length = int(generator.integers(size)), int(generator.integers(1, 2_000))
    if how.startswith("flip"):
        most = 64 if how == "flip-header" else size
        for _ in range(20 if how == "flip-many" else 1):
            result[int(generator.integers(most))] ^= 1 << int(generator.integers(8))
    elif how == "truncate":
        del result[max(1, place) :]
    elif how == "zero":
        result[place : place + length] = bytes(len(result[place : place + length]))
    elif how == "insert":
        result[place:place] = generator.bytes(length)
    elif how == "remove":
        del result[place : place + length]
    elif how == "swap-header":
        result[:64] = other[:64]
    elif how == "join":
        result += other
    elif how == "lie":
        at = int(generator.integers(4, 60))
        value = int(generator.choice([0, 1, 1_000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, size, 2 * size]))
        result[at : at + 4] = struct.pack("<I" if generator.integers(2) else ">I", value)
    return bytes(result)


def decoded_length(path: Path) -> int:
    """Number of samples that libsndfile decodes from a complete file, in blocks."""
    count = 0
    with soundfile.SoundFile(path) as file:
        while block := len(file.read(4_096)):
            count += block
    return count


def scanned(root: Path, path: Path, how: str) -> tuple[Any, list[str]]:
    """The folder loaded with "skip", and the errors of loading, each starting with its kind."""
    data, found = None, []
    for on_bad_audio in ("raise", "skip"):
        try:
            data = load_corpus("folder", "all", data_dir=root, on_bad_audio=on_bad_audio)
        except BadAudioError as error:
            if path.name not in str(error) or on_bad_audio == "skip":
                found.append(f"crash: {on_bad_audio}: {error}")
            if how == "none":
                found.append(f"lost: a complete file is refused: {error}")
        except Exception as error:  # noqa: BLE001 - what is looked for
            found.append(f"crash: {on_bad_audio}: {error!r}")
    if data is not None and not {"near_0", "near_1"} <= set(data["id"]):
        found.append("lost: a neighbor is not read")
    return data, found


def cropped(data: Any) -> list[str]:
    """Errors when crops are read."""
    try:
        batches = crop_batches(
            data, SimFeatureExtractor(), crop_samples=4_000, batch_size=4, seed=0, on_bad_audio="skip"
        )
        values = [batch["input_values"] for batch in itertools.islice(batches, 3)]
    except Exception as error:  # noqa: BLE001 - what is looked for
        return [f"crash: crops: {error!r}"]
    return [] if all((value.abs() <= 1).all() for value in values) else ["silent: a crop outside [-1, 1]"]


def verdicts(root: Path, path: Path, how: str, num_before: int) -> list[str]:
    """Errors with the damaged file of a folder."""
    data, found = scanned(root, path, how)
    if data is None:
        return found
    found += cropped(data)
    for row in data.filter(lambda row: row["id"] == "damaged"):
        try:
            samples = read_audio(row["audio"], sampling_rate=row["sampling_rate"])
        except AudioError as error:
            if path.name not in str(error) or how == "none":
                found.append(f"{'lost' if how == 'none' else 'crash'}: {error}")
        except Exception as error:  # noqa: BLE001 - what is looked for
            found.append(f"crash: {error!r}")
        else:
            found += silent(path, row, samples, how, num_before)
    return found


def silent(path: Path, row: dict[str, Any], samples: np.ndarray, how: str, num_before: int) -> list[str]:
    """Problems of samples that were read without an error."""
    found = []
    if not (np.abs(samples) <= 1).all():
        found.append("silent: samples outside [-1, 1]")
    if len(samples) != row["num_samples"]:
        found.append(f"silent: {len(samples)} samples, the scan said {row['num_samples']}")
    try:
        decodable = decoded_length(path)
    except (RuntimeError, MemoryError):
        decodable = 0
    if len(samples) < decodable:
        found.append(f"silent: {len(samples)} samples of {decodable}")
    if how in SHORTENING and len(samples) != num_before:
        found.append(f"silent: {len(samples)} samples, {num_before} before")
    if how == "join" and len(samples) <= num_before:
        found.append(f"silent: {len(samples)} samples of two recordings, the first has {num_before}")
    return found


def work(seed: int, first: int, count: int, results: Path) -> None:
    """Makes and reads `count` files from number `first` on; writes a line for each."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    disable_progress_bars()
    with results.open("a", encoding="utf-8") as lines, contextlib.redirect_stdout(io.StringIO()):
        for number in range(first, first + count):
            generator = np.random.default_rng([seed, number])
            name = list(FORMATS)[number % len(FORMATS)]
            how = DAMAGES[number // len(FORMATS) % len(DAMAGES)]
            content = encoded(generator, name)
            other = encoded(generator, str(generator.choice(list(FORMATS))) if how == "swap-header" else name)
            with tempfile.TemporaryDirectory() as folder:
                root = Path(folder)
                for near in range(2):
                    soundfile.write(root / f"near_{near}.wav", sound(generator, 16_000), 16_000)
                path = root / f"damaged{SUFFIXES[FORMATS[name][0]]}"
                path.write_bytes(content)
                num_before = soundfile.info(path).frames
                path.write_bytes(damaged(generator, content, how, other))
                found = verdicts(root, path, how, num_before)
            lines.write(json.dumps([number, name, how, found]) + "\n")
            lines.flush()


def run(seed: int, count: int) -> list[tuple[int, str, str, list[str]]]:
    """The verdicts of all files; a crash or hang of a process is a verdict on the file that it was reading."""
    rows: list[tuple[int, str, str, list[str]]] = []
    with tempfile.TemporaryDirectory() as folder:
        results, first = Path(folder) / "results", 0
        while first < count:
            results.write_text("")
            size = min(BLOCK, count - first)
            process = multiprocessing.get_context("fork").Process(target=work, args=(seed, first, size, results))
            process.start()
            process.join(SECONDS)
            done = [tuple(json.loads(line)) for line in results.read_text().splitlines()]
            rows += done  # type: ignore[arg-type]
            first += len(done)
            if process.exitcode != 0 or len(done) < size:
                kind = "hang" if process.exitcode is None else f"crash: exit code {process.exitcode}"
                process.kill()
                process.join()
                name = list(FORMATS)[first % len(FORMATS)]
                rows.append((first, name, DAMAGES[first // len(FORMATS) % len(DAMAGES)], [kind]))
                first += 1
    return rows


def main() -> None:
    """Prints a table, and exits with 1 if there are errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000, help="damaged files")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows = run(arguments.seed, arguments.count)
    counts: dict[str, Counter[str]] = {name: Counter() for name in FORMATS}
    for number, name, how, found in rows:
        counts[name]["files"] += 1
        for kind in {verdict.split(":")[0] for verdict in found}:
            counts[name][kind] += 1
        for verdict in found:
            print(f"file {number}, {name}, {how}: {verdict}")
    columns = ("files", *OUTCOMES)
    print("".join([f"{'audio':<12}", *(f"{column:>8}" for column in columns)]))
    for name, of in counts.items():
        print("".join([f"{name:<12}", *(f"{of[column]:>8}" for column in columns)]))
    total = sum(counts.values(), Counter())
    print("".join([f"{'all':<12}", *(f"{total[column]:>8}" for column in columns)]))
    sys.exit(int(any(total[kind] for kind in OUTCOMES)))


if __name__ == "__main__":
    main()
