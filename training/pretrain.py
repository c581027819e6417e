"""Pretrains a Smooth InfoMax model, or one of its relatives, and saves a checkpoint that AutoModel loads.

With no argument it trains a small model on built-in synthetic speech:

    accelerate launch training/pretrain.py

Real speech, with the settings of a file and any of them overridden by flags:

    accelerate launch training/pretrain.py --config training/configs/librispeech_small.yaml --data_dir LibriSpeech

The output folder holds the checkpoint (`config.json`, `model.safetensors`, `preprocessor_config.json` and the code to
load it without this package), `log.jsonl`, `curves.png`, `results.json` and `training_settings.json`.
"""

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset, IterableDataset
from filelock import FileLock, Timeout
from huggingface_hub.errors import StrictDataclassError
from tqdm.auto import tqdm
from transformers import set_seed

from modeling_sim import SimConfig, SimFeatureExtractor, SimForPreTraining
from modeling_sim.modeling_sim import SimModuleOutput
from training.arguments import DataArguments, ModelArguments, RunArguments, as_dict, parse_arguments
from training.audio import AudioError
from training.batches import crop_batches, utterance_batches
from training.checkpoints import find_checkpoint, read_checkpoint, remove_checkpoints, save_checkpoint, save_model
from training.corpora import corpus_info, load_corpus
from training.corpora.scan import BadAudioError
from training.curves import CURVES_NAME, write_curves
from training.evaluation import ModuleScores, evaluate
from training.files import write_json
from training.greedy import EXECUTIONS, backward_step, broadcast_parameters
from training.log import LOG_NAME, Log, MetricMeans
from training.optimization import Optimization
from training.provenance import git_revision, versions
from training.signals import StopRequest

RESULTS_NAME = "results.json"
SETTINGS_NAME = "training_settings.json"
# Utterances that a stream is shuffled within, as many as a few hundred MB hold.
SHUFFLE_BUFFER = 1000


