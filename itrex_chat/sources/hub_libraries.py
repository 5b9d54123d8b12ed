"""The hubs' own libraries: listing a repository at a commit, and transferring its files.

They list, transfer and resume; `hubs.py` decides what and when.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from itrex_chat.foundation.digests import sha256
from itrex_chat.foundation.errors import SourceError
from itrex_chat.foundation.language import _
from itrex_chat.sources import selection

PLAIN_NAME = re.compile(r"\w[\w.+-]{0,150}")  # of a file at the top level
COMMIT = re.compile(r"[0-9a-f]{40}")
PATIENCE = 20  # seconds until a hub that does not list its files counts as unreachable


def _data_files(listing: Iterable[tuple]) -> dict[str, dict]:
    """Of names, sizes and digests those of the model's data: at the top level, no code, weights once."""
    plain = {
        name: {"size": size, "digest": digest or ""} for name, size, digest in listing if PLAIN_NAME.fullmatch(name)
    }
    chosen = {name: plain[name] for name in selection.descriptions(plain) + selection.weights(plain)}
    for name, file in chosen.items():
        if type(file["size"]) is not int or file["size"] < 0:
            raise ValueError(f"the size of {name} is {file['size']!r}")
    return chosen


def _damaged(name: str) -> SourceError:
    return SourceError(
        _(
            "{name} arrived damaged: its content is not what the hub lists. Try again; files that are "
            "complete are kept.",
            name=name,
        )
    )


def no_revision(hub: str, repository: str, revision: str) -> SourceError:
    return SourceError(
        _(
            "{repository} on {hub} has no revision {revision}. Set source.revision to one of its "
            "branches, tags or commits, or leave it empty for the default branch.",
            repository=repository,
            hub=hub,
            revision=revision,
        )
    )


def _list_modelscope(repository: str, revision: str) -> tuple[str, dict]:
    """ModelScope does not say which commit a branch is at, but which commit changed each file last.

    The newest of these stands for the branch if it has the same data files.
    """
    from modelscope_hub import HubApi

    api = HubApi().legacy

    def entries_at(revision: str) -> list[dict]:
        return [entry for entry in api.list_repo_files(repository, "model", revision) if entry["Type"] != "tree"]

    def data(entries: list[dict]) -> dict:
        return _data_files((entry["Path"], entry["Size"], entry.get("Sha256")) for entry in entries)

    entries = entries_at(revision or "master")
    if revision and not entries:  # the hub's answer to an unknown revision
        raise no_revision("ModelScope", repository, revision)
    newest = max(entries, key=lambda entry: entry.get("CommittedDate") or 0, default={}).get("Revision") or ""
    if COMMIT.fullmatch(newest) and not COMMIT.fullmatch(revision) and data(entries_at(newest)) == data(entries):
        return newest, data(entries)
    return revision or "master", data(entries)


def _transfer_modelscope(repository: str, commit: str, folder: Path, missing: dict) -> None:
    from modelscope_hub import HubApi
    from modelscope_hub.errors import FileDownloadError, FileIntegrityError

    entries = [{"Path": name, "Size": file["size"], "Sha256": file["digest"]} for name, file in missing.items()]
    try:
        HubApi().download_repo(
            repository,
            "model",
            revision=commit,
            local_dir=folder,
            file_list=entries,
            max_workers=8,
            cache_dir=folder.parent,
        )  # for its lock files
    except FileDownloadError as failure:
        name, error = next(iter(failure.failed_files.items()))
        if isinstance(error, FileIntegrityError):
            raise _damaged(name) from failure
        raise error from error.__cause__  # which has the reason


def _list_huggingface(repository: str, revision: str) -> tuple[str | None, dict]:
    """None where a mirror does not say which commit it is."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(repository, revision=revision or None, files_metadata=True, timeout=PATIENCE / 2)
    if info.siblings is None:
        raise ValueError("it lists no files")
    return info.sha, _data_files(
        (file.rfilename, file.size, file.lfs.sha256 if file.lfs else file.blob_id) for file in info.siblings
    )


def _transfer_huggingface(repository: str, commit: str, folder: Path, missing: dict) -> None:
    """File by file, by the function below `snapshot_download`.

    `snapshot_download` itself starts an interrupted file anew, waits for its
    files when interrupted, and compares no digests.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers
    from huggingface_hub.utils.sha import git_hash

    for name, file in missing.items():
        partial = folder / f"{name}.incomplete"
        with partial.open("ab") as out:
            if out.tell() < file["size"]:
                http_get(
                    hf_hub_url(repository, name, revision=commit),
                    out,
                    resume_size=out.tell(),
                    headers=build_hf_headers() | {"Accept-Encoding": "identity"},
                    displayed_filename=name,
                )
        in_git = len(file["digest"]) == 40  # a small file; the others are in large file storage
        digest = git_hash(partial.read_bytes()) if in_git else sha256(partial)
        if (partial.stat().st_size, digest) != (file["size"], file["digest"]):
            partial.unlink()
            raise _damaged(name)
        partial.replace(folder / name)


@dataclass(frozen=True)
class Hub:
    """A hub as its users know it, with the variables for a mirror and an access token, and how to speak with it."""

    title: str
    mirror: str
    token: str
    library: str
    listing: Callable[[str, str], tuple[str | None, dict]]
    transfer: Callable[[str, str, Path, dict], None]


HUBS = {
    "modelscope": Hub(
        "ModelScope",
        "MODELSCOPE_ENDPOINT",
        "MODELSCOPE_API_TOKEN",
        "modelscope_hub.api",
        _list_modelscope,
        _transfer_modelscope,
    ),
    "huggingface": Hub(
        "Hugging Face",
        "HF_ENDPOINT",
        "HF_TOKEN",
        "huggingface_hub.file_download",
        _list_huggingface,
        _transfer_huggingface,
    ),
}
