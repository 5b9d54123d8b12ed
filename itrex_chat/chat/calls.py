"""Calls of functions found in an answer while it comes; whatever is not one remains text."""

from collections.abc import Sequence

from itrex_chat.chat.messages import ToolCall
from itrex_chat.chat.tools import CallFormat

MOST_SPACE = 64  # characters of it before a call that go with it
MOST_TRIES = 256  # texts of an answer that are looked at as a call


class Calls:
    """Turns pieces of an answer into texts and calls, the same however it is cut into pieces. Space around calls goes with them.

    What may become a call is held back until it is one. A call whose function is none of `names`, and one that is not
    written as its family writes them, is text. The calls have no ids yet.
    """

    def __init__(self, form: CallFormat, names: Sequence[str]):
        self._form, self._names, self._openings = form, frozenset(names), form.openings(names)
        self._held = ""
        self._opened: tuple[int, str] | None = None  # where in what is held a call may begin, and with which opening
        self._looked = 0  # up to where in what is held there is no end of it
        self._literal = 0  # characters at the beginning of what is held that begin no call
        self._behind = False  # whether what comes is behind a call, and nothing else yet
        self._tries = 0

    def add(self, piece: str) -> list[str | ToolCall]:
        self._held += piece
        return self._found(final=False)

    def end(self, complete: bool) -> list[str | ToolCall]:
        """What was still held back. In an answer that is `complete` a call can be without its closing."""
        found = self._found(final=True)
        while self._opened:
            start, opening = self._opened
            if complete and (call := self._read(opening, self._held[start + len(opening) :])):
                found.append(call)
                self._held, self._opened = "", None
                return found
            self._give_up()
            found += self._found(final=True)
        return found

    def _found(self, final: bool) -> list[str | ToolCall]:
        found: list[str | ToolCall] = []
        while True:
            if self._opened is None and not self._open(found):
                self._tell(found, final)
                return found
            if not self._close(found):
                return found

    def _open(self, found: list[str | ToolCall]) -> bool:
        """Whether a call may have begun; what is before it is told."""
        if self._tries >= MOST_TRIES:
            return False
        places = [
            (at, -len(opening), opening)
            for opening in self._openings
            if (at := self._held.find(opening, self._literal)) >= 0
        ]
        if not places:
            return False
        at, _length, opening = min(places)
        space = _without_space(self._held, at)
        self._say(found, self._held[:space])
        self._held, self._literal = self._held[space:], 0
        self._opened, self._looked = (at - space, opening), at - space + len(opening)
        return True

    def _close(self, found: list[str | ToolCall]) -> bool:
        """Whether what is open has ended, as a call or as text."""
        assert self._opened
        start, opening = self._opened
        closing = self._form.closing
        while (at := self._held.find(closing, self._looked)) >= 0:
            inside = self._held[start + len(opening) : at]
            if call := self._read(opening, inside):
                found.append(call)
                self._held = self._held[at + len(closing) :]
                self._opened, self._literal, self._behind = None, 0, True
                return True
            if self._tries >= MOST_TRIES or not self._form.quoted(inside):
                self._give_up()
                return True
            self._looked = at + len(closing)
        self._looked = max(self._looked, len(self._held) - len(closing) + 1)
        return False

    def _read(self, opening: str, inside: str) -> ToolCall | None:
        self._tries += 1
        read = self._form.read(opening, inside)
        return ToolCall("", *read) if read and read[0] in self._names else None

    def _give_up(self) -> None:
        assert self._opened
        start, opening = self._opened
        self._opened, self._literal = None, start + len(opening)

    def _tell(self, found: list[str | ToolCall], final: bool) -> None:
        """Tell what is text for certain: not spaces at the end, nor what an opening may begin with."""
        end = len(self._held)
        if not final:
            end -= max((_beginning(self._held[self._literal :], opening) for opening in self._openings), default=0)
            end = _without_space(self._held, end)
        self._say(found, self._held[:end])
        self._held, self._literal = self._held[end:], max(self._literal - end, 0)

    def _say(self, found: list[str | ToolCall], text: str) -> None:
        if self._behind:
            text = text.lstrip()
        if text:
            self._behind = False
            found.append(text)


def _without_space(text: str, end: int) -> int:
    """Where the space before a place begins."""
    return max(len(text[:end].rstrip()), end - MOST_SPACE)


def _beginning(text: str, opening: str) -> int:
    """How many of the last characters of a text are the first ones of an opening."""
    return next(
        (count for count in range(min(len(opening) - 1, len(text)), 0, -1) if text.endswith(opening[:count])), 0
    )
