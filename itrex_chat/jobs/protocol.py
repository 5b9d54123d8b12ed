"""How a worker is talked to: one JSON object on a line, a job in, events out.

The object of a job has its `task`, that of an event its `event`; the other keys are the fields of the type of that name
in `job.py` and `event.py`, where they are described. A worker may be another program on another machine: it needs
nothing but this. Standard error is for people. The end of standard input tells a worker that nobody listens any more,
and it ends.
"""

import dataclasses
import json
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

from itrex_chat.jobs.event import Event
from itrex_chat.jobs.job import Job

if TYPE_CHECKING:
    from pydantic import TypeAdapter


def as_line(message: Job | Event) -> str:
    """A job or an event as one line, without its end."""
    return json.dumps(dataclasses.asdict(message), ensure_ascii=False)


def job_from(line: str) -> Job:
    """The job on a line. Raises ValueError for anything else."""
    return _adapter("job").validate_json(line)


def event_from(line: str) -> Event:
    """The event on a line. Raises ValueError for anything else."""
    return _adapter("event").validate_json(line)


@cache
def _adapter(kind: str) -> "TypeAdapter[Any]":
    from pydantic import Field, TypeAdapter

    if kind == "job":
        return TypeAdapter(Annotated[Job, Field(discriminator="task")])
    return TypeAdapter(Annotated[Event, Field(discriminator="event")])
