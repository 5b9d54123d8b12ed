"""Errors in OpenAI's form, which its clients turn into exceptions of theirs."""

from collections.abc import Sequence
from typing import Any

from itrex_chat.foundation.errors import (
    Busy,
    GenerationError,
    ItrexChatError,
    MemoryShortage,
    TokenizerEnded,
    TokenizerError,
)
from itrex_chat.foundation.harmless import encodable
from itrex_chat.foundation.language import _

INVALID, SERVER = "invalid_request_error", "server_error"
TOGETHER = "together"  # pydantic's type of an error of ours: fields that do not go together
RETRY = 5  # seconds until one may ask again


class ApiError(Exception):
    """What a client is told instead of an answer: an HTTP status, a sentence, and where it can be said the field (`param`) and
    a word for programs (`code`)."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        kind: str = INVALID,
        retry_after: int | None = None,
    ):
        super().__init__(message)
        self.status, self.param, self.code, self.kind, self.retry_after = status, param, code, kind, retry_after

    def content(self) -> dict[str, Any]:
        param = None if self.param is None else encodable(self.param)
        return {"error": {"message": encodable(str(self)), "type": self.kind, "param": param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        found = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        return found | ({"www-authenticate": "Bearer"} if self.status == 401 else {})


def refused(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, param, code)


def unavailable(message: str, code: str) -> ApiError:
    return ApiError(503, message, code=code, kind=SERVER, retry_after=RETRY)


def of(error: ItrexChatError) -> ApiError:
    """What a client is told of an error of ours."""
    if isinstance(error, Busy):
        return ApiError(429, str(error), code="rate_limit_exceeded", kind="requests", retry_after=RETRY)
    if isinstance(error, MemoryShortage):
        return unavailable(str(error), "out_of_memory")
    if isinstance(error, TokenizerEnded):
        return unavailable(str(error), "tokenizer_ended")
    if isinstance(error, (GenerationError, TokenizerError)):
        return refused(str(error))
    return ApiError(500, str(error), kind=SERVER)


def of_validation(problems: Sequence[Any]) -> ApiError:
    """What a client is told of the first thing that pydantic found."""
    problem = problems[0]
    place = [part for part in problem["loc"] if part != "body"]
    param = str(place[0])[:100] if place and isinstance(place[0], str) else None
    field = ".".join(str(part) for part in place)[:100]
    if problem["type"] == TOGETHER:
        param = field = problem["ctx"]["field"]
    match problem["type"]:
        case _kind if not field or problem["type"] == "json_invalid":
            return refused(_("The body is not a JSON object, sent as application/json."))
        case "extra_forbidden":
            message = _("{field} is not supported here; leave it out.", field=field)
        case "missing":
            message = _("{field} is missing.", field=field)
        case _kind:
            message = _("{field} cannot be used: {reason}.", field=field, reason=problem["msg"].rstrip("."))
    return refused(message, param)
