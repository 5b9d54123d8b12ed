"""A file that comes in pieces, in any order: written in place, noted down piece by piece, hashed in order as its beginning grows.

Beside `NAME.incomplete` a list `NAME.pieces` says which bytes are there, each
piece with its CRC-32. Who is killed loses what came after the last piece that was
noted. After a power failure a piece that did not reach the disk is found by its CRC.
"""

import contextlib
import hashlib
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from itrex_chat.foundation import files
from itrex_chat.sources.failures import damaged

NOTE = struct.Struct("<QQI")  # start, length, CRC-32
LARGEST_PIECE = 8 << 20  # bytes
READ = 1 << 20
GIT, SHA256 = 40, 64  # digits of a digest


class Partial:
    """One file of `size` bytes in `folder`; `digest` is what its content must have, of SHA-256 or as a blob of Git, or "".

    `open` finds what an earlier process left. `write` and `note` may be called by several threads under a lock of theirs for
    `note`; `hash_on` and `finish` by one.
    """

    def __init__(self, folder: Path, name: str, size: int, digest: str):
        self.name, self.size, self.digest = name, size, digest
        self.target, self.path = folder / name, folder / f"{name}.incomplete"
        self.list = folder / f"{name}.pieces"
        self.ranged = False  # whether the server has shown that it gives ranges of it
        self.there: list[tuple[int, int]] = []  # starts and ends, apart and in order
        self.sha256, self.hashed = hashlib.sha256(), 0
        self._git = hashlib.sha1(b"blob %d\0" % size) if len(digest) == GIT else None
        self._file = self._notes = -1

    @property
    def prefix(self) -> int:
        """How many bytes from the beginning on are there."""
        return self.there[0][1] if self.there and self.there[0][0] == 0 else 0

    @property
    def present(self) -> int:
        """How many bytes are there."""
        return sum(end - start for start, end in self.there)

    def gaps(self) -> list[tuple[int, int]]:
        """What is not there."""
        edges = [0, *(edge for span in self.there for edge in span), self.size]
        return [(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if start < end]

    def open(self, read: Callable[[int], object]) -> None:
        """Open for writing, with what is there from before and whole; `read` is told how many bytes were read for it."""
        if not self.path.exists() or self.path.stat().st_size > self.size:
            self.discard()
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._notes = os.open(self.list, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        noted = os.pread(self._notes, os.fstat(self._notes).st_size, 0)
        whole = len(noted) // NOTE.size * NOTE.size
        os.ftruncate(self._notes, whole)
        at = 0
        for start, length, crc in sorted(NOTE.iter_unpack(noted[:whole])):
            if start < at or not 0 < length <= LARGEST_PIECE or start + length > self.size:
                continue
            content = os.pread(self._file, length, start)
            read(length)
            if zlib.crc32(content) == crc and len(content) == length:
                at = start + length
                self._add(start, at)
                if self.hashed == start:
                    self._hash(content)

    def write(self, at: int, data: bytes) -> None:
        while data:
            written = os.pwrite(self._file, data, at)
            at, data = at + written, data[written:]

    def note(self, start: int, end: int, crc: int) -> None:
        """Note down that a piece is there."""
        if end > start:
            os.write(self._notes, NOTE.pack(start, end - start, crc))
            self._add(start, end)

    def forget_behind(self, end: int) -> None:
        """Let go of what is there behind `end`, as it comes again."""
        self.there = [(start, min(stop, end)) for start, stop in self.there if start < end]

    def hash_on(self, limit: int = 16 << 20) -> int:
        """Hash what has come at the end of the beginning, at most `limit` bytes; how many it was."""
        count = min(self.prefix - self.hashed, limit)
        for _start in range(0, count, READ):
            self._hash(os.pread(self._file, min(READ, self.prefix - self.hashed), self.hashed))
        return count

    @property
    def is_read(self) -> bool:
        """Whether all has come and is hashed."""
        return self.hashed == self.size

    def finish(self) -> str:
        """Give the file its name, if its content is the right one; its SHA-256. Raises SourceError."""
        found = self.sha256.hexdigest()
        if self.digest and self.digest != (self._git.hexdigest() if self._git else found):
            self.close()
            self.discard()
            raise damaged(self.name)
        os.fdatasync(self._file)
        self.close()
        self.path.replace(self.target)
        files.sync_folder(self.target.parent)
        self.list.unlink(missing_ok=True)
        return found

    def close(self) -> None:
        for handle in (self._file, self._notes):
            with contextlib.suppress(OSError):
                os.close(handle)
        self._file = self._notes = -1

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.list.unlink(missing_ok=True)

    def _hash(self, content: bytes) -> None:
        self.sha256.update(content)
        if self._git:
            self._git.update(content)
        self.hashed += len(content)

    def _add(self, start: int, end: int) -> None:
        joined = []
        for other in self.there:
            if other[1] < start or other[0] > end:
                joined.append(other)
            else:
                start, end = min(start, other[0]), max(end, other[1])
        self.there = sorted([*joined, (start, end)])


def forget_list(folder: Path, name: str) -> None:
    """Remove the list of a file that has its name already: a process may have been killed between the one and the other."""
    (folder / f"{name}.pieces").unlink(missing_ok=True)


def waiting_bytes(folder: Path, name: str) -> int:
    """How many bytes of a file's disk space an unfinished download takes already."""
    with contextlib.suppress(OSError):
        return (folder / f"{name}.incomplete").stat().st_blocks * 512
    return 0
