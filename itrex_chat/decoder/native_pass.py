"""A decoder's forward pass with the native kernels.

A few rows go through all blocks in one call (`native/step.c`); there a row's
values do not depend on the other rows. Many rows go block by block, between
the products through `native/heads.c`. Nothing depends on the number of
threads. What is computed is what `Decoder` computes in PyTorch.
"""

from ctypes import byref, c_int32, pointer
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch

from itrex_chat import native
from itrex_chat.architecture.config import DecoderConfig
from itrex_chat.decoder.block import Block
from itrex_chat.decoder.kv_cache import KVCache
from itrex_chat.decoder.linear import DenseLinear, Linear, QuantizedLinear, StackedLinear, parts_of
from itrex_chat.decoder.mlp import GatedMlp
from itrex_chat.kernels.native import NativeWeight
from itrex_chat.native import large_pages

STEP_POSITIONS = 1024  # a step's memory grows by so many


@dataclass(frozen=True)
class Rows:
    """Where the tokens of a pass belong: int64 [rows] each; those of a sequence follow each other.

    `end`: the position behind the farthest. `angles`, float32 [rows, dims]: cosines and sines of the positions.
    `query_scale`, float32 [rows], multiplies the queries.
    """

    sequences: torch.Tensor
    positions: torch.Tensor
    end: int
    angles: torch.Tensor
    query_scale: torch.Tensor | None


