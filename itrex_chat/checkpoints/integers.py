"""Integers as a checkpoint has them: what is taken of one that another program quantized."""

from dataclasses import dataclass

import torch

from itrex_chat.foundation.errors import CheckpointError
from itrex_chat.foundation.language import _

GROUPS = (128, 64, 32)  # what is taken; larger groups become several with the same scale


@dataclass(frozen=True)
class Packed:
    """How a matrix is stored: integers of `bits`, `group_size` neighbours of a row with one scale.

    `zeros`: "" where all zero points are in the middle, "whole" where they are integers of 0 to 15, "float" where they are
    float16.
    """

    bits: int
    group_size: int
    zeros: str = ""


@dataclass(frozen=True)
class Integers:
    """Rows of a matrix W = (integers - zeros) · scales.

    `integers` uint8 [rows, in], of 0 to 2^bits - 1; `scales`, of any float type, and `zeros`, float16, [rows, groups];
    without zeros they are 2^(bits-1).
    """

    integers: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None
    bits: int

    def dequantize(self) -> torch.Tensor:
        """float32 [rows, in]."""
        size, middle = self.integers.shape[1] // self.scales.shape[1], 1 << (self.bits - 1)
        weights = self.integers.float().sub_(middle)
        if self.zeros is not None:
            weights += (middle - self.zeros.float()).repeat_interleave(size, 1)
        return weights * self.scales.float().repeat_interleave(size, 1)

    def grouped(self, group_size: int) -> "Integers":
        """The same weights in smaller groups: scales and zero points are repeated."""
        times = self.integers.shape[1] // group_size // self.scales.shape[1]
        zeros = None if self.zeros is None else self.zeros.repeat_interleave(times, 1)
        return Integers(self.integers, self.scales.repeat_interleave(times, 1), zeros, self.bits)

    def ordered(self, rows: torch.Tensor) -> "Integers":
        """The rows of these numbers."""
        zeros = None if self.zeros is None else self.zeros[rows]
        return Integers(self.integers[rows], self.scales[rows], zeros, self.bits)


def group_taken(stored: int) -> int | None:
    """The groups in which groups of `stored` inputs are taken; None where they cannot be."""
    return next((size for size in GROUPS if stored % size == 0), None)


def unpacked(words: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """uint8: the integers of int32 words along a dimension of a matrix, the lowest bits first."""
    per_word = 32 // bits
    parts = torch.stack([(words >> (bits * place)) & ((1 << bits) - 1) for place in range(per_word)], dim + 1)
    shape = list(words.shape)
    shape[dim] *= per_word
    return parts.to(torch.uint8).reshape(shape)


def finite_scales(scales: torch.Tensor, name: str) -> torch.Tensor:
    """The scales, which must be finite numbers. Raises CheckpointError."""
    if not torch.isfinite(scales).all():
        raise CheckpointError(_("The scales of {name} are not all finite numbers.", name=name))
    return scales
