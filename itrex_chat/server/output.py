"""What a client of `/v1/responses` is told of an answer while it is made, and then."""

import secrets
import time
from collections.abc import Iterator
from typing import Any

from itrex_chat.chat.messages import Message, ToolCall
from itrex_chat.chat.tools import written
from itrex_chat.generation.response import Response
from itrex_chat.server.protocol import ResponsesRequest

COMPLETED = ("stop",)


class Told:
    """Events in their order; each piece of the answer is told by one of the methods. `whole` is the response in the end."""

    whole: dict[str, Any]

    def __init__(self, asked: ResponsesRequest, model: str):
        self.name, self._asked, self._model = f"resp_{secrets.token_hex(16)}", asked, model
        self._created, self._events = int(time.time()), 0
        self._items: list[dict[str, Any]] = []  # those that are complete
        self._item, self._text = "", list[str]()  # the message that is being told, if one is
        self._said, self._calls = list[str](), list[ToolCall]()

    def beginning(self) -> list[Any]:
        begun = self._response(None, None)
        return [self._event("response.created", response=begun), self._event("response.in_progress", response=begun)]

    def text(self, piece: str) -> Iterator[Any]:
        if not self._item:
            yield from self._begin_text()
        self._text.append(piece)
        yield self._of_the_text("response.output_text.delta", delta=piece, logprobs=[])

    def call(self, call: ToolCall) -> Iterator[Any]:
        yield from self._end_text("completed")
        arguments = written(call.arguments)
        item = {"id": f"fc_{secrets.token_hex(16)}", "type": "function_call", "status": "in_progress"}
        item |= {"call_id": call.id, "name": call.name, "arguments": ""}
        done = item | {"status": "completed", "arguments": arguments}
        of = {"item_id": item["id"]}
        yield self._of_the_item("response.output_item.added", item=item)
        yield self._of_the_item("response.function_call_arguments.delta", **of, delta=arguments)
        yield self._of_the_item("response.function_call_arguments.done", **of, name=call.name, arguments=arguments)
        yield self._of_the_item("response.output_item.done", item=done)
        self._items.append(done)
        self._calls.append(call)

    def ending(self, response: Response, used: dict[str, Any]) -> list[Any]:
        """The last events; from then on the response is `whole`."""
        status = "completed" if response.finish_reason in COMPLETED else "incomplete"
        events = [] if self._items or self._item else list(self._begin_text())
        events += self._end_text(status)
        self.whole = self._response(status, used)
        return [*events, self._event(f"response.{status}", response=self.whole)]

    def message(self) -> Message:
        """The answer, as the conversation goes on with it."""
        return Message("assistant", "\n".join(self._said), tuple(self._calls))

    def _begin_text(self) -> Iterator[Any]:
        self._item = f"msg_{secrets.token_hex(16)}"
        yield self._of_the_item("response.output_item.added", item=self._message(None, "in_progress"))
        yield self._of_the_text("response.content_part.added", part=_part(""))

    def _end_text(self, status: str) -> Iterator[Any]:
        if not self._item:
            return
        text, self._text = "".join(self._text), []
        done = self._message(text, status)
        yield self._of_the_text("response.output_text.done", text=text, logprobs=[])
        yield self._of_the_text("response.content_part.done", part=_part(text))
        yield self._of_the_item("response.output_item.done", item=done)
        self._said.append(text)
        self._items.append(done)
        self._item = ""

    def _response(self, status: str | None, used: dict[str, Any] | None) -> dict[str, Any]:
        """The response object; without a status, as it is at the beginning."""
        asked = self._asked
        form = asked.text.format if asked.text else None
        return {
            "id": self.name,
            "object": "response",
            "created_at": self._created,
            "status": status or "in_progress",
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "model": self._model,
            "output": list(self._items),
            "parallel_tool_calls": asked.parallel_tool_calls,
            "previous_response_id": asked.previous_response_id,
            "store": asked.store,
            "temperature": asked.temperature,
            "text": {"format": form.model_dump(by_alias=True, exclude_none=True) if form else {"type": "text"}},
            "tool_choice": asked.tool_choice if isinstance(asked.tool_choice, str) else asked.tool_choice.model_dump(),
            "tools": [tool.model_dump() for tool in asked.tools],
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

    def _of_the_text(self, kind: str, **more: Any) -> Any:
        return self._of_the_item(kind, item_id=self._item, content_index=0, **more)

    def _of_the_item(self, kind: str, **more: Any) -> Any:
        return self._event(kind, output_index=len(self._items), **more)

    def _event(self, kind: str, **more: Any) -> tuple[str, dict[str, Any]]:
        number, self._events = self._events, self._events + 1
        return kind, {"type": kind, "sequence_number": number, **more}

    def _message(self, text: str | None, status: str) -> dict[str, Any]:
        content = [] if text is None else [_part(text)]
        return {"id": self._item, "type": "message", "role": "assistant", "status": status, "content": content}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
