"""The artifacts in a cache, as things that are kept there."""

import functools
import os
from pathlib import Path

from itrex_chat.artifacts.artifact import Artifact
from itrex_chat.artifacts.store import PARTIAL, ArtifactStore
from itrex_chat.foundation.errors import ArtifactError
from itrex_chat.foundation.kept import Kept
from itrex_chat.foundation.language import _


def kept(home: Path) -> list[Kept]:
    """Artifacts, damaged and unfinished ones too."""
    store = ArtifactStore(home)
    return [_kept(store, folder) for folder in store.folders()] + [
        Kept(
            "artifacts",
            folder.name,
            folder,
            functools.partial(store.remove, folder),
            text=_("not finished: repeat the same quantization to go on"),
            names=_names(folder.name.removesuffix(PARTIAL)),
        )
        for folder in store.partial_folders()
    ]


def _kept(store: ArtifactStore, folder: Path) -> Kept:
    remove, names = functools.partial(store.remove, folder), _names(folder.name)
    try:
        artifact = Artifact.open(folder)
    except ArtifactError as error:
        return Kept("artifacts", folder.name, folder, remove, text=_("damaged: {reason}", reason=error), names=names)
    manifest = artifact.manifest
    origin, content = manifest["source"]["origin"], manifest["content"]
    path = origin.get("path")
    return Kept(
        "artifacts",
        folder.name,
        folder,
        remove,
        text=f"{content.get('weight_dtype')} g{content.get('group_size')}, head {content.get('head')}"
        + (f", {content['algorithm']}" if content.get("algorithm") else "")
        + (f", {_('budget')} {content['budget']}" if content.get("budget") else ""),
        names=(*names, artifact.name),
        origin=origin
        | {
            "bytes": manifest["source"]["bytes"],
            "seconds": manifest["statistics"]["seconds"],
            "created": manifest["created"],
        },
        variant=artifact.variant,
        again=not isinstance(path, str) or os.path.exists(path),
    )


def _names(folder: str) -> tuple[str, ...]:
    """What means an artifact beside its folder's name: its key, and its model's name."""
    stem, _dash, key = folder.rpartition("-")
    return key, stem.partition("-int")[0]
