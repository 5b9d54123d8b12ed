"""The cache: what lies on the disk, what needs it, and freeing it.

python -m itrex_chat.cache
python -m itrex_chat.cache remove chatglm3-6b
python -m itrex_chat.cache prune --older-than 30d
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from itrex_chat.foundation import command_line
from itrex_chat.foundation.choices import did_you_mean
from itrex_chat.foundation.errors import ArtifactError, RecipeError
from itrex_chat.foundation.harmless import as_json, tell
from itrex_chat.foundation.language import _
from itrex_chat.foundation.places import cache_home

if TYPE_CHECKING:
    from itrex_chat.artifacts import ArtifactStore
    from itrex_chat.foundation.kept import Kept

ACTIONS = ("list", "show", "verify", "remove", "prune")


def list_all(as_json: bool = False) -> None:
    """Print what the cache keeps, damaged and unfinished artifacts too."""
    from itrex_chat.disk import everything, showing

    home = cache_home()
    found = everything(home)
    if as_json:
        _print_json(showing.values(found, home))
    else:
        tell("\n".join(showing.lines(found, home)))


def show(store: "ArtifactStore", names: Sequence[str]) -> None:
    """Print the manifests of artifacts."""
    from itrex_chat.artifacts import Artifact

    for folder in [folder for name in names for folder in chosen(store, name)]:
        artifact = Artifact.open(folder)
        shortened = {key: value for key, value in artifact.manifest.items() if key not in ("tensors", "matrices")}
        tell(as_json({"folder": str(folder), **shortened}, indent=2))


def verify(store: "ArtifactStore", names: Sequence[str]) -> None:
    """Read artifacts whole and compare digests. Raises ArtifactError where one is damaged."""
    from itrex_chat.artifacts import Artifact

    damaged = 0
    for folder in [folder for name in names for folder in chosen(store, name)] if names else store.folders():
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


def free(meant: Sequence["Kept"], yes: bool, dry_run: bool, as_json: bool = False) -> int:
    """Remove what is meant, after a question; the exit code says whether all of it went. Raises RecipeError."""
    from itrex_chat.disk import freeing, showing

    if not as_json:
        for line in showing.lined_up(meant):
            tell(line)
        tell(freeing.sentence(meant) if meant else _("There is nothing to remove."))
    if dry_run or not meant:
        done = freeing.Freed([], [])
    elif not freeing.agreed(yes):
        tell(_("Nothing was removed."))
        return command_line.FAILED
    else:
        done = freeing.free(meant)
    if as_json:
        names = {"meant": [each.name for each in meant], "removed": [each.name for each in done.removed]}
        _print_json({"format": 1, **names, "problems": done.problems})
    else:
        for each in done.removed:
            tell(_("{name}  removed", name=each.name))
    for problem in done.problems:
        tell(f"itrex_chat: {problem}", file=sys.stderr)
    return command_line.FAILED if done.problems else 0


def remove(arguments: argparse.Namespace) -> int:
    """Remove what the names mean: something in the list, all of a model, all of a kind."""
    from itrex_chat.disk import everything, freeing

    meant = freeing.named(everything(cache_home()), arguments.names)
    return free(meant, arguments.yes, arguments.dry_run, arguments.json)


def prune(arguments: argparse.Namespace) -> int:
    """Remove what was not used for long. Raises RecipeError where nothing says what."""
    from itrex_chat.disk import everything, freeing
    from itrex_chat.foundation.kept import AGAIN, KINDS

    if not (arguments.older_than or arguments.keep):
        raise RecipeError(_("Say what goes: --older-than 30d, or --keep N for all but the newest of each kind."))
    kinds = arguments.names or AGAIN
    if unknown := next((kind for kind in kinds if kind not in KINDS), None):
        raise RecipeError(
            _(
                "There is no kind {name}.{hint} Known: {names}",
                name=unknown,
                hint=did_you_mean(unknown, KINDS),
                names=", ".join(KINDS),
            )
        )
    older = freeing.age(arguments.older_than) if arguments.older_than else None
    meant = freeing.old(everything(cache_home()), older, arguments.keep, kinds)
    return free(meant, arguments.yes, arguments.dry_run, arguments.json)


def chosen(store: "ArtifactStore", name: str) -> list[Path]:
    """The artifacts that a name means: a folder's name, its key, or a model's name for all of its artifacts."""
    folders = store.folders()
    found = [folder for folder in folders if name in (folder.name, folder.name.rpartition("-")[2])] or [
        folder for folder in folders if folder.name.startswith(f"{name}-int")
    ]
    if not found:
        raise ArtifactError(
            _(
                "There is no artifact {name} in the cache.{hint}",
                name=name,
                hint=did_you_mean(name, [folder.name for folder in folders]),
            )
        )
    return found


def _print_json(value: dict) -> None:
    print(as_json(value, indent=2), flush=True)


def command(arguments: argparse.Namespace) -> int:
    from itrex_chat.artifacts import ArtifactStore

    if arguments.action == "list":
        list_all(arguments.json)
        return 0
    if arguments.action == "prune":
        return prune(arguments)
    store = ArtifactStore(cache_home())
    if arguments.action == "verify":
        verify(store, arguments.names)
        return 0
    if not arguments.names:
        raise ArtifactError(_("Say which artifact: python -m itrex_chat.cache {action} NAME", action=arguments.action))
    if arguments.action == "show":
        show(store, arguments.names)
        return 0
    return remove(arguments)


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser("cache", _("Show what the cache keeps and what needs it, verify it, or free it."))
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="list")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=_("what is in the list, a model's name, a repository or a kind (originals, artifacts, …); prune: kinds"),
    )
    parser.add_argument("--older-than", metavar="AGE", help=_("prune: what was not used for so long: 12h, 30d, 8w"))
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="N|NAME",
        help=_("prune: keep so many of each kind, the most recently used, or what has this name; several times"),
    )
    parser.add_argument("--yes", action="store_true", help=_("do not ask before removing"))
    parser.add_argument("--dry-run", action="store_true", help=_("only show what would be removed"))
    parser.add_argument("--json", action="store_true", help=_("print JSON instead"))
    return command_line.run(command, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
