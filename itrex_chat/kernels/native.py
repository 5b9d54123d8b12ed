"""Our own kernels in C (`itrex_chat/native`): decode at the speed of memory."""

from collections.abc import Sequence
from ctypes import byref
from dataclasses import dataclass, replace

import torch

from itrex_chat import native
from itrex_chat.foundation.errors import KernelError
from itrex_chat.foundation.language import _
from itrex_chat.native import large_pages
from itrex_chat.quantization.tensor import QuantizedTensor


@dataclass(frozen=True)
class NativeWeight:
    """A matrix in blocks of 16 outputs (native.h): uint8 [bytes]."""

    blob: torch.Tensor
    in_features: int
    out_features: int
    bits: int
    group_size: int
    compute_dtype: str
    zeros: bool = False  # whether groups have zero points of their own

    def linear(self, bias: torch.Tensor | None = None) -> native.Linear:
        """The matrix for the C functions; it points into `blob` and `bias`."""
        return native.Linear(
            format=native.FORMATS["int4_zeros" if self.zeros else f"int{self.bits}"],
            compute=native.COMPUTE[self.compute_dtype],
            inputs=self.in_features,
            outputs=self.out_features,
            group=self.group_size,
            weight=native.address(self.blob),
            bias=native.address(bias),
        )

    def matmul(
        self, x: torch.Tensor, bias: torch.Tensor | None = None, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """With a bias, and into `out` [rows, out], whose rows may lie apart, where they are given."""
        out = torch.empty(x.shape[0], self.out_features) if out is None else out
        return native.product(self.linear(bias), x, out)

    @property
    def independent_rows(self) -> int | None:
        return native.rows_alike(self.linear())

    def gated(self, x: torch.Tensor, bias: torch.Tensor | None, gate_up: torch.Tensor, out: torch.Tensor) -> None:
        """SwiGLU of the product, whose outputs are the gate and then as many others: `out`, float32 [rows, out/2].

        `gate_up`, float32 [rows, out], is there to be used.
        """
        native.check(
            native.library().itrex_gated_product(
                byref(self.linear(bias)),
                x.shape[0],
                x.data_ptr(),
                x.stride(0),
                gate_up.data_ptr(),
                out.data_ptr(),
                torch.get_num_threads(),
            )
        )

    def dequantize(self) -> torch.Tensor:
        out = torch.empty(self.out_features, self.in_features)
        native.check(native.library().itrex_unpack(byref(self.linear()), out.data_ptr(), torch.get_num_threads()))
        return out

    def nbytes(self) -> int:
        return self.blob.nbytes


class Native:
    name = "native"
    packing_bytes = 1  # the matrix as stored

    def missing(self) -> str | None:
        return native.missing()

    def detail(self) -> str:
        return native.instructions()

    def pack(self, parts: Sequence[QuantizedTensor], compute_dtype: str) -> NativeWeight:
        native.instructions()
        first = parts[0]
        weight = NativeWeight(
            torch.empty(0, dtype=torch.uint8),
            first.in_features,
            sum(part.out_features for part in parts),
            first.bits,
            first.group_size,
            compute_dtype,
            first.zeros is not None,
        )
        layout, lib = weight.linear(), native.library()
        size = lib.itrex_packed_bytes(byref(layout))
        blob = large_pages.zeros(max(size, 1), dtype=torch.uint8)
        layout.weight, start = blob.data_ptr(), 0
        for part in parts:
            if not size or not _fits(part, first):
                raise KernelError(
                    _(
                        "A matrix of {inputs} inputs does not have groups of {size}.",
                        inputs=part.in_features,
                        size=part.group_size,
                    )
                )
            qweight, scales = _rows(part.qweight), _rows(part.scales)
            zeros = None if part.zeros is None else _alike(part.zeros, scales)
            native.check(
                lib.itrex_pack(
                    byref(layout),
                    qweight.data_ptr(),
                    qweight.stride(0),
                    scales.data_ptr(),
                    native.address(zeros),
                    scales.stride(0),
                    start,
                    part.out_features,
                    torch.get_num_threads(),
                )
            )
            start += part.out_features
        return replace(weight, blob=blob)

    def bytes_per_weight(self, bits: int, group_size: int) -> float:
        return bits / 8 + 2 / group_size


def _fits(part: QuantizedTensor, first: QuantizedTensor) -> bool:
    """Whether a part has what is read of it, and is as the first one is."""
    groups = part.in_features // part.group_size
    return (
        (part.bits, part.group_size, part.in_features) == (first.bits, first.group_size, first.in_features)
        and tuple(part.scales.shape) == (groups, part.out_features)
        and (part.qweight.dtype, part.scales.dtype) == (torch.int32, torch.float16)
        and (part.zeros is None) == (first.zeros is None)
        and (
            part.zeros is None
            or (part.bits, part.zeros.shape, part.zeros.dtype) == (4, part.scales.shape, torch.float16)
        )
    )


def _alike(zeros: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Zero points whose rows lie as far apart as those of the scales."""
    if zeros.stride() == scales.stride():
        return zeros
    return torch.empty_strided(scales.shape, scales.stride(), dtype=zeros.dtype).copy_(zeros)


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or a copy whose rows are contiguous."""
    return tensor if tensor.stride(1) == 1 else tensor.contiguous()
