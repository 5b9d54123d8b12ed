"""Keys and values of a batch of sequences, allocated once."""

import torch

from itrex_chat.architecture.config import DecoderConfig
from itrex_chat.decoder.rotary import angles
from itrex_chat.native import large_pages


class KVCache:
    """Room for `capacity` tokens of each of `batch` sequences.

    `keys`, `values`: float32 [layers, batch, kv_heads, capacity, head_dim].
    `lengths`: int64 [batch], the tokens that each sequence holds. Sequences of
    a batch may differ in length: what lies behind a length is never attended
    to and is overwritten by the next tokens.
    `cos`, `sin`: float32 [batch or 1, capacity, dims/2], set at the prefill.
    """

    def __init__(self, config: DecoderConfig, capacity: int, batch: int = 1):
        shape = (config.layers, batch, config.kv_heads, capacity, config.head_dim)
        self.config, self.capacity, self.batch = config, capacity, batch
        self.keys, self.values = (large_pages.zeros(*shape, dtype=torch.float32) for _ in range(2))
        self.lengths = torch.zeros(batch, dtype=torch.int64)
        self.longest = 0
        self.cos = self.sin = None
        self.step_memory = self.step_logits = None  # of the native pass: one answer's, so that two may be given at once

    def begin(self, prefill_lengths: list[int]) -> None:
        """Forget everything and prepare the rotary angles for prompts of these lengths in tokens."""
        self.lengths.zero_()
        self.longest = 0
        if self.config.rotary.dynamic is None:
            prefill_lengths = prefill_lengths[:1]
        tables = [angles(self.config, length, self.capacity) for length in prefill_lengths]
        self.cos, self.sin = (torch.stack(table) for table in zip(*tables))

    def advance(self, tokens: int | list[int]) -> None:
        """Count the tokens written to each sequence."""
        self.lengths += tokens if isinstance(tokens, int) else torch.tensor(tokens)
        self.longest = int(self.lengths.max())

    def forget(self, tokens: int) -> None:
        """Take the last tokens of each sequence back."""
        self.lengths -= tokens
        self.longest -= tokens

    @staticmethod
    def bytes_per_token(config: DecoderConfig) -> int:
        return 2 * 4 * config.layers * config.kv_heads * config.head_dim
