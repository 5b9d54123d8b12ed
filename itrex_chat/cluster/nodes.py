"""Which machine of a cluster does the next job: one that is free and has the memory. Each does one job at a time and has nothing
else to do then, so that its speed is its own."""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.util import list_named_actors

from itrex_chat.foundation.errors import MemoryShortage, RunError
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import readable

LOOKED = 5.0  # seconds after which the cluster is looked at again
HEADLESS = 40.0  # seconds that the head may be gone; after a minute Ray ends the process, without a word of ours
ANOTHER = "WrongClusterID"  # in what Ray says where the head was started anew
REST = 30.0  # seconds that a machine is left alone which did not begin


class HeadLost(Exception):
    """The head of the cluster is gone, or another one has taken its place, which knows nothing of this work. No ItrexChatError, for
    no other variant or machine can go on."""


@dataclass(frozen=True)
class Node:
    """A machine: Ray's name for it, its own, its cores (as Ray counts them) and the bytes that Ray may give away."""

    id: str
    name: str
    cores: float
    memory: float


def nodes(alive: list[dict[str, Any]]) -> list[Node]:
    """Those of the machines of the cluster that have a core, in an order that stays."""
    found = [
        Node(each["NodeID"], each["NodeManagerHostname"], each["Resources"]["CPU"], each["Resources"].get("memory", 0))
        for each in alive
        if each["Resources"].get("CPU", 0) >= 1
    ]
    return sorted(found, key=lambda node: (node.name, node.id))


def _alive() -> list[dict[str, Any]]:
    """What Ray says of the machines that work. Raises what Ray does where its head is gone."""
    list_named_actors()  # of another head this is an error, and nodes() would be the end of the process
    return [each for each in ray.nodes() if each["Alive"]]


class Nodes:
    """The machines, and which of them are taken. From any thread."""

    def __init__(self) -> None:
        self._taken, self._resting = set[str](), dict[str, float]()
        self._changed, self._here = threading.Condition(), threading.local()
        self._closed = threading.Event()
        self._own = ray.get_runtime_context().get_node_id()
        self._known, self._seen = nodes(_alive()), time.monotonic()
        self._looking = threading.Thread(target=self._look, daemon=True)
        self._looking.start()

    @property
    def count(self) -> int:
        return len(self._known)

    @contextmanager
    def taken(self, needed: int, what: str) -> Iterator[Node]:
        """A machine with so many bytes, for the block alone: the one that this thread had last, where that is free.

        Raises MemoryShortage where none has them, RunError where there is none at all.
        """
        node = self._take(needed, what)
        try:
            self._here.last = node.id
            yield node
        finally:
            with self._changed:
                self._taken.discard(node.id)
                self._changed.notify_all()

    def rest(self, node: Node) -> None:
        """Leave a machine alone for a while, that was lost or is busy with something else."""
        with self._changed:
            self._resting[node.id] = time.monotonic() + REST

    def check(self) -> None:
        """Raise HeadLost where the head was not there for too long, or no longer knows the machine that this runs on."""
        if time.monotonic() - self._seen > HEADLESS:
            raise HeadLost

    def close(self) -> None:
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
        self._looking.join(LOOKED)  # who looks waits as long as a head does not answer

    def _take(self, needed: int, what: str) -> Node:
        with self._changed:
            while True:
                if self._closed.is_set():
                    raise RunError(_("The work on the cluster was ended."))
                self.check()
                fitting = [node for node in self._known if node.memory >= needed]
                if not fitting:
                    self._refuse(needed, what)
                now = time.monotonic()
                free = [node for node in fitting if node.id not in self._taken and self._resting.get(node.id, 0) <= now]
                if free:
                    last = getattr(self._here, "last", None)
                    # The smallest that has the memory, so that larger ones are there for what needs them.
                    node = min(free, key=lambda node: (node.id != last, node.memory))
                    self._taken.add(node.id)
                    return node
                self._changed.wait(1.0)

    def _look(self) -> None:
        """Keep up with the cluster, from a thread of its own, since asking a head that is gone takes as long as it is."""
        while not self._closed.wait(LOOKED):
            try:
                alive = _alive()
            except Exception as error:  # Ray's are of many kinds
                if ANOTHER in str(error):
                    self._seen = -math.inf
            else:
                if any(each["NodeID"] == self._own for each in alive):
                    self._known, self._seen = nodes(alive), time.monotonic()

    def _refuse(self, needed: int, what: str) -> None:
        if not self._known:
            raise RunError(
                _("The Ray cluster has no machine with a core to give; start one with: ray start --address …")
            )
        largest = max(self._known, key=lambda node: node.memory)
        raise MemoryShortage(
            _(
                "{what} needs {needed} of memory, but no machine of the cluster gives more than {most} ({machine}): skipped. "
                "ray start --memory says how much it may give.",
                what=what,
                needed=readable(needed),
                most=readable(int(largest.memory)),
                machine=largest.name,
            )
        )
