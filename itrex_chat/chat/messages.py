"""Messages of a conversation."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from itrex_chat.foundation.errors import GenerationError
from itrex_chat.foundation.harmless import encodable
from itrex_chat.foundation.language import _

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    role: str
    content: str


def as_messages(given: Iterable) -> list[Message]:
    """Messages from `Message`s or from dicts with role and content. Raises GenerationError."""
    messages = []
    for entry in given:
        if isinstance(entry, dict):
            fields: dict[str, Any] = {name: entry.get(name) for name in ("role", "content")}
            entry = Message(**fields)
        if not isinstance(entry, Message) or entry.role not in ROLES or not isinstance(entry.content, str):
            raise GenerationError(
                _(
                    "A message has a role ({roles}) and a text as its content; {entry!r} does not.",
                    roles=", ".join(ROLES),
                    entry=entry,
                )
            )
        messages.append(Message(entry.role, encodable(entry.content)))
    if not messages or messages[-1].role != "user":
        raise GenerationError(_("A conversation to answer ends with a message of the user."))
    if any(message.role == "system" for message in messages[1:]):
        raise GenerationError(_("A system message can only be the first of a conversation."))
    return messages
