"""Drafts by another decoder: an INT4 variant for the FP32 one, or a small model for a large one of the same vocabulary.

The drafter reads what the answer is so far and chooses as the answer's sampler would, with the same draws; the decoder
checks what it chose in one pass. What the drafter would have chosen is kept for each place that it has read up to, in a
draft or not: beside what was chosen there it tells how alike the two models are. It depends neither on how long drafts
are nor on time.
"""

import math
import time
from dataclasses import dataclass

import torch

from itrex_chat.decoder.kv_cache import KVCache
from itrex_chat.decoder.model import Chunk, Decoder
from itrex_chat.generation.payoff import Payoff
from itrex_chat.generation.prefill import prefill
from itrex_chat.generation.sampling import NotFinite, Sampler
from itrex_chat.settings.generation import GenerationConfig

PLAIN = 5  # tokens with which each answer begins without drafts, so that it tells what those take
PLAIN_STREAMED = 2  # where weights are read from disk, and a pass takes seconds
SLOWER = 8  # times as long as one from memory, a byte from disk is likely to take
PAUSE = 64  # tokens without drafts where they are not worth it


@dataclass(frozen=True)
class DraftModel:
    """A decoder that drafts for another one, called `name`, and what its drafts are worth. Both know the tokens below
    `vocabulary`; an answer has its first `plain` tokens without drafts."""

    name: str
    decoder: Decoder
    vocabulary: int
    payoff: Payoff
    plain: int = PLAIN

    @classmethod
    def beside(cls, name: str, drafter: Decoder, decoder: Decoder) -> "DraftModel":
        """`drafter` for `decoder`."""
        vocabulary = min(drafter.config.vocab_size, decoder.config.vocab_size)
        stream = decoder.stream
        bytes_of_pass = decoder.weight_bytes() + (SLOWER * stream.nbytes if stream else 0)
        payoff = Payoff(drafter.weight_bytes() / bytes_of_pass, streamed=stream is not None)
        return cls(name, drafter, vocabulary, payoff, PLAIN_STREAMED if stream else PLAIN)

    def drafter(
        self, prompt: list[int], config: GenerationConfig, room: int, stop_ids: frozenset[int]
    ) -> "ModelDrafter":
        """One for an answer to `prompt` of at most `room` tokens."""
        return ModelDrafter(self, prompt, config, room, stop_ids)


