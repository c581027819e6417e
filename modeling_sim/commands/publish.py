"""Publishes a model on the Hub: weights, configuration, code, card, settings, results and pictures, in one commit.

    modeling-sim publish runs/sim-small --repo_id org/sim-small --measures runs/probe runs/abx --dry_run
    modeling-sim publish runs/sim-small --repo_id org/sim-small --measures runs/probe runs/abx
    modeling-sim publish --check model_cards/librispeech_small.md

The card is rendered from the run's results and from `--measures`, output folders of probes and ABX. It is checked
before anything is sent: dead links and pictures, text of the template that was not filled in, and a license that is
looser than the data's stop the upload, as does metadata that the Hub refuses. Optimizer states, data and paths of this
machine are not uploaded. Files of an earlier upload that are not part of this one are deleted in the same commit; all
other files stay, and are listed. `--dry_run` shows the files, what happens to those in the repository, and the card,
and changes nothing. The token is that of `hf auth login`, or HF_TOKEN.
"""

import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi

from modeling_sim.files import ends_with_its_reader
from modeling_sim.hub.card_check import check_card
from modeling_sim.hub.staging import stage_run
from modeling_sim.hub.upload import CARD_NAME, MODEL_MESSAGE, HubError, check_repo_id, files_below, plan_upload, upload
from modeling_sim.settings import HelpFormatter


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    arguments = parse(argv)
    try:
        with ends_with_its_reader():
            if arguments.check is not None:
                check(Path(arguments.check))
            else:
                publish(arguments)
    except (ValueError, OSError) as error:  # of files and of the Hub
        raise SystemExit(f"publish.py: {error}") from error


def parse(argv: Sequence[str] | None) -> Namespace:
    """Reads the flags."""
    parser = ArgumentParser(description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False)
    parser.add_argument("checkpoint", nargs="?", help="Output folder of a finished run, or a saved model.")
    parser.add_argument("--repo_id", help="Repository, org/name.")
    parser.add_argument("--private", action="store_true", help="Make a new repository private.")
    parser.add_argument("--revision", help="Branch to upload to; made if it is not there. main if unset.")
    parser.add_argument("--measures", nargs="*", default=[], help="Folders or JSON files of probes and ABX.")
    parser.add_argument(
        "--license", help="License of the model, by its id on the Hub; at least as strict as that of the data."
    )
    parser.add_argument("--card", help="A card of your own instead of the rendered one; it is checked as well.")
    parser.add_argument("--with_training_state", action="store_true", help="Add the newest checkpoint, to resume from.")
    parser.add_argument("--dry_run", action="store_true", help="Show what would be uploaded, and upload nothing.")
    parser.add_argument(
        "--yes", action="store_true", help="Replace another kind of model, other files, or an edited card."
    )
    parser.add_argument("--check", metavar="CARD", help="Only check a card.")
    arguments = parser.parse_args(argv)
    if arguments.check is None and (arguments.checkpoint is None or arguments.repo_id is None):
        parser.error("give a checkpoint and --repo_id, or --check CARD")
    if arguments.license is not None and arguments.card is not None:
        parser.error("--license is for the rendered card; a card of your own states its license itself")
    if arguments.revision == "":
        parser.error("--revision is empty; give the name of a branch, or leave it out for main")
    if arguments.repo_id is not None:
        try:
            check_repo_id(arguments.repo_id)
        except ValueError as error:
            parser.error(str(error))
    return arguments


def check(card: Path) -> None:
    """Prints the faults of a card.

    Raises:
        SystemExit: It has faults, or is not there.
    """
    if not card.is_file():
        raise SystemExit(f"publish.py: {card} is not a file.")
    problems = check_card(card)
    if problems:
        raise SystemExit("\n".join(f"{card}: {problem}" for problem in problems))
    print(f"{card}: nothing is wrong")


def publish(arguments: Namespace) -> None:
    """Collects, checks, and uploads or shows."""
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary)
        stage_run(
            Path(arguments.checkpoint),
            staged,
            repo_id=arguments.repo_id,
            measures=[Path(path) for path in arguments.measures],
            card=None if arguments.card is None else Path(arguments.card),
            stated_license=arguments.license,
            with_training_state=arguments.with_training_state,
        )
        if arguments.dry_run:
            show(staged)
            show_repo(staged, arguments)
            print((staged / CARD_NAME).read_text(encoding="utf-8"))
            return
        uploaded = upload(
            HfApi(),
            arguments.repo_id,
            staged,
            message=MODEL_MESSAGE,
            private=arguments.private,
            revision=arguments.revision,
            replace_others=arguments.yes,
        )
        print(f"uploaded to {uploaded.address}")
        print("".join(f"{line}\n" for line in uploaded.plan.describe()), end="")


def show(staged: Path) -> None:
    """Prints files with sizes."""
    paths = files_below(staged)
    for path in paths:
        print(f"{path.stat().st_size:>14,}  {path.relative_to(staged)}")
    print(f"{sum(path.stat().st_size for path in paths):>14,}  bytes in {len(paths)} files; nothing was uploaded\n")


def show_repo(staged: Path, arguments: Namespace) -> None:
    """Prints what the upload would do to the files in the repository, or why that is not known."""
    repo_id = arguments.repo_id
    try:
        plan = plan_upload(HfApi(), repo_id, staged, private=arguments.private, revision=arguments.revision)
    except HubError as error:
        print(f"{repo_id} could not be read: {error}\n")
        return
    if plan.info is None:
        print(f"{repo_id} does not exist, or cannot be seen with this token.\n")
        return
    lines = plan.describe()
    if plan.replaced:
        lines.insert(0, f"replaced where they differ: {', '.join(plan.replaced)}")
    lines += [f"refused without --yes: {objection}" for objection in plan.objections]
    print("\n".join([f"What is in {repo_id} now:", *(lines or ["nothing that would be lost"])]) + "\n")
