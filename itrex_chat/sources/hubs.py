"""Repositories on ModelScope and Hugging Face: their data files, downloaded.

The hubs' own libraries list, transfer and resume. This module chooses the
files, pins a branch to the commit found first, and keeps a record by which
later calls answer without the network.
"""
import contextlib
import errno
import hashlib
import importlib
import json
import logging
import os
import re
import shutil
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock

from itrex_chat import files
from itrex_chat.errors import SourceError
from itrex_chat.language import _
from itrex_chat.recipe import SourceSpec
from itrex_chat.sources import digests, selection

REPOSITORY = re.compile(r"\w[\w.-]{0,95}(/\w[\w.-]{0,95})?")
PLAIN_NAME = re.compile(r"\w[\w.+-]{0,150}")  # of a file at the top level
COMMIT = re.compile(r"[0-9a-f]{40}")
PATIENCE = 20  # seconds until a hub that does not list its files counts as unreachable


def download(spec: SourceSpec, home: Path, refresh: bool = False) -> tuple[Path, dict]:
    """The folder with the data files of the repository that `spec` names, and their origin.

    Only the first call uses the network, unless files are missing; `refresh`
    asks the hub again. An interrupted download goes on where it was.
    Raises SourceError.
    """
    repository, hubs = _repository(spec), home / "hubs"
    if not REPOSITORY.fullmatch(repository):
        raise SourceError(_("{repository!r} is not the name of a repository; it should look like owner/name.",
                            repository=repository))
    record = hubs / f"{_stem(spec)}--{quote(spec.revision or 'default', safe='')[:80]}.json"
    known = _read(record, spec)
    if refresh or not _is_complete(hubs, known):
        with files.disk_errors(SourceError, _("Downloading {repository}", repository=repository)):
            hubs.mkdir(parents=True, exist_ok=True)
            with FileLock(hubs / f"{_stem(spec)}.lock"):
                known = _read(record, spec)  # another process may have been here meanwhile
                if refresh or not _is_complete(hubs, known):
                    found = _ask(spec, known["origin"]["commit"] if known and not refresh else spec.revision)
                    if known is None:  # if it is interrupted, the next call goes on with the same commit
                        files.write_json(record, found)
                    _fetch(spec, hubs, found, known)
                    files.write_json(record, known := found)
    return hubs / known["folder"], known["origin"]


def _repository(spec: SourceSpec) -> str:
    return spec.modelscope if spec.hub == "modelscope" else spec.huggingface


def _stem(spec: SourceSpec) -> str:
    return f"{spec.hub}--{_repository(spec).replace('/', '--')}"


