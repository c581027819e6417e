"""Pretrains a Smooth InfoMax model, or one of its relatives, and saves a checkpoint that AutoModel loads.

With no argument it trains a small model on built-in synthetic speech:

    accelerate launch training/pretrain.py

Real speech, with the settings of a file and any of them overridden by flags:

    accelerate launch training/pretrain.py --config training/configs/librispeech_small.yaml --data_dir LibriSpeech

The output folder holds the checkpoint (`config.json`, `model.safetensors`, `preprocessor_config.json` and the code to
load it without this package), `log.jsonl`, `curves.png`, `results.json` and `training_settings.json`.
"""

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset, IterableDataset
from tqdm.auto import tqdm
from transformers import get_scheduler, set_seed

from modeling_sim import SimConfig, SimFeatureExtractor, SimForPreTraining
from training.arguments import DataArguments, ModelArguments, RunArguments, as_dict, parse_arguments
from training.batches import crop_batches, utterance_batches
from training.corpora import corpus_info, load_corpus
from training.curves import write_curves
from training.evaluation import ModuleScores, evaluate
from training.files import write_json
from training.greedy import EXECUTIONS, backward_step, broadcast_parameters, clip_gradients
from training.log import LOG_NAME, Log, MetricMeans
from training.provenance import git_revision, versions

RESULTS_NAME = "results.json"
SETTINGS_NAME = "training_settings.json"
# Utterances that a stream is shuffled within, as many as a few hundred MB hold.
SHUFFLE_BUFFER = 1000


@dataclass
class Run:
    """What the parts of a run share."""

    accelerator: Accelerator
    arguments: tuple[ModelArguments, DataArguments, RunArguments]
    model: SimForPreTraining
    extractor: SimFeatureExtractor
    train_data: Dataset | IterableDataset
    test_data: Dataset
    log: Log


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    try:
        arguments = parse_arguments(__doc__, argv)
        run = prepare(Accelerator(), *arguments)
    except (ValueError, OSError) as error:  # what the user can mend: the message says how, a traceback would hide it
        raise SystemExit(f"pretrain.py: {error}") from error
    pretrain(run)
    run.accelerator.end_training()


def prepare(
    accelerator: Accelerator, model_arguments: ModelArguments, data: DataArguments, settings: RunArguments
) -> Run:
    """Everything a run needs, before its first step.

    Raises:
        ValueError: A setting is out of range, or the corpus has recordings that cannot be used.
        FileExistsError: `output_dir` holds a run already, and `overwrite_output_dir` is not set.
        FileNotFoundError: Data or a checkpoint is not there.
    """
    check_processes(accelerator)
    check_settings(settings)
    output_dir = Path(settings.output_dir)
    set_seed(settings.seed)
    model, extractor = build_model(model_arguments)
    model.to(accelerator.device)
    broadcast_parameters(model, accelerator)
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            prepare_output_dir(output_dir, overwrite=settings.overwrite_output_dir)
        train_data, test_data = load_data(data, settings)

    title = f"{data.corpus}, {model_arguments.init_from or model_arguments.preset}"
    log = Log(output_dir / LOG_NAME, accelerator, model.config, title=title)
    log.say(
        f"{title}: {model.num_parameters():,} parameters, {size(train_data) or 'a stream of'} utterances to train on "
        f"and {len(test_data)} to evaluate on, {accelerator.num_processes} process(es) on {accelerator.device.type}"
    )
    return Run(accelerator, (model_arguments, data, settings), model, extractor, train_data, test_data, log)


def pretrain(run: Run) -> None:
    """Trains, evaluates and saves one model."""
    _, _, settings = run.arguments
    untrained = score(run, step=0)
    seconds, replaced = train(run)
    trained = score(run, step=settings.max_steps)
    if run.accelerator.is_main_process:
        finish(run, untrained, trained, seconds, replaced)


def score(run: Run, *, step: int) -> list[ModuleScores]:
    """Scores the model on the held-out split and logs it."""
    _, data, settings = run.arguments
    batches = utterance_batches(
        run.test_data,
        run.extractor,
        batch_size=settings.eval_batch_size,
        process_index=run.accelerator.process_index,
        num_processes=run.accelerator.num_processes,
        num_workers=data.num_workers,
    )
    scores = evaluate(run.model, batches, run.accelerator, description="evaluating")
    run.log.write(step, "test", scores)
    return scores


