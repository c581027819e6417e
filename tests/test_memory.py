"""The memory of a training step by depth."""

import torch

from benchmarks.memory import AliveMemory, by_depth, table


def test_alive_memory_counts_a_storage_until_its_last_tensor_is_gone():
    kept = torch.zeros(100)
    with AliveMemory() as memory:
        first = kept + 1  # 400 bytes
        view = first[:50]
        second = view * 2  # 200 bytes
        assert memory.bytes == 600
        del first, view
        assert memory.bytes == 200
        second.add_(kept[:50])  # in place: nothing new
        assert memory.bytes == 200
    assert memory.peak == 600


def test_memory_of_per_module_is_constant_in_depth_and_that_of_joint_linear():
    figures = by_depth((3, 24), hidden_size=16, batch_size=4, crop_samples=5120)
    peaks = {
        execution: [rows[depth]["activations_megabytes"] for depth in ("3", "24")]
        for execution, rows in figures["executions"].items()
    }
    assert peaks["per_module"][1] < 1.15 * peaks["per_module"][0]
    assert peaks["joint"][1] > 5 * peaks["joint"][0]

    assert "| activations, `per_module` |" in table(figures)
