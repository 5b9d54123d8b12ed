"""The definition of the product, in plain PyTorch. Slow; runs anywhere."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import einsum, rearrange

from itrex_chat.quantization.tensor import QuantizedTensor, concatenated

SLAB = 1 << 24  # weights unpacked at a time


@dataclass(frozen=True)
class ReferenceWeight:
    weight: QuantizedTensor
    compute_dtype: str

    @property
    def in_features(self) -> int:
        return self.weight.in_features

    @property
    def bits(self) -> int:
        return self.weight.bits

    @property
    def out_features(self) -> int:
        return self.weight.out_features

    @property
    def independent_rows(self) -> int | None:
        return 1

    def matmul(self, x: torch.Tensor) -> torch.Tensor:
        product = {"int8": _int8_product, "bf16": _bf16_product, "fp32": _fp32_product}[self.compute_dtype]
        outputs = max(1, SLAB // self.in_features)
        return torch.cat(
            [
                product(x, self.weight.columns(start, min(start + outputs, self.out_features)))
                for start in range(0, self.out_features, outputs)
            ],
            1,
        )

    def dequantize(self) -> torch.Tensor:
        return self.weight.dequantize()

    def nbytes(self) -> int:
        zeros = 0 if self.weight.zeros is None else self.weight.zeros.nbytes
        return self.weight.qweight.nbytes + self.weight.scales.nbytes + zeros


class Reference:
    name = "reference"
    packing_bytes = 5

    def missing(self) -> str | None:
        return None

    def detail(self) -> str:
        return "torch"

    def pack(self, parts: Sequence[QuantizedTensor], compute_dtype: str) -> ReferenceWeight:
        return ReferenceWeight(concatenated(parts), compute_dtype)

    def bytes_per_weight(self, bits: int, group_size: int) -> float:
        return bits / 8 + 2 / group_size


def quantize_activations(x: torch.Tensor, group_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Round each group of a row to int8 with a scale of its largest magnitude / 127.

    x float32 [rows, in] to integers, float32 [rows, groups, group_size], and
    scales, float32 [rows, groups]; a group of zeros, or of values
    below 1e-36, has the scale 0.
    """
    groups = rearrange(x, "r (g i) -> r g i", i=group_size)
    scales = groups.abs().amax(-1) / 127
    usable = scales >= torch.finfo(torch.float32).tiny  # below it, the inverse overflows
    inverse = torch.where(usable, 1 / scales, 0)
    scales = torch.where(usable | ~scales.isfinite(), scales, 0)
    return (groups * inverse[..., None]).round().clamp(-127, 127), scales


def _int8_product(x: torch.Tensor, weight: QuantizedTensor) -> torch.Tensor:
    """Integer products within a group, exact in float32, then both scales."""
    integers, x_scales = quantize_activations(x, weight.group_size)
    w = rearrange(weight.integers().float(), "(g i) o -> g i o", i=weight.group_size)
    if weight.zeros is not None:
        w += weight.middle()[:, None]
    sums = einsum(integers, w, "r g i, g i o -> r g o")
    return einsum(sums, x_scales, weight.scales.float(), "r g o, r g, g o -> r o")


def _bf16_product(x: torch.Tensor, weight: QuantizedTensor) -> torch.Tensor:
    """Weights and activations rounded to bfloat16, sums in float32."""
    return x.bfloat16().float() @ weight.dequantize().bfloat16().float().t()


def _fp32_product(x: torch.Tensor, weight: QuantizedTensor) -> torch.Tensor:
    return x @ weight.dequantize().t()
