"""Pretrains a Smooth InfoMax model, or one of its relatives, and saves a checkpoint that AutoModel loads.

With no argument it trains a small model on built-in synthetic speech:

    accelerate launch training/pretrain.py

Real speech, with the settings of a file and any of them overridden by flags:

    accelerate launch training/pretrain.py --config training/configs/librispeech_small.yaml --data_dir LibriSpeech

The output folder holds the checkpoint (`config.json`, `model.safetensors`, `preprocessor_config.json` and the code to
load it without this package), `log.jsonl`, `curves.png`, `results.json` and `training_settings.json`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from accelerate import Accelerator

from modeling_sim import SimConfig, SimFeatureExtractor, SimForPreTraining
from training.arguments import DataArguments, ModelArguments, PretrainingArguments, parse_arguments
from training.command import load_data, run_command
from training.greedy import EXECUTIONS
from training.latent_cache import cache_bytes, require_space
from training.pretraining_task import PretrainingTask


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    run_command("pretrain.py", lambda: parse_arguments(__doc__, argv), build)


def build(
    accelerator: Accelerator, model_arguments: ModelArguments, data: DataArguments, settings: PretrainingArguments
) -> PretrainingTask:
    """A model of the settings and what it is trained on.

    Raises:
        ValueError: Settings that do not go together.
    """
    model, extractor = build_model(model_arguments)
    check_execution(model.config, data, settings, accelerator)
    model.to(accelerator.device)
    train_data, test_data = load_data(accelerator, data, settings)
    check_negatives(model.config, data, settings, len(test_data))
    task = PretrainingTask(model, extractor, accelerator, data, settings, train_data, test_data)
    # A folder's name alone: the title is drawn into the curves, which are published.
    task.title = f"{data.corpus}, {Path(model_arguments.init_from or '').name or model_arguments.preset}"
    if settings.cache_latents:
        needed = cache_bytes(model.config, num_utterances=len(train_data), crop_samples=data.crop_samples)
        task.cache_note = require_space(Path(settings.output_dir), needed)
    return task


def check_execution(
    config: SimConfig, data: DataArguments, settings: PretrainingArguments, accelerator: Accelerator
) -> None:
    """Refuses executions that a model, the data or the processes do not allow."""
    for name in ("kl_warmup_steps", "pipeline_stages"):
        if getattr(settings, name) < 0:
            raise ValueError(f"`{name}` is {getattr(settings, name)}; it must be at least 0.")
    execution = settings.execution
    if execution not in EXECUTIONS:
        raise ValueError(f"`execution` is {execution!r}; choose one of {', '.join(EXECUTIONS)}.")
    if execution in ("sequential", "pipeline") and not config.gradient_isolation:
        raise ValueError(
            f"`execution` {execution!r} trains modules apart, but without `gradient_isolation` (CPC) they have one "
            "gradient; use 'joint'."
        )
    if settings.cache_latents and execution != "sequential":
        raise ValueError("`cache_latents` is for `execution` 'sequential', where modules below are finished.")
    if settings.cache_latents and data.corpus_settings.get("streaming"):
        raise ValueError("`cache_latents` needs random access; load the corpus without `streaming`.")
    if execution == "pipeline" and accelerator.num_processes == 1:
        raise ValueError(
            "`execution` 'pipeline' needs several processes: `accelerate launch --num_processes 4` on GPUs, "
            "`ACCELERATE_USE_CPU=true torchrun --nproc_per_node 4 training/pretrain.py` on CPUs."
        )
    if settings.gather_negatives and accelerator.num_processes == 1:
        raise ValueError("`gather_negatives` draws from other processes, and there is one; launch several.")


def check_negatives(config: SimConfig, data: DataArguments, settings: PretrainingArguments, num_test: int) -> None:
    """Refuses batches of one utterance where negatives come from other utterances."""
    if config.negatives != "other_utterances":
        return
    if settings.batch_size < 2:
        raise ValueError("`negatives` 'other_utterances' needs a `batch_size` of at least 2.")
    if num_test < 2:
        raise ValueError(
            f"`negatives` 'other_utterances' needs at least 2 utterances to evaluate on; split "
            f"{data.eval_split!r} of {data.corpus} has {num_test}."
        )


def build_model_config(arguments: ModelArguments) -> SimConfig:
    """The configuration of a new model."""
    return SimConfig.preset(arguments.preset, **arguments.model_settings)


def build_model(arguments: ModelArguments) -> tuple[SimForPreTraining, SimFeatureExtractor]:
    """A new model of a preset, or one to go on from, and its feature extractor."""
    if arguments.init_from is not None:
        if Path(arguments.init_from).is_absolute() and not Path(arguments.init_from).is_dir():
            raise FileNotFoundError(f"`init_from` is {arguments.init_from}, which is not a folder.")
        model = SimForPreTraining.from_pretrained(
            arguments.init_from, config=SimConfig.from_pretrained(arguments.init_from, **arguments.model_settings)
        ).float()
        return model, SimFeatureExtractor.from_pretrained(arguments.init_from)
    config = build_model_config(arguments)
    extractor = SimFeatureExtractor(sampling_rate=config.sampling_rate, min_samples=config.receptive_field())
    return SimForPreTraining(config), extractor


if __name__ == "__main__":
    sys.exit(main())
