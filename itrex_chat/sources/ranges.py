"""Which range of which file a connection brings.

Each takes the next one that nobody has. Who finds none left takes the second
half of the one that takes the longest still.
"""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from itrex_chat.foundation import progress
from itrex_chat.foundation.language import _
from itrex_chat.sources.pace import Pace
from itrex_chat.sources.partial import Partial

SMALLEST = 4 << 20  # bytes of a range
LONG = 1 << 28  # bytes whose reading is shown


@dataclass
class Span:
    """A range that one connection brings: from `at` to `end`; what is before `at` has come, before `noted` is noted."""

    partial: Partial
    at: int
    end: int
    noted: int = 0
    crc: int = 0

    def __post_init__(self) -> None:
        self.noted = self.began_at = self.at
        self.began = time.monotonic()

    def left(self, known_after: float) -> float:
        """Seconds until all has come, by the rate so far; 0 while it is too early to say."""
        passed = time.monotonic() - self.began
        if passed < known_after or not self.partial.ranged:
            return 0
        return passed * (self.end - self.at) / max(self.at - self.began_at, 1)


class Ranges:
    """Of files, the ranges that nobody brings, `free`, and those that somebody does, `coming`.

    Whoever calls from several threads holds one lock for all of them.
    """

    def __init__(self, partials: Sequence[Partial], pace: Pace):
        self.partials, self.pace, self.length = partials, pace, pace.range
        self.free: dict[str, list[tuple[int, int]]] = {}
        self.coming: list[Span] = []

    def begin(self) -> int:
        """Open all files; how many bytes are there."""
        left = sum(partial.path.stat().st_size for partial in self.partials if partial.path.exists())
        with contextlib.ExitStack() as stack:
            seen = stack.enter_context(progress.bar(_("checking what has come"), left)) if left > LONG else None
            for partial in self.partials:
                partial.open(lambda count: seen.update(count) if seen else None)
                self.free[partial.name] = partial.gaps()
        return sum(partial.present for partial in self.partials)

    def connections(self) -> int:
        """Set the length of ranges by what is to come; how many connections have one."""
        gaps = [end - start for gaps in self.free.values() for start, end in gaps]
        self.length = min(self.pace.range, max(SMALLEST, sum(gaps) // (2 * self.pace.connections)))
        return min(self.pace.connections, sum(-(-gap // self.length) for gap in gaps))

    def next(self) -> Span | None:
        """The next range that nobody brings, else half of the one that takes the longest still; None where none is worth it."""
        for partial in self.partials:
            if gaps := self.free[partial.name]:
                start, end = gaps.pop(0)
                if end - start > self.length:
                    gaps.insert(0, (start + self.length, end))
                    end = start + self.length
                self.coming.append(span := Span(partial, start, end))
                return span
        worth = self.pace.worth_dividing
        slowest = max(self.coming, key=lambda span: span.left(worth), default=None)
        if slowest and slowest.left(worth) > worth and slowest.end - slowest.at >= 2 * self.pace.piece:
            middle = (slowest.at + slowest.end) // 2
            self.coming.append(span := Span(slowest.partial, middle, slowest.end))
            slowest.end = middle
            return span
        return None

    def note(self, span: Span) -> None:
        """Note down what has come of a range."""
        span.partial.note(span.noted, span.at, span.crc)
        span.noted, span.crc = span.at, 0

    def take_whole(self, span: Span) -> int:
        """Have one connection bring all that is behind a file's beginning, as its server gives no ranges.

        How many bytes that were there are lost by it.
        """
        partial = span.partial
        if span.at >= span.end:  # another one does
            return 0
        for other in self.coming:
            if other.partial is partial:
                self.note(other)
        lost = partial.present - partial.prefix
        partial.forget_behind(partial.prefix)
        partial.ranged = False
        self.free[partial.name] = []
        for other in self.coming:
            if other.partial is partial and other is not span:
                other.end = other.at
        span.at = span.noted = partial.prefix
        span.end, span.crc = partial.size, 0
        return lost
