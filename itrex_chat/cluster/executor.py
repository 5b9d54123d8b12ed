"""An executor whose jobs are done by the machines of a Ray cluster.

Each job is an actor of its own on a machine that has nothing else to do: it asks for all of the machine's cores and for the
memory that was planned, does the job, and its events come home as they are told. Where a machine is lost, another one is asked
what is not answered yet.
"""

import contextlib
import dataclasses
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from itrex_chat.cluster import files
from itrex_chat.cluster.actor import Holder, Worker, versions
from itrex_chat.cluster.nodes import Node, Nodes
from itrex_chat.foundation.digests import sha256_of_json
from itrex_chat.foundation.errors import MemoryShortage, RunError
from itrex_chat.foundation.files import LARGEST, bytes_of
from itrex_chat.foundation.language import _, spoken_language
from itrex_chat.foundation.places import cache_home
from itrex_chat.jobs import protocol
from itrex_chat.jobs.event import Answered, Event, Failed, Loaded, OriginalFiles, Planned, Prepared, Scored
from itrex_chat.jobs.job import Ask, Job, PlanScoring, Prepare, Score, ScoreLayers
from itrex_chat.settings.recipe import Recipe
from itrex_chat.settings.variant import Variant, titled

BEGINNING = 120.0  # seconds that an actor may take until it answers
GLANCE = 1.0  # seconds after which who waits looks whether the head is there
TRIES = 3  # times that a job is begun without anything having come of it
WAITS = 30  # times that a machine is waited for
FORCED = ("ITREX_CHAT_KERNEL", "ITREX_CHAT_INSTRUCTIONS")


class _Lost(Exception):
    """A machine that is gone."""


class _Busy(_Lost):
    """A machine that does not begin: something else has its cores."""


