"""Where tensors lie in files, and what every kind of file refuses."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from itrex_chat.foundation.errors import CheckpointError
from itrex_chat.foundation.language import _

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Place:
    """Where a tensor's values lie in a file, one behind the other, as this machine has them in memory."""

    path: Path
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.offset + prod(self.shape) * self.dtype.itemsize

    def follows(self, other: "Place") -> bool:
        """Whether it is what another one goes on with, so that both are one matrix."""
        return (self.path, self.offset, self.dtype) == (other.path, other.end, other.dtype)

    def rows(self, first: int, count: int) -> "Place":
        """Some rows of it."""
        row = self.dtype.itemsize * prod(self.shape[1:])
        return Place(self.path, self.offset + first * row, self.dtype, (count, *self.shape[1:]))


def refuse_twice(name: str, path: Path, homes: dict) -> None:
    if name in homes:
        raise CheckpointError(_("The tensor {name} is in two files, the second is {path}.", name=name, path=path))


def refuse_scalar(name: str, path: Path, shape: tuple[int, ...]) -> None:
    """A tensor is read by its rows; a single number has none."""
    if not shape:
        raise CheckpointError(
            _("{path}: the tensor {name} is a single number; no model that can be used has one.", path=path, name=name)
        )


def damaged(path: Path, error: Exception) -> CheckpointError:
    reason = " ".join(str(error).split()).partition(". ")[0][:160].rstrip(".") or type(error).__name__
    return CheckpointError(_("{path} is damaged or truncated ({reason}); download it again.", path=path, reason=reason))


def float_dtype(dtype: torch.dtype | str, name: str, path: Path) -> torch.dtype:
    if isinstance(dtype, str) or dtype not in FLOATS:
        raise CheckpointError(
            _(
                "{path}: the tensor {name} is stored as {dtype}; only float32, float16 and bfloat16 "
                "checkpoints can be used.",
                path=path,
                name=name,
                dtype=dtype,
            )
        )
    return dtype


def stored_as(dtypes: Iterable[torch.dtype | str]) -> str:
    """The commonest dtype, such as "bfloat16"."""
    names = [str(dtype).removeprefix("torch.") for dtype in dtypes]
    return max(set(names), key=names.count) if names else "empty"
