"""`build_chatbot`: a chatbot for a program, with the names of ITREX's NeuralChat."""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itrex_chat.chat.messages import Message, as_messages
from itrex_chat.engines import EngineOptions, open_session
from itrex_chat.generation.request import Request
from itrex_chat.generation.response import Response
from itrex_chat.neuralchat.configs import PipelineConfig
from itrex_chat.settings.generation import GenerationConfig
from itrex_chat.settings.recipe import Recipe
from itrex_chat.settings.variant import Variant

if TYPE_CHECKING:
    from itrex_chat.decoder.model import Decoder
    from itrex_chat.engines.session import Session


class Chatbot:
    """One variant of a model, ready to answer: a session with NeuralChat's names."""

    def __init__(self, session: "Session"):
        self.session = session

    @property
    def recipe(self) -> Recipe:
        return self.session.recipe

    @property
    def variant(self) -> str:
        """Its name: "fp32", "int4", "itrex-int4"."""
        return str(self.session.variant)

    def predict(self, query: str, origin_query: str = "", config: GenerationConfig | None = None) -> str:
        """The answer to one question. `origin_query` is ITREX's and not used."""
        return self.chat([{"role": "user", "content": query}], config).text

    def predict_stream(
        self, query: str, origin_query: str = "", config: GenerationConfig | None = None
    ) -> Iterator[str]:
        """The answer to one question in pieces, as they are finished."""
        for piece in self.stream([{"role": "user", "content": query}], config):
            if isinstance(piece, str):
                yield piece

    def chat(
        self, messages: Iterable[Message | dict], config: GenerationConfig | None = None, **asked: Any
    ) -> Response:
        """The answer to a conversation: messages with role (system, user, assistant) and content, the last the user's.
        `asked`: what else a Request takes (stop, seconds, logit_bias, logprobs)."""
        *_pieces, response = self.stream(messages, config, **asked)
        assert isinstance(response, Response)
        return response

    def stream(
        self, messages: Iterable[Message | dict], config: GenerationConfig | None = None, **asked: Any
    ) -> Iterator[str | Response]:
        """Pieces of the answer to a conversation, and last the Response. Several may be asked at a time, each from a thread
        of its own: they are answered together. What a prompt has in common with an earlier one is not read again."""
        prompt = self.session.prompt(as_messages(messages))
        yield from self.session.answer(Request(prompt, config or self.recipe.generation, **asked))

    def peak_memory(self) -> int:
        """The most memory that the model's process has had, in bytes."""
        return self.session.peak_memory()

    def close(self) -> None:
        """Let go of what runs outside of this process, if anything does."""
        self.session.close()

    @property
    def decoder(self) -> "Decoder":
        """Raises EngineError where the decoder is another program's."""
        return self.session.decoder

    def facts(self) -> dict:
        """Kernel, compute dtype, threads, bytes on disk and of weights in memory."""
        return dataclasses.asdict(self.session.facts)


def build_chatbot(config: PipelineConfig | None = None) -> Chatbot:
    """The chatbot that a PipelineConfig describes, from the cache if it was built before.

    Raises ItrexChatError, each with a sentence on what to do.
    """
    config = config or PipelineConfig()
    return load_chatbot(config.recipe, config.variant, options=config.options)


def load_chatbot(
    recipe: Recipe, variant: str | Variant, home: Path | None = None, options: EngineOptions = EngineOptions()
) -> Chatbot:
    """A variant ("fp32", "bf16", "int4" or "int8", "itrex-" in front for ITREX's) of a recipe's model.

    Raises ItrexChatError.
    """
    return Chatbot(open_session(recipe, variant, home, options))
