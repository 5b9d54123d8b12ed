"""Which tokenizer a family has, read in this process; `confined.py` has it read in another one."""

from pathlib import Path
from typing import TYPE_CHECKING

from itrex_chat.settings.recipe import Chat

if TYPE_CHECKING:
    from itrex_chat.chat import ChatTokenizer


def read_tokenizer(folder: Path, family: str, chat: Chat, gguf: Path | None) -> "ChatTokenizer":
    """The tokenizer in a model's or artifact's `folder`, or in a GGUF file. Raises TokenizerError."""
    if gguf is not None:
        from itrex_chat.chat.gguf import tokenizer_from_gguf

        return tokenizer_from_gguf(gguf, chat)
    if family == "chatglm3":
        from itrex_chat.chat.chatglm3 import ChatGLM3Tokenizer

        return ChatGLM3Tokenizer(folder, chat)
    if family == "qwen":
        from itrex_chat.chat.qwen import QwenTokenizer

        return QwenTokenizer(folder, chat)
    if family == "baichuan2":
        from itrex_chat.chat.baichuan2 import Baichuan2Tokenizer

        return Baichuan2Tokenizer(folder, chat)
    from itrex_chat.chat.fast import tokenizer_from_folder

    return tokenizer_from_folder(folder, chat)
