"""Weights that are not in memory: read from their files, pass after pass, ahead of the products that need them.

`native/stream.c` reads. It goes around the system's cache of pages, in which what is read again and again, and is larger
than it, would push out itself and everything else; where a file system cannot do that, the cache is told to forget.
"""

import ctypes
import mmap
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from itrex_chat import native
from itrex_chat.foundation.errors import CheckpointError
from itrex_chat.native import large_pages
from itrex_chat.native.mapping import file_changed, stamp

PAGE = 4096  # bytes: what places in files and memory have to be multiples of, to be read directly
FORMATS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class Told:
    """What a stream has read: bytes, and the seconds in which something was being read."""

    bytes: int
    seconds: float

    @property
    def rate(self) -> float:
        """Bytes per second; 0 where nothing was read."""
        return self.bytes / self.seconds if self.seconds else 0.0


class Stream:
    """The pieces of a cycle, in the order in which a pass needs them. They are added, then it starts."""

    def __init__(self, ring: int) -> None:
        """`ring`: bytes of memory that the pieces share, room for at least two of them."""
        self._memory = large_pages.alone((-(-ring // PAGE) + 2) * PAGE // 4).view(torch.uint8)
        self._memory.zero_()  # so that the first reading is as fast as all others
        self._pieces: list[Any] = []
        self._odd: list[CheckpointError] = []
        self._files: dict[Path, _File] = {}
        self._at = 0
        self._handle: int | None = None
        self.nbytes = 0  # of the pieces

    def add(
        self, path: Path, offset: int, dtype: torch.dtype, shape: tuple[int, ...], odd: CheckpointError
    ) -> tuple[torch.Tensor, "Piece"]:
        """The next piece: the values at `offset` bytes of a file, and where they will be while the piece is `at_hand`.
        `odd` is raised by `check` where one of them turns out to be no finite number. Raises OSError where the file cannot
        be read."""
        if path not in self._files:
            self._files[path] = _File(path)
        file, count = self._files[path], torch.Size(shape).numel()
        begin, size = offset % PAGE, count * dtype.itemsize
        whole = -(-(begin + size) // PAGE) * PAGE
        if self._at + whole > len(self._memory):
            self._at = 0
        place = self._memory[self._at : self._at + whole]
        if len(place) < whole:
            raise ValueError("a piece is larger than the ring")
        self._pieces.append(
            native.Piece(
                file=file.descriptor,
                format=native.FORMATS[FORMATS[dtype]],
                direct=file.direct,
                start=offset - begin,
                bytes=whole,
                begin=begin,
                count=count,
                to=place.data_ptr(),
            )
        )
        self._odd.append(odd)
        self._at += whole
        self.nbytes += size
        return place[begin : begin + size].view(dtype).view(shape), Piece(self, len(self._pieces) - 1)

    def start(self) -> None:
        """Begin to read. Raises MemoryError where there is none for it."""
        count, lib = len(self._pieces), native.library()
        for number, piece in enumerate(self._pieces):
            piece.back = next(back for back in range(1, count + 1) if _overlap(piece, self._pieces[number - back]))
        self._handle = lib.itrex_stream((native.Piece * count)(*self._pieces), count)
        if not self._handle:
            raise MemoryError
        weakref.finalize(self, lib.itrex_stream_end, self._handle)

    @property
    def handle(self) -> int:
        """What the kernels know it by."""
        assert self._handle is not None
        return self._handle

    def told(self) -> Told:
        told = self._told()
        return Told(told[0], told[1] / 1e9)

    def check(self) -> None:
        """Raise CheckpointError where a file is not what it was when it was opened, or could not be read, or where a value
        that was read is no finite number."""
        _bytes, _ns, failed, odd = self._told()
        for path, file in self._files.items():
            if failed or file.changed():
                raise file_changed(path)
        if odd:
            raise self._odd[odd - 1]

    def _told(self) -> tuple[int, ...]:
        told = (ctypes.c_int64 * 4)()
        native.library().itrex_stream_told(self.handle, told)
        return tuple(told)


@dataclass(frozen=True)
class Piece:
    """One of a stream's pieces."""

    stream: Stream
    number: int

    @contextmanager
    def at_hand(self) -> Iterator[None]:
        """Wait until it is in memory, and keep it there for so long."""
        lib = native.library()
        lib.itrex_enter(self.stream.handle, self.number)
        try:
            yield
        finally:
            lib.itrex_leave(self.stream.handle, self.number, 1)


class _File:
    """A file open for reading, `direct` where the system's cache of pages can be gone around."""

    def __init__(self, path: Path) -> None:
        self.descriptor, self.direct = _opened(path)
        self._stamp = stamp(os.fstat(self.descriptor))
        weakref.finalize(self, os.close, self.descriptor)

    def changed(self) -> bool:
        return stamp(os.fstat(self.descriptor)) != self._stamp


def _opened(path: Path) -> tuple[int, bool]:
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)
    if hasattr(os, "O_DIRECT"):
        descriptor = None
        try:
            descriptor = os.open(path, flags | os.O_DIRECT)
            os.preadv(descriptor, [mmap.mmap(-1, PAGE)], 0)  # some systems refuse only that
            return descriptor, True
        except OSError:
            if descriptor is not None:
                os.close(descriptor)
    return os.open(path, flags), False


def _overlap(one: Any, other: Any) -> bool:
    return one.to < other.to + other.bytes and other.to < one.to + one.bytes
