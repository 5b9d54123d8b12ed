"""What an endpoint replied, checked completely: what these functions give fits into a record."""

import json
import math
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

MOST_TOKENS = 10**9  # more are nobody's


def parsed(content: bytes, read: Callable[[Any], T]) -> T:
    """What `read` makes of a reply in JSON. Raises ValueError for every reply that is none, or not such a one."""
    try:
        return read(json.loads(content.decode("utf-8-sig"), parse_constant=_no_number))
    except (KeyError, IndexError, TypeError, OverflowError, ZeroDivisionError, RecursionError) as error:
        raise ValueError(type(error).__name__) from None


def completion(content: Any) -> tuple[str, str, int, int]:
    """Text, "stop" or "length", tokens of the prompt and of the answer; 0 tokens where they are not told."""
    choice = _of(dict, _of(list, _of(dict, content)["choices"])[0])
    text = _of(dict, choice["message"])["content"]
    reason, usage = choice.get("finish_reason"), content.get("usage")
    counts = {} if usage is None else _of(dict, usage)
    return (
        "" if text is None else _of(str, text),
        "length" if reason is not None and _of(str, reason) == "length" else "stop",
        _tokens(counts.get("prompt_tokens")),
        _tokens(counts.get("completion_tokens")),
    )


def cosine(content: Any) -> float:
    """Of the two embeddings in a reply, -1 to 1."""
    found = {_of(int, _of(dict, entry)["index"]): entry["embedding"] for entry in _of(list, _of(dict, content)["data"])}
    if found.keys() != {0, 1}:
        raise ValueError("not two embeddings")
    a, b = ([_number(value) for value in _of(list, found[index])] for index in (0, 1))
    value = sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))
    return max(-1.0, min(1.0, _number(value)))


def _of(kind: type[T], value: Any) -> T:
    if type(value) is not kind:  # a bool is an int
        raise ValueError(f"no {kind.__name__}")
    return value


def _tokens(value: Any) -> int:
    if value is None:
        return 0
    if not 0 <= _of(int, value) <= MOST_TOKENS:
        raise ValueError("no number of tokens")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError("no number")
    return float(value)


def _no_number(name: str) -> float:
    raise ValueError(name)
