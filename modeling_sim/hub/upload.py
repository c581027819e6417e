"""Uploads to the Hub: all files in one commit, and errors of one line."""

import contextlib
import fnmatch
import re
import textwrap
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, ModelInfo, SpaceInfo
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from modeling_sim import SimConfig, SimDecoderConfig
from modeling_sim.files import MODEL_NAMES, read_json
from modeling_sim.text import in_one_line
from modeling_sim.trainer.run_folder import CURVES_NAME, LOG_NAME, RESULTS_NAME, SETTINGS_NAME

CARD_NAME = "README.md"


MODEL_MESSAGE, SPACE_MESSAGE = "Upload a pretrained model", "Upload an explorer"
"""Messages of commits with a card."""


RepoType = Literal["model", "space"]


RUN_FILES = (RESULTS_NAME, SETTINGS_NAME, LOG_NAME, CURVES_NAME)
"""Files of a run that are uploaded in addition to its model; other files in its folder are not."""


# A repository with only these files, those of a new repository and a card, has nothing to lose.
_NOTHING_TO_LOSE = (".gitattributes", CARD_NAME)


# Names of uploaded files except the card: model and code (also in a training state), run, measures.
_MODEL_FILE = "|".join(map(fnmatch.translate, MODEL_NAMES))


_RUN_FILE = "|".join(map(re.escape, RUN_FILES))


_OWN_FILE = re.compile(
    rf"{_MODEL_FILE}|{_RUN_FILE}|axes\.safetensors|(probe_|abx)[^/]*\.(json|png)|analysis\.json|"
    rf"checkpoint-\d+/({_MODEL_FILE}|trainer\.pt|trainer_state\.json)"
)


_OWN_FILE_OF_SPACE = re.compile(r"app\.py|requirements\.txt|(modeling_sim|models|decoders)/.+")


# A file of every Space that this package uploads.
_MARK_OF_SPACE = "modeling_sim/explore/page.py"


# Seconds before each retry after an error of the network or the Hub. If only the response to a commit was lost, the
# retry does not commit again, as unchanged files are skipped.
RETRY_SECONDS = (1.0, 5.0)


# Seconds to wait for the list of a repository's files.
_LIST_TIMEOUT_SECONDS = 30.0


class HubError(OSError):
    """The Hub could not be reached, or rejected an upload; the message is one line."""


class Plan(NamedTuple):
    """The effects of an upload on a repository."""

    info: ModelInfo | SpaceInfo | None
    """State of the repository before the upload; `None` if it does not exist."""
    has_branch: bool
    """Whether the branch exists; if not, it is created from the main branch."""
    replaced: list[str]
    """Files that are uploaded again."""
    deleted: list[str]
    """Files of an earlier upload that are not part of this one."""
    staying: list[str]
    """Files that this package did not upload; they do not change."""
    objections: list[str]
    """Reasons to refuse the upload without the user's consent."""

    def describe(self) -> list[str]:
        """Describes what happens to files in the repository that are not part of the upload."""
        lines = []
        if self.deleted:
            lines.append(f"deleted (files of an earlier upload): {', '.join(self.deleted)}")
        if self.staying:
            lines.append(f"unchanged (not uploaded by this package): {', '.join(self.staying)}")
        return lines


class Uploaded(NamedTuple):
    """A completed upload."""

    address: str
    """URL of the commit."""
    plan: Plan

    def __str__(self) -> str:
        """The URL, and what happened to other files in the repository."""
        return "; ".join([self.address, *self.plan.describe()])


def check_repo_id(repo_id: str) -> None:
    """Checks that the name of a repository is org/name.

    Raises:
        ValueError: It is not.
    """
    if repo_id.count("/") != 1:
        raise ValueError(f"`repo_id` is {repo_id!r}; give org/name, where org is a user or an organization.")
    check_name("repo_id", repo_id)


def check_name(setting: str, value: str) -> None:
    """Checks that a setting is a name that the Hub allows, with or without an organization.

    Raises:
        ValueError: It is not.
    """
    try:
        validate_repo_id(value)
    except HFValidationError as error:
        raise ValueError(f"`{setting}` is {value!r}, which is not a valid name: {error}") from error


