"""The decoder: one transformer for all families and variants.

Pre-norm blocks of grouped-query attention with rotary positions and an MLP, as
in Llama (arXiv:2302.13971); families differ by `DecoderConfig`, variants by
their linear layers.

A pass reads chunks, tokens of any sequences: the linear layers see the rows of
all chunks together, attention each chunk with its own row of the cache.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from itrex_chat.architecture.config import DecoderConfig
from itrex_chat.decoder.block import Block
from itrex_chat.decoder.kv_cache import KVCache
from itrex_chat.decoder.linear import Linear
from itrex_chat.decoder.native_pass import NativePass, Rows, native_pass_of
from itrex_chat.decoder.pages import Pages, pages_for
from itrex_chat.decoder.rotary import spread, turn
from itrex_chat.native import FEW_ROWS, STEP_ROWS
from itrex_chat.native.mapping import Mapping
from itrex_chat.native.stream import Stream


@dataclass(frozen=True)
class Chunk:
    """Tokens that a pass reads for one sequence, behind those that its row of the cache holds.

    `logits` says for how many of them, from the last, the logits of what
    follows are wanted.
    """

    row: int
    ids: Sequence[int]
    logits: int = 1


@dataclass(frozen=True)
class Span:
    """A chunk's rows in a pass, [first, last), and where they go in the cache: from position `start` of row `row` on."""

    row: int
    start: int
    first: int
    last: int

    @property
    def end(self) -> int:
        """The position behind its last token."""
        return self.start + self.last - self.first


@dataclass(frozen=True)
class Pass:
    """What all blocks of one pass share; `cos`, `sin` [rows, 1, dims/2], `query_scale` [rows, 1, 1] or None."""

    cache: KVCache
    spans: list[Span]
    cos: torch.Tensor
    sin: torch.Tensor
    query_scale: torch.Tensor | None


MOST_IN_STEP = 1 << 19  # tokens of a step by positions


