"""Pretraining losses of a model on a complete held-out data set."""

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from modeling_sim import SimForPreTraining
from modeling_sim.objectives_sim import ACTIVE_UNIT_VARIANCE
from modeling_sim.trainer.log import bars_are_shown


@dataclass(frozen=True)
class ModuleScores:
    """Scores of one module; see `SimForPreTrainingOutput`.

    Args:
        loss: `contrastive_loss + kl_weight * kl`.
        contrastive_loss: InfoNCE in nats.
        contrastive_accuracy: Fraction of targets that score above all negatives.
        kl: KL divergence to N(0, I) in nats per frame.
        active_units: Channels whose mean has a variance over frames above 0.01 (Burda et al. 2016).
    """

    loss: float
    contrastive_loss: float
    contrastive_accuracy: float
    kl: float
    active_units: int


@torch.no_grad()
def evaluate(
    model: SimForPreTraining, batches: Any, accelerator: Accelerator, *, description: str
) -> list[ModuleScores]:
    """Scores every module on all batches, in evaluation mode, with means as latents and reproducible negatives.

    Contrastive scores are means over the rows of the batches, KL and active units over frames. A row is an utterance;
    `utterance_batches(..., cut=True)` cuts an utterance longer than 40 seconds into several rows to bound memory.

    Args:
        model: The model; keeps its training mode.
        batches: Dicts with `input_values` and `attention_mask`, the share of this process; see `utterance_batches`.
        accelerator: Provides the device, and sums over the processes.
        description: Label of the progress bar.
    """
    config, was_training = model.config, model.training
    model.eval()
    device, modules = accelerator.device, range(config.num_modules)
    # Sums of: loss, contrastive loss, accuracy (over utterances), KL, 1 (over frames), and the number of utterances.
    sums = torch.zeros(config.num_modules, 6, dtype=torch.float64, device=device)
    widths = [config.num_latents] * config.num_conv_modules + [config.context_size] * (config.context_size > 0)
    first_moments = [torch.zeros(width, dtype=torch.float64, device=device) for width in widths]
    second_moments = [torch.zeros(width, dtype=torch.float64, device=device) for width in widths]
    for batch in tqdm(batches, desc=description, leave=False, disable=not bars_are_shown(accelerator)):
        hidden_states, lengths = model.sim.prepare_inputs(
            batch["input_values"].to(device), batch["attention_mask"].to(device)
        )
        utterances = len(hidden_states)
        for module in modules:
            with accelerator.autocast():
                output = model.module_objective(module, hidden_states, lengths)
            hidden_states, lengths = output.hidden_state, output.lengths
            frames = lengths.sum()
            scores = torch.stack([output.loss, output.contrastive_loss, output.contrastive_accuracy])
            sums[module, :3] += utterances * scores
            sums[module, 3] += frames * output.kl_loss
            sums[module, 4] += frames
            sums[module, 5] += utterances
            first_moments[module] += output.mean.double().sum(dim=(0, 1))  # padded frames are 0
            second_moments[module] += output.mean.double().square().sum(dim=(0, 1))
    for tensor in [sums, *first_moments, *second_moments]:
        if accelerator.num_processes > 1:
            torch.distributed.all_reduce(tensor)
    model.train(was_training)

    result = []
    for module in modules:
        loss, contrastive_loss, accuracy, kl, frames, utterances = sums[module].tolist()
        variance = second_moments[module] / frames - (first_moments[module] / frames).square()
        result.append(
            ModuleScores(
                loss=loss / utterances,
                contrastive_loss=contrastive_loss / utterances,
                contrastive_accuracy=accuracy / utterances,
                kl=kl / frames,
                active_units=int((variance > ACTIVE_UNIT_VARIANCE).sum()),
            )
        )
    return result
