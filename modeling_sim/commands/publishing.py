"""Implementation of `modeling-sim publish`: collects files, shows or uploads them, and checks cards."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from modeling_sim.hub.card_check import check_card
from modeling_sim.hub.collection import TITLE, publish_collection
from modeling_sim.hub.settings import PublishArguments
from modeling_sim.hub.space import stage_space
from modeling_sim.hub.staging import MEASURES, stage_run
from modeling_sim.hub.upload import (
    CARD_NAME,
    MODEL_MESSAGE,
    SPACE_MESSAGE,
    HubError,
    RepoType,
    check_name,
    check_repo_id,
    files_below,
    plan_upload,
    upload,
)
from modeling_sim.text import counted


def check(path: str) -> None:
    """Prints the problems of a card.

    Raises:
        FileNotFoundError: The card does not exist.
        SystemExit: The card has problems.
    """
    card = Path(path)
    if not card.is_file():
        raise FileNotFoundError(f"{card} does not exist.")
    problems = check_card(card)
    if problems:
        raise SystemExit("\n".join(f"{card}: {problem}" for problem in problems))
    print(f"{card}: no problems found")


def publish(settings: PublishArguments) -> None:
    """Collects and checks the files of a model, and uploads or shows them; see `publish_each`."""
    publish_each([settings])


def publish_each(models: Sequence[PublishArguments]) -> None:
    """Collects and checks the files of all models, and then uploads or shows them.

    Raises:
        ValueError: Settings are missing or incompatible, or a file must not be published; nothing was uploaded.
        OSError: A file or the Hub cannot be read or written.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary) / str(number) for number in range(len(models))]
        for settings, staged in zip(models, folders, strict=True):
            staged.mkdir()
            stage(settings, staged)
        for settings, staged in zip(models, folders, strict=True):
            send(settings, staged)


def stage(settings: PublishArguments, staged: Path) -> None:
    """Checks settings, and collects the files to upload in an empty folder; raises as `publish_each`."""
    if settings.checkpoint is None or settings.repo_id is None:
        raise ValueError("give a `checkpoint` and a `repo_id`, or a card to `check`.")
    if settings.license is not None and settings.card is not None:
        raise ValueError("`license` only applies to a rendered card; state the license in your own `card`.")
    check_repo_id(settings.repo_id)
    of_model = [name for name in ("measures", "card", "with_training_state") if getattr(settings, name)]
    if settings.space and of_model:
        raise ValueError(f"`{of_model[0]}` only applies to a model; remove it, or `space`.")
    if not settings.space and (settings.decoder or settings.space_dataset):
        raise ValueError("`decoder` and `space_dataset` only apply to a Space; set `space`, or remove them.")
    if settings.space_dataset is not None:
        check_name("space_dataset", settings.space_dataset)
    if settings.space:
        stage_space(
            Path(settings.checkpoint),
            staged,
            repo_id=settings.repo_id,
            decoders=[Path(path) for path in settings.decoder],
            dataset_name=settings.space_dataset,
            stated_license=settings.license,
        )
    else:
        stage_run(
            Path(settings.checkpoint),
            staged,
            repo_id=settings.repo_id,
            measures=[Path(path) for path in settings.measures],
            card=None if settings.card is None else Path(settings.card),
            stated_license=settings.license,
            with_training_state=settings.with_training_state,
        )


def send(settings: PublishArguments, staged: Path) -> None:
    """Uploads or shows the files that `stage` collected; raises `OSError` if the Hub cannot be reached."""
    repo_id, repo_type = str(settings.repo_id), _repo_type(settings)
    if settings.all is not None:
        print(f"{settings.checkpoint} -> {repo_id}")
    if settings.dry_run:
        show(staged)
        show_repo(staged, repo_id, settings, repo_type)
        print((staged / CARD_NAME).read_text(encoding="utf-8"))
        return
    uploaded = upload(
        HfApi(),
        repo_id,
        staged,
        message=SPACE_MESSAGE if settings.space else MODEL_MESSAGE,
        private=settings.private,
        revision=settings.revision,
        replace_others=settings.yes,
        repo_type=repo_type,
    )
    print(f"uploaded to {uploaded.address}")
    print("".join(f"{line}\n" for line in uploaded.plan.describe()), end="")


def _repo_type(settings: PublishArguments) -> RepoType:
    return "space" if settings.space else "model"


def publish_all(settings: PublishArguments) -> None:
    """Publishes every model of a folder with its measures, and lists all in a collection.

    An encoder NAME with a decoder NAME-decoder also gets a Space, NAME-explorer. All files are checked before the first
    upload.

    Raises:
        ValueError: Settings of a single model are given, or a file must not be published.
        OSError: A file or the Hub cannot be read or written, or the folder has no models.
    """
    of_one = ("repo_id", "measures", "card", "revision", "space", "decoder")
    given = [name for name in of_one if getattr(settings, name)]
    if given:
        raise ValueError(f"`{given[0]}` is for one model; remove it, or `all`.")
    root = Path(settings.checkpoint or "checkpoints")
    folders = sorted(path.parent for path in root.glob("*/config.json"))
    if not folders:
        raise FileNotFoundError(f"`checkpoint` {root} has no folders of models.")

    def one(folder: Path, ending: str = "", **changes: Any) -> PublishArguments:
        return replace(settings, checkpoint=str(folder), repo_id=f"{settings.all}/{folder.name}{ending}", **changes)

    of_model: dict[str, Any] = {"space_dataset": None}
    of_space: dict[str, Any] = {"space": True, "with_training_state": False}
    models = [
        one(folder, measures=[str(path) for pattern in MEASURES for path in sorted(folder.glob(pattern))], **of_model)
        for folder in folders
    ]
    for folder in folders:
        decoder = folder.with_name(f"{folder.name}-decoder")
        if decoder in folders:
            models.append(one(folder, "-explorer", decoder=[str(decoder)], **of_space))
    publish_each(models)
    published = {str(each.repo_id): _repo_type(each) for each in models}
    if settings.dry_run:
        print(f"collection {TITLE!r} of {settings.all}: {', '.join(published)}")
        return
    print(publish_collection(HfApi(), str(settings.all), published, private=settings.private).url)


def show(staged: Path) -> None:
    """Prints the files to upload with their sizes."""
    paths = files_below(staged)
    for path in paths:
        print(f"{path.stat().st_size:>14,}  {path.relative_to(staged)}")
    size = sum(path.stat().st_size for path in paths)
    print(f"{size:>14,}  bytes in {counted(len(paths), 'file')}; nothing was uploaded\n")


def show_repo(staged: Path, repo_id: str, settings: PublishArguments, repo_type: RepoType) -> None:
    """Prints the effects of the upload on files in the repository, or why they are unknown."""
    try:
        plan = plan_upload(
            HfApi(), repo_id, staged, private=settings.private, revision=settings.revision, repo_type=repo_type
        )
    except HubError as error:
        print(f"cannot read {repo_id}: {error}\n")
        return
    if plan.info is None:
        print(f"{repo_id} does not exist, or is not visible with this token.\n")
        return
    lines = plan.describe()
    if plan.replaced:
        lines.insert(0, f"replaced if changed: {', '.join(plan.replaced)}")
    lines += [f"needs --yes: {objection}" for objection in plan.objections]
    print("\n".join([f"Current files of {repo_id}:", *(lines or ["none that would change"])]) + "\n")
