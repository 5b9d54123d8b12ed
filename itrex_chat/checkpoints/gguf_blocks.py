"""Blocks of a GGUF file as integers: Q4_0, Q4_1 and Q8_0, 32 neighbours of a row with one float16 scale.

Layout: https://github.com/ggml-org/llama.cpp, ggml-common.h.
"""

from dataclasses import dataclass

import numpy as np
import torch

from itrex_chat.checkpoints.integers import Integers, Packed

BLOCK = 32  # values
LARGEST_FLOAT16 = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class Blocks:
    """A type of blocks, of so many bytes each. Q4_1 adds a minimum of the block to n · scale."""

    bits: int
    nbytes: int
    minimum: bool = False

    @property
    def packed(self) -> Packed:
        return Packed(self.bits, BLOCK, "float" if self.minimum else "")

    def integers(self, raw: np.ndarray, rows: int) -> Integers:
        """Of the bytes of whole rows, uint8."""
        blocks = torch.from_numpy(raw).reshape(rows, -1, self.nbytes)
        scales = _halves(blocks[..., :2])
        if self.bits == 8:
            return Integers((blocks[..., 2:] ^ 128).reshape(rows, -1), scales, None, 8)
        pairs = blocks[..., -BLOCK // 2 :]
        integers = torch.cat([pairs & 15, pairs >> 4], -1)
        if not self.minimum:
            return Integers(integers.reshape(rows, -1), scales, None, 4)
        return _with_minimum(integers, scales, _halves(blocks[..., 2:4]))


KINDS = {2: Blocks(4, 18), 3: Blocks(4, 20, minimum=True), 8: Blocks(8, 34)}  # by ggml type: Q4_0, Q4_1, Q8_0


def _with_minimum(integers: torch.Tensor, scales: torch.Tensor, minima: torch.Tensor) -> Integers:
    """n · scale + minimum as (n - zero) · scale, the zero point rounded to float16. A block whose integers make no difference
    beside its minimum, so that no zero point would do, is that minimum."""
    zeros = -minima.float() / scales.float()
    flat = ~(zeros.abs() <= LARGEST_FLOAT16)
    zeros = torch.where(flat, -1.0, zeros).half()
    scales = torch.where(flat, minima, scales)
    integers = torch.where(flat[..., None], 0, integers)
    return Integers(integers.reshape(len(integers), -1), scales, zeros, 4)


def _halves(raw: torch.Tensor) -> torch.Tensor:
    """float16 of its bytes."""
    return raw.contiguous().view(torch.float16)[..., 0]
