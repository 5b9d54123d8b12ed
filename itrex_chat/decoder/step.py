"""The decode step in C: a decoder's whole forward pass over a few rows in one call (`native/step.c`).

It computes what `Decoder.forward` computes. A row's values do not depend on
the other rows, nor on the number of threads.
"""
from ctypes import byref, pointer
from functools import singledispatch

import torch

from itrex_chat import native
from itrex_chat.decoder.kv_cache import KVCache
from itrex_chat.decoder.linear import DenseLinear, Linear, QuantizedLinear, StackedLinear
from itrex_chat.kernels.native import NativeWeight


class NativeStep:
    """A decoder for the C function; it points into the decoder's tensors, which it keeps."""

    def __init__(self, decoder: "Decoder"):  # noqa: F821
        config = decoder.config
        layers = (native.Layer * config.layers)(*(self._layer(decoder, number) for number in range(config.layers)))
        self._kept = [decoder.blocks, decoder.norm, layers]
        self.model = native.Model(
            layers=config.layers, hidden=config.hidden_size, inner=config.intermediate_size, heads=config.heads,
            kv_heads=config.kv_heads, head_dim=config.head_dim, rotated=config.rotary.dims,
            interleaved=config.rotary.interleaved, vocabulary=config.vocab_size, eps=config.norm_eps, layer=layers,
            norm=decoder.norm.data_ptr(), head=chain(decoder.head))
        self._memory = torch.empty(0, dtype=torch.uint8)

    def __call__(self, x: torch.Tensor, cache: KVCache, sequences: torch.Tensor, positions: torch.Tensor,
                 query_scale: torch.Tensor | None) -> torch.Tensor:
        """The logits, float32 [rows, vocabulary], of the tokens whose embeddings are x, float32 [rows, hidden] (overwritten).

        `sequences` and `positions`, int64 [rows], say where their keys and
        values go; `query_scale`, float32 [rows], multiplies the queries.
        """
        rows, threads, lib = x.shape[0], torch.get_num_threads(), native.library()
        size = lib.itrex_step_bytes(byref(self.model), rows, cache.capacity, threads)
        if self._memory.nbytes < size:
            self._memory = torch.empty(size, dtype=torch.uint8)
        logits = torch.empty(rows, self.model.vocabulary)
        lib.itrex_step(byref(self.model), byref(_cache(cache)), rows, x.data_ptr(), sequences.data_ptr(),
                       positions.data_ptr(), native.address(query_scale), logits.data_ptr(), self._memory.data_ptr(), threads)
        return logits

    @staticmethod
    def _layer(decoder, number: int) -> native.Layer:
        block = decoder.blocks[number]
        return native.Layer(
            **{name: native.address(getattr(block, name)) for name in (
                "attention_norm", "mlp_norm", "query_norm", "key_norm", "after_attention_norm", "after_mlp_norm")},
            **{name: chain(getattr(block, name)) for name in ("qkv", "output", "gate_up", "down")},
            window=decoder.config.window(number) or 0)


def fused(decoder: "Decoder") -> NativeStep | None:  # noqa: F821
    """The decoder's step, or None where a layer of it is another kernel's."""
    linears = [linear for block in decoder.blocks for linear in (block.qkv, block.output, block.gate_up, block.down)]
    if native.missing() or not all(_runs(linear) for linear in (*linears, decoder.head)):
        return None
    return NativeStep(decoder)


@singledispatch
def _runs(linear: Linear) -> bool:
    return False


@_runs.register
def _(linear: DenseLinear) -> bool:
    return linear.weight.dtype in (torch.float32, torch.bfloat16) and linear.weight.is_contiguous()


@_runs.register
def _(linear: QuantizedLinear) -> bool:
    return isinstance(linear.packed, NativeWeight)


@_runs.register
def _(linear: StackedLinear) -> bool:
    return all(_runs(part) for part in linear.parts)


def chain(linear: Linear):
    """A pointer to the C description of a linear layer, each part pointing to the next."""
    parts = linear.parts if isinstance(linear, StackedLinear) else (linear,)
    following = None
    for part in reversed(parts):
        described = _described(part)
        if following is not None:
            described.next = following
        following = pointer(described)
    return following


def _described(linear: DenseLinear | QuantizedLinear) -> native.Linear:
    if isinstance(linear, QuantizedLinear):
        return linear.packed.linear(linear.bias)
    rows, columns = linear.weight.shape
    return native.Linear(format=native.FORMATS["fp32" if linear.weight.dtype == torch.float32 else "bf16"], inputs=columns,
                         outputs=rows, weight=linear.weight.data_ptr(), bias=native.address(linear.bias))


def _cache(cache: KVCache) -> native.Cache:
    return native.Cache(keys=cache.keys.data_ptr(), values=cache.values.data_ptr(), cos=cache.cos.data_ptr(),
                        sin=cache.sin.data_ptr(), batch=cache.batch, capacity=cache.capacity, tables=cache.cos.shape[0])
