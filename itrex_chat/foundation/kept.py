"""One thing in the cache, and what takes it away: rooms tell of what they keep, `disk/` shows and frees all of it."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from itrex_chat.foundation import in_use

# In the order in which they are shown. Of AGAIN everything can be had again: by a download, by computing.
AGAIN = ("originals", "artifacts", "prepared", "measurements", "environments", "benchmarks", "logs")
KINDS = ("originals", "artifacts", "prepared", "runs", "reports", *AGAIN[3:])


@dataclass(frozen=True)
class Kept:
    """`text` says what it is, `needed` what it is good for and what it costs to have it again.

    `names` mean it beside its own, `origin` is where its model came from, as a source says it, `variant` what it answers as.
    `remove` takes it away and raises ItrexChatError where another process uses it. `again` is False where nothing on
    this machine or on a hub gives it again.
    """

    kind: str
    name: str
    path: Path
    remove: Callable[[], None]
    text: str = ""
    needed: str = ""
    names: tuple[str, ...] = ()
    origin: dict = field(default_factory=dict)
    variant: str = ""
    again: bool = True
    beside: tuple[Path, ...] = ()  # that go with it

    @property
    def paths(self) -> tuple[Path, ...]:
        return self.path, *self.beside

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return size(self.paths)

    @property
    def used(self) -> float:
        """When it was used last, in seconds since the epoch."""
        return in_use.used_at(self.path)

    def answers_to(self, name: str) -> bool:
        """Whether a name that a user gave means it."""
        return name in (self.kind, self.name, *self.names)


def size(paths: Iterable[Path]) -> int:
    """Bytes on disk of files and of what folders hold: what is there under two names once, and links not at all."""
    seen: dict[tuple[int, int], int] = {}
    for path in paths:
        for file in _files(path):
            try:
                found = file.stat(follow_symlinks=False)
            except OSError:
                continue
            seen[found.st_dev, found.st_ino] = found.st_size
    return sum(seen.values())


def freed(paths: Iterable[Path]) -> int:
    """Bytes that come free when all of these are removed: not those that have yet another name."""
    seen: dict[tuple[int, int], list[int]] = {}
    for path in paths:
        for file in _files(path):
            try:
                found = file.stat(follow_symlinks=False)
            except OSError:
                continue
            seen.setdefault((found.st_dev, found.st_ino), [found.st_size, found.st_nlink])[1] -= 1
    return sum(size for size, others in seen.values() if others <= 0)


def _files(path: Path) -> Iterable["os.DirEntry[str] | Path"]:
    if not path.is_dir() or path.is_symlink():
        if path.is_file() and not path.is_symlink():
            yield path
        return
    try:
        entries = list(os.scandir(path))
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            yield entry
