"""Which machine of a cluster does the next job: one that is free and has the memory. Each does one job at a time and has nothing
else to do then, so that its speed is its own."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from itrex_chat.foundation.errors import MemoryShortage, RunError
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import readable

LOOKED = 5.0  # seconds after which the cluster is looked at again
REST = 30.0  # seconds that a machine is left alone which did not begin


@dataclass(frozen=True)
class Node:
    """A machine: Ray's name for it, its own, its cores (as Ray counts them) and the bytes that Ray may give away."""

    id: str
    name: str
    cores: float
    memory: float


def nodes() -> list[Node]:
    """The machines of the cluster that work, in an order that stays."""
    found = [
        Node(each["NodeID"], each["NodeManagerHostname"], each["Resources"]["CPU"], each["Resources"].get("memory", 0))
        for each in ray.nodes()
        if each["Alive"] and each["Resources"].get("CPU", 0) >= 1
    ]
    return sorted(found, key=lambda node: (node.name, node.id))


class Nodes:
    """The machines, and which of them are taken. From any thread."""

    def __init__(self) -> None:
        self._taken, self._resting = set[str](), dict[str, float]()
        self._changed, self._here = threading.Condition(), threading.local()
        self._closed = False
        self._known, self._looked = nodes(), time.monotonic()

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

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _take(self, needed: int, what: str) -> Node:
        with self._changed:
            while True:
                if self._closed:
                    raise RunError(_("The work on the cluster was ended."))
                self._look()
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
        if time.monotonic() - self._looked > LOOKED:
            self._known, self._looked = nodes(), time.monotonic()

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
