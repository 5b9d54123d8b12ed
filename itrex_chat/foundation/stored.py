"""JSON files that this program wrote, read back: each names the version of its format."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from itrex_chat.foundation import files
from itrex_chat.foundation.errors import ItrexChatError, RunError
from itrex_chat.foundation.harmless import encodable
from itrex_chat.foundation.language import _

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


def parsed_json(text: str) -> Any:
    """What a JSON text says. Raises ValueError for no JSON, whole numbers that no machine counts to, and endless nesting."""
    try:
        return json.loads(text, parse_int=_whole)
    except RecursionError:
        raise ValueError("values within values within values") from None


def _whole(digits: str) -> int:
    if len(digits) > 20:  # more than 64 bits
        raise ValueError(digits[:20])
    return int(digits)


def read(path: Path, version: int, made: Callable[[dict], T], error: type[ItrexChatError] = RunError) -> T:
    """What `made` makes of the JSON object in `path`, whose "format" must be `version`.

    Raises `error` with a sentence each for a file that cannot be read, one of another version, and one that is damaged:
    no JSON object, or one that `made` does not take (ValueError, KeyError, TypeError, AttributeError).
    """
    try:
        content = parsed_json(files.text_of(path, error))
        if content["format"] != version:
            raise error(_("{path} was written by another version of this program.", path=path))
        return made(content)
    except ItrexChatError:
        raise  # a ValueError, too, for some
    except (ValueError, KeyError, TypeError, AttributeError):
        raise error(_("{path} is damaged.", path=path)) from None


def checked(kind: type[T], values: Any) -> T:
    """What values of JSON describe. Raises ValueError where one is missing or of another type.

    In texts, such as the name of a folder that is not UTF-8, a question mark stands for what no JSON can hold.
    """
    text = encodable(json.dumps(values, ensure_ascii=False))
    return adapter(kind).validate_json(text, strict=True)  # type: ignore[arg-type]  # hashable


@functools.cache
def adapter(kind: Any) -> "TypeAdapter[Any]":
    """pydantic's view of a type. The help of a verb need not wait for its import."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def format_of(path: Path) -> object:
    """The number of a file's format; None where there is none, which `read` puts into words."""
    try:
        return parsed_json(files.text_of(path, ValueError))["format"]
    except (ValueError, KeyError, TypeError):
        return None
