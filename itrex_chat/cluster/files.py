"""What machines without a shared cache give each other: artifacts, in pieces, and results of measuring."""

import contextlib
import shutil
from pathlib import Path, PurePosixPath

from itrex_chat.artifacts.artifact import Artifact
from itrex_chat.artifacts.store import PARTIAL, ArtifactStore
from itrex_chat.foundation import files
from itrex_chat.foundation.errors import ArtifactError, RunError
from itrex_chat.foundation.language import _
from itrex_chat.jobs.job import Score

PIECE = 16 << 20  # bytes that are in memory at a time


def within(home: Path, path: str) -> Path:
    """A file of the cache by its name there. Raises RunError for one that would lie elsewhere."""
    parts = PurePosixPath(path).parts
    if not parts or not all(map(files.is_name, parts)) or parts[0] != "quality":
        raise RunError(_("{path} is no file of the cache's results.", path=path))
    return home.joinpath(*parts)


def keep(home: Path, path: str, content: bytes) -> None:
    """Keep a result that another machine has, unless it is here. It carries its digest, and who reads it checks that."""
    place = within(home, path)
    with files.disk_errors(RunError, _("Writing to the cache {folder}", folder=place.parent)):
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            with files.replacing(place) as partial:
                partial.write_bytes(content)


def result_of(job: Score, passage: str) -> str:
    """Where the cache has what a job says of a passage, by the passage's key."""
    kind, key = ("scores", job.scores) if job.scores else ("reference", job.reference)
    return f"quality/{kind}/{key}/{passage}.safetensors"


def needed_by(job: Score) -> list[str]:
    """The results that a job takes: what the baseline predicted."""
    if not job.scores:
        return []
    return [f"quality/reference/{job.reference}/{passage.key}.safetensors" for passage in job.passages]


def contents(artifact: str) -> list[tuple[str, int]]:
    """The files of this machine's artifact of that name and their bytes; empty where it is not here."""
    folder = _artifact(artifact)
    with contextlib.suppress(ArtifactError):
        Artifact.open(folder)
        return [
            (path.relative_to(folder).as_posix(), path.stat().st_size)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]
    return []


def piece(artifact: str, name: str, offset: int) -> bytes:
    """Up to PIECE bytes of an artifact's file."""
    with _member(_artifact(artifact), name).open("rb") as file:
        file.seek(offset)
        return file.read(PIECE)


class Receiving:
    """An artifact that comes from another machine: in a folder of its own until it is whole and its digests are right."""

    def __init__(self, artifact: str):
        self._folder, self._store = _artifact(artifact), ArtifactStore()
        self._partial = self._folder.with_name(f"{self._folder.name}.sent{PARTIAL}")
        self._lock = contextlib.ExitStack()

    def begin(self) -> bool:
        """Whether the artifact has to come; if so, nobody else on this machine makes or fetches it until the `end`."""
        if contents(self._folder.name):
            return False
        self._lock.enter_context(self._store.lock(self._folder.name.rpartition("-")[2]))
        if self._folder.exists():  # it came while we waited; or it is damaged, which who uses it finds
            self._lock.close()
            return False
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        return True

    def take(self, name: str, content: bytes) -> None:
        path = _member(self._partial, name)
        with files.disk_errors(ArtifactError, _("Writing to the cache {folder}", folder=self._store.folder)):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(content)

    def end(self, whole: bool) -> bool:
        """Put it where it belongs, if it is `whole` and what its manifest says; whether it is."""
        try:
            if whole:
                Artifact.open(self._partial).verify()
                self._partial.rename(self._folder)
                files.sync_folder(self._store.folder)
            return whole
        except (ArtifactError, OSError):
            return False
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._lock.close()


def _artifact(name: str) -> Path:
    if not files.is_name(name) or name.startswith("."):
        raise ArtifactError(_("{name} is not the name of an artifact.", name=name))
    return ArtifactStore().folder / name


def _member(folder: Path, name: str) -> Path:
    parts = PurePosixPath(name).parts
    if not parts or not all(map(files.is_name, parts)):
        raise ArtifactError(_("{name} is not the name of an artifact.", name=name))
    return folder.joinpath(*parts)
