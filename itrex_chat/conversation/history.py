"""What was typed before, kept in the cache for its owner: a JSON text a line, the oldest first."""

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit.history import History

from itrex_chat.foundation import files
from itrex_chat.foundation.errors import ItrexChatError
from itrex_chat.foundation.harmless import encodable, for_terminal
from itrex_chat.foundation.stored import parsed_json

MOST = 1000  # entries
LONGEST = 16_384  # characters of an entry; longer ones are not kept


class KeptHistory(History):
    """Nothing is kept, and nobody is told, where the file cannot be read or written: the conversation goes on."""

    def __init__(self, path: Path):
        super().__init__()
        self._path = path

    def load_history_strings(self) -> Iterable[str]:
        """The newest first. A file that has become too long is made short."""
        try:
            lines = files.text_of(self._path, OSError, errors="replace").splitlines()
        except (OSError, ItrexChatError):
            return []
        if len(lines) > 2 * MOST:
            with contextlib.suppress(OSError):
                files.write_text(self._path, "".join(f"{line}\n" for line in lines[-MOST:]), files.PRIVATE)
        entries = [_entry(line) for line in lines[-MOST:]]
        return [entry for entry in reversed(entries) if entry]

    def store_string(self, string: str) -> None:
        if len(string) > LONGEST:
            return
        line = json.dumps(encodable(string), ensure_ascii=False) + "\n"
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
            handle = os.open(self._path, flags, files.PRIVATE)
            try:
                os.write(handle, line.encode())
            finally:
                os.close(handle)


def _entry(line: str) -> str:
    """The text of a line; none where it is not one that this program wrote."""
    try:
        text = parsed_json(line)
    except ValueError:
        return ""
    return for_terminal(text) if isinstance(text, str) and len(text) <= LONGEST else ""
