"""Tensors in `.bin` files: pickles, of which nothing but tensors is loaded."""

import mmap
import pickle
import re
import struct
import warnings
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch

from itrex_chat.checkpoints.places import Place, damaged, float_dtype, refuse_scalar, refuse_twice, stored_as
from itrex_chat.foundation.errors import CheckpointError
from itrex_chat.foundation.language import _


class PickleFiles:
    """Tensors in one or several `.bin` files, unpickled with `weights_only` and nothing else."""

    def __init__(self, paths: tuple[Path, ...]):
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._homes: dict[str, Path] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self._offsets: dict[str, int] = {}
        for path in paths:
            tensors = _unpickle(path)
            start = _start_of_mapping(path, tensors)
            for name, tensor in tensors.items():
                refuse_twice(name, path, self._homes)
                refuse_scalar(name, path, tuple(tensor.shape))
                self.shapes[name], self._homes[name], self._dtypes[name] = tuple(tensor.shape), path, tensor.dtype
                if start is not None and tensor.is_contiguous():
                    self._offsets[name] = tensor.data_ptr() - start

    def dtype(self, name: str) -> torch.dtype:
        return float_dtype(self._dtypes[name], name, self._homes[name])

    stored = dtype

    def place(self, name: str) -> Place | None:
        if name not in self._offsets:
            return None
        return Place(self._homes[name], self._offsets[name], self.dtype(name), self.shapes[name])

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        self.dtype(name)
        return _unpickle(self._homes[name])[name][start:stop].clone(memory_format=torch.contiguous_format)

    def description(self) -> str:
        return stored_as(self._dtypes.values())


def _unpickle(path: Path) -> dict[str, torch.Tensor]:
    try:
        with warnings.catch_warnings(action="ignore"):
            # not mapped: the format before torch 1.6, which is no zip archive, and what somebody has compressed
            kinds = {record.compress_type for record in _records(path)}
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=kinds == {zipfile.ZIP_STORED})
    except pickle.UnpicklingError:
        raise CheckpointError(
            _(
                "{path} holds more than tensors and is not loaded: a pickle can run code. "
                "Use a checkpoint in safetensors.",
                path=path,
            )
        ) from None
    except (
        RuntimeError,
        OSError,
        EOFError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        AssertionError,
        RecursionError,
    ) as error:
        raise damaged(path, error) from None
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and _plain(value) for name, value in content.items()
    ):
        raise CheckpointError(_("{path} is not a checkpoint: it must hold tensors by name.", path=path))
    return content


def _records(path: Path) -> list[zipfile.ZipInfo]:
    """What a `.bin` holds; nothing where it is no archive."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            file.seek(0)
            return archive.infolist() if file.read(4) == b"PK\3\4" else []
    except zipfile.BadZipFile:
        return []


def _start_of_mapping(path: Path, tensors: dict[str, torch.Tensor]) -> int | None:
    """The address at which torch has mapped the file that these tensors lie in, for their offsets in it; None where it
    did not map it, or something else is odd.

    torch does not tell the offsets, but the archive does: there is one record of values for each memory of a tensor, in
    the same order, and all are as far from each other here as there.
    """
    places = []
    try:
        with path.open("rb") as file:
            for record in _records(path):
                name = record.filename.partition("/")[2]
                if name == "byteorder" and _read(file, record) != b"little":
                    return None
                if re.fullmatch(r"data/\d+", name) and record.file_size:
                    places.append(_content(file, record))
    except (OSError, struct.error):
        return None
    memories = sorted({tensor.untyped_storage().data_ptr() for tensor in tensors.values() if tensor.numel()})
    starts = {memory - place for memory, place in zip(memories, sorted(places))}
    if len(starts) != 1 or len(memories) != len(places):
        return None
    [start] = starts
    return start if start % mmap.ALLOCATIONGRANULARITY == 0 else None


def _content(file: BinaryIO, record: zipfile.ZipInfo) -> int:
    """The offset of a record's content: behind its header, its name and what may follow that."""
    file.seek(record.header_offset + 26)
    name, extra = struct.unpack("<HH", file.read(4))
    return record.header_offset + 30 + name + extra


def _read(file: BinaryIO, record: zipfile.ZipInfo) -> bytes:
    file.seek(_content(file, record))
    return file.read(min(record.file_size, 16))


def _plain(value: object) -> bool:
    """Whether it is a tensor whose values lie in memory row by row."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and not value.is_nested
    )
