"""What a kind of input gives: a case, made from a source of randomness alone."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """`what` was done, in a few words, and `use`, which hands it to the program as a user would.

    `use` ends by itself or with an ItrexChatError; all else is a finding. An AssertionError of its own is one, too.
    """

    what: str
    use: Callable[[], object]


def linked(path: Path, to: Path) -> Path:
    """A file, or all files of a folder, under another name without copying them; a file that changes is written anew."""
    to.mkdir(parents=True, exist_ok=True) if path.is_dir() else to.parent.mkdir(parents=True, exist_ok=True)
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        target = to / file.name if path.is_dir() else to
        if file.is_dir():
            linked(file, target)
        else:
            target.hardlink_to(file)
    return to


def written(path: Path, content: bytes) -> None:
    """Other content in a file that may be a link, or that an earlier change made a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.write_bytes(content)
