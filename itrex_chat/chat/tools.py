"""How families write the calls of functions: in what they answer, and where a grammar holds them to it."""

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from itrex_chat.chat.literals import keyword_arguments
from itrex_chat.foundation.harmless import encodable

MARKS = ("<tool_call>", "</tool_call>")  # of one token in vocabularies of models that were trained with them


SPACES = ("", " ", "  ")  # before a line of a vocabulary that begins every text with one


class CallFormat(ABC):
    """A call is an opening, what `read` reads, and `closing`. Grammars are parts of rules in llguidance's Lark."""

    closing: str
    parallel: bool  # whether an answer can have several calls

    @abstractmethod
    def openings(self, names: Sequence[str]) -> list[str]:
        """Texts with which a call of one of these functions begins."""

    @abstractmethod
    def read(self, opening: str, inside: str) -> tuple[str, dict[str, Any]] | None:
        """Name and arguments of the call that is between an opening and `closing`; None where it is none."""

    @abstractmethod
    def quoted(self, inside: str) -> bool:
        """Whether a text within a call ends within something, such as a string, so that `closing` behind it is part of that."""

    @abstractmethod
    def opened(self, name: str) -> str:
        """The grammar of the beginning by which a call is known."""

    @abstractmethod
    def before(self, name: str) -> str:
        """The grammar of what is between this beginning and the arguments, which are JSON."""

    @abstractmethod
    def after(self) -> str:
        """The grammar of what is behind the arguments."""


class Tagged(CallFormat):
    """`<tool_call>` around JSON with name and arguments: Qwen2.5, Qwen3, Hermes, and what was trained like them."""

    closing, parallel = MARKS[1], True

    def openings(self, names: Sequence[str]) -> list[str]:
        return [MARKS[0]]

    def read(self, opening: str, inside: str) -> tuple[str, dict[str, Any]] | None:
        return _call({"arguments": {}} | _object(inside), "arguments")

    def quoted(self, inside: str) -> bool:
        return '"' in _without_strings(inside)

    def opened(self, name: str) -> str:
        return json.dumps(MARKS[0])

    def before(self, name: str) -> str:
        return json.dumps(f'\n{{"name": "{name}", "arguments": ')

    def after(self) -> str:
        return json.dumps("}\n" + MARKS[1])


class Bare(CallFormat):
    """JSON with name and parameters and nothing around it: Llama 3.1 to 3.3."""

    closing, parallel = "}", False

    def openings(self, names: Sequence[str]) -> list[str]:
        return ['{"name": "', '{"name":"', '{"type": "function", "name": "', '{"type":"function","name":"']

    def read(self, opening: str, inside: str) -> tuple[str, dict[str, Any]] | None:
        return _call(_object(opening + inside + self.closing), "parameters", "type")

    def quoted(self, inside: str) -> bool:
        rest = _without_strings('"' + inside)
        return '"' in rest or rest.count("{") > rest.count("}")

    def opened(self, name: str) -> str:
        return json.dumps(f'{{"name": "{name}", "parameters":')

    def before(self, name: str) -> str:
        return '" "'

    def after(self) -> str:
        return json.dumps(self.closing)


class Coded(CallFormat):
    """ChatGLM3's: the function's name where an answer has a role's metadata, and below it a line of Python."""

    closing, parallel = "```", False

    def openings(self, names: Sequence[str]) -> list[str]:
        return [
            f"{name}\n{space}```python\ntool_call(" for name in sorted(names, key=len, reverse=True) for space in SPACES
        ]

    def read(self, opening: str, inside: str) -> tuple[str, dict[str, Any]] | None:
        content = inside.rstrip()
        if not content.endswith(")"):
            return None
        arguments = keyword_arguments(content[:-1])
        return None if arguments is None else (opening.partition("\n")[0], arguments)

    def quoted(self, inside: str) -> bool:
        rest = re.sub(r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'""", "", inside, flags=re.DOTALL)
        return '"' in rest or "'" in rest

    def opened(self, name: str) -> str:
        return f'" "? {json.dumps(name + chr(10))} " "? {json.dumps("```python" + chr(10) + "tool_call(")}'

    def before(self, name: str) -> str:
        return '"**"'

    def after(self) -> str:
        return json.dumps(")\n```")


FORMATS: dict[str, CallFormat] = {"tagged": Tagged(), "coded": Coded(), "bare": Bare()}


def written(arguments: dict[str, Any]) -> str:
    """Arguments as the JSON that clients get."""
    return encodable(json.dumps(arguments, ensure_ascii=False))


def _call(call: dict[str, Any], arguments: str, *others: str) -> tuple[str, dict[str, Any]] | None:
    """Name and arguments, which are under that key; `others` are the keys that there may be besides."""
    name, given = call.get("name"), call.get(arguments)
    known = call.keys() <= {"name", arguments, *others}
    return (name, given) if known and isinstance(name, str) and isinstance(given, dict) else None


def _object(text: str) -> dict[str, Any]:
    """A JSON object, empty where the text is none."""
    try:
        found = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _without_strings(text: str) -> str:
    """JSON without its strings; of one that does not end, the rest remains."""
    return re.sub(r'"(?:[^"\\]|\\.)*"', "", text, flags=re.DOTALL)


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(text)
    return number
