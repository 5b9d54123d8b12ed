"""GPTQ: each weight is rounded so that the weights behind it make up for its error, as the inputs of texts weigh errors.

What is lost by a row is (w - ŵ) H (w - ŵ)ᵀ, where H is the mean of x xᵀ over the inputs x that texts gave (arXiv:2210.17323). Columns are rounded
in the order of their inputs' size; groups stay where they are, so that the artifact's format does, too. Scales are searched
for first (`search.py`).
"""

from dataclasses import dataclass

import torch

from itrex_chat.quantization import factors, products
from itrex_chat.quantization.rtn import integer_range
from itrex_chat.quantization.search import searched_rows

BLOCK = 128  # columns between which errors are passed on at once
ROWS = 4096  # rows quantized at a time
EXACT = 8192  # inputs up to which factors are computed in float64, which takes twice the memory
TRIES = 20
DAMPING = 0.2  # added to each input's mean square, as a share of it: on texts of another kind a small share loses a fifth more
RIDGE = 1.0  # the same, where rows are changed for what their inputs lack
FLOOR = 1e-4  # and of the mean of all: an input that no text showed


@dataclass(frozen=True)
class Curvature:
    """H of some matrices that share their inputs, ready for use.

    `hessian` float32 [in, in], damped; `order` int64 [in]: the inputs, the largest first; `factor` float32 [in, in]: upper
    triangular, in that order, whose product of its transpose and itself is the inverse of H.
    """

    hessian: torch.Tensor
    order: torch.Tensor
    factor: torch.Tensor

    @classmethod
    def of(cls, mean: torch.Tensor) -> "Curvature":
        """For the mean of x xᵀ, float32 [in, in], which is overwritten."""
        return cls.of_damped(damped(mean))

    @classmethod
    def of_damped(cls, hessian: torch.Tensor) -> "Curvature":
        diagonal = hessian.diagonal()
        order = diagonal.argsort(descending=True, stable=True)
        for _time in range(TRIES):
            # From the last to the first: H = R Rᵀ with an upper triangular R, whose inverse is the factor.
            turned = _in_order(hessian, order.flip(0), torch.float64 if len(order) <= EXACT else torch.float32)
            with products.exact():
                if factors.factor(turned):
                    factors.invert(turned)
                    if torch.isfinite(turned.sum()):
                        return cls(hessian, order, turned.float().flip(0, 1))
            del turned
            diagonal *= 1 + 10 * DAMPING  # rounding made it so that it has no factor
        raise ValueError("activations that are not finite numbers")

    def loss(self, difference: torch.Tensor) -> torch.Tensor:
        """(w - ŵ) H (w - ŵ)ᵀ of each row of a difference, float32 [rows, in]."""
        return ((difference @ self.hessian) * difference).sum(1)


def damped(mean: torch.Tensor) -> torch.Tensor:
    """The mean of x xᵀ, float32 [in, in], which becomes H."""
    diagonal = mean.diagonal()
    diagonal += DAMPING * diagonal + FLOOR * diagonal.median().clamp(min=1e-12)
    return mean


def solved(hessian: torch.Tensor, along: torch.Tensor) -> torch.Tensor:
    """The change of rows, float32 [rows, in], that explains what their products lack, with a ridge: `hessian` is H,
    `along` float32 [in, rows], overwritten, the mean of each input times that."""
    for _time in range(TRIES):
        ridge = hessian.clone()
        ridge.diagonal().mul_(1 + RIDGE)
        with products.exact():
            if factors.factor(ridge):
                factors.solve(ridge, along)
                return along.t()
        del ridge
        hessian.diagonal().mul_(1 + 10 * DAMPING)  # rounding made it so that it has no factor
    raise ValueError("activations that are not finite numbers")


def _in_order(matrix: torch.Tensor, order: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A matrix with its rows and columns in an order, without a third one beside both."""
    found = torch.empty(len(order), len(order), dtype=dtype)
    for some, rows in zip(found.split(BLOCK), order.split(BLOCK)):
        some.copy_(matrix[rows][:, order])
    return found


def gptq_rows(
    weight: torch.Tensor, weight_dtype: str, group_size: int, curvature: Curvature
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize whole rows of a matrix; as `searched_rows`, with `weight` float32 [rows, in] left as it is."""
    parts = [_some_rows(part, weight_dtype, group_size, curvature) for part in weight.split(ROWS)]
    return torch.cat([integers for integers, _scales in parts]), torch.cat([scales for _integers, scales in parts])


def _some_rows(
    weight: torch.Tensor, weight_dtype: str, group_size: int, curvature: Curvature
) -> tuple[torch.Tensor, torch.Tensor]:
    _integers, scales = searched_rows(weight, weight_dtype, group_size, curvature.hessian.diagonal())
    integers = rounded(weight, scales, group_size, curvature, *integer_range(weight_dtype))
    return integers, scales


def rounded(
    weight: torch.Tensor, scales: torch.Tensor, group_size: int, curvature: Curvature, low: int, high: int
) -> torch.Tensor:
    """The integers, int8 [rows, in], of rows with these scales, float32 [rows, groups]."""
    order, factor = curvature.order, curvature.factor
    left = weight.t()[order]  # [in, rows]: a column is one behind the other
    steps = scales.t()[order // group_size]
    inverse = torch.where(steps != 0, 1 / steps, 0)
    found = torch.empty_like(left)
    for start in range(0, len(order), BLOCK):
        stop = min(start + BLOCK, len(order))
        errors = torch.empty(stop - start, left.shape[1])
        for at in range(start, stop):
            q = torch.mul(left[at], inverse[at], out=found[at]).round_().clamp_(low, high)
            error = torch.addcmul(left[at], q, steps[at], value=-1, out=errors[at - start]).div_(factor[at, at])
            left[at + 1 : stop].addr_(factor[at, at + 1 : stop], error, alpha=-1)
        left[stop:].addmm_(factor[start:stop, stop:].t(), errors, alpha=-1)
    integers = torch.empty(left.shape, dtype=torch.int8)
    integers[order] = found.to(torch.int8)
    return integers.t().contiguous()
