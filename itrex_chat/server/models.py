"""Which models are served and which of them are loaded: on first use, one at a time, and no more than fit."""

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import cast

from itrex_chat.chat import ChatTokenizer
from itrex_chat.engines import EngineOptions, open_session
from itrex_chat.engines.session import Session
from itrex_chat.foundation import machine
from itrex_chat.foundation.errors import Busy, ItrexChatError, MemoryShortage
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import readable
from itrex_chat.generation.grammar import Grammars
from itrex_chat.jobs.event import ArtifactFacts
from itrex_chat.server.driver import Driver, Turns
from itrex_chat.server.errors import ApiError, unavailable
from itrex_chat.server.vocabulary import Vocabulary
from itrex_chat.settings.recipe import Recipe
from itrex_chat.settings.variant import Variant


@dataclass(eq=False)
class Model:
    """A variant of a model that can be asked under its `name`. `needed`: bytes of memory to load it. The driver is there
    while it is loaded, `users` of it are being answered. `artifact`: what it is loaded from, where it is quantized."""

    recipe: Recipe
    variant: Variant
    needed: int
    artifact: ArtifactFacts | None = None
    created: int = field(default_factory=lambda: int(time.time()))
    users: int = 0
    used: float = field(default_factory=time.monotonic)
    loading: "asyncio.Task[None] | None" = None
    _driver: Driver | None = None
    _vocabulary: Vocabulary | None = None
    _grammars: Grammars | None = None

    @property
    def name(self) -> str:
        return f"{self.recipe.name}:{self.variant}"

    @property
    def loaded(self) -> bool:
        return self._driver is not None and not self._driver.broken

    @property
    def driver(self) -> Driver:
        assert self._driver
        return self._driver

    @property
    def session(self) -> Session:
        return self.driver.session

    @property
    def tokenizer(self) -> ChatTokenizer:
        return cast(ChatTokenizer, self.session.tokenizer)

    @property
    def vocabulary(self) -> Vocabulary:
        assert self._vocabulary
        return self._vocabulary

    def grammars(self) -> Grammars:
        """What constrains its answers. The first call takes a second."""
        if self._grammars is None:
            self._grammars = Grammars(self.tokenizer, self.driver.scheduler.decoder.config.vocab_size)
        return self._grammars

    @property
    def context(self) -> int:
        """Tokens of a prompt and its answer."""
        return self.driver.scheduler.decoder.config.context_length

    async def load(self, driver: Driver) -> None:
        await driver.started()
        self._driver, self._vocabulary = driver, Vocabulary(cast(ChatTokenizer, driver.session.tokenizer))

    async def unload(self) -> None:
        driver, self._driver, self._vocabulary, self._grammars = self._driver, None, None, None
        if driver:
            await driver.close()
            del driver
            gc.collect()


class Models:
    """`cache_memory`: bytes that keys and values of each model may have, None for a share of half of what is left.
    `waiting`: answers of a model that may wait.
    `unload_after`: seconds without a request after which a model is let go of."""

    def __init__(
        self,
        models: list[Model],
        trusted: dict[str, str],
        cache_memory: int | None,
        waiting: int,
        unload_after: float,
        passed: Callable[[str, int], None],
        failed: Callable[[str, BaseException], None],
    ):
        self.all = {model.name: model for model in models}
        self._trusted, self._cache_memory, self._waiting, self._unload_after = (
            trusted,
            cache_memory,
            waiting,
            unload_after,
        )
        self._passed, self._failed = passed, failed
        self._turns, self._changing = Turns(), asyncio.Lock()

    def find(self, name: str | None) -> Model:
        """The model of a name; of a name without a variant its first, and without a name the first of all."""
        if name is None:
            return next(iter(self.all.values()))
        for model in self.all.values():
            if name in (model.name, model.recipe.name):
                return model
        raise ApiError(
            404,
            _("There is no model {name!r} here; there are: {names}.", name=name[:100], names=", ".join(self.all)),
            "model",
            "model_not_found",
        )

    @contextlib.asynccontextmanager
    async def using(self, name: str | None) -> AsyncIterator[Model]:
        """A model, loaded, which stays so meanwhile. Raises ApiError."""
        model = self.find(name)
        model.users += 1
        try:
            while not model.loaded:
                if model.loading is None:
                    model.loading = asyncio.create_task(self._load(model))
                # another client's loading, too, goes on when this one leaves
                await asyncio.shield(model.loading)
            yield model
        finally:
            model.users -= 1
            model.used = time.monotonic()

    async def unload_idle(self) -> None:
        """Let go of models that nobody has asked for a while, again and again."""
        while True:
            await asyncio.sleep(min(30.0, self._unload_after / 4))
            async with self._changing:
                for model in self.all.values():
                    if model.loaded and not model.users and time.monotonic() - model.used > self._unload_after:
                        await model.unload()

    def cancel_all(self) -> None:
        for model in self.all.values():
            if model.loaded:
                model.driver.stop()

    async def close(self) -> None:
        for model in self.all.values():
            if model.loading:
                model.loading.cancel()
            await model.unload()

    async def _load(self, model: Model) -> None:
        try:
            async with self._changing:
                await model.unload()  # what is broken
                await self._make_room(model)
                driver = Driver(
                    lambda: self._opened(model),
                    self._turns,
                    lambda rows: self._passed(model.name, rows),
                    lambda error: self._failed(model.name, error),
                )
                await model.load(driver)
        except MemoryShortage as error:
            raise unavailable(str(error), "out_of_memory") from None
        except Busy as error:
            raise unavailable(str(error), "model_busy") from None
        except ItrexChatError as error:
            self._failed(model.name, error)
            raise unavailable(
                _("{name} cannot be loaded; the server's log says why.", name=model.name), "model_unavailable"
            ) from None
        finally:
            model.loading = None

    def _opened(self, model: Model) -> Session:
        session = open_session(
            model.recipe, model.variant, options=EngineOptions(), trusted=self._trusted, needed=model.needed
        )
        session.ready(model.recipe.generation)
        session.scheduler(self._cache(), self._waiting)
        return session

    def _cache(self) -> int:
        if self._cache_memory is not None:
            return self._cache_memory
        return machine.available_memory() // 2 // len(self.all)

    async def _make_room(self, model: Model) -> None:
        """Let go of models that nobody is asking, those first that were not asked the longest, until this one fits."""
        while (free := machine.available_memory()) < model.needed:
            loaded = [other for other in self.all.values() if other.loaded]
            idle = sorted((other for other in loaded if not other.users), key=lambda other: other.used)
            if not loaded:
                raise MemoryShortage(
                    _(
                        "{name} needs {needed} of memory, but {free} is left.",
                        name=model.name,
                        needed=readable(model.needed),
                        free=readable(free),
                    )
                )
            if not idle:
                raise Busy(_("Another model has the memory that {name} needs; try again later.", name=model.name))
            await idle[0].unload()
