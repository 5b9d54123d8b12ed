"""Freeing what the cache keeps: what is meant, what comes free, and taking it away."""

import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from itrex_chat.foundation.choices import did_you_mean
from itrex_chat.foundation.errors import ItrexChatError, RecipeError
from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.kept import AGAIN, KINDS, Kept, freed
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import readable

SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400}
AGE = re.compile(r"(\d{1,6})([hdw])")


def named(found: Sequence[Kept], names: Sequence[str]) -> list[Kept]:
    """What the names mean, each once. Raises RecipeError for one that means nothing."""
    chosen: list[Kept] = []
    for name in names:
        exact = [kept for kept in found if name in (kept.name, str(kept.path))]
        meant = exact or [kept for kept in found if kept.answers_to(name)]
        if not meant:
            known = [kept.name for kept in found] + [name for kept in found for name in kept.names]
            raise RecipeError(
                _(
                    "There is nothing by the name {name} in the cache.{hint} What there is: python -m itrex_chat.cache",
                    name=name,
                    hint=did_you_mean(name, [*known, *KINDS]),
                )
            )
        chosen += [kept for kept in meant if kept not in chosen]
    return chosen


def age(text: str) -> float:
    """Seconds of an age such as "12h", "30d", "8w". Raises RecipeError."""
    if match := AGE.fullmatch(text):
        return int(match[1]) * SECONDS[match[2]]
    raise RecipeError(_("{value} is no age; give a number and h, d or w, such as 30d.", value=text))


def old(
    found: Sequence[Kept], older_than: float | None, keep: Sequence[str], kinds: Sequence[str] = AGAIN
) -> list[Kept]:
    """What of these kinds nobody used for `older_than` seconds, without what `keep` says: names, and a number, the most
    recently used of each kind. Of kinds that can be had again, what cannot stays."""
    numbers = [int(each) for each in keep if each.isdigit()]
    spared = named(found, [each for each in keep if not each.isdigit()])
    chosen: list[Kept] = []
    for kind in kinds:
        newest = sorted((kept for kept in found if kept.kind == kind), key=lambda kept: -kept.used)
        chosen += newest[max(numbers, default=0) :]
    return [
        kept
        for kept in found
        if kept in chosen
        and kept not in spared
        and (kept.again or kept.kind not in AGAIN)
        and (older_than is None or time.time() - kept.used > older_than)
    ]


@dataclass(frozen=True)
class Freed:
    """What was taken away, and why the rest was not."""

    removed: list[Kept]
    problems: list[str]


def sentence(chosen: Sequence[Kept]) -> str:
    """How much comes free."""
    size = freed(path for kept in chosen for path in kept.paths)
    return _("{count} to remove, which frees {size}.", count=len(chosen), size=readable(size))


def agreed(yes: bool) -> bool:
    """Whether the user wants it: asked at a terminal. Raises RecipeError where nobody can be asked and none said so."""
    if yes:
        return True
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise RecipeError(
            _("Nothing was removed: this is no terminal to ask at. Say --yes, or --dry-run to see what would go.")
        )
    tell(_("Remove? [y/N]"), end=" ")
    return sys.stdin.readline().strip().lower() in ("y", "yes", "是", "好")


def free(chosen: Sequence[Kept]) -> Freed:
    """Take away what no other process uses."""
    removed, problems = [], []
    for kept in chosen:
        try:
            kept.remove()
            removed.append(kept)
        except ItrexChatError as error:
            problems.append(str(error))
    return Freed(removed, problems)
