"""Uploading to the Hub: all files in one commit, and every failure as one clear line."""

import contextlib
import re
import textwrap
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, ModelInfo
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from modeling_sim import SimConfig, SimDecoderConfig
from modeling_sim.files import read_json
from modeling_sim.trainer.run_folder import CURVES_NAME, LOG_NAME, RESULTS_NAME, SETTINGS_NAME

CARD_NAME = "README.md"


MODEL_MESSAGE = "Upload a pretrained model"
"""Message of the commits that bring a card."""


RUN_FILES = (RESULTS_NAME, SETTINGS_NAME, LOG_NAME, CURVES_NAME)
"""Files of a run next to its model that are uploaded; other files in its folder are not."""


# Files of a new repository, and a card: a repository with nothing else holds nothing that could be lost.
_NOTHING_TO_LOSE = (".gitattributes", CARD_NAME)


# Names of uploaded files other than the card: a model with its code, which a training state holds too; a run; measures.
_MODEL_FILE = (
    r"(preprocessor_)?config\.json|model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|"
    r"(configuration|modeling|layers|objectives|feature_extraction)_sim(_decoder)?\.py"
)


_RUN_FILE = "|".join(map(re.escape, RUN_FILES))


_OWN_FILE = re.compile(
    rf"{_MODEL_FILE}|{_RUN_FILE}|(probe_|abx)[^/]*\.(json|png)|"
    rf"checkpoint-\d+/({_MODEL_FILE}|trainer\.pt|trainer_state\.json)"
)


# Seconds before each retry after a failure of the network or the Hub. A commit whose answer was lost is not made twice:
# files that are already there are skipped.
RETRY_SECONDS = (1.0, 5.0)


# Seconds to wait for the list of a repository's files.
_LOOK_SECONDS = 30.0


class HubError(OSError):
    """The Hub could not be reached or refused an upload; the message is one line that says what to do."""


class Plan(NamedTuple):
    """What an upload does to a repository."""

    info: ModelInfo | None
    """State of the repository before the upload; `None` if it does not exist."""
    has_branch: bool
    """Whether the branch exists; if not, it is made from the main one."""
    replaced: list[str]
    """Files that are uploaded again; unchanged ones keep their content."""
    deleted: list[str]
    """Files of an earlier upload that are not part of this one."""
    staying: list[str]
    """Files that this package did not upload; nothing happens to them."""
    objections: list[str]
    """Why the upload is not made unless the user insists."""

    def describe(self) -> list[str]:
        """A line for each kind of file in the repository that is not part of the upload."""
        lines = []
        if self.deleted:
            lines.append(f"deleted, as parts of an earlier upload: {', '.join(self.deleted)}")
        if self.staying:
            lines.append(f"stays there, as no part of any upload: {', '.join(self.staying)}")
        return lines


class Uploaded(NamedTuple):
    """An upload that was made."""

    address: str
    """Address of the commit."""
    plan: Plan

    def __str__(self) -> str:
        """The address, and what happened to other files in the repository."""
        return "; ".join([self.address, *self.plan.describe()])


def check_repo_id(repo_id: str) -> None:
    """Refuses a name of a repository that is not org/name.

    Raises:
        ValueError: It is not; the message names it.
    """
    if repo_id.count("/") != 1:
        raise ValueError(f"`repo_id` is {repo_id!r}; give org/name, with a user or an organization of the Hub as org.")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"`repo_id` is {repo_id!r}, which the Hub does not take: {error}") from error


