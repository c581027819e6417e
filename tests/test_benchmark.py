"""The benchmark counts what it says, and both of its formulations are the same mathematics."""

import math

import pytest
import torch

from benchmarks import critics, encoding, export_benchmark, memory, training_step
from benchmarks.plain_sim import PlainSim
from benchmarks.training_step import SavedMemory, benchmark, peak_megabytes, table
from modeling_sim import SimConfig, SimForPreTraining


def test_saved_memory_counts_shared_storage_once_and_lets_go_of_it():
    model = torch.nn.Linear(10, 10, bias=False)
    inputs = torch.randn(4, 10, requires_grad=True)
    with SavedMemory(model) as memory:
        hidden = model(inputs)  # saves the inputs, 160 bytes; the weight is a parameter
        loss = (hidden * hidden).sum()  # saves hidden, twice the same 160 bytes
        assert memory.bytes == 320
        loss.backward()
        assert memory.bytes == 0
        (model(inputs[:1].clone()) ** 2).sum().backward()
    assert memory.peak == 320


@pytest.mark.parametrize(
    ("benchmark_", "flags"),
    [
        (encoding, ["--rounds", "0"]),
        (encoding, ["--chunks", "-1"]),
        (critics, ["--rounds", "0"]),
        (training_step, ["--rounds", "0"]),
        (export_benchmark, ["model", "data", "x.json", "--steps", "10"]),
    ],
)
def test_numbers_that_nothing_can_be_measured_with_are_refused_by_their_flags(benchmark_, flags, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmark", *flags])
    with pytest.raises(SystemExit):
        benchmark_.main()
    assert flags[-2] in capsys.readouterr().err


def test_a_stream_of_few_chunks_is_timed():
    assert encoding.streaming("sim-small", 1)["clock_ms"]["least"] > 0


def test_a_benchmark_makes_the_folder_of_its_table_before_it_measures(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["memory", "--table", str(tmp_path / "new" / "x.md")])
    monkeypatch.setattr(memory, "by_depth", lambda **_: (tmp_path / "new").is_dir())
    monkeypatch.setattr(memory, "table", str)
    memory.main()
    assert (tmp_path / "new" / "x.md").read_text() == "True"


def test_the_plain_formulation_has_as_many_parameters_and_starts_at_a_like_loss():
    config = SimConfig(hidden_size=32, context_size=16)
    torch.manual_seed(0)
    model, plain = SimForPreTraining(config).train(), PlainSim(config).train()
    inputs = torch.randn(4, 10240)
    assert sum(parameter.numel() for parameter in plain.parameters()) == model.num_parameters()
    # Initialization, noise and negatives are drawn alike, so the losses agree in distribution.
    ours = torch.stack([model(inputs).loss for _ in range(8)]).mean()
    theirs = torch.stack([plain(inputs) for _ in range(8)]).mean()
    torch.testing.assert_close(ours, theirs, rtol=0.15, atol=0)


def test_it_reports_every_way_to_run_the_step(monkeypatch):
    monkeypatch.setattr(training_step, "prepare_cpu", lambda: None)  # it would change all later tests
    config = SimConfig(hidden_size=32, context_size=16)
    figures = benchmark(config, batch_size=2, crop_samples=10240, steps=1, device="cpu")
    assert list(figures["ways"]) == ["plain", "joint", "per_module", "sequential", "bf16"]
    rows = figures["ways"]
    assert rows["plain"]["throughput_against_plain"] == 1
    assert rows["per_module"]["saved_megabytes"] < rows["joint"]["saved_megabytes"] < rows["plain"]["saved_megabytes"]
    assert rows["sequential"]["saved_megabytes"] <= rows["per_module"]["saved_megabytes"]
    assert rows["bf16"]["saved_megabytes"] < rows["per_module"]["saved_megabytes"]  # what autocast saves is in bfloat16
    assert sum(figures["module_share"].values()) == pytest.approx(1)
    assert "per_module" in table(figures)


def test_peak_memory_sees_what_a_call_holds():
    held = peak_megabytes(lambda: torch.ones(30_000_000).sum(), torch.device("cpu"))
    assert math.isnan(held) or held > 60  # 120 MB, less what was free before


def test_the_gaussian_critic_saves_the_matrices_of_the_convolutional_modules():
    rows = critics.benchmark("-small", batch_size=1, crop_samples=10400, rounds=1, device="cpu")
    parameters = {name: row["parameters"] for name, row in rows.items()}
    of_modules, of_context = 3 * 10 * 128 * 128, (10 - 7) * 128 * 64  # 7 offsets instead of 10 steps
    assert parameters["bilinear critic"] - parameters["Gaussian critic"] == of_modules + of_context
    assert rows["bilinear critic"]["time_against_bilinear"] == 1
    assert all(row["seconds_per_step"] > 0 for row in rows.values())
