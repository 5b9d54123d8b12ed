"""The scale of each group that loses least: rounding to nearest with scales that were looked for.

What is lost is the sum of d·(w - s·q)² over a group, where d is 1, or how much an error of an input's weights counts. For
given integers q the best scale is Σ d·w·q / Σ d·q², and with it the sum is (Σ d·w·q)² / Σ d·q² less than with a scale of
zero. So each candidate is judged by the integers that it gives, with the scale that is best for these.

`scales_of` is the definition; the native kernels give the same bits (`native/search.c`).
"""

import torch

from itrex_chat import native
from itrex_chat.quantization.rtn import integer_range

# What the largest magnitude of a group becomes, in candidates, as a share of the largest integer's; both signs are tried.
SHARES = tuple(0.75 + 0.03125 * step for step in range(14))
REFITS = 2
SLAB = 1 << 17  # values looked at together: they stay in the processor's cache
LEAST = 1e-30  # the magnitude of a scale that has an inverse
FLOOR = 1e-3  # the least that an input counts, as a share of the mean: what no text showed still counts


def searched_rows(
    weight: torch.Tensor, weight_dtype: str, group_size: int, importance: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize whole rows of a matrix with the scales that lose least.

    `weight` float32 [rows, in]; in is a multiple of `group_size`. `importance` float32 [in]: what the squared error of each
    input's weights counts, 0 or more; None is 1. Returns integers, int8 [rows, in], and scales, float32 [rows, in/group_size],
    as float16 has them; infinite where it has none.
    """
    counts = None if importance is None else _floored(importance)
    low, high = integer_range(weight_dtype)
    factors = _factors(low, high)
    if not native.missing():
        weight = weight.contiguous()
        scales = native.search(weight, counts, group_size, low, high, factors, REFITS).half().float()
        return native.nearest(weight, scales, group_size, low, high), scales
    rows, width = weight.shape
    integers, scales = torch.empty(rows, width, dtype=torch.int8), torch.empty(rows, width // group_size)
    step = max(1, SLAB // width)
    for start in range(0, rows, step):
        part = weight[start : start + step].contiguous()
        groups = part.view(len(part), -1, group_size).permute(2, 0, 1).contiguous()
        seen = None if counts is None else counts.view(-1, 1, group_size).permute(2, 1, 0)
        found = scales[start : start + step] = scales_of(groups, seen, low, high, factors).half().float()
        integers[start : start + step] = nearest(part, found, group_size, low, high)
    return integers, scales


def nearest(weight: torch.Tensor, scales: torch.Tensor, group_size: int, low: int, high: int) -> torch.Tensor:
    """The nearest integers, int8 [rows, in], with these scales, float32 [rows, in/group_size]."""
    inverse = _inverse(scales)[..., None]
    groups = weight.view(*scales.shape, group_size)
    return (groups * inverse).round_().clamp_(low, high).to(torch.int8).view(weight.shape)


def scales_of(
    values: torch.Tensor, counts: torch.Tensor | None, low: int, high: int, factors: torch.Tensor
) -> torch.Tensor:
    """Scales [rows, groups] for values [group_size, rows, groups] that count as `counts` [group_size, 1, groups] says."""
    counted = values if counts is None else values * counts

    def refitted(scales: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The best scales for the integers that these give, and what they are better than scales of zero."""
        integers = (values * _inverse(scales)).clamp_(low, high).round_()
        along = _sum(counted * integers)
        squares = _sum(integers.square_() if counts is None else integers.square_().mul_(counts))
        found = torch.where(squares > 0, along / squares, 0)
        return found, found * along

    largest = values.abs().amax(0)
    most, best = torch.full_like(largest, -1.0), torch.zeros_like(largest)
    for factor in factors:
        found, gain = refitted(largest * factor)
        most, best = torch.where(gain > most, gain, most), torch.where(gain > most, found, best)
    for _time in range(REFITS):
        best, _gain = refitted(best)
    return best


def _factors(low: int, high: int) -> torch.Tensor:
    """What the largest magnitude of a group times which is a candidate, float32."""
    signs = (1, -1) if -low != high else (1,)
    return torch.tensor([1 / (sign * share * -low) for sign in signs for share in SHARES])


def _floored(importance: torch.Tensor) -> torch.Tensor:
    mean = importance.mean()
    return (importance / mean).clamp(min=FLOOR) if mean > 0 else torch.ones_like(importance)


def _inverse(scales: torch.Tensor) -> torch.Tensor:
    return torch.where(scales.abs() > LEAST, 1 / scales, 0)


def _sum(parts: torch.Tensor) -> torch.Tensor:
    """The sum over the first dimension, one after the other."""
    total = torch.zeros_like(parts[0])
    for part in parts:
        total += part
    return total