class ModelDrafter:
    """Drafts for one answer.

    `choices` are what the model would have chosen at each place of the answer,
    from the first on, given what the answer was before it. The answer may have
    one token less than they are, or more.
    """

    def __init__(
        self, model: DraftModel, prompt: list[int], config: GenerationConfig, room: int, stop_ids: frozenset[int]
    ):
        self.drafted = self.accepted = 0
        self.choices: list[int] = []
        self.model, self._prompt, self._room, self._stop_ids = model, prompt, room, stop_ids
        self._cache: KVCache | None = None
        self._ids: list[int] = []  # of the answer, as far as it is known
        self._behind: list[int] = []  # the last of them, which the cache does not hold
        self._sureness: list[float] = []  # the probability that the model gave to each choice
        self._judged = 0  # choices that the payoff has heard of
        self._resume = model.plain
        self._given_up = max(prompt) >= model.vocabulary
        if not self._given_up:
            self._sampler = Sampler(config, prompt, model.vocabulary)  # behind the choice of the next place
            self._noted = 0  # tokens of the answer that it has heard of
            self._states: list[Sampler] = []  # it, and those behind each further choice of the newest draft

    def draft(self, token: int, limit: int) -> list[int]:
        """At most `limit` tokens that may follow a new token of the answer; none of them ends it."""
        self._ids.append(token)
        self._behind.append(token)
        longest = self.model.decoder.config.context_length
        self._given_up |= token >= self.model.vocabulary or len(self._prompt) + len(self._ids) + limit > longest
        if self._given_up or limit < 1 or len(self._ids) < self._resume:
            return []
        try:
            return self._drafted(limit)
        except NotFinite:  # the drafter's weights may be damaged; the answer is the decoder's
            self._given_up = True
            del self.choices[len(self._ids) + 1 :]
            return []

    def checked(self, draft: list[int], accepted: int) -> None:
        """The first `accepted` tokens of the draft were right."""
        self.drafted += len(draft)
        self.accepted += accepted
        known, held = len(self._ids), len(self._states) - 1  # `held` tokens of the draft are in the cache
        self._ids += draft[:accepted]
        self._behind = draft[held:accepted]
        if accepted < held:
            assert self._cache is not None
            self._cache.forget(held - accepted)
        for kept in (self.choices, self._sureness):
            del kept[known + accepted + 1 :]
        self._sampler, self._noted = self._states[min(accepted, held)], known + min(accepted, held)

    def _drafted(self, limit: int) -> list[int]:
        payoff, read = self.model.payoff, len(self._ids)
        if self._cache is None:
            if not payoff.worth_reading(len(self._prompt) + read, self._room - read, limit):
                self._resume = read + PAUSE
                return []
            self._read_prompt()
        self._judge()
        self._catch_up()
        self._judge()
        if not payoff.length(limit):
            self._resume = read + PAUSE
            return []
        return self._guessed(limit)

    def _guessed(self, limit: int) -> list[int]:
        """A draft behind what the cache holds, as long as it is worth it."""
        payoff, draft, odds = self.model.payoff, list[int](), 1.0
        self._states, branch = [self._sampler], self._sampler.forked()
        while True:
            token = self.choices[-1]
            odds *= payoff.odds.of(self._sureness[-1])
            if token in self._stop_ids or not payoff.takes(odds, len(draft), limit):
                return draft
            draft.append(token)
            if len(draft) == limit or not payoff.goes_on(odds, len(draft), limit):
                return draft
            branch.note(token)
            began = time.perf_counter()
            self._choose(self._read([token])[0], branch)
            payoff.drafts.add(1, time.perf_counter() - began)
            self._states.append(branch.forked())

    def _read_prompt(self) -> None:
        decoder, began = self.model.decoder, time.perf_counter()
        self._cache = decoder.new_cache(len(self._prompt) + self._room)
        self._choose(prefill(decoder, self._prompt, self._cache), self._sampler)
        self.model.payoff.drafts.add_prompt(len(self._prompt), time.perf_counter() - began)

    def _catch_up(self) -> None:
        """Read the tokens of the answer that the cache does not hold, and choose at the places behind them."""
        while self._behind:
            began = time.perf_counter()
            tokens = self._behind[: self.model.decoder.independent_tokens]
            first = len(self._ids) - len(self._behind) + 1
            for place, logits in enumerate(self._read(tokens), first):
                if place == len(self.choices):  # else it was chosen at the end of a draft
                    for token in self._ids[self._noted : place]:
                        self._sampler.note(token)
                    self._noted = place
                    self._choose(logits, self._sampler)
            del self._behind[: len(tokens)]
            self.model.payoff.drafts.add(len(tokens), time.perf_counter() - began)

    def _read(self, tokens: list[int]) -> torch.Tensor:
        """The logits behind each of a few tokens."""
        assert self._cache is not None
        return self.model.decoder.read([Chunk(0, tokens, len(tokens))], self._cache)[0]

    def _choose(self, logits: torch.Tensor, sampler: Sampler) -> None:
        """Choose at the next place. Raises NotFinite."""
        logits = logits[: self.model.vocabulary]
        token = sampler.pick(logits)
        self.choices.append(token)
        self._sureness.append(math.exp(float(logits[token] - logits.logsumexp(0))))

    def _judge(self) -> None:
        """Tell the payoff which choices were right that it has not heard of."""
        end = min(len(self._ids), len(self.choices))
        for place in range(self._judged, end):
            self.model.payoff.odds.judge(self._sureness[place], self.choices[place] == self._ids[place])
        self._judged = max(self._judged, end)
