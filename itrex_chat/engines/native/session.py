"""A session whose decoder is in this process, and whose tokenizer in one of its own."""

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence

from itrex_chat.chat import Message
from itrex_chat.chat.confined import ConfinedTokenizer
from itrex_chat.decoder.model import Decoder
from itrex_chat.decoder.pages import page_bytes, pages_for
from itrex_chat.engines.memory import left
from itrex_chat.engines.native.drafts import Drafting
from itrex_chat.engines.native.rehearsal import drafted
from itrex_chat.engines.session import Session
from itrex_chat.generation.loop import generate, generate_together
from itrex_chat.generation.model_drafts import DraftModel
from itrex_chat.generation.request import MOST_WAITING, Request
from itrex_chat.generation.response import Response
from itrex_chat.generation.scheduler import MOST_ROWS, Scheduler
from itrex_chat.generation.ticket import Ticket
from itrex_chat.jobs.event import Facts, Pace
from itrex_chat.settings.generation import GenerationConfig
from itrex_chat.settings.recipe import Recipe
from itrex_chat.settings.variant import Variant


class NativeSession(Session):
    tokenizer: ConfinedTokenizer

    def __init__(
        self,
        recipe: Recipe,
        variant: Variant,
        tokenizer: ConfinedTokenizer,
        facts: Facts,
        decoder: Decoder,
        drafting: Drafting,
        pace: Pace | None = None,
    ):
        super().__init__(recipe, variant, tokenizer, facts)
        self.pace, self._decoder, self._drafting = pace, decoder, drafting
        self._scheduler: Scheduler | None = None
        self._lock = threading.Lock()

    def ready(self, config: GenerationConfig, batch: int = 1) -> None:
        model = self._drafter(config, batch)
        if self.pace and model:
            self.pace = dataclasses.replace(self.pace, draft=drafted(model.decoder))

    def peak_memory(self) -> int:
        """Without what drafters take."""
        return self._drafting.peak_memory() + self.tokenizer.peak_memory()

    @property
    def decoder(self) -> Decoder:
        return self._decoder

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        return self.tokenizer.prompt(list(messages))

    def stream(self, prompt: list[int], config: GenerationConfig) -> Iterator[str | Response]:
        return generate(self._decoder, self.tokenizer, prompt, config, model=self._drafter(config))

    def together(
        self, prompts: Sequence[list[int]], config: GenerationConfig, count: int
    ) -> Iterator[tuple[int, str | Response]]:
        return generate_together(self._decoder, self.tokenizer, prompts, config, count, self._drafter(config, count))

    def answer(self, request: Request, stopped: Callable[[], bool] = lambda: False) -> Iterator[str | Response]:
        yield from self.scheduler().stream(self.add(request), stopped)

    def add(self, request: Request) -> Ticket:
        return self.scheduler().add(request, self._drafter(request.config))

    def scheduler(self, memory: int | None = None, waiting: int = MOST_WAITING) -> Scheduler:
        """Keys and values have half of the memory that is left unless `memory` says, as far as they can use it."""
        with self._lock:
            if self._scheduler is None:
                config = self._decoder.config
                free = left(self.recipe, self.variant) // 2 if memory is None else memory
                fits = free // page_bytes(config, self._decoder.cache_format)
                pages = self._decoder.new_pages(max(1, min(fits, MOST_ROWS * pages_for(config.context_length))))
                self._scheduler = Scheduler(self._decoder, self.tokenizer, pages, waiting=waiting)
            return self._scheduler

    def _drafter(self, config: GenerationConfig, batch: int = 1) -> DraftModel | None:
        """What drafts for answers with these settings; `facts` tell of it."""
        model = self._drafting.model(config, batch)
        self.facts = dataclasses.replace(self.facts, drafter=self._drafting.facts)
        return model

    def close(self) -> None:
        if self._scheduler:
            self._scheduler.close()
        self.tokenizer.close()
