"""The header of a GGUF file: metadata and table of tensors.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2
and 3, little-endian. Our own reader because the gguf package's takes ten
seconds and 500 MB for a vocabulary of 150,000 tokens, and transformers' does
not know all block types; this one takes half a second.
"""

import mmap
import struct
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itrex_chat.foundation.errors import CheckpointError
from itrex_chat.foundation.language import _

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9
DEEPEST_ARRAY = 4
LARGEST_HEADER = 32 << 20  # bytes; the largest vocabularies with their merges take 20 million


@dataclass(frozen=True)
class TensorPlace:
    """A tensor in the file: shape in row-major order, ggml type, offset and length in bytes."""

    shape: tuple[int, ...]
    kind: int
    offset: int
    length: int


def read_header(path: Path, strings: Container[str] = ()) -> tuple[dict, dict[str, TensorPlace]]:
    """Metadata and tensors of a GGUF file.

    Arrays of strings are given as their length, but for the keys in `strings`.
    Raises CheckpointError for anything that is not a whole GGUF file.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _Reader(content).header(strings)
    except CheckpointError:
        raise
    except (
        struct.error,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        OverflowError,
        MemoryError,
        RecursionError,
        OSError,
    ) as error:
        reason = " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__
        raise CheckpointError(
            _("{path} is damaged or truncated ({reason}); download it again.", path=path, reason=reason)
        ) from None


class _Reader:
    def __init__(self, content: mmap.mmap):
        self.content, self.at = content, 0

    def header(self, strings: Container[str]) -> tuple[dict, dict[str, TensorPlace]]:
        magic, version, tensor_count, metadata_count = self._unpack("<4sIQQ")
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError("not GGUF version 2 or 3")
        metadata: dict[str, Any] = {}
        for _number in range(metadata_count):
            key, (kind,) = self._string(), self._unpack("<I")
            metadata[key] = self._value(kind, key in strings)
        entries = [self._tensor() for _number in range(tensor_count)]
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"general.alignment is {str(alignment)[:40]}")
        data = -(-self.at // alignment) * alignment
        tensors = {}
        for name, shape, kind, offset in entries:
            place = TensorPlace(shape, kind, data + offset, _length(name, shape, kind))
            if name in tensors:
                raise ValueError(f"the tensor {name} is there twice")
            if place.offset + place.length > len(self.content):
                raise ValueError(f"the tensor {name} ends behind the end of the file")
            tensors[name] = place
        if not isinstance(metadata.get("general.architecture"), str):
            raise ValueError("general.architecture is no text")
        return metadata, tensors

    def _unpack(self, form: str) -> tuple:
        return struct.unpack_from(form, self.content, self._passed(struct.calcsize(form)))

    def _bytes(self, length: int) -> bytes:
        start = self._passed(length)
        return self.content[start : self.at]

    def _passed(self, length: int) -> int:
        """Where the next bytes begin, which are passed with this."""
        start, self.at = self.at, self.at + length
        if self.at > len(self.content):
            raise ValueError("a text ends behind the end of the file")
        if self.at > LARGEST_HEADER:
            raise ValueError("its table of contents is too large")
        return start

    def _string(self) -> str:
        return self._bytes(*self._unpack("<Q")).decode("utf-8", "replace")

    def _value(self, kind: int, keep_strings: bool, depth: int = 0) -> Any:
        if kind in SCALARS:
            return self._unpack(SCALARS[kind])[0]
        if kind == STRING:
            return self._string()
        if kind != ARRAY or depth == DEEPEST_ARRAY:
            raise ValueError(f"metadata of type {kind}")
        element, count = self._unpack("<IQ")
        if element in SCALARS:
            width = struct.calcsize(SCALARS[element])
            return list(struct.unpack(f"<{count}{SCALARS[element][1]}", self._bytes(count * width)))
        if element == STRING and not keep_strings:
            for _number in range(count):
                self._bytes(*self._unpack("<Q"))
            return count
        return [self._value(element, keep_strings, depth + 1) for _number in range(count)]

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name, (dimensions,) = self._string(), self._unpack("<I")
        if dimensions > 4:
            raise ValueError(f"the tensor {name} has {dimensions} dimensions")
        shape = tuple(reversed(self._unpack(f"<{dimensions}Q")))
        return name, shape, *self._unpack("<IQ")


def _length(name: str, shape: tuple[int, ...], kind: int) -> int:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    count = 1
    for length in shape:
        count *= length
    if not shape or not count or shape[-1] % block:
        raise ValueError(f"the rows of the tensor {name} are not whole blocks")
    return count // block * block_bytes
