"""The MLP of a decoder block: what `architecture/mlp.py` describes, with its weights."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from itrex_chat.decoder.linear import Linear

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"silu": F.silu}


@dataclass(frozen=True)
class GatedMlp:
    """down(activation(gate) · up), where `gate_up` gives both side by side, the gate first."""

    gate_up: Linear
    down: Linear
    activation: str = "silu"

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x float32 [rows, hidden] to float32 [rows, hidden]."""
        return self.down(self.inner(x))

    def inner(self, x: torch.Tensor) -> torch.Tensor:
        """What `down` takes, float32 [rows, inner]."""
        gate, up = self.gate_up(x).chunk(2, -1)
        return ACTIVATIONS[self.activation](gate).mul_(up)

    def linears(self) -> tuple[Linear, ...]:
        return self.gate_up, self.down
