"""Messages of a conversation, and the functions that a model may call in it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from itrex_chat.foundation.errors import GenerationError
from itrex_chat.foundation.harmless import encodable
from itrex_chat.foundation.language import _

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class ToolCall:
    """A function that a model has called. `arguments` are what JSON has; `id` is how its result names it."""

    id: str
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Message:
    """`calls` are the assistant's; a message of the role "tool" has the result of the one whose id is `call_id`."""

    role: str
    content: str
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""


def as_messages(given: Iterable) -> list[Message]:
    """Messages from `Message`s or from dicts with role and content. Raises GenerationError."""
    messages = []
    for entry in given:
        if isinstance(entry, dict):
            fields: dict[str, Any] = {name: entry.get(name) for name in ("role", "content")}
            entry = Message(**fields)
        if not isinstance(entry, Message) or not _is_known(entry) or not isinstance(entry.content, str):
            raise GenerationError(
                _(
                    "A message has a role ({roles}) and a text as its content; {entry!r} does not.",
                    roles=", ".join(ROLES),
                    entry=entry,
                )
            )
        messages.append(Message(entry.role, encodable(entry.content), entry.calls, entry.call_id))
    if not messages or messages[-1].role not in ("user", "tool"):
        raise GenerationError(_("A conversation to answer ends with a message of the user."))
    if any(message.role == "system" for message in messages[1:]):
        raise GenerationError(_("A system message can only be the first of a conversation."))
    _check_results(messages)
    return messages


def _is_known(message: Message) -> bool:
    return message.role in ROLES or (message.role == "tool" and bool(message.call_id))


def _check_results(messages: Iterable[Message]) -> None:
    called = set[str]()
    for message in messages:
        called |= {call.id for call in message.calls}
        if message.role == "tool" and message.call_id not in called:
            raise GenerationError(
                _(
                    "No message before it has a call {id!r} of which a tool could tell a result.",
                    id=message.call_id[:100],
                )
            )
