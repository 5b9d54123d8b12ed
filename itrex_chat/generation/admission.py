"""Who may begin: a place in the cache, and pages for all that a sequence may come to, of which others may know some already."""

from collections.abc import Callable, Iterable

from itrex_chat.decoder.model import Decoder
from itrex_chat.decoder.pages import PAGE, Pages, pages_for
from itrex_chat.decoder.prefixes import Prefixes
from itrex_chat.decoder.rotary import stretch
from itrex_chat.generation.prefill import PREFILL_STEP
from itrex_chat.generation.sequence import Place, Sequence
from itrex_chat.generation.ticket import Ticket


class Admission:
    """The places of `rows` sequences in one cache, whose memory is `pages`.

    A sequence that has a place can have all pages that it may need, so that none that was begun has to give up for others.
    What sequences have read is kept for those that begin like them, as long as nobody wants its pages.
    """

    def __init__(self, decoder: Decoder, pages: Pages, rows: int):
        self._decoder, self._pages = decoder, pages
        self.cache = decoder.new_cache(min(decoder.config.context_length, pages.count * PAGE), rows, pages)
        self._free = [Place(self.cache, row) for row in range(rows - 1, -1, -1)]
        self._prefixes = Prefixes(pages)

    def begins(self, ticket: Ticket, going: Iterable[Ticket], sequence_at: Callable[[Place], Sequence]) -> bool:
        """Begin a request with what is known of its prompt, if it can have a place; `sequence_at` makes its sequence there.

        `going` are those that have one: where one of them is just reading what this one begins with, it is worth waiting.
        """
        if not self._free:
            return False
        known, found = self._known(ticket)
        if self._will_know_more(ticket, found, going):
            return False
        for page in known:
            self._pages.share(page)  # so that they are not given up for this one
        try:
            if not self._makes_room(pages_for(ticket.tokens) - found // PAGE, going):
                return False
            place = self._free.pop()
            ticket.sequence = sequence_at(place)
            if found:
                self.cache.adopt(place.row, known, found)
                ticket.sequence.cached = found
            return True
        finally:
            for page in known:
                self._pages.release(page)

    def keep(self, sequence: Sequence, ids: list[int]) -> None:
        """Keep what a sequence has read of its tokens `ids`, for others that begin like it."""
        if not self._decoder.cuts_anywhere:  # only what any other prompt has in the same passes
            if sequence.scores_prompt:
                return
            ids = ids[: len(sequence.prompt) // PREFILL_STEP * PREFILL_STEP]
        ids = ids[: sequence.place.length]
        self._prefixes.keep(self._kind(sequence.prompt), ids, sequence.place.pages)

    def release(self, ticket: Ticket) -> None:
        """Take back the place of one that has ended."""
        assert ticket.sequence
        ticket.sequence.place.end()
        self._free.append(ticket.sequence.place)

    def clear(self) -> None:
        """Give back all pages that no sequence has."""
        self._prefixes.clear()

    def _known(self, ticket: Ticket) -> tuple[list[int], int]:
        """Pages with the beginning of a prompt, and how many of its tokens; not all of them, for its last one's logits
        are wanted."""
        prompt = ticket.request.prompt
        if ticket.request.prompt_logprobs is not None:
            return [], 0
        pages, found = self._prefixes.find(self._kind(prompt), prompt[: len(prompt) - 1])
        if not self._decoder.cuts_anywhere:
            found = found // PREFILL_STEP * PREFILL_STEP
        return pages[: pages_for(found)], found

    def _will_know_more(self, ticket: Ticket, found: int, going: Iterable[Ticket]) -> bool:
        """Whether a prompt that is just being read begins as this one for another page at least."""
        prompt, step = ticket.request.prompt, PAGE if self._decoder.cuts_anywhere else PREFILL_STEP
        if ticket.request.prompt_logprobs is not None:
            return False
        wanted = prompt[: found // step * step + step]
        return len(wanted) < len(prompt) and any(
            other.sequence.reads_prompt
            and other.request.prompt[: len(wanted)] == wanted
            and self._kind(other.request.prompt) == self._kind(prompt)
            for other in going
            if other.sequence
        )

    def _makes_room(self, count: int, going: Iterable[Ticket]) -> bool:
        """Whether so many pages can be had beside those that `going` may still need; what nobody uses is given up for them."""
        promised = sum(
            pages_for(ticket.tokens) - len(ticket.sequence.place.pages) for ticket in going if ticket.sequence
        )
        if self._pages.free + self._prefixes.idle() < promised + count:
            return False
        self._prefixes.give_up(promised + count)
        return True

    def _kind(self, prompt: list[int]) -> float:
        return stretch(self._decoder.config, len(prompt))