@dataclass
class Counts:
    """How far a run has come; kept in its checkpoints."""

    step: int = 0
    position: int = 0
    """Crops that all processes together have read."""
    replaced: int = 0
    """Crops of files that broke while they were read, which other utterances stood in for."""
    seconds: float = 0.0
    """Time spent in steps."""


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
    optimization: Optimization
    means: MetricMeans
    counts: Counts
    untrained: list[ModuleScores]
    """Scores before the first step."""
    crops: Iterable[dict[str, Any]] = ()
    """Batches from the first step, or the next one, on."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    with contextlib.ExitStack() as stack:
        try:
            arguments = parse_arguments(__doc__, argv)
            accelerator = Accelerator()
            stack.enter_context(output_lock(Path(arguments[2].output_dir), accelerator))
            run = prepare(accelerator, *arguments)
        except StrictDataclassError as error:  # a field of SimConfig: one line instead of an indented chain
            raise SystemExit(f"pretrain.py: {' '.join(str(error).split())}") from error
        except (ValueError, OSError) as error:  # what the user can mend: the message says how, without a traceback
            raise SystemExit(f"pretrain.py: {error}") from error
        try:
            pretrain(run)
        except FloatingPointError as error:
            raise SystemExit(f"pretrain.py: {error}") from error
        except (AudioError, BadAudioError) as error:
            # A loader's worker wraps the message into its own traceback; the message is the last line of it.
            message = str(error) if isinstance(error, BadAudioError) else str(error).strip().splitlines()[-1]
            raise SystemExit(f"pretrain.py: {message}; leave such recordings out with --on_bad_audio skip.") from error
    accelerator.end_training()


def prepare(
    accelerator: Accelerator, model_arguments: ModelArguments, data: DataArguments, settings: RunArguments
) -> Run:
    """Everything a run needs, before its first step or its next one.

    Raises:
        ValueError: A setting is out of range, the corpus has recordings that cannot be used, or the checkpoint to
            resume from is of another model or not whole.
        FileExistsError: `output_dir` holds a finished run, and `overwrite_output_dir` is not set.
        FileNotFoundError: Data or a checkpoint is not there.
    """
    check_processes(accelerator)
    check_settings(settings)
    output_dir = Path(settings.output_dir)
    set_seed(settings.seed)
    model, extractor = build_model(model_arguments)
    model.to(accelerator.device)
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            prepare_output_dir(output_dir, overwrite=settings.overwrite_output_dir, resume=settings.resume)
        train_data, test_data = load_data(data, settings)
    check_negatives(model.config, data, settings, len(test_data))

    title = f"{data.corpus}, {model_arguments.init_from or model_arguments.preset}"
    log = Log(output_dir / LOG_NAME, accelerator, model.config, title=title)
    log.say(
        f"{title}: {model.num_parameters():,} parameters, {size(train_data) or 'a stream of'} utterances to train on "
        f"and {len(test_data)} to evaluate on, {accelerator.num_processes} process(es) on {accelerator.device.type}"
    )
    run = Run(
        accelerator,
        (model_arguments, data, settings),
        model,
        extractor,
        train_data,
        test_data,
        log,
        Optimization(model, accelerator, settings),
        MetricMeans(),
        Counts(),
        untrained=[],
    )
    resume(run)
    broadcast_parameters(model, accelerator)
    run.crops = crop_batches(
        train_data,
        extractor,
        crop_samples=data.crop_samples,
        batch_size=settings.batch_size,
        seed=settings.seed,
        start_position=run.counts.position,
        process_index=accelerator.process_index,
        num_processes=accelerator.num_processes,
        num_workers=data.num_workers,
        pin_memory=accelerator.device.type == "cuda",
        on_bad_audio=data.on_bad_audio,
    )
    return run


def resume(run: Run) -> None:
    """Goes on from a checkpoint if there is one to go on from, and says so."""
    settings, log = run.arguments[2], run.log
    checkpoint = None
    if settings.resume == "auto":
        checkpoint, broken = find_checkpoint(Path(settings.output_dir))
        for sentence in broken:
            log.say(f"{sentence}; trying the one before")
    elif settings.resume != "never":
        checkpoint = read_checkpoint(Path(settings.resume))
    log.keep_until(checkpoint.numbers["step"] if checkpoint is not None else -1)
    if checkpoint is None:
        return

    numbers = checkpoint.numbers
    now = comparable_config(run.model.config)
    then = comparable_config(SimConfig.from_pretrained(checkpoint.path))
    different = sorted(name for name in now if now[name] != then.get(name))
    if different:
        raise ValueError(
            f"{checkpoint.path} is of another model: {', '.join(different)} differ. Give the settings it was trained "
            "with, or another `output_dir`."
        )
    checkpoint.load_model(run.model)
    tensors = checkpoint.load_tensors()
    run.optimization.load_state_dict(tensors["optimization"])
    run.means.load_state_dict(tensors["means"], run.accelerator.device)
    run.counts = Counts(**numbers["counts"])
    run.untrained = [ModuleScores.from_dict(scores) for scores in numbers["untrained"]]
    log.say(f"resuming after step {run.counts.step}, from {checkpoint.path}")
    current = {**as_dict(run.arguments), "num_processes": run.accelerator.num_processes}
    for name, value in current.items():
        before = numbers["settings"].get(name)
        if before != value and name not in ("resume", "overwrite_output_dir", "output_dir"):
            log.say(f"  `{name}` was {before!r} and is now {value!r}")


def save(run: Run) -> None:
    """Writes a checkpoint; a full disk is reported, and training goes on."""
    settings = run.arguments[2]
    if not run.accelerator.is_main_process:
        return
    try:
        save_checkpoint(
            Path(settings.output_dir),
            run.model,
            run.extractor,
            step=run.counts.step,
            numbers={
                "counts": asdict(run.counts),
                "untrained": [scores.as_dict() for scores in run.untrained],
                "settings": {**as_dict(run.arguments), "num_processes": run.accelerator.num_processes},
            },
            tensors={"optimization": run.optimization.state_dict(), "means": run.means.state_dict()},
            limit=settings.save_total_limit,
        )
    except OSError as error:
        run.log.say(f"step {run.counts.step} could not be saved ({error}); earlier checkpoints are intact")


def pretrain(run: Run) -> None:
    """Trains, evaluates and saves one model.

    Raises:
        SystemExit: SIGTERM or SIGINT came; the state was saved, and the code is 128 plus the signal's number.
        FloatingPointError: `max_skipped_steps` steps in a row were not finite.
    """
    if not run.untrained:
        run.untrained = score(run, step=0)
    train(run)
    trained = score(run, step=run.counts.step)
    if run.accelerator.is_main_process:
        finish(run, trained)


def score(run: Run, *, step: int) -> list[ModuleScores]:
    """Scores the model on the held-out split and logs it."""
    _, data, settings = run.arguments
    batches = utterance_batches(
        run.test_data,
        run.extractor,
        batch_size=settings.eval_batch_size,
        min_utterances=2 if run.model.config.negatives == "other_utterances" else 1,
        process_index=run.accelerator.process_index,
        num_processes=run.accelerator.num_processes,
        num_workers=data.num_workers,
    )
    scores = evaluate(run.model, batches, run.accelerator, description="evaluating")
    run.log.write(step, "test", scores)
    return scores


def train(run: Run) -> None:
    """Runs the steps that are left."""
    accelerator, model, log, counts, optimization = run.accelerator, run.model, run.log, run.counts, run.optimization
    settings = run.arguments[2]
    batches = iter(run.crops)
    model.train()
    steps = range(counts.step + 1, settings.max_steps + 1)
    progress = tqdm(
        steps,
        desc="training",
        initial=counts.step,
        total=settings.max_steps,
        disable=not accelerator.is_main_process,
    )
    latest_ids: deque[list[str]] = deque(maxlen=settings.max_skipped_steps)
    with StopRequest(accelerator) as stop:
        for step in progress:
            started = time.perf_counter()
            batch = next(batches)
            latest_ids.append(batch["id"])
            input_values, attention_mask = to_device(batch, accelerator.device)
            optimization.begin_step()
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
            optimization.finish_step()
            run.means.add(outputs)
            logging = step % settings.logging_steps == 0 or step == settings.max_steps
            if logging:
                report(run, step, outputs, progress)
            counts.step = step
            counts.position += settings.batch_size * accelerator.num_processes
            counts.replaced += batch["num_replaced"]
            counts.seconds += time.perf_counter() - started
            if logging:
                check_finite(optimization, settings, latest_ids)
            if settings.eval_steps and step % settings.eval_steps == 0 and step < settings.max_steps:
                score(run, step=step)
            received = stop.agreed(together=logging)
            if received or (settings.save_steps and step % settings.save_steps == 0 and step < settings.max_steps):
                save(run)
            if received:
                log.say(f"stopped by {signal.Signals(received).name} after step {step}; the same command goes on")
                raise SystemExit(128 + received)


def report(run: Run, step: int, outputs: list[SimModuleOutput], progress: Any) -> None:
    """Logs the steps since the last report."""
    scores = run.means.scores(outputs)
    run.log.write(step, "train", scores, learning_rate=run.optimization.learning_rate)
    progress.set_postfix_str(run.log.summary(scores))


def check_finite(optimization: Optimization, settings: RunArguments, latest_ids: Sequence[list[str]]) -> None:
    """Stops a run whose steps are not finite any more.

    Raises:
        FloatingPointError: `max_skipped_steps` steps in a row had to be left out.
    """
    total, in_a_row = optimization.skipped()
    if in_a_row >= settings.max_skipped_steps:
        raise FloatingPointError(
            f"the gradient was not finite in the last {in_a_row} steps ({total} in all), and they were left out. "
            "Lower `learning_rate`, set `max_grad_norm` or the model's `log_variance_clamp`, or look at the "
            f"utterances of the latest batches: {'; '.join(', '.join(ids) for ids in latest_ids)}."
        )


def finish(run: Run, trained: list[ModuleScores]) -> None:
    """Writes the model, settings, curves and, last, the results, which mark the run as finished."""
    _, data, settings = run.arguments
    output_dir, log, counts = Path(settings.output_dir), run.log, run.counts
    move_model_into(run.model, run.extractor, output_dir)
    write_json(
        output_dir / SETTINGS_NAME, {"settings": as_dict(run.arguments), "versions": versions(), "git": git_revision()}
    )
    curves = write_curves(output_dir)
    write_json(
        output_dir / RESULTS_NAME,
        {
            "corpus": data.corpus,
            "corpus_license": corpus_info(data.corpus).license,
            "train_utterances": size(run.train_data),
            "test_utterances": len(run.test_data),
            "steps": counts.step,
            "steps_left_out": run.optimization.skipped()[0],
            "crops": counts.position,
            "crops_of_broken_files_replaced": counts.replaced,
            "seconds": round(counts.seconds, 2),
            "crops_per_second": round(counts.position / counts.seconds, 3),
            "parameters": run.model.num_parameters(),
            "contrastive_accuracy_chance": log.chance,
            "modules": [
                {"name": name, "trained": after.as_dict(), "untrained": before.as_dict()}
                for name, before, after in zip(run.model.config.module_names, run.untrained, trained, strict=True)
            ],
        },
    )
    log.say(f"held-out speech after {counts.step} steps: {log.summary(trained)}")
    log.say(f"the same network untrained: {log.summary(run.untrained)}")
    if counts.replaced:
        log.say(f"{counts.replaced} crops came from files that broke while they were read; other utterances stood in")
    log.say(
        f"{counts.position / counts.seconds:.1f} crops a second; checkpoint and {RESULTS_NAME} in {output_dir}, "
        f"picture {curves}"
    )


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
        ("save_steps", 0), ("save_total_limit", 1), ("max_skipped_steps", 1),
    ):  # fmt: skip
        if getattr(settings, name) < least:
            raise ValueError(f"`{name}` is {getattr(settings, name)}; it must be at least {least}.")
    if settings.learning_rate <= 0:
        raise ValueError(f"`learning_rate` is {settings.learning_rate}; it must be above 0.")
    if settings.execution not in EXECUTIONS:
        raise ValueError(f"`execution` is {settings.execution!r}; choose one of {', '.join(EXECUTIONS)}.")


@contextlib.contextmanager
def output_lock(output_dir: Path, accelerator: Accelerator) -> Iterator[None]:
    """Keeps a second trainer out of the output folder; the lock goes with the process, however it ends.

    Raises:
        OSError: Another trainer holds the folder, or it cannot be written.
    """
    if not accelerator.is_main_process:
        yield
        return
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(f"`output_dir` {output_dir} is a file, or lies below one; give a folder.") from error
    lock = FileLock(output_dir / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BlockingIOError(
            f"`output_dir` {output_dir} is in use by another trainer; wait for it, or give another folder."
        ) from error
    with lock:
        yield


def check_negatives(config: SimConfig, data: DataArguments, settings: RunArguments, num_test: int) -> None:
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


def prepare_output_dir(output_dir: Path, *, overwrite: bool, resume: str) -> None:
    """Refuses to write over a finished run, or clears it away if that is wanted."""
    if overwrite:
        remove_checkpoints(output_dir)
        for name in (RESULTS_NAME, LOG_NAME, SETTINGS_NAME, CURVES_NAME, "config.json"):
            (output_dir / name).unlink(missing_ok=True)
        return
    if (output_dir / RESULTS_NAME).exists():
        raise FileExistsError(
            f"`output_dir` {output_dir} holds a finished run; give another folder, or --overwrite_output_dir to "
            "replace it."
        )
    if resume == "never" and find_checkpoint(output_dir)[0] is not None:
        raise FileExistsError(
            f"`output_dir` {output_dir} holds checkpoints of a run that was not finished; resume it, give another "
            "folder, or --overwrite_output_dir to replace it."
        )


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

    # A stream cannot be scanned beforehand: what breaks half-way is found by decoding each recording as it passes.
    train_data = load(data.train_split, "train", decode_all=skip and bool(corpus_settings.get("streaming")))
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
        if Path(arguments.init_from).is_absolute() and not Path(arguments.init_from).is_dir():
            raise FileNotFoundError(f"`init_from` is {arguments.init_from}, which is not a folder.")
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


def comparable_config(config: SimConfig) -> dict[str, Any]:
    """The fields of a configuration that make it another model, as JSON holds them."""
    return {name: value for name, value in config.to_dict().items() if name in SimConfig.__annotations__}


def move_model_into(model: SimForPreTraining, extractor: SimFeatureExtractor, output_dir: Path) -> None:
    """Writes model and extractor beside their place first, then moves each file in, weights last."""
    with tempfile.TemporaryDirectory(dir=output_dir, prefix=".saving-") as temporary:
        save_model(model, extractor, Path(temporary))
        for file in sorted(Path(temporary).iterdir(), key=lambda file: file.suffix == ".safetensors"):
            file.replace(output_dir / file.name)


if __name__ == "__main__":
    sys.exit(main())
