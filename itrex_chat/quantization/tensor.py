"""A quantized matrix in GPTQ's layout: what artifacts hold and kernels take."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange


@dataclass(frozen=True)
class QuantizedTensor:
    """Symmetric group-wise integers of a matrix W [out, in], stored as W transposed.

    `qweight` int32 [in·bits/32, out]: 32/bits consecutive inputs of one output
    in a word, the first in its lowest bits, each as integer + 2^(bits-1).
    `scales` float16 [in/group_size, out], negative ones included.
    W[o, i] = integer[o, i] · scales[i // group_size, o].
    Layout: https://github.com/AutoGPTQ/AutoGPTQ, `qweight` and `scales`.
    """

    qweight: torch.Tensor
    scales: torch.Tensor
    bits: int
    group_size: int

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
        """int8 [in, out], contiguous, as they are multiplied by the scales."""
        per_word = 32 // self.bits
        integers = torch.empty(self.in_features, self.out_features, dtype=torch.int8)
        for place in range(per_word):
            shifted = self.qweight >> (self.bits * place)
            integers[place::per_word] = shifted.bitwise_and_((1 << self.bits) - 1).sub_(self.zero_point)
        return integers

    def dequantize(self) -> torch.Tensor:
        """float32 [out, in]: the weights that all kernels compute with."""
        scales = self.scales.float().repeat_interleave(self.group_size, 0)
        return (self.integers().float() * scales).t().contiguous()

    def columns(self, start: int, stop: int) -> "QuantizedTensor":
        """The matrix of the outputs [start, stop)."""
        return QuantizedTensor(self.qweight[:, start:stop], self.scales[:, start:stop], self.bits, self.group_size)


def packed_words(integers: torch.Tensor, bits: int) -> torch.Tensor:
    """`qweight` of signed integers [out, in]: int32 [in·bits/32, out]."""
    shifted = (integers.to(torch.int16) + (1 << (bits - 1))).to(torch.uint8)
    if bits == 4:
        pairs = rearrange(shifted, "o (i two) -> o i two", two=2)
        shifted = pairs[..., 0] | pairs[..., 1] << 4
    return shifted.contiguous().view(torch.int32).t().contiguous()


def packed_zeros(groups: int, outputs: int, bits: int) -> torch.Tensor:
    """`qzeros` that say "zero point 2^(bits-1)" the way GPTQ stores it, minus one: int32 [groups, out·bits/32]."""
    one = (1 << (bits - 1)) - 1
    word = sum(one << shift for shift in range(0, 32, bits))
    words = -(-outputs * bits // 32)
    return torch.full((groups, words), word, dtype=torch.int64).to(torch.int32)


def concatenated(parts: Sequence[QuantizedTensor]) -> QuantizedTensor:
    """One matrix with the outputs of all parts, which share bits and group size."""
    if len(parts) == 1:
        return parts[0]
    return QuantizedTensor(
        torch.cat([part.qweight for part in parts], 1),
        torch.cat([part.scales for part in parts], 1),
        parts[0].bits,
        parts[0].group_size,
    )
