"""Memory for weights and caches, in large pages where the system has them: reading a matrix crosses 500 times fewer of them."""

import contextlib
import mmap
import threading

import torch

CHUNK = 64 << 20  # bytes asked of the system at a time
PAGE = 2 << 20
ALIGNMENT = 4096


class _Arena:
    """Hands out pieces of chunks, each once, so that they are zeros; a chunk lives as long as a tensor in it."""

    def __init__(self) -> None:
        self._lock, self._at = threading.Lock(), 0
        self._chunk: torch.Tensor | None = None

    def take(self, size: int) -> torch.Tensor:
        with self._lock:
            if self._chunk is None or self._at + size > len(self._chunk):
                self._chunk, self._at = _chunk(max(size, CHUNK)), 0
            piece = self._chunk[self._at : self._at + size]
            self._at += -(-size // ALIGNMENT) * ALIGNMENT
            return piece


_ARENA = _Arena()


def zeros(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """A tensor of zeros, aligned to 4096 bytes; untouched parts take no memory."""
    count = torch.Size(shape).numel()
    size = count * dtype.itemsize
    return _ARENA.take(size).view(dtype).view(shape) if size else torch.zeros(shape, dtype=dtype)


def alone(count: int) -> torch.Tensor:
    """float32 [count] of zeros in memory of its own, which is given back with the tensor: for what soon goes again."""
    return _chunk(4 * count)[: 4 * count].view(torch.float32)


def _chunk(size: int) -> torch.Tensor:
    """uint8 [size or more], beginning at a large page."""
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    memory = mmap.mmap(-1, (-(-size // PAGE) + 1) * PAGE, **private)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # the system has none
            memory.madvise(mmap.MADV_HUGEPAGE)
    chunk = torch.frombuffer(memory, dtype=torch.uint8)
    return chunk[-chunk.data_ptr() % PAGE :]
