"""Answers to prompts that are all known: `generate` makes one by itself, `generate_together` several at a time."""

import time
from collections.abc import Iterator
from collections.abc import Sequence as Several
from dataclasses import replace

import torch

from itrex_chat.chat import AnswerTokenizer
from itrex_chat.decoder.model import Decoder
from itrex_chat.decoder.pages import pages_for
from itrex_chat.foundation import machine
from itrex_chat.foundation.errors import GenerationError
from itrex_chat.generation.drafters import drafter_of
from itrex_chat.generation.drafting import Drafter
from itrex_chat.generation.model_drafts import DraftModel
from itrex_chat.generation.payoff import Payoff
from itrex_chat.generation.prefill import PREFILL_STEP, prefill
from itrex_chat.generation.request import Request
from itrex_chat.generation.response import Response
from itrex_chat.generation.room import room_for
from itrex_chat.generation.scheduler import Scheduler
from itrex_chat.generation.sequence import Place, Sequence
from itrex_chat.settings.generation import GenerationConfig

__all__ = ["generate", "generate_together", "prefill"]


def generate(
    decoder: Decoder,
    tokenizer: AnswerTokenizer,
    prompt: list[int],
    config: GenerationConfig = GenerationConfig(),
    drafter: Drafter | None = None,
    model: DraftModel | None = None,
) -> Iterator[str | Response]:
    """Pieces of the answer's text as they are finished, and last the Response.

    `drafter` guesses tokens; without it, prompt lookup does where `config`
    asks for it, or else `model`. Raises GenerationError for a prompt that the
    model cannot take.
    """
    room = room_for(prompt, config, decoder.config.context_length, decoder.config.vocab_size)
    drafter = drafter or drafter_of(decoder, prompt, config, room, tokenizer.stop_ids, model)
    started, waited = time.perf_counter(), machine.waited_for_cores()
    place = Place(decoder.new_cache(len(prompt) + room), 0)
    if decoder.independent_tokens == 1:
        drafter = None  # a draft's logits would not be those of one token at a time
    sequence = Sequence(prompt, config, room, tokenizer, place, decoder.config.vocab_size, drafter, started)
    payoff = model.payoff if model else None
    while sequence.finish_reason is None:
        _advance(decoder, sequence, payoff)
        yield from sequence.taken_pieces()
    if payoff:
        payoff.answered(len(sequence.ids))
    yield replace(sequence.response(), contention=_contention(waited, time.perf_counter() - started))


def _contention(before: float | None, seconds: float) -> float | None:
    """The share of these seconds that a thread of a pass waited for a core."""
    waited = machine.waited_for_cores()
    if before is None or waited is None or not seconds:
        return None
    return min(1.0, max(0.0, waited - before) / (seconds * torch.get_num_threads()))


def generate_together(
    decoder: Decoder,
    tokenizer: AnswerTokenizer,
    prompts: Several[list[int]],
    config: GenerationConfig,
    count: int,
    model: DraftModel | None = None,
) -> Iterator[tuple[int, str | Response]]:
    """The same for several prompts, `count` answers at a time: each piece and Response with the number of its prompt, as
    they come. Each answer is the one that `generate` gives.

    A prompt takes the place of an answer that has ended. Raises GenerationError for a prompt that the model cannot take,
    when those before it are answered.
    """
    rooms, refused = _rooms(decoder, prompts, config)
    rows = max(1, min(count, decoder.independent_tokens, len(rooms)))
    longest = max([len(prompt) + room for prompt, room in zip(prompts, rooms)], default=1)
    pages = decoder.new_pages(rows * pages_for(longest))
    scheduler = Scheduler(decoder, tokenizer, pages, rows, waiting=len(rooms))
    tickets = dict(enumerate(scheduler.add(Request(prompt, config), model) for prompt, _room in zip(prompts, rooms)))
    while tickets:
        scheduler.advance()
        for number, ticket in list(tickets.items()):
            for piece in ticket.taken_pieces():
                yield number, piece
            if ticket.error:
                raise ticket.error
            if ticket.response:
                del tickets[number]
                yield number, replace(ticket.response, batch=rows)
    if refused:
        raise refused


def _rooms(
    decoder: Decoder, prompts: Several[list[int]], config: GenerationConfig
) -> tuple[list[int], GenerationError | None]:
    """How long the answer to each prompt may be, up to the first that the model cannot take, and why that is."""
    rooms: list[int] = []
    for prompt in prompts:
        try:
            rooms.append(room_for(prompt, config, decoder.config.context_length, decoder.config.vocab_size))
        except GenerationError as error:
            return rooms, error
    return rooms, None


def _advance(decoder: Decoder, sequence: Sequence, payoff: Payoff | None) -> None:
    """One pass over the sequence's next chunk, told to `payoff`."""
    prompt = sequence.reads_prompt
    if payoff and not prompt:
        payoff.sequences = 1
    chunk, began = sequence.chunk(PREFILL_STEP, decoder.independent_tokens), time.perf_counter()
    [logits] = decoder.read([chunk], sequence.place.cache)
    seconds = time.perf_counter() - began
    if len(logits):
        sequence.take(logits)
    if payoff:
        (payoff.passes.add_prompt if prompt else payoff.passes.add)(len(chunk.ids), seconds)
