"""Baichuan2: a SentencePiece vocabulary in which the turns' tokens are reserved words.

Its published tokenizer reads "<s>", "</s>", "<unk>" and "<reserved_106>" in a
message as the control tokens of these names. `chat.control_text: published`
does the same, so that prompts are the published model's, id for id;
`literal` encodes such text as text, as all other families do here.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from itrex_chat.chat.messages import Message
from itrex_chat.chat.vocabulary import piece_bytes, read_file, sentencepiece
from itrex_chat.settings.recipe import Chat

USER, ASSISTANT = 195, 196
SPECIAL = re.compile(r"(<unk>|<s>|</s>)")
CONTROL = re.compile(r"<(?=(?:unk|s|/s|SEP|CLS|reserved_\d+)>)")


class Baichuan2Tokenizer:
    """Prompt: the system text, then for each turn its role's token and text; at the end the assistant's token."""

    strips_newline, call_format = False, ""

    def __init__(self, folder: Path, chat: Chat):
        self._content = read_file(folder, "tokenizer.model")
        self._pieces = sentencepiece(self._content, folder)
        self._chat = chat
        self._special = {"<unk>": self._pieces.unk_id(), "<s>": self._pieces.bos_id(), "</s>": self._pieces.eos_id()}
        self.stop_ids = frozenset((self._pieces.eos_id(), USER, ASSISTANT))

    def encode(self, text: str) -> list[int]:
        if self._chat.control_text == "literal":
            return self._literally(text)
        return [
            token
            for part in SPECIAL.split(text)
            if part
            for token in ([self._special[part]] if part in self._special else self._pieces.encode(part))
        ]

    def decode(self, ids: list[int]) -> str:
        """As the published tokenizer: a special token is written out, with a space before what precedes it."""
        names = {token: name for name, token in self._special.items()}
        text = ""
        pending: list[int] = []
        for position, token in enumerate(ids):
            if token in names:
                space = " " if position and ids[position - 1] not in names else ""
                text, pending = text + space + self._pieces.decode(pending) + names[token], []
            elif token < self._pieces.vocab_size():
                pending.append(token)
        return text + self._pieces.decode(pending)

    def token_bytes(self, ids: list[int]) -> list[bytes]:
        return [piece_bytes(self._pieces, token) for token in ids]

    def control_ids(self) -> list[int]:
        """Those of its published tokenizer, and all that are reserved."""
        names = [self._pieces.id_to_piece(token) for token in range(self._pieces.vocab_size())]
        reserved = [token for token, name in enumerate(names) if CONTROL.match(name)]
        return sorted({*self._special.values(), USER, ASSISTANT, *reserved})

    def prompt(self, messages: list[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        system = self._chat.system
        if messages[0].role == "system":
            system, messages = messages[0].content, messages[1:]
        ids = self.encode(system)
        for message in messages:
            ids += [USER if message.role == "user" else ASSISTANT, *self.encode(message.content)]
        return [*ids, ASSISTANT]

    def files(self) -> dict[str, bytes]:
        return {"tokenizer.model": self._content}

    def _literally(self, text: str) -> list[int]:
        """Encode what looks like a control token in two halves, so that the vocabulary cannot see it."""
        ids: list[int] = []
        start = 0
        for match in CONTROL.finditer(text):
            ids += self._pieces.encode(text[start : match.end()])
            start = match.end()
        return ids + self._pieces.encode(text[start:])
