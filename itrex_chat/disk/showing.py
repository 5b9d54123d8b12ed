"""What the cache keeps, shown: lines for people, plain values for programs."""

import shutil
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from itrex_chat.disk.needs import made_of, originals_of
from itrex_chat.foundation import in_use, kept
from itrex_chat.foundation.kept import KINDS, Kept
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import readable

DAY = 86400
WIDEST = 60  # characters of a name to which others are lined up


def lines(found: Sequence[Kept], home: Path) -> list[str]:
    """A chapter for each kind, what is in it with size, last use and what needs it, and the sum."""
    shown = []
    titles = dict(zip(KINDS, _titles()))
    for kind in KINDS:
        of_kind = [each for each in found if each.kind == kind]
        if of_kind:
            total = kept.size(path for each in of_kind for path in each.paths)
            shown.append(f"{titles[kind]}  {readable(total)}")
            shown += lined_up(of_kind)
    total = kept.size(path for each in found for path in each.paths)
    return [
        *shown,
        _("{total} in {folder}, {free} left on its disk", total=readable(total), folder=home, free=_free(home)),
    ]


def lined_up(chosen: Sequence[Kept]) -> list[str]:
    """A line for each: name, size, last use, what it is and what needs it."""
    cells = [(each.name, readable(each.size), used(each)) for each in chosen]
    widths = [min(max(map(len, column), default=0), WIDEST) for column in zip(*cells)]
    return [
        f"  {name:{widths[0]}}  {size:>{widths[1]}}  {when:{widths[2]}}  {'; '.join(filter(None, (each.text, each.needed)))}"
        for each, (name, size, when) in zip(chosen, cells)
    ]


def used(each: Kept) -> str:
    """When it was used last, roughly."""
    if in_use.by_another(each.path):
        return _("in use")
    days = int((time.time() - each.used) // DAY)
    return _("today") if days < 1 else _("{days} d ago", days=days)


def values(found: Sequence[Kept], home: Path) -> dict:
    """For `--json`: sizes in bytes, times in UTC."""
    return {
        "format": 1,
        "folder": str(home),
        "bytes": kept.size(path for each in found for path in each.paths),
        "free": _free_bytes(home),
        "kept": [_values(each, found) for each in found],
    }


def _values(each: Kept, found: Sequence[Kept]) -> dict:
    of_model: dict[str, list[str]] = {"needs": [], "needed_by": []}
    if each.kind == "originals":
        of_model["needed_by"] = [made.name for made in made_of(each, found)]
    if each.kind == "artifacts" and each.origin and (originals := originals_of(each, found)):
        of_model["needs"] = [originals.name]
    return {
        "kind": each.kind,
        "name": each.name,
        "path": str(each.path),
        "bytes": each.size,
        "used": datetime.fromtimestamp(each.used, UTC).isoformat(timespec="seconds"),
        "in_use": in_use.by_another(each.path),
        "variant": each.variant,
        "again": each.again,
        "text": each.text,
        "needed": each.needed,
        **of_model,
    }


def _titles() -> tuple[str, ...]:
    """In the order of `KINDS`."""
    return (
        _("Originals"),
        _("Artifacts"),
        _("Prepared for engines"),
        _("Runs"),
        _("Reports"),
        _("Measured predictions"),
        _("Environments"),
        _("Benchmarks"),
        _("Logs"),
    )


def _free_bytes(home: Path) -> int:
    existing = next(folder for folder in (home, *home.parents) if folder.is_dir())
    return shutil.disk_usage(existing).free


def _free(home: Path) -> str:
    return readable(_free_bytes(home))
