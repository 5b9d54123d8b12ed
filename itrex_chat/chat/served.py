"""The process of one tokenizer: requests of `confined.py` on standard input, replies on standard output."""

import json
import math
import os
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from itrex_chat.chat.frames import REPLY, REQUEST
from itrex_chat.chat.messages import Message, ToolCall
from itrex_chat.foundation.errors import TokenizerError
from itrex_chat.settings.recipe import Chat

if TYPE_CHECKING:
    from itrex_chat.chat import ChatTokenizer


def main() -> None:
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no reply
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    served = _Served()
    while head := requests.read(REQUEST.size):
        length, seconds, memory = REQUEST.unpack(head)
        _bound(seconds, memory)
        _answer(served, json.loads(requests.read(length)), replies)


def _bound(seconds: int, memory: int) -> None:
    """Let the system end this process after so much more processor time, and give it no more than so much memory."""
    _limit(resource.RLIMIT_CPU, math.ceil(time.process_time()) + seconds)
    _limit(resource.RLIMIT_DATA, memory)


def _limit(kind: int, value: int) -> None:
    _soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _answer(served: "_Served", request: dict, replies: BinaryIO) -> None:
    try:
        reply = {"value": getattr(served, request.pop("task"))(**request)}
        content = json.dumps(reply, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    except TokenizerError as error:
        content = json.dumps({"refused": str(error)}).encode()
    except MemoryError:
        os.abort()  # as libraries that are not Python's do
    except BaseException as error:  # a panic of Rust's is no Exception
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160].rstrip(".")
        content = json.dumps({"failed": reason}).encode()
    replies.write(REPLY.pack(len(content)) + content)
    replies.flush()


class _Served:
    """The tasks, in plain values."""

    tokenizer: "ChatTokenizer"

    def load(self, folder: str, family: str, chat: dict, gguf: str | None) -> dict[str, Any]:
        from itrex_chat.chat.families import read_tokenizer

        self.tokenizer = read_tokenizer(Path(folder), family, Chat(**chat), Path(gguf) if gguf else None)
        found = self.tokenizer
        return {
            "stop_ids": sorted(found.stop_ids),
            "strips_newline": found.strips_newline,
            "call_format": found.call_format,
        }

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids)

    def token_bytes(self, ids: list[int]) -> list[str]:
        return [piece.decode("latin-1") for piece in self.tokenizer.token_bytes(ids)]

    def control_ids(self) -> list[int]:
        return self.tokenizer.control_ids()

    def prompt(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> list[int]:
        said = [
            Message(**message | {"calls": tuple(ToolCall(**call) for call in message["calls"])}) for message in messages
        ]
        return self.tokenizer.prompt(said, tools)

    def files(self) -> dict[str, str]:
        return {name: content.decode("latin-1") for name, content in self.tokenizer.files().items()}


if __name__ == "__main__":
    main()
