"""Safetensors and GGUF files taken apart and put together again, so that any part can say anything."""

import json
import struct
from dataclasses import dataclass
from random import Random
from typing import Any

from fuzzed.values import NUMBERS, TEXTS, as_json, damaged, mutated

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9


def odd_safetensors(content: bytes, random: Random) -> bytes:
    """A safetensors file whose header, or its length, or whose data is another's.

    Format: https://huggingface.co/docs/safetensors, "Format".
    """
    try:
        [length] = struct.unpack_from("<Q", content)
        header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    except (struct.error, ValueError, RecursionError):  # it is odd already
        return damaged(content, random)
    how = random.random()
    if how < 0.15 or not isinstance(header, dict) or not any(isinstance(entry, dict) for entry in header.values()):
        return damaged(content, random)
    if how < 0.35:
        return content[: 8 + length] + _odd_data(data, random)
    for _time in range(random.randint(1, 2)):
        _odd_entry(header, random, len(data))
    text = as_json(header, random, 0.05)
    said = len(text) if random.random() < 0.9 else random.choice((0, 1, len(text) - 1, len(text) * 2, 1 << 40, 1 << 63))
    return struct.pack("<Q", said) + text + data


def _odd_entry(header: dict, random: Random, size: int) -> None:
    name = random.choice([name for name in sorted(header) if isinstance(header[name], dict)])
    entry, how = header[name], random.randrange(9)
    if how == 0:
        del header[name]
    elif how == 1:
        header[random.choice((*TEXTS, "model.norm.bias", name + ".x"))] = header.pop(name)
    elif how == 2 and "dtype" in entry:
        entry["dtype"] = random.choice(
            ("F64", "I64", "U8", "BOOL", "F8_E4M3", "BF16", "F16", "F32", "C64", "", 5, "f32")
        )
    elif how == 3 and entry.get("shape"):
        entry["shape"] = random.choice(([], entry["shape"][::-1], [1, *entry["shape"]], [0], [-1], [1 << 40, 1 << 40]))
    elif how == 4 and entry.get("shape"):
        entry["shape"][random.randrange(len(entry["shape"]))] = random.choice(NUMBERS)
    elif how == 5 and "data_offsets" in entry:
        entry["data_offsets"][random.randrange(2)] = random.choice((0, size, size + 4, 1 << 62, -4, 2.5, "0", None))
    elif how == 6:
        header["__metadata__"] = random.choice(({}, {"format": random.choice(TEXTS)}, [], {"format": 5}, {"a": {}}))
    else:
        header[name] = mutated(entry, random, 2)


def _odd_data(data: bytes, random: Random) -> bytes:
    """Tensors' bytes: values that are huge, tiny or no numbers, or too few or too many of them."""
    if random.random() < 0.2:
        return damaged(data, random)
    some = bytearray(data)
    for _time in range(random.choice((1, 3, 200))):
        word = random.choice(
            (b"\0\0\x80\x7f", b"\0\0\xc0\x7f", b"\xff\xff\x7f\x7f", b"\0\x7c\0\x7c", b"\xff\xff\xff\xff")
        )
        at = random.randrange(max(1, len(some) - 4)) & ~3
        some[at : at + 4] = word if random.random() < 0.5 else random.randbytes(4)
    return bytes(some)


@dataclass
class Gguf:
    """A GGUF file in parts: metadata as (key, type, value), where an array is (type of its elements, values); tensors
    as [name, dimensions, kind, offset]; what lies behind the table. `counts` and `version` are what the header says.

    Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
    """

    metadata: list[list]
    tensors: list[list]
    data: bytes
    counts: list[int]
    version: int = 3

    @classmethod
    def of(cls, content: bytes) -> "Gguf":
        """The parts of a good file."""
        at = 24
        _magic, _version, tensors, keys = struct.unpack_from("<4sIQQ", content)

        def number(form: str) -> Any:
            nonlocal at
            [value] = struct.unpack_from("<" + form, content, at)
            at += struct.calcsize("<" + form)
            return value

        def text() -> str:
            nonlocal at
            size = number("Q")
            at += size
            return content[at - size : at].decode()

        def value(kind: int) -> Any:
            if kind == TEXT:
                return text()
            if kind != ARRAY:
                return number(SCALARS[kind])
            element, count = number("I"), number("Q")
            return element, [value(element) for _time in range(count)]

        metadata = [[text(), kind := number("I"), value(kind)] for _time in range(keys)]
        table = [
            [text(), [number("Q") for _time in range(number("I"))], number("I"), number("Q")]
            for _time in range(tensors)
        ]
        return cls(metadata, table, content[-(-at // 32) * 32 :], [tensors, keys])

    def bytes(self) -> bytes:
        counts = (count % (1 << 64) for count in self.counts)
        parts = [struct.pack("<4sIQQ", b"GGUF", self.version, *counts)]
        for key, kind, value in self.metadata:
            parts += [_text(key), struct.pack("<I", kind & 0xFFFFFFFF), _value(kind, value)]
        for name, dimensions, kind, offset in self.tensors:
            parts += [_text(name), struct.pack("<I", len(dimensions))]
            parts += [_number("Q", size) for size in dimensions] + [_number("I", kind), _number("Q", offset)]
        head = b"".join(parts)
        return head + b"\0" * (-len(head) % 32) + self.data


def _text(text: str) -> bytes:
    content = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(content)) + content


def _value(kind: int, value: Any) -> bytes:
    if kind in SCALARS:
        return _number(SCALARS[kind], value)
    if kind == ARRAY and isinstance(value, tuple):
        element, values = value
        return struct.pack("<IQ", element, len(values)) + b"".join(_value(element, each) for each in values)
    return _text(str(value))


def _number(form: str, value: Any) -> bytes:
    """Any value in the bytes of a type: what does not fit is taken by its lowest bits."""
    value = value if isinstance(value, int | float) else len(str(value))
    if form in "fd":
        try:
            return struct.pack("<" + form, value)
        except OverflowError:
            return struct.pack("<" + form, float("inf"))
    whole = int(value) if abs(value) < 1e300 else 0  # NaN and infinity, too
    return (whole & ((1 << 8 * struct.calcsize(form)) - 1)).to_bytes(struct.calcsize("<" + form), "little")
