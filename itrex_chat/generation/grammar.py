"""Answers that follow a JSON schema, through llguidance: it walks over the vocabulary and the schema's grammar at once."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from itrex_chat.chat import ChatTokenizer
from itrex_chat.foundation.errors import GenerationError
from itrex_chat.foundation.language import _

# Spaces between parts as people write them; without a bound a model may go on with them for ever.
SPACES = {"whitespace_pattern": r"[\x20\x0A]{0,16}", "lenient": False}


class Grammars:
    """Makes constraints for a model with so many tokens. Making it asks the tokenizer for its whole vocabulary."""

    def __init__(self, tokenizer: ChatTokenizer, size: int):
        from llguidance import LLTokenizer, TokenizerWrapper

        words = _Words(tokenizer, size)
        self._tokenizer = LLTokenizer(
            TokenizerWrapper(words), size, sorted(tokenizer.stop_ids), LLTokenizer.json_slices()
        )
        self._size = size

    def json(self, schema: dict[str, Any]) -> Callable[[], "JsonConstraint"]:
        """What makes constraints for answers that are JSON of a schema. Raises GenerationError for one that cannot be followed."""
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(verbose_errors=False)
        try:
            grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=SPACES)  # type: ignore[arg-type]
        except (ValueError, RecursionError) as error:
            raise _unusable(str(error)) from None
        first = LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)
        if first.is_error():
            raise _unusable(first.get_error())
        return lambda: JsonConstraint(first.deep_copy(), self._size)


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
    """A vocabulary as llguidance takes it."""

    def __init__(self, tokenizer: ChatTokenizer, size: int):
        self.tokens = tokenizer.token_bytes(list(range(size)))
        self.special_token_ids = sorted({*tokenizer.control_ids(), *tokenizer.stop_ids})
        self.eos_token_id, self.bos_token_id = min(tokenizer.stop_ids), None
        self._tokenizer = tokenizer

    def __call__(self, text: bytes | str) -> list[int]:
        return self._tokenizer.encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))


def _unusable(reason: str) -> GenerationError:
    return GenerationError(
        _("The JSON schema cannot be followed: {reason}.", reason=" ".join(reason.split())[:300].rstrip("."))
    )
