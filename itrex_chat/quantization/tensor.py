"""A quantized matrix in GPTQ's layout: what artifacts hold and kernels take."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange


@dataclass(frozen=True)
class QuantizedTensor:
    """Group-wise integers of a matrix W [out, in], stored as W transposed.

    `qweight` int32 [in·bits/32, out]: 32/bits consecutive inputs of one output
    in a word, the first in its lowest bits, each as integer + 2^(bits-1).
    `scales` float16 [in/group_size, out], negative ones included.
    W[o, i] = integer[o, i] · scales[i // group_size, o].
    `zeros`, float16 like the scales, where groups of 4 bits have zero points of
    their own: W = (integer + (8 - zero)) · scale, in float32.
    Layout: https://github.com/AutoGPTQ/AutoGPTQ, `qweight` and `scales`.
    """

    qweight: torch.Tensor
    scales: torch.Tensor
    bits: int
    group_size: int
    zeros: torch.Tensor | None = None

    @property
    def in_features(self) -> int:
        return self.qweight.shape[0] * 32 // self.bits

    @property
    def out_features(self) -> int:
        return self.qweight.shape[1]

    @property
    def zero_point(self) -> int:
        return 1 << (self.bits - 1)

    def integers(self) -> torch.Tensor:
        """int8 [in, out], contiguous, as they are multiplied by the scales where there are no zero points."""
        per_word = 32 // self.bits
        integers = torch.empty(self.in_features, self.out_features, dtype=torch.int8)
        for place in range(per_word):
            shifted = self.qweight >> (self.bits * place)
            integers[place::per_word] = shifted.bitwise_and_((1 << self.bits) - 1).sub_(self.zero_point)
        return integers

    def dequantize(self) -> torch.Tensor:
        """float32 [out, in]: the weights that all kernels compute with."""
        scales = self.scales.float().repeat_interleave(self.group_size, 0)
        integers = self.integers().float()
        if self.zeros is not None:
            integers += self.middle().repeat_interleave(self.group_size, 0)
        return (integers * scales).t().contiguous()

    def middle(self) -> torch.Tensor:
        """float32 [groups, out]: how far the zero points are below the middle of the integers; only where there are some."""
        assert self.zeros is not None
        return self.zero_point - self.zeros.float()

    def columns(self, start: int, stop: int) -> "QuantizedTensor":
        """The matrix of the outputs [start, stop)."""
        zeros = None if self.zeros is None else self.zeros[:, start:stop]
        return QuantizedTensor(
            self.qweight[:, start:stop], self.scales[:, start:stop], self.bits, self.group_size, zeros
        )


def packed_words(integers: torch.Tensor, bits: int) -> torch.Tensor:
    """`qweight` of signed integers [out, in]: int32 [in·bits/32, out]."""
    shifted = (integers.to(torch.int16) + (1 << (bits - 1))).to(torch.uint8)
    if bits == 4:
        pairs = rearrange(shifted, "o (i two) -> o i two", two=2)
        shifted = pairs[..., 0] | pairs[..., 1] << 4
    return shifted.contiguous().view(torch.int32).t().contiguous()


def packed_zeros(groups: int, outputs: int, bits: int, offset: int = 1) -> torch.Tensor:
    """`qzeros` that say "zero point 2^(bits-1)" the way GPTQ stores it, minus one (`offset`): int32 [groups, out·bits/32]."""
    one = (1 << (bits - 1)) - offset
    word = sum(one << shift for shift in range(0, 32, bits))
    words = -(-outputs * bits // 32)
    return torch.full((groups, words), word, dtype=torch.int64).to(torch.int32)


def packed_zero_points(zeros: torch.Tensor) -> torch.Tensor:
    """`qzeros` of zero points of 0 to 15, [groups, out], as they are: int32 [groups, out/8], the last word filled up with zeros."""
    groups, outputs = zeros.shape
    filled = torch.zeros(groups, -(-outputs // 8) * 8, dtype=torch.uint8)
    filled[:, :outputs] = zeros
    return (filled[:, ::2] | filled[:, 1::2] << 4).contiguous().view(torch.int32)


def unpacked_zeros(qzeros: torch.Tensor, outputs: int) -> torch.Tensor:
    """The zero points that `packed_zero_points` packed, float16 [groups, out]."""
    nibbles = torch.stack([(qzeros >> shift) & 15 for shift in range(0, 32, 4)], -1)
    return nibbles.flatten(1)[:, :outputs].half()


def concatenated(parts: Sequence[QuantizedTensor]) -> QuantizedTensor:
    """One matrix with the outputs of all parts, which share bits and group size, and whether they have zero points."""
    if len(parts) == 1:
        return parts[0]
    zeros = [part.zeros for part in parts if part.zeros is not None]
    return QuantizedTensor(
        torch.cat([part.qweight for part in parts], 1),
        torch.cat([part.scales for part in parts], 1),
        parts[0].bits,
        parts[0].group_size,
        torch.cat(zeros, 1) if zeros else None,
    )
