"""From a recipe to its artifact: out of the cache, or quantized now."""

import sys
from dataclasses import dataclass
from pathlib import Path

from itrex_chat import sources
from itrex_chat.artifacts import manifest as manifests
from itrex_chat.artifacts.artifact import Artifact
from itrex_chat.artifacts.pushed import is_pushed, pushed, refused
from itrex_chat.artifacts.store import ArtifactStore
from itrex_chat.foundation.errors import ArtifactError, SourceError
from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.in_use import discard, hold
from itrex_chat.foundation.language import _
from itrex_chat.foundation.places import cache_home
from itrex_chat.settings.recipe import Recipe


@dataclass(frozen=True)
class Obtained:
    """An artifact, and whether it was there before."""

    artifact: Artifact
    cached: bool


def obtain(recipe: Recipe, home: Path | None = None, refresh: bool = False) -> Obtained:
    """The artifact of a recipe, quantized if the cache has none.

    A damaged one is named and made anew. `refresh` asks the hub whether the
    model has changed. Needs no torch when the cache has the artifact.
    """
    home = home or cache_home()
    store = ArtifactStore(home)
    if not refresh and (artifact := store.made_from(recipe)):
        return _used(artifact, cached=True)
    source = sources.resolve(recipe, home, refresh)
    if artifact := pushed(recipe, source):
        return _used(artifact, cached=True)
    key = manifests.key_of(recipe.quantization, source.digests(home))
    if artifact := _whole(store.find(key)):
        return _used(artifact, cached=True)
    with store.lock(key):
        folder = store.place(recipe, key)
        if artifact := _whole(folder, announce=True):  # another process made it meanwhile
            return _used(artifact, cached=True)
        if folder.exists():
            discard(folder)
        from itrex_chat.artifacts import writer

        writer.write(recipe, source, key, folder)
        return _used(Artifact.open(folder), cached=False)


def _used(artifact: Artifact, cached: bool) -> Obtained:
    """An artifact that nobody removes as long as this process lives."""
    hold(artifact.folder)
    return Obtained(artifact, cached)


def at_hand(recipe: Recipe, home: Path | None = None) -> Artifact | None:
    """The artifact of a recipe where the cache has it, as far as can be told without reading a model's files."""
    home = home or cache_home()
    store = ArtifactStore(home)
    if artifact := store.made_from(recipe):
        return artifact
    if not sources.at_hand(recipe, home):
        return None
    try:
        source = sources.resolve(recipe, home)
        if artifact := pushed(recipe, source):
            return artifact
    except (SourceError, ArtifactError):
        if store.folders():
            raise
        return None
    digests = source.known_digests(home) if store.folders() else None
    return _whole(store.find(manifests.key_of(recipe.quantization, digests))) if digests else None


def verified(recipe: Recipe, home: Path | None = None, trusted: dict[str, str] | None = None) -> Artifact:
    """The artifact of a recipe with all digests checked; a damaged one is named and made anew.

    One that is made now is not read again: its digests are those of the files as they lie there. Nor is one whose folder is in
    `trusted` with its stamp, which was checked before; what is checked here is added to it.
    """
    obtained = obtain(recipe, home)
    artifact = obtained.artifact
    if trusted is not None and trusted.get(str(artifact.folder)) == artifact.stamp():
        return artifact
    checked, stamp = _checked(artifact, recipe, home) if obtained.cached else (artifact, artifact.stamp())
    if trusted is not None:
        trusted[str(checked.folder)] = stamp
    return checked


def _checked(artifact: Artifact, recipe: Recipe, home: Path | None) -> tuple[Artifact, str]:
    """The artifact, or the one that was made in its place, and the stamp that it had before it was read."""
    stamp = artifact.stamp()
    try:
        artifact.verify()
        return artifact, stamp
    except ArtifactError as error:
        if is_pushed(artifact, home or cache_home()):
            raise refused(artifact, error) from None
        tell(_("{damage} Quantizing again.", damage=error), file=sys.stderr)
        store = ArtifactStore(home)
        with store.lock(artifact.manifest["key"]):
            if artifact.folder.exists():
                discard(artifact.folder)
        artifact = obtain(recipe, home).artifact
        stamp = artifact.stamp()
        artifact.verify()
        return artifact, stamp


def _whole(folder: Path | None, announce: bool = False) -> Artifact | None:
    """The artifact in a folder if nothing is missing there."""
    if folder is None or not folder.exists():
        return None
    try:
        return Artifact.open(folder)
    except ArtifactError as error:
        if announce:
            tell(_("{damage} Quantizing again.", damage=error), file=sys.stderr)
        return None
