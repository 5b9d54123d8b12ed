"""Repositories on ModelScope and Hugging Face: their data files, downloaded.

This module chooses the files, pins a branch to the commit found first, and
keeps a record by which later calls answer without the network. What another
program keeps of the same files is used; where a recipe names both hubs, one
gives what the other has listed and cannot give.
"""

import contextlib
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard
from urllib.parse import quote

from filelock import FileLock, Timeout

from itrex_chat.foundation import files, offline, space, stored
from itrex_chat.foundation.errors import SourceError
from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import readable
from itrex_chat.settings.source_spec import SourceSpec
from itrex_chat.sources import other_caches, selection
from itrex_chat.sources.digests import DigestMemo
from itrex_chat.sources.pace import Pace

PACE: Pace | None = None  # instead of what the environment says
REPOSITORY = re.compile(r"\w[\w.-]{0,95}(/\w[\w.-]{0,95})?")


def download(spec: SourceSpec, home: Path, refresh: bool = False) -> tuple[Path, dict]:
    """The folder with the data files of the repository that `spec` names, and their origin.

    Only the first call uses the network, unless files are missing; `refresh`
    asks the hub again. An interrupted download goes on where it was.
    Raises SourceError.
    """
    repository, hubs, record = spec.repository, home / "hubs", _record(spec, home)
    if not REPOSITORY.fullmatch(repository):
        raise SourceError(
            _("{repository!r} is not the name of a repository; it should look like owner/name.", repository=repository)
        )
    known = _read(record, spec)
    if refresh and offline.is_asked_for(spec.hub):
        raise offline.not_asked(repository)
    if refresh or not _is_complete(known, hubs):
        with files.disk_errors(SourceError, _("Downloading {repository}", repository=repository)):
            hubs.mkdir(parents=True, exist_ok=True)
            with _locked(hubs / f"{_stem(spec)}.lock", repository):
                known = _read(record, spec)  # another process may have been here meanwhile
                if refresh or not _is_complete(known, hubs):
                    found = _ask(spec, None if refresh else known)
                    if known is None:  # if it is interrupted, the next call goes on with the same commit
                        files.write_json(record, found)
                    _fetch(spec, hubs, found, known)
                    files.write_json(record, known := found)
    return hubs / known["folder"], known["origin"]


def at_hand(spec: SourceSpec, home: Path) -> bool:
    """Whether `download` would answer without the network."""
    return _is_complete(_read(_record(spec, home), spec), home / "hubs")


@contextlib.contextmanager
def _locked(path: Path, repository: str) -> Iterator[None]:
    """Alone with a repository's files; who has to wait for it says so."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tell(_("Another process is downloading {repository}; waiting for it.", repository=repository), file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _record(spec: SourceSpec, home: Path) -> Path:
    return home / "hubs" / f"{_stem(spec)}--{quote(spec.revision or 'default', safe='')[:80]}.json"


def _stem(spec: SourceSpec) -> str:
    return f"{spec.hub}--{spec.repository.replace('/', '--')}"


def _read(record: Path, spec: SourceSpec) -> dict | None:
    """What an earlier download of the same found at the hub, if there was one."""
    try:
        known = stored.parsed_json(record.read_text("utf-8"))
        origin = known["origin"]
        same = (origin["repository"], origin["revision"]) == (spec.repository, spec.revision)
        stem, folder = known["folder"].split("/")
        whole = stem == _stem(spec) and files.is_name(folder) and isinstance(origin["commit"], str) and origin["commit"]
        return known if same and whole and known["files"] and all(map(_is_listed, known["files"].items())) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _is_listed(entry: tuple[str, dict]) -> bool:
    """Whether a name and what is kept of a file can be a hub's."""
    name, file = entry
    return files.is_name(name) and type(file["size"]) is int and file["size"] >= 0 and isinstance(file["digest"], str)


def _is_complete(known: dict | None, hubs: Path) -> TypeGuard[dict]:
    return known is not None and not _missing(hubs / known["folder"], known["files"])


def _missing(folder: Path, listed: dict) -> dict:
    """The listed files that `folder` does not have with their size; a file gets its name only when it is verified."""

    def is_there(name: str) -> bool:
        with contextlib.suppress(OSError):
            return (folder / name).stat().st_size == listed[name]["size"]
        return False

    return {name: file for name, file in listed.items() if not is_there(name)}


