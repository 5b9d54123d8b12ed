"""Kernels: the product of activations with a quantized matrix.

A kernel packs `QuantizedTensor`s once, at load, and multiplies with them from
then on. All kernels compute with the same weights, to the last bit; they
differ in speed and in how they round activations.
"""

import os
from collections.abc import Sequence
from typing import Protocol

import torch

from itrex_chat.foundation.choices import one_of
from itrex_chat.foundation.errors import KernelError
from itrex_chat.foundation.language import _
from itrex_chat.kernels.ark import Ark
from itrex_chat.kernels.native import Native
from itrex_chat.kernels.reference import Reference
from itrex_chat.quantization.tensor import QuantizedTensor


class PackedWeight(Protocol):
    """A matrix [out, in] in a kernel's own layout."""

    @property
    def in_features(self) -> int: ...

    @property
    def out_features(self) -> int: ...

    @property
    def bits(self) -> int: ...

    @property
    def compute_dtype(self) -> str: ...

    @property
    def independent_rows(self) -> int | None:
        """How many rows x may have so that each is, bit for bit, what it is alone; None for any number."""

    def matmul(self, x: torch.Tensor) -> torch.Tensor:
        """x float32 [rows, in] times the matrix transposed: float32 [rows, out]."""

    def dequantize(self) -> torch.Tensor:
        """The weights it computes with, float32 [out, in]."""

    def nbytes(self) -> int:
        """Bytes of memory it takes."""


class Kernel(Protocol):
    """`name`; `missing` is why it cannot run here, or None; `detail` what it uses of the processor.

    `packing_bytes` are needed for each weight of a matrix while it is packed.
    """

    name: str
    packing_bytes: int

    def missing(self) -> str | None: ...

    def detail(self) -> str: ...

    def pack(self, parts: Sequence[QuantizedTensor], compute_dtype: str) -> PackedWeight:
        """Bring a matrix into the kernel's layout, for activations in "int8", "bf16" or "fp32".

        Its outputs are those of the parts, which share inputs, bits and group size.
        """

    def bytes_per_weight(self, bits: int, group_size: int) -> float:
        """Memory of a packed matrix per weight, for planning."""


# In the order of preference.
KERNELS: dict[str, Kernel] = {kernel.name: kernel for kernel in (Native(), Ark(), Reference())}


def choose(name: str | None = None) -> Kernel:
    """The kernel of that name, else ITREX_CHAT_KERNEL, else the fastest that runs on this machine.

    Raises KernelError when there is no such kernel or it cannot run here.
    """
    if name := name or os.environ.get("ITREX_CHAT_KERNEL"):
        one_of(_("the kernel"), name, KERNELS, KernelError)
        if reason := KERNELS[name].missing():
            raise KernelError(_("The kernel {name} cannot run here: {reason}.", name=name, reason=reason))
        return KERNELS[name]
    return next(kernel for kernel in KERNELS.values() if kernel.missing() is None)


def described(kernel: Kernel) -> str:
    """A kernel's name and what it uses of the processor: "native (avx512)"."""
    return f"{kernel.name} ({kernel.detail()})"


def why_not_faster(chosen: Kernel) -> str:
    """Why the kernels that are preferred to the chosen one cannot run here; "" where they could."""
    better = list(KERNELS)[: list(KERNELS).index(chosen.name)]
    return "; ".join(f"{name}: {reason}" for name in better if (reason := KERNELS[name].missing()))