def _read(record: Path, spec: SourceSpec) -> dict | None:
    """What an earlier download of the same found at the hub, if there was one."""
    try:
        known = json.loads(record.read_text("utf-8"))
        origin = known["origin"]
        same = (origin["repository"], origin["revision"]) == (_repository(spec), spec.revision)
        return known if same and origin["commit"] and known["folder"] and known["files"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_complete(hubs: Path, known: dict | None) -> bool:
    return known is not None and not _missing(hubs / known["folder"], known["files"])


def _missing(folder: Path, listed: dict) -> dict:
    """The listed files that `folder` does not have with their size; a file gets its name only when it is verified."""
    def is_there(name: str) -> bool:
        with contextlib.suppress(OSError):
            return (folder / name).stat().st_size == listed[name]["size"]
        return False

    return {name: file for name, file in listed.items() if not is_there(name)}


def _ask(spec: SourceSpec, revision: str) -> dict:
    """What the hub has at the revision: the record to be."""
    hub, repository = HUBS[spec.hub], _repository(spec)
    with _told(spec, revision):
        commit, listed = _within(PATIENCE, hub.listing, repository, revision)
    if "config.json" not in listed or not selection.weights(listed):
        raise SourceError(_("{repository} on {hub} holds no model to work with: that is a config.json and weights as "
                            ".safetensors or .bin.", repository=repository, hub=hub.title))
    # Folders are named by content: most commits to a repository change none of its data files.
    content = hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()
    origin = {"kind": spec.hub, "repository": repository, "revision": spec.revision, "commit": commit}
    return {"folder": f"{_stem(spec)}/{content[:16]}", "origin": origin, "files": listed}


def _fetch(spec: SourceSpec, hubs: Path, found: dict, known: dict | None) -> None:
    """Download what is missing of `found`."""
    hub, repository, commit, listed = HUBS[spec.hub], _repository(spec), found["origin"]["commit"], found["files"]
    folder = hubs / found["folder"]
    folder.mkdir(parents=True, exist_ok=True)
    if known:
        _keep(hubs / known["folder"], known["files"], folder, listed)
    if missing := _missing(folder, listed):
        size = sum(file["size"] for file in missing.values())
        print(_("Downloading {count} files of {repository} from {hub}, {size:.2f} GB.", count=len(missing),
                repository=repository, hub=hub.title, size=size / 1e9), file=sys.stderr)
        with _told(spec, commit):
            if size - _size(folder.glob("*.incomplete")) > shutil.disk_usage(folder).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            _transfer(hub, repository, commit, folder, listed)


def _keep(old: Path, had: dict, folder: Path, listed: dict) -> None:
    """Take over what has not changed since an older commit."""
    for name in _missing(folder, listed):
        if listed[name]["digest"] and had.get(name) == listed[name]:
            with contextlib.suppress(OSError):
                os.link(old / name, folder / name)


def _transfer(hub: "Hub", repository: str, commit: str, folder: Path, listed: dict) -> None:
    """Let the library download, again as long as it gets on: it gives up after some breaks or an hour for a file."""
    while True:
        before = _size(folder.iterdir())
        try:
            return hub.transfer(repository, commit, folder, _missing(folder, listed))
        except Exception as error:
            if not _is_network(error) or _size(folder.iterdir()) <= before:
                raise


def _size(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def _data_files(listing: Iterable[tuple]) -> dict[str, dict]:
    """Of names, sizes and digests those of the model's data: at the top level, no code, weights once."""
    plain = {name: {"size": size, "digest": digest or ""} for name, size, digest in listing
             if PLAIN_NAME.fullmatch(name)}
    chosen = {name: plain[name] for name in selection.descriptions(plain) + selection.weights(plain)}
    for name, file in chosen.items():
        if type(file["size"]) is not int or file["size"] < 0:
            raise ValueError(f"the size of {name} is {file['size']!r}")
    return chosen


def _damaged(name: str) -> SourceError:
    return SourceError(_("{name} came damaged: its content is not what the hub lists. Try again; what came whole is "
                         "kept.", name=name))


def _no_revision(hub: str, repository: str, revision: str) -> SourceError:
    return SourceError(_("{repository} on {hub} has no revision {revision}. Set source.revision to one of its "
                         "branches, tags or commits, or to nothing for the default branch.",
                         repository=repository, hub=hub, revision=revision))


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
        raise _no_revision("ModelScope", repository, revision)
    newest = max(entries, key=lambda entry: entry.get("CommittedDate") or 0, default={}).get("Revision") or ""
    if COMMIT.fullmatch(newest) and not COMMIT.fullmatch(revision) and data(entries_at(newest)) == data(entries):
        return newest, data(entries)
    return revision or "master", data(entries)


def _transfer_modelscope(repository: str, commit: str, folder: Path, missing: dict) -> None:
    from modelscope_hub import HubApi
    from modelscope_hub.errors import FileDownloadError, FileIntegrityError
    entries = [{"Path": name, "Size": file["size"], "Sha256": file["digest"]} for name, file in missing.items()]
    try:
        HubApi().download_repo(repository, "model", revision=commit, local_dir=folder, file_list=entries,
                               max_workers=8, cache_dir=folder.parent)  # for its lock files
    except FileDownloadError as failure:
        name, error = next(iter(failure.failed_files.items()))
        raise _damaged(name) if isinstance(error, FileIntegrityError) else error


def _list_huggingface(repository: str, revision: str) -> tuple[str, dict]:
    from huggingface_hub import HfApi
    info = HfApi().model_info(repository, revision=revision or None, files_metadata=True, timeout=PATIENCE / 2)
    return info.sha, _data_files((file.rfilename, file.size, file.lfs.sha256 if file.lfs else file.blob_id)
                                 for file in info.siblings)


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
                http_get(hf_hub_url(repository, name, revision=commit), out, resume_size=out.tell(),
                         headers=build_hf_headers() | {"Accept-Encoding": "identity"}, displayed_filename=name)
        in_git = len(file["digest"]) == 40  # a small file; the others are in large file storage
        digest = git_hash(partial.read_bytes()) if in_git else digests.sha256(partial)
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
    listing: Callable[[str, str], tuple[str, dict]]
    transfer: Callable[[str, str, Path, dict], None]


HUBS = {
    "modelscope": Hub("ModelScope", "MODELSCOPE_ENDPOINT", "MODELSCOPE_API_TOKEN", "modelscope_hub.api",
                      _list_modelscope, _transfer_modelscope),
    "huggingface": Hub("Hugging Face", "HF_ENDPOINT", "HF_TOKEN", "huggingface_hub.file_download",
                       _list_huggingface, _transfer_huggingface)}


def _within(seconds: float, call: Callable, *arguments):
    """The call's result. In a thread, because neither name lookups nor the libraries' retries take a time limit."""
    outcome = Future()

    def run():
        try:
            outcome.set_result(call(*arguments))
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return outcome.result(seconds)
    except TimeoutError:
        raise TimeoutError(_("no answer within {seconds} seconds", seconds=seconds)) from None


@contextlib.contextmanager
def _told(spec: SourceSpec, revision: str) -> Iterator[None]:
    """Tell what goes wrong in a hub's library in a sentence, without its log lines and warnings."""
    library = HUBS[spec.hub].library
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module(library)  # this sets its log level
        logger = logging.getLogger(library.partition(".")[0])
        level = logger.level
        logger.setLevel(logging.CRITICAL + 1)
        try:
            with files.disk_errors(SourceError, _("Downloading {repository}", repository=_repository(spec))):
                yield
        except SourceError:
            raise
        except Exception as error:
            raise _explained(error, spec, revision) from error
        finally:
            logger.setLevel(level)


def _explained(error: Exception, spec: SourceSpec, revision: str) -> SourceError:
    hub, repository, kinds, status = HUBS[spec.hub], _repository(spec), _kinds(error), _status(error)
    if "RevisionNotFoundError" in kinds:
        return _no_revision(hub.title, repository, revision)
    if "GatedRepoError" in kinds or status in (401, 403) and "RepositoryNotFoundError" not in kinds:
        return SourceError(_("{hub} does not give {repository} to everyone. Accept its conditions on the hub's page "
                             "if it has some, and set {token} to your access token.",
                             hub=hub.title, repository=repository, token=hub.token))
    if "RepositoryNotFoundError" in kinds or status == 404:
        return SourceError(_("{hub} has no public repository {repository}. Check the name; if it is a private one, "
                             "set {token} to your access token.",
                             hub=hub.title, repository=repository, token=hub.token))
    if status:
        return SourceError(_("{hub} answered with an error (HTTP {status}). Try again later, or name a local folder "
                             "with --model FOLDER.", hub=hub.title, status=status))
    if not _is_network(error):
        return SourceError(_("{hub} gave an answer that cannot be understood ({reason}). See whether a proxy or a "
                             "login page answers in its place.", hub=hub.title, reason=_reason(error)))
    fields = {"hub": hub.title, "reason": _reason(error), "mirror": hub.mirror}
    other = "huggingface" if spec.hub == "modelscope" else "modelscope"
    if getattr(spec, other):
        return SourceError(_("{hub} cannot be reached ({reason}). Name a local folder with --model FOLDER, take the "
                             "other hub with --set source.hub {other}, or set {mirror} to a mirror.",
                             other=other, **fields))
    return SourceError(_("{hub} cannot be reached ({reason}). Name a local folder with --model FOLDER, or set "
                         "{mirror} to a mirror.", **fields))


def _kinds(error: Exception) -> set[str]:
    """The names of the error's classes: by name, because only one hub's library is loaded."""
    return {kind.__name__ for kind in type(error).__mro__}


def _status(error: Exception) -> int | None:
    """The HTTP status that a library's error is about."""
    return getattr(error, "status_code", None) or getattr(getattr(error, "response", None), "status_code", None)


def _is_network(error: Exception) -> bool:
    """Whether there was no answer at all. Unreadable JSON is not that, although requests makes it an OSError."""
    answered = _status(error) is not None or isinstance(error, ValueError)
    return not answered and bool(_kinds(error) & {"OSError", "TransportError"})


def _reason(error: BaseException | None) -> str:
    """The innermost error that has words, on one line."""
    text = ""
    while error is not None:
        text = getattr(error, "strerror", None) or str(error) or text
        error = error.__cause__ or error.__context__
    return " ".join(text.split())[:200].rstrip(".")
