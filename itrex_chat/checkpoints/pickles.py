"""Where the tensors of a PyTorch `.bin` file are, found without loading it.

The file is a zip archive with a pickle `data.pkl` and an entry for each
storage, or, before torch 1.6, some pickles and then the storages
(torch/serialization.py). torch.load inflates what is compressed and calls what
it holds to be harmless, such as bytearray(3_000_000_000). So the pickle is
read here, with no more than the operations that dicts of tensors take, and
tells no more than which bytes of the file a tensor has.
"""

import math
import pickletools
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

LARGEST_PICKLE = 4 << 20  # bytes; that of a model has 200 for each tensor
MOST_DIMENSIONS = 8
LARGEST_DIRECTORY = 8 << 20  # bytes of a zip archive's table of contents
MOST_SHARING = 2  # bytes of tensors for each of the file: a head may be the embedding
MAGIC = 0x1950A86A20F9469CFC6C  # begins a file of before torch 1.6
STORAGES = {
    f"{name}Storage": dtype
    for name, dtype in {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}
# What reading a damaged file raises.
DAMAGED = (
    *(OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, OverflowError, NotImplementedError),
    *(struct.error, zipfile.BadZipFile),
)


class MoreThanTensors(ValueError):
    """The pickle names something else than tensors and dicts."""


class NoTensorsByName(ValueError):
    """The pickle is of something else than a dict of names and tensors."""


class Compressed(ValueError):
    """An entry of the archive is compressed."""


@dataclass(frozen=True)
class Strided:
    """A tensor in the file: its strides in elements, its first element at `offset` in bytes."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    def contiguous(self) -> bool:
        """Whether its elements lie one behind the other, the last dimension's first."""
        return all(
            length == 1 or stride == math.prod(self.shape[at + 1 :])
            for at, (length, stride) in enumerate(zip(self.shape, self.strides))
        )

    def rows(self, path: Path, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) of the first dimension, contiguous. Raises OSError, EOFError."""
        shape, size = (stop - start, *self.shape[1:]), self.dtype.itemsize
        first = self.offset + start * self.strides[0] * size
        length = _span(shape, self.strides) * size
        raw = np.fromfile(path, np.uint8, length, offset=first)
        if len(raw) < length:
            raise EOFError("it is shorter than it was")
        return torch.from_numpy(raw).view(self.dtype).as_strided(shape, self.strides).contiguous()


def places(path: Path) -> dict[str, Strided]:
    """The tensors of a file by name.

    Raises MoreThanTensors, NoTensorsByName, Compressed, or one of DAMAGED.
    """
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\3\4"
        stored, storages = _from_archive(file) if zipped else _from_before(file)
        if type(stored) is not dict or not all(type(each) is _Tensor for each in stored.values()):
            raise NoTensorsByName
        size = path.stat().st_size
        found = {name: tensor.place(storages, size) for name, tensor in stored.items()}
    if sum(math.prod(place.shape) * place.dtype.itemsize for place in found.values()) > MOST_SHARING * size:
        raise ValueError("its tensors have more bytes than it")
    return found


@dataclass(frozen=True)
class _Storage:
    """What a pickle says of a storage: `count` elements under a key."""

    dtype: torch.dtype
    key: str
    count: int


@dataclass(frozen=True)
class _Tensor:
    """What a pickle says of a tensor; first element and strides in elements of its storage."""

    storage: _Storage
    first: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def place(self, storages: Callable[[_Storage], int], size: int) -> Strided:
        """`storages` gives the offset of a storage in the file of `size` bytes. Raises ValueError where it cannot be."""
        numbers = (self.storage.count, self.first, *self.shape, *self.strides)
        if any(type(number) is not int or number < 0 for number in numbers):
            raise ValueError("a tensor's sizes are no sizes")
        if max(math.prod(self.shape), self.first + _span(self.shape, self.strides)) > self.storage.count:
            raise ValueError("a tensor has more elements than are stored")
        width = self.storage.dtype.itemsize
        offset = storages(self.storage)
        if offset + self.storage.count * width > size:
            raise ValueError("it ends before its tensors do")
        return Strided(self.storage.dtype, self.shape, self.strides, offset + self.first * width)


def _span(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Elements from a tensor's first to its last, both included."""
    return 1 + sum((length - 1) * stride for length, stride in zip(shape, strides)) if math.prod(shape) else 0


def _from_archive(file: IO[bytes]) -> tuple[Any, Callable[[_Storage], int]]:
    """What the pickle in a zip archive says, and where storages are."""
    with zipfile.ZipFile(_Bounded(file, LARGEST_DIRECTORY)) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
    [name] = (name for name in entries if name.endswith("/data.pkl") or name == "data.pkl")
    folder, end = name.removesuffix("data.pkl"), file.seek(0, 2)

    def offset(name: str, size: int) -> int:
        entry = entries[folder + name]
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise Compressed(name)
        if entry.file_size < size:
            raise ValueError(f"{name} is too short")
        file.seek(entry.header_offset)
        signature, name_length, extra_length = struct.unpack("<4s22xHH", file.read(30))
        if signature != b"PK\3\4":
            raise ValueError(f"{name} is not where it should be")
        begin = entry.header_offset + 30 + name_length + extra_length
        if begin + entry.file_size > end:
            raise ValueError(f"{name} ends behind its end")
        return begin

    if folder + "byteorder" in entries:
        file.seek(offset("byteorder", 0))
        if file.read(3) == b"big":
            raise ValueError("its bytes are in big-endian order")
    file.seek(offset("data.pkl", 0))
    content = _Unpickler(_Bounded(file, min(LARGEST_PICKLE, entries[name].file_size))).value()
    return content, lambda storage: offset(f"data/{storage.key}", storage.count * storage.dtype.itemsize)


def _from_before(file: IO[bytes]) -> tuple[Any, Callable[[_Storage], int]]:
    """The same of a file of before torch 1.6: pickles, the last of which lists the storages that follow."""
    file.seek(0)
    bounded = _Bounded(file, LARGEST_PICKLE)
    if _Unpickler(bounded).value() != MAGIC:
        raise MoreThanTensors("not PyTorch's")
    for _version_and_system in range(2):
        _Unpickler(bounded).value()
    unpickler = _Unpickler(bounded)
    content, keys = unpickler.value(), _Unpickler(bounded).value()
    offsets, at = {}, file.tell()
    for key in keys:
        storage = unpickler.storages[key]
        [count] = struct.unpack("<q", file.read(8))
        if count != storage.count:
            raise ValueError("a storage has another length than it says")
        offsets[key] = at + 8
        at = file.seek(at + 8 + count * storage.dtype.itemsize)
    return content, lambda storage: offsets[storage.key]


class _Bounded:
    """A file of which no more than so many bytes are read."""

    def __init__(self, file: IO[bytes], most: int):
        self._file, self._left = file, most
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if size > self._left:
            raise ValueError("its table of contents is too large")
        content = self._file.read(size if size >= 0 else self._left + 1)
        self._count(len(content))
        return content

    def readline(self) -> bytes:
        line = self._file.readline(self._left)
        self._count(len(line))
        return line

    def _count(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise ValueError("its table of contents is too large")


class _Unpickler:
    """Reads a pickle of protocol 2 that holds dicts by name, lists, tuples, plain values and tensors.

    It looks up nothing that the pickle names and calls none of it. `storages` are those that it names, by key.
    """

    def __init__(self, file: _Bounded):
        self._file, self.storages = file, dict[str, _Storage]()

    def value(self) -> Any:
        """Raises MoreThanTensors for every other operation."""
        stack: list[Any] = []
        marks: list[int] = []
        memo: dict[int, Any] = {}
        argument: Any
        for operation, argument, _at in pickletools.genops(self._file):  # type: ignore[arg-type]  # enough of a file
            match operation.name:
                case "PROTO":
                    pass
                case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINSTRING":
                    stack.append(argument)
                case "NONE" | "NEWTRUE" | "NEWFALSE":
                    stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[operation.name])
                case "EMPTY_DICT":
                    stack.append({})
                case "EMPTY_LIST":
                    stack.append([])
                case "EMPTY_TUPLE":
                    stack.append(())
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    start = len(stack) - int(operation.name[-1])
                    stack[start:] = [tuple(stack[start:])]
                case "MARK":
                    marks.append(len(stack))
                case "TUPLE" | "APPENDS" | "SETITEMS":
                    start = marks.pop()
                    items = tuple(stack[start:])
                    stack[start:] = [items] if operation.name == "TUPLE" else []
                    if operation.name == "APPENDS":
                        _extend(stack[-1], items)
                    elif operation.name == "SETITEMS":
                        _set(stack[-1], items)
                case "APPEND":
                    item = stack.pop()
                    _extend(stack[-1], (item,))
                case "SETITEM":
                    items = (stack.pop(-2), stack.pop())
                    _set(stack[-1], items)
                case "BINPUT" | "LONG_BINPUT":
                    memo[argument] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case "GLOBAL":
                    stack.append(_Named(argument))
                case "REDUCE":
                    arguments = stack.pop()
                    stack[-1] = _made(stack[-1], arguments)
                case "BUILD":  # the attributes of a dict
                    stack.pop()
                case "BINPERSID":
                    stack[-1] = self._storage(*stack[-1])
                case "STOP":
                    [value] = stack
                    return value
                case _:
                    raise MoreThanTensors(operation.name)
        raise EOFError

    def _storage(self, kind: str, named: "_Named", key: str, _device: str, count: int, view: None = None) -> _Storage:
        module, _space, name = named.name.partition(" ")
        if kind != "storage" or module not in ("torch", "torch.cuda") or name not in STORAGES:
            raise MoreThanTensors("a storage of another kind")
        if view is not None or type(key) is not str:
            raise ValueError("a storage within another")
        storage = _Storage(STORAGES[name], key, count)
        self.storages.setdefault(key, storage)
        return storage


@dataclass(frozen=True)
class _Named:
    """Something of a module: "torch FloatStorage"."""

    name: str


def _made(function: Any, arguments: Any) -> Any:
    """What the call that a pickle asks for stands for."""
    match function, arguments:
        case _Named("collections OrderedDict"), ():
            return {}
        case (
            _Named("torch._utils _rebuild_tensor" | "torch._utils _rebuild_tensor_v2"),
            (_Storage() as storage, int(first), tuple(shape), tuple(strides), *_rest),
        ) if len(shape) == len(strides) <= MOST_DIMENSIONS:
            return _Tensor(storage, first, shape, strides)
        case _Named("torch._utils _rebuild_parameter"), (_Tensor() as tensor, *_rest):
            return tensor
    raise MoreThanTensors("another call")


def _extend(target: Any, items: tuple) -> None:
    if type(target) is not list:
        raise MoreThanTensors("a list of another kind")
    target.extend(items)


def _set(target: Any, items: tuple) -> None:
    """Names alone: the hashes of other values could be made to collide."""
    if type(target) is not dict or not all(type(name) is str for name in items[::2]):
        raise NoTensorsByName
    target.update(zip(items[::2], items[1::2], strict=True))
