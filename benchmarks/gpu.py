"""Everything that needs a GPU, in one command within a time budget: `make gpu`, see docs/gpu.md.

    DEVICE=cuda BUDGET=10m PARTS="tests benchmark runs probes" make gpu

Every part gets a share of the remaining time when it starts, and is stopped after that. If the command is rerun,
finished parts are skipped, and the others continue from the files that they have written. On a CPU (`DEVICE=cpu`) every
part runs in miniature, as a rehearsal.

This file only needs Python and PyTorch: it installs the wheels of `make gpu-bundle`, if there are any, for the parts.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


SHARES = {"tests": 0.13, "benchmark": 0.22, "runs": 0.47, "probes": 0.18}
"""Parts in their order, and their shares of the budget."""


GRACE = {"tests": 2.0, "benchmark": 5.0, "runs": 30.0, "probes": 5.0}
"""Seconds of a part's share for saving after SIGTERM; then it is killed."""


FILE_LIMIT = 16 * 2**20
"""Bytes of a results file."""


_FINAL = 3.0  # seconds of the budget for the last summary


# ---------------------------------------------------------------------- parts


def commands(device: str, work: Path, out: Path, bundle: Path) -> dict[str, list[str]]:
    """The command of every part."""
    options = "-o addopts=--strict-markers -v -p no:cacheprovider"
    passed = [f"--deselect={name}" for name in tests_of(work / "logs" / "tests.log")["passed"]]
    settings = ["--device", device, "--work", str(work), "--out", str(out), "--bundle", str(bundle)]
    return {
        "tests": [sys.executable, "-m", "pytest", *options.split(), *passed, "-m", "gpu", "tests/test_gpu.py"],
        "benchmark": [sys.executable, "-m", "benchmarks.gpu_benchmark", *settings],
        "runs": [sys.executable, "-m", "benchmarks.gpu_runs", "runs", *settings],
        "probes": [sys.executable, "-m", "benchmarks.gpu_runs", "probes", *settings],
    }


def seconds_of(budget: str) -> float:
    """Seconds of "10m", "90s" or "1h".

    Raises:
        ValueError: `budget` does not have this form.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", budget.strip())
    if match is None:
        raise ValueError(f"BUDGET is {budget!r}; give a number and s, m or h, as in 10m.")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def parts_of(names: str) -> list[str]:
    """Names of parts, in the order of `SHARES`.

    Raises:
        ValueError: A name is unknown, or no name is given.
    """
    asked = names.split()
    unknown = [name for name in asked if name not in SHARES]
    if unknown or not asked:
        raise ValueError(f"PARTS is {names!r}; choose some of {' '.join(SHARES)}.")
    return [name for name in SHARES if name in asked]


def share_of(part: str, parts: Sequence[str], left: float) -> float:
    """Seconds for a part, out of the seconds that are left for it and the parts after it."""
    later = parts[parts.index(part) :]
    return left * SHARES[part] / sum(SHARES[name] for name in later)


def run_parts(
    parts: Sequence[str],
    commands: Mapping[str, Sequence[str]],
    work: Path,
    *,
    budget: float,
    environment: Mapping[str, str] | None = None,
    on_change: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Runs the parts that are not finished, one after the other, and returns the state of all parts so far.

    A part that has used its share gets SIGTERM, and SIGKILL after a grace period; its state is then "stopped".

    Args:
        parts: Names, in the order to run them in.
        commands: The command of each.
        work: Folder of the state, `parts.json`, and of the logs.
        budget: Seconds for all parts.
        environment: Environment of the commands; `None` for this process' own.
        on_change: Called every few seconds and after each part.
    """
    end = time.monotonic() + budget
    (work / "logs").mkdir(parents=True, exist_ok=True)
    states: dict[str, Any] = read(work / "parts.json")
    todo = [part for part in parts if states.get(part, {}).get("state") != "finished"]
    for part in parts:
        if part not in todo:
            print(f"{part}: finished earlier", flush=True)
            continue
        seconds = share_of(part, todo, end - time.monotonic())
        print(f"{part}: at most {seconds:.0f} s, log in {work / 'logs' / part}.log", flush=True)
        started = time.monotonic()
        code, stopped = _run(commands[part], work / "logs" / f"{part}.log", part, seconds, environment, on_change)
        states[part] = {
            "state": "stopped" if stopped else "finished" if code == 0 else "failed",
            "code": code,
            "seconds": round(states.get(part, {}).get("seconds", 0.0) + time.monotonic() - started, 1),
            "share_seconds": round(seconds, 1),
        }
        write(work / "parts.json", states)
        on_change()
        print(f"{part}: {states[part]['state']} after {time.monotonic() - started:.0f} s", flush=True)
    return states


