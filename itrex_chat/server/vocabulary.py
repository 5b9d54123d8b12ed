"""The texts of single tokens, as log-probabilities name them."""

from collections.abc import Iterable
from typing import Any

from itrex_chat.chat import ChatTokenizer
from itrex_chat.generation.request import TokenLogprob


class Vocabulary:
    """What tokens stand for, as far as it was asked of the tokenizer's process."""

    def __init__(self, tokenizer: ChatTokenizer):
        self._tokenizer = tokenizer
        self._known: dict[int, bytes] = {}

    def learn(self, entries: Iterable[TokenLogprob | None], others: Iterable[int] = ()) -> None:
        """Ask for those that are named in `entries` and are not known yet. It waits for the process."""
        named = {token for entry in entries if entry for token in (entry.token, *(top for top, _value in entry.top))}
        if new := sorted((named | set(others)) - self._known.keys()):
            self._known |= zip(new, self._tokenizer.token_bytes(new))

    def text(self, token: int) -> str:
        return self._known[token].decode("utf-8", "replace")

    def name(self, token: int) -> str:
        """A text that no other token is likely to have: parts of a character by their bytes, as OpenAI writes them."""
        piece = self._known[token]
        try:
            return piece.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)

    def chat(self, entry: TokenLogprob) -> dict[str, Any]:
        """An entry of `choices[].logprobs.content` of a chat completion."""
        top = [self._one(token, value) for token, value in entry.top]
        return self._one(entry.token, entry.logprob) | {"top_logprobs": top}

    def completion(self, entries: Iterable[tuple[int, TokenLogprob | None]], offset: int) -> dict[str, list[Any]]:
        """`choices[].logprobs` of a completion, for tokens with what is known of them; `offset`: where their text begins."""
        found: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token, entry in entries:
            found["tokens"].append(self.name(token))
            found["token_logprobs"].append(entry and finite(entry.logprob))
            found["top_logprobs"].append(entry and self._likeliest(entry))
            found["text_offset"].append(offset)
            offset += len(self.text(token))
        return found

    def _likeliest(self, entry: TokenLogprob) -> dict[str, float]:
        """The likeliest by their names, and the token itself; of those with one name the likeliest."""
        found = {self.name(token): finite(value) for token, value in reversed(entry.top)}
        found.setdefault(self.name(entry.token), finite(entry.logprob))
        return found

    def _one(self, token: int, value: float) -> dict[str, Any]:
        return {"token": self.text(token), "logprob": finite(value), "bytes": list(self._known[token])}


def finite(value: float) -> float:
    """What JSON has instead of -inf, as OpenAI."""
    return max(value, -9999.0)
