"""The variants that answer, loaded when they are first asked."""

import gc
from types import TracebackType
from typing import TYPE_CHECKING, Self

from itrex_chat.engines import EngineOptions, engine_of, open_session
from itrex_chat.foundation import machine
from itrex_chat.foundation.choices import one_of
from itrex_chat.foundation.errors import EngineError, MemoryShortage, RecipeError
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import readable
from itrex_chat.settings.recipe import Recipe
from itrex_chat.settings.variant import ORDER, PRECISIONS, Variant

if TYPE_CHECKING:
    from itrex_chat.engines.session import Session

PROMPT = 1024  # tokens that are planned for beside an answer's; what is left has more


def names_in(text: str, option: str) -> tuple[str, ...]:
    """The variants of a text with commas between them. Raises RecipeError."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise RecipeError(
            _("{option} names no variant; choose some of: {names}.", option=option, names=", ".join(PRECISIONS))
        )
    for name in names:
        one_of(option, name, ORDER)
    return names


class Voices:
    """Sessions of a recipe's model by the names of their variants; `names` are those that answer, in this order."""

    def __init__(self, recipe: Recipe, names: tuple[str, ...]):
        self.recipe, self.names = recipe, names
        self._sessions: dict[str, Session] = {}

    def session(self, name: str) -> "Session":
        """Raises ItrexChatError, MemoryShortage among others."""
        if name not in self._sessions:
            variant, engine, trusted = Variant.parse(name), engine_of(name), dict[str, str]()
            engine.check(variant)
            found = engine.on_disk(self.recipe, variant, EngineOptions(), trusted)
            tokens = PROMPT + self.recipe.generation.max_new_tokens
            needed, free = engine.memory(found, self.recipe, variant, tokens).least, machine.available_memory()
            if needed > free:
                raise MemoryShortage(
                    _(
                        "{model} {variant} needs {needed} of memory, but {free} is left; choose another variant or a smaller "
                        "model.",
                        model=self.recipe.name,
                        variant=variant.title,
                        needed=readable(needed),
                        free=readable(free),
                    )
                )
            self._sessions[name] = open_session(self.recipe, variant, trusted=trusted, needed=needed)
        return self._sessions[name]

    def choose(self, names: tuple[str, ...]) -> None:
        """Let others answer. What is not needed makes room for them first; where they cannot be loaded, those from before
        answer still. Raises ItrexChatError."""
        before, self.names = self.names, names
        for name in self._sessions.keys() - set(names):
            self.drop(name)
        gc.collect()  # weights go before others come
        try:
            for name in names:
                self.session(name)
        except BaseException:
            self.names = before
            raise

    def drop(self, name: str) -> None:
        """Let go of a variant; it is loaded again when it is asked."""
        if session := self._sessions.pop(name, None):
            session.close()

    def context(self, name: str) -> int | None:
        """How many tokens the variant's model takes in all; None where its engine does not tell."""
        try:
            return self.session(name).decoder.config.context_length
        except EngineError:
            return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in list(self._sessions):
            self.drop(name)
