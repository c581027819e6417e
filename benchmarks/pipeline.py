"""Times steps of a pipeline; run by `training_step.py` with one process per stage.

ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 -m benchmarks.pipeline figures.json --preset sim
"""

import itertools
import statistics
import time
from argparse import ArgumentParser

import torch
from accelerate import Accelerator

from modeling_sim import SimConfig, SimForPreTraining
from modeling_sim.files import write_json
from modeling_sim.trainer.devices import prepare_cpu
from modeling_sim.trainer.greedy import GradientAverages, backward_modules
from modeling_sim.trainer.pipeline import Pipeline, measure_costs, share_out


def main() -> None:
    """Writes seconds per step and the modules of each stage."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("output")
    parser.add_argument("--preset", required=True)
    parser.add_argument("--batch_size", type=int, required=True)
    parser.add_argument("--crop_samples", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    arguments = parser.parse_args()

    accelerator = Accelerator()
    if accelerator.device.type == "cpu":
        prepare_cpu()
    torch.manual_seed(0)
    model = SimForPreTraining(SimConfig.preset(arguments.preset)).to(accelerator.device).train()
    sizes = {"batch_size": arguments.batch_size, "crop_samples": arguments.crop_samples}
    costs = measure_costs(model, accelerator, **sizes)
    pipeline = Pipeline(model, accelerator, share_out(costs, accelerator.num_processes))
    parameters = [parameter for module in pipeline.placement.modules for parameter in model.module_parameters(module)]
    optimizer = torch.optim.AdamW(parameters, lr=2e-4, weight_decay=0.0, fused=True)
    inputs = 0.1 * torch.randn(arguments.batch_size, arguments.crop_samples, device=accelerator.device)

    ends = []
    for step in range(1, arguments.steps + 2):
        hidden_states, lengths = model.sim.prepare_inputs(inputs) if pipeline.is_first else pipeline.receive()
        averages = GradientAverages(pipeline.placement)
        outputs = backward_modules(
            model,
            accelerator,
            pipeline.placement,
            hidden_states,
            lengths,
            averages=averages,
            execution="per_module",
            trained=range(model.config.num_modules),
            seed=0,
            step=step,
        )
        for _ in pipeline.handing_on(outputs):
            pass
        averages.finish()
        optimizer.step()
        optimizer.zero_grad()
        ends.append(time.perf_counter())
    pipeline.drain()
    # A step is complete when the last stage has finished it; the first step fills the pipeline.
    seconds = torch.tensor(statistics.median(later - earlier for earlier, later in itertools.pairwise(ends)))
    torch.distributed.broadcast(seconds, accelerator.num_processes - 1)
    if accelerator.is_main_process:
        stages = [[model.config.module_names[module] for module in stage] for stage in pipeline.stages]
        write_json(arguments.output, {"seconds_per_step": float(seconds), "stages": stages})
    accelerator.end_training()


if __name__ == "__main__":
    main()
