"""`/v1/chat/completions`."""

import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from functools import partial
from typing import Any

from itrex_chat.chat.messages import ToolCall
from itrex_chat.chat.tools import written
from itrex_chat.generation.response import Response
from itrex_chat.server import answering
from itrex_chat.server.answering import Asked
from itrex_chat.server.calling import Answered, Tools
from itrex_chat.server.models import Model
from itrex_chat.server.protocol import ChatRequest
from itrex_chat.server.service import Service


async def made(asked: ChatRequest, service: Service, record: dict[str, Any]) -> AsyncGenerator[Any, None]:
    """The reply to a request: its one object, or the events of its stream."""
    messages = answering.conversation(turn.message() for turn in asked.messages)
    async with service.models.using(asked.model) as model:
        record["model"] = model.name
        tools = Tools(asked, model, messages, "messages")
        prompt = await answering.aside(lambda: answering.chat_ids(model, messages, tools.described))
        field = "max_tokens" if asked.max_tokens else "max_completion_tokens"
        count = asked.max_completion_tokens or asked.max_tokens or service.default_tokens(model)
        top = (asked.top_logprobs or 0) if asked.logprobs else None
        schema = asked.response_format.schema_of if asked.response_format else None
        wanted = await answering.aside(
            lambda: answering.requests(
                asked,
                model,
                service.limits,
                [prompt],
                (field, count),
                top,
                constraint=tools.constraint(model, schema, "response_format"),
            )
        )
        began = time.perf_counter()
        group = await Asked.of(model, wanted)
        name = f"chatcmpl-{secrets.token_hex(12)}"
        head = {
            "id": name,
            "object": "chat.completion.chunk" if asked.stream else "chat.completion",
            "created": int(time.time()),
            "model": model.name,
        }
        keep = partial(service.kept.keep, name, asked, model, messages, wanted, group, began)
        try:
            if asked.stream:
                async for event in _events(asked, model, tools, group, head, prompt, service, record, keep):
                    yield event
                return
            responses = await group.responses()
            answers = [tools.answered(response) for response in responses]
            used = answering.usage([prompt], responses)
            service.tell(record, responses, used, [answer.logged for answer in answers])
            if top is not None:
                await answering.aside(
                    lambda: model.vocabulary.learn(entry for each in responses for entry in each.logprobs or ())
                )
            keep(responses)
            choices = [
                _choice(model, number, answer, response)
                for number, (answer, response) in enumerate(zip(answers, responses))
            ]
            yield head | {"choices": choices, "usage": used}
        finally:
            group.cancel()


def _choice(model: Model, number: int, answer: Answered, response: Response) -> dict[str, Any]:
    calls = {"tool_calls": list(map(_call, answer.calls))} if answer.calls else {}
    return {
        "index": number,
        "message": {"role": "assistant", "content": answer.text, "refusal": None} | calls,
        "logprobs": _logprobs(model, response.logprobs),
        "finish_reason": answer.reason,
    }


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": written(call.arguments)}
    return {"id": call.id, "type": "function", "function": function}


def _logprobs(model: Model, entries: tuple | None) -> dict[str, Any] | None:
    if entries is None:
        return None
    return {"content": [model.vocabulary.chat(entry) for entry in entries], "refusal": None}


async def _events(
    asked: ChatRequest,
    model: Model,
    tools: Tools,
    group: Asked,
    head: dict[str, Any],
    prompt: list[int],
    service: Service,
    record: dict[str, Any],
    keep: Callable[[list[Response]], None],
) -> AsyncGenerator[Any, None]:
    with_usage = bool(asked.stream_options and asked.stream_options.include_usage)
    rest = {"usage": None} if with_usage else {}

    def chunk(number: int, delta: dict[str, Any], reason: str | None = None, entries: tuple | None = None) -> dict:
        choice = {
            "index": number,
            "delta": delta,
            "logprobs": _logprobs(model, entries) if entries else None,
            "finish_reason": reason,
        }
        return head | {"choices": [choice]} | rest

    for number in range(asked.n):
        yield chunk(number, {"role": "assistant", "content": "", "refusal": None})
    responses: dict[int, Response] = {}
    finders, calls = [tools.finder() for _choice in range(asked.n)], [0] * asked.n

    def deltas(number: int, found: list[str | ToolCall]) -> Iterator[dict[str, Any]]:
        for each in found:
            if isinstance(each, str):
                yield {"content": each}
                continue
            place, calls[number] = calls[number], calls[number] + 1
            whole = _call(each)
            yield {"tool_calls": [{"index": place} | whole | {"function": whole["function"] | {"arguments": ""}}]}
            yield {"tool_calls": [{"index": place, "function": {"arguments": whole["function"]["arguments"]}}]}

    async for number, piece in group:
        finder = finders[number]
        if isinstance(piece, Response):
            responses[number] = piece
            for delta in deltas(number, finder.end(piece)):
                yield chunk(number, delta)
            yield chunk(number, {}, finder.reason(piece))
            continue
        if piece.tokens:
            await answering.aside(partial(model.vocabulary.learn, piece.tokens))
        entries = piece.tokens
        for delta in [*deltas(number, finder.add(piece.text))] or ([{"content": ""}] if entries else []):
            yield chunk(number, delta, entries=entries)
            entries = ()
    ordered = [responses[number] for number in range(asked.n)]
    keep(ordered)
    told = answering.usage([prompt], ordered)
    service.tell(record, ordered, told, [finder.logged(each) for finder, each in zip(finders, ordered)])
    if with_usage:
        yield head | {"choices": [], "usage": told}
    yield "[DONE]"
