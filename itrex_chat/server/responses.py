"""`/v1/responses`: the interface that newer clients of OpenAI's send, with conversations that the server remembers."""

import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from itrex_chat.chat.messages import Message
from itrex_chat.generation.response import Response
from itrex_chat.server import answering
from itrex_chat.server.answering import Asked
from itrex_chat.server.driver import Piece
from itrex_chat.server.protocol import Generation, ResponsesRequest, Turn
from itrex_chat.server.service import Service

COMPLETED = ("stop",)


async def made(asked: ResponsesRequest, service: Service, record: dict[str, Any]) -> AsyncGenerator[Any, None]:
    """The reply to a request: its one object, or the events of its stream."""
    said = _said(asked, service)
    messages = answering.conversation(_with_instructions(asked.instructions, said))
    async with service.models.using(asked.model) as model:
        record["model"] = model.name
        prompt = await answering.aside(lambda: answering.chat_ids(model, messages))
        count = ("max_output_tokens", asked.max_output_tokens or service.default_tokens(model))
        form = asked.text.format if asked.text else None
        schema = form.schema_of if form else None
        wanted = await answering.aside(
            lambda: answering.requests(
                _generation(asked), model, service.limits, [prompt], count, None, schema=schema, schema_field="text"
            )
        )
        group = await Asked.of(model, wanted)
        told = _Told(asked, model.name, f"resp_{secrets.token_hex(16)}", f"msg_{secrets.token_hex(16)}")
        try:
            if asked.stream:
                for event in told.beginning():
                    yield event
            async for _number, piece in group:
                if isinstance(piece, Response):
                    response = piece
                elif asked.stream:
                    yield told.delta(piece)
            used = answering.usage([prompt], [response])
            service.tell(record, [response], used)
            whole = told.response(response, used)
            if asked.store:
                answer = Message("assistant", response.text)
                kept = [Message(turn.role, turn.text) for turn in said]
                service.conversations.keep(told.name, [*kept, answer], whole)
            if asked.stream:
                for event in told.ending(response, whole):
                    yield event
            else:
                yield whole
        finally:
            group.cancel()


def _said(asked: ResponsesRequest, service: Service) -> list[Turn]:
    """The conversation, with what was said before and without instructions."""
    before = list[Turn]()
    if asked.previous_response_id is not None:
        kept = service.conversations.find(asked.previous_response_id, "previous_response_id")
        before = [Turn.model_validate({"role": message.role, "content": message.content}) for message in kept.said]
    if isinstance(asked.input, str):
        return [*before, Turn(role="user", content=asked.input)]
    return [*before, *(Turn(role=item.role, content=item.text) for item in asked.input)]


def _with_instructions(instructions: str | None, said: Sequence[Turn]) -> list[Turn]:
    """Instructions and the system's messages that a conversation begins with are one message."""
    begins = next((place for place, turn in enumerate(said) if turn.role not in ("system", "developer")), len(said))
    texts = [*([instructions] if instructions else []), *(turn.text for turn in said[:begins])]
    first = [Turn(role="system", content="\n\n".join(texts))] if texts else []
    return [*first, *said[begins:]]


def _generation(asked: ResponsesRequest) -> Generation:
    fields = ("temperature", "top_p", "top_k", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed")
    return Generation(**{name: getattr(asked, name) for name in fields})


class _Told:
    """What a client is told of an answer while it is made, and then."""

    def __init__(self, asked: ResponsesRequest, model: str, name: str, item: str):
        self.name, self._asked, self._model, self._item = name, asked, model, item
        self._created, self._events = int(time.time()), 0

    def response(self, response: Response | None, used: dict[str, Any] | None) -> dict[str, Any]:
        """The response object; without an answer, as it is at the beginning."""
        asked = self._asked
        form = asked.text.format if asked.text else None
        complete = response is not None and response.finish_reason in COMPLETED
        status = "in_progress" if response is None else "completed" if complete else "incomplete"
        return {
            "id": self.name,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "model": self._model,
            "output": [] if response is None else [self._message(response.text, status)],
            "parallel_tool_calls": False,
            "previous_response_id": asked.previous_response_id,
            "store": asked.store,
            "temperature": asked.temperature,
            "text": {"format": form.model_dump(by_alias=True, exclude_none=True) if form else {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "top_p": asked.top_p,
            "truncation": "disabled",
            "usage": used
            and {
                "input_tokens": used["prompt_tokens"],
                "input_tokens_details": used["prompt_tokens_details"],
                "output_tokens": used["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": used["total_tokens"],
            },
            "user": asked.user,
            "metadata": asked.metadata,
        }

    def beginning(self) -> list[Any]:
        begun = self.response(None, None)
        return [
            self._event("response.created", response=begun),
            self._event("response.in_progress", response=begun),
            self._event("response.output_item.added", output_index=0, item=self._message(None, "in_progress")),
            self._of_the_text("response.content_part.added", part=_part("")),
        ]

    def delta(self, piece: Piece) -> Any:
        return self._of_the_text("response.output_text.delta", delta=piece.text, logprobs=[])

    def ending(self, response: Response, whole: dict[str, Any]) -> list[Any]:
        status = whole["status"]
        return [
            self._of_the_text("response.output_text.done", text=response.text, logprobs=[]),
            self._of_the_text("response.content_part.done", part=_part(response.text)),
            self._event("response.output_item.done", output_index=0, item=self._message(response.text, status)),
            self._event(f"response.{status}", response=whole),
        ]

    def _of_the_text(self, kind: str, **more: Any) -> Any:
        return self._event(kind, item_id=self._item, output_index=0, content_index=0, **more)

    def _event(self, kind: str, **more: Any) -> tuple[str, dict[str, Any]]:
        number, self._events = self._events, self._events + 1
        return kind, {"type": kind, "sequence_number": number, **more}

    def _message(self, text: str | None, status: str) -> dict[str, Any]:
        content = [] if text is None else [_part(text)]
        return {"id": self._item, "type": "message", "role": "assistant", "status": status, "content": content}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
