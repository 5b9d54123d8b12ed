"""`/v1/completions`: texts and token ids continued, and what the model gives to the tokens of a prompt (`echo`)."""

import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import Any

from itrex_chat.generation.request import TokenLogprob
from itrex_chat.generation.response import Response
from itrex_chat.server import answering
from itrex_chat.server.answering import FINISHED, Asked
from itrex_chat.server.driver import Piece
from itrex_chat.server.models import Model
from itrex_chat.server.protocol import CompletionRequest
from itrex_chat.server.service import Service

Logprobs = dict[str, list[Any]]


async def made(asked: CompletionRequest, service: Service, record: dict[str, Any]) -> AsyncGenerator[Any, None]:
    """The reply to a request: its one object, or the events of its stream."""
    async with service.models.using(asked.model) as model:
        record["model"] = model.name
        prompts = await answering.aside(lambda: _prompts(model, asked.prompts))
        scored = asked.logprobs if asked.echo else None
        tokens = ("max_tokens", asked.max_tokens)
        wanted = answering.requests(asked, model, service.limits, prompts, tokens, asked.logprobs, scored)
        texts = await answering.aside(lambda: _texts(model, asked, prompts))
        group = await Asked.of(model, wanted)
        head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model.name,
        }
        try:
            if asked.stream:
                async for event in _events(asked, model, group, head, prompts, texts, service, record):
                    yield event
                return
            responses = await group.responses()
            told = answering.usage(prompts, responses, asked.max_tokens > 0)
            service.tell(record, responses, told)
            choices = await answering.aside(lambda: _choices(asked, model, responses, texts))
            yield head | {"choices": choices, "usage": told}
        finally:
            group.cancel()


def _prompts(model: Model, given: Sequence[str | list[int]]) -> list[list[int]]:
    return [answering.text_ids(model, prompt) if isinstance(prompt, str) else prompt for prompt in given]


def _texts(model: Model, asked: CompletionRequest, prompts: list[list[int]]) -> list[str]:
    """The prompts as texts, where they are part of the answers."""
    if not asked.echo:
        return [""] * len(prompts)
    tokenizer = model.tokenizer
    return [given if isinstance(given, str) else tokenizer.decode(ids) for given, ids in zip(asked.prompts, prompts)]


def _choices(
    asked: CompletionRequest, model: Model, responses: list[Response], texts: list[str]
) -> list[dict[str, Any]]:
    """Waits for the tokenizer."""
    found = []
    for number, response in enumerate(responses):
        text = response.text if asked.max_tokens else ""
        scored = responses[number // asked.n * asked.n].prompt_logprobs  # one choice of each prompt has them
        found.append(
            {
                "index": number,
                "text": texts[number // asked.n] + text,
                "logprobs": None if asked.logprobs is None else _logprobs(asked, model, response, scored),
                "finish_reason": FINISHED[response.finish_reason] if asked.max_tokens else "length",
            }
        )
    return found


def _logprobs(
    asked: CompletionRequest, model: Model, response: Response, scored: tuple[TokenLogprob, ...] | None
) -> Logprobs:
    entries: list[tuple[int, TokenLogprob | None]] = []
    if asked.echo:
        entries = list(zip(response.prompt_token_ids, [None, *(scored or ())]))
    if asked.max_tokens:
        # the token that ended it counts: a client that takes one more token than it wants leaves out the last entry
        answered = [*(response.logprobs or ()), *([response.ending] if response.ending else [])]
        entries += [(entry.token, entry) for entry in answered]
    model.vocabulary.learn((entry for _token, entry in entries), (token for token, _entry in entries))
    return model.vocabulary.completion(entries, 0)


async def _events(
    asked: CompletionRequest,
    model: Model,
    group: Asked,
    head: dict[str, Any],
    prompts: list[list[int]],
    texts: list[str],
    service: Service,
    record: dict[str, Any],
) -> AsyncGenerator[Any, None]:
    with_usage = bool(asked.stream_options and asked.stream_options.include_usage)
    rest = {"usage": None} if with_usage else {}
    count = len(prompts) * asked.n
    offsets = [0] * count

    def chunk(number: int, text: str, reason: str | None = None, logprobs: Logprobs | None = None) -> dict[str, Any]:
        choice = {"index": number, "text": text, "logprobs": logprobs, "finish_reason": reason}
        return head | {"choices": [choice]} | rest

    def told(number: int, entries: Sequence[TokenLogprob]) -> Logprobs:
        model.vocabulary.learn(entries)
        found = model.vocabulary.completion([(entry.token, entry) for entry in entries], offsets[number])
        offsets[number] += sum(len(model.vocabulary.text(entry.token)) for entry in entries)
        return found

    def scored(number: int, entries: Sequence[TokenLogprob]) -> Logprobs:
        ids = prompts[number // asked.n]
        model.vocabulary.learn(entries, ids)
        offsets[number] = sum(len(model.vocabulary.text(token)) for token in ids)
        return model.vocabulary.completion(zip(ids, [None, *entries]), 0)

    with_scores = asked.echo and asked.logprobs is not None
    if asked.echo and not with_scores:
        for number in range(count):
            yield chunk(number, texts[number // asked.n])
    responses: dict[int, Response] = {}
    async for number, piece, beginning in _with_scores(group, asked.n) if with_scores else _as_they_come(group):
        logprobs = None
        if beginning is not None:
            scores = await answering.aside(partial(scored, number, beginning))
            yield chunk(number, texts[number // asked.n], logprobs=scores)
        if isinstance(piece, Piece):
            if not asked.max_tokens:
                continue
            if piece.tokens:
                logprobs = await answering.aside(partial(told, number, piece.tokens))
            yield chunk(number, piece.text, logprobs=logprobs)
            continue
        responses[number] = piece
        if piece.ending and asked.max_tokens:
            logprobs = await answering.aside(partial(told, number, [piece.ending]))
        yield chunk(number, "", FINISHED[piece.finish_reason] if asked.max_tokens else "length", logprobs)
    ordered = [responses[number] for number in range(count)]
    used = answering.usage(prompts, ordered, asked.max_tokens > 0)
    service.tell(record, ordered, used)
    if with_usage:
        yield head | {"choices": [], "usage": used}
    yield "[DONE]"


Coming = tuple[int, Piece | Response, Sequence[TokenLogprob] | None]


async def _as_they_come(group: Asked) -> AsyncGenerator[Coming, None]:
    async for number, piece in group:
        yield number, piece, None


async def _with_scores(group: Asked, choices: int) -> AsyncGenerator[Coming, None]:
    """The pieces of answers, the first of each with what is known of its prompt's tokens: the first choice of each prompt tells
    that, the others wait for it."""
    known, waiting = dict[int, Sequence[TokenLogprob]](), dict[int, list[tuple[int, Piece | Response]]]()
    begun = set[int]()
    async for number, piece in group:
        prompt = number // choices
        waiting.setdefault(prompt, []).append((number, piece))
        if number % choices == 0 and prompt not in known:
            known[prompt] = piece.prompt if isinstance(piece, Piece) else piece.prompt_logprobs or ()
        if prompt in known:
            for each, part in waiting.pop(prompt):
                yield each, part, None if each in begun else known[prompt]
                begun.add(each)
