"""Where an answer parts from another one, found while it comes."""

BEFORE, BEHIND = 24, 24  # characters of an excerpt
MARK = "▸"


class Parting:
    """Goes through an answer in pieces, beside `other`, which is whole. `at` is the first character that differs, from 0 on;
    None as long as there is none."""

    def __init__(self, other: str):
        self._other, self._text = other, ""
        self.at: int | None = None

    def add(self, piece: str) -> tuple[str, str, str]:
        """The parts of a piece: what is the same, the first character that differs, and what is behind it."""
        begin = len(self._text)
        self._text += piece
        if self.at is not None:
            return "", "", piece
        there = self._other[begin : begin + len(piece)]
        same = next((n for n, (a, b) in enumerate(zip(piece, there)) if a != b), min(len(piece), len(there)))
        if same == len(piece):
            return piece, "", ""
        self.at = begin + same
        return piece[:same], piece[same], piece[same + 1 :]

    def end(self) -> None:
        """There is no more: one that ends sooner than the other parts there."""
        if self.at is None and len(self._text) < len(self._other):
            self.at = len(self._text)

    def excerpts(self) -> tuple[str, str]:
        """The other's words where they part and this one's, each in one line, with a mark at the place."""
        assert self.at is not None
        return _excerpt(self._other, self.at), _excerpt(self._text, self.at)


def _excerpt(text: str, at: int) -> str:
    begin, end = max(0, at - BEFORE), at + BEHIND
    words = f"{text[begin:at]}{MARK}{text[at:end]}".replace("\n", " ")
    return ("…" if begin else "") + words + ("…" if end < len(text) else "")
