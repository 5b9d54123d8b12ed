"""The manifest of an artifact, and the key that says what is in it."""

import json
from importlib.metadata import version
from pathlib import Path

from itrex_chat.foundation import files
from itrex_chat.foundation.digests import sha256_of_json
from itrex_chat.foundation.errors import ArtifactError
from itrex_chat.foundation.language import _
from itrex_chat.settings.recipe import Quantization

TEXTS = ("key", "created", "name", "family", "variant")
OBJECTS = ("content", "recipe", "source", "statistics", "decoder", "matrices", "tensors", "files")
FILE = "manifest.json"
FORMAT_VERSION = 1
NUMERICS_VERSION = 1  # raise it when the integers or scales of the same weights change
LARGEST = 16 << 20  # bytes


def key_of(quantization: Quantization, digests: dict[str, str]) -> str:
    """The digest of all that determines an artifact's content: source files, quantization and numerics."""
    return sha256_of_json(
        {
            "format": FORMAT_VERSION,
            "numerics": NUMERICS_VERSION,
            "neural-compressor": version("neural-compressor-pt"),
            "quantization": content_settings(quantization),
            "source": dict(sorted(digests.items())),
        }
    )


def content_settings(quantization: Quantization) -> dict:
    """The quantization settings that change the content; how activations are computed does not."""
    kept = (
        {"keep_layers": " ".join(map(str, sorted(set(quantization.keep_layers))))} if quantization.keep_layers else {}
    )
    return {
        "weight_dtype": quantization.weight_dtype,
        "group_size": quantization.group_size,
        "head": quantization.head,
    } | kept


def write(folder: Path, manifest: dict) -> None:
    files.write_json(folder / FILE, manifest | {"digest": sha256_of_json(manifest)})


def read(folder: Path) -> dict:
    """A manifest that is whole. Raises ArtifactError."""
    path = folder / FILE
    try:
        if not path.exists():
            raise ArtifactError(_("{path} is missing: the artifact is not complete.", path=path))
        manifest = json.loads(files.text_of(path, ArtifactError, LARGEST))
        if manifest.pop("digest") != sha256_of_json(manifest):
            raise ValueError
        if manifest.get("format") == FORMAT_VERSION:
            _check(manifest)
    except OSError as error:
        raise ArtifactError(_("{path} cannot be read: {reason}.", path=path, reason=files.why(error))) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ArtifactError(_("{path} is damaged.", path=path)) from None
    if manifest.get("format") != FORMAT_VERSION:
        raise ArtifactError(
            _(
                "{path} was written by another version of this program (format {found}).",
                path=path,
                found=manifest.get("format"),
            )
        )
    return manifest


def _check(manifest: dict) -> None:
    """What all readers rely on. Raises ValueError, KeyError, TypeError or AttributeError where it is not so."""
    for names, kind in ((TEXTS, str), (OBJECTS, dict)):
        if not all(isinstance(manifest[name], kind) for name in names):
            raise TypeError
    files, quantization = manifest["files"], manifest["recipe"]["quantization"]
    if not all(type(file["size"]) is int and isinstance(file["sha256"], str) for file in files.values()):
        raise TypeError
    if any("/" in name or "\\" in name or name in ("", ".", "..") for name in files):
        raise ValueError
    if not all(isinstance(home, str) and home in files for home in manifest["tensors"].values()):
        raise ValueError
    for bits, group_size in manifest["matrices"].values():
        if type(bits) is not int or type(group_size) is not int:
            raise TypeError
    for name in ("weight_dtype", "group_size", "head"):
        quantization[name]
    manifest["source"]["files"], manifest["numerics"]
