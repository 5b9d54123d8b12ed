"""Which values of mapped files are finite numbers: all of them are looked at once, and again where a file has changed."""

from pathlib import Path

import torch

from itrex_chat import native
from itrex_chat.foundation.memo import Memo
from itrex_chat.native.mapping import Mapping

FILE = "finite.json"  # in the cache

Ranges = list[tuple[int, int]]  # bytes [first, end) of a file, in order, which do not touch


class Finite:
    """What was found of the files in `mapping`; it is kept in `file`, or for nobody."""

    def __init__(self, mapping: Mapping, file: Path | None) -> None:
        self._mapping, self._memo = mapping, Memo(file) if file else None
        self._known: dict[Path, Ranges] = {}
        self._new: set[Path] = set()

    def bring(self, path: Path, offset: int, tensors: tuple[torch.Tensor, ...]) -> int | None:
        """Bring into memory what lies at `offset` bytes of a file, tensors one behind the other; the number of the first
        that has a value that is no finite number, where one has."""
        end = offset + sum(tensor.nbytes for tensor in tensors)
        if any(first <= offset and end <= last for first, last in self._ranges(path)):
            for tensor in tensors:
                native.bring(tensor)
            return None
        for number, tensor in enumerate(tensors):
            if not native.finite(tensor):
                return number
        self._known[path] = _joined([*self._known[path], (offset, end)])
        self._new.add(path)
        return None

    def keep(self) -> None:
        """Remember what was found; the files have to be as they were when they were mapped."""
        if self._memo and self._new:
            self._memo.remember({path: (self._mapping.stamp(path), self._known[path]) for path in self._new})

    def _ranges(self, path: Path) -> Ranges:
        if path not in self._known:
            found = self._memo.known({path: self._mapping.stamp(path)}) if self._memo else {}
            self._known[path] = _checked(found.get(path, []))
        return self._known[path]


def _checked(found: object) -> Ranges:
    """What a memo has, or nothing where that is no list of ranges."""
    try:
        return _joined([(first + 0, end + 0) for first, end in found])  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return []


def _joined(ranges: Ranges) -> Ranges:
    joined: Ranges = []
    for first, end in sorted(ranges):
        if joined and first <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((first, end))
    return joined
