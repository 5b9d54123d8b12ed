"""Keys and values of sequences, in pages that are taken as a sequence grows."""

import torch

from itrex_chat.architecture.config import DecoderConfig
from itrex_chat.decoder.pages import PAGE, Pages, page_bytes, pages_for
from itrex_chat.decoder.rotary import angles, stretch


class KVCache:
    """Rows for `batch` sequences of up to `capacity` tokens each, which share the pages of one pool.

    `lengths`: the tokens that each row holds. Rows may differ in length: what
    lies behind a length is never attended to and is overwritten by the next
    tokens.
    `table`: int32 [batch, pages of a row], the pages that each row has.
    Without a pool, there are pages enough for all rows.
    """

    def __init__(self, config: DecoderConfig, capacity: int, batch: int = 1, pages: Pages | None = None):
        self.config, self.capacity, self.batch = config, capacity, batch
        self.pages = pages or Pages(config, batch * pages_for(capacity))
        self.table = torch.zeros(batch, pages_for(capacity), dtype=torch.int32)
        self.lengths = [0] * batch
        self._held: list[list[int]] = [[] for _row in range(batch)]
        self._angles: dict[float, torch.Tensor] = {}
        self._stretches = [1.0] * batch
        # of the native pass: one answer's, so that two may be given at once
        self.step_memory: torch.Tensor | None = None
        self.step_logits: torch.Tensor | None = None

    def begin(self, prefill_lengths: list[int]) -> None:
        """Forget everything and prepare each row for prompts of these lengths in tokens."""
        for row, length in enumerate(prefill_lengths):
            self.begin_row(row, length)

    def begin_row(self, row: int, prefill_length: int) -> None:
        """Forget what a row holds and prepare it for a prompt of this length in tokens, on which the angles of Qwen's
        dynamic NTK depend."""
        self.end_row(row)
        self._stretches[row] = factor = stretch(self.config, prefill_length)
        if factor not in self._angles:
            in_use = set(self._stretches)
            self._angles = {known: table for known, table in self._angles.items() if known in in_use}
            self._angles[factor] = torch.cat(angles(self.config, prefill_length, self.capacity), 1)

    def end_row(self, row: int) -> None:
        """Give the pages of a row back."""
        self.lengths[row] = 0
        while self._held[row]:
            self.pages.release(self._held[row].pop())

    def adopt(self, row: int, pages: list[int], tokens: int) -> None:
        """Let a row that is empty begin with so many tokens of other pages, which it becomes a user of; the last one is
        copied where it is not full, for both go on to write there. Raises NoPages, and the row stays empty."""
        assert not self._held[row] and len(pages) == pages_for(tokens)
        whole, rest = divmod(tokens, PAGE)
        last = [self.pages.copy(pages[-1])] if rest else []
        for page in pages[:whole]:
            self.pages.share(page)
        self._hold(row, pages[:whole] + last)
        self.lengths[row] = tokens

    def reserve(self, row: int, tokens: int) -> None:
        """Take the pages for so many more tokens of a row. Raises NoPages; what was taken stays with the row."""
        while len(self._held[row]) * PAGE < self.lengths[row] + tokens:
            self._hold(row, [self.pages.take()])

    def held(self, row: int) -> list[int]:
        """The pages of a row."""
        return self._held[row]

    def angles(self, row: int) -> torch.Tensor:
        """Cosines and behind them sines of a row's positions, float32 [capacity, dims]."""
        return self._angles[self._stretches[row]]

    def check_room(self, row: int, tokens: int) -> None:
        """Raise ValueError where a row has no room for so many more tokens."""
        if self.lengths[row] + tokens > self.capacity:
            raise ValueError(f"{tokens} more tokens than the {self.lengths[row]} in a cache for {self.capacity}")

    def forget(self, tokens: int, row: int = 0) -> None:
        """Take the last tokens of a row back."""
        self.lengths[row] -= tokens

    def write(self, layer: int, row: int, start: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Keys and values, float32 [tokens, kv_heads, head_dim] each, from a position of a row on."""
        done = 0
        while done < len(keys):
            page, first = divmod(start + done, PAGE)
            some = slice(done, done + min(PAGE - first, len(keys) - done))
            self.pages.write(layer, self._held[row][page], first, keys[some], values[some])
            done = some.stop

    def read(self, layer: int, row: int, first: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the positions [first, end) of a row, float32 [kv_heads, positions, head_dim] each."""
        begin = first // PAGE
        found = self.pages.read(layer, self._held[row][begin : pages_for(end)])
        keys, values = (part[:, first - begin * PAGE : end - begin * PAGE] for part in found)
        return keys, values

    def _hold(self, row: int, pages: list[int]) -> None:
        held = self._held[row]
        self.table[row, len(held) : len(held) + len(pages)] = torch.tensor(pages, dtype=torch.int32)
        held += pages

    @staticmethod
    def bytes_per_token(config: DecoderConfig, kind: str = "fp32") -> int:
        return page_bytes(config, kind) // PAGE
