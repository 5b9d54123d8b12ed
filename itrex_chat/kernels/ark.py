"""Intel's BesTLA kernels, from auto-round-lib: the successor of ITREX's QBits. No compiler needed."""

import contextlib
import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import torch

from itrex_chat.foundation.language import _
from itrex_chat.kernels.reference import ReferenceWeight
from itrex_chat.quantization.tensor import QuantizedTensor, concatenated


@dataclass(frozen=True)
class ArkWeight:
    """A matrix in BesTLA's layout, with float32 scales, which hold the artifact's float16 ones exactly."""

    blob: torch.Tensor
    in_features: int
    out_features: int
    bits: int
    compute_dtype: str
    settings: tuple[int, str, str, str, bool]  # group size, compute type, weight type, scale type, asymmetric

    @property
    def independent_rows(self) -> int | None:
        return 1

    def matmul(self, x: torch.Tensor) -> torch.Tensor:
        out = torch.empty(x.shape[0], self.out_features)
        _library().woqgemm(
            x.contiguous(), self.blob, _no_bias(), self.out_features, self.in_features, *self.settings, out=out
        )
        return out

    def dequantize(self) -> torch.Tensor:
        return _library().unpack_weight(self.blob, torch.float32, self.out_features, self.in_features, *self.settings)

    def nbytes(self) -> int:
        return self.blob.nbytes


class Ark:
    name = "ark"
    packing_bytes = 5  # the matrix as stored, its integers, and their copies

    def missing(self) -> str | None:
        if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
            return _("the processor has no AVX2")
        return _library_problem()

    def detail(self) -> str:
        return torch.backends.cpu.get_cpu_capability().lower()

    def pack(self, parts: Sequence[QuantizedTensor], compute_dtype: str) -> ArkWeight | ReferenceWeight:
        weight = concatenated(parts)
        if weight.zeros is not None:  # it knows zero points of another kind
            return ReferenceWeight(weight, compute_dtype)
        integers = weight.integers()  # contiguous: of another layout it takes the address of a copy, and frees it
        settings = (weight.group_size, compute_dtype, f"int{weight.bits}", "fp32", False)
        blob = _library().repack_quantized_weight(
            integers, weight.scales.float().contiguous(), torch.empty(0, dtype=torch.int8), *settings
        )
        return ArkWeight(blob, weight.in_features, weight.out_features, weight.bits, compute_dtype, settings)

    def bytes_per_weight(self, bits: int, group_size: int) -> float:
        return bits / 8 + 8 / group_size  # scales and, for int8 activations, sums, both float32


@functools.cache
def _library() -> ModuleType:
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it cannot load
        import auto_round_kernel
    return auto_round_kernel


@functools.cache
def _library_problem() -> str | None:
    try:
        if getattr(_library(), "cpu_lib", None) is None:
            return _("auto-round-lib has no kernels for this processor or system")
    except ImportError as error:
        return _("auto-round-lib cannot be imported ({reason})", reason=" ".join(str(error).split())[:200])
    return None


@functools.cache
def _no_bias() -> torch.Tensor:
    return torch.empty(0)
