"""What reading files told, remembered until they change.

A file of many gigabytes is read once for it; after that its size, inode,
change time and modification time vouch for it. The change time cannot be set
back by a program, so an edit is always seen.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from itrex_chat.foundation import files, stored


class Memo:
    """Values of JSON by path, kept in one file, with each path's stamp; it remembers nothing where that cannot be written."""

    def __init__(self, file: Path):
        self.file = file

    def known(self, stamps: Mapping[Path, list[int]]) -> dict[Path, Any]:
        """What is remembered of the files whose stamps are still these."""
        found = self._read()
        return {
            path: found[str(path)][1] for path in stamps if str(path) in found and found[str(path)][0] == stamps[path]
        }

    def remember(self, entries: Mapping[Path, tuple[list[int], Any]]) -> None:
        """Keep values with the stamps that the files had when they were read for them."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.file}.lock"):
                files.write_json(self.file, self._read() | {str(path): entry for path, entry in entries.items()})
        except OSError:
            pass  # the next start reads the files again

    def _read(self) -> dict:
        try:
            return {
                path: (stamp, value)
                for path, (stamp, value) in stored.parsed_json(self.file.read_text("utf-8")).items()
            }
        except (OSError, ValueError, TypeError, AttributeError):
            return {}


def stamp(path: Path) -> list[int]:
    """Size, inode, modification and change time."""
    return stamp_of(path.stat())


def stamp_of(found: os.stat_result) -> list[int]:
    return [found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]
