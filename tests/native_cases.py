"""Matrices and activations for the native kernels: of every format, and of the sizes and values that are easy to get wrong."""

import importlib.machinery
from dataclasses import replace

import torch

from itrex_chat import native
from itrex_chat.kernels import KERNELS
from itrex_chat.kernels.native import NativeWeight
from itrex_chat.quantization.tensor import QuantizedTensor, packed_words

LIBRARY = f"_kernels{importlib.machinery.EXTENSION_SUFFIXES[0]}"
UNIT = 2.0**-24  # the rounding of one float32 operation, relative
ROWS = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 18, 22, 23, 33, 70)
OUTPUTS = (1, 7, 15, 16, 17, 32, 33, 100)
FORMATS = [(bits, group, compute) for bits in (4, 8) for group in (32, 64, 128) for compute in ("int8", "bf16", "fp32")]


def matrix(
    outputs: int, inputs: int, group: int, bits: int, scales: torch.Tensor | float | None = None
) -> QuantizedTensor:
    """A matrix in which every integer of the format occurs; scales of both signs, near 0.01 unless given."""
    random = torch.Generator().manual_seed(outputs * 7919 + inputs + bits)
    half = 1 << (bits - 1)
    integers = torch.randint(-half, half, (outputs, inputs), generator=random, dtype=torch.int16)
    if scales is None:
        scales = 0.01 * torch.randn(inputs // group, outputs, generator=random)
    elif isinstance(scales, float):
        scales = torch.full((inputs // group, outputs), scales)
    return QuantizedTensor(packed_words(integers, bits), scales.half(), bits, group)


def with_zeros(weight: QuantizedTensor) -> QuantizedTensor:
    """The matrix with zero points of its own: every integer, and fractions on both sides of these."""
    random = torch.Generator().manual_seed(weight.in_features)
    zeros = torch.randint(0, 17, weight.scales.shape, generator=random).half()
    zeros[0] = 4 * torch.randn(weight.out_features, generator=random)
    return replace(weight, zeros=zeros)


def activations(rows: int, inputs: int, seed: int = 0) -> torch.Tensor:
    """float32 [rows, inputs], each group of 32 of another magnitude, some of zeros."""
    random = torch.Generator().manual_seed(rows * 31 + inputs + seed)
    magnitudes = torch.tensor([1.0, 30.0, 0.0, 0.001])[torch.randint(0, 4, (rows, inputs // 32), generator=random)]
    return torch.randn(rows, inputs, generator=random) * magnitudes.repeat_interleave(32, 1)


def packed(weight: QuantizedTensor, compute: str) -> NativeWeight:
    return KERNELS["native"].pack([weight], compute)


def bit_equal(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Equal to the last bit; NaN equals NaN."""
    return first.shape == second.shape and bool(
        ((first.view(torch.int32) == second.view(torch.int32)) | (first.isnan() & second.isnan())).all()
    )


def use(instructions: str | None, monkeypatch) -> None:
    """The kernels take these instructions from now on. Raises KernelError where the processor has not got them."""
    if instructions is None:
        monkeypatch.delenv("ITREX_CHAT_INSTRUCTIONS", raising=False)
    else:
        monkeypatch.setenv("ITREX_CHAT_INSTRUCTIONS", instructions)
    native.instructions()
