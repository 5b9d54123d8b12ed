"""Linear layers, the one thing in which the variants of a model differ."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn import functional as F


class Linear(Protocol):
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x float32 [rows, in] to float32 [rows, out]."""

    def nbytes(self) -> int: ...


@dataclass(frozen=True)
class DenseLinear:
    """A matrix [out, in] in float32 or bfloat16; activations are rounded to its dtype, sums are float32."""

    weight: torch.Tensor
    bias: torch.Tensor | None = None

    def __call__(self, x):
        if self.weight.dtype == torch.float32:
            return F.linear(x, self.weight, self.bias)
        y = F.linear(x.to(self.weight.dtype), self.weight).float()
        return y if self.bias is None else y.add_(self.bias)

    def nbytes(self):
        return self.weight.nbytes


@dataclass(frozen=True)
class QuantizedLinear:
    """A matrix in a kernel's layout (`kernels.PackedWeight`)."""

    packed: "PackedWeight"  # noqa: F821
    bias: torch.Tensor | None = None

    def __call__(self, x):
        y = self.packed.matmul(x)
        return y if self.bias is None else y.add_(self.bias)

    def nbytes(self):
        return self.packed.nbytes()


@dataclass(frozen=True)
class StackedLinear:
    """Several linear layers of one input, their outputs side by side (parts of different precision)."""

    parts: tuple[Linear, ...]

    def __call__(self, x):
        return torch.cat([part(x) for part in self.parts], 1)

    def nbytes(self):
        return sum(part.nbytes() for part in self.parts)
