"""Says in words when a module has stopped learning, or never began, and what usually helps."""

import math
from collections.abc import Sequence

from modeling_sim import SimConfig
from training.log import Scores

# Log lines in a row, and steps from the start, before anything is said: upper modules begin at chance.
_PATIENCE, _GRACE_STEPS = 3, 100
_NO_ACCURACY_ABOVE_CHANCE = 1.2


class CollapseWatch:
    """Looks at every log line of a run; speaks once when a module collapses, and once when it recovers."""

    def __init__(self, config: SimConfig) -> None:
        self.config, self.chance = config, 1 / (config.num_negatives + 1)
        self.in_a_row = [0] * config.num_modules
        self.warned = [False] * config.num_modules

    def sentences(self, scores: Sequence[Scores], step: int) -> list[str]:
        """What there is to say after a step, with the scores of every module."""
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
        """What is wrong with a module, and what usually helps; empty if nothing is."""
        if score["active_units"] == 0:
            return (
                "has collapsed: none of its units varies from frame to frame. What usually helps: "
                f"{self._less_kl(module)}a lower `learning_rate`, `use_batch_norm`."
            )
        accuracy = score["contrastive_accuracy"]
        if math.isnan(accuracy) or accuracy > _NO_ACCURACY_ABOVE_CHANCE * self.chance:
            return ""
        advice = (
            f"{self._less_kl(module)}an `initial_log_variance` of -4, so that noise does not drown what is handed on; "
        )
        if self.config.latent_distribution == "deterministic":
            advice = ""
        return (
            f"is at chance (contrastive accuracy {accuracy:.2f}, a guess has {self.chance:.2f}). What usually helps: "
            f"{advice}a longer or slower start (`warmup_steps`, `learning_rate`), `use_batch_norm`; if the module "
            "below is at chance too, that one first."
        )

    def _less_kl(self, module: int) -> str:
        """Advice on the KL term where there is one."""
        if module >= self.config.num_conv_modules or self.config.kl_weights[module] == 0:
            return ""
        return f"a lower `kl_weight` (now {self.config.kl_weights[module]:g}), `kl_warmup_steps` or `free_bits`; "
