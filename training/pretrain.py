"""Pretrains a Smooth InfoMax model, or one of its relatives, and saves a checkpoint that AutoModel loads.

With no argument it trains a small model on built-in synthetic speech:

    accelerate launch training/pretrain.py

Real speech, with the settings of a file and any of them overridden by flags:

    accelerate launch training/pretrain.py --config training/configs/librispeech_small.yaml --data_dir LibriSpeech

The output folder holds the checkpoint (`config.json`, `model.safetensors`, `preprocessor_config.json` and the code to
load it without this package), `log.jsonl`, `curves.png`, `results.json` and `training_settings.json`.
"""

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from datasets import Dataset, IterableDataset
from huggingface_hub.errors import StrictDataclassError
from transformers import set_seed

from modeling_sim import SimConfig, SimFeatureExtractor, SimForPreTraining
from training.arguments import DataArguments, ModelArguments, RunArguments, as_dict, parse_arguments
from training.audio import AudioError
from training.checkpoints import save_model
from training.corpora import corpus_info, load_corpus
from training.corpora.scan import BadAudioError
from training.curves import write_curves
from training.files import finite_or_none, write_json
from training.greedy import (
    EXECUTIONS,
    broadcast_parameters,
)
from training.hub import push_run
from training.latent_cache import cache_bytes, removed_caches, require_space
from training.log import LOG_NAME, Log, Scores
from training.nearest import nearest
from training.optimization import Optimization
from training.output_folder import RESULTS_NAME, SETTINGS_NAME, output_lock, prepare_output_dir
from training.pretraining_task import PretrainingTask
from training.provenance import git_revision, versions
from training.trainer import Run, check_processes, check_settings, resume, steps_of_epochs, train

# Utterances that a stream is shuffled within, as many as a few hundred MB hold.
SHUFFLE_BUFFER = 1000


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    with contextlib.ExitStack() as stack:
        with errors_in_one_line():
            arguments = parse_arguments(__doc__, argv)
            settings = arguments[2]
            accelerator = make_accelerator(settings)
            stack.enter_context(output_lock(Path(settings.output_dir), accelerator))
            stack.enter_context(removed_caches(Path(settings.output_dir), accelerator))
            run = prepare(accelerator, *arguments)
        try:
            trained = train(run)
        except FloatingPointError as error:
            raise SystemExit(f"pretrain.py: {error}") from error
        except (AudioError, BadAudioError) as error:
            # A loader's worker wraps the message into its own traceback; the message is the last line of it.
            message = str(error) if isinstance(error, BadAudioError) else str(error).strip().splitlines()[-1]
            raise SystemExit(f"pretrain.py: {message}; leave such recordings out with --on_bad_audio skip.") from error
        skipped = int(run.task.gather_rows(run.optimization.skipped_steps)[:, 0].max())
        if accelerator.is_main_process:
            finish(run, arguments[1], trained, steps_left_out=skipped)
        accelerator.end_training()


@contextlib.contextmanager
def errors_in_one_line() -> Iterator[None]:
    """What the user can mend ends the command with a message that says how, without a traceback."""
    try:
        yield
    except StrictDataclassError as error:  # a field of SimConfig: one line instead of an indented chain
        raise SystemExit(f"pretrain.py: {' '.join(str(error).split())}") from error
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"pretrain.py: {error}") from error


def make_accelerator(settings: RunArguments) -> Accelerator:
    """An accelerator with the mixed precision and the trackers of the settings.

    Raises:
        ValueError: An unknown precision or tracker, or one that is not installed.
    """
    if settings.mixed_precision not in (None, "no", "bf16", "fp16"):
        raise ValueError(f"`mixed_precision` is {settings.mixed_precision!r}; choose no, bf16 or fp16.")
    trackers = [name.strip() for name in settings.report_to.split(",") if name.strip() not in ("", "none")]
    check_trackers(trackers)
    accelerator = Accelerator(
        mixed_precision=settings.mixed_precision, log_with=trackers or None, project_dir=settings.output_dir
    )
    if settings.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError("`mixed_precision` 'fp16' needs a GPU; 'bf16' works on CPUs as well.")
    return accelerator


