"""A folder pushed to a hub, by the hub's own library. Tokens are theirs to find: in the environment, or from a login."""

import os
from collections.abc import Callable
from pathlib import Path

from itrex_chat.foundation.errors import SourceError
from itrex_chat.foundation.language import _
from itrex_chat.sources import failures
from itrex_chat.sources.hub_apis import HUBS, PLAIN_NAME
from itrex_chat.sources.pushed import as_manifest
from itrex_chat.sources.selection import MANIFEST
from itrex_chat.sources.web import Web

PATIENCE = 20.0  # seconds of silence


def upload(folder: Path, hub: str, repository: str, private: bool = False) -> str:
    """Push the files of a folder to a repository, which is made if it is not there; its address. Raises SourceError.

    What is there by the same name is replaced. Of an artifact that was there before, the files that the new one has not are
    removed; other files stay. The libraries upload again only what the hub does not have.
    """
    token = os.environ.get(HUBS[hub].token) or ""
    outdated = _outdated(folder, hub, repository)
    try:
        return _UPLOADS[hub](folder, repository, private, outdated)
    except Exception as error:
        raise _explained(error, hub, repository, token) from error


def _outdated(folder: Path, hub: str, repository: str) -> list[str]:
    """Files of the artifact that the repository holds until now, by its manifest, which have no successor in the folder."""
    at = HUBS[hub]
    try:
        before = as_manifest(Web(PATIENCE).json(at.address(repository, at.branch, MANIFEST), at.secret()))
    except failures.HubFailure as failure:
        if failure.passing:
            raise failures.sentence(failure, at.place(repository)) from failure
        return []  # a new repository, or one of something else; whether it may be written to, the upload says
    named = map(str, before["files"]) if before else ()
    return sorted(name for name in named if PLAIN_NAME.fullmatch(name) and not (folder / name).exists())


def _modelscope(folder: Path, repository: str, private: bool, outdated: list[str]) -> str:
    from modelscope_hub import HubApi

    api = HubApi()
    if not api.repo_exists(repository, "model"):
        api.create_repo(repository, "model", visibility="private" if private else "public")
    api.upload_folder(
        repository, "model", folder, commit_message="Upload by itrex_chat", use_cache=False, disable_tqdm=True
    )
    there = {file.path for file in api.list_repo_files(repository, "model")} if outdated else set()
    if gone := [name for name in outdated if name in there]:
        api.delete_files(repository, "model", gone, commit_message="Files of an older artifact removed by itrex_chat")
    endpoint = os.environ.get(HUBS["modelscope"].mirror) or "https://modelscope.cn"
    return f"{endpoint.rstrip('/')}/models/{repository}"


def _huggingface(folder: Path, repository: str, private: bool, outdated: list[str]) -> str:
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repository, private=private, exist_ok=True)
    api.upload_folder(
        repo_id=repository,
        folder_path=folder,
        commit_message="Upload by itrex_chat",
        delete_patterns=outdated or None,  # in the same commit; names have nothing in them that would be a pattern
    )
    return f"{api.endpoint.rstrip('/')}/{repository}"


_UPLOADS: dict[str, Callable[[Path, str, bool, list[str]], str]] = {
    "modelscope": _modelscope,
    "huggingface": _huggingface,
}


def _explained(error: BaseException, hub: str, repository: str, token: str) -> SourceError:
    title, status = HUBS[hub].title, None
    inner: BaseException | None = error
    while inner is not None and status is None:
        status = getattr(inner, "status_code", None) or getattr(getattr(inner, "response", None), "status_code", None)
        inner = inner.__cause__ or inner.__context__
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if status in (401, 403) or kinds & {"AuthenticationError", "LocalTokenNotFoundError", "PermissionDeniedError"}:
        return SourceError(
            _(
                "{hub} does not let you write to {repository}. Set {token} to an access token that may, or log in with the "
                "hub's own command.",
                hub=title,
                repository=repository,
                token=HUBS[hub].token,
            )
        )
    reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    return SourceError(
        _(
            "{repository} could not be pushed to {hub} ({reason}). Try again: what the hub has is not sent again.",
            repository=repository,
            hub=title,
            reason=reason.replace(token, "…") if token else reason,
        )
    )
