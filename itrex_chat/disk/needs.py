"""What needs what: originals and the artifacts that were made of them."""

import dataclasses
from collections.abc import Sequence

from itrex_chat.foundation.kept import Kept
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import lasting, readable
from itrex_chat.sources.kept import ORPHAN


def told(found: Sequence[Kept]) -> list[Kept]:
    """The same with sentences on what originals and artifacts are good for."""
    return [_told(kept, found) for kept in found]


def made_of(originals: Kept, found: Sequence[Kept]) -> list[Kept]:
    """The artifacts that were made of originals."""
    return [kept for kept in found if kept.kind == "artifacts" and kept.origin and _same(kept.origin, originals.origin)]


def originals_of(artifact: Kept, found: Sequence[Kept]) -> Kept | None:
    """The originals on this machine that an artifact was made of."""
    return next(
        (
            kept
            for kept in found
            if kept.kind == "originals" and not kept.variant and _same(artifact.origin, kept.origin)
        ),
        None,
    )


def _same(made: dict, came: dict) -> bool:
    """Whether an artifact's origin is that of what was downloaded."""
    if came.get("kind") == "package":
        return made.get("kind") == "package" and str(made.get("sha256", came["sha256"])).startswith(came["sha256"])
    return all(made.get(name) == came.get(name) for name in ("kind", "repository", "commit"))


def _told(kept: Kept, found: Sequence[Kept]) -> Kept:
    if kept.kind == "originals":
        return dataclasses.replace(kept, text=_where_from(kept), needed=_use_of_originals(kept, found))
    if kept.kind == "artifacts" and kept.origin and "created" not in kept.origin:  # it was not made here
        return dataclasses.replace(kept, text=_where_from(kept), needed=_use_of_pulled(kept))
    if kept.kind == "artifacts" and kept.origin:
        return dataclasses.replace(kept, needed=_use_of_artifact(kept, found))
    return kept


def _where_from(kept: Kept) -> str:
    hub = {"modelscope": "ModelScope", "huggingface": "Hugging Face", "package": _("a package")}
    return _("from {hub}", hub=hub.get(str(kept.origin.get("kind")), str(kept.origin.get("kind"))))


def _use_of_originals(kept: Kept, found: Sequence[Kept]) -> str:
    if kept.text == ORPHAN:
        return _("nothing needs it: an older state of the repository")
    made = made_of(kept, found)
    if not made:
        return _("every variant needs it; nothing is quantized of it yet")
    return _(
        "{variants} answers without these {size}; FP32 and BF16 need them",
        variants=", ".join(sorted({each.variant.upper() for each in made})),
        size=readable(kept.size),
    )


def _use_of_pulled(kept: Kept) -> str:
    if kept.text == ORPHAN:
        return _("nothing needs it: an older state of the repository")
    return _("{variant} answers with it alone, without originals", variant=kept.variant.upper())


def _superseded(kept: Kept, found: Sequence[Kept]) -> bool:
    """Whether there is a newer artifact of the same repository with the same settings, which is the one that is asked."""
    mine = kept.origin
    return any(
        other.kind == "artifacts"
        and (other.text, other.variant) == (kept.text, kept.variant)
        and mine.get("repository")
        and all(other.origin.get(name) == mine.get(name) for name in ("kind", "repository", "revision"))
        and str(other.origin.get("created", "")) > str(mine["created"])
        for other in found
    )


def _use_of_artifact(kept: Kept, found: Sequence[Kept]) -> str:
    variant, seconds = kept.variant.upper(), kept.origin.get("seconds") or 0.0
    if _superseded(kept, found):
        return _("an older state of the model: only runs that were made with it go on with it")
    if not kept.again:
        return _("{variant} needs it; its originals are gone, and it cannot be made again", variant=variant)
    if kept.origin.get("kind") == "local" or originals_of(kept, found):
        return _("{variant} needs it; made again in {time}", variant=variant, time=lasting(seconds))
    return _(
        "{variant} needs it; to make it again, {size} would have to be downloaded",
        variant=variant,
        size=readable(kept.origin.get("bytes") or 0),
    )
