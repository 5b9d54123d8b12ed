"""What is before a matrix and takes the division of its inputs by factors: a norm, or the rows of another matrix."""

from dataclasses import dataclass
from typing import Protocol

import torch

from itrex_chat.decoder.linear import DenseLinear

Made = dict[str, dict[str, torch.Tensor]]  # what the artifact stores, by the name of the treatment


class Before(Protocol):
    def evened(self, magnitudes: torch.Tensor) -> torch.Tensor:
        """The magnitudes of inputs, float32 [in], as factors may follow them: the same where a factor has to be the same."""

    def divide(self, factors: torch.Tensor, made: Made) -> None:
        """Divide by factors, float32 [in], here and in what the artifact stores."""


@dataclass(frozen=True)
class Norm:
    """The norm whose weight, float32 [in], has this name."""

    name: str
    weight: torch.Tensor

    def evened(self, magnitudes: torch.Tensor) -> torch.Tensor:
        return magnitudes

    def divide(self, factors: torch.Tensor, made: Made) -> None:
        self.weight.div_(factors)
        made[self.name] = {self.name: self.weight.clone()}


@dataclass(frozen=True)
class Rows:
    """Rows from `first` on of quantized matrices side by side, `stops` their ends by name. Each `width` rows give the inputs
    of `times` as many, one copy behind the other: the values of a head that several heads of queries share."""

    stops: dict[str, int]
    linear: DenseLinear
    first: int
    width: int
    times: int = 1

    def evened(self, magnitudes: torch.Tensor) -> torch.Tensor:
        mean = magnitudes.view(-1, self.times, self.width).mean(1, keepdim=True)
        return mean.expand(-1, self.times, -1).reshape(-1)

    def divide(self, factors: torch.Tensor, made: Made) -> None:
        factors = factors.view(-1, self.times, self.width)[:, 0].reshape(-1)
        start = 0
        for name, stop in self.stops.items():
            if stop > (begin := max(self.first, start)):
                self._divide(name, slice(begin - start, stop - start), slice(begin, stop), factors, made)
            start = stop

    def _divide(self, name: str, own: slice, here: slice, factors: torch.Tensor, made: Made) -> None:
        factors = factors[here.start - self.first : here.stop - self.first]
        scales = made[name][f"{name}.scales"]  # float16 [groups, rows]
        before = scales[:, own].float()
        scales[:, own] = before / factors
        change = torch.where(before != 0, scales[:, own].float() / before, 0).t()
        weight = self.linear.weight[here]
        weight.mul_(change.repeat_interleave(weight.shape[1] // change.shape[1], 1))
        if self.linear.bias is not None:
            self.linear.bias[here] /= factors
            whole = slice(here.start - own.start, here.stop)
            made[f"{name}.bias"] = {f"{name}.bias": self.linear.bias[whole].clone()}
