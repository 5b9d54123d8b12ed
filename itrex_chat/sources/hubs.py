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
from pathlib import Path
from typing import Any, TypeGuard, TypeVar
from urllib.parse import quote

from filelock import FileLock

from itrex_chat.foundation import files, stored
from itrex_chat.foundation.errors import SourceError
from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.language import _
from itrex_chat.settings.recipe import SourceSpec
from itrex_chat.sources import selection
from itrex_chat.sources.digests import DigestMemo
from itrex_chat.sources.hub_libraries import HUBS, PATIENCE, Hub, no_revision

SHA256 = 64  # digits
REPOSITORY = re.compile(r"\w[\w.-]{0,95}(/\w[\w.-]{0,95})?")
Result = TypeVar("Result")


def download(spec: SourceSpec, home: Path, refresh: bool = False) -> tuple[Path, dict]:
    """The folder with the data files of the repository that `spec` names, and their origin.

    Only the first call uses the network, unless files are missing; `refresh`
    asks the hub again. An interrupted download goes on where it was.
    Raises SourceError.
    """
    repository, hubs, record = _repository(spec), home / "hubs", _record(spec, home)
    if not REPOSITORY.fullmatch(repository):
        raise SourceError(
            _("{repository!r} is not the name of a repository; it should look like owner/name.", repository=repository)
        )
    known = _read(record, spec)
    if refresh or not _is_complete(known, hubs):
        with files.disk_errors(SourceError, _("Downloading {repository}", repository=repository)):
            hubs.mkdir(parents=True, exist_ok=True)
            with FileLock(hubs / f"{_stem(spec)}.lock"):
                known = _read(record, spec)  # another process may have been here meanwhile
                if refresh or not _is_complete(known, hubs):
                    found = _ask(spec, known["origin"]["commit"] if known and not refresh else spec.revision)
                    if known is None:  # if it is interrupted, the next call goes on with the same commit
                        files.write_json(record, found)
                    _fetch(spec, hubs, found, known)
                    files.write_json(record, known := found)
    return hubs / known["folder"], known["origin"]


def at_hand(spec: SourceSpec, home: Path) -> bool:
    """Whether `download` would answer without the network."""
    return _is_complete(_read(_record(spec, home), spec), home / "hubs")


def _record(spec: SourceSpec, home: Path) -> Path:
    return home / "hubs" / f"{_stem(spec)}--{quote(spec.revision or 'default', safe='')[:80]}.json"


def _repository(spec: SourceSpec) -> str:
    return spec.modelscope if spec.hub == "modelscope" else spec.huggingface


def _stem(spec: SourceSpec) -> str:
    return f"{spec.hub}--{_repository(spec).replace('/', '--')}"


def _read(record: Path, spec: SourceSpec) -> dict | None:
    """What an earlier download of the same found at the hub, if there was one."""
    try:
        known = stored.parsed_json(record.read_text("utf-8"))
        origin = known["origin"]
        same = (origin["repository"], origin["revision"]) == (_repository(spec), spec.revision)
        return known if same and origin["commit"] and known["folder"] and known["files"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_complete(known: dict | None, hubs: Path) -> TypeGuard[dict]:
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
        raise SourceError(
            _(
                "{repository} on {hub} holds no model to work with: it needs a config.json and weights as "
                ".safetensors or .bin.",
                repository=repository,
                hub=hub.title,
            )
        )
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
        tell(
            _(
                "Downloading {count} files of {repository} from {hub}, {size:.2f} GB.",
                count=len(missing),
                repository=repository,
                hub=hub.title,
                size=size / 1e9,
            ),
            file=sys.stderr,
        )
        with _told(spec, commit):
            if size - _size(folder.glob("*.incomplete")) > shutil.disk_usage(folder).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            _transfer(hub, repository, commit, folder, listed)
        hashed = {
            folder / name: file["digest"] for name, file in missing.items() if len(file["digest"] or "") == SHA256
        }
        DigestMemo(hubs.parent).learn(hashed)


def _keep(old: Path, had: dict, folder: Path, listed: dict) -> None:
    """Take over what has not changed since an older commit."""
    for name in _missing(folder, listed):
        if listed[name]["digest"] and had.get(name) == listed[name]:
            with contextlib.suppress(OSError):
                os.link(old / name, folder / name)


def _transfer(hub: Hub, repository: str, commit: str, folder: Path, listed: dict) -> None:
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


def _within(seconds: float, call: Callable[..., Result], *arguments: Any) -> Result:
    """The call's result. In a thread, because neither name lookups nor the libraries' retries take a time limit."""
    outcome: Future[Result] = Future()

    def run() -> None:
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
        return no_revision(hub.title, repository, revision)
    if "GatedRepoError" in kinds or status in (401, 403) and "RepositoryNotFoundError" not in kinds:
        return SourceError(
            _(
                "{hub} does not give {repository} to everyone. Accept its conditions on the hub's page "
                "if it has some, and set {token} to your access token.",
                hub=hub.title,
                repository=repository,
                token=hub.token,
            )
        )
    if "RepositoryNotFoundError" in kinds or status == 404:
        return SourceError(
            _(
                "{hub} has no public repository {repository}. Check the name; if it is a private one, "
                "set {token} to your access token.",
                hub=hub.title,
                repository=repository,
                token=hub.token,
            )
        )
    if status:
        return SourceError(
            _(
                "{hub} answered with an error (HTTP {status}). Try again later, or name a local folder "
                "with --model FOLDER.",
                hub=hub.title,
                status=status,
            )
        )
    if not _is_network(error):
        return SourceError(
            _(
                "{hub} gave an answer that cannot be understood ({reason}). See whether a proxy or a "
                "login page answers in its place.",
                hub=hub.title,
                reason=_reason(error),
            )
        )
    fields = {"hub": hub.title, "reason": _reason(error), "mirror": hub.mirror}
    other = "huggingface" if spec.hub == "modelscope" else "modelscope"
    if getattr(spec, other):
        return SourceError(
            _(
                "{hub} cannot be reached ({reason}). Name a local folder with --model FOLDER, take the "
                "other hub with --set source.hub {other}, or set {mirror} to a mirror.",
                other=other,
                **fields,
            )
        )
    return SourceError(
        _(
            "{hub} cannot be reached ({reason}). Name a local folder with --model FOLDER, or set {mirror} to a mirror.",
            **fields,
        )
    )


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