def upload(
    api: HfApi,
    repo_id: str,
    folder: Path,
    *,
    message: str,
    private: bool = False,
    revision: str | None = None,
    replace_others: bool = False,
    repo_type: RepoType = "model",
) -> Uploaded:
    """Uploads all files of a folder in one commit, which also deletes outdated files of an earlier upload.

    The repository and the branch are created if they do not exist. Files only become visible with the commit, so a
    failed upload leaves the repository unchanged, or empty if it is new. `HfApi.upload_folder` is not used: with
    `hf_xet` it splits a large folder into several commits, and an incomplete model would be visible in between.

    Args:
        api: Client with the Hub's URL and the token.
        repo_id: Repository, org/name.
        folder: Folder to upload, with the same paths as in the repository.
        message: Message of the commit.
        private: Make a new repository private.
        revision: Branch; `None` for main.
        replace_others: Upload to a repository with a different model or other files, or replace an edited card.
        repo_type: Type of the repository: a model, or a Space that runs an explorer.

    Raises:
        HubError: There is no token or no write access, the network fails, the repository has other contents or is
            public although `private` is set, the revision is not a branch, or the Hub rejects the card's metadata.
    """

    def agreed_plan() -> Plan:
        plan = _plan(api, repo_id, folder, private=private, revision=revision, repo_type=repo_type)
        if plan.objections and not replace_others:
            raise HubError(
                f"{'; '.join(plan.objections)}; choose another repository, or use `modeling-sim publish --yes`."
            )
        return plan

    def attempt() -> Uploaded:
        api.whoami()
        plan = agreed_plan()
        _validate_card(folder, repo_type)
        if not plan.has_branch:
            if plan.info is None:
                api.create_repo(
                    repo_id,
                    private=private,
                    exist_ok=True,
                    repo_type=repo_type,
                    space_sdk="gradio" if repo_type == "space" else None,
                )
            if revision is not None:
                api.create_branch(repo_id, branch=revision, exist_ok=True, repo_type=repo_type)
            plan = agreed_plan()  # again, as another upload may have created them in the meantime
        additions = [
            CommitOperationAdd(path_in_repo=path.relative_to(folder).as_posix(), path_or_fileobj=path.resolve())
            for path in files_below(folder)
        ]
        deletions = [CommitOperationDelete(path_in_repo=name) for name in plan.deleted]
        commit = api.create_commit(
            repo_id,
            [*additions, *deletions],
            commit_message=message,
            revision=revision,
            repo_type=repo_type,
            # The commit of the plan, so that this upload does not undo a concurrent one.
            parent_commit=None if plan.info is None else plan.info.sha,
        )
        return Uploaded(str(commit.commit_url), plan)

    with hub_errors(api, repo_id):
        for seconds in RETRY_SECONDS:
            try:
                return attempt()
            except (HfHubHTTPError, httpx2.TransportError) as error:
                if not _may_pass(error):
                    raise
                time.sleep(seconds)
        return attempt()


def _validate_card(folder: Path, repo_type: RepoType) -> None:
    """Validates the metadata of a folder's card with the Hub before a repository is created.

    Raises:
        HubError: The metadata is invalid.
    """
    if not (folder / CARD_NAME).is_file():
        return
    try:
        ModelCard.load(folder / CARD_NAME).validate(repo_type)
    except ValueError as error:
        raise HubError(f"the Hub rejects the metadata of {CARD_NAME}: {in_one_line(error)}") from error


