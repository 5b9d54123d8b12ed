"""From a request's fields to answers: prompts, settings, and what comes of them."""

import asyncio
import dataclasses
import secrets
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, TypeVar

from itrex_chat.chat.messages import Message, as_messages
from itrex_chat.foundation.errors import ItrexChatError
from itrex_chat.foundation.harmless import encodable
from itrex_chat.foundation.language import _
from itrex_chat.generation.constraint import Constraint
from itrex_chat.generation.request import Request
from itrex_chat.generation.response import Response
from itrex_chat.server import errors
from itrex_chat.server.driver import Answer, Coming, Driver, Piece
from itrex_chat.server.errors import refused
from itrex_chat.server.limits import Limits
from itrex_chat.server.models import Model
from itrex_chat.server.protocol import Generation, Sampling
from itrex_chat.settings.generation import GenerationConfig

LONGEST_TOKEN = 64  # characters; a text with more for each token of the context does not fit, and is not read for that
FINISHED = {"stop": "stop", "length": "length", "deadline": "length"}
SEEDS = 1 << 63
Made = TypeVar("Made")


async def aside(work: Callable[[], Made]) -> Made:
    """Do what waits for a tokenizer in a thread. Raises ApiError for an error of ours."""
    try:
        return await asyncio.to_thread(work)
    except ItrexChatError as error:
        raise errors.of(error) from None


def settings(asked: Sampling, recipe: GenerationConfig, tokens: int) -> GenerationConfig:
    """How an answer's tokens are chosen: as the recipe says, or, where a request says how to sample, by OpenAI's defaults."""
    config = dataclasses.replace(recipe, max_new_tokens=max(tokens, 1))
    if not (asked.temperature is None and asked.top_p is None and asked.top_k is None):
        temperature = 1.0 if asked.temperature is None else asked.temperature
        config = dataclasses.replace(
            config,
            do_sample=temperature > 0,
            temperature=temperature,
            top_p=1.0 if asked.top_p is None else asked.top_p,
            top_k=max(asked.top_k or 0, 0),
            repetition_penalty=recipe.repetition_penalty or 1.0,
        )
    if asked.repetition_penalty is not None:
        config = dataclasses.replace(config, repetition_penalty=asked.repetition_penalty)
    seed = secrets.randbelow(SEEDS) if asked.seed is None else asked.seed % SEEDS
    return dataclasses.replace(config, seed=seed) if config.do_sample else config


def requests(
    asked: Generation,
    model: Model,
    limits: Limits,
    prompts: Sequence[list[int]],
    tokens: tuple[str, int],
    logprobs: int | None,
    prompt_logprobs: int | None = None,
    constraint: Callable[[], Constraint | None] = lambda: None,
) -> list[Request]:
    """What is asked of the scheduler: for each prompt its `n` choices. `tokens`: the field that bounds an answer, and its value.
    `constraint`: makes what an answer has to be. Waits for the tokenizer."""
    field, count = tokens
    if limits.tokens is not None and count > limits.tokens:
        raise refused(_("{field} is at most {most} here.", field=field, most=limits.tokens), field)
    for prompt in prompts:
        if len(prompt) >= model.context:
            raise refused(
                _(
                    "The prompt has {count} tokens, but the model takes {context} in all; shorten it.",
                    count=len(prompt),
                    context=model.context,
                ),
                code="context_length_exceeded",
            )
    config = settings(asked, model.recipe.generation, count)
    try:
        return [
            Request(
                prompt,
                dataclasses.replace(config, seed=(config.seed + choice) % SEEDS),
                stop=[asked.stop] if isinstance(asked.stop, str) else asked.stop or (),
                seconds=limits.seconds,
                logit_bias={int(token): bias for token, bias in (asked.logit_bias or {}).items()},
                logprobs=logprobs,
                prompt_logprobs=None if choice else prompt_logprobs,
                presence_penalty=asked.presence_penalty,
                frequency_penalty=asked.frequency_penalty,
                constraint=constraint(),
            )
            for prompt in prompts
            for choice in range(asked.n)
        ]
    except ItrexChatError as error:
        raise errors.of(error) from None


def conversation(messages: Iterable[Message], field: str = "messages") -> list[Message]:
    """Raises ApiError for one that a model cannot be asked."""
    try:
        return as_messages(messages)
    except ItrexChatError as error:
        raise refused(str(error), field) from None


