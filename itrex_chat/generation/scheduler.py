"""Many answers at once: passes over whatever sequences there are (continuous batching, Orca, OSDI 2022).

A sequence that comes joins with the next pass, and its place goes to another one when it ends. Each answer has the
tokens that it has alone, bit for bit: the logits of a row do not depend on what else is in a pass, nor on where a prompt
is cut (`Decoder.cuts_anywhere`); where they do, a prompt is read in passes of its own, cut at the same places always.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from threading import RLock

import torch

from itrex_chat.chat import AnswerTokenizer
from itrex_chat.decoder.model import Chunk, Decoder
from itrex_chat.decoder.pages import PAGE, Pages, pages_for
from itrex_chat.foundation.errors import Busy, GenerationError, ItrexChatError
from itrex_chat.foundation.language import _
from itrex_chat.generation.admission import Admission
from itrex_chat.generation.budget import Budget
from itrex_chat.generation.drafters import drafter_of
from itrex_chat.generation.model_drafts import DraftModel
from itrex_chat.generation.payoff import Payoff
from itrex_chat.generation.prefill import PREFILL_STEP
from itrex_chat.generation.request import MOST_WAITING, Request
from itrex_chat.generation.response import Response
from itrex_chat.generation.room import room_for
from itrex_chat.generation.sequence import CANCELLED, DEADLINE, Place, Sequence
from itrex_chat.generation.ticket import Ticket

MOST_ROWS = 32
PROMPT_LOGITS = 128  # places of prompts in a pass whose logits are wanted, where a prompt may be cut there
LOOK = 0.02  # seconds after which somebody who waits for the passes of others looks what has come


class Scheduler:
    """Requests to one decoder. `add` and `cancel` them at any time and from any thread; `advance` makes a pass.

    `pages` is the memory of keys and values. A request is begun when it can have all that it may need, so that none
    that was begun has to give up for others; those that wait are begun in the order in which they came. `rows`: how many
    are answered at a time. What sequences begin with alike is read once, also long after the first.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: AnswerTokenizer,
        pages: Pages,
        rows: int = MOST_ROWS,
        waiting: int = MOST_WAITING,
    ):
        self.decoder, self.pages = decoder, pages
        self._tokenizer, self._most_waiting = tokenizer, waiting
        self._lock = RLock()
        self._admission = Admission(decoder, pages, rows)
        self._coming: deque[Ticket] = deque()  # from any thread, while another one makes a pass
        self._waiting: deque[Ticket] = deque()
        self._going: list[Ticket] = []
        self._budget = Budget()
        self.rows = 0  # tokens in the newest pass

    def add(self, request: Request, model: DraftModel | None = None) -> Ticket:
        """Have a prompt answered; `model` drafts for it. Raises GenerationError for one that the model or the memory cannot
        take, Busy where too many wait."""
        config, prompt = self.decoder.config, request.prompt
        room = room_for(prompt, request.config, config.context_length, config.vocab_size)
        if pages_for(len(prompt) + room) > self.pages.count:
            raise GenerationError(
                _(
                    "The prompt's {prompt} tokens and {room} of the answer do not fit into the {count} that there is memory "
                    "for; ask for a shorter answer (max_new_tokens) or shorten the prompt.",
                    prompt=len(prompt),
                    room=room,
                    count=self.pages.count * PAGE,
                )
                + ("" if self.pages.kind == "int8" else _(" In fewer bits there is room for more: kv_cache."))
            )
        if unknown := [token for token in request.logit_bias if token >= config.vocab_size]:
            raise GenerationError(
                _(
                    "logit_bias names the token {token}, but the model has only {count}.",
                    token=unknown[0],
                    count=config.vocab_size,
                )
            )
        if self.waiting >= self._most_waiting:
            raise Busy(_("{count} requests wait already; try again later.", count=self._most_waiting))
        if request.constraint is not None:
            drafter = model = None
        else:
            drafter = drafter_of(self.decoder, prompt, request.config, room, self._tokenizer.stop_ids, model)
        ticket = Ticket(request, room, drafter, model)
        self._coming.append(ticket)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """End it as it is: now, or where somebody makes a pass, behind that."""
        ticket.cancelled = True
        if self._lock.acquire(blocking=False):
            try:
                self._end_some()
            finally:
                self._lock.release()

    def stream(self, ticket: Ticket, stopped: Callable[[], bool] = lambda: False) -> Iterator[str | Response]:
        """Pieces of its text as they are finished, and last the Response. Whoever asks makes the passes, for all. One that
        is not asked to the end is cancelled, and between two passes one for which `stopped` says so. Raises GenerationError."""
        try:
            while True:
                if stopped():
                    self.cancel(ticket)
                done = ticket.done
                yield from ticket.taken_pieces()
                if done:
                    break
                if self._lock.acquire(timeout=LOOK):
                    try:
                        if not ticket.done:
                            self.advance()
                    finally:
                        self._lock.release()
            if ticket.error:
                raise ticket.error
            assert ticket.response
            yield ticket.response
        finally:
            self.cancel(ticket)

    def advance(self) -> list[Ticket]:
        """Make the passes that bring each sequence further, as far as there are any; those that have ended."""
        with self._lock:
            self._end_some()
            self._begin()
            if self._going:
                began = time.perf_counter()
                try:
                    self._read()
                except ItrexChatError as error:  # of the model, such as a file that is not what it was
                    for ticket in self._going:
                        ticket.error = error
                seconds = time.perf_counter() - began
                for ticket in self._going:
                    ticket.share += seconds / len(self._going)
            return self._ended()

    @property
    def waiting(self) -> int:
        return len(self._waiting) + len(self._coming)

    @property
    def going(self) -> int:
        return len(self._going)

    def close(self) -> None:
        """Cancel what there is, and give all pages back."""
        with self._lock:
            for ticket in [*self._coming, *self._waiting, *self._going]:
                ticket.cancelled = True
            self._end_some()
            self._admission.clear()

    def _end_some(self) -> None:
        """End those that were cancelled, and those whose time is over; what came meanwhile waits now."""
        while self._coming:
            self._waiting.append(self._coming.popleft())
        for ticket in [*self._waiting, *self._going]:
            if ticket.cancelled or ticket.late:
                self._end(ticket, CANCELLED if ticket.cancelled else DEADLINE)

    # What joins.

    def _begin(self) -> None:
        """Begin those that wait, as long as there is a place, and pages for all that they may come to."""
        while self._waiting and self._admission.begins(
            self._waiting[0], self._going, partial(self._sequence, self._waiting[0])
        ):
            self._going.append(self._waiting.popleft())

    def _sequence(self, ticket: Ticket, place: Place) -> Sequence:
        return Sequence(
            ticket.request.prompt,
            ticket.request.config,
            ticket.room,
            self._tokenizer,
            place,
            self.decoder.config.vocab_size,
            ticket.drafter,
            ticket.began,
            ticket.request,
        )

    # Passes.

    def _read(self) -> None:
        going = [ticket.sequence for ticket in self._going if ticket.sequence]
        reading = [sequence for sequence in going if sequence.reads_prompt]
        decoding = [sequence for sequence in going if not sequence.reads_prompt]
        if self.decoder.cuts_anywhere:
            budget = self._budget.prompt_tokens(len(decoding)) if reading else 0
            self._pass(decoding, self._shared_out(reading, budget))
            return
        for some in self._apart(reading + decoding):
            prompts = [(sequence, _step(sequence)) for sequence in some if sequence.reads_prompt]
            self._pass([sequence for sequence in some if not sequence.reads_prompt], prompts)

    def _apart(self, sequences: list[Sequence]) -> list[list[Sequence]]:
        """Which of them are in a pass together where a row depends on how many there are: as many as do not matter, and by
        itself whoever reads more of its prompt."""
        most = left = self.decoder.independent_tokens
        alone, few = list[list[Sequence]](), [list[Sequence]()]
        for sequence in sequences:
            if (rows := sequence.next_rows(_step(sequence))) > most:
                alone.append([sequence])
                continue
            if rows > left:
                few.append([])
                left = most
            few[-1].append(sequence)
            left -= rows
        return [*alone, *filter(None, few)]

    def _shared_out(self, reading: list[Sequence], budget: int) -> list[tuple[Sequence, int]]:
        """So many tokens of prompts in all: the same for each, and what one does not need for the others."""
        shares, left, scored = [], budget, PROMPT_LOGITS
        by_length = sorted(reading, key=lambda sequence: len(sequence.prompt) - sequence.place.length)
        for others, sequence in zip(range(len(by_length), 0, -1), by_length):
            share = min(max(left // others, 1), len(sequence.prompt) - sequence.place.length)
            if sequence.scores_prompt:
                share = min(share, scored)
                scored -= share
            if left > 0 and share:
                shares.append((sequence, share))
                left -= share
        return shares

    def _pass(self, decoding: list[Sequence], reading: list[tuple[Sequence, int]]) -> None:
        """One pass over the newest tokens of some sequences, with their drafts, and so many tokens of the prompts of others."""
        chunks, sequences, prompt = (
            list[Chunk](),
            list[Sequence](),
            sum(min(tokens, sequence.next_rows(tokens)) for sequence, tokens in reading),
        )
        left = self.decoder.independent_tokens - prompt
        payoffs = self._payoffs([*decoding, *(sequence for sequence, _tokens in reading)])
        for payoff in payoffs:
            if decoding:
                payoff.sequences = len(decoding)
        for others, sequence in zip(range(len(decoding), 0, -1), decoding):
            chunks.append(sequence.chunk(PREFILL_STEP, max(left // others, 1)))
            left -= len(chunks[-1].ids)
            sequences.append(sequence)
        for sequence, tokens in reading:
            chunks.append(sequence.chunk(tokens, 0))
            sequences.append(sequence)
        if not chunks:
            return
        rows = self.rows = sum(len(chunk.ids) for chunk in chunks)
        began = time.perf_counter()
        logits = self.decoder.read(chunks, self._admission.cache)
        seconds = time.perf_counter() - began
        self._budget.took(len(decoding), prompt, seconds)
        for payoff in payoffs if not (decoding and reading) else ():
            (payoff.passes.add_prompt if reading else payoff.passes.add)(rows, seconds)
        for sequence, found in zip(sequences, logits):
            if len(found):
                self._take(sequence, found)
        for sequence, _tokens in reading:
            if not sequence.reads_prompt:
                self._admission.keep(sequence, sequence.prompt)

    def _payoffs(self, sequences: list[Sequence]) -> list[Payoff]:
        """Those that are told what a pass over these sequences takes."""
        models = (ticket.model for ticket in self._going if ticket.sequence in sequences)
        return list({id(model): model.payoff for model in models if model}.values())

    def _take(self, sequence: Sequence, logits: torch.Tensor) -> None:
        try:
            sequence.take(logits)
        except ItrexChatError as error:
            [ticket] = [ticket for ticket in self._going if ticket.sequence is sequence]
            ticket.error = error

    # What ends.

    def _ended(self) -> list[Ticket]:
        """Let go of those that have ended."""
        ended = []
        for ticket in list(self._going):
            sequence = ticket.sequence
            assert sequence
            ticket.say(sequence.taken_pieces())
            if sequence.finish_reason or ticket.error:
                self._release(ticket)
                ended.append(ticket)
        return ended

    def _end(self, ticket: Ticket, reason: str) -> None:
        """End one that goes on or waits, as it is."""
        if ticket.done:
            return
        if ticket in self._waiting:
            self._waiting.remove(ticket)
            waited = time.perf_counter() - ticket.began
            ticket.response = Response("", [], ticket.request.prompt, reason, waited, None)
        elif ticket.sequence:
            try:
                ticket.sequence.cancel(reason)
            except ItrexChatError as error:  # its last text, which the tokenizer does not give
                ticket.error = error
            ticket.say(ticket.sequence.taken_pieces())
            self._release(ticket)

    def _release(self, ticket: Ticket) -> None:
        sequence = ticket.sequence
        assert sequence
        if not ticket.error:
            self._admission.keep(sequence, [*sequence.prompt, *sequence.ids])
            ticket.response = replace(sequence.response(), share=ticket.share)
            if ticket.model:
                ticket.model.payoff.answered(len(sequence.ids))
        self._admission.release(ticket)
        self._going.remove(ticket)


def _step(sequence: Sequence) -> int:
    """How many tokens of its prompt a sequence reads in a pass, where it matters where a prompt is cut: one whose tokens are
    scored in the same passes as `quality/passages.py` has."""
    if not sequence.scores_prompt:
        return PREFILL_STEP
    return min(PROMPT_LOGITS, max(len(sequence.prompt) - 1 - sequence.place.length, 1))
