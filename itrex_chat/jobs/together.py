"""Jobs that are done at a time, where an executor has several machines; one thread hears what all of them tell."""

import itertools
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from queue import PriorityQueue, SimpleQueue

from itrex_chat.foundation.errors import ItrexChatError
from itrex_chat.foundation.language import speaking, spoken_language
from itrex_chat.jobs.event import Event
from itrex_chat.jobs.executor import Executor
from itrex_chat.jobs.job import Job


def at_once(executor: Executor) -> int:
    """How many jobs an executor does at a time; one that does not tell does one."""
    return getattr(executor, "at_once", 1)


@dataclass(frozen=True)
class Told:
    """What came of a job: an event, or how it ended: with an error, or with neither."""

    job: Job
    event: Event | None = None
    error: ItrexChatError | None = None

    @property
    def ended(self) -> bool:
        return self.event is None


class Together:
    """Chains of jobs, of which an executor does up to `at_once` at a time, each chain in one thread in its order.

    Where that is one, who hears does the work. A chain that is added with `first` goes before those that wait. A job that fails does not keep the next of its chain from
    being done.
    """

    def __init__(self, executor: Executor):
        self._executor, self._numbers, self._open = executor, itertools.count(), 0
        self._waiting: PriorityQueue[tuple[bool, int, list[Job]]] = PriorityQueue()
        self._told: SimpleQueue[Told | BaseException | None] = SimpleQueue()
        self._threads = 0

    def add(self, chain: Iterable[Job], first: bool = False) -> None:
        self._open += 1
        self._waiting.put((not first, next(self._numbers), list(chain)))
        if at_once(self._executor) > 1 and self._threads < min(self._open, at_once(self._executor)):
            self._threads += 1
            language = spoken_language()
            threading.Thread(target=self._work, args=(language,), daemon=True).start()

    def told(self) -> Iterator[Told]:
        """What the jobs tell as it comes, until none is left; more may be added meanwhile."""
        while self._open:
            if not self._threads:
                _later, _number, chain = self._waiting.get()
                self._open -= 1
                yield from itertools.chain.from_iterable(map(self._done, chain))
                continue
            told = self._told.get()
            if told is None:
                self._open -= 1
            elif isinstance(told, BaseException):
                raise told
            else:
                yield told

    def _work(self, language: str) -> None:
        while True:
            _later, _number, chain = self._waiting.get()
            try:
                with speaking(language):
                    for told in itertools.chain.from_iterable(map(self._done, chain)):
                        self._told.put(told)
            except BaseException as error:  # a bug is the listener's
                self._told.put(error)
                return
            self._told.put(None)

    def _done(self, job: Job) -> Iterator[Told]:
        try:
            for event in self._executor.run(job):
                yield Told(job, event)
        except ItrexChatError as error:
            yield Told(job, error=error)
        else:
            yield Told(job)
