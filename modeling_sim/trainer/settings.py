"""Settings of a run: dataclasses, filled from a YAML file and then from flags."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from modeling_sim.data.corpora import corpus_names, settings_overview
from modeling_sim.settings import DATASET_NAME_HELP, Preset, setting

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

    preset: Preset = setting("sim-small", "Model to start from.")  # noqa: RUF009 - a field
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
    keep_in_memory: bool = setting(
        False,
        "Decode each recording once and cut crops from memory, 4 bytes per sample and process that reads; take it with "
        "`num_workers` 0, for data that fits.",
    )
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
    seed: int = setting(0, "Seed of initialization, order, crops, noise, windows and negatives.")
    max_steps: int = setting(
        200, "Optimizer steps; of each module in 'sequential' execution. More than a finished run had extend it."
    )
    num_train_epochs: float = setting(0.0, "Passes over the training data; sets `max_steps` unless it is 0.")
    max_train_time: float = setting(0.0, "Minutes after which training ends at the next log line; 0 for no limit.")
    batch_size: int = setting(16, "Crops a process and batch.")
    gradient_accumulation_steps: int = setting(1, "Batches whose gradients make one step of the optimizer.")
    mixed_precision: Literal["no", "bf16", "fp16"] | None = setting(
        None, "'no', 'bf16' or 'fp16'; unset as `accelerate launch` says. KL, exponentials and softmax stay float32."
    )
    learning_rate: float = setting(1.0e-3, "Peak learning rate of AdamW.")
    weight_decay: float = setting(0.0, "Weight decay of AdamW; 0 makes it Adam.")
    lr_scheduler_type: Literal["constant", "constant_with_warmup", "linear", "cosine"] = setting(
        "cosine", "Learning rate after warm-up."
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

    execution: Literal["per_module", "joint", "sequential", "pipeline"] = setting(
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


@dataclass
class ClassifierArguments:
    """Which model is trained, for what."""

    model: str | None = setting(None, "Pretrained checkpoint, a folder or a Hub id; a new encoder if unset.")
    preset: Preset = setting("sim-small", "New encoder, without `model`.")  # noqa: RUF009 - a field
    model_settings: YamlMapping = setting(  # noqa: RUF009 - a field
        "{}", "Fields of SimConfig to set differently, as YAML: '{hidden_size: 64}'."
    )
    label: str = setting("speaker_id", "Column of classes: speaker_id, vowel, syllable, phones, ...")
    probe_module: str = setting("context", "Module that the classifier reads: a number from 0, or 'context'.")
    freeze_encoder: bool = setting(False, "Train the classifier alone.")


@dataclass
class FinetuningArguments(RunArguments):
    """How it is trained."""

    output_dir: str = setting("runs/finetuned", "Folder for model, log, curves and results.")


@dataclass
class DecoderArguments:
    """Which decoder is trained, on what."""

    model: str = setting("", "Pretrained encoder: a folder or a Hub id.")
    module: str = setting("2", "Module whose latents are decoded: a number from 0, or 'context'.")
    latents: Literal["mean", "sample"] = setting(
        "mean", "'mean', or 'sample': drawn from the Gaussians anew each step, as the paper does."
    )
    loss: Literal["waveform", "stft", "log_mel"] = setting(
        "waveform", "'waveform': mean squared error of samples (the paper's), or a distance of spectra, without phase."
    )
    noise: float = setting(0.0, "Noise added to latents, in standard deviations of each channel; 0 for none.")
    decoder_hidden_size: int = setting(0, "Channels between the decoder's layers; 0 for the encoder's.")


@dataclass
class DecoderRunArguments(RunArguments):
    """How it is trained."""

    output_dir: str = setting("runs/decoder", "Folder for decoder, log, curves and results.")


PRETRAINING = (ModelArguments, DataArguments, PretrainingArguments)
FINETUNING = (ClassifierArguments, DataArguments, FinetuningArguments)
DECODER_TRAINING = (DecoderArguments, DataArguments, DecoderRunArguments)
"""Settings of each training command, in the order in which its `build` takes them."""
