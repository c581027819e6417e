"""Publishes a model on the Hub: weights, configuration, code, card, settings, results and figures, in one commit.

    modeling-sim publish runs/sim-small --repo_id org/sim-small --measures runs/probe runs/abx --dry_run
    modeling-sim publish runs/sim-small --repo_id org/sim-small --measures runs/probe runs/abx
    modeling-sim publish --all org --dry_run
    modeling-sim publish --check model_cards/librispeech_small.md

The card is rendered from the run's results and from `--measures`, output folders of `probe`, `abx` and `evaluate`: of
the latter it shows probes, ABX, and single dimensions next to random axes. It is checked before the upload, which stops
if there are broken links or images, placeholders of the template, a license that is less strict than that of the data,
or metadata that the Hub rejects. Optimizer states, data and paths of this machine are not uploaded. The commit also
deletes outdated files of an earlier upload; all other files are kept, and listed. `--dry_run` shows the files, what
would happen to files in the repository, and the card, without changing anything. The token is that of `hf auth login`
or of HF_TOKEN.

    modeling-sim publish runs/sim-small --space --repo_id org/sim-small-explorer --decoder runs/decoder --dry_run

With `--space`, a Gradio Space is uploaded that runs `modeling-sim explore` on the model: the model, decoders, this
version of the package, `app.py`, `requirements.txt` and a card. It shows synthetic syllables, or the test split of the
data set on the Hub that `--space_dataset` names.
"""

from collections.abc import Sequence

from modeling_sim.commands.command import command
from modeling_sim.hub.settings import PublishArguments


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    with command("publish", __doc__, argv, PublishArguments, positional=["checkpoint"]) as (settings,):
        from modeling_sim.commands.publishing import check, publish, publish_all  # noqa: PLC0415 - imports torch

        if settings.check is not None:
            check(settings.check)
        elif settings.all is not None:
            publish_all(settings)
        else:
            publish(settings)
