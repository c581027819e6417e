"""Makes one folder with everything that `make gpu` needs on a machine without a network, see docs/gpu.md.

    make gpu-bundle DATA=DATA_FOLDER

The wheels are those of the packages installed here, for Python 3.12 on x86-64 Linux, minus those of an image with
PyTorch and the usual scientific packages. Audio is stored at 16 kHz: artificial speech as FLAC, and as much of
LibriSpeech as fits, with equal shares of every speaker, as Ogg Vorbis.
"""

import argparse
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import soundfile
from tqdm.auto import tqdm

from benchmarks.gpu import ROOT, write
from modeling_sim.data.audio import read_audio

IN_THE_IMAGE = (
    "torch numpy scipy pandas pyarrow scikit-learn matplotlib pillow pyyaml tqdm jinja2 packaging filelock "
    "fsspec psutil typing-extensions regex contourpy cycler fonttools kiwisolver pyparsing python-dateutil "
    "six pytz tzdata joblib threadpoolctl narwhals sympy networkx mpmath markupsafe setuptools requests "
    "urllib3 certifi idna aiohttp click pytest pluggy iniconfig pygments "
    "anyio h11 rich typer shellingham hf-xet xxhash"
)
"""Packages that are not downloaded."""


PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (17, 24, 26, 27, 28, 31, 34)] + ["manylinux2014_x86_64"]


RATE = 16_000


LIBRISPEECH_TEXTS = ("*.txt", "*.TXT", "alignments/*")


def closure(requirements: Sequence[str], without: set[str]) -> dict[str, str]:
    """Versions by name of installed packages and their dependencies, except `without` and what only those require."""
    found: dict[str, str] = {}
    waiting = [canonical(name) for name in requirements]
    while waiting:
        name = waiting.pop()
        if name in found or name in without:
            continue
        package = metadata.distribution(name)
        found[name] = package.version
        waiting += [canonical(line) for line in package.requires or [] if applies(line)]
    return found


def canonical(requirement: str) -> str:
    """Normalized name of the package in a line of requirements."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", match[0]).lower() if match else ""


def applies(requirement: str) -> bool:
    """Whether a requirement belongs to no extra, and to this platform."""
    from packaging.requirements import Requirement  # noqa: PLC0415 - a package of pip's, for this command alone

    marker = Requirement(requirement).marker
    return marker is None or marker.evaluate({"extra": "", "python_version": "3.12", "python_full_version": "3.12.0"})


def download_wheels(folder: Path, without: set[str], python: str) -> list[str]:
    """Downloads the wheels, and returns their packages as NAME==VERSION."""
    wanted = ["transformers", "accelerate", "datasets", "evaluate", "huggingface-hub", "soundfile", "soxr", "httpx2"]
    pinned = sorted(f"{name}=={version}" for name, version in closure(wanted, without).items())
    folder.mkdir(parents=True, exist_ok=True)
    platforms = [argument for name in PLATFORMS for argument in ("--platform", name)]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*pip, "--python-version", python, *platforms, "--dest", str(folder), *pinned], check=True)
    return pinned


def copy_artificial(source: Path, target: Path) -> None:
    """Copies artificial speech as 16 kHz FLAC."""
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".flac", ".wav"))
    for path in tqdm(files, desc="artificial speech"):
        copy = (target / path.relative_to(source)).with_suffix(".flac")
        copy.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(
            copy, read_audio({"path": str(path)}, sampling_rate=RATE), RATE, subtype="PCM_16", compression_level=1
        )


def copy_librispeech(source: Path, target: Path, limit: int) -> int:
    """Copies texts, and utterances of every speaker in turn until `limit` bytes are used; returns their number."""
    for pattern in LIBRISPEECH_TEXTS:
        for path in sorted(source.glob(pattern)):
            if path.is_file() and path.name not in ("train.txt", "test.txt"):
                (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target / path.relative_to(source))
    used = size_of(target)
    by_speaker = defaultdict(list)
    for path in sorted(source.rglob("*.flac")):
        by_speaker[path.parent.parent.name].append(path)
    order = sorted((rank, path) for paths in by_speaker.values() for rank, path in enumerate(paths))
    kept = []
    for _, path in tqdm(order, desc="LibriSpeech"):
        copy = (target / path.relative_to(source)).with_suffix(".ogg")
        copy.parent.mkdir(parents=True, exist_ok=True)
        samples = read_audio({"path": str(path)}, sampling_rate=RATE)
        soundfile.write(copy, samples, RATE, format="OGG", subtype="VORBIS", compression_level=0.7)
        used += copy.stat().st_size
        if used > limit:
            copy.unlink()
            break
        kept.append(path.stem)
        for text in path.parent.glob("*.trans.txt"):
            shutil.copy(text, copy.parent / text.name)
    for name in ("train.txt", "test.txt"):  # keep the split of the source
        if (source / name).is_file():
            ids = [line for line in (source / name).read_text().split() if line in set(kept)]
            (target / name).write_text("".join(f"{line}\n" for line in ids))
    return len(kept)


def size_of(folder: Path) -> int:
    """Bytes of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def repository_size() -> int:
    """Bytes of the files that git tracks."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()  # noqa: S607
    return sum((ROOT / name).stat().st_size for name in names.split("\0") if name and (ROOT / name).is_file())


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="Folder with `artificial_speech` and `librispeech`; both optional.")
    parser.add_argument("--output", type=Path, default=ROOT / "gpu-bundle", help="Folder to make; it is replaced.")
    parser.add_argument("--megabytes", type=float, default=60, help="MiB of folder plus repository.")
    parser.add_argument("--without", default=IN_THE_IMAGE, help="Packages that the image has.")
    parser.add_argument("--python", default="3.12", help="Version of Python of the image.")
    arguments = parser.parse_args(argv)
    output: Path = arguments.output
    if output.exists() and not (output / "bundle.json").is_file():
        parser.error(f"--output {output} is not a folder of this command")
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    write(output / "bundle.json", {"python": arguments.python})
    wheels = download_wheels(output / "wheels", set(arguments.without.split()), arguments.python)
    if arguments.data and (arguments.data / "artificial_speech").is_dir():
        copy_artificial(arguments.data / "artificial_speech", output / "data" / "artificial_speech")
    utterances = 0
    if arguments.data and (arguments.data / "librispeech").is_dir():
        # A twentieth less: file systems and archives need additional bytes for many small files.
        left = int(0.95 * arguments.megabytes * 2**20) - size_of(output) - repository_size()
        utterances = copy_librispeech(arguments.data / "librispeech", output / "data" / "librispeech", left)
    write(output / "bundle.json", {"python": arguments.python, "wheels": wheels, "librispeech_utterances": utterances})
    total = size_of(output) + repository_size()
    print(f"{output}: {size_of(output) / 2**20:.1f} MiB, {total / 2**20:.1f} MiB with the repository")
    if total > arguments.megabytes * 2**20:
        raise SystemExit(f"gpu_bundle: that is more than {arguments.megabytes:g} MiB; increase --megabytes.")


if __name__ == "__main__":
    main()
