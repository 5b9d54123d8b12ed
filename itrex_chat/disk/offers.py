"""What the recipes offer on this machine: what a model costs to have, what it takes, and how fast it will answer."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from itrex_chat.foundation.kept import Kept
from itrex_chat.foundation.language import _
from itrex_chat.foundation.units import readable
from itrex_chat.settings.recipe import Recipe
from itrex_chat.settings.variant import Variant

PROGRAM = 600 << 20  # bytes: Python, torch, tokenizer
OF_BANDWIDTH = 0.9  # what decode reaches of what memory gives (README.md)


@dataclass(frozen=True)
class Offer:
    """A recipe's model in a variant; bytes, tokens and tokens per second, None where nothing tells.

    `download` is what the originals have, `originals` and `artifact` are what of it is on this machine. `memory` is without
    long conversations, of FP32 and BF16 with all weights as they are published. `fits` says whether that is left now.
    """

    name: str
    variant: str
    licence: str
    languages: tuple[str, ...]
    context: int | None
    download: int | None
    originals: int
    artifact: int
    memory: int | None
    speed: float | None
    fits: bool | None

    def as_dict(self) -> dict:
        return dataclasses.asdict(self)


def offers(
    recipes: Sequence[Recipe], found: Sequence[Kept], bandwidth: float, free: int, variant: Variant | None = None
) -> list[Offer]:
    """What fits into `free` bytes of memory first, of that the largest first; `bandwidth` in bytes per second.

    Of a variant, or of each recipe's quantized one.
    """
    known = [_offer(recipe, variant or Variant.of(recipe.quantization), found, bandwidth, free) for recipe in recipes]
    return sorted(
        known, key=lambda offer: (not offer.fits, (offer.memory or 0) * (-1 if offer.fits else 1), offer.name)
    )


def _offer(recipe: Recipe, variant: Variant, found: Sequence[Kept], bandwidth: float, free: int) -> Offer:
    about = recipe.about
    artifact = next((kept.size for kept in found if _is_of(kept, recipe) and kept.variant == str(variant)), 0)
    size = artifact or int(about.weight_bytes(variant.bits))
    memory = PROGRAM + size if size else None
    read = about.bytes_per_token(variant.bits)
    return Offer(
        recipe.name,
        str(variant),
        about.licence,
        recipe.languages,
        about.context or None,
        int(about.download * 1e9) or None,
        sum(kept.size for kept in found if kept.kind == "originals" and _comes_from(kept, recipe)),
        artifact,
        memory,
        OF_BANDWIDTH * bandwidth / read if read else None,
        memory <= free if memory else None,
    )


def _is_of(kept: Kept, recipe: Recipe) -> bool:
    return kept.kind == "artifacts" and _comes_from(kept, recipe)


def _comes_from(kept: Kept, recipe: Recipe) -> bool:
    """Whether an artifact or originals are of a recipe's source."""
    source, origin = recipe.source, kept.origin
    if source.package.name:
        return origin.get("kind") == "package" and (
            source.package.sha256.startswith(str(origin.get("sha256") or "-"))
            or origin.get("name") == source.package.name
        )
    return (origin.get("kind"), origin.get("repository")) in (
        ("modelscope", source.modelscope),
        ("huggingface", source.huggingface),
    )


def lines(found: Sequence[Offer], bandwidth: float, free: int) -> list[str]:
    """A table for people."""
    variants = sorted({offer.variant.upper() for offer in found})
    rows: list[tuple[str, ...]] = [
        (
            "",
            _("to download"),
            _("on disk"),
            _("memory, {variant}", variant="/".join(variants)),
            _("tokens/s"),
            _("context"),
            _("languages"),
            _("licence"),
        )
    ]
    rows += [_row(offer) for offer in found]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    fits = sum(1 for offer in found if offer.fits)
    last = _(
        "{count} fit into the {free} of memory that are left; speeds by {bandwidth:.0f} GB/s of memory, as measured here.",
        count=fits,
        free=readable(free),
        bandwidth=bandwidth / 1e9,
    )
    return [*table[: fits + 1], *([_("too large for now:")] if fits < len(found) else []), *table[fits + 1 :], last]


def _row(offer: Offer) -> tuple[str, ...]:
    there = [
        part
        for part in (
            offer.artifact and f"{offer.variant.upper()} {readable(offer.artifact)}",
            offer.originals and _("originals {size}", size=readable(offer.originals)),
        )
        if part
    ]
    return (
        offer.name,
        readable(offer.download) if offer.download else "?",
        ", ".join(there) or "–",
        readable(offer.memory) if offer.memory else "?",
        f"{offer.speed:.{0 if offer.speed >= 10 else 1}f}" if offer.speed else "?",
        f"{offer.context:,}" if offer.context else "?",
        " ".join(offer.languages) or "?",
        offer.licence or "?",
    )