class RayExecutor:
    """One for one run; `close` ends what still goes on. From any thread, `at_once` jobs at a time."""

    def __init__(self) -> None:
        self._nodes = Nodes()
        self._actors, self._lock = set[Any](), threading.Lock()
        self._artifacts: dict[str, tuple[Node, str]] = {}  # which machine has an artifact, and its folder's name
        if not self._nodes.count:
            raise RunError(
                _("The Ray cluster has no machine with a core to give; start one with: ray start --address …")
            )

    @property
    def at_once(self) -> int:
        """A job for each machine."""
        return self._nodes.count

    def close(self) -> None:
        self._nodes.close()
        with self._lock:
            actors, self._actors = self._actors, set()
        for actor in actors:
            with contextlib.suppress(Exception):
                ray.kill(actor)

    def run(self, job: Job) -> Iterator[Event]:
        """Do a job and yield its events as they come; see `Executor`."""
        job, tries, waits = dataclasses.replace(job, trusted={}), 0, 0  # a stamp of another disk vouches for nothing
        while True:
            with self._nodes.taken(_needed(job), _called(job)) as node:
                try:
                    for event in self._events(job, node):
                        if isinstance(event, Failed):
                            raise (MemoryShortage if event.shortage else RunError)(event.message)
                        rest = _without(job, event)
                        job, tries = (rest, 0) if rest is not job else (job, tries)
                        yield event
                    return
                except _Lost as lost:
                    self._nodes.rest(node)
                    busy, reason = isinstance(lost, _Busy), str(lost)
                    tries, waits = (tries, waits + 1) if busy else (tries + 1, waits)
            if isinstance(job, Ask) and not job.questions:
                return  # all came home but the last word
            if tries == TRIES or waits == WAITS:
                raise RunError(
                    _(
                        "{what} was begun {count} times and nothing came of it; last on {machine}: {reason}.",
                        what=_called(job),
                        count=tries + waits,
                        machine=node.name,
                        reason=reason,
                    )
                )

    def quantize(self, recipe: Recipe, variant: str) -> Path | None:
        """Have one machine make or find the artifact of a variant, and bring it into this machine's cache: its folder there, or
        None where it could not come. Raises RunError."""
        job = Prepare(recipe=recipe, variants=(variant,), tokens=recipe.generation.max_new_tokens)
        prepared = next(event for event in self.run(job) if isinstance(event, Prepared))
        if problem := prepared.problems.get(variant):
            raise RunError(problem)
        made = prepared.artifacts.get(variant)
        return self.fetch(made.folder) if made else None

    def fetch(self, folder: str) -> Path | None:
        """Have an artifact of the cluster in this machine's cache; where it is, or None where that did not work."""
        name = Path(folder).name
        held = next((node for node, known in self._artifacts.values() if known == name), None)
        here = Worker({})
        if held and here.wants(name):
            self._send(name, held, lambda file, piece: here.take(file, self._got(piece)), here.received)
        return cache_home() / "artifacts" / name if files.contents(name) else None

    def _events(self, job: Job, node: Node) -> Iterator[Event]:
        """What one machine tells of a job. Raises _Lost where it does not any more, RunError."""
        actor = self._actor(node, job)
        try:
            self._check(actor, node)
            self._give(actor, job, node)
            texts = [(text, bytes_of(Path(text), RunError, LARGEST)) for text in _texts(job)]
            told = actor.run.options(num_returns="streaming").remote(protocol.as_line(job), texts, self.at_once == 1)
            while True:
                self._wait(told)
                if (one := next(told, None)) is None:
                    return
                kind, line, content = ray.get(one)
                if kind == "file":
                    files.keep(cache_home(), line, content)
                else:
                    event = _portable(protocol.event_from(line))
                    self._remember(job, event, node)
                    yield event
        except exceptions.RayTaskError as error:
            raise RunError(_("{machine}: {reason}.", machine=node.name, reason=_of_ray(error))) from None
        except (exceptions.RayError, exceptions.RaySystemError) as error:
            raise _Lost(_of_ray(error)) from None
        finally:
            self._end(actor)

    def _wait(self, awaited: Any, seconds: float = math.inf) -> None:
        """Wait for a reference, or the next one of a generator. Raises HeadLost, GetTimeoutError."""
        end = time.monotonic() + seconds
        while not ray.wait([awaited], timeout=GLANCE)[0]:
            self._nodes.check()
            if time.monotonic() > end:
                raise exceptions.GetTimeoutError

    def _got(self, reference: Any, seconds: float = math.inf) -> Any:
        """What a reference is of, once it is there. Raises HeadLost, GetTimeoutError and what Ray does."""
        self._wait(reference, seconds)
        return ray.get(reference)

    def _actor(self, node: Node, job: Job) -> Any:
        variables = {"ITREX_CHAT_LANG": spoken_language()} | {
            name: os.environ[name] for name in FORCED if name in os.environ
        }
        here = NodeAffinitySchedulingStrategy(node.id, soft=False)
        options = ray.remote(Worker).options(num_cpus=node.cores, memory=_needed(job), scheduling_strategy=here)
        actor = options.remote(variables)
        with self._lock:
            self._actors.add(actor)
        return actor

    def _end(self, actor: Any) -> None:
        with self._lock:
            known = actor in self._actors
            self._actors.discard(actor)
        if known:
            with contextlib.suppress(Exception):
                ray.kill(actor)

    def _check(self, actor: Any, node: Node) -> None:
        """Raise RunError where a machine has another program than this one, _Lost where it does not begin."""
        try:
            theirs = self._got(actor.versions.remote(), BEGINNING)
        except exceptions.GetTimeoutError:
            raise _Busy(_("it did not begin; something else has its cores")) from None
        if theirs != (ours := versions()):
            raise RunError(
                _(
                    "{machine} has another version of this program ({theirs}; here {ours}); install the same on all machines.",
                    machine=node.name,
                    theirs=", ".join(f"{name} {number}" for name, number in theirs.items()),
                    ours=", ".join(f"{name} {number}" for name, number in ours.items()),
                )
            )

    def _give(self, actor: Any, job: Job, node: Node) -> None:
        """Have on a machine what the job takes and another one has: the artifact, and what the baseline predicted."""
        if isinstance(job, Score):
            for path in self._got(actor.lacks.remote(files.needed_by(job))):
                self._got(actor.keep.remote(path, files.within(cache_home(), path).read_bytes()))
        for key in _artifact_keys(job):
            held, name = self._artifacts.get(key, (node, ""))
            if name and held.id != node.id and self._got(actor.wants.remote(name)):
                self._send(
                    name,
                    held,
                    lambda file, piece: self._got(actor.take.remote(file, piece)),  # goes from machine to machine
                    lambda whole: self._got(actor.received.remote(whole)),
                )

    def _send(
        self, name: str, held: Node, take: Callable[[str, Any], object], received: Callable[[bool], bool]
    ) -> bool:
        """Send an artifact from the machine that holds it, one piece at a time: `take` gets each by its name in Ray's store.
        Where that fails, who needs it makes it."""
        whole = False
        try:
            here = NodeAffinitySchedulingStrategy(held.id, soft=False)
            holder: Any = ray.remote(Holder).options(num_cpus=0, scheduling_strategy=here).remote()
            try:
                found = self._got(holder.contents.remote(name), BEGINNING)
                for file, size in found:
                    for offset in range(0, size or 1, files.PIECE):
                        take(file, holder.piece.remote(name, file, offset))
                whole = bool(found)
            finally:
                ray.kill(holder)
        except exceptions.RayError:
            whole = False
        return received(whole)

    def _remember(self, job: Job, event: Event, node: Node) -> None:
        if isinstance(event, (Prepared, Planned)):
            for variant, facts in event.artifacts.items():
                self._artifacts[_artifact_key(job, variant)] = (node, Path(facts.folder).name)


