"""Executors for tests: one that remembers its jobs, and one that does them in the test's own process."""

import dataclasses
from collections.abc import Iterator

from itrex_chat.jobs.event import Event, Prepared
from itrex_chat.jobs.executor import LocalExecutor, Trust
from itrex_chat.jobs.job import Job
from itrex_chat.worker import tasks


class Watched(LocalExecutor):
    """Does jobs as the program does, and keeps them in `jobs`."""

    def __init__(self):
        super().__init__()
        self.jobs: list[Job] = []

    def run(self, job: Job) -> Iterator[Event]:
        self.jobs.append(job)
        return super().run(job)

    def done(self) -> list[tuple[str, str | None]]:
        """The tasks and their variants since the last call."""
        jobs, self.jobs = self.jobs, []
        return [(job.task, getattr(job, "variant", None)) for job in jobs]


class InProcess:
    """Does jobs here, where a test can reach what they use. `needs` overrides what a model is said to need."""

    def __init__(self, needs: dict[str, int] | None = None):
        self._needs, self._trust = needs or {}, Trust()

    def run(self, job: Job) -> Iterator[Event]:
        for event in tasks.perform(self._trust.given_to(job)):
            self._trust.learn(event)
            if isinstance(event, Prepared):
                event = dataclasses.replace(event, needs=event.needs | self._needs)
            yield event