def _run(
    command: Sequence[str],
    log: Path,
    part: str,
    seconds: float,
    environment: Mapping[str, str] | None,
    on_change: Callable[[], None],
) -> tuple[int, bool]:
    """Exit code of a command, and whether its time was up; SIGTERM and SIGINT to this process are passed on."""
    grace = min(GRACE[part], seconds / 3)
    deadline = time.monotonic() + seconds - grace
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        stopped = False
        try:
            while _wait(process, min(2.0, max(0.0, deadline - time.monotonic()))) is None:
                on_change()
                if time.monotonic() >= deadline:
                    stopped = True
                    process.terminate()  # only it: it signals its own processes, and a second signal would kill those
                    _wait(process, grace)
                    break
        finally:
            if process.poll() is None and not stopped:  # this process is ending
                process.terminate()
                _wait(process, grace)
            with contextlib.suppress(ProcessLookupError, PermissionError):  # none is left
                os.killpg(process.pid, signal.SIGKILL)  # including processes that the part has started
            process.wait()
    return process.returncode, stopped


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None


# ---------------------------------------------------------------------- device and packages


def check_device(device: str) -> str:
    """Name of the device.

    Raises:
        ValueError: There is no such device, its driver is too old, or it is full.
    """
    if device == "cpu":
        return platform.processor() or platform.machine()
    import torch  # noqa: PLC0415 - after the arguments are checked

    if torch.version.cuda is None and torch.version.hip is None:
        raise ValueError(f"DEVICE is {device}, but this PyTorch ({torch.__version__}) was built for CPUs.")
    try:
        torch.cuda.init()
        free, total = torch.cuda.mem_get_info()
    except (RuntimeError, AssertionError) as error:  # no GPU, or a driver that is too old: torch says which
        raise ValueError(f"DEVICE is {device}, but {str(error).splitlines()[0]}") from error
    if free < 4e9:
        raise ValueError(
            f"{torch.cuda.get_device_name()} has {free / 1e9:.1f} of {total / 1e9:.1f} GB free, and 4 are needed: "
            "another program uses it."
        )
    return torch.cuda.get_device_name()