def _portable(event: Event) -> Event:
    """The event without stamps of files, which mean nothing on another disk."""
    if isinstance(event, Prepared):
        return dataclasses.replace(event, trusted={}, files=OriginalFiles(event.files.digest))
    if isinstance(event, Loaded):
        files_of = OriginalFiles(event.facts.files.digest)
        return dataclasses.replace(event, trusted={}, facts=dataclasses.replace(event.facts, files=files_of))
    return event


def _artifact_key(job: Job, variant: str) -> str:
    """What an artifact is of, as far as a recipe tells."""
    recipe = Variant.parse(variant).applied_to(job.recipe)
    return sha256_of_json(
        [recipe.as_dict()["source"], dataclasses.asdict(recipe.quantization), Variant.parse(variant).bits]
    )


def _artifact_keys(job: Job) -> list[str]:
    if isinstance(job, (Ask, Score)) and Variant.parse(job.variant).bits:
        return [_artifact_key(job, job.variant)]
    return []


def _needed(job: Job) -> int:
    """Bytes of memory that were planned for a job; 0 where nothing is known yet."""
    if isinstance(job, Ask):
        return job.needs.get(job.variant, 0)
    return job.needed if isinstance(job, (Score, ScoreLayers)) else 0


def _called(job: Job) -> str:
    name = getattr(job, "label", job.recipe.name)
    variant = getattr(job, "variant", None)
    return f"{name} {titled(variant)}" if variant else name


def _texts(job: Job) -> tuple[str, ...]:
    return job.texts if isinstance(job, PlanScoring) else ()


def _without(job: Job, event: Event) -> Job:
    """The job without what an event says is done."""
    if isinstance(job, Ask) and isinstance(event, Answered):
        return dataclasses.replace(job, questions=tuple(q for q in job.questions if q.id != event.answer.id))
    if isinstance(job, Score) and isinstance(event, Scored):
        return dataclasses.replace(job, passages=tuple(p for p in job.passages if p.key != event.passage))
    return job


def _of_ray(error: Exception) -> str:
    """What Ray says, in a line."""
    cause = getattr(error, "cause", None) or error
    return " ".join(str(cause).split())[:300].rstrip(".") or type(cause).__name__
