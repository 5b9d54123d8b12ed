"""Linear layers, the one thing in which the variants of a model differ.

A layer says apart how its matrix is stored ("fp32", "fp16", "bf16", "int4", "int8") and what it computes in ("fp32",
"bf16", "int8"): what activations are rounded to before they are multiplied. Sums are float32 in all of them.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from itrex_chat.kernels import PackedWeight

STORAGE = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


class Linear(Protocol):
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x float32 [rows, in] to float32 [rows, out]."""

    @property
    def out_features(self) -> int: ...

    def nbytes(self) -> int: ...


@dataclass(frozen=True)
class DenseLinear:
    """A matrix [out, in] of floats, stored in its own dtype, computed in `compute`: "fp32", or "bf16" where that is how
    it is stored."""

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    compute: str = "fp32"

    def __post_init__(self) -> None:
        if self.compute not in ("fp32", self.storage) or self.compute == "fp16":
            raise ValueError(f"a matrix stored in {self.storage} is not computed in {self.compute}")

    @property
    def storage(self) -> str:
        return STORAGE[self.weight.dtype]

    @property
    def out_features(self) -> int:
        return self.weight.shape[0]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.compute == "fp32":
            return F.linear(x, self.weight.float(), self.bias)
        y = F.linear(x.to(self.weight.dtype), self.weight).float()
        return y if self.bias is None else y.add_(self.bias)

    def nbytes(self) -> int:
        return self.weight.nbytes


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

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y = self.packed.matmul(x)
        return y if self.bias is None else y.add_(self.bias)

    def nbytes(self) -> int:
        return self.packed.nbytes()


@dataclass(frozen=True)
class StackedLinear:
    """Several linear layers of one input, their outputs side by side (parts of different precision)."""

    parts: tuple[DenseLinear | QuantizedLinear, ...]

    @property
    def out_features(self) -> int:
        return sum(part.out_features for part in self.parts)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([part(x) for part in self.parts], 1)

    def nbytes(self) -> int:
        return sum(part.nbytes() for part in self.parts)