def upload(
    api: HfApi,
    repo_id: str,
    folder: Path,
    *,
    message: str,
    private: bool = False,
    revision: str | None = None,
    replace_others: bool = False,
) -> Uploaded:
    """Uploads all files of a folder in one commit, which deletes files of an earlier upload that this one lacks.

    The repository and the branch are created if they do not exist. Nothing can be seen before the commit, so an
    upload that fails leaves what was there before, or an empty repository. `HfApi.upload_folder` is not used: with
    `hf_xet` installed it splits a large folder into several commits, and half a model would be visible meanwhile.

    Args:
        api: Client with the Hub's address and the token.
        repo_id: Repository, org/name.
        folder: Files, at the paths that they get in the repository.
        message: Message of the commit.
        private: Make a new repository private.
        revision: Branch; `None` for main.
        replace_others: Write into a repository that holds another kind of model or something else, or over a card that
            somebody edited there.

    Raises:
        HubError: There is no token or no right to write, the network fails, the repository holds something else, or
            is public although `private` is set, the revision is no branch, or the Hub refuses the card's metadata.
    """

    def agreed_plan() -> Plan:
        plan = _plan(api, repo_id, folder, private=private, revision=revision)
        if plan.objections and not replace_others:
            raise HubError(
                f"{'; '.join(plan.objections)}; give another repository, or insist with `modeling-sim publish --yes`."
            )
        return plan

    def attempt() -> Uploaded:
        api.whoami()
        plan = agreed_plan()
        _validate_card(folder)
        if not plan.has_branch:
            if plan.info is None:
                api.create_repo(repo_id, private=private, exist_ok=True)
            if revision is not None:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            plan = agreed_plan()  # again: another upload may have made them meanwhile
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
            # The commit that the plan is for: an upload that was overtaken by another one does not undo it.
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


def _validate_card(folder: Path) -> None:
    """Asks the Hub whether it accepts the metadata of a folder's card, before a repository is made for it.

    Raises:
        HubError: It does not.
    """
    if not (folder / CARD_NAME).is_file():
        return
    try:
        ModelCard.load(folder / CARD_NAME).validate()
    except ValueError as error:
        raise HubError(f"the metadata of {CARD_NAME} is refused: {' '.join(str(error).split())}") from error


def files_below(folder: Path) -> list[Path]:
    """All files of a folder and of those in it."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


# ---------------------------------------------------------------------- what is there


def plan_upload(api: HfApi, repo_id: str, folder: Path, *, private: bool = False, revision: str | None = None) -> Plan:
    """What `upload` would do to the repository as it is now; nothing is changed.

    Raises:
        HubError: The upload would fail; see `upload`.
    """
    with hub_errors(api, repo_id):
        return _plan(api, repo_id, folder, private=private, revision=revision)


def _plan(api: HfApi, repo_id: str, folder: Path, *, private: bool, revision: str | None) -> Plan:
    """`plan_upload` with the errors of the client."""
    try:
        info = api.model_info(repo_id, timeout=_LOOK_SECONDS)
    except RepositoryNotFoundError:
        return Plan(None, has_branch=False, replaced=[], deleted=[], staying=[], objections=[])
    if private and not info.private:
        raise HubError(f"{repo_id} is public; give another repository, or leave --private out.")
    branch = info if revision is None else _find_branch(api, repo_id, revision)
    info = branch or info
    there = [file.rfilename for file in info.siblings or []]
    new = [path.relative_to(folder).as_posix() for path in files_below(folder)]
    replaced, deleted, staying = sort_files(there, new)
    objections = _objections(api, repo_id, info.sha, there, folder)
    return Plan(info, branch is not None, replaced, deleted, staying, objections)


def sort_files(there: Collection[str], new: Collection[str]) -> tuple[list[str], list[str], list[str]]:
    """Files of a repository that an upload replaces, deletes and keeps.

    Only files with names that this package uploads are deleted. A card is never deleted, since an upload of a run that
    is still training has none.
    """
    others = sorted(set(there) - set(new) - set(_NOTHING_TO_LOSE))
    deleted = [name for name in others if _OWN_FILE.fullmatch(name)]
    return sorted(set(there) & set(new)), deleted, [name for name in others if name not in deleted]


def _find_branch(api: HfApi, repo_id: str, revision: str) -> ModelInfo | None:
    """The branch, or `None` if it does not exist.

    Raises:
        HubError: The name is that of a tag or a commit.
    """
    try:
        info = api.model_info(repo_id, revision=revision, timeout=_LOOK_SECONDS)
    except RevisionNotFoundError:
        if re.fullmatch(r"[0-9a-f]{40}", revision) is None:
            return None
        raise HubError(f"{repo_id} has no commit {revision}, and an upload needs a branch; give its name.") from None
    if revision not in [branch.name for branch in api.list_repo_refs(repo_id).branches]:
        raise HubError(f"{revision} is a tag or a commit of {repo_id}, which never changes; give a branch.")
    return info


def _objections(api: HfApi, repo_id: str, commit: str | None, there: Collection[str], folder: Path) -> list[str]:
    """Reasons against an upload that would replace or mix up what the repository holds."""
    lost = sorted(set(there) - set(_NOTHING_TO_LOSE))
    if not lost:
        return []
    objections = []
    path = api.hf_hub_download(repo_id, "config.json", revision=commit) if "config.json" in there else None
    old, new = None if path is None else _kind(Path(path)), _kind(folder / "config.json")
    if old is None:
        objections.append(f"{repo_id} holds something else ({', '.join(lost[:5])})")
    elif old != new:
        objections.append(f"{repo_id} holds another kind of model, {old}, and this is {new or 'something else'}")
    if CARD_NAME in there and (folder / CARD_NAME).is_file() and _card_was_edited(api, repo_id, commit):
        objections.append(f"{CARD_NAME} of {repo_id} was edited there after the last upload, and would be replaced")
    return objections


def _kind(path: Path) -> str | None:
    """Class and type of a configuration's model, `SimModel (sim)`; `None` if it is not a model of this package."""
    try:
        config = read_json(path)
    except (FileNotFoundError, ValueError):
        return None
    if config.get("model_type") not in (SimConfig.model_type, SimDecoderConfig.model_type):
        return None
    return f"{', '.join(config.get('architectures') or ['a model'])} ({config['model_type']})"


