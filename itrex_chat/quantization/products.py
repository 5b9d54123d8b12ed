"""Products of many rows in float32, by whichever library is the faster one.

On its own PyTorch multiplies float32 with MKL, which does not use AVX-512 on AMD's processors. oneDNN, which "medium" allows, does, and
gives the same to a millionth in half of the time. With AMX it rounds what is multiplied to bfloat16, which is no more than a part
in 256 of a weight or an input, far below what four bits do to them, and sums stay float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

SIZE = 256  # rows and columns of what is tried


@contextmanager
def fast() -> Iterator[None]:
    """Products of matrices are quick as long as this goes on."""
    with _precision("medium"):
        yield


@contextmanager
def exact() -> Iterator[None]:
    """Products are in float32 whatever goes on around, as factors of matrices need it."""
    with _precision("medium" if _fast_is_exact() else "highest"):
        yield


@contextmanager
def _precision(wanted: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(wanted)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@cache
def _fast_is_exact() -> bool:
    """Whether this processor's quick products round nothing to fewer bits."""
    x = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with fast():
        found = x @ x
    wanted = x.double() @ x.double()
    return float((found - wanted).norm() / wanted.norm()) < 1e-5
