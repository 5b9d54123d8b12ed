"""One decoder block, with its weights."""

from dataclasses import dataclass

import torch

from itrex_chat.decoder.linear import Linear
from itrex_chat.decoder.mlp import GatedMlp


@dataclass(frozen=True)
class Block:
    """One decoder block. Norm weights are float32 [width]; `qkv` is one product."""

    attention_norm: torch.Tensor
    qkv: Linear
    output: Linear
    mlp_norm: torch.Tensor
    mlp: GatedMlp
    query_norm: torch.Tensor | None = None
    key_norm: torch.Tensor | None = None
    after_attention_norm: torch.Tensor | None = None
    after_mlp_norm: torch.Tensor | None = None

    def linears(self) -> tuple[Linear, ...]:
        return self.qkv, self.output, *self.mlp.linears()