def chat_ids(model: Model, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
    """The ids that ask a conversation. Raises ApiError, TokenizerError."""
    called = sum(len(call.name) + len(str(call.arguments)) for message in messages for call in message.calls)
    _check_length(model, sum(len(message.content) for message in messages) + called, "messages")
    _check_length(model, len(str(tools)), "tools")
    return model.tokenizer.prompt(list(messages), tools)


def text_ids(model: Model, text: str) -> list[int]:
    """A text's ids. Raises ApiError, TokenizerError."""
    _check_length(model, len(text), "prompt")
    return model.tokenizer.encode(encodable(text))


def named_ids(model: Model, text: str) -> list[int]:
    """As `text_ids`; a text that is the name of a control token and nothing else is that token."""
    control = model.tokenizer.control_ids()
    names = {name: token for token, name in zip(control, model.tokenizer.token_bytes(control))}
    token = names.get(encodable(text).encode())
    return text_ids(model, text) if token is None else [token]


def _check_length(model: Model, characters: int, field: str) -> None:
    if characters > model.context * LONGEST_TOKEN:
        raise refused(
            _(
                "A text of {count} characters does not fit into the model's {context} tokens; shorten it.",
                count=characters,
                context=model.context,
            ),
            field,
            "context_length_exceeded",
        )


class Asked:
    """Requests that are being answered. Iterate for (number, Piece) and, once for each, (number, Response), in the order in
    which they come. Raises ApiError. Whoever leaves cancels what is not complete. `together`: how many answers of this
    process were being made at a time at most, these among them: they share its processors."""

    _going: "weakref.WeakSet[Asked]" = weakref.WeakSet()

    def __init__(self, driver: Driver, count: int, queue: Coming, answers: list[Answer]):
        self._driver, self._left, self._queue, self._answers = driver, count, queue, answers
        self.together = 0
        self._going.add(self)
        count = sum(each._left for each in self._going)
        for each in self._going:
            each.together = max(each.together, count)

    @classmethod
    async def of(cls, model: Model, asked: Sequence[Request]) -> "Asked":
        """Have requests answered, all of them or none. Raises ApiError."""
        driver, queue, answers = model.driver, Coming(), list[Answer]()

        def add() -> None:
            for number, request in enumerate(asked):
                answers.append(driver.add(request, number, queue))

        group = cls(driver, len(asked), queue, answers)
        adding = asyncio.create_task(aside(add))
        try:
            await asyncio.shield(adding)
        except BaseException:
            # a client that has gone, or one request too many: the thread adds all before they can be cancelled
            adding.add_done_callback(group._cancel_behind)
            raise
        return group

    async def __aiter__(self) -> AsyncIterator[tuple[int, Piece | Response]]:
        while self._left:
            number, piece = await self._queue.get()
            if isinstance(piece, Exception):
                raise errors.of(piece) if isinstance(piece, ItrexChatError) else piece
            if isinstance(piece, Response):
                self._left -= 1
                if not self._left:
                    self._going.discard(self)
                if piece.finish_reason not in FINISHED:
                    raise errors.unavailable(_("The server stops; ask again later."), "shutting_down")
            yield number, piece

    async def responses(self) -> list[Response]:
        """All of them, in their order."""
        found = {number: piece async for number, piece in self if isinstance(piece, Response)}
        return [found[number] for number in range(len(found))]

    def _cancel_behind(self, adding: "asyncio.Task[None]") -> None:
        if not adding.cancelled():
            adding.exception()  # its client was told, or has gone
        self.cancel()

    def cancel(self) -> None:
        self._going.discard(self)
        for answer in self._answers:
            self._driver.cancel(answer)


def usage(prompts: Sequence[Sequence[int]], responses: Sequence[Response], answered: bool = True) -> dict:
    """Tokens: of each prompt once, of all answers."""
    each = max(len(responses) // max(len(prompts), 1), 1)
    prompt = sum(map(len, prompts))
    new = sum(response.new_tokens for response in responses) if answered else 0
    cached = sum(response.cached_tokens for response in responses[::each])
    return {
        "prompt_tokens": prompt,
        "completion_tokens": new,
        "total_tokens": prompt + new,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
