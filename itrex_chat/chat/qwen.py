"""Qwen, first generation: a tiktoken vocabulary and ChatML."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tiktoken

from itrex_chat.chat.messages import Message
from itrex_chat.chat.vocabulary import read_file, tiktoken_ranks
from itrex_chat.settings.recipe import Chat

FILE = "qwen.tiktoken"
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
SYSTEM = "You are a helpful assistant."


class QwenTokenizer:
    """Prompt: ChatML, each part of it encoded for itself."""

    strips_newline, call_format = False, ""

    def __init__(self, folder: Path, chat: Chat):
        self._content = read_file(folder, FILE)
        ranks = tiktoken_ranks(self._content, folder / FILE)
        self._encoding = tiktoken.Encoding("qwen", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
        self._words = len(ranks)
        self._system = chat.system or SYSTEM
        self._end_of_text, self._start, self._end = self._words, self._words + 1, self._words + 2
        self.stop_ids = frozenset((self._end_of_text, self._start, self._end))

    def encode(self, text: str) -> list[int]:
        return self._encoding.encode_ordinary(unicodedata.normalize("NFC", text))

    def decode(self, ids: list[int]) -> str:
        return self._encoding.decode([token for token in ids if token < self._words], errors="replace")

    def token_bytes(self, ids: list[int]) -> list[bytes]:
        names = {self._end_of_text: b"<|endoftext|>", self._start: b"<|im_start|>", self._end: b"<|im_end|>"}
        return [
            self._encoding.decode_single_token_bytes(token) if token < self._words else names.get(token, b"")
            for token in ids
        ]

    def control_ids(self) -> list[int]:
        return [self._end_of_text, self._start, self._end]

    def prompt(self, messages: list[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        if messages[0].role != "system":
            messages = [Message("system", self._system), *messages]
        newline = self.encode("\n")
        ids: list[int] = []
        for message in messages:
            ids += [
                self._start,
                *self.encode(message.role),
                *newline,
                *self.encode(message.content),
                self._end,
                *newline,
            ]
        return [*ids, self._start, *self.encode("assistant"), *newline]

    def files(self) -> dict[str, bytes]:
        return {FILE: self._content}
