"""Keys and values of sequences, allocated once."""

import torch

from itrex_chat.architecture.config import DecoderConfig
from itrex_chat.decoder.rotary import angles
from itrex_chat.native import large_pages


class KVCache:
    """Rows for `batch` sequences of up to `capacity` tokens each.

    `keys`, `values`: float32 [layers, batch, kv_heads, capacity, head_dim].
    `lengths`: the tokens that each row holds. Rows may differ in length: what
    lies behind a length is never attended to and is overwritten by the next
    tokens.
    `cos`, `sin`: float32 [batch or 1, capacity, dims/2], set when a sequence begins.
    """

    def __init__(self, config: DecoderConfig, capacity: int, batch: int = 1):
        shape = (config.layers, batch, config.kv_heads, capacity, config.head_dim)
        self.config, self.capacity, self.batch = config, capacity, batch
        self.keys, self.values = (large_pages.zeros(*shape, dtype=torch.float32) for _ in range(2))
        self.lengths = [0] * batch
        self.cos = self.sin = torch.empty(0)
        # of the native pass: one answer's, so that two may be given at once
        self.step_memory: torch.Tensor | None = None
        self.step_logits: torch.Tensor | None = None

    @property
    def longest(self) -> int:
        """The tokens of the row that holds most."""
        return max(self.lengths)

    def begin(self, prefill_lengths: list[int]) -> None:
        """Forget everything and prepare the rotary angles of each row for prompts of these lengths in tokens."""
        self.cos = self.sin = torch.empty(0)
        for row, length in enumerate(prefill_lengths):
            self.begin_row(row, length)

    def begin_row(self, row: int, prefill_length: int) -> None:
        """Forget what a row holds and prepare its rotary angles for a prompt of this length in tokens.

        Where angles depend on the prompt's length (Qwen's dynamic NTK), each row has its own.
        """
        self.lengths[row] = 0
        own = self.config.rotary.dynamic is not None
        if own or not len(self.cos):
            cos, sin = angles(self.config, prefill_length, self.capacity)
            if not len(self.cos):
                tables = self.batch if own else 1
                self.cos, self.sin = (torch.empty(tables, *cos.shape) for _table in range(2))
            self.cos[row if own else 0], self.sin[row if own else 0] = cos, sin

    def check_room(self, row: int, tokens: int) -> None:
        """Raise ValueError where a row has no room for so many more tokens."""
        if self.lengths[row] + tokens > self.capacity:
            raise ValueError(f"{tokens} more tokens than the {self.lengths[row]} in a cache for {self.capacity}")

    def forget(self, tokens: int, row: int = 0) -> None:
        """Take the last tokens of a row back."""
        self.lengths[row] -= tokens

    @staticmethod
    def bytes_per_token(config: DecoderConfig) -> int:
        return 2 * 4 * config.layers * config.kv_heads * config.head_dim
