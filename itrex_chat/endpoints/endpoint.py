"""Chat completions and embeddings from an OpenAI-compatible endpoint."""

import json
import math
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from itrex_chat.endpoints import ADDRESS, KEY
from itrex_chat.foundation.errors import RunError
from itrex_chat.foundation.harmless import encodable
from itrex_chat.foundation.language import _

TIMEOUT, ATTEMPTS, LARGEST = 120, 3, 4 << 20
AGAIN = (408, 429, 500, 502, 503, 504)


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
    """Where and as whom to ask. `address` ends before /chat/completions; the key is never shown or kept."""

    address: str
    model: str
    key: str = ""

    @classmethod
    def of(cls, model: str, address: str | None = None) -> "Endpoint":
        """The endpoint that is named, else OPENAI_BASE_URL's, with the key in OPENAI_API_KEY. Raises RunError."""
        address = address or os.environ.get(ADDRESS, "")
        parts = urllib.parse.urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise RunError(
                _(
                    "Name the endpoint with --endpoint or {variable}, such as https://api.openai.com/v1 or "
                    "http://localhost:8000/v1.",
                    variable=ADDRESS,
                )
            )
        return cls(address.rstrip("/"), model, os.environ.get(KEY, ""))

    def complete(self, messages: list[dict[str, str]], max_new_tokens: int) -> Completion:
        """The answer to a conversation (POST …/chat/completions), with temperature 0. Raises RunError."""
        started = time.perf_counter()
        content = self._send("chat/completions", {"messages": messages, "max_tokens": max_new_tokens, "temperature": 0})
        try:
            choice, usage = content["choices"][0], content.get("usage") or {}
            text = choice["message"]["content"] or ""
            return Completion(
                encodable(text),
                "length" if choice.get("finish_reason") == "length" else "stop",
                int(usage.get("prompt_tokens") or 0),
                int(usage.get("completion_tokens") or 0),
                time.perf_counter() - started,
            )
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise RunError(_("{address} gave an answer that is no chat completion.", address=self.address)) from None

    def similarity(self, first: str, second: str) -> float:
        """The cosine of two texts' embeddings (POST …/embeddings), -1 to 1. Raises RunError."""
        content = self._send("embeddings", {"input": [first or " ", second or " "]})
        try:
            a, b = (entry["embedding"] for entry in sorted(content["data"], key=lambda entry: entry["index"]))
            cosine = sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))
            if not math.isfinite(cosine):
                raise ValueError
            return max(-1.0, min(1.0, cosine))
        except (KeyError, TypeError, ValueError, ZeroDivisionError, AttributeError):
            raise RunError(_("{address} gave an answer that is no embedding.", address=self.address)) from None

    def _send(self, path: str, content: dict[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(
            f"{self.address}/{path}", json.dumps({"model": self.model, **content}).encode(), headers
        )
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                    return json.loads(response.read(LARGEST))
            except urllib.error.HTTPError as error:
                if error.code in (401, 403):
                    raise RunError(
                        _(
                            "{address} refuses the key in {variable} (HTTP {status}).",
                            address=self.address,
                            variable=KEY,
                            status=error.code,
                        )
                    ) from None
                if error.code not in AGAIN or attempt == ATTEMPTS:
                    raise RunError(
                        _(
                            "{address} answered with an error (HTTP {status}) for the model {model}.",
                            address=self.address,
                            status=error.code,
                            model=self.model,
                        )
                    ) from None
            except (OSError, ValueError) as error:
                if attempt == ATTEMPTS:
                    raise RunError(
                        _(
                            "{address} cannot be reached or understood ({reason}).",
                            address=self.address,
                            reason=" ".join(str(error).split())[:160],
                        )
                    ) from None
            time.sleep(attempt)
        raise AssertionError("unreachable")
