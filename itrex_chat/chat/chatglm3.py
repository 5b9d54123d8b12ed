"""ChatGLM3: a SentencePiece vocabulary with eight control tokens behind it."""

from pathlib import Path

from itrex_chat.chat.messages import Message
from itrex_chat.chat.vocabulary import piece_bytes, read_file, sentencepiece
from itrex_chat.settings.recipe import Chat

CONTROLS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")


class ChatGLM3Tokenizer:
    """Prompt: [gMASK] sop, then for each message its role's token, a newline and the text; at the end <|assistant|>."""

    strips_newline = True

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

    def prompt(self, messages: list[Message]) -> list[int]:
        if self._chat.system and messages[0].role != "system":
            messages = [Message("system", self._chat.system), *messages]
        ids = [self._control["[gMASK]"], self._control["sop"]]
        for message in messages:
            ids += [self._control[f"<|{message.role}|>"], *self.encode("\n"), *self.encode(message.content)]
        return [*ids, self._control["<|assistant|>"]]

    def files(self) -> dict[str, bytes]:
        return {"tokenizer.model": self._content}
