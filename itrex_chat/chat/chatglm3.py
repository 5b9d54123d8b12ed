"""ChatGLM3: a SentencePiece vocabulary with eight control tokens behind it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from itrex_chat.chat.messages import Message
from itrex_chat.chat.vocabulary import piece_bytes, read_file, sentencepiece
from itrex_chat.foundation.harmless import encodable
from itrex_chat.settings.recipe import Chat

CONTROLS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
WITH_TOOLS = "Answer the following questions as best as you can. You have access to the following tools:"


class ChatGLM3Tokenizer:
    """Prompt: [gMASK] sop, then for each message its role's token, a newline and the text; at the end <|assistant|>.

    Tools are JSON in the system message. A call is a message of the assistant with the function's name before the newline,
    its result one of <|observation|>.
    """

    strips_newline, call_format = True, "coded"

    def __init__(self, folder: Path, chat: Chat):
        self._content = read_file(folder, "tokenizer.model")
        self._pieces = sentencepiece(self._content, folder)
        self._chat = chat
        self._control = {name: self._pieces.vocab_size() + number for number, name in enumerate(CONTROLS)}
        self.stop_ids = frozenset((self._pieces.eos_id(), self._control["<|user|>"], self._control["<|observation|>"]))

    def encode(self, text: str) -> list[int]:
        return self._pieces.encode(text)

    def decode(self, ids: list[int]) -> str:
        return self._pieces.decode([token for token in ids if token < self._pieces.vocab_size()])

    def token_bytes(self, ids: list[int]) -> list[bytes]:
        names = {token: name.encode() for name, token in self._control.items()}
        return [names.get(token) or piece_bytes(self._pieces, token) for token in ids]

    def control_ids(self) -> list[int]:
        return [*(token for token in range(3) if token < self._pieces.vocab_size()), *self._control.values()]

    def prompt(self, messages: list[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        system = self._chat.system or (WITH_TOOLS if tools else "")
        if system and messages[0].role != "system":
            messages = [Message("system", system), *messages]
        ids = [self._control["[gMASK]"], self._control["sop"]]
        for message in messages:
            content = message.content
            if message.role == "system" and tools:
                functions = [tool["function"] for tool in tools]
                content += "\n" + json.dumps(functions, indent=4, ensure_ascii=False)
            if content or not message.calls:
                ids += self._message("observation" if message.role == "tool" else message.role, "", content)
            for call in message.calls:
                given = ", ".join(f"{name}={value!r}" for name, value in call.arguments.items())
                ids += self._message("assistant", call.name, f"```python\ntool_call({given})\n```")
        return [*ids, self._control["<|assistant|>"]]

    def _message(self, role: str, metadata: str, content: str) -> list[int]:
        return [self._control[f"<|{role}|>"], *self.encode(f"{metadata}\n"), *self.encode(encodable(content))]

    def files(self) -> dict[str, bytes]:
        return {"tokenizer.model": self._content}
