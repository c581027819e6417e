"""Opens a local page to see and hear what the dimensions of a model do.

    modeling-sim explore runs/sim-small
    modeling-sim explore runs/sim-small --decoder runs/decoder --compare runs/sim-small-seed-1 runs/gim-small
    modeling-sim explore runs/sim-small --corpus librispeech --data_dir LibriSpeech

The page shows utterances over the latents of each module; for each dimension, what it follows, next to random axes, and
its largest and smallest moments; and, with a decoder, how the sound changes when it is moved. Further models are
compared on the same utterances. Results are kept in `cache_dir`, so that the page opens at once the next time; uploads
are kept there for a day. The page is served to this machine alone unless `--host` says otherwise, and loads nothing
from other sites.
"""

from collections.abc import Sequence

from modeling_sim.commands.command import command
from modeling_sim.explore.settings import ExploreArguments


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    with command("explore", __doc__, argv, ExploreArguments, positional=["model"]) as (settings,):
        from modeling_sim.explore.page import launch  # noqa: PLC0415 - imports torch and gradio

        launch(settings)
