"""Settings of a run: dataclasses, filled from a YAML file and then from flags."""

import math
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Literal

from modeling_sim.settings import (
    CorpusArguments,
    Mappings,
    Preset,
    YamlMapping,
    at_least,
    check_seed,
    check_sim_checkpoint,
    setting,
)

INFONCE = "infonce"
"""Name of the model's own objective: SIM, GIM or CPC."""


@dataclass
class ModelArguments(Mappings):
    """The model to train."""

    preset: Preset = setting("sim-small", "Preset of the model.")  # noqa: RUF009 - a field
    model_settings: YamlMapping = setting(  # noqa: RUF009 - a field
        "{}", "Fields of SimConfig to change, as YAML: '{hidden_size: 64, kl_weight: 0.001}'."
    )
    init_from: str | None = setting(
        None,
        "Checkpoint (folder or Hub id) whose weights and configuration to start from; replaces `preset`.",
        check=check_sim_checkpoint,
    )


@dataclass(kw_only=True)
class DataArguments(CorpusArguments):
    """The data to train and evaluate on."""

    train_split: str = setting("train", "Split to train on.")
    eval_split: str = setting("test", "Split to evaluate on.")
    crop_samples: int = setting(20480, "Samples per training crop; 20480 at 16 kHz are 1.28 s.")
    num_workers: int = setting(
        0, "Processes that load crops, per training process; 0 loads them in the training process itself."
    )
    keep_in_memory: bool = setting(
        False,
        "Keep decoded recordings in memory, 4 bytes per sample in each loading process. Use it with `num_workers` 0 if "
        "the data fits into memory.",
    )
    reader_timeout: float = setting(
        300.0,
        "Seconds to wait for a batch from the processes of `num_workers` before the run saves a checkpoint and ends; 0 "
        "for no limit.",
        check=at_least(0),
    )


