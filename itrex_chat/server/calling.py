"""What a model may call in its answer: how it is told, held to it, and what of its answer is a call."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from itrex_chat.chat.calls import Calls
from itrex_chat.chat.messages import Message, ToolCall
from itrex_chat.chat.tools import FORMATS
from itrex_chat.foundation.errors import ItrexChatError, TokenizerEnded
from itrex_chat.foundation.language import _
from itrex_chat.generation.constraint import Constraint
from itrex_chat.generation.response import Response
from itrex_chat.server.answering import FINISHED
from itrex_chat.server.errors import refused
from itrex_chat.server.models import Model
from itrex_chat.server.tools import WithTools

CALLED = "tool_calls"


@dataclass(frozen=True)
class Answered:
    """An answer: its text, None where there are calls and nothing else, and why it ended, for its client and for the log."""

    text: str | None
    calls: tuple[ToolCall, ...]
    reason: str
    logged: str


class Tools:
    """What a request says about functions, for the model that is asked. `field`: where it has its messages."""

    def __init__(self, asked: WithTools, model: Model, messages: Sequence[Message], field: str):
        self._asked, self._form = asked, FORMATS.get(model.tokenizer.call_format)
        if self._form is None and asked.functions:
            raise refused(
                _(
                    "{name} was not made to call functions, as far as its chat template says; leave tools out.",
                    name=model.name,
                ),
                "tools",
            )
        if self._form is None and any(message.calls or message.role == "tool" for message in messages):
            raise refused(
                _(
                    "{name} was not made to call functions; messages with calls and their results cannot be told to it.",
                    name=model.name,
                ),
                field,
            )
        functions = [] if asked.choice == "none" else asked.functions
        self.described = [function.described() for function in functions]
        self._callable = [f for f in functions if asked.choice in (f":{f.name}", "auto", "required")]
        self._required = bool(functions) and asked.choice != "auto"

    def constraint(self, model: Model, schema: dict[str, Any] | None, field: str) -> Callable[[], Constraint | None]:
        """What makes what holds answers to arguments and to `schema`, whose field is named where it cannot be followed. Raises
        ApiError; waits for the tokenizer."""
        functions = self._callable
        held = functions and (
            self._required or not self._asked.parallel_tool_calls or any(function.strict for function in functions)
        )
        try:
            if held or (functions and schema is not None):
                assert self._form
                schemas = {function.name: function.schema_of_arguments for function in functions}
                return model.grammars().calls(
                    self._form, schemas, self._required, self._asked.parallel_tool_calls, schema
                )
            if schema is not None:
                return model.grammars().json(schema)
        except TokenizerEnded:
            raise
        except ItrexChatError as error:
            raise refused(str(error), "tools" if functions else field) from None
        return lambda: None

    def finder(self) -> "Finder":
        """For one answer."""
        names = [function.name for function in self._callable]
        return Finder(Calls(self._form, names) if self._form and names else None)

    def answered(self, response: Response) -> Answered:
        finder = self.finder()
        found = [*finder.add(response.text), *finder.end(response)]
        text = "".join(piece for piece in found if isinstance(piece, str))
        calls = tuple(piece for piece in found if isinstance(piece, ToolCall))
        return Answered(text if text or not calls else None, calls, finder.reason(response), finder.logged(response))


class Finder:
    """Goes through an answer while it comes, and gives its texts and its calls, which have ids."""

    def __init__(self, calls: Calls | None):
        self._calls, self._found = calls, False

    def add(self, piece: str) -> list[str | ToolCall]:
        if self._calls is None:
            return [piece] if piece else []
        return self._named(self._calls.add(piece))

    def end(self, response: Response) -> list[str | ToolCall]:
        return self._named(self._calls.end(response.finish_reason == "stop")) if self._calls else []

    def reason(self, response: Response) -> str:
        reason = FINISHED[response.finish_reason]
        return CALLED if self._found and reason == "stop" else reason

    def logged(self, response: Response) -> str:
        """As `reason`, but what ended by its deadline says so."""
        return CALLED if self.reason(response) == CALLED else response.finish_reason

    def _named(self, found: list[str | ToolCall]) -> list[str | ToolCall]:
        self._found = self._found or any(isinstance(piece, ToolCall) for piece in found)
        return [
            piece if isinstance(piece, str) else ToolCall(f"call_{secrets.token_hex(12)}", piece.name, piece.arguments)
            for piece in found
        ]
