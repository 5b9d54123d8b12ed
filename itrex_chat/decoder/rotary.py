"""Rotary positions: the angles of a sequence, and turning queries and keys by them."""

import math

import torch

from itrex_chat.architecture.config import DecoderConfig, Rotary, inverse_frequencies


def frequencies(config: DecoderConfig, prefill_length: int) -> torch.Tensor:
    """Angle per position of each rotated pair, float32 [dims/2].

    They depend on the prefill's length in tokens where the model stretches
    its context (Qwen's dynamic NTK), and then stay for the whole sequence.
    """
    rotary, factor = config.rotary, stretch(config, prefill_length)
    if factor == 1.0:
        return torch.tensor(rotary.inverse_frequencies, dtype=torch.float32)
    return inverse_frequencies(rotary.base * factor ** (rotary.dims / (rotary.dims - 2)), rotary.dims)


def spread(x: torch.Tensor) -> torch.Tensor:
    """Heads, float32 [.., head_dim], by the Walsh-Hadamard matrix of as many channels as divide them and are a power of two,
    which is orthogonal: products of queries with keys are the same, and a channel of large values is spread over all."""
    each = x.shape[-1] & -x.shape[-1]
    matrix = torch.ones(1, 1)
    while len(matrix) < each:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    return (x.unflatten(-1, (-1, each)) @ matrix * each**-0.5).flatten(-2)


def stretch(config: DecoderConfig, prefill_length: int) -> float:
    """What NTK scaling multiplies the base with, before its exponent; keys are the same where it is the same."""
    rotary, trained, length = config.rotary, config.trained_length, prefill_length
    if rotary.dynamic is None or length <= trained:
        return 1.0
    if rotary.dynamic == "qwen":
        return max(1.0, 2.0 ** math.ceil(math.log2(length / trained) + 1) - 1)
    return rotary.factor * length / trained - (rotary.factor - 1)


def angles(config: DecoderConfig, prefill_length: int, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of the positions [0, positions): float32 [positions, dims/2] each."""
    turns = torch.outer(torch.arange(positions, dtype=torch.float32), frequencies(config, prefill_length))
    return turns.cos() * config.rotary.attention_factor, turns.sin() * config.rotary.attention_factor


def turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, rotary: Rotary) -> torch.Tensor:
    """Turn the rotated channels of x by its positions' angles.

    x float32 [batch, tokens, heads, head_dim]; cos, sin float32
    [batch or 1, tokens, 1, dims/2]. Channels from `dims` on pass through.
    """
    half = rotary.dims // 2
    out = torch.empty_like(x)
    if rotary.interleaved:
        first, second = x[..., 0 : rotary.dims : 2], x[..., 1 : rotary.dims : 2]
        out[..., 0 : rotary.dims : 2] = first * cos - second * sin
        out[..., 1 : rotary.dims : 2] = second * cos + first * sin
    else:
        first, second = x[..., :half], x[..., half : rotary.dims]
        out[..., :half] = first * cos - second * sin
        out[..., half : rotary.dims] = second * cos + first * sin
    out[..., rotary.dims :] = x[..., rotary.dims :]
    return out
