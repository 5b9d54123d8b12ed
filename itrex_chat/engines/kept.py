"""What an engine keeps in the cache beside artifacts."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Kept:
    """One thing in the cache: `line` tells of it, `size` is bytes on disk. `remove` takes it away; `answers_to` says
    whether a name that a user gave means it."""

    name: str
    size: int
    line: str
    answers_to: Callable[[str], bool]
    remove: Callable[[], None]
