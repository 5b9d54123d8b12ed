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

SMALL = 16 << 20  # bytes that are hashed at once


class DigestMemo:
    """Digests by path, kept in one JSON file under the cache; without it where the cache is read-only."""

    def __init__(self, home: Path):
        self.file = home / "digests.json"

    def sha256(self, paths: list[Path]) -> dict[Path, str]:
        """The digest of each path, hashing only what is new or has changed."""
        stamps = {path: stamp(path) for path in paths}
        digests = self._vouched(stamps)
        if new := [path for path in paths if path not in digests]:
            with progress.bar(_("reading the source"), sum(path.stat().st_size for path in new)) as bar:
                for path in new:
                    digests[path] = sha256(path, bar)
                    if stamp(path) != stamps[path]:
                        raise SourceError(_("{path} changed while it was read; try again when it is whole.", path=path))
            self._remember({str(path): (stamps[path], digests[path]) for path in new})
        return digests

    def known(self, paths: list[Path]) -> dict[Path, str] | None:
        """The digest of each path, where none of them would have to be read for it."""
        found = self._vouched({path: stamp(path) for path in paths})
        return found if len(found) == len(set(paths)) else None

    def quickly(self, paths: list[Path]) -> dict[Path, str] | None:
        """The same where nothing large must be read for it."""
        stamps = {path: stamp(path) for path in paths}
        new = stamps.keys() - self._vouched(stamps).keys()
        return None if any(path.stat().st_size > SMALL for path in new) else self.sha256(paths)

    def learn(self, digests: dict[Path, str]) -> None:
        """Remember digests that were computed elsewhere just now."""
        self._remember({str(path): (stamp(path), digest) for path, digest in digests.items()})

    def _vouched(self, stamps: dict[Path, list[int]]) -> dict[Path, str]:
        """The digests of the files that have not changed."""
        known = self._read()
        return {
            path: known[str(path)][1] for path in stamps if str(path) in known and known[str(path)][0] == stamps[path]
        }

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


def stamp(path: Path) -> list[int]:
    """Size, inode, modification and change time."""
    status = path.stat()
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