@dataclass
class RunArguments:
    """The training run."""

    output_dir: str = setting("runs/sim-small", "Folder for checkpoints, model, log, curves and results.")
    overwrite_output_dir: bool = setting(False, "Replace an earlier run in `output_dir`.")
    resume: str = setting(
        "auto",
        "'auto': resume from the newest complete checkpoint in `output_dir`, if there is one; 'never'; or the path of "
        "a checkpoint to resume from, in a folder without checkpoints of later steps.",
    )
    save_steps: int = setting(100, "Steps between checkpoints, which always include the last step; 0 for none.")
    save_total_limit: int = setting(2, "Number of checkpoints to keep; older ones are removed.")
    max_skipped_steps: int = setting(
        5, "Stop after this many consecutive steps that were skipped because the gradient was not finite."
    )
    seed: int = setting(0, "Seed of initialization, order, crops, noise, windows and negatives.")
    max_steps: int = setting(
        200, "Optimizer steps; per module in 'sequential' execution. A higher number extends a finished run."
    )
    num_train_epochs: float = setting(0.0, "Passes over the training data; sets `max_steps` unless it is 0.")
    max_train_time: float = setting(0.0, "Minutes after which training ends at the next log line; 0 for no limit.")
    batch_size: int = setting(16, "Crops per process and batch.")
    gradient_accumulation_steps: int = setting(1, "Batches per optimizer step.")
    mixed_precision: Literal["no", "bf16", "fp16"] | None = setting(
        None,
        "'no', 'bf16' or 'fp16'; unset for the setting of `accelerate launch`. KL, exponentials and softmax are always "
        "float32.",
    )
    learning_rate: float = setting(1.0e-3, "Peak learning rate of AdamW.")
    weight_decay: float = setting(0.0, "Weight decay of AdamW; 0 makes it Adam.")
    lr_scheduler_type: Literal["constant", "constant_with_warmup", "linear", "cosine"] = setting(
        "cosine", "Learning rate after warm-up."
    )
    warmup_steps: int = setting(20, "Steps over which the learning rate rises to its peak.")
    max_grad_norm: float = setting(0.0, "Norm to which the gradient of each module is clipped; 0 for no clipping.")
    logging_steps: int = setting(10, "Steps between log lines, which show means over these steps.")
    eval_steps: int = setting(0, "Steps between evaluations; 0 evaluates only before the first step and at the end.")
    eval_batch_size: int = setting(16, "Complete utterances per batch in evaluation.")
    early_stopping_patience: int = setting(
        0,
        "Stop training a module after this many evaluations without a lower held-out loss, once all modules below it "
        "have stopped; 0 for never.",
    )
    disable_tqdm: bool = setting(
        False, "Print one line per `logging_steps` instead of progress bars; always so without a terminal."
    )
    report_to: str = setting(
        "none",
        "Trackers of accelerate, in addition to log.jsonl: 'tensorboard', 'trackio', 'wandb', or several, separated by "
        "commas.",
    )

    @property
    def named_checkpoint(self) -> Path | None:
        """The checkpoint that `resume` names, if it names one."""
        return None if self.resume in ("auto", "never") else Path(self.resume)

    @property
    def command_to_resume(self) -> str:
        """The command to rerun after an interruption, for messages, without settings that would restart the run."""
        changed = {"resume": self.resume != "auto", "overwrite_output_dir": self.overwrite_output_dir}
        left_out = " and ".join(f"`{name}`" for name, is_changed in changed.items() if is_changed)
        return f"the command without {left_out}" if left_out else "the same command"

    def validate(self) -> None:
        """Checks the ranges of the settings.

        Raises:
            ValueError: A number is out of its range, or `early_stopping_patience` is set without `eval_steps`.
        """
        positive = (
            "max_steps batch_size eval_batch_size logging_steps save_total_limit max_skipped_steps "
            "gradient_accumulation_steps"
        )
        not_negative = (
            "warmup_steps eval_steps max_grad_norm save_steps num_train_epochs max_train_time "
            "early_stopping_patience weight_decay"
        )
        for least, names in ((1, positive), (0, not_negative)):
            for name in names.split():
                at_least(least)(name, getattr(self, name))
        check_seed("seed", self.seed)
        if not 0 < self.learning_rate < math.inf:  # NaN as well
            raise ValueError(f"`learning_rate` is {self.learning_rate}; it must be above 0 and finite.")
        if self.early_stopping_patience and not self.eval_steps:
            raise ValueError("`early_stopping_patience` counts evaluations, so it needs `eval_steps`; set both.")


@dataclass
class PretrainingArguments(Mappings, RunArguments):
    """The pretraining run."""

    objective: str = setting(
        INFONCE,
        "Training objective. 'infonce': the model's own (SIM, GIM, CPC). 'simclr', 'moco', 'byol', 'vicreg', 'lejepa', "
        "'dino': train the same encoder for similar latents of two views of a crop; `contrastive_modules` and "
        "`gradient_isolation` of the model determine whether every module has the loss or only the last one. Or the "
        "import path of a subclass of `modeling_sim.trainer.objectives.contract.Objective`: "
        "'my_package.my_module:MyObjective'.",
    )
    objective_settings: YamlMapping = setting(  # noqa: RUF009 - a field
        "{}", "Arguments of the objective, as YAML: '{temperature: 0.2}'; 'infonce' has none, see `model_settings`."
    )
    augmentation: str | None = setting(
        None,
        "Random changes of crops, without shifts in time: 'all', 'none', or some of pitch, filter, room, noise and "
        "gain, separated by commas. Unset: 'all' for objectives with several views, otherwise 'none'.",
    )
    execution: Literal["per_module", "joint", "sequential", "pipeline"] = setting(
        "per_module",
        "'per_module': each module's backward pass right after its forward pass, so that memory holds activations of "
        "one module at a time; 'joint': one backward pass on the summed loss; 'sequential': `max_steps` steps for each "
        "module in turn; 'pipeline': one process per module, or per group of modules.",
    )
    cache_latents: bool = setting(
        False,
        "In 'sequential' execution, compute the latents of finished modules once, for one crop of every utterance, "
        "and cache them on disk; the size is printed first.",
    )
    pipeline_stages: int = setting(
        0,
        "Processes per pipeline in 'pipeline' execution; modules are divided among them by measured cost. 0: one per "
        "module, or the number of processes if that is smaller. Several pipelines share the data.",
    )
    gather_negatives: bool = setting(False, "Draw negatives from the batches of all processes.")
    torch_compile: bool = setting(False, "Compile each convolutional module with torch.compile.")
    kl_warmup_steps: int = setting(0, "Steps over which the KL weights rise from 0 to their value.")

    def kl_weight_scale(self, batch: int) -> float:
        """Factor on the KL weights for a batch, counted from 1."""
        warmup = self.kl_warmup_steps * self.gradient_accumulation_steps
        return min(1.0, batch / warmup) if warmup else 1.0


