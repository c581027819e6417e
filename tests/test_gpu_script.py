"""What `make gpu` promises: budgets, resuming, results that come as they are made; and all of it on a CPU."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import gpu, gpu_bundle, gpu_runs
from benchmarks.gpu_benchmark import OUT_OF_MEMORY, Benchmark, largest, measure
from benchmarks.gpu_runs import RUNS, pack, unpack
from modeling_sim import SimConfig, SimFeatureExtractor, SimForPreTraining, SimModel

ROOT = Path(__file__).resolve().parents[1]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400)])
def test_budgets_are_read(text, seconds):
    assert gpu.seconds_of(text) == seconds


def test_wrong_settings_are_named_in_one_line(monkeypatch):
    with pytest.raises(ValueError, match="BUDGET"):
        gpu.seconds_of("10")
    with pytest.raises(ValueError, match="PARTS"):
        gpu.parts_of("tests bench")
    with pytest.raises(SystemExit, match="BUDGET"):
        gpu.main(["--device", "cpu", "--budget", "soon"])
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(SystemExit, match="DEVICE"):
        gpu.main(["--device", "cuda"])


def test_parts_share_what_is_left():
    parts = list(gpu.SHARES)
    assert sum(gpu.SHARES.values()) == pytest.approx(1)
    left = 600.0
    for part in parts:
        share = gpu.share_of(part, parts, left)
        assert share == pytest.approx(600 * gpu.SHARES[part])
        left -= share
    assert gpu.share_of("probes", parts, 100) == pytest.approx(100)  # what earlier parts left falls to the last


def test_a_part_is_stopped_in_time_and_what_is_finished_is_skipped(tmp_path, capfd):
    counted = f"open({str(tmp_path / 'count')!r}, 'a').write('x')"
    endless = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(3)));"
        "print('begun', flush=True); time.sleep(60)"
    )
    commands = {"tests": python(counted), "benchmark": python(endless), "runs": python("raise SystemExit(1)")}
    started = time.monotonic()
    states = gpu.run_parts(list(commands), commands, tmp_path, budget=12)
    assert time.monotonic() - started < 20
    assert [states[part]["state"] for part in commands] == ["finished", "stopped", "failed"]
    assert (tmp_path / "logs" / "benchmark.log").read_text() == "begun\nsaved\n"

    commands |= {"benchmark": python(counted), "runs": python(counted)}
    states = gpu.run_parts(list(commands), commands, tmp_path, budget=30)
    assert {part["state"] for part in states.values()} == {"finished"}
    assert (tmp_path / "count").read_text() == "xxx"  # the first part once, the others when they could
    assert "tests: finished earlier" in capfd.readouterr().out


def test_a_part_that_ignores_the_end_of_its_time_is_killed_with_all_that_it_started(tmp_path):
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    code = (
        "import subprocess, sys, time; "
        f"child = subprocess.Popen([sys.executable, '-c', {stubborn!r}]); print(child.pid, flush=True); time.sleep(60)"
    )
    gpu.run_parts(["tests"], {"tests": python(code)}, tmp_path, budget=3)
    child = int((tmp_path / "logs" / "tests.log").read_text())
    for _ in range(100):
        stat = Path(f"/proc/{child}/stat")
        if not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the child outlived its part")


def test_the_summary_has_what_is_there_and_the_logs_fit_in_a_file(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "tests.log").write_text(
        "collecting ... collected 5 items\n"
        "tests/test_gpu.py::test_a[tf32 x] PASSED [ 20%]\ntests/test_gpu.py::test_b FAILED [ 40%]\n"
        "tests/test_gpu.py::test_c SKIPPED (one GPU) [ 60%]\ntests/test_gpu.py::test_d "
    )
    row = {"seconds": 0.01, "crops_per_second": 6400.0, "share_of_matrix_rate": 0.5, "peak_megabytes": 100.0}
    gpu.write(tmp_path / "benchmark.json", {"card": {"name": "A card"}, "step batch 64, tf32, plain": row})
    gpu.write(
        tmp_path / "runs.json", {"sim": {"state": "stopped", "steps": 50, "max_steps": 100, "accuracies": [0.5, None]}}
    )
    out = tmp_path / "results"
    out.mkdir()
    gpu.collect(tmp_path, out, "A card")
    gpu.collect_logs(tmp_path, out)
    results = json.loads((out / "results.json").read_text())
    passed, failed, skipped = (f"tests/test_gpu.py::test_{name}" for name in ("a[tf32 x]", "b", "c"))
    assert results["tests"] == {"passed": [passed], "skipped": [skipped], "failed": [failed], "not_run": 2}
    again = gpu.commands("cuda", tmp_path, out, tmp_path)["tests"]
    assert [flag for flag in again if "deselect" in flag] == [f"--deselect={passed}"]
    summary = (out / "summary.md").read_text()
    assert "| batch 64, tf32, plain | 10.00 | 6400 | 50% | 100 |" in summary
    assert "| sim | stopped | 50 of 100 | - | 0.500 |" in summary
    assert (out / "logs.tar.gz").stat().st_size < gpu.FILE_LIMIT


@pytest.mark.parametrize("message", ["CUBLAS_STATUS_ALLOC_FAILED", "an illegal memory access"])
def test_only_a_full_memory_ends_the_search(message, tmp_path, monkeypatch):
    benchmark = Benchmark("cpu", tmp_path, miniature=True, figures={})

    def step_of(_form, _name, batch_size):
        if batch_size > 5:
            raise RuntimeError(message)
        return contextlib.nullcontext(lambda: None)

    monkeypatch.setattr(benchmark, "made_step", step_of)
    if "ALLOC_FAILED" in message:
        assert benchmark.largest_batch() in (4, 5)
    else:
        with pytest.raises(RuntimeError, match="illegal"):
            benchmark.largest_batch()


def test_the_largest_batch_is_found_with_few_trials():
    for most in (1, 5, 64, 100, 1000):
        tried: list[int] = []

        def fits(number, most=most, tried=tried):
            tried.append(number)
            return number <= most

        found = largest(fits, 64, 4096)
        assert most - max(1, most // 16) <= found <= most
        assert len(tried) < 20
    assert largest(lambda _: True, 64, 100) == 100
    assert largest(lambda _: False, 64, 100) == 0


def test_figures_are_taken_once_and_an_error_is_one_of_them(tmp_path):
    calls = []

    class Two(Benchmark):
        def measurements(self):
            for name in ("works", "fills the card", "fails", "works too"):
                yield name, lambda name=name: self.take(name)

        def take(self, name):
            calls.append(name)
            if name == "fills the card":
                raise torch.OutOfMemoryError
            if name == "fails":
                raise KeyError(name)
            return {"value": 1.0}

    path = tmp_path / "benchmark.json"
    for _ in range(2):
        measure(Two("cpu", tmp_path, miniature=True, figures=gpu.read(path)), path)
    figures = gpu.read(path)
    assert figures["fills the card"] == {"error": OUT_OF_MEMORY}
    assert figures["fails"] == {"error": "KeyError: 'fails'"}
    assert figures["works too"] == {"value": 1.0}
    assert calls.count("works") == 1
    assert calls.count("fails") == 2


def test_packed_weights_make_a_folder_of_the_same_encoder(tiny_config, tmp_path):
    torch.manual_seed(0)
    model = SimForPreTraining(tiny_config(use_batch_norm=True)).eval()
    model.save_pretrained(tmp_path / "model")
    pack(tmp_path / "model", tmp_path / "model.safetensors", run="a run")
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} <= {
        torch.bfloat16,
        torch.int64,
    }
    unpack(tmp_path / "model.safetensors", tmp_path / "unpacked")
    encoder = SimModel.from_pretrained(tmp_path / "unpacked")
    for name, tensor in model.sim.state_dict().items():
        torch.testing.assert_close(encoder.state_dict()[name], tensor, rtol=2**-8, atol=0)


def test_every_run_of_the_paper_starts_from_a_settings_file():
    assert len({run.name for run in RUNS}) == len(RUNS)
    for run in RUNS:
        assert (ROOT / "training" / "configs" / run.config).is_file()


def test_the_bundle_has_what_the_image_lacks():
    packages = gpu_bundle.closure(["transformers", "datasets"], {"torch", "numpy"})
    assert {"transformers", "datasets", "tokenizers", "multiprocess"} <= packages.keys()
    assert not packages.keys() & {"torch", "numpy"}


def test_probes_score_every_module_and_finished_ones_are_skipped(tmp_path, monkeypatch):
    model = SimModel(SimConfig.preset("sim-small", hidden_size=8, context_size=8))
    folder = tmp_path / "sim-artificial"
    model.save_pretrained(folder)
    SimFeatureExtractor(min_samples=model.config.receptive_field()).save_pretrained(folder)
    monkeypatch.setattr(gpu_runs, "trained_folder", lambda run: folder if run.name == folder.name else None)
    finished = {
        f"artificial {title}": {"models": [str(folder)]} for title in ("vowel paper", "syllable", "syllable paper")
    }
    gpu.write(tmp_path / "probes.json", finished)
    gpu_runs.probe_all("cpu", tmp_path, tmp_path / "none")
    probes = gpu.read(tmp_path / "probes.json")
    rows = probes.pop("artificial vowel")["rows"]
    assert probes == finished
    assert {f"sim-artificial, {module}" for module in model.config.module_names} <= set(rows)
    assert all(0 <= accuracy <= 1 for accuracy in rows.values())


@pytest.mark.slow
def test_all_parts_run_on_a_cpu_and_a_second_call_completes_the_first(tmp_path):
    environment = {**os.environ, "DEVICE": "cpu", "PARTS": "benchmark runs probes", "BUNDLE": str(tmp_path / "none")}
    command = [sys.executable, "-m", "benchmarks.gpu", "--work", str(tmp_path), "--budget"]
    subprocess.run([*command, "20s"], cwd=ROOT, env=environment, check=True)
    assert "stopped" in {part["state"] for part in gpu.read(tmp_path / "parts.json").values()}
    subprocess.run([*command, "20m"], cwd=ROOT, env=environment, check=True)
    results = gpu.read(tmp_path / "results" / "results.json")
    assert {name: part["state"] for name, part in results["parts"].items()} == dict.fromkeys(
        ("benchmark", "runs", "probes"), "finished"
    )
    errors = [name for name, figure in results["benchmark"].items() if isinstance(figure, dict) and "error" in figure]
    assert not errors
    trained = [run.name for run in RUNS if run.corpus == "artificial_speech"]
    assert {name: run["state"] for name, run in results["runs"].items()} == dict.fromkeys(trained, "finished")
    assert {path.stem for path in (tmp_path / "results" / "weights").iterdir()} == set(trained)
    assert "rows" in results["probes"]["artificial vowel"]
