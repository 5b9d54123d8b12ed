"""A budget of bits spent by what texts say: measured once for a model and kept, as other budgets and algorithms ask for the same."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from itrex_chat.architecture.layout import TensorSpec, layer
from itrex_chat.calibration.sensitivity import WINDOWS, losses
from itrex_chat.calibration.texts import reading_for, texts_of
from itrex_chat.checkpoints import Checkpoint
from itrex_chat.foundation import files, progress, stored
from itrex_chat.foundation.digests import sha256_of_json
from itrex_chat.foundation.errors import CheckpointError
from itrex_chat.foundation.language import _
from itrex_chat.quantization.budget import Candidate, Kind, bits_per_weight, chosen, kept, kinds_of
from itrex_chat.quantization.plan import module_of
from itrex_chat.settings.quantization import Quantization

VERSION = 1  # of what is kept


@dataclass(frozen=True)
class Spent:
    """The kind of each matrix by its module, and what the manifest tells of it."""

    kinds: dict[str, Kind]
    told: dict


def spent(
    checkpoint: Checkpoint,
    quantization: Quantization,
    encode: Callable[[str], list[int]],
    digests: Mapping[str, str],
    folder: Path,
) -> Spent:
    """What a budget is spent on, for a model whose files have these digests; what was measured is kept in `folder`.

    Raises RecipeError where the budget is too small, and CheckpointError.
    """
    matrices = {module_of(spec): spec for spec in checkpoint.specs() if spec.role == "linear"}
    layers = tuple(map(layer, quantization.keep_layers))
    kinds = {
        name: kinds_of(spec, checkpoint.dtype(spec.name), quantization.weight_dtype)
        for name, spec in matrices.items()
        if not name.startswith(layers)
    }
    free = {name: each for name, each in kinds.items() if len(each) > 1}
    as_stored = {name: kept(checkpoint.dtype(spec.name)) for name, spec in matrices.items() if name not in free}
    chosen(_candidates(free, matrices, {}), _fixed(as_stored, matrices), quantization.budget)  # is it enough at all?
    windows, texts = _windows(checkpoint, quantization, encode)
    known = {"version": VERSION, "files": dict(digests), "windows": windows, "kinds": _described(free)}
    file = folder / f"{sha256_of_json(known)}.json"
    found = _read(file, free)
    if found is None:
        folder.mkdir(parents=True, exist_ok=True)
        begun = file.with_suffix(".kept")
        with progress.bar(_("finding where bits pay"), checkpoint.decoder.layers, "blocks") as bar:
            found = losses(checkpoint, free, windows, bar, begun)
        if not all(math.isfinite(loss) for each in found.values() for loss in each):
            raise CheckpointError(_("With the calibration texts the model's predictions are not finite numbers."))
        files.write_json(file, found)
        begun.unlink(missing_ok=True)
    selected = chosen(_candidates(free, matrices, found), _fixed(as_stored, matrices), quantization.budget)
    sizes = {name: spec.size for name, spec in matrices.items()}
    told = {
        "bits": quantization.budget,
        "reached": bits_per_weight(selected | as_stored, sizes),
        "tokens": sum(map(len, windows)),
        "expected": sum(found[name][free[name].index(kind)] for name, kind in selected.items()),
        "uniform": sum(each[0] for each in found.values()),
    }
    return Spent(selected, {"budget": told, "calibration": texts})


def _candidates(
    kinds: Mapping[str, list[Kind]], matrices: Mapping[str, TensorSpec], found: Mapping[str, list[float]]
) -> list[Candidate]:
    return [
        Candidate(name, matrices[name].size, each, found.get(name, [0.0] * len(each))) for name, each in kinds.items()
    ]


def _fixed(as_stored: Mapping[str, Kind], matrices: Mapping[str, TensorSpec]) -> list[tuple[int, float]]:
    return [(matrices[name].size, kind.bits) for name, kind in as_stored.items()]


def _windows(
    checkpoint: Checkpoint, quantization: Quantization, encode: Callable[[str], list[int]]
) -> tuple[list[list[int]], list[dict]]:
    """A few windows of the texts, spread over them, and what the manifest tells of the texts."""
    found = reading_for(checkpoint.decoder, quantization, encode)
    whole = max(map(len, found.windows))
    windows = [window for window in found.windows if len(window) == whole]
    count = min(WINDOWS, len(windows))
    return [windows[(2 * number + 1) * len(windows) // (2 * count)] for number in range(count)], [
        {"name": text.name, "sha256": text.sha256, "tokens": found.tokens[text.sha256]}
        for text in texts_of(quantization)
    ]


def _described(kinds: Mapping[str, list[Kind]]) -> dict[str, list]:
    return {name: [[kind.weight_dtype, kind.group_size] for kind in each] for name, each in kinds.items()}


def _read(file: Path, kinds: Mapping[str, list[Kind]]) -> dict[str, list[float]] | None:
    """What was measured before; None where there is no such thing, or nothing that can be used."""
    try:
        found = stored.parsed_json(file.read_text("utf-8"))
        usable = all(
            len(found[name]) == len(each) and all(type(loss) is float and 0 <= loss < math.inf for loss in found[name])
            for name, each in kinds.items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return {name: found[name] for name in kinds} if usable else None
