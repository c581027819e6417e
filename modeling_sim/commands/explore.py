"""Opens a local page to see and hear what the dimensions of a model do.

    modeling-sim explore runs/sim-small
    modeling-sim explore runs/sim-small --decoder runs/decoder --compare runs/sim-small-seed-1 runs/gim-small
    modeling-sim explore runs/sim-small --corpus librispeech --data_dir LibriSpeech

The page shows utterances with the latents of each module. For each dimension it shows the correlation with properties
of the sound, next to that of random axes, and plays the frames where the dimension is largest and smallest. With a
decoder, it plays how the sound changes with the dimension. `--compare` adds other models on the same utterances.

Results are cached in `--cache_dir`, so that the page opens faster the next time; uploads are deleted after a day. Only
this machine can open the page unless you set `--host`. The page loads nothing from other sites.
"""

from collections.abc import Sequence

from modeling_sim.commands.command import command
from modeling_sim.explore.settings import ExploreArguments


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    with command("explore", __doc__, argv, ExploreArguments, positional=["model"]) as (settings,):
        from modeling_sim.explore.page import launch  # noqa: PLC0415 - imports torch and gradio

        launch(settings)