@dataclass
class ClassifierArguments(Mappings):
    """The classifier to train."""

    model: str | None = setting(
        None, "Pretrained checkpoint: folder or Hub id; unset for a new encoder.", check=check_sim_checkpoint
    )
    preset: Preset = setting("sim-small", "Preset of a new encoder, without `model`.")  # noqa: RUF009 - a field
    model_settings: YamlMapping = setting(  # noqa: RUF009 - a field
        "{}", "Fields of SimConfig to change, as YAML: '{hidden_size: 64}'."
    )
    label: str = setting(
        "speaker_id",
        "Class column: speaker_id, vowel, syllable, phones, ... The default, unlike that of `probe`, labels "
        "utterances, as a pipeline needs.",
    )
    probe_module: str = setting("context", "Module that the classifier reads: an index from 0, or 'context'.")
    freeze_encoder: bool = setting(False, "Train only the classifier.")


@dataclass
class FinetuningArguments(RunArguments):
    """The finetuning run."""

    output_dir: str = setting("runs/finetuned", "Folder for model, log, curves and results.")


@dataclass
class DecoderArguments:
    """The decoder to train."""

    model: str = setting(MISSING, "Pretrained encoder: folder or Hub id.", check=check_sim_checkpoint)
    module: str = setting("2", "Module whose latents are decoded: an index from 0, or 'context'.")
    latents: Literal["mean", "sample"] = setting(
        "mean", "Input: the 'mean' of each Gaussian, or a new 'sample' in each step, as in the paper."
    )
    loss: Literal["waveform", "stft", "log_mel"] = setting(
        "waveform",
        "'waveform': mean squared error of samples (the paper); 'stft' or 'log_mel': distance of magnitude spectra. "
        "Decoded speech hums at the frame rate with 'log_mel'; use 'stft' to hear the pitch.",
    )
    architecture: Literal["convolutions", "source_filter"] = setting(
        "convolutions",
        "'convolutions' (the paper); 'source_filter': pulses, whose pitch is linear in the latents, and noise, each "
        "filtered by a spectral envelope. It needs the loss 'stft' or 'log_mel'.",
    )
    noise: float = setting(0.0, "Noise added to the latents, in standard deviations of each channel; 0 for none.")
    decoder_hidden_size: int = setting(0, "Channels of the decoder; 0 for as many as in the encoder.")


@dataclass
class DecoderRunArguments(RunArguments):
    """The run that trains a decoder."""

    output_dir: str = setting("runs/decoder", "Folder for decoder, log, curves and results.")


PRETRAINING = (ModelArguments, DataArguments, PretrainingArguments)
FINETUNING = (ClassifierArguments, DataArguments, FinetuningArguments)
DECODER_TRAINING = (DecoderArguments, DataArguments, DecoderRunArguments)
"""Settings of each training command, in the order of the arguments of its `build`."""
