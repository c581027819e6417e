"""Settings of uploads."""

from dataclasses import dataclass

from modeling_sim.settings import setting


@dataclass
class HubArguments:
    """Whether and when it is uploaded to the Hub."""

    push_to_hub: bool = setting(False, "Upload the finished run to the Hub; a failure is reported and loses nothing.")
    repo_id: str | None = setting(None, "Repository of the Hub to upload to, as in org/name.")
    push_every_saves: int = setting(
        0, "Checkpoints from one upload of a running run to the next, in the background; 0 uploads only at the end."
    )


@dataclass
class PublishArguments:
    """What is published, where and how."""

    checkpoint: str | None = setting(None, "Output folder of a finished run, or a saved model.")
    repo_id: str | None = setting(None, "Repository, org/name.")
    private: bool = setting(False, "Make a new repository private.")
    revision: str | None = setting(None, "Branch to upload to; made if it is not there. main if unset.")
    measures: list[str] = setting([], "Folders or JSON files of probes and ABX.")  # noqa: RUF009 - a field
    license: str | None = setting(
        None, "License of the model, by its id on the Hub; at least as strict as that of the data."
    )
    card: str | None = setting(None, "A card of your own instead of the rendered one; it is checked as well.")
    with_training_state: bool = setting(False, "Add the newest checkpoint, to resume from.")
    dry_run: bool = setting(False, "Show what would be uploaded, and upload nothing.")
    yes: bool = setting(False, "Replace another kind of model, other files, or an edited card.")
    check: str | None = setting(None, "Only check this card.")
