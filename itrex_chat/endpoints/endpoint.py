"""Chat completions and embeddings from an OpenAI-compatible endpoint."""

import http.client
import json
import time
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from itrex_chat.endpoints import KEY, exchange, replies, secrets
from itrex_chat.endpoints.exchange import Reply, TooLong
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.harmless import encodable
from itrex_chat.foundation.language import _

ATTEMPTS, PAUSE, LONGEST = 3, 1.0, 600.0  # PAUSE: seconds after the first attempt; LONGEST: for a whole reply
AGAIN = (408, 429, 500, 502, 503, 504)
T = TypeVar("T")


@dataclass(frozen=True)
class Completion:
    """`finish_reason` is "stop" or "length"; `seconds` the whole time, network included."""

    text: str
    finish_reason: str
    prompt_tokens: int
    new_tokens: int
    seconds: float


@dataclass(frozen=True)
class Endpoint:
    """Where and as whom to ask. `address` ends before /chat/completions; the key is never shown or kept.

    `seconds` is the time that a reply may take from the first byte sent to the last one read.
    """

    address: str
    model: str
    key: str = field(default="", repr=False)
    seconds: float = LONGEST

    @classmethod
    def of(cls, model: str, address: str | None = None) -> "Endpoint":
        """The endpoint that is named, else OPENAI_BASE_URL's, with the key in OPENAI_API_KEY. Raises RunError."""
        return cls(secrets.address(address), encodable(model), secrets.key())

    def complete(self, messages: list[dict[str, str]], max_new_tokens: int) -> Completion:
        """The answer to a conversation (POST …/chat/completions), with temperature 0. Raises RunError."""
        started = time.perf_counter()
        asked = {"messages": messages, "max_tokens": max_new_tokens, "temperature": 0}
        unusable = _("{address} gave an answer that is no chat completion.", address=self.address)
        text, reason, prompt_tokens, new_tokens = self._ask("chat/completions", asked, replies.completion, unusable)
        text = secrets.redacted(encodable(text), self.key)
        return Completion(text, reason, prompt_tokens, new_tokens, time.perf_counter() - started)

    def similarity(self, first: str, second: str) -> float:
        """The cosine of two texts' embeddings (POST …/embeddings), -1 to 1. Raises RunError."""
        asked = {"input": [first or " ", second or " "]}
        unusable = _("{address} gave an answer that is no embedding.", address=self.address)
        return self._ask("embeddings", asked, replies.cosine, unusable)

    def _ask(self, path: str, content: dict[str, Any], read: Callable[[Any], T], unusable: str) -> T:
        """What `read` makes of the reply; the only way in for what a server says, and the only way out for errors."""
        try:
            reply = self._reply(path, json.dumps({"model": self.model, **content}).encode())
            if not 200 <= reply.status < 300:
                raise RunError(self._refusal(reply.status))
            return replies.parsed(reply.content, read)
        except RunError as error:
            raise RunError(secrets.redacted(str(error), self.key)) from None
        except ValueError:
            raise RunError(secrets.redacted(unusable, self.key)) from None

    def _reply(self, path: str, content: bytes) -> Reply:
        """The reply to the last attempt, the first one that is not about a passing trouble. Raises RunError."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        for attempt in range(1, ATTEMPTS + 1):
            try:
                reply = exchange.post(f"{self.address}/{path}", headers, content, self.seconds)
                if reply.status not in AGAIN or attempt == ATTEMPTS:
                    return reply
            except TooLong:
                raise RunError(
                    _(
                        "{address} did not finish its answer in {seconds:.0f} seconds.",
                        address=self.address,
                        seconds=self.seconds,
                    )
                ) from None
            except (OSError, ValueError, http.client.HTTPException) as error:
                if attempt == ATTEMPTS:
                    raise RunError(
                        _(
                            "{address} cannot be reached or understood ({reason}).",
                            address=self.address,
                            reason=secrets.redacted(_reason(error), self.key)[:160],
                        )
                    ) from None
            time.sleep(PAUSE * attempt)
        raise AssertionError("unreachable")

    def _refusal(self, status: int) -> str:
        if status in (401, 403):
            return _(
                "{address} refuses the key in {variable} (HTTP {status}).",
                address=self.address,
                variable=KEY,
                status=status,
            )
        return _(
            "{address} answered with an error (HTTP {status}) for the model {model}.",
            address=self.address,
            status=status,
            model=self.model,
        )


def _reason(error: Exception) -> str:
    """What the system says; of anything else the kind alone, since its text quotes the server, or our headers."""
    if isinstance(error, http.client.HTTPException | ValueError):
        return type(error).__name__
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return " ".join(str(getattr(cause, "strerror", None) or cause).split())
