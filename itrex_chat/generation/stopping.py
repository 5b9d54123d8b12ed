"""Stop strings: text at which an answer ends, however its tokens are cut."""

from collections.abc import Sequence


class StopStrings:
    """Goes through pieces of text. What may be the beginning of a stop string is held back until it is clear."""

    def __init__(self, strings: Sequence[str]):
        self._strings = [string for string in strings if string]
        self._held = ""
        self.found: str | None = None

    def add(self, piece: str) -> str:
        """The text that can be shown; where a stop string is `found`, what was before it, and nothing after that."""
        if self.found is not None:
            return ""
        text = self._held + piece
        places = [(at, -len(string), string) for string in self._strings if (at := text.find(string)) >= 0]
        if places:
            at, _length, self.found = min(places)
            self._held = ""
            return text[:at]
        held = max((_beginning(text, string) for string in self._strings), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def end(self) -> str:
        """What is still held back."""
        held, self._held = self._held, ""
        return held


def _beginning(text: str, string: str) -> int:
    """How many of the last characters of a text are the first ones of a string."""
    return next((count for count in range(min(len(string) - 1, len(text)), 0, -1) if text.endswith(string[:count])), 0)
