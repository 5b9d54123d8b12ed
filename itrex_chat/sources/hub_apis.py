"""What the hubs are asked over HTTP: which data files a repository has at a revision, and where each is.

Both answer to documented requests, which their own libraries make, too. A
listing gives for each file its size and the digest that the hub knows: SHA-256
(64 digits), Git's SHA-1 of a blob (40), or none.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard
from urllib.parse import quote, urlencode

from itrex_chat.sources import failures, selection
from itrex_chat.sources.failures import HubFailure, Place
from itrex_chat.sources.web import Web, number, of_modelscope

PLAIN_NAME = re.compile(r"\w[\w.+-]{0,150}")  # of a file at the top level
COMMIT = re.compile(r"[0-9a-f]{40}")
DIGEST = re.compile(r"([0-9a-f]{40}|[0-9a-f]{64})?")
CHINA, INTERNATIONAL = "https://www.modelscope.cn", "https://www.modelscope.ai"
YES = ("1", "true", "yes", "on")


@dataclass(frozen=True)
class Hub:
    """A hub as its users know it, with the variables for a mirror and an access token, its first branch, and how to speak with it.

    `listing(web, repository, revision)` gives the commit and the data files,
    `address(repository, commit, name)` where a file is, `secret()` the
    headers that show who asks.
    """

    title: str
    mirror: str
    token: str
    branch: str
    listing: Callable[[Web, str, str], tuple[str | None, dict]]
    address: Callable[[str, str, str], str]
    secret: Callable[[], Mapping[str, str]]

    def place(self, repository: str, revision: str = "", other: str = "") -> Place:
        return Place(self.title, self.mirror, self.token, repository, revision, other)


def _data_files(listing: Iterable[tuple]) -> dict[str, dict]:
    """Of names, sizes and digests those of the model's data: at the top level, no code, weights once."""
    plain = {
        name: {"size": size, "digest": str(digest or "").lower()}
        for name, size, digest in listing
        if isinstance(name, str) and PLAIN_NAME.fullmatch(name)
    }
    return {name: plain[name] for name in selection.descriptions(plain) + selection.weights(plain)}


def _checked(files: dict[str, dict]) -> dict[str, dict]:
    for name, file in files.items():
        if type(file["size"]) is not int or file["size"] < 0:
            raise HubFailure(failures.STRANGE, f"the size of {name} is {file['size']!r}")
        if not DIGEST.fullmatch(file["digest"]):
            file["digest"] = ""
    return files


def _modelscope() -> str:
    """ModelScope's address: a mirror, its international site, or its first one."""
    chosen = os.environ.get("MODELSCOPE_ENDPOINT") or os.environ.get("MODELSCOPE_DOMAIN")
    if not chosen:
        return INTERNATIONAL if os.environ.get("MODELSCOPE_PREFER_AI_SITE", "").lower() in YES else CHINA
    return _with_scheme(chosen)


