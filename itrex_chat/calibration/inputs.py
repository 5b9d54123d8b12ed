"""What a matrix's inputs were while texts went through it, and its weights quantized by that."""

from functools import cached_property
from typing import NamedTuple

import torch

from itrex_chat.quantization.gptq import Curvature, damped, gptq_rows, solved
from itrex_chat.quantization.plan import Treatment
from itrex_chat.quantization.rtn import quantize_rows
from itrex_chat.quantization.search import searched_rows

PANEL = 1024  # columns of x xᵀ that are computed at a time


class Seen(NamedTuple):
    """Some inputs of a matrix, float32 [tokens, in], and what is lacking to what they are where nothing is quantized: of
    themselves, or float32 [tokens, out] of their products."""

    rows: torch.Tensor
    inputs: torch.Tensor | None = None
    outputs: torch.Tensor | None = None


class Inputs:
    """The mean of x xᵀ over inputs x of `width` values, or with `whole` False its diagonal alone. Where `every` is not 0, their
    mean magnitudes, too, and each so manieth of them as it is."""

    def __init__(self, width: int, whole: bool, every: int = 0):
        self._sums = torch.zeros(width, width) if whole else torch.zeros(width)
        self._count, self._every = 0, every
        self._lacking: torch.Tensor | None = None  # x times what is lacking of inputs, summed up
        self._products_lack: torch.Tensor | None = None  # or of products
        self._absolute, self._some = torch.zeros(width), list[torch.Tensor]()

    def add(self, seen: Seen) -> None:
        rows = seen.rows
        self._lacking = _summed(self._lacking, rows, seen.inputs)
        self._products_lack = _summed(self._products_lack, rows, seen.outputs)
        if self._every:
            self._absolute += rows.abs().sum(0)
            self._some.append(rows[-self._count % self._every :: self._every].clone())
        self._count += len(rows)
        if self._sums.dim() == 2:
            for start in range(0, len(self._sums), PANEL):  # above the diagonal: the rest is the same turned over
                self._sums[start : start + PANEL, start:].addmm_(rows[:, start : start + PANEL].t(), rows[:, start:])
        else:
            self._sums += rows.square().sum(0)

    @property
    def mean_squares(self) -> torch.Tensor:
        """Of each value, float32 [width]."""
        means = self._sums / self._count
        return means.diagonal() if means.dim() == 2 else means

    @property
    def magnitudes(self) -> torch.Tensor:
        """The mean magnitude of each value, float32 [width]."""
        return self._absolute / self._count

    @property
    def some(self) -> torch.Tensor:
        """Some of the inputs, evenly spread, float32 [inputs, width]."""
        return torch.cat(self._some)

    def divide(self, factors: torch.Tensor) -> None:
        """Divide all inputs that were counted by factors, float32 [width]; of the mean of x xᵀ only its diagonal is needed."""
        assert self._sums.dim() == 1
        self._sums /= factors.square()

    def nearer(self, weight: torch.Tensor) -> torch.Tensor | None:
        """What makes products with a matrix, float32 [out, in], come nearer to what they are where nothing is quantized, if it is
        added; None where nothing is known of that."""
        along = self._products_lack
        if self._lacking is not None:
            along = self._lacking @ weight.t()
        if along is None:
            return None
        along = along / self._count
        return solved(self._hessian, along)

    @cached_property
    def curvature(self) -> Curvature:
        """To be asked for when all inputs were counted, and last; what was summed up becomes it."""
        return Curvature.of_damped(self._hessian)

    @cached_property
    def _hessian(self) -> torch.Tensor:
        means = self._sums.div_(self._count)
        self._count = 1
        for start in range(0, len(means), PANEL):
            corner = means[start : start + PANEL, start : start + PANEL]
            corner.copy_(corner.triu() + corner.triu(1).t())
            means[start + PANEL :, start : start + PANEL] = means[start : start + PANEL, start + PANEL :].t()
        return damped(means)


def _summed(sums: torch.Tensor | None, rows: torch.Tensor, lacking: torch.Tensor | None) -> torch.Tensor | None:
    if lacking is None:
        return sums
    sums = torch.zeros(rows.shape[1], lacking.shape[1]) if sums is None else sums
    return sums.addmm_(rows.t(), lacking)


FOLLOWING = ("autoround", "gptq")  # algorithms that follow what texts become where nothing is quantized
NEEDS_ALL = ("gptq",)  # algorithms that need more than the mean squares
SOME = 1024  # inputs that are kept as they are, where that is wanted


def quantized(weight: torch.Tensor, treatment: Treatment, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize a matrix, float32 [out, in], overwritten, with its algorithm: integers and scales as `searched_rows` gives
    them."""
    wanted = treatment.weight_dtype, treatment.group_size
    if treatment.algorithm == "gptq":
        return gptq_rows(weight, *wanted, inputs.curvature)
    if treatment.algorithm in ("importance", "awq"):
        return searched_rows(weight, *wanted, inputs.mean_squares)
    return quantize_rows(weight, *wanted)
