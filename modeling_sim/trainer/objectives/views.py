"""The task of pretraining with an `Objective`, which compares views of the same crops."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed
from accelerate import Accelerator
from datasets import Dataset, IterableDataset
from tqdm.auto import tqdm

from modeling_sim import SimConfig, SimFeatureExtractor, SimForPreTraining, SimModel
from modeling_sim.data.augmentation import augmentation_names, augmented
from modeling_sim.modeling_sim import draw_latents, real_frames
from modeling_sim.objectives_sim import ACTIVE_UNIT_VARIANCE, count_active_units, kl_to_standard_normal
from modeling_sim.trainer.devices import send
from modeling_sim.trainer.greedy import backward, module_generator
from modeling_sim.trainer.log import Scores, bars_are_shown, or_dash
from modeling_sim.trainer.objectives.contract import View, load_objective
from modeling_sim.trainer.optimization import Part
from modeling_sim.trainer.settings import DataArguments, PretrainingArguments
from modeling_sim.trainer.task import CropTask, Schedule

# Step number for the random draws of evaluation, which training never reaches; views use seed 0.
_EVALUATION = 0


class _ModuleResult(NamedTuple):
    """One module's pass over a batch."""

    module: int
    loss: torch.Tensor | None
    """0-dim, including the weighted KL; `None` for a module without a loss."""
    metrics: dict[str, torch.Tensor]
    mean: torch.Tensor
    """`(batch, frames, channels)`, detached, of all views."""
    num_frames: torch.Tensor | int
    """Number of real frames of `mean`."""


