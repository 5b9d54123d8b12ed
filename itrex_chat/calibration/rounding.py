"""AutoRound: which way each weight is rounded, and how large the scale of its group is, learned block by block.

A weight may move by up to half a step before it is rounded, a scale may shrink, and both go a small step against the sign of
their gradient so that the block's outputs come near to what they are where nothing is quantized (arXiv:2309.05516). Steps
become smaller down to nothing, and the last one counts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from itrex_chat.architecture.config import DecoderConfig
from itrex_chat.calibration.passing import Passing
from itrex_chat.decoder.block import Block
from itrex_chat.decoder.mlp import GatedMlp
from itrex_chat.quantization.plan import Treatment
from itrex_chat.quantization.rtn import integer_range, quantize_rows

BATCH = 4  # windows of a step
WIDEST = 0.5  # of a step of the scale, that a weight may move
SMALLEST = 0.5  # share of its scale that a group may have


class Rounded:
    """A matrix, float32 [out, in], whose rounding is learned: `offsets` [out, in] are added to weights in steps of the scale,
    `shares` [out, groups] multiply the scales of rounding to nearest."""

    def __init__(self, weight: torch.Tensor, treatment: Treatment):
        self._weight, self._group = weight, treatment.group_size
        self._low, self._high = integer_range(treatment.weight_dtype)
        _integers, self._scales = quantize_rows(weight.clone(), treatment.weight_dtype, treatment.group_size)
        self.offsets = torch.zeros_like(weight, requires_grad=True)
        self.shares = torch.ones_like(self._scales, requires_grad=True)

    def parameters(self) -> list[torch.Tensor]:
        return [self.offsets, self.shares]

    def __call__(self) -> torch.Tensor:
        """What it is when it is rounded; gradients go through the rounding as though it were none."""
        steps = self._steps(self.scales())
        wanted = self._weight / torch.where(steps == 0, 1, steps) + self.offsets
        return (wanted + (wanted.round() - wanted).detach()).clamp(self._low, self._high) * steps

    def scales(self) -> torch.Tensor:
        """float32 [out, groups]; as float16 has them."""
        scales = self._scales * self.shares
        return scales + (scales.half().float() - scales).detach()

    def step(self, size: float) -> None:
        """Go against the sign of the gradients, within bounds."""
        for values, least, most in ((self.offsets, -WIDEST, WIDEST), (self.shares, SMALLEST, 1.0)):
            if values.grad is not None:
                values.data.sub_(values.grad.sign_(), alpha=size).clamp_(least, most)
                values.grad = None

    def found(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Integers, int8 [out, in], and scales."""
        scales = self.scales().detach()
        steps = self._steps(scales)
        wanted = self._weight / torch.where(steps == 0, 1, steps) + self.offsets.detach()
        return wanted.round_().clamp_(self._low, self._high).to(torch.int8), scales

    def _steps(self, scales: torch.Tensor) -> torch.Tensor:
        return scales.repeat_interleave(self._group, 1)


@dataclass(frozen=True)
class Learned:
    """Matrices side by side, rounded as they are learned, or as they are."""

    parts: Sequence[Rounded | torch.Tensor]
    bias: torch.Tensor | None
    out_features: int
    independent_rows: int | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, torch.cat([part() if isinstance(part, Rounded) else part for part in self.parts]), self.bias)

    def nbytes(self) -> int:
        return 0


@dataclass(frozen=True)
class Windows:
    """Windows of tokens: what goes into a block, what is to come of it, float32 [tokens, hidden] each, and where each window
    lies."""

    inputs: torch.Tensor
    outputs: torch.Tensor
    parts: Sequence[slice]


def learn(
    block: Block,
    linears: Sequence[Learned],
    windows: Windows,
    config: DecoderConfig,
    number: int,
    iterations: int,
    told: Callable[[], object],
) -> None:
    """Learn how the matrices of a block are rounded: `linears` are its queries, keys and values, its output, gate and up, and down.
    `told` is called after each of the steps. The same for the same arguments."""
    qkv, output, gate_up, down = linears
    learned = replace(block, qkv=qkv, output=output, mlp=GatedMlp(gate_up, down, block.mlp.activation))
    rounded = [part for linear in linears for part in linear.parts if isinstance(part, Rounded)]
    drawn, every = torch.Generator().manual_seed(number), slice(None)
    for iteration in range(iterations if rounded else 0):
        chosen = torch.randperm(len(windows.parts), generator=drawn)[:BATCH].tolist()
        parts = [windows.parts[each] for each in chosen]
        wanted = torch.cat([windows.outputs[part] for part in parts])
        with torch.enable_grad():
            passing = Passing(torch.cat([windows.inputs[part] for part in parts]), learned, config, number)
            mixed = passing.mixed(every, [part.stop - part.start for part in parts])
            passing.x = passing.x + passing.output(mixed)
            given = passing.x + passing.down(passing.inner(every))
            (given - wanted).square().mean().backward()
        for each in rounded:
            each.step((1 - iteration / iterations) / iterations)
        told()