def prepare(
    accelerator: Accelerator, model_arguments: ModelArguments, data: DataArguments, settings: RunArguments
) -> Run:
    """Everything a run needs, before its first step or its next one.

    Raises:
        ValueError: A setting is out of range, the corpus has recordings that cannot be used, or the checkpoint to
            resume from is of another model or not whole.
        FileExistsError: `output_dir` holds a finished run, and `overwrite_output_dir` is not set.
        FileNotFoundError: Data or a checkpoint is not there.
        OSError: The disk has no room for the latents to cache.
    """
    check_processes(accelerator)
    check_settings(settings)
    output_dir = Path(settings.output_dir)
    set_seed(settings.seed)
    model, extractor = build_model(model_arguments)
    check_execution(model.config, data, settings, accelerator)
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
    if settings.cache_latents:
        needed = cache_bytes(model.config, num_utterances=len(train_data), crop_samples=data.crop_samples)
        log.say(require_space(output_dir, needed))
    task = PretrainingTask(model, extractor, accelerator, data, settings, train_data, test_data)
    task.batches(0)  # refuses wrong settings now rather than after the first evaluation
    if task.pipeline is not None:
        shares = "; ".join(
            ", ".join(model.config.module_names[module] for module in stage) for stage in task.pipeline.stages
        )
        log.say(f"{task.num_replicas} pipeline(s) of {len(task.pipeline.stages)} processes: {shares}")
    settings = replace(settings, max_steps=steps_of_epochs(settings, size(train_data), task.num_replicas))
    all_settings = {
        **as_dict((model_arguments, data, settings)), "num_processes": accelerator.num_processes
    }  # fmt: skip
    accelerator.init_trackers("modeling_sim", config={name: str(value) for name, value in all_settings.items()})
    run = Run(
        accelerator,
        settings,
        all_settings,
        task,
        log,
        Optimization(task.parts(), accelerator, settings),
        comparable_config(model.config),
    )
    resume(run)
    broadcast_parameters(model, accelerator)
    if settings.torch_compile:
        for module in model.sim.conv_modules:
            module.compile()
    return run


def finish(run: Run, data: DataArguments, trained: list[Scores], *, steps_left_out: int) -> None:
    """Writes the model, settings, curves and, last, the results, which mark the run as finished."""
    task, settings, log, counts = run.task, run.settings, run.log, run.counts
    output_dir = Path(settings.output_dir)
    move_model_into(task.model, task.extractor, output_dir)
    write_json(
        output_dir / SETTINGS_NAME, {"settings": run.all_settings, "versions": versions(), "git": git_revision()}
    )
    curves = write_curves(output_dir)
    write_json(
        output_dir / RESULTS_NAME,
        {
            "corpus": data.corpus,
            "corpus_license": corpus_info(data.corpus).license,
            "train_utterances": size(task.train_data),
            "test_utterances": len(task.test_data),
            "steps": counts.step,
            "steps_left_out": steps_left_out,
            "crops": counts.crops,
            "crops_of_broken_files_replaced": counts.replaced,
            "seconds": round(counts.seconds, 2),
            "crops_per_second": round(counts.crops / counts.seconds, 3),
            "parameters": task.model.num_parameters(),
            "contrastive_accuracy_chance": log.chance,
            "modules": [
                {"name": name, "trained": finite_or_none(after), "untrained": finite_or_none(before)}
                for name, before, after in zip(log.row_names, run.untrained, trained, strict=True)
            ],
        },
    )
    log.say(f"held-out speech after {counts.step} steps: {log.summary(trained)}")
    log.say(f"the same network untrained: {log.summary(run.untrained)}")
    if counts.replaced:
        log.say(f"{counts.replaced} crops came from files that broke while they were read; other utterances stood in")
    log.say(
        f"{counts.crops / counts.seconds:.1f} crops a second; checkpoint and {RESULTS_NAME} in {output_dir}, "
        f"picture {curves}"
    )
    if settings.push_to_hub and settings.repo_id:
        try:
            log.say(f"uploaded to {push_run(output_dir, settings.repo_id)}")
        except OSError as error:  # of the network and of the Hub alike
            log.say(f"the upload to {settings.repo_id} failed ({error}); the run is whole in {output_dir}")


# ---------------------------------------------------------------------- parts of a run


def check_trackers(names: Sequence[str]) -> None:
    """Refuses trackers that accelerate does not know or that are not installed.

    Raises:
        ValueError: The message names them.
    """
    known = {str(name) for name in LOGGER_TYPE_TO_CLASS}
    available = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in known:
            raise ValueError(f"`report_to` names {name!r}{nearest(name, sorted(known))}")
        if name not in available:
            raise ValueError(f"`report_to` names {name!r}, which is not installed; `pip install {name}`.")


def check_execution(config: SimConfig, data: DataArguments, settings: RunArguments, accelerator: Accelerator) -> None:
    """Refuses executions that a model, the data or the processes do not allow."""
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
