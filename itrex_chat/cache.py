"""The cache: list, show, verify and remove quantized models.

python -m itrex_chat.cache
python -m itrex_chat.cache verify
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from itrex_chat.foundation import command_line
from itrex_chat.foundation.choices import did_you_mean
from itrex_chat.foundation.errors import ArtifactError
from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.language import _
from itrex_chat.foundation.places import cache_home
from itrex_chat.foundation.units import readable

if TYPE_CHECKING:
    from itrex_chat.artifacts import ArtifactStore
    from itrex_chat.engines.kept import Kept


def list_artifacts(store: "ArtifactStore") -> int:
    """Print each artifact on a line, damaged and unfinished ones too."""
    from itrex_chat.artifacts import Artifact

    total = 0
    for folder in store.folders():
        try:
            artifact = Artifact.open(folder)
            total += artifact.nbytes()
            tell(artifact.summary())
        except ArtifactError as error:
            tell(_("{name}  damaged: {reason}", name=folder.name, reason=error))
    for folder in store.partial_folders():
        tell(_("{name}  not finished: repeat the same quantization to go on", name=folder.name))
    for kept in _kept():
        total += kept.size
        tell(kept.line)
    tell(_("{total} in {folder}", total=readable(total), folder=cache_home()))
    return 0


def show(store: "ArtifactStore", name: str) -> int:
    """Print the manifest of an artifact."""
    from itrex_chat.artifacts import Artifact

    for folder in chosen(store, name):
        artifact = Artifact.open(folder)
        shortened = {key: value for key, value in artifact.manifest.items() if key not in ("tensors", "matrices")}
        tell(json.dumps({"folder": str(folder), **shortened}, ensure_ascii=False, indent=2))
    return 0


def verify(store: "ArtifactStore", name: str | None) -> int:
    """Read artifacts whole and compare digests; the exit code says whether all are good."""
    from itrex_chat.artifacts import Artifact

    damaged = 0
    for folder in chosen(store, name) if name else store.folders():
        try:
            Artifact.open(folder).verify()
            tell(_("{name}  good", name=folder.name))
        except ArtifactError as error:
            damaged += 1
            tell(_("{name}  damaged: {reason}", name=folder.name, reason=error))
    if damaged:
        raise ArtifactError(
            _(
                "{count} damaged; the next use quantizes again, or remove: python -m itrex_chat.cache remove NAME",
                count=damaged,
            )
        )
    return 0


def remove(store: "ArtifactStore", name: str) -> int:
    """Remove an artifact, something that an engine keeps beside it, or all of a model."""
    meant = [kept for kept in _kept() if kept.answers_to(name)]
    folders = []
    if name not in (kept.name for kept in meant):
        folders = chosen(store, name, partial=True, missing_ok=bool(meant))
    for folder in folders:
        store.remove(folder)
        tell(_("{name}  removed", name=folder.name))
    for kept in meant:
        kept.remove()
        tell(_("{name}  removed", name=kept.name))
    return 0


def _kept() -> "list[Kept]":
    from itrex_chat.engines import engines

    return [kept for engine in engines() for kept in engine.kept(cache_home())]


def chosen(store: "ArtifactStore", name: str, partial: bool = False, missing_ok: bool = False) -> list[Path]:
    """The artifacts that a name means: a folder's name, its key, or a model's name for all of its artifacts."""
    folders = store.folders() + (store.partial_folders() if partial else [])
    found = [folder for folder in folders if name in (folder.name, _key(folder))] or [
        folder for folder in folders if folder.name.startswith(f"{name}-int")
    ]
    if not found and not missing_ok:
        raise ArtifactError(
            _(
                "There is no artifact {name} in the cache.{hint}",
                name=name,
                hint=did_you_mean(name, [folder.name for folder in folders]),
            )
        )
    return found


def _key(folder: Path) -> str:
    from itrex_chat.artifacts.store import PARTIAL

    return folder.name.removesuffix(PARTIAL).rpartition("-")[2]


def command(arguments: argparse.Namespace) -> int:
    from itrex_chat.artifacts import ArtifactStore

    store = ArtifactStore(cache_home())
    if arguments.action == "list":
        return list_artifacts(store)
    if arguments.action == "verify":
        return verify(store, arguments.name)
    if not arguments.name:
        raise ArtifactError(_("Say which artifact: python -m itrex_chat.cache {action} NAME", action=arguments.action))
    return {"show": show, "remove": remove}[arguments.action](store, arguments.name)


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser("cache", _("List, show, verify or remove the quantized models in the cache."))
    parser.add_argument("action", nargs="?", choices=("list", "show", "verify", "remove"), default="list")
    parser.add_argument("name", nargs="?", help=_("a model's name, or an artifact's name or key"))
    return command_line.run(command, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
