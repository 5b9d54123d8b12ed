"""What clients may ask, field by field. A field that is not here is refused by name, never ignored; null is as good as absent."""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from itrex_chat.chat.messages import Message, ToolCall
from itrex_chat.foundation.language import _
from itrex_chat.server.strict import Strict, wrong
from itrex_chat.server.tools import (
    MOST_TOOLS,
    Call,
    CalledFunction,
    FlatNamed,
    FlatTool,
    Function,
    Named,
    Tool,
    WithTools,
    arguments_of,
)

MOST_CHOICES = 16
MOST_PROMPTS = 128  # prompts times choices of a request

Temperature = Annotated[float, Field(ge=0, le=2)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class StreamOptions(Strict):
    include_usage: bool = False


class Sampling(Strict):
    """How tokens are chosen, for all endpoints. Without `temperature`, `top_p` and `top_k` it is as the recipe says."""

    model: str | None = None
    temperature: Temperature | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=1 << 20)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    user: str | None = None  # by OpenAI's definition it changes nothing


class Generation(Sampling):
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] = 1
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> Self:
        if self.stream_options and not self.stream:
            raise wrong("stream_options", _("it is for streams alone"))
        for token in self.logit_bias or ():
            if not token.isascii() or not token.isdigit() or len(token) > 9:
                raise wrong("logit_bias", _("its keys are ids of tokens"))
        return self


class TextPart(Strict):
    type: Literal["text"]
    text: str


class Turn(Strict):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] = ""
    tool_calls: Annotated[list[Call], Field(max_length=MOST_TOOLS)] = []
    tool_call_id: str = ""
    name: str | None = None  # of the function whose result it is: its call says it, too

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if "content" not in self.model_fields_set and not self.tool_calls:
            raise wrong("messages", _("a message without calls of functions has its content"))
        if self.tool_calls and self.role != "assistant":
            raise wrong("messages", _("only the assistant has tool_calls"))
        if (self.role == "tool") != bool(self.tool_call_id) or (self.name and self.role != "tool"):
            raise wrong("messages", _("messages of the role tool have a tool_call_id, and no others"))
        return self

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)

    def message(self) -> Message:
        """Raises ApiError."""
        role = "system" if self.role == "developer" else self.role
        return Message(role, self.text, tuple(call.plain() for call in self.tool_calls), self.tool_call_id)


class PlainText(Strict):
    type: Literal["text"]

    @property
    def schema_of(self) -> None:
        return None


class JsonObject(Strict):
    type: Literal["json_object"]

    @property
    def schema_of(self) -> dict[str, Any]:
        return {"type": "object"}


class Schema(Strict):
    name: str
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool = True  # it always is


class JsonSchema(Strict):
    type: Literal["json_schema"]
    json_schema: Schema

    @property
    def schema_of(self) -> dict[str, Any]:
        return self.json_schema.schema_


class FlatJsonSchema(Schema):
    type: Literal["json_schema"]

    @property
    def schema_of(self) -> dict[str, Any]:
        return self.schema_


class WithNestedTools(WithTools):
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS)] = []

    @property
    def functions(self) -> list[Function]:
        return [tool.function for tool in self.tools]


class ChatRequest(WithNestedTools, Generation):
    messages: Annotated[list[Turn], Field(min_length=1, max_length=4096)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: Annotated[PlainText | JsonObject | JsonSchema, Field(discriminator="type")] | None = None
    tool_choice: Literal["none", "auto", "required"] | Named = "auto"

    @property
    def choice(self) -> str:
        return self.tool_choice if isinstance(self.tool_choice, str) else f":{self.tool_choice.function.name}"

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise wrong("top_logprobs", _("it needs logprobs: true"))
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise wrong("max_tokens", _("max_completion_tokens says another number"))
        return self


class CompletionRequest(Generation):
    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: Annotated[int, Field(ge=0)] = 16
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool = False
    best_of: Literal[1] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.max_tokens == 0 and not self.echo:
            raise wrong("max_tokens", _("0 needs echo: true"))
        if not self.prompt or self.prompt == [[]]:
            raise wrong("prompt", _("it is empty"))
        if len(self.prompts) * self.n > MOST_PROMPTS:
            raise wrong("prompt", _("there are more than {count} prompts times n", count=MOST_PROMPTS))
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)  # type: ignore[arg-type]


class InputText(Strict):
    type: Literal["input_text"]
    text: str


class OutputText(Strict):
    """Of an answer that a client sends back."""

    type: Literal["output_text"]
    text: str
    annotations: Annotated[list[Any], Field(max_length=0)] = []
    logprobs: Annotated[list[Any], Field(max_length=0)] = []


Status = Literal["completed", "incomplete", "in_progress"]


class InputItem(Strict):
    """A message of a conversation."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Annotated[InputText | OutputText, Field(discriminator="type")]]
    id: str | None = None
    status: Status | None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class CallItem(CalledFunction):
    """A call of an earlier answer."""

    type: Literal["function_call"]
    call_id: Annotated[str, Field(min_length=1, max_length=256)]
    id: str | None = None
    status: Status | None = None

    def call(self) -> ToolCall:
        """Raises ApiError."""
        return ToolCall(self.call_id, self.name, arguments_of(self.arguments, "input"))


class ResultItem(Strict):
    """What came of a call."""

    type: Literal["function_call_output"]
    call_id: Annotated[str, Field(min_length=1, max_length=256)]
    output: str | list[InputText]
    id: str | None = None
    status: Status | None = None

    @property
    def text(self) -> str:
        return self.output if isinstance(self.output, str) else "".join(part.text for part in self.output)


def _kind(item: Any) -> Any:
    return item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", None)


Item = Annotated[
    Annotated[InputItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[ResultItem, Tag("function_call_output")],
    Discriminator(_kind),
]


class TextOptions(Strict):
    format: Annotated[PlainText | JsonObject | FlatJsonSchema, Field(discriminator="type")] | None = None


class ResponsesRequest(WithTools, Sampling):
    input: str | Annotated[list[Item], Field(min_length=1, max_length=4096)]
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    store: bool = True
    stream: bool = False
    text: TextOptions | None = None
    truncation: Literal["disabled"] = "disabled"
    tools: Annotated[list[FlatTool], Field(max_length=MOST_TOOLS)] = []
    tool_choice: Literal["none", "auto", "required"] | FlatNamed = "auto"
    metadata: Annotated[dict[str, str], Field(max_length=16)] = {}

    @property
    def functions(self) -> list[Function]:
        return list(self.tools)

    @property
    def choice(self) -> str:
        return self.tool_choice if isinstance(self.tool_choice, str) else f":{self.tool_choice.name}"


class TokenizeRequest(WithNestedTools):
    """A text, or a conversation as the model is asked it."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Turn], Field(min_length=1, max_length=4096)] | None = None
    add_special_tokens: bool = False  # no text has any here
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise wrong("prompt", _("give a prompt or messages"))
        return self


class DetokenizeRequest(Strict):
    model: str | None = None
    tokens: Annotated[list[Annotated[int, Field(ge=0, lt=1 << 31)]], Field(max_length=1 << 20)]