def _card_was_edited(api: HfApi, repo_id: str, commit: str | None) -> bool:
    """Whether the card differs from that of the last upload that had one."""
    for earlier in api.list_repo_commits(repo_id, revision=commit):
        if earlier.title == MODEL_MESSAGE:
            then, now = (
                api.get_paths_info(repo_id, CARD_NAME, revision=revision) for revision in (earlier.commit_id, commit)
            )
            return [file.blob_id for file in then] != [file.blob_id for file in now]
    return False


# ---------------------------------------------------------------------- errors


@contextlib.contextmanager
def hub_errors(api: HfApi, repo_id: str) -> Iterator[None]:
    """Turns errors of a client into a `HubError` of one line."""
    try:
        yield
    except HubError:
        raise
    except (OSError, httpx2.TransportError, HFValidationError) as error:
        raise HubError(_in_one_line(error, api.endpoint, repo_id)) from error


def _in_one_line(error: Exception, endpoint: str, repo_id: str) -> str:
    """An error, and what to do about it."""
    text = " ".join(str(error).split())
    if isinstance(error, LocalTokenNotFoundError):
        return "there is no token of the Hub; log in with `hf auth login`, or set HF_TOKEN."
    if isinstance(error, httpx2.TransportError):
        return f"the connection to {endpoint} failed ({type(error).__name__}: {text}); {repo_id} is as it was before."
    if not isinstance(error, HfHubHTTPError):
        return text
    status = error.response.status_code
    answer = textwrap.shorten(error.server_message or error.response.reason_phrase, 200)
    return {
        401: f"{endpoint} refused the token; log in again with `hf auth login`, or set HF_TOKEN.",
        403: f"the token has no right to write to {repo_id}; take one with that right, or another repository.",
        404: f"{repo_id} is not there, has no such branch, or the token may not see it.",
        412: f"another upload to {repo_id} went through meanwhile; look at it, and give the command again.",
    }.get(status, f"{endpoint} answered {status} ({answer}); {repo_id} is as it was before.")


def _may_pass(error: Exception) -> bool:
    """Whether a retry may succeed: the network failed, or the Hub had an internal error."""
    return not isinstance(error, HfHubHTTPError) or error.response.status_code >= 500
