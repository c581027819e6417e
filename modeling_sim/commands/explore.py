"""Opens a local page to see and hear what the dimensions of a model do.

    modeling-sim explore runs/sim-small
    modeling-sim explore runs/sim-small --decoder runs/decoder --compare runs/sim-small-seed-1 runs/gim-small
    modeling-sim explore runs/sim-small --corpus librispeech --data_dir LibriSpeech

The page shows utterances over the latents of each module, what each dimension follows, with random axes as the null,
its loudest moments, and what is heard when it is moved, if there is a decoder. Further models are compared on the same
utterances. What is found is kept in `cache_dir`, so that the page opens at once the next time; uploads are kept there
for a day. The page is served to this machine alone unless `--host` says otherwise, and loads nothing from other sites.
"""

from collections.abc import Sequence

from modeling_sim.commands.command import command
from modeling_sim.explore.settings import ExploreArguments


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    with command("explore", __doc__, argv, ExploreArguments, positional=["model"]) as (settings,):
        from modeling_sim.explore.page import launch  # noqa: PLC0415 - imports torch and gradio

        launch(settings)
