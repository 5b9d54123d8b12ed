"""Functions that a model may call, as requests describe them, and calls that clients send back."""

import json
import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from itrex_chat.chat.messages import ToolCall
from itrex_chat.foundation.language import _
from itrex_chat.server.errors import refused
from itrex_chat.server.strict import Strict, wrong

MOST_TOOLS = 128
DEEPEST = 64
NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}

Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """Raises PydanticCustomError for what JSON does not have, and for what is nested too deep to be handed on."""
    if any(
        depth > DEEPEST or (isinstance(entry, float) and not math.isfinite(entry)) for depth, entry in _entries(value)
    ):
        raise PydanticCustomError(
            "plain", "{reason}", {"reason": _("it is nested too deep, or has numbers that are none")}
        )
    return value


def _entries(value: Any) -> Iterator[tuple[int, Any]]:
    left = [(0, value)]
    while left:
        depth, entry = left.pop()
        yield depth, entry
        if depth <= DEEPEST and isinstance(entry, (dict, list)):
            left += [(depth + 1, below) for below in (entry.values() if isinstance(entry, dict) else entry)]


class Function(Strict):
    """`strict`: arguments always follow `parameters`, a JSON schema, also where the model calls of itself."""

    name: Name
    description: str | None = None
    parameters: Annotated[dict[str, Any], AfterValidator(_plain)] | None = None
    strict: bool = False

    @model_validator(mode="after")
    def _takes_an_object(self) -> Self:
        if self.parameters is not None and self.parameters.get("type", "object") != "object":
            raise wrong("tools", _("parameters are the schema of an object"))
        return self

    def described(self) -> dict[str, Any]:
        """As chat templates know functions."""
        fields = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": {name: value for name, value in fields.items() if value is not None}}

    @property
    def schema_of_arguments(self) -> dict[str, Any]:
        return NO_PARAMETERS if self.parameters is None else {"type": "object"} | self.parameters


class Tool(Strict):
    type: Literal["function"]
    function: Function


class FlatTool(Function):
    """As responses have it."""

    type: Literal["function"]


class OnlyName(Strict):
    name: Name


class Named(Strict):
    """The function that has to be called."""

    type: Literal["function"]
    function: OnlyName


class FlatNamed(OnlyName):
    type: Literal["function"]


class CalledFunction(OnlyName):
    arguments: str


class Call(Strict):
    """A call of an earlier answer."""

    id: Annotated[str, Field(min_length=1, max_length=256)]
    type: Literal["function"] = "function"
    function: CalledFunction

    def plain(self) -> ToolCall:
        """Raises ApiError."""
        return ToolCall(self.id, self.function.name, arguments_of(self.function.arguments, "messages"))


def arguments_of(text: str, field: str) -> dict[str, Any]:
    """What the JSON of a call's arguments says. Raises ApiError that names the `field`."""
    try:
        found = json.loads(text or "{}")
        if isinstance(found, dict):
            return _plain(found)
    except (ValueError, RecursionError, PydanticCustomError):
        pass
    raise refused(_("The arguments of a call are a text that is a JSON object."), field)


class WithTools(Strict):
    """What requests of chat and responses have in common; each writes tools its own way."""

    parallel_tool_calls: bool = True

    @property
    def functions(self) -> list[Function]:
        raise NotImplementedError

    @property
    def choice(self) -> str:
        """ "none", "auto", "required", or the name of a function with ":" before it."""
        return "auto"

    @model_validator(mode="after")
    def _tools_fit_together(self) -> Self:
        names = [function.name for function in self.functions]
        if len(set(names)) < len(names):
            raise wrong("tools", _("two functions have one name"))
        if self.choice == "required" and not names:
            raise wrong("tool_choice", _("there are no tools to choose from"))
        if self.choice.startswith(":") and self.choice[1:] not in names:
            raise wrong("tool_choice", _("tools has no function of that name"))
        return self
