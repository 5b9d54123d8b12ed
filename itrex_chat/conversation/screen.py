"""What a conversation shows: answers as they come, and facts beside them."""

import os
import sys
from collections.abc import Mapping
from typing import TextIO

from itrex_chat.conversation.parting import Parting
from itrex_chat.foundation.harmless import for_terminal
from itrex_chat.foundation.language import _
from itrex_chat.generation.response import Response
from itrex_chat.settings.variant import titled

DIM, UNDERLINED, PLAIN = "\x1b[2m", "\x1b[1;4m", "\x1b[0m"


def has_colours(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether what is written there may be dim or underlined: a terminal that can, and nobody who does not want it."""
    return (
        stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM", "dumb") not in ("", "dumb", "unknown")
    )


class Screen:
    """Answers go to standard output; facts too in a conversation at a terminal, else to standard error.

    Whatever is shown goes through `for_terminal`, a character at a time: none that steers is left to begin a sequence with,
    in whatever pieces it comes.
    """

    def __init__(self, conversation: bool):
        self._out = sys.stdout
        self._facts = sys.stdout if conversation and sys.stdout.isatty() else sys.stderr
        self._line = True  # the output is at the beginning of a line

    def title(self, name: str) -> None:
        """The variant whose answer follows."""
        self._write(self._out, f"--- {titled(name)}\n", DIM)

    def piece(self, text: str, parting: Parting | None = None) -> None:
        """Some of an answer; what is as in another one that is shown above is dim, the first character that is not underlined."""
        if parting is None:
            self._write(self._out, text)
            return
        same, differs, behind = parting.add(text)
        self._write(self._out, same, DIM)
        self._write(self._out, differs, UNDERLINED)
        self._write(self._out, behind)

    def end(self) -> None:
        """The answer is over: what follows begins a line."""
        if not self._line:
            self._write(self._out, "\n")

    def fact(self, text: str) -> None:
        """A dim line."""
        self._out.flush()
        self._write(self._facts, f"{text}\n", DIM)

    def say(self, text: str) -> None:
        """Lines that were asked for, or that must not be missed."""
        self._out.flush()
        self._write(self._facts, f"{text}\n")

    def parted(self, parting: Parting, name: str, first: str) -> None:
        """Where an answer parts from the first one."""
        parting.end()
        if parting.at is None:
            self.fact(_("{name} answers as {first} does, to the character.", name=titled(name), first=titled(first)))
            return
        before, now = parting.excerpts()
        self.fact(
            _(
                "{name} parts from {first} at character {number}: {first} “{before}”, {name} “{now}”",
                name=titled(name),
                first=titled(first),
                number=parting.at + 1,
                before=before,
                now=now,
            )
        )

    def _write(self, stream: TextIO, text: str, style: str = "") -> None:
        text = for_terminal(text)
        if not text:
            return
        if stream is self._out:
            self._line = text.endswith("\n")
        styled = style and has_colours(stream)
        stream.write(f"{style}{text}{PLAIN}" if styled else text)
        stream.flush()


def figures(name: str, response: Response, context: int | None) -> str:
    """An answer's speed and how much of the model's context is used, in one line."""
    used = response.prompt_tokens + response.new_tokens
    parts = [titled(name), _("{count} tokens", count=response.new_tokens)]
    if rate := response.tokens_per_second:
        parts.append(_("{rate:.1f} tok/s", rate=rate))
    parts.append(_("TTFT {seconds:.2f} s", seconds=response.ttft))
    parts.append(_("context {used} of {all}", used=used, all=context) if context else _("context {used}", used=used))
    return " · ".join(parts)
