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
        head=weights.linear(linear_names(config)[-1]),
    )


def linear_names(config: DecoderConfig) -> list[list[str]]:
    """The linear layers that are asked for as one, for all products of a pass in their order."""
    blocks = [names for number in range(config.layers) for names in block_linear_names(config, number)]
    return [*blocks, [HEAD.removesuffix(".weight")]]


def block_linear_names(config: DecoderConfig, number: int) -> list[list[str]]:
    """The same of one block: queries, keys and values; the output; gate and up; down."""
    return [*_attention_names(layer(number)), *_mlp_names(config, layer(number))]


def _attention_names(prefix: str) -> tuple[list[str], list[str]]:
    return [f"{prefix}self_attn.{part}_proj" for part in "qkv"], [prefix + "self_attn.o_proj"]


def _mlp_names(config: DecoderConfig, prefix: str) -> tuple[list[str], list[str]]:
    return [prefix + module for module in config.mlp.gate_up_modules()], [prefix + "mlp.down_proj"]


def load_block(weights: Weights, number: int) -> Block:
    """One block of the decoder that `weights` describe."""
    config, prefix = weights.config, layer(number)
    qkv, output = _attention_names(prefix)
    norms: dict[str, str] = {}
    if config.qk_norm:
        norms |= {"query_norm": "self_attn.q_norm", "key_norm": "self_attn.k_norm"}
    if config.sandwich_norms:
        norms |= {"after_attention_norm": "post_self_attn_layernorm", "after_mlp_norm": "post_mlp_layernorm"}
    return Block(
        attention_norm=weights.vector(prefix + "input_layernorm.weight"),
        qkv=weights.linear(qkv),
        output=weights.linear(output),
        mlp_norm=weights.vector(prefix + "post_attention_layernorm.weight"),
        mlp=load_mlp(weights, prefix),
        **{field: weights.vector(f"{prefix}{name}.weight") for field, name in norms.items()},
    )


def load_mlp(weights: Weights, prefix: str) -> GatedMlp:
    """The MLP of the block whose tensors' names begin with `prefix`."""
    gate_up, down = _mlp_names(weights.config, prefix)
    return GatedMlp(weights.linear(gate_up), weights.linear(down), weights.config.mlp.activation)
