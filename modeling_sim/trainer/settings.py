"""Settings of a run: dataclasses, filled from a YAML file and then from flags."""

import sys
from argparse import SUPPRESS, Action, ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from transformers import HfArgumentParser

from modeling_sim import SimConfig
from modeling_sim.data.corpora import corpus_names, settings_overview
from modeling_sim.files import nearest
from modeling_sim.settings import (
    _MAPPINGS,
    DATASET_NAME_HELP,
    HelpFormatter,
    mapping_of,
    read_settings,
    setting,
    with_dataset_name,
)

CORPUS_SETTINGS_HELP = (
    "Settings of the corpus, as YAML: '{num_train: 256}', or '{manifest: words.csv, label_columns: word}'. "
    + settings_overview()
)

# A setting that is text to HfArgumentParser, and a mapping once `parse_arguments` has read it.
if TYPE_CHECKING:
    YamlMapping = dict[str, Any]
else:
    YamlMapping = str


@dataclass
class ModelArguments:
    """Which model is trained."""

    preset: str = setting("sim-small", f"Model to start from: {', '.join(SimConfig.preset_names())}.")
    model_settings: YamlMapping = setting(  # noqa: RUF009 - a field
        "{}", "Fields of SimConfig to set differently, as YAML: '{hidden_size: 64, kl_weight: 0.001}'."
    )
    init_from: str | None = setting(
        None, "Checkpoint, a folder or a Hub id, whose weights and configuration to go on from; replaces `preset`."
    )


@dataclass
class DataArguments:
    """What it is trained and evaluated on."""

    corpus: str = setting("synthetic_syllables", f"Corpus: {', '.join(corpus_names())}.")
    data_dir: str | None = setting(None, "Folder of the corpus, for those that are read from disk.")
    dataset_name: str | None = setting(None, DATASET_NAME_HELP)
    corpus_settings: YamlMapping = setting("{}", CORPUS_SETTINGS_HELP)  # noqa: RUF009 - a field
    train_split: str = setting("train", "Split to train on.")
    eval_split: str = setting("test", "Split to evaluate on.")
    on_bad_audio: Literal["raise", "skip"] = setting(
        "raise", "At a recording that cannot be read: 'raise', or 'skip' and list it."
    )
    crop_samples: int = setting(20480, "Samples of a training crop; 20480 at 16 kHz are 1.28 s.")
    num_workers: int = setting(0, "Processes that read crops ahead, a trainer; 0 reads in the trainer itself.")
    reader_timeout: float = setting(
        300.0, "Seconds to wait for a batch of these processes before the run is saved and ended; 0 for no limit."
    )


@dataclass
class RunArguments:
    """How it is trained."""

    output_dir: str = setting("runs/sim-small", "Folder for checkpoint, log, curves and results.")
    overwrite_output_dir: bool = setting(False, "Replace what an earlier run left in `output_dir`.")
    resume: str = setting(
        "auto",
        "'auto': resume from the newest complete checkpoint in `output_dir`, if there is one; 'never'; or the path of "
        "a checkpoint to resume from.",
    )
    save_steps: int = setting(100, "Steps between checkpoints to resume from, the last step included; 0 for none.")
    save_total_limit: int = setting(2, "Checkpoints that are kept; older ones are removed.")
    max_skipped_steps: int = setting(
        5, "Steps in a row whose gradient is not finite, and which are left out, before training gives up."
    )
    seed: int = setting(0, "Seed of initialisation, order, crops, noise, windows and negatives.")
    max_steps: int = setting(
        200, "Optimizer steps; of each module in 'sequential' execution. More than a finished run had extend it."
    )
    num_train_epochs: float = setting(0.0, "Passes over the training data; sets `max_steps` unless it is 0.")
    max_train_time: float = setting(0.0, "Minutes after which training ends at the next log line; 0 for no limit.")
    batch_size: int = setting(16, "Crops a process and batch.")
    gradient_accumulation_steps: int = setting(1, "Batches whose gradients make one step of the optimiser.")
    mixed_precision: str | None = setting(
        None,
        "'no', 'bf16' or 'fp16'; unset as `accelerate launch` says, and without it bf16 for pretraining on CPUs with "
        "AMX. KL, exponentials and softmax stay float32.",
    )
    learning_rate: float = setting(1.0e-3, "Peak learning rate of AdamW.")
    weight_decay: float = setting(0.0, "Weight decay of AdamW; 0 makes it Adam.")
    lr_scheduler_type: str = setting(
        "cosine", "Learning rate after warm-up: constant, constant_with_warmup, linear or cosine."
    )
    warmup_steps: int = setting(20, "Steps over which the learning rate rises to its peak.")
    max_grad_norm: float = setting(0.0, "Largest norm of each module's gradient, on its own; 0 for no clipping.")
    logging_steps: int = setting(10, "Steps between log lines; a line is the mean over them.")
    eval_steps: int = setting(0, "Steps between evaluations; 0 evaluates before the first step and after the last.")
    eval_batch_size: int = setting(16, "Whole utterances a batch in evaluation.")
    early_stopping_patience: int = setting(
        0,
        "Evaluations without a lower held-out loss after which a module is trained no more, once all below it are not "
        "either; 0 for never.",
    )
    disable_tqdm: bool = setting(
        False, "Print a line per `logging_steps` instead of progress bars, as is done without a terminal."
    )
    report_to: str = setting(
        "none",
        "Trackers besides log.jsonl, by accelerate's names: 'tensorboard', 'trackio', 'wandb', or several: 'a,b'.",
    )


