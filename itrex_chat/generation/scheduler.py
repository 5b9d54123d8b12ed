"""Many answers at once: passes over whatever sequences there are (continuous batching, Orca, OSDI 2022).

A sequence that comes joins with the next pass, and its place goes to another one when it ends. Each answer has the
tokens that it has alone, bit for bit: the logits of a row do not depend on what else is in a pass, nor on where a prompt
is cut (`Decoder.cuts_anywhere`); where they do, a prompt is read in passes of its own, cut at the same places always.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from threading import RLock

import torch

from itrex_chat.chat import AnswerTokenizer
from itrex_chat.decoder.model import Chunk, Decoder
from itrex_chat.decoder.pages import PAGE, Pages, pages_for
from itrex_chat.decoder.prefixes import Prefixes
from itrex_chat.decoder.rotary import stretch
from itrex_chat.foundation.errors import Busy, GenerationError, ItrexChatError
from itrex_chat.foundation.language import _
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
        longest = min(decoder.config.context_length, pages.count * PAGE)
        self._cache = decoder.new_cache(longest, rows, pages)
        self._free = [Place(self._cache, row) for row in range(rows - 1, -1, -1)]
        self._coming: deque[Ticket] = deque()  # from any thread, while another one makes a pass
        self._waiting: deque[Ticket] = deque()
        self._going: list[Ticket] = []
        self._promised: dict[Ticket, int] = {}  # pages that a sequence may have in all
        self._prefixes = Prefixes(pages)
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
            self._prefixes.clear()

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
        while self._waiting and self._free:
            ticket = self._waiting[0]
            known, found = self._known(ticket)
            if self._will_know_more(ticket, found):
                return
            for page in known:
                self.pages.share(page)  # so that they are not given up for this one
            try:
                if not self._makes_room(pages_for(ticket.tokens) - found // PAGE):
                    return
                self._waiting.popleft()
                self._start(ticket, known, found)
            finally:
                for page in known:
                    self.pages.release(page)

    def _start(self, ticket: Ticket, known: list[int], found: int) -> None:
        place, request = self._free.pop(), ticket.request
        ticket.sequence = Sequence(
            request.prompt,
            request.config,
            ticket.room,
            self._tokenizer,
            place,
            self.decoder.config.vocab_size,
            ticket.drafter,
            ticket.began,
            request,
        )
        if found:
            self._cache.adopt(place.row, known, found)
            ticket.sequence.cached = found
        self._promised[ticket] = pages_for(ticket.tokens)
        self._going.append(ticket)

    def _known(self, ticket: Ticket) -> tuple[list[int], int]:
        """Pages with the beginning of a prompt, and how many of its tokens; not all of them, for its last one's logits
        are wanted."""
        prompt = ticket.request.prompt
        if ticket.request.prompt_logprobs is not None:
            return [], 0
        pages, found = self._prefixes.find(self._kind(prompt), prompt[: len(prompt) - 1])
        if not self.decoder.cuts_anywhere:
            found = found // PREFILL_STEP * PREFILL_STEP
        return pages[: pages_for(found)], found

    def _will_know_more(self, ticket: Ticket, found: int) -> bool:
        """Whether a prompt that is just being read begins as this one for another page at least."""
        prompt, step = ticket.request.prompt, PAGE if self.decoder.cuts_anywhere else PREFILL_STEP
        if ticket.request.prompt_logprobs is not None:
            return False
        wanted = prompt[: found // step * step + step]
        return len(wanted) < len(prompt) and any(
            other.sequence.reads_prompt
            and other.request.prompt[: len(wanted)] == wanted
            and self._kind(other.request.prompt) == self._kind(prompt)
            for other in self._going
            if other.sequence
        )

    def _makes_room(self, count: int) -> bool:
        """Whether so many pages can be had beside those that were promised; what nobody uses is given up for them."""
        promised = sum(
            pages - len(ticket.sequence.place.pages) for ticket, pages in self._promised.items() if ticket.sequence
        )
        if self.pages.free + self._prefixes.idle() < promised + count:
            return False
        self._prefixes.give_up(promised + count)
        return True

    def _kind(self, prompt: list[int]) -> float:
        return stretch(self.decoder.config, len(prompt))

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
        logits = self.decoder.read(chunks, self._cache)
        seconds = time.perf_counter() - began
        self._budget.took(len(decoding), prompt, seconds)
        for payoff in payoffs if not (decoding and reading) else ():
            (payoff.passes.add_prompt if reading else payoff.passes.add)(rows, seconds)
        for sequence, found in zip(sequences, logits):
            if len(found):
                self._take(sequence, found)
        for sequence, _tokens in reading:
            if not sequence.reads_prompt:
                self._keep(sequence, sequence.prompt)

    def _payoffs(self, sequences: list[Sequence]) -> list[Payoff]:
        """Those that are told what a pass over these sequences takes."""
        models = (ticket.model for ticket in self._going if ticket.sequence in sequences)
        return list({id(model): model.payoff for model in models if model}.values())

    def _take(self, sequence: Sequence, logits: torch.Tensor) -> None:
        try:
            sequence.take(logits)
        except GenerationError as error:
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
            ticket.sequence.cancel(reason)
            ticket.say(ticket.sequence.taken_pieces())
            self._release(ticket)

    def _release(self, ticket: Ticket) -> None:
        sequence = ticket.sequence
        assert sequence
        if not ticket.error:
            self._keep(sequence, [*sequence.prompt, *sequence.ids][: sequence.place.length])
            ticket.response = replace(sequence.response(), share=ticket.share)
            if ticket.model:
                ticket.model.payoff.answered(len(sequence.ids))
        sequence.place.end()
        self._free.append(sequence.place)
        self._promised.pop(ticket)
        self._going.remove(ticket)

    def _keep(self, sequence: Sequence, ids: list[int]) -> None:
        """Keep what a sequence has read, for others that begin like it."""
        if not self.decoder.cuts_anywhere:  # only what any other prompt has in the same passes
            if sequence.scores_prompt:
                return
            ids = ids[: len(sequence.prompt) // PREFILL_STEP * PREFILL_STEP]
        ids = ids[: sequence.place.length]
        self._prefixes.keep(self._kind(sequence.prompt), ids, sequence.place.pages)


def _step(sequence: Sequence) -> int:
    """How many tokens of its prompt a sequence reads in a pass, where it matters where a prompt is cut: one whose tokens are
    scored in the same passes as `quality/passages.py` has."""
    if not sequence.scores_prompt:
        return PREFILL_STEP
    return min(PROMPT_LOGITS, max(len(sequence.prompt) - 1 - sequence.place.length, 1))
