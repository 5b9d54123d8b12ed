"""A session: one variant of a model, loaded and ready to answer, wherever it runs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from itrex_chat.chat import AnswerTokenizer, Message
from itrex_chat.foundation import machine
from itrex_chat.foundation.errors import EngineError
from itrex_chat.foundation.language import _
from itrex_chat.generation.request import MOST_WAITING, Request
from itrex_chat.generation.response import Response
from itrex_chat.jobs.event import Facts, Pace
from itrex_chat.settings.generation import GenerationConfig
from itrex_chat.settings.recipe import Recipe
from itrex_chat.settings.variant import Variant

if TYPE_CHECKING:
    from itrex_chat.decoder.model import Decoder
    from itrex_chat.generation.scheduler import Scheduler
    from itrex_chat.generation.ticket import Ticket


class Session(ABC):
    """`engines.open_session` is the one way to get one. Close it, or use it in a `with` statement.

    `recipe` has the quantization that `variant` means.
    """

    def __init__(self, recipe: Recipe, variant: Variant, tokenizer: AnswerTokenizer, facts: Facts):
        self.recipe, self.variant, self.tokenizer, self.facts = recipe, variant, tokenizer, facts
        self.pace: Pace | None = None  # where weights are read from disk for each pass

    @abstractmethod
    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The ids that ask the model to answer a conversation. Raises TokenizerError, GenerationError."""

    @abstractmethod
    def stream(self, prompt: list[int], config: GenerationConfig) -> Iterator[str | Response]:
        """Pieces of the answer to a prompt as they are finished, and last the Response. Raises GenerationError."""

    def answer(self, request: Request, stopped: Callable[[], bool] = lambda: False) -> Iterator[str | Response]:
        """As `stream`, with all that can be asked, for conversations that go on and several that go on at a time: where the
        engine can, what is known from an earlier prompt is not read again, and the answer is "cancelled" as soon as `stopped`
        says so, while the prompt is read, too. From any thread. Raises GenerationError, and
        EngineError where the engine cannot do what is asked."""
        if request != Request(request.prompt, request.config):
            raise EngineError(
                _(
                    "{variant} does not know stop, seconds, logit_bias, logprobs and penalties; the native engine does.",
                    variant=self.variant.title,
                )
            )
        yield from self.stream(request.prompt, request.config)

    def scheduler(self, memory: int | None = None, waiting: int = MOST_WAITING) -> "Scheduler":
        """What makes the passes for all that is asked by `answer` and `add`. `memory`: bytes that keys and values may have,
        `waiting`: requests that may wait, where it is made by this call. Raises EngineError where the engine has none."""
        raise EngineError(
            _("{variant} answers one question at a time; the native engine answers many.", variant=self.variant.title)
        )

    def add(self, request: Request) -> "Ticket":
        """Have a request answered by whoever advances the `scheduler`. Raises GenerationError, EngineError."""
        return self.scheduler().add(request)

    def ready(self, config: GenerationConfig, batch: int = 1) -> None:  # noqa: B027  # most need nothing more
        """Load what answers with these settings take besides, `batch` of them at a time, so that none has to wait for it.
        Raises ItrexChatError."""

    def together(
        self, prompts: Sequence[list[int]], config: GenerationConfig, count: int
    ) -> Iterator[tuple[int, str | Response]]:
        """As `stream` for several prompts, each piece and Response with the number of its prompt: `count` answers at a
        time where the engine can, else one after the other. Raises GenerationError."""
        for number, prompt in enumerate(prompts):
            for piece in self.stream(prompt, config):
                yield number, piece

    @property
    def decoder(self) -> "Decoder":
        """The decoder, for what needs its logits. Raises EngineError where it is another program's."""
        raise EngineError(_("{variant} gives text only, no logits.", variant=self.variant.title))

    def peak_memory(self) -> int:
        """The most memory that the model's process has had, in bytes."""
        return machine.peak_memory()

    def close(self) -> None:  # noqa: B027  # most have nothing to let go of
        """Let go of what runs outside of this process, if anything does."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