def _huggingface() -> str:
    return _with_scheme(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")


def _with_scheme(address: str) -> str:
    address = address.strip().rstrip("/")
    return address if re.match(r"https?://", address, re.IGNORECASE) else f"https://{address}"


def _list_modelscope(web: Web, repository: str, revision: str) -> tuple[str, dict]:
    """The commit is the one that the listing names, else the newest that changed a file, if it has the same data files.

    Where neither can be had, "master" stays what it is.
    """

    def listed(revision: str) -> tuple[list[dict], str]:
        query = urlencode({"Revision": revision, "Recursive": "False"})
        answer = web.json(f"{_modelscope()}/api/v1/models/{quote(repository)}/repo/files?{query}", _modelscope_secret())
        if not isinstance(answer, dict):
            raise HubFailure(failures.STRANGE, "it lists no files")
        if answer.get("Success") is False:
            raise of_modelscope(answer, 200) or HubFailure(failures.BUSY, status=200)
        data = answer.get("Data")
        if not isinstance(data, dict):
            raise HubFailure(failures.STRANGE, "it lists no files")
        entries = data.get("Files") or []
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise HubFailure(failures.STRANGE, "it lists no files")
        latest = data.get("LatestCommitter")
        return [entry for entry in entries if entry.get("Type") != "tree"], _commit_of(latest, "Id")

    def files(entries: list[dict]) -> dict:
        return _data_files((entry.get("Path"), entry.get("Size"), entry.get("Sha256")) for entry in entries)

    entries, named = listed(revision or "master")
    if revision and not entries:  # one of the hub's answers to an unknown revision
        raise HubFailure(failures.REVISION)
    found = _checked(files(entries))
    if COMMIT.fullmatch(revision):
        return revision, found
    newest = max(entries, key=lambda entry: _number(entry.get("CommittedDate")), default={})
    for commit in dict.fromkeys((named, _commit_of(newest, "Revision"))):
        try:
            if commit and files(listed(commit)[0]) == found:
                return commit, found
        except HubFailure:
            pass  # the branch is listed, which is enough
    return revision or "master", found


def _commit_of(entry: object, key: str) -> str:
    commit = entry.get(key) if isinstance(entry, dict) else None
    return commit if isinstance(commit, str) and COMMIT.fullmatch(commit) else ""


def _number(value: object) -> float:
    return value if isinstance(value, (int, float)) else 0


def _in_modelscope(repository: str, commit: str, name: str) -> str:
    query = urlencode({"Revision": commit, "FilePath": name})
    return f"{_modelscope()}/api/v1/models/{quote(repository)}/repo?{query}"


def _modelscope_secret() -> dict[str, str]:
    """As the hub's library shows it: in a cookie and in a header."""
    token = os.environ.get("MODELSCOPE_API_TOKEN")
    home = Path(os.environ.get("MODELSCOPE_HOME") or Path.home() / ".modelscope")
    if token is None and (home / "credentials" / "cookies").is_file():
        from modelscope_hub.config import HubConfig

        token = HubConfig(endpoint=CHINA).token
    return {"Authorization": f"Bearer {token}", "Cookie": f"m_session_id={token}"} if _is_secret(token) else {}


def _list_huggingface(web: Web, repository: str, revision: str) -> tuple[str | None, dict]:
    """The commit is None where a mirror does not say it."""
    at = f"/revision/{quote(revision, safe='')}" if revision else ""
    answer = web.json(f"{_huggingface()}/api/models/{quote(repository)}{at}?blobs=true", _huggingface_secret())
    siblings = answer.get("siblings") if isinstance(answer, dict) else None
    if not isinstance(siblings, list) or not all(isinstance(file, dict) for file in siblings):
        raise HubFailure(failures.STRANGE, "it lists no files")
    commit = _commit_of(answer, "sha") or None
    found = _data_files(_sibling(file) for file in siblings)
    for name, file in found.items():
        if file["size"] is None:  # a mirror's
            address = _in_huggingface(repository, commit or revision or "main", name)
            with web.get(address, _huggingface_secret(), method="HEAD") as response:
                size = response.headers.get("X-Linked-Size") or response.headers.get("Content-Length")
                etag = response.headers.get("X-Linked-Etag") or response.headers.get("ETag") or ""
                file["size"] = number(size)
                file["digest"] = file["digest"] or etag.removeprefix("W/").strip('"').lower()
    return commit, _checked(found)


def _sibling(file: dict) -> tuple:
    lfs = file.get("lfs")
    large = lfs if isinstance(lfs, dict) else {}
    return file.get("rfilename"), file.get("size", large.get("size")), large.get("sha256") or file.get("blobId")


def _in_huggingface(repository: str, commit: str, name: str) -> str:
    return f"{_huggingface()}/{quote(repository)}/resolve/{quote(commit, safe='')}/{quote(name)}"


def _huggingface_secret() -> dict[str, str]:
    token = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
    if token is None and os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").lower() not in YES:
        home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
        try:
            token = Path(os.environ.get("HF_TOKEN_PATH") or home / "token").read_text("utf-8").strip()
        except (OSError, ValueError):
            pass
    return {"Authorization": f"Bearer {token}"} if _is_secret(token) else {}


def _is_secret(token: str | None) -> TypeGuard[str]:
    """Whether it can be sent in a header."""
    return token is not None and token != "" and token.isascii() and token.isprintable()


HUBS = {
    "modelscope": Hub(
        "ModelScope",
        "MODELSCOPE_ENDPOINT",
        "MODELSCOPE_API_TOKEN",
        "master",
        _list_modelscope,
        _in_modelscope,
        _modelscope_secret,
    ),
    "huggingface": Hub(
        "Hugging Face", "HF_ENDPOINT", "HF_TOKEN", "main", _list_huggingface, _in_huggingface, _huggingface_secret
    ),
}
