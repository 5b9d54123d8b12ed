"""A session whose decoder is in this process, and whose tokenizer in one of its own."""

import dataclasses
from collections.abc import Iterator, Sequence

from itrex_chat.chat import Message
from itrex_chat.chat.confined import ConfinedTokenizer
from itrex_chat.decoder.model import Decoder
from itrex_chat.engines.native.drafts import Drafting
from itrex_chat.engines.session import Session
from itrex_chat.generation.loop import generate, generate_together
from itrex_chat.generation.model_drafts import DraftModel
from itrex_chat.generation.response import Response
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

    def ready(self, config: GenerationConfig, batch: int = 1) -> None:
        self._drafter(config, batch)

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

    def _drafter(self, config: GenerationConfig, batch: int = 1) -> DraftModel | None:
        """What drafts for answers with these settings; `facts` tell of it."""
        model = self._drafting.model(config, batch)
        self.facts = dataclasses.replace(self.facts, drafter=self._drafting.facts)
        return model

    def close(self) -> None:
        self.tokenizer.close()