def _ask(spec: SourceSpec, known: dict | None) -> dict:
    """What the hub has at the commit that is known, else at the revision: the record to be."""
    from itrex_chat.sources import listings

    repository = spec.repository
    pinned = known["origin"]["commit"] if known else None
    if offline.is_asked_for(spec.hub):
        found = known or other_caches.record(spec.hub, repository, spec.revision)
        if found is None:
            raise offline.lacking(repository)
        commit, listed = found["origin"]["commit"], found["files"]
    else:
        try:
            commit, listed = listings.listed(spec, pinned, _pace())
        except SourceError as error:
            if known is None or not getattr(error.__cause__, "passing", False):
                raise
            return known  # what a commit holds stays true, and for its files there is more patience
    if "config.json" not in listed or not selection.weights(listed):
        raise SourceError(
            _(
                "{repository} on {hub} holds no model to work with: it needs a config.json and weights as "
                ".safetensors or .bin.",
                repository=repository,
                hub=listings.hub(spec).title,
            )
        )
    # Folders are named by content: most commits to a repository change none of its data files.
    content = hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()
    origin = {"kind": spec.hub, "repository": repository, "revision": spec.revision, "commit": commit}
    return {"folder": f"{_stem(spec)}/{content[:16]}", "origin": origin, "files": listed}


def _fetch(spec: SourceSpec, hubs: Path, found: dict, known: dict | None) -> None:
    """Download what is missing of `found`."""
    from itrex_chat.sources import listings, partial

    repository, listed = spec.repository, found["files"]
    folder, memo = hubs / found["folder"], DigestMemo(hubs.parent)
    folder.mkdir(parents=True, exist_ok=True)
    if known:
        _keep(hubs / known["folder"], known["files"], folder, listed, memo)
    if missing := _missing(folder, listed):
        other_caches.use(spec, folder, missing, memo)
        missing = _missing(folder, listed)
    if not missing:
        return
    if offline.is_asked_for(spec.hub):
        raise offline.lacking(repository, len(missing), sum(file["size"] for file in missing.values()))
    size = sum(file["size"] for file in missing.values())
    tell(
        _(
            "Downloading {count} files of {repository} from {hub}, {size}.",
            count=len(missing),
            repository=repository,
            hub=listings.hub(spec).title,
            size=readable(size),
        ),
        file=sys.stderr,
    )
    there = sum(partial.waiting_bytes(folder, name) for name in missing)
    space.check(
        _("Downloading {repository}", repository=repository), size - there, folder, hubs.parent.parent, SourceError
    )
    _transfer(spec, found["origin"]["commit"], folder, listed, memo)


def _transfer(spec: SourceSpec, commit: str | None, folder: Path, listed: dict, memo: DigestMemo) -> None:
    """From the hub, and what it does not give from the other one, where the recipe names both and the digests agree."""
    from itrex_chat.sources import failures, listings

    try:
        _bring(spec, commit, folder, listed, memo)
    except failures.HubFailure as failure:
        place = listings.place(spec, commit or spec.revision)
        gone = failure.kind == failures.REVISION and commit  # since it was listed
        told = failures.vanished(place, str(commit)) if gone else failures.sentence(failure, place)
        if not failure.passing and failure.kind != failures.MISSING_FILE:
            raise told from failure
        if (elsewhere := listings.elsewhere(spec, _missing(folder, listed), _pace())) is None:
            raise told from failure
        other, at = elsewhere
        tell(
            _(
                "{reason} The rest comes from {hub}, which has the same files.",
                reason=told,
                hub=listings.hub(other).title,
            ),
            file=sys.stderr,
        )
        try:
            _bring(other, at, folder, listed, memo)
        except failures.HubFailure as second:
            raise failures.sentence(second, listings.place(other, at or "")) from second


def _bring(spec: SourceSpec, commit: str | None, folder: Path, listed: dict, memo: DigestMemo) -> None:
    from itrex_chat.sources import listings, partial
    from itrex_chat.sources.transfer import Transfer

    hub, repository, missing = listings.hub(spec), spec.repository, _missing(folder, listed)
    for name in listed.keys() - missing.keys():
        partial.forget_list(folder, name)

    def address(name: str) -> str:
        return hub.address(repository, commit or spec.revision or "main", name)

    transfer = Transfer(folder, missing, address, hub.secret(), _pace(), hub.title)
    try:
        transfer.run()
    finally:
        memo.learn({folder / name: digest for name, digest in transfer.digests.items()})


def _keep(old: Path, had: dict, folder: Path, listed: dict, memo: DigestMemo) -> None:
    """Take over what has not changed since an older commit."""
    same = [name for name in _missing(folder, listed) if listed[name]["digest"] and had.get(name) == listed[name]]
    with memo.relinking([old / name for name in same]) as digests:
        for name in same:
            with contextlib.suppress(OSError):
                os.link(old / name, folder / name)
    memo.learn({folder / path.name: digest for path, digest in digests.items() if (folder / path.name).exists()})


def _pace() -> Pace:
    return PACE or Pace.chosen()
