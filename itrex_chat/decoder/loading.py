"""Building a decoder from stored weights."""

from typing import Protocol

import torch

from itrex_chat.architecture.config import DecoderConfig
from itrex_chat.architecture.layout import EMBEDDING, HEAD, layer
from itrex_chat.decoder.block import Block
from itrex_chat.decoder.linear import Linear
from itrex_chat.decoder.mlp import GatedMlp
from itrex_chat.decoder.model import Decoder


class Weights(Protocol):
    """Where a decoder's parts come from: a checkpoint or an artifact (`engines/native/weights.py`)."""

    @property
    def config(self) -> DecoderConfig: ...

    def vector(self, name: str) -> torch.Tensor:
        """A norm's weight or a bias, float32."""

    def embedding(self, name: str) -> torch.Tensor: ...

    def linear(self, names: list[str]) -> Linear:
        """The layers of these names, without ".weight", as one with their outputs side by side."""


def load_decoder(weights: Weights) -> Decoder:
    """The decoder that `weights` describe."""
    config = weights.config
    return Decoder(
        config=config,
        embedding=weights.embedding(EMBEDDING),
        blocks=tuple(load_block(weights, number) for number in range(config.layers)),
        norm=weights.vector("model.norm.weight"),
        head=weights.linear([HEAD.removesuffix(".weight")]),
    )


def load_block(weights: Weights, number: int) -> Block:
    """One block of the decoder that `weights` describe."""
    config, prefix = weights.config, layer(number)
    norms: dict[str, str] = {}
    if config.qk_norm:
        norms |= {"query_norm": "self_attn.q_norm", "key_norm": "self_attn.k_norm"}
    if config.sandwich_norms:
        norms |= {"after_attention_norm": "post_self_attn_layernorm", "after_mlp_norm": "post_mlp_layernorm"}
    return Block(
        attention_norm=weights.vector(prefix + "input_layernorm.weight"),
        qkv=weights.linear([f"{prefix}self_attn.{part}_proj" for part in "qkv"]),
        output=weights.linear([prefix + "self_attn.o_proj"]),
        mlp_norm=weights.vector(prefix + "post_attention_layernorm.weight"),
        mlp=load_mlp(weights, prefix),
        **{field: weights.vector(f"{prefix}{name}.weight") for field, name in norms.items()},
    )


def load_mlp(weights: Weights, prefix: str) -> GatedMlp:
    """The MLP of the block whose tensors' names begin with `prefix`."""
    mlp = weights.config.mlp
    return GatedMlp(
        weights.linear([prefix + module for module in mlp.gate_up_modules()]),
        weights.linear([prefix + "mlp.down_proj"]),
        mlp.activation,
    )
