"""The decoder: one transformer for all families and variants.

Pre-norm blocks of grouped-query attention with rotary positions and a SwiGLU
MLP, as in Llama (arXiv:2302.13971); families differ by `DecoderConfig`,
variants by their linear layers.
"""

from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from itrex_chat.architecture.config import DecoderConfig
from itrex_chat.decoder.kv_cache import KVCache
from itrex_chat.decoder.linear import Linear
from itrex_chat.decoder.native_pass import NativePass, Rows, native_pass
from itrex_chat.decoder.rotary import turn
from itrex_chat.native import STEP_ROWS


@dataclass(frozen=True)
class Block:
    """One decoder block. Norm weights are float32 [width]; `qkv` and `gate_up` are one product each."""

    attention_norm: torch.Tensor
    qkv: Linear
    output: Linear
    mlp_norm: torch.Tensor
    gate_up: Linear
    down: Linear
    query_norm: torch.Tensor | None = None
    key_norm: torch.Tensor | None = None
    after_attention_norm: torch.Tensor | None = None
    after_mlp_norm: torch.Tensor | None = None


@dataclass(frozen=True)
class Step:
    """What all blocks of one forward pass share."""

    cache: KVCache
    cos: torch.Tensor  # [batch or 1, tokens, 1, dims/2]
    sin: torch.Tensor
    positions: torch.Tensor  # int64 [batch, tokens]
    query_scale: torch.Tensor | None  # [batch, tokens, 1, 1]


