"""`/v1/responses`: the interface that newer clients of OpenAI's send, with conversations that the server remembers."""

import dataclasses
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from itrex_chat.chat.messages import Message
from itrex_chat.generation.response import Response
from itrex_chat.server import answering
from itrex_chat.server.answering import Asked
from itrex_chat.server.calling import Tools
from itrex_chat.server.output import Told
from itrex_chat.server.protocol import Generation, InputItem, ResponsesRequest, ResultItem
from itrex_chat.server.service import Service


async def made(asked: ResponsesRequest, service: Service, record: dict[str, Any]) -> AsyncGenerator[Any, None]:
    """The reply to a request: its one object, or the events of its stream."""
    said = _said(asked, service)
    messages = answering.conversation(_with_instructions(asked.instructions, said), "input")
    async with service.models.using(asked.model) as model:
        record["model"] = model.name
        tools = Tools(asked, model, messages, "input")
        prompt = await answering.aside(lambda: answering.chat_ids(model, messages, tools.described))
        count = ("max_output_tokens", asked.max_output_tokens or service.default_tokens(model))
        form = asked.text.format if asked.text else None
        schema = form.schema_of if form else None
        wanted = await answering.aside(
            lambda: answering.requests(
                _generation(asked),
                model,
                service.limits,
                [prompt],
                count,
                None,
                constraint=tools.constraint(model, schema, "text"),
            )
        )
        group = await Asked.of(model, wanted)
        told, finder = Told(asked, model.name), tools.finder()
        try:
            for event in told.beginning():
                if asked.stream:
                    yield event
            async for _number, piece in group:
                if isinstance(piece, Response):
                    response, found = piece, finder.end(piece)
                else:
                    found = finder.add(piece.text)
                for each in found:
                    for event in told.text(each) if isinstance(each, str) else told.call(each):
                        if asked.stream:
                            yield event
            used = answering.usage([prompt], [response])
            service.tell(record, [response], used, [finder.logged(response)])
            *events, ending = told.ending(response, used)
            if asked.store:
                service.conversations.keep(told.name, [*said, told.message()], told.whole)
            if not asked.stream:
                yield told.whole
                return
            for event in (*events, ending):
                yield event
        finally:
            group.cancel()


def _said(asked: ResponsesRequest, service: Service) -> list[Message]:
    """The conversation, with what was said before and without instructions."""
    said = list[Message]()
    if asked.previous_response_id is not None:
        said += service.conversations.find(asked.previous_response_id, "previous_response_id").said
    if isinstance(asked.input, str):
        return [*said, Message("user", asked.input)]
    for item in asked.input:
        if isinstance(item, InputItem):
            said.append(Message("system" if item.role == "developer" else item.role, item.text))
        elif isinstance(item, ResultItem):
            said.append(Message("tool", item.text, call_id=item.call_id))
        elif said and said[-1].role == "assistant":
            said[-1] = dataclasses.replace(said[-1], calls=(*said[-1].calls, item.call()))
        else:
            said.append(Message("assistant", "", (item.call(),)))
    return said


def _with_instructions(instructions: str | None, said: Sequence[Message]) -> list[Message]:
    """Instructions and the system's messages that a conversation begins with are one message."""
    begins = next((place for place, message in enumerate(said) if message.role != "system"), len(said))
    texts = [*([instructions] if instructions else []), *(message.content for message in said[:begins])]
    first = [Message("system", "\n\n".join(texts))] if texts else []
    return [*first, *said[begins:]]


def _generation(asked: ResponsesRequest) -> Generation:
    fields = ("temperature", "top_p", "top_k", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed")
    return Generation(**{name: getattr(asked, name) for name in fields})
