"""Artifacts among sources: a folder that holds a quantized model of this program instead of originals.

Which it is, its manifest says. Here that is only recognised; `artifacts/` reads and verifies it.
"""

from pathlib import Path

from itrex_chat.foundation import files, stored
from itrex_chat.foundation.errors import SourceError
from itrex_chat.foundation.language import _
from itrex_chat.sources.selection import MANIFEST

LARGEST = 16 << 20  # bytes
TELLING = {"format": int, "numerics": int, "key": str, "variant": str, "matrices": dict, "files": dict}


def manifest_in(folder: Path) -> dict | None:
    """What the manifest of an artifact says, not yet checked; None for a folder of anything else."""
    try:
        found = stored.parsed_json(files.text_of(folder / MANIFEST, SourceError, LARGEST))
    except (SourceError, ValueError):
        return None
    return as_manifest(found)


def as_manifest(found: object) -> dict | None:
    """What was read, if it is the manifest of an artifact; what it says is not yet checked."""
    if not isinstance(found, dict) or any(type(found.get(name)) is not kind for name, kind in TELLING.items()):
        return None
    return found


def originals_of(manifest: dict) -> str:
    """Where the originals of an artifact come from, in a word or two; "" where its manifest does not say."""
    source = manifest.get("source")
    origin = source.get("origin") if isinstance(source, dict) else None
    if not isinstance(origin, dict):
        return ""
    where = origin.get("repository") or origin.get("path") or origin.get("name")
    return str(where)[:200] if where else ""


def refusal(origin: dict, manifest: dict) -> str:
    """Why a source that is an artifact cannot be had in another precision, and where its originals come from."""
    where, variant = originals_of(manifest), str(manifest["variant"])[:8]
    named = str(origin.get("repository") or origin.get("path"))
    fields = {"name": named, "variant": variant.upper(), "precision": variant}
    if not where:
        return _(
            "{name} is a quantized model in {variant}, without originals for FP32, BF16 or other settings; ask it with "
            "--variants {precision}.",
            **fields,
        )
    return _(
        "{name} is a quantized model in {variant}, without originals for FP32, BF16 or other settings; ask it with "
        "--variants {precision}, or name the originals: --model {originals}.",
        originals=where,
        **fields,
    )
