"""Answering a prompt: prefill, then token after token."""

import time
from collections.abc import Iterator

import torch

from itrex_chat.chat import ChatTokenizer
from itrex_chat.chat.streaming import TextStream
from itrex_chat.decoder.kv_cache import KVCache
from itrex_chat.decoder.model import Decoder
from itrex_chat.generation.lookup import PromptLookup
from itrex_chat.generation.response import Response
from itrex_chat.generation.room import room_for
from itrex_chat.generation.sampling import Sampler
from itrex_chat.settings.generation import GenerationConfig

PREFILL_STEP = 1024  # tokens per forward pass, so that a long prompt's activations stay small


def generate(
    decoder: Decoder, tokenizer: ChatTokenizer, prompt: list[int], config: GenerationConfig = GenerationConfig()
) -> Iterator[str | Response]:
    """Pieces of the answer's text as they are finished, and last the Response.

    Raises GenerationError for a prompt that the model cannot take.
    """
    room = room_for(prompt, config, decoder.config.context_length, decoder.config.vocab_size)
    started = time.perf_counter()
    cache = decoder.new_cache(len(prompt) + room)
    sampler = Sampler(config, prompt, decoder.config.vocab_size)
    stream = TextStream(tokenizer.decode, tokenizer.strips_newline)
    lookup = (
        PromptLookup(prompt, tokenizer.stop_ids) if config.prompt_lookup and decoder.independent_tokens > 1 else None
    )
    token = sampler.choose(prefill(decoder, prompt, cache))
    first = last = time.perf_counter()
    following = _following(decoder, cache, sampler, lookup, token)
    ids, text = [], ""
    while token not in tokenizer.stop_ids:
        ids.append(token)
        if piece := stream.add(token):
            text += piece
            yield piece
        if len(ids) == room:
            break
        token = next(following)
        last = time.perf_counter()
    if piece := stream.end():
        text += piece
        yield piece
    stopped = token in tokenizer.stop_ids
    decoded = len(ids) - 1 + stopped
    yield Response(
        text,
        ids,
        prompt,
        "stop" if stopped else "length",
        first - started,
        (last - first) / decoded if decoded > 0 else None,
        lookup.drafted if lookup else 0,
        lookup.accepted if lookup else 0,
    )


def _following(
    decoder: Decoder, cache: KVCache, sampler: Sampler, lookup: PromptLookup | None, token: int
) -> Iterator[int]:
    """The tokens that follow `token`, several from one pass where a draft is right."""
    while True:
        draft = (
            lookup.draft(token, min(decoder.independent_tokens, cache.capacity - cache.longest - 1) - 1)
            if lookup
            else []
        )
        accepted = 0
        for logits, drafted in zip(decoder.decode([token, *draft], cache), [*draft, None]):
            token = sampler.choose(logits)
            accepted += token == drafted
            if token != drafted:
                break
            yield token
        if draft:
            lookup.checked(draft, accepted)
            cache.forget(len(draft) - accepted)
        yield token


def prefill(decoder: Decoder, prompt: list[int], cache: KVCache) -> torch.Tensor:
    """Read a prompt into an empty cache; the logits of its first answer token, float32 [vocabulary]."""
    cache.begin([len(prompt)])
    for start in range(0, len(prompt), PREFILL_STEP):
        logits = decoder.forward(torch.tensor([prompt[start : start + PREFILL_STEP]]), cache)
    return logits[0]