def install(bundle: Path, site: Path) -> list[str]:
    """Installs the bundle's wheels into a separate folder, and returns the folders to import from."""
    wheels = sorted(map(str, (bundle / "wheels").glob("*.whl")))
    made_for = read(bundle / "bundle.json").get("python")
    if not wheels or made_for != ".".join(platform.python_version_tuple()[:2]) or sys.platform != "linux":
        return []
    if not (site / "complete").is_file():
        print(f"installing {len(wheels)} wheels", flush=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        subprocess.run([*pip, "--upgrade", "--target", str(site), *wheels], check=True)
        (site / "complete").touch()
    return [str(site)]


# ---------------------------------------------------------------------- results


def read(path: Path) -> dict[str, Any]:
    """Reads a JSON file; an empty dict if it does not exist."""
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def write(path: Path, value: Any) -> None:
    """Writes a JSON file, complete or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    temporary.replace(path)


def tests_of(log: Path) -> dict[str, Any]:
    """Names of the tests in the log of pytest by their latest outcome, and the number of tests that did not end."""
    text = log.read_text(errors="replace") if log.is_file() else ""
    outcomes = dict(re.findall(r"^(tests/\S+::.+?) (PASSED|FAILED|SKIPPED|ERROR)", text, re.MULTILINE))
    collected = max(map(int, re.findall(r"collected (\d+) item", text)), default=0)
    names = {"passed": ("PASSED",), "skipped": ("SKIPPED",), "failed": ("FAILED", "ERROR")}
    return {
        **{state: sorted(name for name in outcomes if outcomes[name] in words) for state, words in names.items()},
        "not_run": max(0, collected - len(outcomes)),
    }


def collect(work: Path, out: Path, device: str) -> None:
    """Writes `results.json` and `summary.md` of all available results."""
    results = {
        "device": device,
        "parts": read(work / "parts.json"),
        "tests": tests_of(work / "logs" / "tests.log"),
        **{name: read(work / f"{name}.json") for name in ("benchmark", "runs", "probes")},
    }
    write(out / "results.json", results)
    (out / "summary.md").write_text(summary(results))


def collect_logs(work: Path, out: Path) -> None:
    """Packs logs, curves and probe results into `logs.tar.gz`; skips the largest files if there are too many."""
    patterns = ("logs/*.log", "runs/*/log.jsonl", "runs/*/results.json", "runs/*/curves.png", "probes/*/probe.*")
    files = sorted((path for pattern in patterns for path in work.glob(pattern)), key=lambda path: path.stat().st_size)
    size = 0
    with tarfile.open(out / "logs.tar.gz", "w:gz") as archive:
        for path in files:
            size += path.stat().st_size
            if size < FILE_LIMIT:
                archive.add(path, path.relative_to(work))


def summary(results: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    lines = [f"# {results['device']}", "", "| part | state | seconds |", "| --- | --- | --- |"]
    lines += [f"| {name} | {part['state']} | {part['seconds']} |" for name, part in results["parts"].items()]
    tests = results["tests"]
    counts = [f"{len(tests[state])} {state}" for state in ("passed", "skipped", "failed")]
    lines += ["", f"Tests: {', '.join(counts)}, {tests['not_run']} not run."]
    lines += [f"- {name}" for name in tests["failed"]]
    for title, table in (
        ("Benchmark", _benchmark_lines(results["benchmark"])),
        ("Runs", _run_lines(results["runs"])),
        ("Probes", _probe_lines(results["probes"])),
    ):
        lines += ["", f"## {title}", "", *table] if table else []
    return "\n".join(lines) + "\n"


def _benchmark_lines(benchmark: Mapping[str, Any]) -> list[str]:
    steps = {name: row for name, row in benchmark.items() if name.startswith("step ") and "seconds" in row}
    lines = [f"- {name}: {_cell(row)}" for name, row in benchmark.items() if name not in steps]
    if steps:
        lines += [
            "",
            "| step | ms | crops per second | of the matrix rate | peak MB |",
            "| --- | --- | --- | --- | --- |",
        ]
        lines += [
            f"| {name.removeprefix('step ')} | {1000 * row['seconds']:.2f} | {row['crops_per_second']:.0f} | "
            f"{row['share_of_matrix_rate']:.0%} | {row['peak_megabytes']:.0f} |"
            for name, row in steps.items()
        ]
    return lines


def _run_lines(runs: Mapping[str, Any]) -> list[str]:
    if not runs:
        return []
    lines = ["| run | state | steps | crops per second | accuracy of the modules |", "| --- | --- | --- | --- | --- |"]
    for name, run in runs.items():
        accuracies = [f"{value:.3f}" for value in run.get("accuracies", []) if value is not None]
        lines.append(
            f"| {name} | {run['state']} | {run.get('steps', 0)} of {run['max_steps']} | "
            f"{run.get('crops_per_second') or '-'} | {', '.join(accuracies) or '-'} |"
        )
    return lines


def _probe_lines(probes: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, probe in probes.items():
        lines += [f"{name}: {probe['error']}"] if "error" in probe else []
        if "rows" in probe:
            lines += [f"| {name} | accuracy |", "| --- | --- |"]
            lines += [f"| {row} | {accuracy:.3f} |" for row, accuracy in probe["rows"].items()]
        lines.append("")
    return lines


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(item)}" for name, item in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# ---------------------------------------------------------------------- command


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, help_line in (
        ("device", "cuda", "cuda, or cpu for a rehearsal in miniature"),
        ("budget", "10m", "time for all parts, as in 90s, 10m or 1h"),
        ("parts", " ".join(SHARES), "parts to run"),
        ("work", "", "folder of checkpoints and states; runs/gpu-DEVICE"),
        ("out", "", "folder of results; `results` in the folder before"),
        ("bundle", "gpu-bundle", "folder that `make gpu-bundle` has made"),
    ):
        parser.add_argument(f"--{name}", default=os.environ.get(name.upper()) or default, help=help_line)
    arguments = parser.parse_args(argv)
    started = time.monotonic()
    try:
        budget, parts = seconds_of(arguments.budget), parts_of(arguments.parts)
        device = check_device(arguments.device)
    except ValueError as error:
        raise SystemExit(f"gpu: {error}") from error
    work = Path(arguments.work or ROOT / "runs" / f"gpu-{arguments.device}").resolve()
    out = Path(arguments.out or work / "results").resolve()
    bundle = Path(arguments.bundle).resolve()
    for folder in (work, out):
        folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))

    paths = [str(ROOT), *install(bundle, work / "site"), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(work / "hf"),
        "PYTHONUNBUFFERED": "1",
        "TQDM_DISABLE": "1",
    }
    if arguments.device == "cpu":
        environment |= {"MODELING_SIM_TEST_DEVICE": "cpu", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    try:
        run_parts(
            parts,
            commands(arguments.device, work, out, bundle),
            work,
            budget=budget - _FINAL - (time.monotonic() - started),
            environment=environment,
            on_change=lambda: collect(work, out, device),
        )
    finally:
        collect(work, out, device)
        collect_logs(work, out)
    print((out / "summary.md").read_text())


if __name__ == "__main__":
    main()
