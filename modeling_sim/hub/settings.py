"""Settings of uploads."""

from dataclasses import dataclass

from modeling_sim.settings import check_checkpoint, setting


@dataclass
class HubArguments:
    """The upload of a run to the Hub."""

    push_to_hub: bool = setting(False, "Upload the finished run to the Hub; a failure does not affect the run.")
    repo_id: str | None = setting(None, "Repository on the Hub, org/name.")
    push_every_saves: int = setting(
        0, "Upload every n-th checkpoint of a running run in the background; 0 uploads only at the end."
    )


@dataclass
class PublishArguments:
    """The publication of a model."""

    checkpoint: str | None = setting(None, "Output folder of a finished run, or a saved model.")
    repo_id: str | None = setting(None, "Repository, org/name.")
    all: str | None = setting(
        None,
        "User or organization: publish every model in the folder `checkpoint` (unset: `checkpoints`) under the name of "
        "its folder, a Space for each model with a decoder, and a collection that lists them all.",
    )
    private: bool = setting(False, "Make a new repository private.")
    revision: str | None = setting(None, "Branch to upload to, created if necessary; unset for main.")
    measures: list[str] = setting([], "Output folders or JSON files of `probe`, `abx` and `evaluate`.")  # noqa: RUF009 - a field
    license: str | None = setting(
        None, "License of the model, as an identifier of the Hub; at least as strict as that of the data."
    )
    card: str | None = setting(None, "Your own card to use instead of the rendered one; it is checked too.")
    with_training_state: bool = setting(False, "Include the newest checkpoint, to resume from.")
    space: bool = setting(False, "Publish a Space that runs the explorer of the model, instead of the model.")
    decoder: list[str] = setting([], "Decoders to include in the Space.")  # noqa: RUF009 - a field
    space_dataset: str | None = setting(
        None, "Data set on the Hub for the Space to show; unset for synthetic syllables."
    )
    dry_run: bool = setting(False, "Show what would be uploaded without uploading it.")
    yes: bool = setting(False, "Replace a different model, other files, or an edited card.")
    check: str | None = setting(None, "Check this card and publish nothing.")

    def validate(self) -> None:
        """Checks that the model exists; raises like `check_checkpoint`."""
        if self.checkpoint is not None and self.all is None:
            check_checkpoint("checkpoint", self.checkpoint)
