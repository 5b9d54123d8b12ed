"""The prompt: editing, history, several lines, completion of commands."""

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth, create_output

from itrex_chat.conversation.commands import FORCE, NAMES
from itrex_chat.conversation.history import KeptHistory

SIGN, GOES_ON = "> ", "… "


class Prompt:
    """Reads what is typed at a terminal; `variants` are completed behind /variant, and are the ones that there are."""

    def __init__(self, history: Path, variants: Sequence[str], colours: bool):
        self._session: PromptSession[str] = PromptSession(
            multiline=True,
            key_bindings=_keys(),
            history=KeptHistory(history),
            completer=_Commands(variants),
            complete_while_typing=os.environ.get("TERM") not in (None, "", "dumb"),
            prompt_continuation=GOES_ON,
            enable_history_search=False,
            color_depth=None if colours else ColorDepth.MONOCHROME,
            output=None if sys.stdout.isatty() else create_output(sys.stderr),  # its own knows dumb terminals
        )

    def read(self) -> str:
        """What was typed. Raises EOFError where there is no more, KeyboardInterrupt where the line was given up."""
        return self._session.prompt(SIGN)


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def enter(event: KeyPressEvent) -> None:
        """Ends the question, or a line of it: where a backslash is before the cursor, which goes."""
        buffer = event.current_buffer
        if buffer.complete_state and buffer.complete_state.current_completion:
            buffer.complete_state = None
        elif buffer.document.current_line_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def alt_enter(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    return keys


class _Commands(Completer):
    def __init__(self, variants: Sequence[str]):
        self._variants, self._paths = variants, PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        if not text.startswith("/") or text.startswith("//") or "\n" in text:
            return
        name, space, rest = text[1:].partition(" ")
        if not space:
            yield from (Completion(f"/{each}", -len(text)) for each in NAMES if each.startswith(name))
        elif name == "variant":
            last = rest.rpartition(",")[2].lstrip()
            yield from (Completion(each, -len(last)) for each in self._variants if each.startswith(last))
        elif name in ("save", "load"):
            path = rest.removeprefix(f"{FORCE} ")
            yield from self._paths.get_completions(Document(path), complete_event)
