"""Everything around the loop of a training command: settings, folder, data, trackers, results, one-line errors.

A command is a function that builds a `Task` from its settings; `run_command` does the rest.
"""

import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import parse_flag_from_env
from datasets import Dataset, IterableDataset
from transformers import set_seed

from modeling_sim.configuration_sim import SimConfig
from modeling_sim.data.audio import AudioError
from modeling_sim.data.batches import ReaderError
from modeling_sim.data.corpora import corpus_info, load_corpus
from modeling_sim.data.corpora.contract import check_signal
from modeling_sim.data.corpora.overlap import say_shared_recordings
from modeling_sim.data.corpora.scan import BadAudioError
from modeling_sim.data.licenses import license_of_model, strictest
from modeling_sim.data.signals import positions
from modeling_sim.files import finite_or_none, nearest, save_results
from modeling_sim.provenance import git_revision, hardware, held_out_speakers, hours, hub_dataset, hub_id, versions
from modeling_sim.settings import as_dict, errors_in_one_line
from modeling_sim.text import counted, in_one_line
from modeling_sim.trainer.checkpoints import own_checkpoints, read_kept
from modeling_sim.trainer.devices import check_device, prepare_cpu, prepare_cuda, what_to_set
from modeling_sim.trainer.greedy import broadcast
from modeling_sim.trainer.log import Log, Scores, prepare_output
from modeling_sim.trainer.loop import (
    SAVING_ERRORS,
    Callback,
    Run,
    check_processes,
    check_resumable,
    resume,
    steps_of_epochs,
    train,
)
from modeling_sim.trainer.optimization import Optimization
from modeling_sim.trainer.run_folder import RunFolder
from modeling_sim.trainer.settings import DataArguments, RunArguments
from modeling_sim.trainer.task import Task

# Utterances in the shuffle buffer of a stream, a few hundred MB.
SHUFFLE_BUFFER = 1000


Build = Callable[..., Task]


def run_command(name: str, parse: Callable[[], tuple[Sequence[Any], list[Callback]]], build: Build) -> None:
    """Builds and trains a task, and writes model and results.

    Args:
        name: Name of the command in messages.
        parse: Returns the settings and the callbacks. The settings are dataclasses: one is a `DataArguments`, and the
            last is a `RunArguments`. Callbacks are called in the given order.
        build: Builds the task from an accelerator and the settings; see `prepare`.
    """
    with contextlib.ExitStack() as stack:
        with errors_in_one_line(name):
            groups, callbacks = parse()
            settings: RunArguments = groups[-1]
            folder = RunFolder(settings.output_dir)
            prepare_output(disable_tqdm=settings.disable_tqdm)
            accelerator = make_accelerator(settings)
            stack.enter_context(folder.lock(accelerator))
            try:
                run = prepare(accelerator, groups, build)
            except torch.OutOfMemoryError as error:  # before the first step: the model itself does not fit
                raise OSError(
                    f"out of GPU memory while loading the model ({in_one_line(error)}); choose another GPU with "
                    "CUDA_VISIBLE_DEVICES or a smaller --preset, or train on the CPU with ACCELERATE_USE_CPU=true."
                ) from error
            except RunIsFinishedError as finished:
                run = None
                if accelerator.is_main_process:
                    print(finished)
        callbacks = callbacks if accelerator.is_main_process else []
        for callback in callbacks:
            stack.callback(callback.close)
            callback.on_begin(folder.path, print if run is None else run.log.say)
        if run is not None:
            stack.callback(run.task.schedule.close)
            run.callbacks = callbacks
            train_and_finish(name, run)
        for callback in callbacks:
            callback.on_end(folder.path)
        accelerator.end_training()


