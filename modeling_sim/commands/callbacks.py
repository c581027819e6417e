"""What every training command does around its run: draw the curves, and upload where that is wanted."""

from collections.abc import Sequence
from typing import Any

from modeling_sim.hub.callback import HubArguments, PushToHub
from modeling_sim.trainer.curves import DrawCurves
from modeling_sim.trainer.loop import Callback
from modeling_sim.trainer.settings import parse_arguments


def settings_and_callbacks(
    description: str | None, argv: Sequence[str] | None, classes: Sequence[Any]
) -> tuple[Sequence[Any], list[Callback]]:
    """The settings of a training command, and its callbacks; raises as `parse_arguments`.

    Args:
        description: What the command does, for `--help`.
        argv: Flags; those of the process if `None`.
        classes: Dataclasses of the settings, a `RunArguments` last.
    """
    *groups, hub = parse_arguments(description or "", argv, (*classes, HubArguments))
    return groups, [DrawCurves(), PushToHub(hub, groups[-1])]
