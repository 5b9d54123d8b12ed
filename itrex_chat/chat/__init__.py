"""Chat: messages to token ids and token ids to text, for each family.

`load_tokenizer` is the way in. Text in a message never becomes a control
token, whatever it looks like (one exception: `baichuan2.py`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from itrex_chat.chat.messages import Message, ToolCall
from itrex_chat.foundation.errors import TokenizerError
from itrex_chat.settings.recipe import Chat

if TYPE_CHECKING:
    from itrex_chat.chat.confined import ConfinedTokenizer

CHINESE_SAMPLE = "今天天气很好，我们一起去公园散步，然后回家做饭吃吧。"


class AnswerTokenizer(Protocol):
    """What making an answer takes: `stop_ids` end it; `strips_newline` is set where it begins with a newline that is not
    part of it."""

    stop_ids: frozenset[int]
    strips_newline: bool

    def decode(self, ids: list[int]) -> str:
        """Ids to text; ids that stand for no text are left out."""


class ChatTokenizer(AnswerTokenizer, Protocol):
    """`files` are what an artifact needs to hold to load the same tokenizer again, by name. `call_format` names how the model
    calls functions (`tools.FORMATS`); it is empty where it does not."""

    call_format: str

    def encode(self, text: str) -> list[int]:
        """Plain text to ids, no special tokens added."""

    def token_bytes(self, ids: list[int]) -> list[bytes]:
        """What each id stands for by itself, in UTF-8 where it is whole characters; a control token's name."""

    def control_ids(self) -> list[int]:
        """The ids that stand for no text; not all of them need to be among `stop_ids`."""

    def prompt(self, messages: list[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """The ids that ask the model to answer a conversation, in which it can call functions (`tools`, as OpenAI's API
        describes them). Raises TokenizerError."""

    def files(self) -> dict[str, bytes]: ...


def load_tokenizer(folder: Path, family: str, chat: Chat = Chat(), gguf: Path | None = None) -> "ConfinedTokenizer":
    """The tokenizer in a model's or artifact's `folder`, or in a GGUF file: in a process of its own, with bounds.

    Raises TokenizerError.
    """
    from itrex_chat.chat.confined import ConfinedTokenizer

    return ConfinedTokenizer(folder, family, chat, gguf)


def spoken_languages(tokenizer: ChatTokenizer) -> tuple[str, ...]:
    """A guess at the languages of a model from its vocabulary: Chinese if it has words of it, and English."""
    return ("zh", "en") if len(tokenizer.encode(CHINESE_SAMPLE)) < len(CHINESE_SAMPLE) else ("en",)


__all__ = [
    "AnswerTokenizer",
    "ChatTokenizer",
    "Message",
    "TokenizerError",
    "ToolCall",
    "load_tokenizer",
    "spoken_languages",
]
