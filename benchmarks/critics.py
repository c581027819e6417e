"""Times a training step with the Gaussian critic against one with the bilinear critic, in one run.

    python benchmarks/critics.py --output benchmarks/results/critics.json

All models have the channels of a preset and take the same input; steps alternate, so that changes of the machine's
speed affect all of them. Quote the ratio.
"""

import statistics
from argparse import ArgumentParser
from typing import Any

import torch
from tqdm.auto import tqdm

from benchmarks.arguments import output_file
from benchmarks.training_step import add_step_arguments, package_step, seconds_of
from modeling_sim import SimConfig
from modeling_sim.files import write_json
from modeling_sim.settings import HelpFormatter


def configs(width: str) -> dict[str, SimConfig]:
    """The variants, from the critic of the paper to the preset, with the channels of presets ending in `width`."""
    readable = SimConfig.preset(f"sim-readable{width}")
    critic = {name: getattr(readable, name) for name in ("critic", "prediction_offsets")}
    negatives = {name: getattr(readable, name) for name in ("num_negatives", "negative_sharing")}
    return {
        "bilinear critic": SimConfig.preset(f"sim{width}"),
        "Gaussian critic": SimConfig.preset(f"sim{width}", **critic),
        "and negatives of the batch": SimConfig.preset(f"sim{width}", **critic, **negatives),
        "sim-readable": readable,
    }


def benchmark(width: str, *, batch_size: int, crop_samples: int, rounds: int, device: str) -> dict[str, Any]:
    """Parameters, seconds per step, and the time relative to the bilinear critic, by variant."""
    torch.manual_seed(0)
    inputs = 0.1 * torch.randn(batch_size, crop_samples, device=device)
    ways = {name: package_step(config, inputs, "per_module") for name, config in configs(width).items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in tqdm(range(rounds + 1), desc=f"rounds of sim{width}"):
        for name, (_, step) in ways.items():
            taken = seconds_of(step, inputs.device)
            if number:  # the first step allocates memory
                seconds[name].append(taken)
    bilinear = seconds["bilinear critic"]
    return {
        name: {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "seconds_per_step": statistics.median(seconds[name]),
            # Ratios per round, in which the machine was in the same state for all steps.
            "time_against_bilinear": statistics.median(
                own / other for own, other in zip(seconds[name], bilinear, strict=True)
            ),
        }
        for name, (model, _) in ways.items()
    }


def main() -> None:
    """Runs the command."""
    parser = ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add_step_arguments(parser, rounds=11)
    parser.add_argument("--output", type=output_file, help="JSON file for the results.")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sizes = {"batch_size": arguments.batch_size, "crop_samples": arguments.crop_samples}
    figures: dict[str, Any] = {"schema": 1, "device": arguments.device, "threads": arguments.threads, **sizes}
    figures["presets"] = {
        f"sim{width}": benchmark(width, **sizes, rounds=arguments.rounds, device=arguments.device)
        for width in ("", "-small")
    }
    for preset, rows in figures["presets"].items():
        print(f"\n{preset:<28}{'parameters':>12}{'s/step':>9}{'x bilinear':>12}")
        for name, row in rows.items():
            ratio = row["time_against_bilinear"]
            print(f"{name:<28}{row['parameters']:>12,}{row['seconds_per_step']:>9.3f}{ratio:>12.2f}")
    if arguments.output:
        write_json(arguments.output, figures)


if __name__ == "__main__":
    main()
