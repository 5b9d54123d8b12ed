"""What runs on a machine of the cluster: it does a job in a process of its own and tells the lines that this tells.

Nothing here imports ray, so that another program could call it.
"""

import dataclasses
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from itrex_chat import __version__
from itrex_chat.artifacts.manifest import NUMERICS_VERSION as ARTIFACTS
from itrex_chat.cluster import files
from itrex_chat.foundation.errors import ItrexChatError, MemoryShortage
from itrex_chat.foundation.places import cache_home
from itrex_chat.jobs import protocol
from itrex_chat.jobs.event import Failed, Prepared, Scored, Text
from itrex_chat.jobs.executor import LocalExecutor
from itrex_chat.jobs.job import PlanScoring, Score
from itrex_chat.quality.store import NUMERICS_VERSION as PREDICTIONS

Line = tuple[str, str, bytes]  # "event" and a line of the protocol; or "file", its path in the cache, and its content


def versions() -> dict[str, str]:
    """What must be the same on all machines, or one run would be of two programs."""
    return {"itrex_chat": __version__, "artifacts": str(ARTIFACTS), "predictions": str(PREDICTIONS)}


class Worker:
    """One actor: it does one job and is gone. `variables` are set for the processes that it starts."""

    def __init__(self, variables: Mapping[str, str]):
        os.environ.update(variables)
        self._receiving: files.Receiving | None = None

    def versions(self) -> dict[str, str]:
        return versions()

    def lacks(self, paths: list[str]) -> list[str]:
        """Those of these files, named as in the cache, that are not in this machine's."""
        return [path for path in paths if not files.within(cache_home(), path).exists()]

    def keep(self, path: str, content: bytes) -> None:
        """Keep a file of the cache that another machine has."""
        files.keep(cache_home(), path, content)

    def wants(self, artifact: str) -> bool:
        """Whether this machine has to be given an artifact (the name of its folder); then nobody else here asks for it until
        `received`."""
        self._receiving = files.Receiving(artifact)
        return self._receiving.begin()

    def take(self, name: str, piece: bytes) -> None:
        """A piece of one of the artifact's files, behind those that came before."""
        assert self._receiving
        self._receiving.take(name, piece)

    def received(self, whole: bool) -> bool:
        """The end of an artifact; whether it is here now, with its digests checked."""
        assert self._receiving
        return self._receiving.end(whole)

    def run(self, line: str, texts: list[tuple[str, bytes]], streams: bool) -> Iterator[Line]:
        """Do the job on a line. `texts` are the files that it names, which are on another machine; `streams` says whether
        somebody reads answers as they come."""
        job = protocol.job_from(line)
        with tempfile.TemporaryDirectory(prefix="itrex_chat-") as folder:
            if isinstance(job, PlanScoring):
                paths = [Path(folder) / str(number) / Path(name).name for number, (name, _text) in enumerate(texts)]
                for path, (_name, content) in zip(paths, texts):
                    path.parent.mkdir()
                    path.write_bytes(content)
                job = dataclasses.replace(job, texts=tuple(map(str, paths)))
            try:
                for event in LocalExecutor().run(job):
                    if isinstance(event, Prepared) or streams or not isinstance(event, Text):
                        yield from self._told(job, event)
            except ItrexChatError as error:
                failed = Failed(job=job.id, message=str(error), shortage=isinstance(error, MemoryShortage))
                yield "event", protocol.as_line(failed), b""

    def _told(self, job: object, event: object) -> Iterator[Line]:
        if isinstance(event, Scored) and isinstance(job, Score):
            path = files.result_of(job, event.passage)
            yield "file", path, files.within(cache_home(), path).read_bytes()
        yield "event", protocol.as_line(event), b""  # type: ignore[arg-type]  # an Event


class Holder:
    """Gives out an artifact of the machine that it is on, a piece at a time."""

    def contents(self, artifact: str) -> list[tuple[str, int]]:
        """The files of an artifact and their bytes; empty where it is not here."""
        return files.contents(artifact)

    def piece(self, artifact: str, name: str, offset: int) -> bytes:
        return files.piece(artifact, name, offset)