@dataclass(frozen=True)
class Decoder:
    """A loaded variant. `embedding` [vocabulary, hidden] keeps its stored dtype.

    `native_pass` is the pass with the native kernels (`with_native_pass`), or None; `mapping` has the files that
    weights are read from where they lie, `stream` those that do not fit into memory. `cache_format`: how its keys and
    values are kept (`decoder/pages.py`).
    """

    config: DecoderConfig
    embedding: torch.Tensor
    blocks: tuple[Block, ...]
    norm: torch.Tensor
    head: Linear
    native_pass: NativePass | None = None
    mapping: Mapping | None = None
    stream: Stream | None = None
    cache_format: str = "fp32"

    @classmethod
    def of_one(cls, config: DecoderConfig, number: int, block: Block) -> "Decoder":
        """What a block alone needs to be gone through (`whole`, `through`, `mixed`), as block 0; no tokens can be read."""
        only = replace(config, layers=1, windows=config.windows[number : number + 1])
        return cls(only, torch.empty(0), (block,), block.attention_norm, block.qkv)

    def with_native_pass(self) -> "Decoder":
        """This decoder, with the native kernels doing its passes where its layers are made for them."""
        return replace(self, native_pass=native_pass_of(self.config, self.blocks, self.norm, self.head))

    @property
    def independent_tokens(self) -> int:
        """How many tokens a pass takes, of any sequences, so that the logits of each are those that it has alone, bit
        for bit."""
        return FEW_ROWS if self.native_pass else 1

    @property
    def cuts_anywhere(self) -> bool:
        """Whether the logits of a token are the same, bit for bit, wherever what is before it was cut into passes, and
        whatever other tokens were in them."""
        return self.native_pass is not None and self.native_pass.rows_alike

    def new_cache(self, capacity: int, batch: int = 1, pages: Pages | None = None) -> KVCache:
        return KVCache(self.config, capacity, batch, pages or self.new_pages(batch * pages_for(capacity)))

    def new_pages(self, count: int) -> Pages:
        """A pool for keys and values of this decoder."""
        return Pages(self.config, count, self.cache_format)

    def cache_bytes(self) -> int:
        """Bytes of a token's keys and values."""
        return KVCache.bytes_per_token(self.config, self.cache_format)

    @torch.inference_mode()
    def read(self, chunks: Sequence[Chunk], cache: KVCache) -> list[torch.Tensor]:
        """Read the chunks, at most one for each row of the cache, in one pass.

        For each the logits that it wants, float32 [logits, vocabulary]; they
        may be overwritten by the next pass with this cache. Raises ValueError
        before anything is read where a row has no room, NoPages where the pool has none for it, and
        CheckpointError where a file that the weights are read from is not what it was: no logits are given out then.
        """
        for chunk in chunks:
            cache.check_room(chunk.row, len(chunk.ids))
        spans = _spans(chunks, cache)
        ids = chunks[0].ids if len(chunks) == 1 else [token for chunk in chunks for token in chunk.ids]
        for chunk in chunks:
            cache.reserve(chunk.row, len(chunk.ids))
        x = self._embedded(ids)
        rows = self._rows(spans, cache)
        if self.native_pass and self._is_step(len(ids), rows):
            wanted = [row for span, chunk in zip(spans, chunks) for row in range(span.last - chunk.logits, span.last)]
            logits = self.native_pass.step(x, cache, rows, wanted)
            found = list(logits.split([chunk.logits for chunk in chunks]))
        else:
            x = self.native_pass.blocks(x, cache, rows) if self.native_pass else self._blocks(x, cache, spans, rows)
            found = self._logits(x, [(span.last - chunk.logits, span.last) for span, chunk in zip(spans, chunks)])
        for files in (self.mapping, self.stream):
            if files:
                files.check()
        for span in spans:
            cache.lengths[span.row] = span.end
        return found

    def forward(
        self, ids: torch.Tensor, cache: KVCache, counts: list[int] | None = None, all_logits: bool = False
    ) -> torch.Tensor:
        """As `read`, for the sequences of all rows of the cache: ids int64 [batch, tokens].

        `counts` says how many of a row's tokens are real, from the left (all,
        if None). Returns float32 [batch, vocabulary] for the last real token of
        each row, or [batch, tokens, vocabulary] for all.
        """
        counts = counts or [ids.shape[1]] * len(ids)
        chunks = [
            Chunk(row, some.tolist(), count if all_logits else 1)
            for row, (some, count) in enumerate(zip((part[:count] for part, count in zip(ids, counts)), counts))
        ]
        found = torch.stack(self.read(chunks, cache))
        return found if all_logits else found[:, 0]

    def whole(self, lengths: Sequence[int]) -> Pass:
        """What the blocks need to go through sequences of these lengths from their beginnings, side by side, with a cache of
        their own (`mixed`)."""
        cache = self.new_cache(max(lengths), len(lengths))
        cache.begin(list(lengths))
        for row, length in enumerate(lengths):
            cache.reserve(row, length)
        spans = _spans([Chunk(row, range(length)) for row, length in enumerate(lengths)], cache)
        return _pass(cache, spans, self._rows(spans, cache))

    def decode(self, tokens: list[int], cache: KVCache) -> torch.Tensor:
        """As `read`, the logits after each of a few more tokens of the first row, float32 [tokens, vocabulary]."""
        return self.read([Chunk(0, tokens, len(tokens))], cache)[0]

    def weight_bytes(self) -> int:
        """Bytes of the weights that one decoded token reads: all but the embedding."""
        return sum(linear.nbytes() for linear in self.linears())

    def linears(self) -> list[Linear]:
        return [*(linear for block in self.blocks for linear in block.linears()), self.head]

    def _embedded(self, ids: Sequence[int]) -> torch.Tensor:
        """The embeddings of tokens, float32 [tokens, hidden]. Those of a step one by one: for more values at a time torch
        wakes its own threads, which then wait beside ours, by spinning where it was imported before this package."""
        if len(ids) > STEP_ROWS:
            return self.embedding[torch.tensor(ids)].float()
        x = torch.empty(len(ids), self.embedding.shape[1])
        for row, token in zip(x, ids):
            row.copy_(self.embedding[token])
        return x

    def _is_step(self, count: int, rows: Rows) -> bool:
        """Whether so many tokens are read in one call. Its memory grows with them and with the positions before them."""
        return count <= FEW_ROWS or (self.cuts_anywhere and count <= STEP_ROWS and count * rows.end <= MOST_IN_STEP)

    def _logits(self, x: torch.Tensor, wanted: list[tuple[int, int]]) -> list[torch.Tensor]:
        """The logits of these ranges of rows."""
        counts = [last - first for first, last in wanted]
        if not sum(counts):
            return [torch.empty(0, self.config.vocab_size) for _range in wanted]
        x = torch.cat([x[first:last] for first, last in wanted])
        x = self.native_pass.normed(x) if self.native_pass else rms_norm(x, self.norm, self.config.norm_eps)
        return list(self.head(x).split(counts))

    def _rows(self, spans: list[Span], cache: KVCache) -> Rows:
        if len(spans) == 1:
            [span] = spans
            sequences = torch.full((span.last - span.first,), span.row)
            positions = torch.arange(span.start, span.end)
            angles = cache.angles(span.row)[span.start : span.end]
        else:
            # not repeat_interleave, which wakes torch's threads; they wait beside ours
            sequences = torch.tensor([span.row for span in spans for _row in range(span.first, span.last)])
            positions = torch.cat([torch.arange(span.start, span.end) for span in spans])
            angles = torch.cat([cache.angles(span.row)[span.start : span.end] for span in spans])
        return Rows(sequences, positions, max(span.end for span in spans), angles, self._log_n_scale(positions))

    def _log_n_scale(self, positions: torch.Tensor) -> torch.Tensor | None:
        """Qwen's log-n attention: log(i)/log(trained length) for the i-th token past the trained length, [rows]."""
        trained = self.config.trained_length
        if not self.config.log_n_attention or int(positions.max()) < trained:
            return None
        scale = (positions + 1).double().log() / torch.tensor(float(trained)).double().log()
        return scale.clamp(min=1.0).float()

    def _blocks(self, x: torch.Tensor, cache: KVCache, spans: list[Span], rows: Rows) -> torch.Tensor:
        """Embeddings x, float32 [rows, hidden], through all blocks."""
        step = _pass(cache, spans, rows)
        for number, block in enumerate(self.blocks):
            x = self.through(number, block, x, step)
        return x

    def through(self, number: int, block: Block, x: torch.Tensor, step: Pass) -> torch.Tensor:
        """What a block makes of x, float32 [rows, hidden], which stays as it is."""
        eps = self.config.norm_eps
        y = block.output(self.mixed(number, block, rms_norm(x, block.attention_norm, eps), step))
        if block.after_attention_norm is not None:
            y = rms_norm(y, block.after_attention_norm, eps)
        x = x + y
        y = block.mlp(rms_norm(x, block.mlp_norm, eps))
        if block.after_mlp_norm is not None:
            y = rms_norm(y, block.after_mlp_norm, eps)
        return x + y

    def mixed(self, number: int, block: Block, x: torch.Tensor, step: Pass) -> torch.Tensor:
        """What a block's attention gives its output matrix, float32 [rows, heads · head_dim], for normed x [rows, hidden]."""
        config, cache = self.config, step.cache
        qkv = block.qkv(x).reshape(len(x), -1, config.head_dim)
        queries, keys, values = qkv.split((config.heads, config.kv_heads, config.kv_heads), 1)
        if block.query_norm is not None and block.key_norm is not None:
            queries = rms_norm(queries, block.query_norm, config.norm_eps)
            keys = rms_norm(keys, block.key_norm, config.norm_eps)
        queries, keys = (turn(part, step.cos, step.sin, config.rotary) for part in (queries, keys))
        if cache.pages.kind == "int8":
            queries, keys = spread(queries), spread(keys)
        if step.query_scale is not None:
            queries = queries * step.query_scale
        mixed = torch.empty(len(x), config.heads, config.head_dim)
        for span in step.spans:
            part = slice(span.first, span.last)
            cache.write(number, span.row, span.start, keys[part], values[part])
            mixed[part] = self._attend(number, queries[part].transpose(0, 1), span, cache).transpose(0, 1)
        return mixed.reshape(len(x), -1)

    def _attend(self, number: int, queries: torch.Tensor, span: Span, cache: KVCache) -> torch.Tensor:
        """Attention of a chunk's queries [heads, tokens, head_dim] over its row of the cache."""
        window, (heads, tokens, head_dim), end = self.config.window(number), queries.shape, span.end
        first = max(0, end - window) if window and tokens == 1 else 0
        keys, values = cache.read(number, span.row, first, end)
        if tokens == 1:
            # The heads that share keys become rows of one product.
            grouped = queries.reshape(1, len(keys), -1, head_dim)
            return F.scaled_dot_product_attention(grouped, keys[None], values[None]).reshape(heads, 1, head_dim)
        mask = None
        if span.start or (window and end > window):
            distance = torch.arange(span.start, end)[:, None] - torch.arange(end)
            mask = distance >= 0 if not window else (distance >= 0) & (distance < window)
        return F.scaled_dot_product_attention(
            queries[None], keys[None], values[None], attn_mask=mask, is_causal=mask is None, enable_gqa=True
        )[0]


def _pass(cache: KVCache, spans: list[Span], rows: Rows) -> Pass:
    cos, sin = rows.angles[:, None].chunk(2, -1)
    scale = None if rows.query_scale is None else rows.query_scale[:, None, None]
    return Pass(cache, spans, cos, sin, scale)


def _spans(chunks: Sequence[Chunk], cache: KVCache) -> list[Span]:
    spans, first = [], 0
    for chunk in chunks:
        spans.append(Span(chunk.row, cache.lengths[chunk.row], first, first + len(chunk.ids)))
        first += len(chunk.ids)
    if len({span.row for span in spans}) < len(spans):
        raise ValueError("a row of the cache is read twice in one pass")
    return spans


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Root mean square layer normalization (arXiv:1910.07467)."""
    return F.rms_norm(x, weight.shape, weight, eps)
