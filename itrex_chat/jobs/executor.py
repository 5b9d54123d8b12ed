"""Executors: who does a job.

The local one does it in a process of this machine, started for it. Another kind needs `run` and nothing else.
"""

import dataclasses
import subprocess
from collections.abc import Iterator
from typing import Protocol

from itrex_chat.foundation import death, processes
from itrex_chat.foundation.errors import MemoryShortage, RunError
from itrex_chat.foundation.language import _
from itrex_chat.jobs import protocol
from itrex_chat.jobs.event import Event, Failed, Loaded, Planned, Prepared
from itrex_chat.jobs.job import Job

WORKER = "itrex_chat.worker"


class Executor(Protocol):
    def run(self, job: Job) -> Iterator[Event]:
        """Do a job and yield its events as they come.

        Raises MemoryShortage where memory is not left, and RunError with the
        worker's own sentence or with how it died. Closing the iterator ends
        the job.
        """


class Trust:
    """Which artifacts were verified on one machine in the course of a run, so that each is read for that once."""

    def __init__(self) -> None:
        self._stamps: dict[str, str] = {}

    def given_to(self, job: Job) -> Job:
        """The job, with what is known."""
        return dataclasses.replace(job, trusted=job.trusted | self._stamps)

    def learn(self, event: Event) -> None:
        if isinstance(event, (Prepared, Planned, Loaded)):
            self._stamps |= event.trusted


class LocalExecutor:
    """A process for each job; one executor for one run."""

    def __init__(self) -> None:
        self._trust = Trust()

    def run(self, job: Job) -> Iterator[Event]:
        worker = _started()
        assert worker.stdin and worker.stdout
        try:
            try:
                worker.stdin.write(protocol.as_line(self._trust.given_to(job)) + "\n")
                worker.stdin.flush()
            except BrokenPipeError:
                pass  # it died at once; its exit code tells
            for line in worker.stdout:
                event = protocol.event_from(line)
                if isinstance(event, Failed):
                    raise (MemoryShortage if event.shortage else RunError)(event.message)
                self._trust.learn(event)
                yield event
            if code := worker.wait():
                raise RunError(_death(code))
        finally:
            worker.stdin.close()
            try:
                worker.wait(timeout=5)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                worker.kill()
                worker.wait()
            worker.stdout.close()


def _started() -> subprocess.Popen[str]:
    return subprocess.Popen(
        processes.command(WORKER),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="surrogatepass",
        env=processes.environment(PYTHONUNBUFFERED="1"),
        start_new_session=True,  # an interrupt is ours to handle
    )


def _death(code: int) -> str:
    advice = " " + _("Try ITREX_CHAT_KERNEL=reference.") if code == -4 else ""
    return _("The worker failed: {reason}.", reason=death.how(code)) + advice
