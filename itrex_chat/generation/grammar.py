"""Answers that follow a JSON schema, or call functions whose arguments do, through llguidance: it walks over the vocabulary
and the schema's grammar at once."""

import contextlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from itrex_chat.chat import ChatTokenizer
from itrex_chat.chat.tools import MARKS, CallFormat
from itrex_chat.foundation.errors import GenerationError
from itrex_chat.foundation.language import _

# Spaces between parts as people write them; without a bound a model may go on with them for ever.
SPACES = {"whitespace_pattern": r"[\x20\x0A]{0,16}", "lenient": False}
MARKS_AND_TEXT = re.compile(b"(" + b"|".join(map(str.encode, MARKS)) + b")")
MOST_CALLS = 16  # of an answer that has to have calls
# Of what a schema may take: milliseconds for a token, tens of MB.
BOUNDS: dict[str, Any] = {
    "initial_lexer_fuel": 500_000,
    "step_lexer_fuel": 100_000,
    "max_lexer_states": 50_000,
    "max_grammar_size": 200_000,
    "precompute_large_lexemes": False,
}


class Grammars:
    """Makes constraints for a model with so many tokens. Making it asks the tokenizer for its whole vocabulary."""

    def __init__(self, tokenizer: ChatTokenizer, size: int):
        from llguidance import LLTokenizer, TokenizerWrapper

        ends = sorted(token for token in tokenizer.stop_ids if token < size)
        words = TokenizerWrapper(_Words(tokenizer, size, ends))
        self._tokenizer = LLTokenizer(words, size, ends, LLTokenizer.json_slices())
        self._size = size

    def json(self, schema: dict[str, Any]) -> Callable[[], "JsonConstraint"]:
        """What makes constraints for answers that are JSON of a schema. Raises GenerationError for one that cannot be followed."""
        from llguidance import LLMatcher

        try:
            grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=SPACES)  # type: ignore[arg-type]
        except (ValueError, RecursionError) as error:
            raise _unusable(str(error)) from None
        return self._following(grammar)

    def calls(
        self,
        form: CallFormat,
        functions: Mapping[str, dict[str, Any]],
        required: bool,
        parallel: bool,
        schema: dict[str, Any] | None = None,
    ) -> Callable[[], "JsonConstraint"]:
        """As `json`, for answers with calls of functions whose arguments follow their schemas: nothing but calls where they are
        `required`, else text besides, or what `schema` says in place of calls. One call where they are not `parallel`."""
        return self._following(_lark_of_calls(form, functions, required, parallel and form.parallel, schema))

    def _following(self, grammar: str) -> Callable[[], "JsonConstraint"]:
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(verbose_errors=False, **BOUNDS)
        first = LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)
        if first.is_error():
            raise _unusable(first.get_error())
        return lambda: JsonConstraint(first.deep_copy(), self._size)


def _lark_of_calls(
    form: CallFormat,
    functions: Mapping[str, dict[str, Any]],
    required: bool,
    parallel: bool,
    schema: dict[str, Any] | None,
) -> str:
    """The grammar in llguidance's Lark. Names of functions have letters, digits, - and _ alone."""
    opened = dict[str, list[str]]()  # what begins a call, and the rest of each function's that begins so
    rules = ["%llguidance {}", r"TEXT: /(.|\n)*/"]
    for number, (name, parameters) in enumerate(functions.items()):
        opened.setdefault(form.opened(name), []).append(f"rest_{number}")
        rules.append(f"rest_{number}: {form.before(name)} {_inline(parameters)} {form.after()}")
    for number, (opening, rests) in enumerate(opened.items()):
        rules += [f"call_{number}: {opening} ({' | '.join(rests)})", f"BEGUN_{number}: TEXT {opening}"]
        rules += [f"begun_{number}[lazy]: BEGUN_{number}", f"told_{number}: begun_{number} ({' | '.join(rests)})"]
    calls = "(" + " | ".join(f"call_{number}" for number in range(len(opened))) + ")"
    if required or schema is not None:
        more = f' ("\\n" {calls}){{0,{MOST_CALLS - 1}}}' if parallel else ""
        answer = "" if required else f" | {_inline(schema or {})}"
        rules.append(f"start: {calls}{more}{answer}")
    else:
        told = "(" + " | ".join(f"told_{number}" for number in range(len(opened))) + ")"
        rules.append(f"start: {told}* TEXT" if parallel else f"start: {told} | TEXT")
    return "\n".join(rules)


def _inline(schema: dict[str, Any]) -> str:
    try:
        return "%json " + json.dumps(schema | {"x-guidance": SPACES})
    except (ValueError, RecursionError) as error:
        raise _unusable(str(error)) from None


class JsonConstraint:
    """A Constraint: a matcher of llguidance, which is in an error for good where a schema turns out to be too complex."""

    def __init__(self, matcher: Any, size: int):
        self._matcher, self._size = matcher, size

    def allowed(self) -> torch.Tensor:
        mask = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            raise _unusable(self._matcher.get_error())
        return torch.from_numpy(np.unpackbits(mask, count=self._size, bitorder="little").view(bool))

    def take(self, token: int) -> None:
        self._matcher.consume_token(token)


class _Words:
    """A vocabulary as llguidance takes it, which asks for the tokens of text that a schema leaves no choice about."""

    def __init__(self, tokenizer: ChatTokenizer, size: int, ends: list[int]):
        self.tokens = tokenizer.token_bytes(list(range(size)))
        self.special_token_ids = sorted({*(token for token in tokenizer.control_ids() if token < size), *ends})
        self.eos_token_id, self.bos_token_id = ends[0], None
        self._tokenizer, special = tokenizer, {*self.special_token_ids}
        self._ids = {piece: token for token, piece in enumerate(self.tokens) if piece and token not in special}
        self._longest = max(map(len, self._ids))
        self._marks = {mark: self._ids[mark] for mark in map(str.encode, MARKS) if mark in self._ids}

    def __call__(self, text: bytes) -> list[int]:
        parts = MARKS_AND_TEXT.split(text)
        return [token for part in parts if part for token in self._of_part(part)]

    def _of_part(self, text: bytes) -> list[int]:
        if text in self._marks:
            return [self._marks[text]]
        with contextlib.suppress(UnicodeDecodeError, IndexError):
            ids = self._tokenizer.encode(text.decode())
            if b"".join(self.tokens[token] for token in ids) == text:
                return ids
        return self._matched(text)  # some begin every text with a space

    def _matched(self, text: bytes) -> list[int]:
        """The longest token that the text begins with, and so on; what no token has is left out."""
        ids, at = list[int](), 0
        while at < len(text):
            ends = range(min(len(text), at + self._longest), at, -1)
            found = next((end for end in ends if text[at:end] in self._ids), None)
            if found:
                ids.append(self._ids[text[at:found]])
            at = found or at + 1
        return ids


def _unusable(reason: str) -> GenerationError:
    return GenerationError(
        _("The JSON schema cannot be followed: {reason}.", reason=" ".join(reason.split())[:300].rstrip("."))
    )
