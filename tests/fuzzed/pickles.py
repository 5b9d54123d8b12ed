"""`.bin` files: tensors of every kind under every name, pickles that would run code, archives that say other things."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import torch

from fuzzed.values import TEXTS, damaged

MARK = "ran"  # the file that a pickle which was run leaves in the working folder
INFLATED, ZEROS = 1 << 30, bytes(1 << 20)  # bytes that a small archive becomes


class Runs:
    """Runs a command where it is unpickled without care."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple]:
        return os.system, (f"touch {MARK}",)


def odd(content: bytes, random: Random) -> bytes:
    """Another pickle in the place of this one."""
    how = random.random()
    if how < 0.3:
        return damaged(content, random)
    if how < 0.65:
        return _rezipped(content, random)
    try:
        tensors = torch.load(io.BytesIO(content), weights_only=True)
    except Exception:  # it is odd already
        return damaged(content, random)
    named = tensors if isinstance(tensors, dict) else {}
    if not (names := sorted((name for name, value in named.items() if isinstance(value, torch.Tensor)), key=str)):
        return damaged(content, random)  # a change before this one left none
    name = random.choice(names)
    tensors[name] = _odd_tensor(tensors[name], random)
    if random.random() < 0.3:
        return _saved(
            random.choice(({"state_dict": tensors}, list(tensors.items()), {1: 2} | tensors, tensors[name])), random
        )
    if random.random() < 0.2:
        tensors[random.choice(TEXTS)] = tensors.pop(name)
    return _saved(tensors, random)


def _saved(content: object, random: Random) -> bytes:
    file = io.BytesIO()
    if random.random() < 0.1:
        return pickle.dumps(content, random.choice((0, 2, 4)))
    torch.save(content, file, _use_new_zipfile_serialization=random.random() < 0.8)
    return file.getvalue()


def _odd_tensor(tensor: torch.Tensor, random: Random) -> object:
    number = random.randrange(17)
    if number < 4:
        kind = (torch.int64, torch.complex64, torch.float8_e4m3fn, torch.bool)[number]
        return tensor.to(kind)
    if number < 9:
        odd_values = (float("nan"), float("inf"), 1e38, 0.0, -1e-45)[number - 4]
        return torch.full_like(tensor, odd_values)
    return (
        lambda: tensor.t() if tensor.ndim == 2 else tensor[None],
        lambda: torch.zeros(1).expand(1 << 40, 64),
        lambda: torch.zeros(1).expand(tensor.shape),
        lambda: torch.nn.Parameter(tensor),
        lambda: tensor.to_sparse(),
        lambda: torch.zeros(0, 64) if random.random() < 0.5 else torch.tensor(1.0),
        lambda: random.choice((Runs(), {"a": Runs()}, np.zeros(3), 5, None, "text", [tensor])),
        lambda: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
    )[number - 9]()


def _rezipped(content: bytes, random: Random) -> bytes:
    """The archive written again, with one of its files changed."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = [(name, archive.read(name)) for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return damaged(content, random)
    at = random.randrange(len(entries))
    at = (
        next((n for n, (name, _content) in enumerate(entries) if name.endswith("data.pkl")), at)
        if random.random() < 0.5
        else at
    )
    name, inner = entries[at]
    how = random.randrange(9)
    if how < 4:
        entries[at] = name, damaged(inner, random)
    elif how == 4:
        del entries[at]
    elif how == 5:
        entries.append((name, inner))
    elif how == 6:
        entries[at] = random.choice(("../../x", "/tmp/x", "archive/data/0", "data.pkl", name + "\x1b[31m")), inner
    elif how == 8:
        entries[at] = name, pickle.dumps(Runs(), 2)
    file = io.BytesIO()
    packed = zipfile.ZIP_DEFLATED if how == 7 or random.random() < 0.2 else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", packed, compresslevel=1) as archive:
        for number, (name, inner) in enumerate(entries):
            with archive.open(name, mode="w", force_zip64=True) as entry:
                entry.write(inner)
                for _time in range(INFLATED // len(ZEROS) if (number, how) == (at, 7) else 0):
                    entry.write(ZEROS)
    return file.getvalue()
