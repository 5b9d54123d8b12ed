"""The folder that holds all artifacts: finding, locking, listing, removing."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from itrex_chat.artifacts import manifest as manifests
from itrex_chat.artifacts.artifact import Artifact
from itrex_chat.artifacts.manifest import NUMERICS_VERSION, content_settings
from itrex_chat.foundation import files, in_use
from itrex_chat.foundation.errors import ArtifactError
from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.language import _
from itrex_chat.foundation.places import cache_home
from itrex_chat.settings.recipe import Recipe

PARTIAL = ".partial"
LONGEST = 80  # bytes of a model's name in a folder's


class ArtifactStore:
    """Artifacts under `home`/artifacts, one folder each: NAME-WEIGHT_DTYPE-gGROUP-KEY."""

    def __init__(self, home: Path | None = None):
        self.folder = (home or cache_home()) / "artifacts"

    def place(self, recipe: Recipe, key: str) -> Path:
        """Where the artifact of a key is, or would be written: never where another's is. One that is not rounded to nearest
        has its algorithm in the name, before the key, and its budget."""
        if found := self.find(key):
            return found
        quantization = recipe.quantization
        stem = f"{label(recipe.name)}-{quantization.weight_dtype}-g{quantization.group_size}"
        if quantization.effective_algorithm != "rtn":
            stem += f"-{quantization.algorithm}"
        if quantization.effective_budget:
            stem += f"-{quantization.budget:g}bits"
        folder = self.folder / f"{stem}-{key[:12]}"
        return folder if _key_in(folder) in (None, key) else self.folder / f"{stem}-{key}"

    def find(self, key: str) -> Path | None:
        """The finished artifact of a key, under whatever name it lies: its manifest says what it is.

        One without a readable manifest is what its name says, to be named as damaged.
        """
        by_name = sorted(self.folders(), key=lambda folder: not _named_after(folder, key))
        damaged = None
        for folder in by_name:
            found = _key_in(folder)
            if found == key:
                return folder
            if found is None and damaged is None and _named_after(folder, key):
                damaged = folder
        return damaged

    def made_from(self, recipe: Recipe) -> Artifact | None:
        """The newest whole artifact of the same settings and the same downloadable source, if there is one.

        A hub's repository at a pinned commit and a package's file of a known
        digest cannot change, so they need not be there to be compared. A local
        path is compared by its files as long as they are there.
        """
        if recipe.source.path and os.path.exists(recipe.source.path):  # not Path.exists, which raises errors of its own
            return None
        source, settings = recipe.as_dict()["source"], content_settings(recipe.quantization)
        fitting = [
            artifact
            for artifact in self.whole()
            if artifact.manifest["recipe"]["source"] == source
            and artifact.manifest["numerics"] == NUMERICS_VERSION
            and artifact.manifest["content"] == settings
        ]
        return max(fitting, key=lambda artifact: artifact.manifest["created"], default=None)

    def folders(self) -> list[Path]:
        """All artifacts, whole or not, without those still being written."""
        if not self.folder.is_dir():
            return []
        return sorted(
            path
            for path in self.folder.iterdir()
            if path.is_dir() and not path.name.startswith(".") and not path.name.endswith(PARTIAL)
        )

    def partial_folders(self) -> list[Path]:
        """Artifacts that are being written, or whose writing was interrupted."""
        return sorted(self.folder.glob(f"[!.]*{PARTIAL}"))

    def whole(self) -> list[Artifact]:
        """The artifacts that have no visible damage."""
        artifacts = []
        for folder in self.folders():
            with contextlib.suppress(ArtifactError):
                artifacts.append(Artifact.open(folder))
        return artifacts

    def remove(self, folder: Path) -> None:
        """Remove an artifact, or what an interrupted quantization left of one."""
        with (
            self.lock(folder.name.removesuffix(PARTIAL).rpartition("-")[2], wait=False),
            files.disk_errors(ArtifactError, _("Removing {folder}", folder=folder)),
        ):
            in_use.discard_unused(folder, ArtifactError)

    @contextlib.contextmanager
    def lock(self, key: str, wait: bool = True) -> Iterator[None]:
        """Hold the right to write the artifact of a key; wait for another process that has it, or refuse."""
        from filelock import FileLock, Timeout

        with files.disk_errors(ArtifactError, _("Writing to the cache {folder}", folder=self.folder)):
            (self.folder / ".locks").mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / ".locks" / f"{key[:12]}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                if not wait:
                    raise ArtifactError(
                        _("Another process is working on this artifact; try again when it is done.")
                    ) from None
                tell(_("Another process is quantizing this model; waiting for it."), file=sys.stderr)
                lock.acquire()
        try:
            yield
        finally:
            lock.release()


def label(name: str) -> str:
    """A model's name as the beginning of a folder's, in 80 bytes: a file system counts bytes, and more comes behind it."""
    plain = "".join(c if c.isalnum() or c in "._-" else "_" for c in name)
    return plain.encode()[:LONGEST].decode(errors="ignore").lstrip(".") or "model"


def _named_after(folder: Path, key: str) -> bool:
    return folder.name.rpartition("-")[2] in (key, key[:12])


def _key_in(folder: Path) -> str | None:
    """The key in a folder's manifest; None where there is no readable one."""
    try:
        return str(manifests.read(folder)["key"])
    except (ArtifactError, KeyError):
        return None