@dataclass(frozen=True)
class Decoder:
    """A loaded variant. `embedding` [vocabulary, hidden] keeps its stored dtype.

    `native` is the pass with the native kernels (`with_native_pass`), or None.
    """

    config: DecoderConfig
    embedding: torch.Tensor
    blocks: tuple[Block, ...]
    norm: torch.Tensor
    head: Linear
    native: NativePass | None = None

    def with_native_pass(self) -> "Decoder":
        """This decoder, with the native kernels doing its passes where its layers are made for them."""
        return replace(self, native=native_pass(self))

    @property
    def independent_tokens(self) -> int:
        """How many tokens `decode` takes so that the logits of each are those that it has alone, bit for bit."""
        return STEP_ROWS if self.native else 1

    def new_cache(self, capacity: int, batch: int = 1) -> KVCache:
        return KVCache(self.config, capacity, batch)

    @torch.inference_mode()
    def forward(
        self, ids: torch.Tensor, cache: KVCache, counts: list[int] | None = None, all_logits: bool = False
    ) -> torch.Tensor:
        """Read tokens and return the logits of what follows.

        ids int64 [batch, tokens]; each sequence's tokens follow those that the
        cache holds. `counts` says how many of a row's tokens are real, from
        the left (all, if None). Returns float32 [batch, vocabulary] for the
        last real token of each row, or [batch, tokens, vocabulary] for all.
        """
        batch, tokens = ids.shape
        if cache.longest + tokens > cache.capacity:
            raise ValueError(f"{tokens} more tokens than the {cache.longest} in a cache for {cache.capacity}")
        positions = cache.lengths[:, None] + torch.arange(tokens)
        if self.native and batch * tokens <= STEP_ROWS and counts is None:
            logits = self._few(ids, cache, positions).reshape(batch, tokens, -1)
            return logits.clone() if all_logits else logits[:, -1].clone()
        counts = counts or [tokens] * batch
        x = self.embedding[ids].float()
        if self.native:
            x = self.native.blocks(x.reshape(batch * tokens, -1), cache, self._rows(positions)).reshape(
                batch, tokens, -1
            )
        else:
            step = Step(cache, *self._angles(cache, positions), positions, self._log_n_scale(positions))
            for number, block in enumerate(self.blocks):
                x = self._block(number, block, x, step)
        cache.advance(counts)
        if not all_logits:
            x = x[torch.arange(batch), torch.tensor(counts) - 1]
        x = _rms_norm(x, self.norm, self.config.norm_eps)
        return self.head(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)

    @torch.inference_mode()
    def decode(self, tokens: list[int], cache: KVCache) -> torch.Tensor:
        """The logits after each of a few more tokens of one sequence, float32 [tokens, vocabulary].

        As `forward`, with less around it; they may be overwritten by the next
        call with this cache.
        """
        if not self.native or len(tokens) > STEP_ROWS:
            return self.forward(torch.tensor([tokens]), cache, all_logits=True)[0]
        start = cache.longest
        if start + len(tokens) > cache.capacity:
            raise ValueError(f"{len(tokens)} more tokens than the {start} in a cache for {cache.capacity}")
        return self._few(torch.tensor([tokens]), cache, torch.arange(start, start + len(tokens))[None])

    def _few(self, ids: torch.Tensor, cache: KVCache, positions: torch.Tensor) -> torch.Tensor:
        logits = self.native.step(self.embedding[ids.reshape(-1)].float(), cache, self._rows(positions))
        cache.advance(ids.shape[1])
        return logits

    def _rows(self, positions: torch.Tensor) -> Rows:
        """The rows of a pass with these positions, [batch, tokens]."""
        batch, tokens = positions.shape
        scale = self._log_n_scale(positions)
        return Rows(
            torch.arange(batch).repeat_interleave(tokens) if batch > 1 else torch.zeros(tokens, dtype=torch.int64),
            positions.reshape(-1),
            None if scale is None else scale.reshape(-1),
        )

    def weight_bytes(self) -> int:
        """Bytes of the weights that one decoded token reads: all but the embedding."""
        linears = [linear for block in self.blocks for linear in (block.qkv, block.output, block.gate_up, block.down)]
        return sum(linear.nbytes() for linear in (*linears, self.head))

    def _angles(self, cache: KVCache, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if cache.cos.shape[0] == 1:
            return cache.cos[0][positions][:, :, None], cache.sin[0][positions][:, :, None]
        rows = torch.arange(cache.batch)[:, None]
        return cache.cos[rows, positions][:, :, None], cache.sin[rows, positions][:, :, None]

    def _log_n_scale(self, positions: torch.Tensor) -> torch.Tensor | None:
        """Qwen's log-n attention: log(i)/log(trained length) for the i-th token past the trained length."""
        trained = self.config.trained_length
        if not self.config.log_n_attention or int(positions.max()) < trained:
            return None
        scale = (positions + 1).double().log() / torch.tensor(float(trained)).double().log()
        return scale.clamp(min=1.0).float()[..., None, None]

    def _block(self, number: int, block: Block, x: torch.Tensor, step: Step) -> torch.Tensor:
        eps = self.config.norm_eps
        batch, tokens, hidden = x.shape
        y = self._attention(number, block, _rms_norm(x, block.attention_norm, eps), step)
        if block.after_attention_norm is not None:
            y = _rms_norm(y, block.after_attention_norm, eps)
        x = x + y
        y = _rms_norm(x, block.mlp_norm, eps).reshape(-1, hidden)
        gate, up = block.gate_up(y).chunk(2, -1)
        y = block.down(F.silu(gate).mul_(up)).reshape(batch, tokens, hidden)
        if block.after_mlp_norm is not None:
            y = _rms_norm(y, block.after_mlp_norm, eps)
        return x + y

    def _attention(self, number: int, block: Block, x: torch.Tensor, step: Step) -> torch.Tensor:
        config, cache = self.config, step.cache
        batch, tokens, hidden = x.shape
        qkv = block.qkv(x.reshape(-1, hidden)).reshape(batch, tokens, -1, config.head_dim)
        queries, keys, values = qkv.split((config.heads, config.kv_heads, config.kv_heads), 2)
        if block.query_norm is not None:
            queries = _rms_norm(queries, block.query_norm, config.norm_eps)
            keys = _rms_norm(keys, block.key_norm, config.norm_eps)
        queries = turn(queries, step.cos, step.sin, config.rotary)
        if step.query_scale is not None:
            queries = queries * step.query_scale
        _write(cache.keys[number], turn(keys, step.cos, step.sin, config.rotary), step)
        _write(cache.values[number], values, step)
        mixed = self._attend(number, queries.transpose(1, 2), step)
        return block.output(mixed.transpose(1, 2).reshape(batch * tokens, -1)).reshape(batch, tokens, hidden)

    def _attend(self, number: int, queries: torch.Tensor, step: Step) -> torch.Tensor:
        """Attention of the new tokens' queries [batch, heads, tokens, head_dim] over the cache."""
        cache, window = step.cache, self.config.window(number)
        batch, heads, tokens, head_dim = queries.shape
        end = cache.longest + tokens
        start = max(0, end - window) if window and tokens == batch == 1 else 0
        keys, values = cache.keys[number, :, :, start:end], cache.values[number, :, :, start:end]
        if tokens == batch == 1:
            # The heads that share keys become rows of one product.
            grouped = queries.reshape(1, keys.shape[1], -1, head_dim)
            return F.scaled_dot_product_attention(grouped, keys, values).reshape(1, heads, 1, head_dim)
        if batch == 1 and cache.longest == 0 and (not window or end <= window):
            return F.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=True)
        distance = step.positions[:, :, None] - torch.arange(end)
        mask = distance >= 0 if not window else (distance >= 0) & (distance < window)
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask[:, None], enable_gqa=True)


def _rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Root mean square layer normalization (arXiv:1910.07467)."""
    return F.rms_norm(x, weight.shape, weight, eps)


def _write(cached: torch.Tensor, new: torch.Tensor, step: Step) -> None:
    """Put new keys or values [batch, tokens, kv_heads, head_dim] behind those of their sequence."""
    if new.shape[0] == 1:
        start = step.cache.longest
        cached[0, :, start : start + new.shape[1]] = new[0].transpose(0, 1)
    else:
        cached[torch.arange(new.shape[0])[:, None], :, step.positions] = new
