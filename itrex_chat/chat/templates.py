"""Chat templates: programs in Jinja that come with a model, and what they are given."""

import functools
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from itrex_chat.chat.messages import Message
from itrex_chat.foundation.errors import TokenizerError
from itrex_chat.foundation.language import _

if TYPE_CHECKING:
    from jinja2 import Template


def described(message: Message) -> dict[str, Any]:
    """A message as templates know it."""
    described: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.calls:
        described["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.calls
        ]
    if message.role == "tool":
        described["tool_call_id"] = message.call_id
    return described


def changed(value: Any, change: Callable[[str], str]) -> Any:
    """The same with every text in it changed, names too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(name): changed(entry, change) for name, entry in value.items()}
    return [changed(entry, change) for entry in value] if isinstance(value, list) else value


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, entry in value.items():
            yield name
            yield from texts(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from texts(entry)


def replaced(text: str, masks: dict[str, str]) -> str:
    for name, mask in masks.items():
        text = text.replace(name, mask)
    return text


def variables(template: str) -> set[str]:
    """What a template takes; nothing, where it is damaged: that is told when it is used."""
    from jinja2 import Environment, TemplateError, meta
    from jinja2.ext import loopcontrols

    try:
        return meta.find_undeclared_variables(Environment(extensions=[loopcontrols]).parse(template))
    except (TemplateError, RecursionError):
        return set()


@functools.cache
def compiled(template: str) -> "Template":
    """The template in transformers' conventions, in a sandbox."""
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value, indent=None, separators=None, sort_keys=False, **_rest: json.dumps(
        value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys
    )
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
    try:
        return environment.from_string(template)
    except TemplateError as error:
        raise TokenizerError(
            _("The model's chat template is damaged: {reason}.", reason=str(error).rstrip("."))
        ) from None