def train_and_finish(name: str, run: Run) -> None:
    """Trains, and writes the model and the results.

    Args:
        name: Name of the command in messages.
        run: The result of `prepare`.

    Raises:
        SystemExit: Training or writing failed; the message names the checkpoint to resume from.
    """
    try:
        trained = train(run)
    except FloatingPointError as error:
        raise SystemExit(f"{name}: {error}") from error
    except torch.OutOfMemoryError as error:
        sentence = what_to_set(run.settings, run.accelerator.mixed_precision, in_evaluation=run.evaluating)
        raise SystemExit(f"{name}: {sentence}; {_what_is_kept(run)}.") from error
    except ReaderError as error:
        raise SystemExit(f"{name}: {in_one_line(error)}; {_what_is_kept(run)}.") from error
    except (AudioError, BadAudioError) as error:
        # A loader's worker adds its traceback; the message is the last line.
        message = str(error) if isinstance(error, BadAudioError) else str(error).strip().splitlines()[-1]
        raise SystemExit(f"{name}: {message}; set --on_bad_audio skip to skip such recordings.") from error
    skipped = int(run.task.schedule.gather_rows(run.optimization.skipped_steps)[:, 0].max())
    if not run.accelerator.is_main_process:
        return
    try:
        finish(run, trained, steps_left_out=skipped)
    except SAVING_ERRORS as error:
        raise SystemExit(
            f"{name}: could not write the finished model to {run.folder.path} ({in_one_line(error)}); "
            f"{_what_is_kept(run)}."
        ) from error


class RunIsFinishedError(Exception):
    """The output folder holds a finished run with the same settings."""


def make_accelerator(settings: RunArguments) -> Accelerator:
    """An accelerator with the mixed precision and the trackers of the settings.

    Raises:
        ValueError: The precision or a tracker is unknown, a tracker is not installed, or the device is not usable.
    """
    if settings.mixed_precision not in (None, "no", "bf16", "fp16"):
        raise ValueError(f"`mixed_precision` is {settings.mixed_precision!r}; choose no, bf16 or fp16.")
    trackers = [name.strip() for name in settings.report_to.split(",") if name.strip() not in ("", "none")]
    check_trackers(trackers)
    prepare_cuda()
    # `Accelerator` reuses this state, which only detects several processes on CPUs if `cpu` is set.
    on_cpu = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).device.type == "cpu"
    if on_cpu:
        prepare_cpu()
    accelerator = Accelerator(
        mixed_precision=settings.mixed_precision, log_with=trackers or None, project_dir=settings.output_dir
    )
    check_device(accelerator)
    return accelerator


def prepare(accelerator: Accelerator, groups: Sequence[Any], build: Build) -> Run:
    """Prepares a new or resumed run.

    Args:
        accelerator: Provides processes and device.
        groups: The settings.
        build: Builds the task from `(accelerator, *groups)`, after the seed is set: the model on the device, and the
            data of `load_data`.

    Raises:
        ValueError: A setting is out of range, the corpus has unusable recordings, or the checkpoint to resume from is
            corrupt or differs from the model's configuration.
        FileExistsError: `output_dir` holds files of another program, the model to start from, or a different finished
            run and `overwrite_output_dir` is not set.
        RunIsFinishedError: `output_dir` holds this run, and it is finished.
        FileNotFoundError: Data or a checkpoint does not exist.
        OSError: There is not enough disk space.
    """
    settings: RunArguments = groups[-1]
    check_processes(accelerator)
    settings.validate()
    set_seed(settings.seed)
    task = build(accelerator, *groups)
    folder = RunFolder(settings.output_dir)
    log = Log(
        folder.log,
        accelerator,
        title=task.title,
        row_names=task.row_names,
        chance=task.chance,
    )
    number = size(task.train_data)
    log.say(
        f"{task.title}: {task.model.num_parameters():,} parameters, "
        f"{counted(number, 'utterance') if number else 'a stream of utterances'} to train on and {len(task.test_data)} "
        f"to evaluate on, {counted(accelerator.num_processes, 'process', 'processes')} on {accelerator.device.type}"
    )
    if accelerator.mixed_precision != "no":
        reason = "; --mixed_precision no for float32" if settings.mixed_precision is None else ""
        log.say(f"matrix products in {accelerator.mixed_precision}{reason}")
    for sentence in task.schedule.notes():
        log.say(sentence)
    task.batches(0)  # raises on invalid settings now rather than after the first evaluation
    num_replicas = task.schedule.placement.num_replicas
    settings = replace(settings, max_steps=steps_of_epochs(settings, size(task.train_data), num_replicas))
    all_settings = {**as_dict([*groups[:-1], settings]), "num_processes": accelerator.num_processes}
    if not settings.overwrite_output_dir and folder.is_finished(all_settings, resume=settings.resume):
        raise RunIsFinishedError(f"the run in {folder.path} is finished")
    if settings.overwrite_output_dir:
        for name in ("model", "init_from"):
            base = all_settings.get(name)
            if base and Path(base).exists() and Path(base).resolve().is_relative_to(folder.path.resolve()):
                raise FileExistsError(
                    f"`{name}` {base} is in `output_dir`, which would be replaced; choose another folder."
                )
        if settings.named_checkpoint is not None:
            check_resumable(task, settings, read_kept(settings.named_checkpoint, folder.path))
        if accelerator.is_main_process:  # only after all settings are checked
            folder.clear()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        folder.reopen()
    accelerator.init_trackers("modeling_sim", config={name: str(value) for name, value in all_settings.items()})
    optimization = Optimization(task.parts(), accelerator, settings)
    run = Run(accelerator, settings, all_settings, task, folder, log, optimization)
    resume(run)
    broadcast([*task.model.parameters(), *task.model.buffers()], accelerator)
    return run


