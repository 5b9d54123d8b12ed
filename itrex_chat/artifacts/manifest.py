"""The manifest of an artifact, and the key that says what is in it."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from itrex_chat.calibration.texts import digests_of
from itrex_chat.foundation import files, stored
from itrex_chat.foundation.digests import sha256_of_json
from itrex_chat.foundation.errors import ArtifactError
from itrex_chat.foundation.language import _
from itrex_chat.settings.quantization import Quantization

KINDS: dict[str, Any] = {
    **dict.fromkeys(("key", "created", "name", "family", "variant"), str),
    **dict.fromkeys(("content", "decoder", "matrices", "tensors", "files"), dict),
    "numerics": int,
    "recipe": {"source": dict, "quantization": {"weight_dtype": str, "group_size": int, "head": str}},
    "source": {"origin": dict, "stored": str, "files": dict, "bytes": int},
    "statistics": {
        **dict.fromkeys(("linear", "regrouped"), dict),
        **dict.fromkeys(("weights", "bytes_before", "bytes_after", "peak_memory"), int),
        **dict.fromkeys(("block_bits", "seconds"), float),
        "embedding": str,
    },
}
BUDGET = {**dict.fromkeys(("bits", "reached", "expected", "uniform"), float), "tokens": int}  # where there was one
FILE = "manifest.json"
FORMAT_VERSION = 1
WITH_ZEROS = 2  # the format of artifacts whose groups have zero points of their own
FORMATS = (FORMAT_VERSION, WITH_ZEROS)
ZEROS = ("qzeros", "zeros")  # the tensor of a matrix that has them: integers as GPTQ packs them, or float16
NUMERICS_VERSION = 1  # raise it when the integers or scales of the same weights change
BUDGET_VERSION = 1  # and this one when what a budget chooses does
ALGORITHMS_VERSION = 3  # and this one when those of all algorithms but round-to-nearest do
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
    """The quantization settings that change the content; how activations are computed does not. Raises RecipeError where a
    text that calibration is to read is not there."""
    kept = (
        {"keep_layers": " ".join(map(str, sorted(set(quantization.keep_layers))))} if quantization.keep_layers else {}
    )
    if quantization.integers != Quantization.integers:
        kept["integers"] = quantization.integers
    return (
        {"weight_dtype": quantization.weight_dtype, "group_size": quantization.group_size, "head": quantization.head}
        | kept
        | _algorithm(quantization)
    )


def _algorithm(quantization: Quantization) -> dict:
    """The algorithm, the budget and what they read; nothing for round-to-nearest, as in artifacts of before there was a choice."""
    algorithm: dict[str, Any] = {}
    if quantization.effective_algorithm != "rtn":
        algorithm |= {"algorithm": quantization.algorithm, "algorithms": ALGORITHMS_VERSION}
    if quantization.effective_budget:
        algorithm |= {"budget": quantization.budget, "budgets": BUDGET_VERSION}
    if quantization.reads_texts:
        algorithm |= {
            "calibration": " ".join(sorted(digests_of(quantization))),
            "calibration_tokens": quantization.calibration_tokens,
        }
    if quantization.effective_algorithm == "autoround":
        algorithm["iterations"] = quantization.iterations
    return algorithm


def write(folder: Path, manifest: dict) -> None:
    files.write_json(folder / FILE, manifest | {"digest": sha256_of_json(manifest)})


def read(folder: Path) -> dict:
    """A manifest that is whole. Raises ArtifactError."""
    path = folder / FILE
    try:
        if not path.exists():
            raise ArtifactError(_("{path} is missing: the artifact is not complete.", path=path))
        manifest = stored.parsed_json(files.text_of(path, ArtifactError, LARGEST))
        if manifest.pop("digest") != sha256_of_json(manifest):
            raise ValueError
        if manifest.get("format") in FORMATS:
            _check(manifest)
    except OSError as error:
        raise ArtifactError(_("{path} cannot be read: {reason}.", path=path, reason=files.why(error))) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ArtifactError(_("{path} is damaged.", path=path)) from None
    if manifest.get("format") not in FORMATS:
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
    _check_kinds(manifest, KINDS)
    if "budget" in manifest:
        _check_kinds(manifest["budget"], BUDGET)
    recorded, statistics = manifest["files"], manifest["statistics"]
    for file in recorded.values():
        _check_kinds(file, {"size": int, "sha256": str})
    if not all(map(files.is_name, recorded)):
        raise ValueError
    if not all(isinstance(home, str) and home in recorded for home in manifest["tensors"].values()):
        raise ValueError
    for bits, group_size, *zeros in manifest["matrices"].values():
        if (
            type(bits) is not int
            or type(group_size) is not int
            or (zeros and (len(zeros) > 1 or zeros[0] not in ZEROS))
        ):
            raise TypeError
    if statistics.keys() != KINDS["statistics"].keys() or statistics["weights"] < 1:
        raise ValueError
    if any(type(count) is not int for name in ("linear", "regrouped") for count in statistics[name].values()):
        raise TypeError


def _check_kinds(values: dict, kinds: dict) -> None:
    """Each of the keys is there, with a value of its type, or with values that are as the types below it say."""
    for name, kind in kinds.items():
        if isinstance(kind, dict):
            _check_kinds(values[name], kind)
        elif type(values[name]) is not kind and (kind, type(values[name])) != (float, int):
            raise TypeError
