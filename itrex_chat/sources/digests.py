"""SHA-256 of source files, remembered until a file changes (`foundation/memo.py`)."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from itrex_chat.foundation import progress
from itrex_chat.foundation.digests import sha256
from itrex_chat.foundation.errors import SourceError
from itrex_chat.foundation.language import _
from itrex_chat.foundation.memo import Memo, stamp

SMALL = 16 << 20  # bytes that are hashed at once


class DigestMemo:
    """Digests by path, kept in one JSON file under the cache; without it where the cache is read-only."""

    def __init__(self, home: Path):
        self._memo = Memo(home / "digests.json")

    def sha256(self, paths: list[Path]) -> dict[Path, str]:
        """The digest of each path, hashing only what is new or has changed."""
        stamps = {path: stamp(path) for path in paths}
        digests = self._memo.known(stamps)
        if new := [path for path in paths if path not in digests]:
            with progress.bar(_("reading the source"), sum(path.stat().st_size for path in new)) as bar:
                for path in new:
                    digests[path] = sha256(path, bar)
                    if stamp(path) != stamps[path]:
                        raise SourceError(_("{path} changed while it was read; try again when it is whole.", path=path))
            self._memo.remember({path: (stamps[path], digests[path]) for path in new})
        return digests

    def known(self, paths: list[Path]) -> dict[Path, str] | None:
        """The digest of each path, where none of them would have to be read for it."""
        found = self._memo.known({path: stamp(path) for path in paths})
        return found if len(found) == len(set(paths)) else None

    def quickly(self, paths: list[Path]) -> dict[Path, str] | None:
        """The same where nothing large must be read for it."""
        stamps = {path: stamp(path) for path in paths}
        new = stamps.keys() - self._memo.known(stamps).keys()
        return None if any(path.stat().st_size > SMALL for path in new) else self.sha256(paths)

    @contextlib.contextmanager
    def relinking(self, paths: Sequence[Path]) -> Iterator[dict[Path, str]]:
        """Digests that are known of some of the paths, which outlive a block that gives these files more names or fewer.

        A file's change time says so too; size, inode and modification time vouch for it then.
        """
        stamps = {path: stamp(path) for path in paths if path.exists()}
        known = self._memo.known(stamps)
        yield known
        same = {path: digest for path, digest in known.items() if path.exists() and stamp(path)[:3] == stamps[path][:3]}
        if any(stamp(path) != stamps[path] for path in same):
            self.learn(same)

    def learn(self, digests: dict[Path, str]) -> None:
        """Remember digests that were computed elsewhere just now."""
        self._memo.remember({path: (stamp(path), digest) for path, digest in digests.items()})
