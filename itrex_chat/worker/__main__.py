"""A worker: reads one job from standard input, does it, and tells its events on standard output (`jobs/protocol.py`)."""

import io
import os
import sys
import threading

from itrex_chat.foundation import machine
from itrex_chat.foundation.errors import ItrexChatError, MemoryShortage
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import readable
from itrex_chat.jobs import protocol
from itrex_chat.jobs.event import Event, Failed
from itrex_chat.jobs.job import Job


def main() -> int:
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):  # lines are UTF-8 whatever the locale; names of files may be none
            stream.reconfigure(encoding="utf-8", errors="surrogatepass")
    try:
        job = _job()
        return _done(job)
    except (KeyboardInterrupt, BrokenPipeError):
        os._exit(130)


def _done(job: Job) -> int:
    from itrex_chat.worker import tasks

    try:
        for event in tasks.perform(job):
            _tell(event)
        return 0
    except ItrexChatError as error:
        failed = Failed(job=job.id, message=str(error), shortage=isinstance(error, MemoryShortage))
    except MemoryError:
        failed = Failed(job=job.id, message=_out_of_memory())
    except RuntimeError as error:
        if "not enough memory" not in str(error):  # torch's way to say MemoryError
            raise
        failed = Failed(job=job.id, message=_out_of_memory())
    _tell(failed)
    return 1


def _job() -> Job:
    """The job; from then on the end of standard input ends the process."""
    line = sys.stdin.readline()
    if not line:
        sys.exit(1)
    job = protocol.job_from(line)

    def watch() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    return job


def _tell(event: Event) -> None:
    sys.stdout.write(protocol.as_line(event) + "\n")
    sys.stdout.flush()


def _out_of_memory() -> str:
    return _("The memory ran out ({free} is left).", free=readable(machine.available_memory()))


if __name__ == "__main__":
    sys.exit(main())
