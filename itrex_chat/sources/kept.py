"""What was downloaded and is kept: the files of repositories at a commit, and files of packages."""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from itrex_chat.foundation import files, in_use, stored
from itrex_chat.foundation.errors import SourceError
from itrex_chat.foundation.kept import Kept
from itrex_chat.foundation.language import _
from itrex_chat.foundation.space import name
from itrex_chat.sources.pushed import manifest_in

ORPHAN = "orphan"  # the text of what no record names
SHORT = 8  # digits of a commit


@dataclass(frozen=True)
class Record:
    """What a download wrote of a repository at a revision: the folder with its files, and their origin."""

    folder: Path
    origin: dict


def kept(home: Path) -> list[Kept]:
    """Everything that was downloaded into a cache."""
    return [*_repositories(home / "sources" / "hubs"), *_packages(home / "sources" / "packages")]


def drop_orphans(hubs: Path, folder: Path) -> None:
    """Remove the files of a repository's older commits that no revision needs any more and no process uses.

    `folder` is that of one of its commits. Nothing is removed while another process downloads from the repository, nor
    anywhere else than in `hubs`.
    """
    if folder.parent.parent != hubs:
        return
    with contextlib.suppress(Timeout, OSError), FileLock(hubs / f"{folder.parent.name}.lock", timeout=0):
        wanted = {record.folder for record in records(hubs)}
        for other in _folders(folder.parent):
            if other not in wanted and other != folder:
                with contextlib.suppress(SourceError):
                    in_use.discard_unused(other, SourceError)


def records(hubs: Path) -> list[Record]:
    """The records of all downloads that can be read."""
    found = []
    for path in sorted(hubs.glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            known = stored.parsed_json(path.read_text("utf-8"))
            found.append(Record(hubs / known["folder"], dict(known["origin"])))
    return found


def _folders(repository: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(path for path in repository.iterdir() if path.is_dir() and not path.name.startswith("."))
    return []


def _repositories(hubs: Path) -> Iterator[Kept]:
    origins = {record.folder: record.origin for record in records(hubs)}
    for repository in sorted(path for path in hubs.glob("*--*") if path.is_dir()):
        hub = repository.name.split("--", 1)[0]
        for folder in _folders(repository):
            origin = origins.get(folder, {})
            commit = str(origin.get("commit") or folder.name)[:SHORT]
            variant = str((manifest_in(folder) or {}).get("variant", ""))
            yield Kept(
                "artifacts" if variant else "originals",
                f"{name(folder)}@{commit}",
                folder,
                functools.partial(_remove, folder, hubs / f"{repository.name}.lock"),
                names=(name(folder), f"{hub}:{name(folder)}"),
                origin=origin or {"kind": hub, "repository": name(folder), "commit": ""},
                variant=variant,
                text="" if origin else ORPHAN,
            )


def _packages(packages: Path) -> Iterator[Kept]:
    for folder in _folders(packages):
        for file in sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")):
            yield Kept(
                "originals",
                file.name,
                folder,
                functools.partial(_remove, folder, folder / ".lock"),
                names=(file.stem,),
                origin={"kind": "package", "sha256": folder.name},
            )


def _remove(folder: Path, lock: Path) -> None:
    """Raises SourceError."""
    with files.disk_errors(SourceError, _("Removing {folder}", folder=folder)):
        try:
            with FileLock(lock, timeout=0):
                in_use.discard_unused(folder, SourceError)
        except Timeout:
            raise SourceError(
                _("Another process is using {folder}; try again when it is done.", folder=folder)
            ) from None