@dataclass
class PretrainingArguments(RunArguments):
    """How the modules of a model are trained."""

    execution: str = setting(
        "per_module",
        "'per_module': each module's backward pass right after its forward pass, so that one module's activations "
        "live at a time; 'joint': one backward pass on the summed loss; 'sequential': `max_steps` steps for each "
        "module in turn, those below it finished; 'pipeline': one process a module, or a few modules.",
    )
    cache_latents: bool = setting(
        False,
        "In 'sequential' execution, compute what finished modules hand on once, for one crop of every utterance, and "
        "keep it on disk; the size is printed first.",
    )
    pipeline_stages: int = setting(
        0,
        "Processes that share the modules out in 'pipeline' execution, by measured cost; 0 for one a module, or as "
        "many as there are. Several such pipelines share the data.",
    )
    gather_negatives: bool = setting(False, "Draw negatives from the batches of all processes, not just the own.")
    torch_compile: bool = setting(False, "Compile each convolutional module with torch.compile.")
    kl_warmup_steps: int = setting(0, "Steps over which the KL weights rise from 0 to their value.")


PRETRAINING = (ModelArguments, DataArguments, PretrainingArguments)


# Of YAML 1.1, where a flag takes true and false, yes and no.
_YAML_WORDS = {"on": "true", "off": "false"}


def parse_arguments(description: str, argv: Sequence[str] | None = None, classes: Sequence[Any] = PRETRAINING) -> Any:
    """Reads the settings of a run: defaults, then the file of `--config`, then the other flags.

    Args:
        description: What the command does, for `--help`.
        argv: Flags; those of the process if `None`.
        classes: Dataclasses of the settings.

    Returns:
        An instance of each class.

    Raises:
        ValueError: A key of the file is unknown, and the message names the nearest known one; or the file is not YAML.
        FileNotFoundError: The file, or the one it `extends`, is not there.
        SystemExit: A flag is unknown or its value has the wrong type.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    first = ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    from_file = read_settings(first.parse_known_args(argv)[0].config, as_text=True)

    parser = HfArgumentParser(classes, description=description, formatter_class=HelpFormatter, allow_abbrev=False)
    parser.add_argument("--config", default=SUPPRESS, help="YAML file of settings; flags override it.")
    defaults = {field_.name: field_.default for arguments in classes for field_ in fields(arguments)}
    for key, value in from_file.items():
        if key not in defaults:
            raise ValueError(f"unknown key {key!r} in the settings file{nearest(str(key), list(defaults))}")
        if value is None and defaults[key] is not None:
            raise ValueError(f"`{key}` has no value in the settings file; give it one, or leave the key out.")
    for key, value in from_file.items():
        action = parser._option_string_actions[f"--{key}"]  # noqa: SLF001
        action.required = False
        parser.set_defaults(**{key: _as_flag(action, value, is_bool=isinstance(defaults[key], bool))})
    parser.set_defaults(
        **{name: "{}" for name in _MAPPINGS if name in defaults}
    )  # flags alone; the file's are added below
    parsed = parser.parse_args_into_dataclasses(args=argv, return_remaining_strings=True)
    groups, unknown = parsed[: len(classes)], parsed[-1]
    if unknown:
        flag = unknown[0].split("=")[0]
        parser.error(f"unknown flag {flag}{nearest(flag, list(parser._option_string_actions))}")  # noqa: SLF001
    for group in groups:
        for name in _MAPPINGS:
            if hasattr(group, name):
                setattr(group, name, {**from_file.get(name, {}), **mapping_of(name, getattr(group, name))})
        if isinstance(group, DataArguments):
            group.corpus_settings = with_dataset_name(
                group.corpus, group.corpus_settings, group.dataset_name, data_dir=group.data_dir
            )
    return groups


def _as_flag(action: Action, value: Any, *, is_bool: bool) -> str | list[str] | None:
    """A value of a settings file as text, so that it is converted and refused as that of a flag is."""
    if value is None:
        return None
    if action.nargs == "+":
        return [str(item) for item in (value if isinstance(value, list) else [value])]
    word = _YAML_WORDS.get(str(value).lower(), str(value)) if is_bool else str(value)
    if action.choices is not None and word not in action.choices:
        choices = ", ".join(map(str, action.choices))
        raise ValueError(f"`{action.dest}` is {word!r} in the settings file; choose one of {choices}.")
    return word
