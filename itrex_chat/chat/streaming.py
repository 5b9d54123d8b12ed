"""Text of an answer while its tokens arrive, never half a character."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from itrex_chat.chat import ChatTokenizer

REPLACEMENT = "\ufffd"
LONGEST_UNFINISHED = 3  # a character has at most four bytes, so at most three await the rest


class TextStream:
    """Turns ids, given one at a time, into pieces of text that join to the text of all.

    The end of the text is held back while it may be the beginning of a
    character whose last bytes are still to come. Only the ids since the last
    finished piece and one piece before are decoded again.
    """

    def __init__(self, decode: Callable[[list[int]], str], strip_newline: bool = False):
        self._decode, self._strip = decode, strip_newline
        self._ids: list[int] = []
        self._context = self._fresh = 0  # where the ids of the previous and of the current piece begin
        self._shown = 0  # characters of the current piece that were handed out

    def add(self, token: int) -> str:
        """The text that `token` completes; often none."""
        self._ids.append(token)
        return self._stripped(self._advance(final=False))

    def end(self) -> str:
        """What was still held back."""
        return self._stripped(self._advance(final=True))

    def _advance(self, final: bool) -> str:
        before = self._decode(self._ids[self._context : self._fresh])
        text = self._decode(self._ids[self._context :])[len(before) :]
        unfinished = 0 if final else min(len(text) - len(text.rstrip(REPLACEMENT)), LONGEST_UNFINISHED)
        piece = text[self._shown : len(text) - unfinished]
        self._shown += len(piece)
        if not unfinished and text:
            self._context, self._fresh, self._shown = self._fresh, len(self._ids), 0
        return piece

    def _stripped(self, piece: str) -> str:
        if self._strip:
            piece = piece.lstrip()
            self._strip = not piece
        return piece


def token_pieces(tokenizer: "ChatTokenizer", ids: list[int]) -> list[str]:
    """The text that each token of an answer adds; a character belongs to the token that completes it."""
    stream = TextStream(tokenizer.decode, tokenizer.strips_newline)
    pieces = [stream.add(token) for token in ids]
    if pieces:
        pieces[-1] += stream.end()
    return pieces
