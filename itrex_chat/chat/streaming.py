"""Text of an answer while its tokens arrive, never half a character."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from itrex_chat.chat import ChatTokenizer

REPLACEMENT = "\ufffd"
LONGEST_UNFINISHED = 3  # a character has at most four bytes, so at most three await the rest
DECODED_AGAIN = 16  # ids, before what came of them is left behind
PAUSE = 0.03  # seconds: faster than one reads, and asking the tokenizer's process costs a hundredth of it at most


class TextStream:
    """Turns ids, given one at a time, into pieces of text that join to the text of all.

    The end of the text is held back while it may be the beginning of a
    character whose last bytes are still to come. With a new id only the last
    ones are decoded again, at least those of the finished piece before it.
    For `pause` seconds after a decoding there is none; what comes meanwhile
    is in the piece after it.
    """

    def __init__(self, decode: Callable[[list[int]], str], strip_newline: bool = False, pause: float = 0):
        self._decode, self._strip, self._pause = decode, strip_newline, pause
        self._decoded_at = -pause
        self._ids: list[int] = []
        self._context = 0  # where the ids that are decoded again begin,
        self._shown = 0  # how many characters of their text were handed out,
        self._fresh = 0  # and where the ids behind the last finished piece begin

    def add(self, token: int) -> str:
        """The text that `token` completes, and those before it that have not been decoded; often none."""
        self._ids.append(token)
        now = time.monotonic()
        if now - self._decoded_at < self._pause:
            return ""
        self._decoded_at = now
        return self._stripped(self._advance(final=False))

    def end(self) -> str:
        """What was still held back."""
        return self._stripped(self._advance(final=True))

    def _advance(self, final: bool) -> str:
        text = self._decode(self._ids[self._context :])
        unfinished = 0 if final else min(len(text) - len(text.rstrip(REPLACEMENT)), LONGEST_UNFINISHED)
        piece = text[self._shown : len(text) - unfinished]
        self._shown += len(piece)
        if piece and not unfinished:
            if len(self._ids) - self._context > DECODED_AGAIN:
                self._context = self._fresh
                self._shown = len(self._decode(self._ids[self._context :]))
            self._fresh = len(self._ids)
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
