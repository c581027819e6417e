"""Uploading to the Hub: all files in one commit, and every failure as one clear line."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
)

from modeling_sim import SimConfig, SimDecoderConfig
from training.figures import read_json

# What the Hub puts into a new repository, and a card: a repository with nothing else holds nothing to lose.
_NOTHING_TO_LOSE = (".gitattributes", "README.md")
# Seconds before another try where the network or the Hub fails. A commit that went through though its answer was lost
# is not made twice: files that are there already are left out of the next one.
RETRY_SECONDS = (1.0, 5.0)


class HubError(OSError):
    """The Hub could not be reached or refused; the message is one line that says what to do."""


def upload(
    api: HfApi,
    repo_id: str,
    folder: Path,
    *,
    message: str,
    private: bool = False,
    revision: str | None = None,
    replace_others: bool = False,
) -> str:
    """Uploads all files of a folder in one commit and returns the address of the commit.

    The repository and the branch are made where they are not there yet. Nothing can be seen before the commit, so an
    upload that breaks off leaves what was there before, or an empty repository.

    Args:
        api: Client, which knows the Hub's address and the token.
        repo_id: Repository, org/name.
        folder: Files, at the paths they get.
        message: Of the commit.
        private: Make a new repository private.
        revision: Branch; `None` for main.
        replace_others: Write into a repository that holds something other than a model of this package.

    Raises:
        HubError: There is no token or no right to write, the network is gone, the repository holds something else, or
            is public although `private` is set.
    """

    def attempt() -> str:
        api.whoami()
        _open_repo(api, repo_id, private=private, revision=revision, replace_others=replace_others)
        operations = [
            CommitOperationAdd(path_in_repo=path.relative_to(folder).as_posix(), path_or_fileobj=path.resolve())
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]
        # On top of what is there now: an upload that was overtaken by another one does not undo it.
        head = api.model_info(repo_id, revision=revision).sha
        commit = api.create_commit(repo_id, operations, commit_message=message, revision=revision, parent_commit=head)
        return str(commit.commit_url)

    with hub_errors(api, repo_id):
        for seconds in RETRY_SECONDS:
            try:
                return attempt()
            except (HfHubHTTPError, httpx2.TransportError) as error:
                if not _may_pass(error):
                    raise
                time.sleep(seconds)
        return attempt()


def _open_repo(api: HfApi, repo_id: str, *, private: bool, revision: str | None, replace_others: bool) -> None:
    """Makes the repository and the branch, or refuses one that is not to be written to."""
    try:
        info = api.model_info(repo_id)
    except RepositoryNotFoundError:
        api.create_repo(repo_id, private=private)
    else:
        if private and not info.private:
            raise HubError(f"{repo_id} is public; give another repository, or leave --private out.")
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    if not replace_others:
        _refuse_others(api, repo_id, revision)


def _refuse_others(api: HfApi, repo_id: str, revision: str | None) -> None:
    """Refuses a repository whose files would be lost among those of a model, or lose their meaning."""
    files = api.list_repo_files(repo_id, revision=revision)
    if not set(files) - set(_NOTHING_TO_LOSE):
        return
    if "config.json" in files:
        config = read_json(Path(api.hf_hub_download(repo_id, "config.json", revision=revision)))
        if config.get("model_type") in (SimConfig.model_type, SimDecoderConfig.model_type):
            return
    others = ", ".join(sorted(set(files) - set(_NOTHING_TO_LOSE))[:5])
    raise HubError(f"{repo_id} holds something else ({others}); give another repository, or --yes to write into it.")


@contextlib.contextmanager
def hub_errors(api: HfApi, repo_id: str) -> Iterator[None]:
    """Turns what a client raises into a `HubError` of one line."""
    try:
        yield
    except HubError:
        raise
    except (OSError, httpx2.TransportError, HFValidationError) as error:
        raise HubError(_in_one_line(error, api.endpoint, repo_id)) from error


def _in_one_line(error: Exception, endpoint: str, repo_id: str) -> str:
    """What went wrong, and what to do about it."""
    text = " ".join(str(error).split())
    if isinstance(error, LocalTokenNotFoundError):
        return "there is no token of the Hub; log in with `hf auth login`, or set HF_TOKEN."
    if isinstance(error, httpx2.TransportError):
        return f"the connection to {endpoint} failed ({type(error).__name__}: {text}); {repo_id} is as it was before."
    if not isinstance(error, HfHubHTTPError):
        return text
    return {
        401: f"{endpoint} refused the token; log in again with `hf auth login`, or set HF_TOKEN.",
        403: f"the token has no right to write to {repo_id}; take one with that right, or another repository.",
        404: f"{repo_id} is not there, has no such branch, or the token may not see it.",
    }.get(error.response.status_code, f"{endpoint} refused the upload ({text}); {repo_id} is as it was before.")


def _may_pass(error: Exception) -> bool:
    """Whether another try may succeed: the network failed, or the Hub for a reason of its own."""
    return not isinstance(error, HfHubHTTPError) or error.response.status_code >= 500
