"""Which weights stay in memory, and which are read from their files for each pass, where there is no room for all of them.

What stays is a fixed part: a cache that drops what was used longest ago would have dropped each matrix just before it is
needed again. It is spread over the layers, so that reading goes on while what is in memory is multiplied by.
"""

from collections.abc import Sequence
from dataclasses import dataclass

RING = 256 << 20  # bytes, which pieces that are read ahead share
PIECE = 32 << 20  # bytes, at most
LEFT_ALONE = 256 << 20  # bytes that are free beside it, and a part of all that is
PART_LEFT = 16


@dataclass(frozen=True)
class Streaming:
    """The matrices that are `streamed`, by the name of each one's first tensor; bytes that stay, `resident`, and of the
    memory that the others share, `ring`."""

    streamed: frozenset[str] = frozenset()
    resident: int = 0
    ring: int = 0


def fits(mapped: int, own: int, free: int) -> bool:
    """Whether weights that lie in files can all stay in memory beside what a variant takes for its own."""
    return own + mapped <= free


def plan(matrices: Sequence[tuple[str, int]], own: int, free: int) -> Streaming:
    """What stays of `matrices`, names and bytes in the order in which a pass needs them, where a variant takes `own` bytes
    besides, of `free` ones."""
    total = sum(size for _name, size in matrices)
    if fits(total, own, free):
        return Streaming(resident=total)
    ring = min(RING, total)
    room = max(0, free - own - ring - LEFT_ALONE - free // PART_LEFT)
    staying, at_once = set[str](), 0
    name, size = matrices[-1]
    if size <= room:  # the head: reading a prompt needs it once, for the last token
        staying, at_once = {name}, size
    share, due = min(1.0, (room - at_once) / max(1, total - at_once)), 0.0
    for name, size in matrices:
        if name in staying:
            continue
        due += share * size
        if due >= size:
            staying.add(name)
            due -= size
    streamed = frozenset(name for name, _size in matrices if name not in staying)
    return Streaming(streamed, sum(size for name, size in matrices if name in staying), ring)