def finish(run: Run, trained: list[Scores], *, steps_left_out: int) -> None:
    """Writes the model, the settings and finally the results, which mark the run as finished."""
    task, folder, log, counts = run.task, run.folder, run.log, run.counts
    folder.write_model(task.model, task.extractor)
    save_results(folder.settings, {"settings": run.all_settings, "versions": versions(), "git": git_revision()})
    corpus, base = run.all_settings["corpus"], run.all_settings.get("model") or run.all_settings.get("init_from")
    corpus_license, base_license = corpus_info(corpus).license, license_of_model(base)
    save_results(
        folder.results,
        {
            "corpus": corpus,
            "corpus_license": corpus_license,
            "base_license": base_license,
            "license": strictest([corpus_license, base_license]),
            "dataset_id": hub_dataset(corpus, run.all_settings["data_dir"], run.all_settings["corpus_settings"]),
            "base_model": hub_id(base),
            "train_utterances": size(task.train_data),
            "test_utterances": len(task.test_data),
            "train_hours": hours(task.train_data),
            "test_hours": hours(task.test_data),
            "held_out_speakers": held_out_speakers(task.train_data, task.test_data),
            "steps": counts.step,
            "steps_left_out": steps_left_out,
            "diverged": [log.row_names[row] for row in sorted(run.diverged)],
            "crops": counts.crops,
            "crops_of_broken_files_replaced": counts.replaced,
            "seconds": round(counts.seconds, 2),
            "crops_per_second": round(counts.crops / counts.seconds, 3),
            "hardware": hardware(run.accelerator),
            "precision": run.accelerator.mixed_precision,
            "parameters": task.model.num_parameters(),
            **task.results(),
            "modules": [
                {"name": name, "trained": finite_or_none(after), "untrained": finite_or_none(before)}
                for name, before, after in zip(log.row_names, run.untrained, trained, strict=True)
            ],
        },
    )
    log.say(f"held-out data before the first step: {task.summary(run.untrained)}")
    log.say(f"held-out data after {counted(counts.step, 'step')}: {task.summary(trained)}")
    if counts.replaced:
        log.say(f"replaced {counted(counts.replaced, 'crop')} from unreadable files")
    log.say(f"{counts.crops / counts.seconds:.1f} crops per second; model and {folder.results.name} in {folder.path}")


def _what_is_kept(run: Run) -> str:
    """How to resume after an error."""
    newest = own_checkpoints(run.folder.path)
    if not newest and run.settings.named_checkpoint is not None:
        return f"rerun the same command to restart from {run.settings.named_checkpoint}"
    if not newest:
        return "there is no checkpoint to resume from"
    return f"rerun {run.settings.command_to_resume} to resume from {newest[0].name}"


# ---------------------------------------------------------------------- parts of a run


