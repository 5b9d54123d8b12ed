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
PAYS = 3  # times as much may be read for each pass where a drafter takes the place of weights: it saves two passes of three

# Names of matrices, of the first tensor of each, and bytes, in the order in which a pass needs them.
Matrices = Sequence[tuple[str, int]]


@dataclass(frozen=True)
class Streaming:
    """The matrices that are `streamed`, by the name of each one's first tensor; bytes that stay, `resident`, and of the
    memory that the others share, `ring`."""

    streamed: frozenset[str] = frozenset()
    resident: int = 0
    ring: int = 0

    @property
    def kept(self) -> int:
        """Bytes of memory that it takes."""
        return self.resident + self.ring


@dataclass
class Room:
    """Of `free` bytes, a variant takes `least` (with the ring), and what drafts for it `drafter`, 0 if nothing does."""

    free: int
    least: int
    drafter: int = 0
    planned: Streaming = Streaming()

    def plan(self, matrices: Matrices) -> Streaming:
        """What stays of the matrices in files."""
        alone = plan(matrices, self.least, self.free)
        beside = plan(matrices, self.least + self.drafter, self.free)
        read = [_read(matrices, each) for each in (alone, beside)]
        fits = self.least + self.drafter <= self.free
        self.planned = beside if read[0] and fits and read[1] <= PAYS * read[0] else alone
        return self.planned


def plan(matrices: Matrices, least: int, free: int) -> Streaming:
    """What stays of `matrices`, where a variant takes `least` bytes besides (with the ring), of `free` ones."""
    total = sum(size for _name, size in matrices)
    ring = min(RING, total)
    if not matrices or least - ring + total <= free:
        return Streaming(resident=total)
    room = max(0, free - least - LEFT_ALONE - free // PART_LEFT)
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


def _read(matrices: Matrices, planned: Streaming) -> int:
    return sum(size for name, size in matrices if name in planned.streamed)
