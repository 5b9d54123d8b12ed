"""A folder pushed to a hub, by the hub's own library. Tokens are theirs to find: in the environment, or from a login."""

import os
from collections.abc import Callable
from pathlib import Path

from itrex_chat.foundation.errors import SourceError
from itrex_chat.foundation.language import _
from itrex_chat.sources.hub_apis import HUBS


def upload(folder: Path, hub: str, repository: str, private: bool = False) -> str:
    """Push the files of a folder to a repository, which is made if it is not there; its address. Raises SourceError.

    What is there by the same name is replaced, other files stay. The libraries upload again only what the hub does not have.
    """
    token = os.environ.get(HUBS[hub].token) or ""
    try:
        return _UPLOADS[hub](folder, repository, private)
    except Exception as error:
        raise _explained(error, hub, repository, token) from error


def _modelscope(folder: Path, repository: str, private: bool) -> str:
    from modelscope_hub import HubApi

    api = HubApi()
    if not api.repo_exists(repository, "model"):
        api.create_repo(repository, "model", visibility="private" if private else "public")
    api.upload_folder(
        repository, "model", folder, commit_message="Upload by itrex_chat", use_cache=False, disable_tqdm=True
    )
    endpoint = os.environ.get(HUBS["modelscope"].mirror) or "https://modelscope.cn"
    return f"{endpoint.rstrip('/')}/models/{repository}"


def _huggingface(folder: Path, repository: str, private: bool) -> str:
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repository, private=private, exist_ok=True)
    api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload by itrex_chat")
    return f"{api.endpoint.rstrip('/')}/{repository}"


_UPLOADS: dict[str, Callable[[Path, str, bool], str]] = {"modelscope": _modelscope, "huggingface": _huggingface}


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