def files_below(folder: Path) -> list[Path]:
    """All files of a folder and its subfolders."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


# ---------------------------------------------------------------------- state of the repository


def plan_upload(
    api: HfApi,
    repo_id: str,
    folder: Path,
    *,
    private: bool = False,
    revision: str | None = None,
    repo_type: RepoType = "model",
) -> Plan:
    """The plan of an `upload` to the current state of the repository, without changing it.

    Raises:
        HubError: The upload would fail; see `upload`.
    """
    with hub_errors(api, repo_id):
        return _plan(api, repo_id, folder, private=private, revision=revision, repo_type=repo_type)


def _plan(api: HfApi, repo_id: str, folder: Path, *, private: bool, revision: str | None, repo_type: RepoType) -> Plan:
    """Like `plan_upload`, but raises the errors of the client."""
    try:
        info = _info(api, repo_id, repo_type)
    except RepositoryNotFoundError:
        return Plan(None, has_branch=False, replaced=[], deleted=[], staying=[], objections=[])
    if private and not info.private:
        raise HubError(f"{repo_id} is public; choose another repository, or remove --private.")
    branch = info if revision is None else _find_branch(api, repo_id, revision, repo_type)
    info = branch or info
    there = [file.rfilename for file in info.siblings or []]
    new = [path.relative_to(folder).as_posix() for path in files_below(folder)]
    replaced, deleted, staying = sort_files(there, new, repo_type)
    objections = _objections(api, repo_id, info.sha, there, folder, repo_type)
    return Plan(info, branch is not None, replaced, deleted, staying, objections)


def _info(api: HfApi, repo_id: str, repo_type: RepoType, revision: str | None = None) -> ModelInfo | SpaceInfo:
    info_of = api.space_info if repo_type == "space" else api.model_info
    found: ModelInfo | SpaceInfo = info_of(repo_id, revision=revision, timeout=_LIST_TIMEOUT_SECONDS)
    return found


def sort_files(
    there: Collection[str], new: Collection[str], repo_type: RepoType = "model"
) -> tuple[list[str], list[str], list[str]]:
    """Files of a repository that an upload replaces, deletes and keeps.

    Only files with names that this package uploads are deleted. A card is never deleted, since an upload of a running
    run has none.
    """
    own_file = _OWN_FILE if repo_type == "model" else _OWN_FILE_OF_SPACE
    others = sorted(set(there) - set(new) - set(_NOTHING_TO_LOSE))
    deleted = [name for name in others if own_file.fullmatch(name)]
    return sorted(set(there) & set(new)), deleted, [name for name in others if name not in deleted]


def _find_branch(api: HfApi, repo_id: str, revision: str, repo_type: RepoType) -> ModelInfo | SpaceInfo | None:
    """The branch, or `None` if it does not exist.

    Raises:
        HubError: The name is a tag or a commit.
    """
    try:
        info = _info(api, repo_id, repo_type, revision)
    except RevisionNotFoundError:
        if re.fullmatch(r"[0-9a-f]{40}", revision) is None:
            return None
        raise HubError(f"{repo_id} has no commit {revision}; give the name of a branch.") from None
    if revision not in [branch.name for branch in api.list_repo_refs(repo_id, repo_type=repo_type).branches]:
        raise HubError(f"{revision} is a tag or a commit of {repo_id}; give the name of a branch.")
    return info


def _objections(
    api: HfApi, repo_id: str, commit: str | None, there: Collection[str], folder: Path, repo_type: RepoType
) -> list[str]:
    """Reasons against an upload that would replace or mix with other contents of the repository."""
    lost = sorted(set(there) - set(_NOTHING_TO_LOSE))
    if not lost:
        return []
    objections = []
    if repo_type == "space":
        old = new = "an explorer" if _MARK_OF_SPACE in there else None
    else:
        path = api.hf_hub_download(repo_id, "config.json", revision=commit) if "config.json" in there else None
        old, new = None if path is None else _model_class(Path(path)), _model_class(folder / "config.json")
    if old is None:
        objections.append(f"{repo_id} has other contents ({', '.join(lost[:5])})")
    elif old != new:
        objections.append(f"{repo_id} has a different model, {old} instead of {new or 'a model of this package'}")
    if CARD_NAME in there and (folder / CARD_NAME).is_file() and _card_was_edited(api, repo_id, commit, repo_type):
        objections.append(f"{CARD_NAME} of {repo_id} was edited after the last upload and would be replaced")
    return objections


def _model_class(path: Path) -> str | None:
    """Class and type of a configuration's model, `SimModel (sim)`; `None` if it is not a model of this package."""
    try:
        config = read_json(path)
    except (FileNotFoundError, ValueError):
        return None
    if config.get("model_type") not in (SimConfig.model_type, SimDecoderConfig.model_type):
        return None
    return f"{', '.join(config.get('architectures') or ['a model'])} ({config['model_type']})"


def _card_was_edited(api: HfApi, repo_id: str, commit: str | None, repo_type: RepoType) -> bool:
    """Whether the card differs from that of the last upload with a card."""
    for earlier in api.list_repo_commits(repo_id, revision=commit, repo_type=repo_type):
        if earlier.title in (MODEL_MESSAGE, SPACE_MESSAGE):
            then, now = (
                api.get_paths_info(repo_id, CARD_NAME, revision=revision, repo_type=repo_type)
                for revision in (earlier.commit_id, commit)
            )
            return [file.blob_id for file in then] != [file.blob_id for file in now]
    return False


# ---------------------------------------------------------------------- errors


@contextlib.contextmanager
def hub_errors(api: HfApi, repo_id: str) -> Iterator[None]:
    """Turns errors of the client into a `HubError` of one line."""
    try:
        yield
    except HubError:
        raise
    except (OSError, httpx2.TransportError, HFValidationError) as error:
        raise HubError(_describe(error, api.endpoint, repo_id)) from error


def _describe(error: Exception, endpoint: str, repo_id: str) -> str:
    """Describes an error and its solution."""
    text = in_one_line(error)
    if isinstance(error, LocalTokenNotFoundError):
        return "no Hub token found; log in with `hf auth login`, or set HF_TOKEN."
    if isinstance(error, httpx2.TransportError):
        return f"the connection to {endpoint} failed ({type(error).__name__}: {text}); {repo_id} is unchanged."
    if not isinstance(error, HfHubHTTPError):
        return text
    status = error.response.status_code
    answer = textwrap.shorten(error.server_message or error.response.reason_phrase, 200)
    return {
        401: f"{endpoint} rejected the token; log in again with `hf auth login`, or set HF_TOKEN.",
        403: f"the token has no write access to {repo_id}; use another token or another repository.",
        404: f"{repo_id} does not exist, has no such branch, or is not visible with this token.",
        412: f"another upload to {repo_id} was completed in the meantime; check it, and rerun the command.",
    }.get(status, f"{endpoint} responded with {status} ({answer}); {repo_id} is unchanged.")


def _may_pass(error: Exception) -> bool:
    """Whether a retry may succeed, after an error of the network or an internal error of the Hub."""
    return not isinstance(error, HfHubHTTPError) or error.response.status_code >= 500
