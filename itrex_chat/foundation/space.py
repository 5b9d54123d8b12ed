"""Whether something fits on a disk, and what in the cache could be freed for it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from itrex_chat.foundation import in_use, kept
from itrex_chat.foundation.errors import ItrexChatError
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import readable

SPARE = 64 << 20  # bytes that must stay free on the disk
NAMED, WORTH_NAMING = 3, 100 << 20
PLACES = ("sources/hubs/*/*", "artifacts/*", "environments/*", "engines/*", "itrex/views/*")


def check(
    what: str, needed: int, folder: Path, home: Path, error: type[ItrexChatError], elsewhere: str = "ITREX_CHAT_CACHE"
) -> None:
    """Raise `error` where the disk of a folder has not the bytes that `what` needs.

    It names what in `home` could be freed, and the variable `elsewhere` that chooses another disk.
    """
    if (free := shutil.disk_usage(folder).free) < needed:
        raise error(
            _(
                "{what} needs {needed} more, but the disk of {folder} has {free} left; {advice} or set {variable} to "
                "another disk.",
                what=what,
                needed=readable(needed),
                folder=folder,
                free=readable(free),
                advice=advice(home),
                variable=elsewhere,
            )
        )


def advice(home: Path) -> str:
    """What of a cache to free, the largest first, as a part of a sentence."""
    found = [(kept.freed([path]), path) for path in _removable(home) if not in_use.by_another(path)]
    large = sorted(((size, name(path)) for size, path in found if size > WORTH_NAMING), reverse=True)[:NAMED]
    if not large:
        return _("free some")
    return _(
        "free some (python -m itrex_chat.cache remove NAME: {names})",
        names=", ".join(f"{name} {readable(size)}" for size, name in large),
    )


def name(path: Path) -> str:
    """The name by which a folder of the cache is removed: a repository's for what was downloaded of it."""
    stem = path.parent.name.split("--", 1)
    return stem[1].replace("--", "/") if len(stem) == 2 else path.name


def _removable(home: Path) -> Iterator[Path]:
    for pattern in PLACES:
        yield from (path for path in home.glob(pattern) if path.is_dir() and not path.name.startswith("."))