class ViewTask(CropTask):
    """Trains the encoder with an `Objective`; has one row of scores per module.

    The model's configuration determines whether every module or only the last one has a loss (`contrastive_modules`),
    and whether gradients flow between modules (`gradient_isolation`). The KL term is added as in SIM.

    Args:
        model: The model, on the accelerator's device; its predictors are not used.
        extractor: Feature extractor of the model.
        accelerator: Provides processes and mixed precision.
        data: Settings of the data.
        settings: Settings of the training.
        train_data: Data to train on, in crops.
        test_data: Data to evaluate on, in complete utterances.

    Raises:
        ValueError: The objective or one of its settings is unknown.
    """

    settings: PretrainingArguments
    model: SimModel

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
        super().__init__(accelerator, data, settings)
        self.settings, self.model = settings, model.sim
        self.extractor, self.train_data, self.test_data = extractor, train_data, test_data
        config, self.title = model.config, data.corpus
        self.row_names = config.module_names
        self.schedule = Schedule(self.num_rows, self.placement)
        self.trained = range(self.num_rows)
        with_loss = range(0 if config.contrastive_modules == "all" else self.num_rows - 1, self.num_rows)
        self.widths = [*[config.num_latents] * config.num_conv_modules, config.context_size]
        self.objective = load_objective(
            settings.objective, {module: self.widths[module] for module in with_loss}, settings.objective_settings
        ).to(accelerator.device)
        self.objective.attach(self.model)
        self.metrics = ("loss", *self.objective.metrics, "kl")
        default = "all" if self.objective.num_views > 1 else "none"
        self.augmentation = augmentation_names(settings.augmentation or default, config.input_kind)
        self.active_units: dict[int, torch.Tensor] = {}
        self.collapsed: set[int] = set()

    def comparable_config(self) -> dict[str, Any]:
        """Adds the objective to the fields that must match when a run is resumed."""
        own = {"objective": self.settings.objective, "objective_settings": self.objective.changed_settings}
        return {**super().comparable_config(), **own}

    def parts(self) -> list[Part]:
        """One part per module with its head, or one for a model with a single gradient."""
        objective = self.objective
        trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        if not self.model.config.gradient_isolation:
            return [Part([*self.model.parameters(), *trained], [*self.model.buffers(), *objective.buffers()])]
        parts = []
        for module in range(self.num_rows):
            buffers = [*self._network(self.model, module).buffers(), *objective.module_buffers(module)]
            if objective.target_network is not None:
                buffers += self._network(objective.target_network, module).buffers()
            parts.append(Part(self._module_parameters(module), buffers))
        inside = {id(parameter) for part in parts for parameter in part.parameters}
        parts[-1].parameters.extend(parameter for parameter in trained if id(parameter) not in inside)
        return parts

    def _module_parameters(self, module: int) -> list[torch.nn.Parameter]:
        parameters = list(self._network(self.model, module).parameters())
        if str(module) in self.objective.heads:
            parameters += self.objective.heads[str(module)].parameters()
        return parameters

    def _network(self, model: SimModel, module: int) -> torch.nn.Module:
        network = model.conv_modules[module] if module < model.config.num_conv_modules else model.context
        assert network is not None  # noqa: S101 - a module of the configuration
        return network

    def begin_stage(self, stage: int, finished: int) -> list[int]:
        """Sets finished modules to evaluation mode, and the others to training mode."""
        self.trained = range(finished, self.schedule.rows_of_stage(stage).stop)
        self.model.train()
        self.objective.train()
        for module in range(finished):
            self._network(self.model, module).eval()
        return list(self.trained) if self.model.config.gradient_isolation else [0] if self.trained else []

    # ------------------------------------------------------------------ a step

    def backward(self, batch: dict[str, Any], step: int, *, loss_scale: float, accumulating: bool) -> torch.Tensor:
        """Losses and gradients of a batch; isolated modules run backward right after their forward pass."""
        results = self._run(
            batch,
            batch["position"].tolist(),
            seed=self.settings.seed,
            step=step,
            kl_weight_scale=self.settings.kl_weight_scale(step),
        )
        rows = torch.full((self.num_rows, len(self.metrics)), math.nan, device=self.accelerator.device)
        at_once = self.settings.execution == "joint" or not self.model.config.gradient_isolation
        losses = []
        self.active_units = {}
        for result in results:
            self.active_units[result.module] = count_active_units(result.mean)
            if result.loss is None:
                continue
            values = {"loss": result.loss.detach(), **result.metrics}
            rows[result.module] = torch.stack([values[name].float() for name in self.metrics])
            if at_once:
                losses.append(result.loss)
            elif result.loss.requires_grad:
                backward(self.accelerator, result.loss, loss_scale)
        losses = [loss for loss in losses if loss.requires_grad]
        if losses:
            backward(self.accelerator, torch.stack(losses).sum(), loss_scale)
        if not accumulating:
            self.average_gradients()
        return rows

    def _run(
        self,
        batch: dict[str, Any],
        positions: Sequence[int],
        *,
        seed: int,
        step: int,
        kl_weight_scale: float = 1.0,
    ) -> Iterator[_ModuleResult]:
        """Runs the modules one by one on all views of a batch, and yields the result of each."""
        model, objective, device = self.model, self.objective, self.accelerator.device
        waveforms, num_views = send(batch["input_values"], device), objective.num_views
        mask = None if batch["attention_mask"].all() else send(batch["attention_mask"], device)
        chosen: dict[str, Any] = {"sampling_rate": self.extractor.sampling_rate, "seed": seed, "mask": mask}
        views = [
            augmented(waveforms, positions, names=self.augmentation, view=view, **chosen) for view in range(num_views)
        ]
        all_masks = None if mask is None else mask.repeat(num_views, 1)
        hidden_states, lengths = model.prepare_inputs(torch.cat(views), all_masks)
        # The hidden states and lengths of the momentum network.
        target: tuple[torch.Tensor, torch.Tensor | None] = hidden_states, lengths
        for module in range(self.num_rows):
            generator = module_generator(seed, step, module, self.placement.replica, device)
            # With a process number that does not exist.
            objective.shared_generator = module_generator(seed, step, module, self.placement.num_replicas, device)
            with self.accelerator.autocast():
                with torch.set_grad_enabled(torch.is_grad_enabled() and module in self.trained):
                    inputs = hidden_states.detach() if model.config.gradient_isolation else hidden_states
                    mean, log_variance, lengths = model.encode_module(module, inputs, lengths)
                    sampled = model.training and model.config.sample_latents
                    hidden_states = draw_latents(mean, log_variance if sampled else None, lengths, generator)
                if objective.target_network is not None:
                    with torch.no_grad():
                        target_mean, _, target_lengths = objective.target_network.encode_module(module, *target)
                    target = target_mean, target_lengths
                loss, metrics = None, dict[str, torch.Tensor]()
                if module in objective.channels:
                    with torch.set_grad_enabled(hidden_states.requires_grad):
                        loss, metrics = self._loss(module, hidden_states, target[0], lengths, generator)
                        kl = loss.new_zeros(())
                        if log_variance is not None:
                            frame_mask = None if lengths is None else real_frames(lengths, mean.shape[1])
                            kl = kl_to_standard_normal(mean, log_variance, frame_mask)
                            loss = loss + kl_weight_scale * model.config.kl_weights[module] * kl
                        metrics = {**metrics, "kl": kl.detach()}
            num_frames = len(mean) * mean.shape[1] if lengths is None else lengths.sum()
            yield _ModuleResult(module, loss, metrics, mean.detach(), num_frames)

    def _loss(
        self,
        module: int,
        hidden_states: torch.Tensor,
        target: torch.Tensor,
        lengths: torch.Tensor | None,
        generator: torch.Generator,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss and metrics of the objective for the views, which are stacked along the batch axis."""
        num_views = self.objective.num_views
        latents = hidden_states.chunk(num_views)
        has_targets = self.objective.target_network is not None
        targets = target.chunk(num_views) if has_targets else [None] * num_views
        frame_mask = None if lengths is None else real_frames(lengths, hidden_states.shape[1]).chunk(num_views)[0]
        views = [View(*pair) for pair in zip(latents, targets, strict=True)]
        output = self.objective.loss(module, views, frame_mask, generator)
        return output.loss.float(), {name: value.detach() for name, value in output.metrics.items()}

    def after_step(self, progress: float) -> None:
        """Updates the momentum network."""
        self.objective.after_step(self.model, progress)

    def state_dict(self) -> dict[str, Any]:
        """State of the objective."""
        return self.objective.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a `state_dict`."""
        self.objective.load_state_dict(state)

    # ------------------------------------------------------------------ scores

    @torch.no_grad()
    def evaluate(self) -> list[Scores]:
        """Means over held-out utterances in evaluation mode, with the same views in every evaluation."""
        accelerator = self.accelerator
        self.model.eval()
        self.objective.eval()
        sums = torch.zeros(self.num_rows, len(self.metrics) + 1, dtype=torch.float64, device=accelerator.device)
        # Sums over frames of 1, of the means, and of their squares.
        moments = [torch.zeros(1 + 2 * width, dtype=torch.float64, device=accelerator.device) for width in self.widths]
        for batch in tqdm(
            self.held_out_batches(), desc="evaluating", leave=False, disable=not bars_are_shown(accelerator)
        ):
            count = len(batch["index"])
            for result in self._run(batch, batch["index"].tolist(), seed=0, step=_EVALUATION):
                mean = result.mean.double().flatten(0, 1)  # padded frames are 0
                total = mean.new_ones(1) * result.num_frames
                moments[result.module] += torch.cat([total, mean.sum(dim=0), mean.square().sum(dim=0)])
                if result.loss is not None:
                    values = {"loss": result.loss, **result.metrics}
                    found = torch.stack([values[name].double() for name in self.metrics] + [mean.new_ones(())])
                    sums[result.module] += count * found
        for tensor in [sums, *moments]:
            if accelerator.num_processes > 1:
                torch.distributed.all_reduce(tensor)
        scores = []
        for row, of_row in zip(sums, moments, strict=False):
            means = (row[:-1] / row[-1]).tolist()  # NaN for a module without a loss
            first, second = (of_row[1:] / of_row[0]).chunk(2)
            active = ((second - first.square()) > ACTIVE_UNIT_VARIANCE).sum()
            scores.append({**dict(zip(self.metrics, means, strict=True)), "active_units": float(active)})
        return scores

    def snapshot(self) -> list[Scores]:
        """Active units of the latest batch."""
        return [{"active_units": float(self.active_units.get(row, math.nan))} for row in range(self.num_rows)]

    def summary(self, scores: list[Scores]) -> str:
        """Loss, the objective's metrics and active units of every module."""
        named = {"loss": ".3f", **dict.fromkeys(self.objective.metrics, ".3g")}
        parts = [f"{name} " + " ".join(or_dash(row[name], form) for row in scores) for name, form in named.items()]
        return ", ".join([*parts, "active " + " ".join(or_dash(row["active_units"], ".0f") for row in scores)])

    def warnings(self, scores: list[Scores], step: int) -> list[str]:
        """Reports once that none of a module's units varies any more."""
        now = {row for row, score in enumerate(scores) if score["active_units"] == 0}
        new = sorted(now - self.collapsed)
        self.collapsed = now
        return [
            f"{self.row_names[row]} has collapsed: none of its units varies from frame to frame. Try a lower "
            "`learning_rate`, `use_batch_norm`, or other `objective_settings`."
            for row in new
        ]

    def results(self) -> dict[str, Any]:
        """The objective and its augmentation."""
        settings = self.settings
        return {
            "objective": settings.objective,
            "objective_settings": settings.objective_settings,
            "augmentation": list(self.augmentation),
            "views": self.objective.num_views,
        }


def check_views(config: SimConfig, settings: PretrainingArguments) -> None:
    """Checks that the model and the execution support an objective of views.

    Raises:
        ValueError: They do not; the message names the setting.
    """
    name = settings.objective
    if settings.execution in ("sequential", "pipeline"):
        raise ValueError(
            f"`execution` {settings.execution!r} passes on latents of one view only, which `objective` {name!r} cannot "
            "use; choose 'per_module' or 'joint'."
        )
    if settings.gather_negatives:
        raise ValueError(f"`gather_negatives` belongs to `objective` 'infonce'; remove it for {name!r}.")
    for field in ("covariance_weight", "lagged_covariance_weight", "independence_weight", "free_bits"):
        if getattr(config, field):
            raise ValueError(
                f"`{field}` is {getattr(config, field):g}, but `objective` {name!r} does not have this term; set it "
                "to 0, or choose another preset."
            )
