"""Keyword arguments in Python's writing, as ChatGLM3 calls functions: read as data, and never as a program."""

import ast
import json
import math
import re
from typing import Any

DEEPEST = 32
LONGEST_NUMBER = 40
WORDS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|(?P<number>-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"""
    r"""|(?P<word>[^\W\d]\w*)|(?P<mark>\*\*|[\[\](){},:=]))""",
    re.DOTALL,
)


class _Unreadable(ValueError):
    pass


def keyword_arguments(text: str) -> dict[str, Any] | None:
    """`city='Paris', days=3`, or `**{"city": "Paris"}`, as what JSON has; None for anything else."""
    try:
        return _Reader(text).arguments()
    except ValueError:
        return None


class _Reader:
    def __init__(self, text: str):
        self._tokens = [*_tokens(text), ("end", "")]
        self._at = 0

    def arguments(self) -> dict[str, Any]:
        if self._next("**"):
            found = self._value(0)
            if not isinstance(found, dict) or self._take()[0] != "end":
                raise _Unreadable
            return found
        found = {}
        while self._tokens[self._at][0] != "end":
            kind, name = self._take()
            if kind != "word" or name in WORDS or name in found or not self._next("="):
                raise _Unreadable
            found[name] = self._value(0)
            if not self._next(",") and self._tokens[self._at][0] != "end":
                raise _Unreadable
        return found

    def _value(self, depth: int) -> Any:
        kind, token = self._take()
        if depth > DEEPEST:
            raise _Unreadable
        if kind == "text":
            return _text(token)
        if kind == "number":
            return _number(token)
        if kind == "word" and token in WORDS:
            return WORDS[token]
        if token in ("[", "("):
            return self._several("]" if token == "[" else ")", depth)
        if token == "{":
            return self._pairs(depth)
        raise _Unreadable

    def _several(self, end: str, depth: int) -> list[Any]:
        found = []
        while not self._next(end):
            found.append(self._value(depth + 1))
            if not self._next(",") and self._tokens[self._at] != ("mark", end):
                raise _Unreadable
        return found

    def _pairs(self, depth: int) -> dict[str, Any]:
        found = {}
        while not self._next("}"):
            kind, name = self._take()
            if kind != "text" or not self._next(":"):
                raise _Unreadable
            found[_text(name)] = self._value(depth + 1)
            if not self._next(",") and self._tokens[self._at] != ("mark", "}"):
                raise _Unreadable
        return found

    def _take(self) -> tuple[str, str]:
        token = self._tokens[self._at]
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return token

    def _next(self, mark: str) -> bool:
        if self._tokens[self._at] != ("mark", mark):
            return False
        self._at += 1
        return True


def _tokens(text: str) -> list[tuple[str, str]]:
    found, at, end = [], 0, len(text.rstrip())
    while at < end:
        match = TOKEN.match(text, at, end)
        if not match or not match.lastgroup:
            raise _Unreadable
        found.append((match.lastgroup, match[match.lastgroup]))
        at = match.end()
    return found


def _text(token: str) -> str:
    """A string of JSON, or else of Python, whose escapes are others."""
    if token[0] == '"':
        try:
            return json.loads(token, strict=False)
        except ValueError:
            pass
    try:
        return str(ast.literal_eval(token))  # one string literal, by the pattern
    except (SyntaxError, ValueError):
        raise _Unreadable from None


def _number(token: str) -> int | float:
    if len(token) > LONGEST_NUMBER:
        raise _Unreadable
    try:
        return int(token)
    except ValueError:
        number = float(token)
    if not math.isfinite(number):
        raise _Unreadable
    return number
