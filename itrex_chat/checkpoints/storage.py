"""Tensors in files, read a few rows at a time.

Each kind of file gives the shapes of its tensors and fresh copies of their
rows. Files are opened anew for each read, so that mapped pages leave the
process again and reading a model of any size takes the memory of one slab.
Where the values lie in the file as they are in memory, it says where.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from itrex_chat.checkpoints import gguf_blocks, pickles
from itrex_chat.checkpoints.integers import Integers, Packed, finite_scales
from itrex_chat.checkpoints.places import FLOATS, Place, damaged, float_dtype, refuse_scalar, refuse_twice, stored_as
from itrex_chat.foundation import files
from itrex_chat.foundation.errors import CheckpointError
from itrex_chat.foundation.language import _
from itrex_chat.sources.gguf_header import TensorPlace, read_header

GGUF_FLOATS = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}  # by ggml type
LARGEST_HEADER = 8 << 20  # bytes of a safetensors file; a tensor takes a hundred
SAFETENSORS_FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Storage(Protocol):
    """`shapes` by tensor name; `dtype` that `rows` [start, stop) of the first dimension have; `stored`, the one that the
    file has them in, which is another where a GGUF file has 16 bits; `place`, None where the values do not lie as they
    are in memory; `packed`, how a matrix of integers is stored, None for any other, whose `integers` can be had as they
    are; `idle`, whether a tensor that the architecture does not have changes nothing."""

    shapes: dict[str, tuple[int, ...]]

    def dtype(self, name: str) -> torch.dtype: ...

    def stored(self, name: str) -> torch.dtype: ...

    def place(self, name: str) -> Place | None: ...

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor: ...

    def packed(self, name: str) -> Packed | None: ...

    def integers(self, name: str, start: int, stop: int) -> Integers: ...

    def idle(self, name: str) -> bool: ...

    def description(self) -> str: ...


class _Floats:
    """Files without integers."""

    def packed(self, name: str) -> Packed | None:
        return None

    def integers(self, name: str, start: int, stop: int) -> Integers:
        raise ValueError(f"{name} is not stored as integers")

    def idle(self, name: str) -> bool:
        return False


class SafetensorsFiles(_Floats):
    """Tensors in one or several safetensors files."""

    def __init__(self, paths: tuple[Path, ...]):
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._homes: dict[str, Path] = {}
        self._dtypes: dict[str, torch.dtype | str] = {}
        self._offsets: dict[str, int] = {}
        for path in paths:
            try:
                _refuse_large_header(path)
                with files.reached(path) as reached, safe_open(reached, "pt") as file:
                    for name in file.keys():  # noqa: SIM118  a safe_open has keys but is not iterable
                        refuse_twice(name, path, self._homes)
                        part = file.get_slice(name)
                        self.shapes[name], self._homes[name] = tuple(part.get_shape()), path
                        refuse_scalar(name, path, self.shapes[name])
                        self._dtypes[name] = SAFETENSORS_FLOATS.get(part.get_dtype(), part.get_dtype())
                self._offsets |= _safetensors_offsets(path)
            except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
                raise damaged(path, error) from None

    def dtype(self, name: str) -> torch.dtype:
        return float_dtype(self._dtypes[name], name, self._homes[name])

    stored = dtype

    def place(self, name: str) -> Place | None:
        return Place(self._homes[name], self._offsets[name], self.dtype(name), self.shapes[name])

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        self.dtype(name)
        try:
            with files.reached(self._homes[name]) as reached, safe_open(reached, "pt") as file:
                return file.get_slice(name)[start:stop].clone()
        except (SafetensorError, OSError) as error:
            raise damaged(self._homes[name], error) from None

    def block(self, name: str, rows: slice, columns: slice) -> torch.Tensor:
        """A part of a matrix of int32."""
        return self._read(name, (torch.int32,), lambda part: part[rows, columns])

    def floats(self, name: str, rows: slice, columns: slice) -> torch.Tensor:
        """A part of a matrix of floats."""
        return self._read(name, FLOATS, lambda part: part[rows, columns])

    def whole(self, name: str, dtypes: tuple[torch.dtype, ...]) -> torch.Tensor:
        """All of a small tensor of one of these types."""
        return self._read(name, dtypes, lambda part: part[:])

    def _read(self, name: str, dtypes: tuple[torch.dtype, ...], part: Callable[[Any], torch.Tensor]) -> torch.Tensor:
        path = self._homes[name]
        try:
            with files.reached(path) as reached, safe_open(reached, "pt") as file:
                found = part(file.get_slice(name)).clone()
        except (SafetensorError, OSError) as error:
            raise damaged(path, error) from None
        if found.dtype not in dtypes:
            raise CheckpointError(
                _(
                    "{path}: the tensor {name} is stored as {dtype}, which its part of a quantized module cannot be.",
                    path=path,
                    name=name,
                    dtype=str(found.dtype).removeprefix("torch."),
                )
            )
        return found

    def home(self, name: str) -> Path | None:
        """The file that holds a tensor, if it says that it is of PyTorch, as other readers want it."""
        with files.reached(self._homes[name]) as reached, safe_open(reached, "pt") as file:
            return self._homes[name] if (file.metadata() or {}).get("format") == "pt" else None

    def description(self) -> str:
        return stored_as(self._dtypes.values())


class PickleFiles(_Floats):
    """Tensors in one or several `.bin` files; their pickles are read as tables of contents (`pickles.py`)."""

    def __init__(self, paths: tuple[Path, ...]):
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._homes: dict[str, Path] = {}
        self._places: dict[str, pickles.Strided] = {}
        for path in paths:
            for name, place in _places(path).items():
                refuse_twice(name, path, self._homes)
                refuse_scalar(name, path, place.shape)
                self.shapes[name], self._homes[name], self._places[name] = place.shape, path, place

    def dtype(self, name: str) -> torch.dtype:
        return float_dtype(self._places[name].dtype, name, self._homes[name])

    stored = dtype

    def place(self, name: str) -> Place | None:
        found = self._places[name]
        return Place(self._homes[name], found.offset, self.dtype(name), found.shape) if found.contiguous() else None

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        self.dtype(name)
        try:
            return self._places[name].rows(self._homes[name], start, stop)
        except (OSError, EOFError) as error:
            raise damaged(self._homes[name], error) from None

    def description(self) -> str:
        return stored_as(place.dtype for place in self._places.values())


class GgufFiles(_Floats):
    """Tensors in one GGUF file or all parts of a split one, dequantized to float32 by the gguf package; Q4_0, Q4_1 and Q8_0
    can be had as integers."""

    def __init__(self, paths: tuple[Path, ...]):
        self.metadata: dict[str, Any] = {}
        self._places: dict[str, TensorPlace] = {}
        self._homes: dict[str, Path] = {}
        for path in paths:
            metadata, places = read_header(path)
            self.metadata = metadata | self.metadata  # the first part of a split file has it all
            for name, place in places.items():
                refuse_twice(name, path, self._homes)
                self._places[name], self._homes[name] = place, path
        self.shapes = {name: place.shape for name, place in self._places.items()}

    def dtype(self, name: str) -> torch.dtype:
        return torch.float32

    def stored(self, name: str) -> torch.dtype:
        """float32 also for what was quantized."""
        return GGUF_FLOATS.get(self._places[name].kind, torch.float32)

    def place(self, name: str) -> Place | None:
        found = self._places[name]
        dtype = GGUF_FLOATS.get(found.kind)
        return Place(self._homes[name], found.offset, dtype, found.shape) if dtype else None

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """A row of a matrix has whole blocks; a vector is one row of them, whose parts may begin and end within a block."""
        import gguf

        place, path = self._places[name], self._homes[name]
        kind = gguf.GGMLQuantizationType(place.kind)
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        width = math.prod(place.shape[1:])
        first, last = start * width // block, -(-stop * width // block)
        raw = self._raw(name, first * block_bytes, last * block_bytes)
        try:
            values = gguf.dequantize(raw.reshape(stop - start if len(place.shape) > 1 else 1, -1), kind)
        except NotImplementedError:
            raise CheckpointError(
                _(
                    "{path}: the tensor {name} has the type {kind}, which the gguf package cannot dequantize.",
                    path=path,
                    name=name,
                    kind=kind.name,
                )
            ) from None
        wanted = values.reshape(-1)[start * width - first * block :][: (stop - start) * width]
        return torch.from_numpy(np.array(wanted, np.float32)).reshape(stop - start, *place.shape[1:])

    def packed(self, name: str) -> Packed | None:
        kind, shape = gguf_blocks.KINDS.get(self._places[name].kind), self.shapes[name]
        return kind.packed if kind and len(shape) == 2 else None

    def integers(self, name: str, start: int, stop: int) -> Integers:
        kind, row = gguf_blocks.KINDS[self._places[name].kind], self.shapes[name][1] // gguf_blocks.BLOCK
        found = kind.integers(self._raw(name, start * row * kind.nbytes, stop * row * kind.nbytes), stop - start)
        finite_scales(found.scales, name)
        return found

    def _raw(self, name: str, start: int, stop: int) -> np.ndarray:
        """The bytes [start, stop) of a tensor."""
        path = self._homes[name]
        try:
            raw = np.fromfile(path, np.uint8, stop - start, offset=self._places[name].offset + start)
        except OSError as error:
            raise damaged(path, error) from None
        if len(raw) < stop - start:
            raise damaged(path, EOFError(f"the tensor {name} ends behind the end of the file"))
        return raw

    def description(self) -> str:
        """The commonest storage type of the matrices, such as "GGUF Q4_K"."""
        import gguf

        kinds = [place.kind for place in self._places.values() if len(place.shape) > 1]
        return "GGUF " + gguf.GGMLQuantizationType(max(set(kinds), key=kinds.count)).name if kinds else "GGUF"


def open_storage(format: str, paths: tuple[Path, ...]) -> Storage:
    kinds: dict[str, Callable[[tuple[Path, ...]], Storage]] = {
        "safetensors": SafetensorsFiles,
        "bin": PickleFiles,
        "gguf": GgufFiles,
    }
    return kinds[format](paths)


def _safetensors_offsets(path: Path) -> dict[str, int]:
    """Where each tensor begins, in bytes from the file's start. The file has a header, which was read before."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return {name: 8 + length + told["data_offsets"][0] for name, told in header.items() if name != "__metadata__"}


def _places(path: Path) -> dict[str, pickles.Strided]:
    try:
        return pickles.places(path)
    except pickles.MoreThanTensors:
        raise CheckpointError(
            _(
                "{path} holds more than tensors and is not loaded: a pickle can run code. "
                "Use a checkpoint in safetensors.",
                path=path,
            )
        ) from None
    except pickles.NoTensorsByName:
        raise CheckpointError(_("{path} is not a checkpoint: it must hold tensors by name.", path=path)) from None
    except pickles.Compressed:
        raise CheckpointError(
            _(
                "{path} is compressed, as PyTorch compresses nothing; it is not loaded. Use a checkpoint in safetensors.",
                path=path,
            )
        ) from None
    except pickles.DAMAGED as error:
        raise damaged(path, error) from None


def _refuse_large_header(path: Path) -> None:
    """The library reads headers of up to 100 MB, which take half a minute and 1.5 GB."""
    with path.open("rb") as file:
        if int.from_bytes(file.read(8), "little") > LARGEST_HEADER:
            raise damaged(path, ValueError("its table of contents is too large"))
