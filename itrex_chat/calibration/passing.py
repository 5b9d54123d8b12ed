"""Texts on their way through a block, in steps between which its matrices may change."""

import dataclasses

import torch

from itrex_chat.architecture.config import DecoderConfig
from itrex_chat.decoder.block import Block
from itrex_chat.decoder.model import Decoder, rms_norm


class Passing:
    """A block and its inputs `x`, float32 [tokens, hidden], which become its outputs; each step is of a part of the tokens."""

    def __init__(self, x: torch.Tensor, block: Block, config: DecoderConfig, number: int):
        self.x, self.block, self._config = x, block, config
        only = dataclasses.replace(config, layers=1, windows=config.windows[number : number + 1])
        self._decoder = Decoder(only, torch.empty(0), (block,), block.attention_norm, block.qkv)

    def attention_inputs(self, part: slice) -> torch.Tensor:
        return rms_norm(self.x[part], self.block.attention_norm, self._config.norm_eps)

    def mixed(self, part: slice, lengths: list[int]) -> torch.Tensor:
        """What the output matrix takes of windows of these lengths, float32 [tokens, heads · head_dim]."""
        return self._decoder.mixed(0, self.block, self.attention_inputs(part), self._decoder.whole(lengths))

    def attended(self, part: slice, mixed: torch.Tensor) -> None:
        self._add(part, self.block.output(mixed), self.block.after_attention_norm)

    def mlp_inputs(self, part: slice) -> torch.Tensor:
        return rms_norm(self.x[part], self.block.mlp_norm, self._config.norm_eps)

    def inner(self, part: slice) -> torch.Tensor:
        """What the last matrix takes, float32 [tokens, inner]."""
        return self.block.mlp.inner(self.mlp_inputs(part))

    def finished(self, part: slice, inner: torch.Tensor) -> None:
        self._add(part, self.block.mlp.down(inner), self.block.after_mlp_norm)

    def _add(self, part: slice, y: torch.Tensor, norm: torch.Tensor | None) -> None:
        self.x[part] += y if norm is None else rms_norm(y, norm, self._config.norm_eps)