class NativePass:
    """A decoder for the C function; it points into the tensors, which it keeps.

    `rows_alike`: whether a row has the same bits in a pass of any number of rows.
    """

    def __init__(self, config: DecoderConfig, blocks: tuple[Block, ...], norm: torch.Tensor, head: Linear):
        native.instructions()  # chosen before a pass, as ITREX_CHAT_INSTRUCTIONS says
        layers = (native.Layer * config.layers)(
            *(_layer(block, config.window(number)) for number, block in enumerate(blocks))
        )
        self._blocks, self._layers, self._kept = blocks, layers, (norm, head)
        linears = [*(linear for block in blocks for linear in block.linears()), head]
        self.rows_alike = all(linear.independent_rows is None for linear in linears)
        self.model = native.Model(
            layers=config.layers,
            hidden=config.hidden_size,
            inner=config.mlp.inner,
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            rotated=config.rotary.dims,
            interleaved=config.rotary.interleaved,
            vocabulary=config.vocab_size,
            eps=config.norm_eps,
            layer=layers,
            norm=norm.data_ptr(),
            head=chain(head),
        )

    def step(self, x: torch.Tensor, cache: KVCache, rows: Rows, wanted: list[int]) -> torch.Tensor:
        """The logits, float32 [wanted, vocabulary], of some of the tokens whose embeddings are x, float32 [rows, hidden]
        (overwritten).

        At most `native.STEP_ROWS` rows. The logits are overwritten by the next
        step with this cache.
        """
        count, threads, lib = x.shape[0], torch.get_num_threads(), native.library()
        end = -(-rows.end // STEP_POSITIONS) * STEP_POSITIONS
        size = lib.itrex_step_bytes(byref(self.model), count, end, threads)
        if not size:
            native.check(native.REFUSED)
        if cache.step_memory is None or cache.step_memory.nbytes < size:
            cache.step_memory = torch.empty(size, dtype=torch.uint8)
        if cache.step_logits is None or cache.step_logits.shape[0] < len(wanted):
            cache.step_logits = torch.empty(len(wanted), self.model.vocabulary)
        native.check(
            lib.itrex_step(
                byref(self.model),
                byref(_cache(cache)),
                count,
                x.data_ptr(),
                rows.sequences.data_ptr(),
                rows.positions.data_ptr(),
                rows.angles.data_ptr(),
                native.address(rows.query_scale),
                len(wanted),
                (c_int32 * len(wanted))(*wanted),
                cache.step_logits.data_ptr(),
                cache.step_memory.data_ptr(),
                threads,
            )
        )
        return cache.step_logits[: len(wanted)]

    def blocks(self, x: torch.Tensor, cache: KVCache, rows: Rows) -> torch.Tensor:
        """Tokens' embeddings x, float32 [rows, hidden] (overwritten), through all blocks."""
        model = self.model
        queries = model.heads * model.head_dim
        normed, qkv, mixed, gate_up, inner = _side_by_side(
            x.shape[0],
            (model.hidden, queries + 2 * model.kv_heads * model.head_dim, queries, 2 * model.inner, model.inner),
        )
        y = normed  # it has been read when y is written
        for number, block in enumerate(self._blocks):
            _multiply(block.qkv, self._norm(x, block.attention_norm, normed), qkv)
            _multiply(block.output, self._attention(number, qkv, cache, rows, mixed), y)
            self._add(y if block.after_attention_norm is None else self._norm(y, block.after_attention_norm, y), x)
            self._gate(block.mlp.gate_up, self._norm(x, block.mlp_norm, normed), gate_up, inner)
            _multiply(block.mlp.down, inner, y)
            self._add(y if block.after_mlp_norm is None else self._norm(y, block.after_mlp_norm, y), x)
        return x

    def normed(self, x: torch.Tensor) -> torch.Tensor:
        """What the head takes, float32 [rows, hidden], as a step computes it."""
        return self._norm(x, self._kept[0], torch.empty_like(x))

    def _norm(self, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        native.library().itrex_rms_norm(
            x.data_ptr(), weight.data_ptr(), *x.shape, self.model.eps, out.data_ptr(), torch.get_num_threads()
        )
        return out

    def _add(self, y: torch.Tensor, x: torch.Tensor) -> None:
        native.library().itrex_add(y.data_ptr(), *x.shape, x.data_ptr(), torch.get_num_threads())

    def _gate(self, linear: Linear, x: torch.Tensor, gate_up: torch.Tensor, out: torch.Tensor) -> None:
        if isinstance(linear, QuantizedLinear):
            _packed(linear).gated(x, linear.bias, gate_up, out)
        else:
            _multiply(linear, x, gate_up)
            native.library().itrex_swiglu(gate_up.data_ptr(), *out.shape, out.data_ptr(), torch.get_num_threads())

    def _attention(self, number: int, qkv: torch.Tensor, cache: KVCache, rows: Rows, out: torch.Tensor) -> torch.Tensor:
        native.check(
            native.library().itrex_attention(
                byref(self.model),
                byref(_cache(cache)),
                number,
                qkv.shape[0],
                qkv.data_ptr(),
                rows.sequences.data_ptr(),
                rows.positions.data_ptr(),
                rows.angles.data_ptr(),
                native.address(rows.query_scale),
                out.data_ptr(),
                torch.get_num_threads(),
            )
        )
        return out


def native_pass_of(
    config: DecoderConfig, blocks: tuple[Block, ...], norm: torch.Tensor, head: Linear
) -> NativePass | None:
    """A decoder's pass, or None where a layer of it is not one that the kernels compute."""
    gated = all(isinstance(block.mlp, GatedMlp) and block.mlp.activation == "silu" for block in blocks)
    linears = [*(linear for block in blocks for linear in block.linears()), head]
    if native.missing() or not gated or not all(_runs(linear) for linear in linears):
        return None
    return NativePass(config, blocks, norm, head)


def _layer(block: Block, window: int | None) -> native.Layer:
    return native.Layer(
        **{
            name: native.address(getattr(block, name))
            for name in (
                "attention_norm",
                "mlp_norm",
                "query_norm",
                "key_norm",
                "after_attention_norm",
                "after_mlp_norm",
            )
        },
        qkv=chain(block.qkv),
        output=chain(block.output),
        gate_up=chain(block.mlp.gate_up),
        down=chain(block.mlp.down),
        window=window or 0,
    )


@singledispatch
def _runs(linear: Linear) -> bool:
    return False


@_runs.register
def _runs_dense(linear: DenseLinear) -> bool:
    return linear.weight.is_contiguous()


@_runs.register
def _runs_quantized(linear: QuantizedLinear) -> bool:
    return isinstance(linear.packed, NativeWeight)


@_runs.register
def _runs_stacked(linear: StackedLinear) -> bool:
    return all(_runs(part) for part in linear.parts)


def _side_by_side(rows: int, widths: tuple[int, ...]) -> list[torch.Tensor]:
    """Float32 [rows, width] for each width; all layers of a pass use the same, as new memory costs more than the norms do."""
    memory = large_pages.alone(rows * sum(widths))
    return [part.view(rows, -1) for part in memory.split([rows * width for width in widths])]


@singledispatch
def _multiply(linear: Linear, x: torch.Tensor, out: torch.Tensor) -> None:
    """The product of x with a linear layer into `out`, whose rows may lie apart."""
    out.copy_(linear(x))


@_multiply.register
def _multiply_dense(linear: DenseLinear, x: torch.Tensor, out: torch.Tensor) -> None:
    linear.into(x, out)


@_multiply.register
def _multiply_quantized(linear: QuantizedLinear, x: torch.Tensor, out: torch.Tensor) -> None:
    _packed(linear).matmul(x, linear.bias, out)


@_multiply.register
def _multiply_stacked(linear: StackedLinear, x: torch.Tensor, out: torch.Tensor) -> None:
    start = 0
    for part in linear.parts:
        _multiply(part, x, out[:, start : start + part.out_features])
        start += part.out_features


def chain(linear: Linear) -> Any:
    """A pointer to the C description of a linear layer, each part pointing to the next."""
    following = None
    for part in reversed(parts_of(linear)):
        described = _described(part)
        if following is not None:
            described.next = following
        following = pointer(described)
    return following


def _packed(linear: QuantizedLinear) -> NativeWeight:
    """The matrix of a layer that the native pass runs."""
    assert isinstance(linear.packed, NativeWeight)
    return linear.packed


def _described(linear: DenseLinear | QuantizedLinear) -> native.Linear:
    if isinstance(linear, QuantizedLinear):
        return _packed(linear).linear(linear.bias)
    return linear.described()


def _cache(cache: KVCache) -> native.Cache:
    pages = cache.pages
    return native.Cache(
        pool=pages.memory.data_ptr(),
        pages=cache.table.data_ptr(),
        sequences=cache.batch,
        each=cache.table.shape[1],
        count=pages.count,
        bytes=pages.memory.nbytes,
        format=native.KEPT[pages.kind],
    )
