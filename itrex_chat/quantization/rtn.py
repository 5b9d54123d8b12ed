"""Round-to-nearest quantization, by neural-compressor."""

import functools
import os
from collections.abc import Callable
from typing import Any

import torch

from itrex_chat.settings.quantization import GROUP_SIZES, WEIGHT_DTYPES


def quantize_rows(weight: torch.Tensor, weight_dtype: str, group_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize whole rows of a matrix, `group_size` neighbours of a row with one scale.

    `weight` float32 [rows, in], overwritten; in is a multiple of `group_size`.
    Returns the integers, int8 [rows, in], and the scales, float32
    [rows, in/group_size]. `int4_fullrange` has scales of both signs, so that
    the largest weight of a group is -8 times its scale; `int4_clip` maps it to
    ±7, `int8` to ±127.
    Source: neural_compressor.torch, `quant_tensor`, which gives the integers
    and scales of ITREX 1.4.2 (neural-compressor 2.6) bit for bit.
    """
    integers, scales, _zero_points = _quant_tensor()(
        weight,
        bits=WEIGHT_DTYPES[weight_dtype],
        group_size=group_size,
        scheme="sym",
        dtype="int",
        return_int=True,
        full_range=weight_dtype == "int4_fullrange",
    )
    return integers.to(torch.int8), scales


def integer_range(weight_dtype: str) -> tuple[int, int]:
    """The least and the largest integer of a type."""
    return {"int4_fullrange": (-8, 7), "int4_clip": (-7, 7), "int8": (-127, 127)}[weight_dtype]


def fitting_group_size(width: int, wanted: int) -> int | None:
    """The largest of the group sizes up to `wanted` that divides `width`, or None."""
    return next((size for size in sorted(GROUP_SIZES, reverse=True) if size <= wanted and width % size == 0), None)


@functools.cache
def _quant_tensor() -> Callable[..., Any]:
    from unittest.mock import patch

    with patch.dict(os.environ, LOGLEVEL="ERROR"):  # it announces the CPU when it is imported
        from neural_compressor.torch.algorithms.weight_only.utility import quant_tensor
    return quant_tensor
