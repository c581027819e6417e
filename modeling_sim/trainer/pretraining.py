"""The task of pretraining: the modules of a Smooth InfoMax model, in one of the executions of `greedy.py`."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset, IterableDataset

from modeling_sim import SimConfig, SimFeatureExtractor, SimForPreTraining
from modeling_sim.data.augmentation import augmentation_names, augmented
from modeling_sim.loading import check_encoder, feature_extractor_of, load_model
from modeling_sim.objectives_sim import count_active_units
from modeling_sim.processing_sim import new_processor
from modeling_sim.trainer.devices import to_device
from modeling_sim.trainer.greedy import (
    EXECUTIONS,
    GradientAverages,
    ModuleLosses,
    Placement,
    backward_modules,
    module_generator,
    train_only,
)
from modeling_sim.trainer.held_out import evaluate
from modeling_sim.trainer.latent_cache import Sequential, cache_bytes, drawn, require_space, write_cache
from modeling_sim.trainer.log import Scores, or_dash
from modeling_sim.trainer.loop import Callback
from modeling_sim.trainer.objectives.views import ViewTask, check_views
from modeling_sim.trainer.optimization import Part
from modeling_sim.trainer.pipeline import Pipeline, measure_costs, share_out
from modeling_sim.trainer.run import load_data, run_command
from modeling_sim.trainer.settings import INFONCE, DataArguments, ModelArguments, PretrainingArguments
from modeling_sim.trainer.task import Schedule, Task


class PretrainingTask(Task):
    """Trains a model with the greedy objective; has one row of scores per module.

    Args:
        model: The model, on the accelerator's device.
        extractor: Feature extractor of the model.
        accelerator: Provides processes and mixed precision.
        data: Settings of the data.
        settings: Settings of the training.
        train_data: Data to train on, in crops.
        test_data: Data to evaluate on, in complete utterances.
    """

    metrics = ("loss", "contrastive_loss", "contrastive_accuracy", "kl")
    settings: PretrainingArguments

    def __init__(
        self,
        model: SimForPreTraining,
        extractor: SimFeatureExtractor,
        accelerator: Accelerator,
        data: DataArguments,
        settings: PretrainingArguments,
        train_data: Dataset | IterableDataset,
        test_data: Dataset,
    ) -> None:
        self.model: SimForPreTraining = model
        self.extractor, self.accelerator = extractor, accelerator
        self.data, self.settings, self.train_data, self.test_data = data, settings, train_data, test_data
        self.title = data.corpus
        self.row_names = model.config.module_names
        self.chance = 1 / (model.config.num_negatives + 1)
        self.schedule = make_schedule(model, extractor, accelerator, data, settings, train_data)
        self.placement = self.schedule.placement
        self.trained = range(self.num_rows)
        self.augmentation = augmentation_names(settings.augmentation or "none", model.config.input_kind)
        self.collapse = CollapseWatch(model.config)
        self.active_units: dict[int, torch.Tensor] = {}

    def comparable_config(self) -> dict[str, Any]:
        """Adds the objective to the fields that must match when a run is resumed."""
        return {**super().comparable_config(), "objective": INFONCE}

    def parts(self) -> list[Part]:
        """One part per module, or one for a model with a single gradient."""
        model = self.model
        if not model.config.gradient_isolation:
            return [Part(list(model.parameters()), list(model.buffers()))]
        return [Part(model.module_parameters(module), model.module_buffers(module)) for module in range(self.num_rows)]

    def begin_stage(self, stage: int, finished: int) -> list[int]:
        """Sets finished modules to evaluation mode, and the others to training mode."""
        self.trained = range(finished, self.schedule.rows_of_stage(stage).stop)
        train_only(self.model, self.trained)
        if not self.model.config.gradient_isolation:
            return [0] if self.trained else []
        return [module for module in self.trained if module in self.placement.modules]

    def batches(self, position: int) -> Iterable[dict[str, Any]]:
        """Crops, or latents from another process or from the cache."""
        latents = self.schedule.latents(self.trained, **self.share(position))
        return super().batches(position) if latents is None else latents

    def backward(self, batch: dict[str, Any], step: int, *, loss_scale: float, accumulating: bool) -> torch.Tensor:
        """Runs this process' modules on a batch; see `greedy.py`."""
        device, placement = self.accelerator.device, self.placement
        if "input_values" in batch:
            if self.augmentation:
                changed = augmented(
                    batch["input_values"],
                    batch["position"].tolist(),
                    names=self.augmentation,
                    seed=self.settings.seed,
                    view=0,
                    sampling_rate=self.extractor.sampling_rate,
                    mask=batch["attention_mask"],
                )
                batch = {**batch, "input_values": changed}
            hidden_states, lengths = self.model.sim.prepare_inputs(*to_device(batch, device))
        elif "mean" in batch:
            module = self.trained.start
            generator = module_generator(self.settings.seed, step, module - 1, placement.replica, device)
            hidden_states, lengths = drawn(batch, generator, device)
            placement = replace(placement, modules=range(module, self.num_rows))
        else:
            hidden_states, lengths = batch["hidden_states"], batch["lengths"]
        averages = None if accumulating else GradientAverages(placement)
        outputs = backward_modules(
            self.model,
            self.accelerator,
            placement,
            hidden_states,
            lengths,
            averages=averages,
            execution="joint" if self.settings.execution == "joint" else "per_module",
            trained=self.trained,
            loss_scale=loss_scale,
            seed=self.settings.seed,
            step=step,
            kl_weight_scale=self.settings.kl_weight_scale(step),
            gather_negatives=self.settings.gather_negatives,
        )
        rows = torch.full((self.num_rows, len(self.metrics)), self.schedule.empty, device=device)
        self.active_units = {}  # of this batch; cached modules have none
        # Outputs first in `zip`, so that the iterator is exhausted.
        for output, module in zip(self.schedule.handing_on(outputs), placement.modules, strict=False):
            # Keep only numbers: an output would keep its module's activations, and memory would grow with depth.
            rows[module] = torch.stack(ModuleLosses.of(output))
            if self.is_logged(step):
                self.active_units[module] = count_active_units(output.mean)
        if averages is not None:
            averages.finish()
        return rows

    def is_logged(self, step: int) -> bool:
        """Whether a log line may follow a batch; with `num_train_epochs`, the last step is unknown here."""
        settings = self.settings
        stage_step = -(-step // settings.gradient_accumulation_steps)
        is_last = settings.num_train_epochs > 0 or stage_step >= settings.max_steps
        return is_last or stage_step % settings.logging_steps == 0

    def evaluate(self) -> list[Scores]:
        """Scores of every module on the held-out split."""
        batches = self.held_out_batches(min_utterances=2 if self.model.config.negatives == "other_utterances" else 1)
        return [asdict(scores) for scores in evaluate(self.model, batches, self.accelerator, description="evaluating")]

    def summary(self, scores: list[Scores]) -> str:
        """Contrastive accuracy of every module next to chance, KL and active units."""
        config = self.model.config
        digits = accuracy_digits(config)
        accuracies = " ".join(or_dash(module["contrastive_accuracy"], digits) for module in scores)
        parts = [f"accuracy {accuracies} (chance {self.chance:{digits}})"]
        if config.latent_distribution == "gaussian":
            divergences = " ".join(or_dash(module["kl"], ".1f") for module in scores[: config.num_conv_modules])
            parts.append(f"KL {divergences}")
        parts.append("active " + " ".join(or_dash(module["active_units"], ".0f") for module in scores))
        return ", ".join(parts)

    def results(self) -> dict[str, Any]:
        """Chance accuracy."""
        return {"contrastive_accuracy_chance": self.chance}

    def snapshot(self) -> list[Scores]:
        """Active units of the latest batch."""
        counts = torch.full((self.num_rows, 1), self.schedule.empty, device=self.accelerator.device)
        for module, count in self.active_units.items():
            counts[module, 0] = count
        return [{"active_units": count} for count in self.schedule.gather_rows(counts)[:, 0].tolist()]

    def warnings(self, scores: list[Scores], step: int) -> list[str]:
        """Warnings about collapsed modules."""
        return self.collapse.sentences(scores, step)


def accuracy_digits(config: SimConfig) -> str:
    """Format of contrastive accuracies, with enough decimals to distinguish chance from 0."""
    return f".{max(2, len(str(config.num_negatives)))}f"


# Consecutive log lines, and steps from the start, before a warning: upper modules start at chance.
_PATIENCE, _GRACE_STEPS = 3, 100


_NO_ACCURACY_ABOVE_CHANCE = 1.2


class CollapseWatch:
    """Checks every log line of a run; reports once when a module collapses, and once when it recovers."""

    def __init__(self, config: SimConfig) -> None:
        self.config, self.chance = config, 1 / (config.num_negatives + 1)
        self.in_a_row = [0] * config.num_modules
        self.warned = [False] * config.num_modules

    def sentences(self, scores: Sequence[Scores], step: int) -> list[str]:
        """Messages after a step, given the scores of every module."""
        said = []
        for module, (name, score) in enumerate(zip(self.config.module_names, scores, strict=True)):
            trouble = self.trouble(module, score)
            self.in_a_row[module] = self.in_a_row[module] + 1 if trouble else 0
            if not trouble and self.warned[module]:
                said.append(f"{name} has recovered.")
            if not trouble:
                self.warned[module] = False
            elif self.in_a_row[module] >= _PATIENCE and step >= _GRACE_STEPS and not self.warned[module]:
                said.append(f"{name} {trouble}")
                self.warned[module] = True
        return said

    def trouble(self, module: int, score: Scores) -> str:
        """Describes what is wrong with a module, and what usually helps; empty if nothing is."""
        if score["active_units"] == 0:
            return (
                "has collapsed: none of its units varies from frame to frame. Try "
                f"{self._less_kl(module)}a lower `learning_rate`, or `use_batch_norm`."
            )
        accuracy = score["contrastive_accuracy"]
        if math.isnan(accuracy) or accuracy > _NO_ACCURACY_ABOVE_CHANCE * self.chance:
            return ""
        advice = f"{self._less_kl(module)}an `initial_log_variance` of -4, so that latents start with little noise, "
        if self.config.latent_distribution == "deterministic":
            advice = ""
        digits = accuracy_digits(self.config)
        return (
            f"is at chance (contrastive accuracy {accuracy:{digits}}, chance {self.chance:{digits}}). Try {advice}a "
            "slower start (`warmup_steps`, `learning_rate`), or `use_batch_norm`. If the module below is at chance "
            "too, fix that one first."
        )

    def _less_kl(self, module: int) -> str:
        """Advice on the KL term, if there is one."""
        if module >= self.config.num_conv_modules or self.config.kl_weights[module] == 0:
            return ""
        return f"a lower `kl_weight` (now {self.config.kl_weights[module]:g}), `kl_warmup_steps` or `free_bits`, "


def pretrain(
    model: ModelArguments, data: DataArguments, settings: PretrainingArguments, callbacks: Sequence[Callback] = ()
) -> Path:
    """Pretrains a model, for example in a notebook, and returns the folder of the run.

    Args:
        model: Settings of the model.
        data: Settings of the data.
        settings: Settings of the training. An unfinished run in `settings.output_dir` is resumed.
        callbacks: Hooks, such as `DrawCurves()` of `trainer.curves` and `PushToHub(...)` of `hub.callback`.

    Raises:
        SystemExit: A setting or the data is invalid, or training had to stop; the message gives the reason and the
            checkpoint to resume from.
    """
    data.corpus_settings = data.with_dataset()
    run_command("pretrain", lambda: ((model, data, settings), list(callbacks)), build)
    return Path(settings.output_dir)


def build(
    accelerator: Accelerator, model_arguments: ModelArguments, data: DataArguments, settings: PretrainingArguments
) -> Task:
    """Builds the task of pretraining from its settings.

    Raises:
        ValueError: Settings are incompatible.
    """
    model, extractor = build_model(model_arguments)
    check_execution(model.config, data, settings, accelerator)
    check_objective(model.config, settings)
    model.to(accelerator.device)
    train_data, test_data = load_data(accelerator, data, settings, model.config, extractor)
    if settings.objective == INFONCE:
        check_negatives(model.config, data, settings, len(test_data))
    build_task = PretrainingTask if settings.objective == INFONCE else ViewTask
    task: Task = build_task(model, extractor, accelerator, data, settings, train_data, test_data)
    if settings.torch_compile:
        for module in model.sim.conv_modules:
            module.compile()
    # Only the name of a folder, as the title appears in published figures.
    task.title = f"{data.corpus}, {Path(model_arguments.init_from or '').name or model_arguments.preset}"
    return task


def make_schedule(
    model: SimForPreTraining,
    extractor: SimFeatureExtractor,
    accelerator: Accelerator,
    data: DataArguments,
    settings: PretrainingArguments,
    train_data: Dataset | IterableDataset,
) -> Schedule:
    """The schedule of an `execution`.

    Raises:
        ValueError: The processes cannot be divided among the stages of a pipeline.
        OSError: There is not enough disk space for cached latents.
    """
    num_modules, placement = model.config.num_modules, Placement.data_parallel(model, accelerator)
    if settings.execution == "pipeline":
        costs = measure_costs(model, accelerator, batch_size=settings.batch_size, crop_samples=data.crop_samples)
        return Pipeline(
            model,
            accelerator,
            share_out(costs, settings.pipeline_stages or min(num_modules, accelerator.num_processes)),
        )
    if settings.execution != "sequential":
        return Schedule(num_modules, placement)
    output_dir = Path(settings.output_dir)
    if not settings.cache_latents:
        return Sequential(num_modules, placement, output_dir)
    needed = cache_bytes(model.config, num_utterances=len(train_data), crop_samples=data.crop_samples)
    write = partial(
        write_cache,
        model,
        accelerator,
        train_data,
        extractor,
        output_dir,
        crop_samples=data.crop_samples,
        batch_size=settings.batch_size,
        seed=settings.seed,
        num_workers=data.num_workers,
        reader_timeout=data.reader_timeout,
    )
    return Sequential(num_modules, placement, output_dir, write, [require_space(output_dir, needed)])


def check_execution(
    config: SimConfig, data: DataArguments, settings: PretrainingArguments, accelerator: Accelerator
) -> None:
    """Checks that the model, the data and the processes support the execution."""
    for name in ("kl_warmup_steps", "pipeline_stages"):
        if getattr(settings, name) < 0:
            raise ValueError(f"`{name}` is {getattr(settings, name)}; it must be at least 0.")
    execution = settings.execution
    if execution not in EXECUTIONS:
        raise ValueError(f"`execution` is {execution!r}; choose one of {', '.join(EXECUTIONS)}.")
    if execution in ("sequential", "pipeline") and not config.gradient_isolation:
        raise ValueError(
            f"`execution` {execution!r} trains modules separately, but without `gradient_isolation` (CPC) they share "
            "one gradient; use 'joint'."
        )
    if settings.cache_latents and execution != "sequential":
        raise ValueError("`cache_latents` needs `execution` 'sequential'; set it, or remove `cache_latents`.")
    if settings.cache_latents and data.corpus_settings.get("streaming"):
        raise ValueError("`cache_latents` needs random access; load the corpus without `streaming`.")
    if execution == "pipeline" and accelerator.num_processes == 1:
        raise ValueError(
            "`execution` 'pipeline' needs several processes: `accelerate launch --num_processes 4` on GPUs, "
            "`ACCELERATE_USE_CPU=true torchrun --nproc_per_node 4 training/pretrain.py` on CPUs."
        )
    if config.input_kind != "waveform" and (settings.cache_latents or execution == "pipeline"):
        raise ValueError(f"`input_kind` {config.input_kind!r} supports neither `cache_latents` nor 'pipeline'.")
    if settings.gather_negatives and accelerator.num_processes == 1:
        raise ValueError("`gather_negatives` needs several processes, but there is one; launch several.")


def check_objective(config: SimConfig, settings: PretrainingArguments) -> None:
    """Checks that the model and the execution support the objective."""
    if settings.objective != INFONCE:
        check_views(config, settings)
    elif settings.objective_settings:
        raise ValueError("`objective_settings` needs another `objective`; those of 'infonce' are in `model_settings`.")
    if settings.cache_latents and augmentation_names(settings.augmentation or "none"):
        raise ValueError("`cache_latents` keeps one version of each crop; set `augmentation` to 'none'.")


def check_negatives(config: SimConfig, data: DataArguments, settings: PretrainingArguments, num_test: int) -> None:
    """Raises if batches have a single utterance but negatives must come from other utterances."""
    if config.negatives != "other_utterances":
        return
    if settings.batch_size < 2:
        raise ValueError("`negatives` 'other_utterances' needs a `batch_size` of at least 2.")
    if num_test < 2:
        raise ValueError(
            f"`negatives` 'other_utterances' needs at least 2 utterances to evaluate on; split "
            f"{data.eval_split!r} of {data.corpus} has {num_test}."
        )


def build_model(arguments: ModelArguments) -> tuple[SimForPreTraining, Any]:
    """A new model of a preset, or a pretrained one, and its feature extractor or other processor.

    Raises:
        ValueError: The checkpoint lacks weights; see `load_model`. One without a loss gets new predictors.
    """
    if arguments.init_from is not None:
        check_encoder(arguments.init_from)
        config = SimConfig.from_pretrained(arguments.init_from, **arguments.model_settings)
        has_loss = SimForPreTraining.__name__ in (config.architectures or [])
        new = "" if has_loss else r"predictors\..*"
        model = load_model(SimForPreTraining, arguments.init_from, config, may_be_new=new)
        return model, feature_extractor_of(arguments.init_from)
    config = SimConfig.preset(arguments.preset, **arguments.model_settings)
    return SimForPreTraining(config), new_processor(config)
