"""Weights read where they lie: files mapped into memory, whose pages are the system's to keep and to take back.

What is mapped is what the file holds at the time. `check` says whether that is still what was mapped: a file that has
become shorter or whose disk fails reads as zeros (`mapped.c`), one that was written to has another time. A file that was
removed or replaced by another of its name is kept by the mapping.
"""

import ctypes
import os
import weakref
from math import prod
from pathlib import Path

import torch

from itrex_chat import native
from itrex_chat.foundation.errors import CheckpointError
from itrex_chat.foundation.language import _
from itrex_chat.foundation.memo import stamp_of


class Mapping:
    """The files of a model, each mapped when it is first asked for, for as long as a tensor in it lives; `nbytes` of them
    were asked for."""

    def __init__(self) -> None:
        self._files: dict[Path, _File | None] = {}
        self.nbytes = 0

    def tensor(self, path: Path, offset: int, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor | None:
        """The values at `offset` bytes of a file, never to be written to; None where the file cannot be mapped, or they
        do not lie at a multiple of their size."""
        if path not in self._files:
            self._files[path] = _mapped(path)
        file, size = self._files[path], prod(shape) * dtype.itemsize
        if file is None or offset % dtype.itemsize or not 0 < size <= file.size - offset:
            return None
        self.nbytes += size
        return torch.frombuffer(file.memory, dtype=dtype, count=prod(shape), offset=offset).view(shape)

    def stamp(self, path: Path) -> list[int]:
        """The stamp that a mapped file had when it was mapped, as a memo wants it (`foundation/memo.py`)."""
        file = self._files[path]
        assert file is not None
        return stamp_of(file.found)

    def check(self) -> None:
        """Raise CheckpointError where a file is not what it was when it was mapped."""
        for path, file in self._files.items():
            if file and file.changed():
                raise file_changed(path)


class _File:
    """An open file and the memory that it is mapped to."""

    def __init__(self, library: ctypes.CDLL, descriptor: int, found: os.stat_result, number: int, address: int):
        self._library, self._descriptor, self._number, self.found = library, descriptor, number, found
        self.size = found.st_size
        self.memory = (ctypes.c_char * found.st_size).from_address(address)  # tensors keep it
        weakref.finalize(
            self.memory, _let_go, library, number, descriptor
        ).atexit = False  # threads may still read then

    def changed(self) -> bool:
        return self._library.itrex_lost(self._number) or stamp(os.fstat(self._descriptor)) != stamp(self.found)


def _mapped(path: Path) -> _File | None:
    """The file, mapped; None where it, or anything, cannot be."""
    if native.missing():
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return None
    library, found, address = native.library(), os.fstat(descriptor), ctypes.c_void_p()
    number = library.itrex_map(descriptor, found.st_size, ctypes.byref(address))
    if number < 0 or address.value is None:
        os.close(descriptor)
        return None
    return _File(library, descriptor, found, number, address.value)


def _let_go(library: ctypes.CDLL, number: int, descriptor: int) -> None:
    library.itrex_unmap(number)
    os.close(descriptor)


def stamp(found: os.stat_result) -> tuple[int, int]:
    """What is another one when a file was written to."""
    return found.st_size, found.st_mtime_ns


def file_changed(path: Path) -> CheckpointError:
    """What is raised for a file that is not what it was when it was opened."""
    return CheckpointError(
        _("{path} was changed while the model was read from it; let it be whole and start again.", path=path)
    )
