"""Texts on their way through a block, in steps between which its matrices may change."""

import dataclasses
from types import SimpleNamespace
from typing import cast

import torch

from itrex_chat.architecture.config import DecoderConfig
from itrex_chat.decoder.block import Block
from itrex_chat.decoder.kv_cache import KVCache
from itrex_chat.decoder.model import Decoder, rms_norm


class Passing:
    """A block and its inputs `x`, float32 [tokens, hidden], which become its outputs; each step is of a part of the tokens."""

    def __init__(self, x: torch.Tensor, block: Block, config: DecoderConfig, number: int):
        self.x, self.block, self._config = x, block, config
        self._decoder = Decoder.of_one(config, number, block)

    def attention_inputs(self, part: slice) -> torch.Tensor:
        return rms_norm(self.x[part], self.block.attention_norm, self._config.norm_eps)

    def mixed(self, part: slice, lengths: list[int]) -> torch.Tensor:
        """What the output matrix takes of windows of these lengths, float32 [tokens, heads · head_dim]."""
        step = dataclasses.replace(self._decoder.whole(lengths), cache=cast(KVCache, _Held()))
        return self._decoder.mixed(0, self.block, self.attention_inputs(part), step)

    def output(self, mixed: torch.Tensor) -> torch.Tensor:
        """What is added to the tokens for that, float32 [tokens, hidden]."""
        return self._normed(self.block.output(mixed), self.block.after_attention_norm)

    def attended(self, part: slice, mixed: torch.Tensor) -> None:
        self.x[part] += self.output(mixed)

    def mlp_inputs(self, part: slice) -> torch.Tensor:
        return rms_norm(self.x[part], self.block.mlp_norm, self._config.norm_eps)

    def inner(self, part: slice) -> torch.Tensor:
        """What the last matrix takes, float32 [tokens, inner]."""
        return self.block.mlp.inner(self.mlp_inputs(part))

    def down(self, inner: torch.Tensor) -> torch.Tensor:
        """What is added to the tokens for that, float32 [tokens, hidden]."""
        return self._normed(self.block.mlp.down(inner), self.block.after_mlp_norm)

    def finished(self, part: slice, inner: torch.Tensor) -> None:
        self.x[part] += self.down(inner)

    def whole(self, part: slice, lengths: list[int]) -> None:
        """All steps."""
        self.attended(part, self.mixed(part, lengths))
        self.finished(part, self.inner(part))

    def forget(self) -> None:
        """Let go of the block, whose matrices take memory: all is done."""
        del self.block, self._decoder

    def _normed(self, y: torch.Tensor, norm: torch.Tensor | None) -> torch.Tensor:
        return y if norm is None else rms_norm(y, norm, self._config.norm_eps)


class _Held:
    """Keys and values of one block in tensors of their own, through which gradients go, as `KVCache` gives and takes them."""

    def __init__(self) -> None:
        self.pages, self._rows = SimpleNamespace(kind="fp32"), dict[int, tuple[torch.Tensor, torch.Tensor]]()

    def write(self, _layer: int, row: int, _start: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        self._rows[row] = keys.transpose(0, 1), values.transpose(0, 1)

    def read(self, _layer: int, row: int, first: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self._rows[row]
        return keys[:, first:end], values[:, first:end]
