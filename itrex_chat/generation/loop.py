"""Driving sequences: passes until their answers end.

`advance` is the one step, for any number of sequences with rows in one cache; `generate` takes it for one answer,
`generate_together` for several.
"""

import time
from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as Several
from dataclasses import replace

import torch

from itrex_chat.chat import AnswerTokenizer
from itrex_chat.decoder.model import Decoder
from itrex_chat.foundation import machine
from itrex_chat.foundation.errors import GenerationError
from itrex_chat.generation.drafting import Drafter
from itrex_chat.generation.lookup import PromptLookup
from itrex_chat.generation.model_drafts import DraftModel
from itrex_chat.generation.payoff import Payoff
from itrex_chat.generation.prefill import PREFILL_STEP, prefill
from itrex_chat.generation.response import Response
from itrex_chat.generation.room import room_for
from itrex_chat.generation.sequence import Place, Sequence
from itrex_chat.settings.generation import GenerationConfig

__all__ = ["advance", "generate", "generate_together", "prefill"]


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
    drafter = drafter or _drafter(prompt, config, room, tokenizer.stop_ids, model)
    started, waited = time.perf_counter(), machine.waited_for_cores()
    place = Place(decoder.new_cache(len(prompt) + room), 0)
    sequence = _begun(decoder, tokenizer, prompt, config, room, place, drafter, started)
    payoff = model.payoff if model else None
    while sequence.finish_reason is None:
        advance(decoder, [sequence], payoff)
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
    """The same for several prompts, `count` answers at a time in the passes: each piece and Response with the number of
    its prompt, as they come. Each answer is the one that `generate` gives.

    A prompt takes the place of an answer that has ended. Raises GenerationError for a prompt that the model cannot take,
    when those before it are answered.
    """
    rooms, refused = _rooms(decoder, prompts, config)
    rows = max(1, min(count, decoder.independent_tokens, len(rooms)))
    cache = decoder.new_cache(max([len(prompt) + room for prompt, room in zip(prompts, rooms)], default=1), rows)
    waiting, places = deque(range(len(rooms))), [Place(cache, row) for row in range(rows)]
    going: dict[int, Sequence] = {}
    shares = [0.0] * len(rooms)
    payoff = model.payoff if model else None
    while waiting or going:
        began = time.perf_counter()
        while waiting and places:
            prompt, room = prompts[number := waiting.popleft()], rooms[number]
            drafter = _drafter(prompt, config, room, tokenizer.stop_ids, model)
            going[number] = _begun(decoder, tokenizer, prompt, config, room, places.pop(), drafter, began)
        advance(decoder, list(going.values()), payoff)
        seconds = (time.perf_counter() - began) / len(going)
        for number, sequence in list(going.items()):
            shares[number] += seconds
            for piece in sequence.taken_pieces():
                yield number, piece
            if sequence.finish_reason:
                places.append(going.pop(number).place)
                if payoff:
                    payoff.answered(len(sequence.ids))
                yield number, replace(sequence.response(), batch=rows, share=shares[number])
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


def _begun(
    decoder: Decoder,
    tokenizer: AnswerTokenizer,
    prompt: list[int],
    config: GenerationConfig,
    room: int,
    place: Place,
    drafter: Drafter | None,
    started: float,
) -> Sequence:
    if decoder.independent_tokens == 1:
        drafter = None  # a draft's logits would not be those of one token at a time
    return Sequence(prompt, config, room, tokenizer, place, decoder.config.vocab_size, drafter, started)


def _drafter(
    prompt: list[int], config: GenerationConfig, room: int, stop_ids: frozenset[int], model: DraftModel | None
) -> Drafter | None:
    """Who guesses the tokens of an answer to a prompt."""
    if config.prompt_lookup:
        return PromptLookup(prompt, stop_ids)
    return model.drafter(prompt, config, room, stop_ids) if model else None


def advance(decoder: Decoder, sequences: Several[Sequence], payoff: Payoff | None = None) -> None:
    """Bring each sequence that has not ended a pass further: one reads more of its prompt, another decodes.

    Their rows are in one cache. Prompts are read in steps that depend on
    nothing but the prompt, long ones in a pass each; short ones and those that
    decode share passes of as many tokens as get the logits that they would get
    alone. `payoff` is told what passes take.
    """
    going = [sequence for sequence in sequences if sequence.finish_reason is None]
    few: list[list[Sequence]] = [[]]
    left = most = decoder.independent_tokens
    for sequence in sorted(going, key=lambda sequence: not sequence.reads_prompt):
        if (rows := sequence.next_rows(PREFILL_STEP)) > most:
            _pass(decoder, [sequence], payoff)
            continue
        if rows > left:
            few.append([])
            left = most
        few[-1].append(sequence)
        left -= rows
    for together in filter(None, few):
        _pass(decoder, together, payoff)


def _pass(decoder: Decoder, sequences: list[Sequence], payoff: Payoff | None) -> None:
    """One pass over a chunk of each sequence, those that read their prompts first."""
    prompt = sequences[-1].reads_prompt
    if payoff and not prompt:
        payoff.sequences = len(sequences)
    chunks, left = [], decoder.independent_tokens
    for waiting, sequence in zip(range(len(sequences), 0, -1), sequences):
        chunks.append(sequence.chunk(PREFILL_STEP, left // waiting))
        left -= len(chunks[-1].ids)
    rows, began = sum(len(chunk.ids) for chunk in chunks), time.perf_counter()
    logits = decoder.read(chunks, sequences[0].place.cache)
    for sequence, found in zip(sequences, logits):
        if len(found):
            sequence.take(found)
    if payoff:
        (payoff.passes.add_prompt if prompt else payoff.passes.add)(rows, time.perf_counter() - began)
