"""AWQ: what is large among a matrix's inputs is divided by a factor before it, and its weights multiplied by that.

Groups of weights then give more of their steps to the inputs that count (arXiv:2306.00978). Factors are powers of the mean
magnitudes of the inputs; the power is the one with which the products of some inputs lose least. What is before the
matrix, a norm or another matrix, takes the division, so that nothing is computed beside it.
"""

import torch

from itrex_chat.quantization.search import searched_rows

STEPS = 20  # powers that are tried, from 0 on, below 1
ROWS = 1024  # rows of a matrix that are judged, evenly spread
LARGEST = 32.0  # factor, and its inverse the smallest: scales stay within float16
LEAST = 1e-4  # mean magnitude, as a share of the mean of all


def factors(
    weight: torch.Tensor,
    weight_dtype: str,
    group_size: int,
    magnitudes: torch.Tensor,
    mean_squares: torch.Tensor,
    some: torch.Tensor,
) -> torch.Tensor:
    """The factors of a matrix's inputs, float32 [in], for `weight` float32 [rows, in].

    `magnitudes` float32 [in]: the mean magnitude of each input, or of all that have to have the same factor; `mean_squares`
    float32 [in]; `some` float32 [tokens, in]: inputs on whose products factors are judged.
    """
    judged = weight[:: -(-len(weight) // ROWS)].contiguous()
    found, least = torch.ones_like(magnitudes), torch.inf
    for step in range(STEPS):
        factor = powers(magnitudes, step / STEPS)
        integers, scales = scaled_rows(judged, weight_dtype, group_size, factor, mean_squares)
        difference = integers * scales.repeat_interleave(group_size, 1) / factor - judged
        loss = float((some @ difference.t()).square().sum())
        if loss < least:
            found, least = factor, loss
    return found


def powers(magnitudes: torch.Tensor, power: float) -> torch.Tensor:
    """A power of magnitudes, 1 in the geometric mean, within bounds."""
    logs = magnitudes.clamp(min=max(LEAST * float(magnitudes.mean()), 1e-30)).log()
    return ((logs - logs.mean()) * power).exp().clamp(1 / LARGEST, LARGEST)


def scaled_rows(
    weight: torch.Tensor, weight_dtype: str, group_size: int, factor: torch.Tensor, mean_squares: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize rows times factors, as `searched_rows`, which weighs them by the inputs that they then have."""
    return searched_rows(weight * factor, weight_dtype, group_size, mean_squares / factor.square())
