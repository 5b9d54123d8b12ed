"""A pass before the first one that counts, which tells what passes take where weights are read from disk."""

import time

import torch

from itrex_chat.decoder.linear import DenseLinear, parts_of
from itrex_chat.decoder.model import Chunk, Decoder
from itrex_chat.jobs.event import Pace

ROWS, OUTPUTS = 128, 1024  # of the product that tells how fast prompts are computed


def rehearsed(decoder: Decoder, batch: int) -> Pace:
    """What passes take for `batch` tokens, or a long prompt's. Raises CheckpointError as `Decoder.read` does.

    The stream has just been started: its memory is as empty as a pass leaves it for the next one, and what is read is
    looked at for the first time, as far as nobody has done that before.
    """
    rows = max(1, min(batch, decoder.independent_tokens))
    cache = decoder.new_cache(rows)
    cache.begin([rows])
    began = time.perf_counter()
    decoder.read([Chunk(0, [0] * rows)], cache)
    return Pace(time.perf_counter() - began, _token(decoder))


def drafted(decoder: Decoder) -> float:
    """Seconds that a decoder in memory takes for a token."""
    cache, seconds = decoder.new_cache(4), []
    cache.begin([4])
    for token in range(4):
        began = time.perf_counter()
        decoder.read([Chunk(0, [token])], cache)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


@torch.inference_mode()
def _token(decoder: Decoder) -> float:
    """Seconds that the products of all blocks take for a token of many, by one of the kind that most are."""
    dense = [part for block in decoder.blocks for each in block.linears() for part in parts_of(each)]
    values = sum(part.weight.numel() for part in dense if isinstance(part, DenseLinear))
    like = next(part for part in dense if isinstance(part, DenseLinear))
    inputs = like.weight.shape[1]
    linear = DenseLinear(torch.zeros(OUTPUTS, inputs, dtype=like.weight.dtype), compute=like.compute)
    x, seconds = torch.zeros(ROWS, inputs), []
    for _again in range(3):
        began = time.perf_counter()
        linear(x)
        seconds.append(time.perf_counter() - began)
    return min(seconds) / ROWS * values / (OUTPUTS * inputs)