def train(run: Run) -> tuple[float, int]:
    """Runs all steps; returns the seconds they took, evaluations left out, and the crops of broken files replaced."""
    accelerator, model, log = run.accelerator, run.model, run.log
    _, data, settings = run.arguments
    optimizer = accelerator.prepare(
        torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    )
    scheduler = get_scheduler(settings.lr_scheduler_type, optimizer, settings.warmup_steps, settings.max_steps)
    batches = iter(
        crop_batches(
            run.train_data,
            run.extractor,
            crop_samples=data.crop_samples,
            batch_size=settings.batch_size,
            seed=settings.seed,
            process_index=accelerator.process_index,
            num_processes=accelerator.num_processes,
            num_workers=data.num_workers,
            pin_memory=accelerator.device.type == "cuda",
            on_bad_audio=data.on_bad_audio,
        )
    )
    model.train()
    means = MetricMeans()
    started, evaluating, replaced = time.perf_counter(), 0.0, 0
    progress = tqdm(range(1, settings.max_steps + 1), desc="training", disable=not accelerator.is_main_process)
    for step in progress:
        batch = next(batches)
        replaced += batch["num_replaced"]
        input_values, attention_mask = to_device(batch, accelerator.device)
        outputs = backward_step(
            model,
            accelerator,
            input_values,
            attention_mask,
            execution=settings.execution,
            seed=settings.seed,
            step=step,
            kl_weight_scale=min(1.0, step / settings.kl_warmup_steps) if settings.kl_warmup_steps else 1.0,
        )
        if settings.max_grad_norm:
            clip_gradients(model, settings.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        means.add(outputs)
        if step % settings.logging_steps == 0 or step == settings.max_steps:
            scores = means.scores(outputs)
            log.write(step, "train", scores, learning_rate=scheduler.get_last_lr()[0])
            progress.set_postfix_str(log.summary(scores))
        if settings.eval_steps and step % settings.eval_steps == 0 and step < settings.max_steps:
            before = time.perf_counter()
            score(run, step=step)
            evaluating += time.perf_counter() - before
    return time.perf_counter() - started - evaluating, replaced


def finish(run: Run, untrained: list[ModuleScores], trained: list[ModuleScores], seconds: float, replaced: int) -> None:
    """Writes checkpoint, settings, results and curves."""
    _, data, settings = run.arguments
    output_dir, log = Path(settings.output_dir), run.log
    crops = settings.max_steps * settings.batch_size * run.accelerator.num_processes
    save_checkpoint(run.model, run.extractor, output_dir)
    write_json(
        output_dir / SETTINGS_NAME, {"settings": as_dict(run.arguments), "versions": versions(), "git": git_revision()}
    )
    write_json(
        output_dir / RESULTS_NAME,
        {
            "corpus": data.corpus,
            "corpus_license": corpus_info(data.corpus).license,
            "train_utterances": size(run.train_data),
            "test_utterances": len(run.test_data),
            "steps": settings.max_steps,
            "crops": crops,
            "crops_of_broken_files_replaced": replaced,
            "seconds": round(seconds, 2),
            "crops_per_second": round(crops / seconds, 3),
            "parameters": run.model.num_parameters(),
            "contrastive_accuracy_chance": log.chance,
            "modules": [
                {"name": name, "trained": after.as_dict(), "untrained": before.as_dict()}
                for name, before, after in zip(run.model.config.module_names, untrained, trained, strict=True)
            ],
        },
    )
    curves = write_curves(output_dir)
    log.say(f"held-out speech after {settings.max_steps} steps: {log.summary(trained)}")
    if replaced:
        log.say(f"{replaced} crops came from files that broke while they were read; other utterances stood in")
    log.say(f"the same network untrained: {log.summary(untrained)}")
    log.say(f"{crops / seconds:.1f} crops a second; checkpoint and {RESULTS_NAME} in {output_dir}, picture {curves}")


# ---------------------------------------------------------------------- parts of a run


def check_processes(accelerator: Accelerator) -> None:
    """Refuses to train when the launcher started several processes that do not know of each other."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise ValueError(
            f"{launched} processes were launched, but accelerate sees {accelerator.num_processes}: each would train "
            "alone and overwrite the others' files. On CPUs, set ACCELERATE_USE_CPU=true and launch with "
            "`torchrun --nproc_per_node N`."
        )


def check_settings(settings: RunArguments) -> None:
    """Refuses what would fail later, or run and mean nothing."""
    for name, least in (
        ("max_steps", 1), ("batch_size", 1), ("eval_batch_size", 1), ("logging_steps", 1),
        ("warmup_steps", 0), ("kl_warmup_steps", 0), ("eval_steps", 0), ("max_grad_norm", 0), ("seed", 0),
    ):  # fmt: skip
        if getattr(settings, name) < least:
            raise ValueError(f"`{name}` is {getattr(settings, name)}; it must be at least {least}.")
    if settings.learning_rate <= 0:
        raise ValueError(f"`learning_rate` is {settings.learning_rate}; it must be above 0.")
    if settings.execution not in EXECUTIONS:
        raise ValueError(f"`execution` is {settings.execution!r}; choose one of {', '.join(EXECUTIONS)}.")


def prepare_output_dir(output_dir: Path, *, overwrite: bool) -> None:
    """Makes the folder of a run, or clears away the files of an earlier one if that is wanted."""
    written = [LOG_NAME, RESULTS_NAME, SETTINGS_NAME, "config.json"]
    earlier = [name for name in written if (output_dir / name).exists()]
    if earlier and not overwrite:
        raise FileExistsError(
            f"`output_dir` {output_dir} holds an earlier run ({', '.join(earlier)}); give another folder, or "
            "--overwrite_output_dir to replace it."
        )
    output_dir.mkdir(parents=True, exist_ok=True)
    for name in earlier:
        (output_dir / name).unlink()


def load_data(data: DataArguments, settings: RunArguments) -> tuple[Dataset | IterableDataset, Dataset]:
    """The corpus' splits to train and to evaluate on; a stream is shuffled, and only ever trained on.

    Under `on_bad_audio` "skip" the recordings that are left out are listed in the output folder.
    """
    corpus_settings: dict[str, Any] = dict(data.corpus_settings)
    if data.data_dir is not None:
        corpus_settings["data_dir"] = data.data_dir
    skip = data.on_bad_audio == "skip"

    def load(split: str, name: str, **more: Any) -> Any:
        bad_audio_list = Path(settings.output_dir) / f"bad_audio_{name}.tsv" if skip else None
        arguments = {**corpus_settings, **more}
        return load_corpus(
            data.corpus, split, on_bad_audio=data.on_bad_audio, bad_audio_list=bad_audio_list, **arguments
        )

    train_data = load(data.train_split, "train")
    if isinstance(train_data, IterableDataset):
        train_data = train_data.shuffle(seed=settings.seed, buffer_size=SHUFFLE_BUFFER)
    # Evaluation reads every utterance once: one that breaks half-way has no replacement and is found beforehand.
    map_style = {"streaming": False} if corpus_settings.get("streaming") else {}
    return train_data, load(data.eval_split, "eval", decode_all=skip, **map_style)


def size(dataset: Dataset | IterableDataset) -> int | None:
    """Utterances of a data set; `None` for a stream, which does not know."""
    return None if isinstance(dataset, IterableDataset) else len(dataset)


def build_model(arguments: ModelArguments) -> tuple[SimForPreTraining, SimFeatureExtractor]:
    """A new model of a preset, or one to go on from, and its feature extractor."""
    if arguments.init_from is not None:
        model = SimForPreTraining.from_pretrained(
            arguments.init_from, config=SimConfig.from_pretrained(arguments.init_from, **arguments.model_settings)
        ).float()
        return model, SimFeatureExtractor.from_pretrained(arguments.init_from)
    config = SimConfig.preset(arguments.preset, **arguments.model_settings)
    extractor = SimFeatureExtractor(sampling_rate=config.sampling_rate, min_samples=config.receptive_field())
    return SimForPreTraining(config), extractor


def to_device(batch: dict[str, Any], device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Samples and mask of a batch on the device; no mask where nothing is padded, which is faster."""
    attention_mask = batch["attention_mask"]
    if attention_mask.all():  # still on the CPU: nothing waits
        return batch["input_values"].to(device, non_blocking=True), None
    return batch["input_values"].to(device, non_blocking=True), attention_mask.to(device, non_blocking=True)


def save_checkpoint(model: SimForPreTraining, extractor: SimFeatureExtractor, output_dir: Path) -> None:
    """Writes model and extractor beside the run's folder first, then moves each file in, weights last."""
    with tempfile.TemporaryDirectory(dir=output_dir, prefix=".saving-") as temporary:
        model.save_pretrained(temporary)
        extractor.save_pretrained(temporary)
        for file in sorted(Path(temporary).iterdir(), key=lambda file: file.suffix == ".safetensors"):
            file.replace(output_dir / file.name)


if __name__ == "__main__":
    sys.exit(main())