def check_trackers(names: Sequence[str]) -> None:
    """Checks that accelerate supports trackers, and that they are installed.

    Raises:
        ValueError: A tracker is unknown or not installed.
    """
    known = {str(name) for name in LOGGER_TYPE_TO_CLASS}
    available = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in known:
            raise ValueError(f"`report_to` names {name!r}{nearest(name, sorted(known))}")
        if name not in available:
            raise ValueError(f"`report_to` names {name!r}, whose package is not installed; `pip install {name}`.")


# Texts in which a symbol of the vocabulary must appear.
_CHECKED_TEXTS = 1000


def load_data(
    accelerator: Accelerator, data: DataArguments, settings: RunArguments, config: SimConfig, processor: Any
) -> tuple[Dataset | IterableDataset, Dataset]:
    """Claims the output folder, and loads the splits to train and to evaluate on.

    Streams are shuffled, and only used for training. The main process reads first, so that only it fills caches. With
    `on_bad_audio` "skip", skipped recordings are listed in the output folder. An image processor is set to resize
    images to the size to which the corpus resizes them.

    Raises:
        ValueError: The data does not match the model: images instead of audio, images or crops without a patch or a
            frame, or texts without a symbol of the vocabulary.
    """
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            folder = RunFolder(settings.output_dir)
            folder.claim(resume=settings.resume, overwrite_output_dir=settings.overwrite_output_dir)
        train_data, test_data = _load_splits(data, settings)
    for dataset in (train_data, test_data):
        check_signal(data.corpus, dataset, config.input_kind)
    if config.input_kind != "waveform":
        _fit_processor(processor, data, train_data, config)
    return train_data, test_data


def _fit_processor(processor: Any, data: DataArguments, dataset: Dataset, config: SimConfig) -> None:
    """Fits an image processor or a tokenizer to a corpus; see `load_data`."""
    if config.input_kind == "patches" and data.corpus == "hub" and not processor.do_resize:
        side = dataset[0]["num_samples"]
        processor.do_resize, processor.size = True, {"height": side, "width": side}
    least = next(length for length in itertools.count(1) if config.num_frames(length) >= 1)
    if data.crop_samples < least:
        raise ValueError(
            f"`crop_samples` is {data.crop_samples}, too few for one frame of the last module; give at least {least}."
        )
    if config.input_kind == "patches":
        height, width, _ = positions(dataset[0]["image"], processor).shape
        if min(height, width) < config.patch_size:
            raise ValueError(f"`patch_size` is {config.patch_size}, but images have {height} x {width} pixels.")
    elif not any(positions(text, processor).any() for text in dataset["text"][:_CHECKED_TEXTS]):
        raise ValueError(
            f"`vocabulary` has no symbol of the texts, for example {dataset[0]['text']!r:.60}; symbols of "
            "several characters are separated by spaces."
        )


def _load_splits(data: DataArguments, settings: RunArguments) -> tuple[Dataset | IterableDataset, Dataset]:
    corpus_settings = data.for_loading()
    skip = data.on_bad_audio == "skip"

    def load(split: str, name: str, **more: Any) -> Any:
        bad_audio_list = Path(settings.output_dir) / f"bad_audio_{name}.tsv" if skip else None
        arguments = {**corpus_settings, **more}
        return load_corpus(
            data.corpus, split, on_bad_audio=data.on_bad_audio, bad_audio_list=bad_audio_list, **arguments
        )

    # A stream cannot be checked in advance, so each recording is decoded completely when it is read.
    train_data = load(data.train_split, "train", decode_all=skip and bool(corpus_settings.get("streaming")))
    if isinstance(train_data, IterableDataset):
        train_data = train_data.shuffle(seed=settings.seed, buffer_size=SHUFFLE_BUFFER)
    # Evaluation has no replacement for an unreadable utterance, so all of them are decoded in advance.
    map_style = {"streaming": False} if corpus_settings.get("streaming") else {}
    eval_data = load(data.eval_split, "eval", decode_all=skip, **map_style)
    if isinstance(train_data, Dataset):
        say_shared_recordings(train_data, eval_data)
    return train_data, eval_data


def size(dataset: Dataset | IterableDataset) -> int | None:
    """Number of utterances of a data set; `None` for a stream."""
    return None if isinstance(dataset, IterableDataset) else len(dataset)
