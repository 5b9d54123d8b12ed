"""How a worker is talked to: one JSON object on a line, a job in, events out.

The object of a job has its `task`, that of an event its `event`; the other keys are the fields of the type of that name
in `job.py` and `event.py`, where they are described. A worker may be another program on another machine: it needs
nothing but this. Standard error is for people. The end of standard input tells a worker that nobody listens any more,
and it ends.

Lines are made into their types here and not by a library: importing pydantic and building its validators takes a worker
a tenth of a second, which is longer than a small model takes to load.
"""

import dataclasses
import json
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from itrex_chat.jobs.event import Event
from itrex_chat.jobs.job import Job


def as_line(message: Job | Event) -> str:
    """A job or an event as one line, without its end."""
    return json.dumps(dataclasses.asdict(message), ensure_ascii=False)


def job_from(line: str) -> Job:
    """The job on a line. Raises ValueError for anything else."""
    return cast(Job, _message(line, "task", Job))


def event_from(line: str) -> Event:
    """The event on a line. Raises ValueError for anything else."""
    return cast(Event, _message(line, "event", Event))


def _message(line: str, tag: str, kinds: Any) -> Any:
    try:
        values = json.loads(line)
        return _made(_by_tag(tag, kinds)[values[tag]], values)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"this line is no {kinds}: {type(error).__name__}: {error}") from error


@cache
def _by_tag(tag: str, kinds: Any) -> dict[str, type]:
    return {get_args(_fields(kind)[tag])[0]: kind for kind in get_args(kinds)}


@cache
def _fields(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _made(kind: Any, value: Any) -> Any:
    """A value of a type, from what JSON has for it. Raises TypeError, KeyError for what is not of the type."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        fields = _fields(kind)
        return kind(**{name: _made(fields[name], each) for name, each in value.items()})
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        [given] = (one for one in arguments if one is not NoneType)
        return None if value is None else _made(given, value)
    if origin in (tuple, list):
        if not isinstance(value, list):
            raise TypeError(f"{value!r} is not {kind}")
        return origin(_made(arguments[0], each) for each in value)
    if origin is dict:
        key, item = arguments
        return {key(name): _made(item, each) for name, each in value.items()}
    plain = kind if isinstance(kind, type) else object
    if origin is Literal and value not in arguments or not isinstance(value, (plain, int) if kind is float else plain):
        raise TypeError(f"{value!r} is not {kind}")
    return value
