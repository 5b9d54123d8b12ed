"""SHA-256 of source files, remembered until a file changes.

A file of many gigabytes is hashed once; after that its size, inode, change
time and modification time vouch for it. The change time cannot be set back by
a program, so an edit is always seen.
"""

from pathlib import Path

from filelock import FileLock

from itrex_chat.foundation import files, progress, stored
from itrex_chat.foundation.digests import sha256
from itrex_chat.foundation.errors import SourceError
from itrex_chat.foundation.language import _


class DigestMemo:
    """Digests by path, kept in one JSON file under the cache; without it where the cache is read-only."""

    def __init__(self, home: Path):
        self.file = home / "digests.json"

    def sha256(self, paths: list[Path]) -> dict[Path, str]:
        """The digest of each path, hashing only what is new or has changed."""
        known = self._read()
        stamps = {path: _stamp(path) for path in paths}
        digests = {
            path: known[str(path)][1] for path in paths if str(path) in known and known[str(path)][0] == stamps[path]
        }
        if new := [path for path in paths if path not in digests]:
            with progress.bar(_("reading the source"), sum(path.stat().st_size for path in new)) as bar:
                for path in new:
                    digests[path] = sha256(path, bar)
                    if _stamp(path) != stamps[path]:
                        raise SourceError(_("{path} changed while it was read; try again when it is whole.", path=path))
            self._remember({str(path): (stamps[path], digests[path]) for path in new})
        return digests

    def known(self, paths: list[Path]) -> dict[Path, str] | None:
        """The digest of each path, where none of them would have to be hashed."""
        known = self._read()
        if any(str(path) not in known or known[str(path)][0] != _stamp(path) for path in paths):
            return None
        return {path: known[str(path)][1] for path in paths}

    def _read(self) -> dict:
        try:
            return {
                path: (stamp, digest)
                for path, (stamp, digest) in stored.parsed_json(self.file.read_text("utf-8")).items()
            }
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def _remember(self, entries: dict) -> None:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.file}.lock"):
                files.write_json(self.file, self._read() | entries)
        except OSError:
            pass  # only a memory: the next start hashes again


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
