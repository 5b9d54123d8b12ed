"""Reading a prompt."""

import torch

from itrex_chat.decoder.kv_cache import KVCache
from itrex_chat.decoder.model import Chunk, Decoder

PREFILL_STEP = 1024  # tokens per forward pass, so that a long prompt's activations stay small


def prefill(decoder: Decoder, prompt: list[int], cache: KVCache) -> torch.Tensor:
    """Read a prompt into an empty cache; the logits of its first answer token, float32 [vocabulary]."""
    cache.begin([len(prompt)])
    for start in range(0, len(prompt), PREFILL_STEP):
        [logits] = decoder.read([Chunk(0, prompt[start : start + PREFILL_STEP])], cache)
    return logits[0]
