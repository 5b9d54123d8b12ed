"""Conversations that clients go on with by the name of an answer (`previous_response_id`): in memory, and no more than fit."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from itrex_chat.chat.messages import Message
from itrex_chat.foundation.language import _
from itrex_chat.server.errors import ApiError

MOST, MOST_CHARACTERS = 1000, 64_000_000


@dataclass(frozen=True)
class Kept:
    """`said`: the conversation without instructions, the answer included; `response`: as its client got it."""

    said: tuple[Message, ...]
    response: dict[str, Any]

    @property
    def size(self) -> int:
        calls = [call for message in self.said for call in message.calls]
        return sum(len(message.content) for message in self.said) + sum(len(str(call.arguments)) for call in calls)


class Conversations:
    """What was kept longest ago is forgotten where there are too many, or too much text in all of them."""

    def __init__(self, most: int = MOST, characters: int = MOST_CHARACTERS):
        self._most, self._characters = most, characters
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._size = 0

    def keep(self, name: str, said: Sequence[Message], response: dict[str, Any]) -> None:
        self._kept[name] = kept = Kept(tuple(said), response)
        self._size += kept.size
        while self._kept and (len(self._kept) > self._most or self._size > self._characters):
            _name, forgotten = self._kept.popitem(last=False)
            self._size -= forgotten.size

    def find(self, name: str, field: str | None = None) -> Kept:
        """Raises ApiError for one that is not kept, or not any more."""
        if found := self._kept.get(name):
            self._kept.move_to_end(name)
            return found
        raise ApiError(
            404 if field is None else 400,
            _("There is no response {name!r}, or not any more; send the conversation instead.", name=name[:100]),
            field,
            "previous_response_not_found" if field else "not_found",
        )

    def forget(self, name: str) -> None:
        """Raises ApiError."""
        self._size -= self.find(name).size
        del self._kept[name]
