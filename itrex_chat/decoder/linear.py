"""Linear layers, the one thing in which the variants of a model differ.

A layer says apart how its matrix is stored ("fp32", "fp16", "bf16", "int4", "int8") and what it computes in ("fp32",
"bf16", "int8"): what activations are rounded to before they are multiplied. Sums are float32 in all of them.

Some rows are multiplied by the native kernels, where they are there: a row gets the same bits whatever the other rows
are (`Linear.independent_rows`). Many rows of a matrix of floats are multiplied in PyTorch, which is faster then.

A matrix of 16 bits that is computed in FP32 gives the bits of the same values stored in FP32: every product in PyTorch
is one of panels, some outputs each, which are widened into one buffer where they have to be. Panels of a few MB stay in
the cache between the widening and the product, and are no slower than a whole matrix.
"""

import threading
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn import functional as F

from itrex_chat import native
from itrex_chat.native import large_pages
from itrex_chat.native.stream import Piece

if TYPE_CHECKING:
    from itrex_chat.kernels import PackedWeight

STORAGE = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
SOME_ROWS = (
    48  # rows of a product in FP32 that the native kernels compute: about as fast as PyTorch, with 16 bits faster
)
PANEL = 2 << 20  # values, unless these are fewer outputs than FEWEST
FEWEST = 256  # outputs of a panel: fewer take longer
NARROW = 48  # outputs of a product whose sums do not depend on the number of threads; those of fewer do


class _Wide(threading.local):
    """Where panels are widened: one place for all matrices of a thread, as new memory costs more than the widening does."""

    def __init__(self) -> None:
        self._memory = torch.empty(0)

    def take(self, rows: int, columns: int) -> torch.Tensor:
        """float32 [rows, columns], to be written; whoever takes next writes there, too."""
        if len(self._memory) < rows * columns:
            with torch.inference_mode(False):  # to be written in any mode
                self._memory = large_pages.alone(rows * columns)
        return self._memory[: rows * columns].view(rows, columns)


_WIDE = _Wide()


class Linear(Protocol):
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x float32 [rows, in] to float32 [rows, out]."""

    @property
    def out_features(self) -> int: ...

    @property
    def independent_rows(self) -> int | None:
        """How many rows x may have so that each is, bit for bit, what it is alone; None for any number."""

    def nbytes(self) -> int: ...


@dataclass(frozen=True)
class DenseLinear:
    """A matrix [out, in] of floats, contiguous, stored in its own dtype, computed in `compute`: "fp32", or "bf16" where
    that is how it is stored.

    It is in memory, or the `piece` of a stream. `panel`: the outputs of a panel, where it is a part of a larger matrix whose
    product it is to give, bit for bit.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    compute: str = "fp32"
    panel: int | None = None
    piece: Piece | None = None

    def __post_init__(self) -> None:
        if self.compute not in ("fp32", self.storage) or self.compute == "fp16":
            raise ValueError(f"a matrix stored in {self.storage} is not computed in {self.compute}")

    @property
    def storage(self) -> str:
        return STORAGE[self.weight.dtype]

    @property
    def out_features(self) -> int:
        return self.weight.shape[0]

    @property
    def independent_rows(self) -> int | None:
        return 1 if native.missing() else self._native_rows()

    def _native_rows(self) -> int:
        return SOME_ROWS if self.compute == "fp32" else native.FEW_ROWS

    def described(self) -> native.Linear:
        """The matrix for the C functions; it points into the tensors."""
        outputs, inputs = self.weight.shape
        return native.Linear(
            format=native.FORMATS[self.storage],
            compute=native.COMPUTE[self.compute],
            inputs=inputs,
            outputs=outputs,
            weight=self.weight.data_ptr(),
            bias=native.address(self.bias),
            stream=self.piece.stream.handle if self.piece else None,
            piece=self.piece.number if self.piece else 0,
        )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.into(x, torch.empty(len(x), self.out_features))

    def into(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """The product in `out`, float32 [rows, out], whose rows may lie apart."""
        with self.piece.at_hand() if self.piece else nullcontext():
            return self._product(x, out)

    def _product(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        if 0 < len(x) <= self._native_rows() and not native.missing():
            return native.product(self.described(), x, out)
        if self.compute == "fp32":
            return self._in_panels(x, out)
        out.copy_(F.linear(x.to(self.weight.dtype), self.weight))
        return out if self.bias is None else out.add_(self.bias)

    def _in_panels(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        outputs, inputs = self.weight.shape
        if outputs < NARROW:
            whole = F.pad(self.weight.float(), (0, 0, 0, NARROW - outputs))
            out.copy_(torch.mm(x, whole.t())[:, :outputs])
            return out if self.bias is None else out.add_(self.bias)
        size = self.panel or panel_of(outputs, inputs)
        wide = None if self.storage == "fp32" else _WIDE.take(size, inputs)
        for start in range(0, outputs, size):
            stop = min(start + size, outputs)
            panel, part = self.weight[start:stop], out[:, start:stop]
            if wide is not None:
                panel = wide[: stop - start].copy_(panel)
            if self.bias is None:
                torch.mm(x, panel.t(), out=part)
            else:
                torch.addmm(self.bias[start:stop], x, panel.t(), out=part)
        return out

    def nbytes(self) -> int:
        return self.weight.nbytes


def panel_of(outputs: int, inputs: int) -> int:
    """The outputs of a panel, but perhaps the last one's: as many in each as can be."""
    most = max(FEWEST, PANEL // inputs)
    each = -(-outputs // -(-outputs // most))
    return -(-each // 16) * 16


@dataclass(frozen=True)
class QuantizedLinear:
    """A matrix in a kernel's layout (`kernels.PackedWeight`), which knows its bits and what it computes in."""

    packed: "PackedWeight"
    bias: torch.Tensor | None = None

    @property
    def storage(self) -> str:
        return f"int{self.packed.bits}"

    @property
    def compute(self) -> str:
        return self.packed.compute_dtype

    @property
    def out_features(self) -> int:
        return self.packed.out_features

    @property
    def independent_rows(self) -> int | None:
        return self.packed.independent_rows

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y = self.packed.matmul(x)
        return y if self.bias is None else y.add_(self.bias)

    def nbytes(self) -> int:
        return self.packed.nbytes()


def parts_of(linear: Linear) -> "tuple[DenseLinear | QuantizedLinear, ...]":
    """A layer's matrices."""
    if isinstance(linear, StackedLinear):
        return linear.parts
    assert isinstance(linear, (DenseLinear, QuantizedLinear))
    return (linear,)


@dataclass(frozen=True)
class StackedLinear:
    """Several linear layers of one input, their outputs side by side (parts of different precision)."""

    parts: tuple[DenseLinear | QuantizedLinear, ...]

    @property
    def out_features(self) -> int:
        return sum(part.out_features for part in self.parts)

    @property
    def independent_rows(self) -> int | None:
        bounds = [part.independent_rows for part in self.parts]
        return min((bound for bound in bounds if bound is not None), default=None)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([part(x) for part in self.parts], 1)

    def nbytes(self) -> int:
        return sum(part.nbytes() for part in self.parts)
