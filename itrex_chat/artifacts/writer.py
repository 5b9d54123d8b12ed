"""Writing an artifact: weight files one by one, then descriptions, then the manifest, then its final name.

Everything is written in a folder of its own that gets its final name when it
is whole. An interrupted writing leaves the finished weight files with their
digests in `progress.json`, and the next one goes on behind them.
"""

import os
import time
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save_file

from itrex_chat import __version__
from itrex_chat.architecture.config import as_stored
from itrex_chat.artifacts import manifest as manifests
from itrex_chat.artifacts.description import model_card, transformers_config
from itrex_chat.artifacts.store import PARTIAL
from itrex_chat.calibration.budgeting import Spent, spent
from itrex_chat.calibration.calibrated import Calibrated
from itrex_chat.chat import ChatTokenizer, load_tokenizer
from itrex_chat.checkpoints import Checkpoint, open_checkpoint
from itrex_chat.foundation import files, progress, space, stored
from itrex_chat.foundation.digests import sha256
from itrex_chat.foundation.errors import ArtifactError
from itrex_chat.foundation.language import _
from itrex_chat.foundation.machine import peak_memory
from itrex_chat.quantization.plan import Treatment, plan, shards
from itrex_chat.quantization.statistics import Statistics, summarize
from itrex_chat.quantization.stream import artifact_tensors
from itrex_chat.settings.recipe import Recipe
from itrex_chat.sources import Source

PROGRESS = "progress.json"
SENSITIVITY = ".sensitivity"  # beside artifacts: what was measured for budgets
ZEROS: dict[str, list[str]] = {"": [], "whole": ["qzeros"], "float": ["zeros"]}  # by `Packed.zeros`, as in the manifest


def write(recipe: Recipe, source: Source, key: str, folder: Path) -> Statistics:
    """Quantize `source` into the artifact `folder`, going on where an earlier writing stopped.

    The caller holds the lock of `key`. Raises SourceError, CheckpointError,
    TokenizerError and ArtifactError; what was finished before stays.
    """
    started, created = time.perf_counter(), datetime.now(UTC)
    stamp, digests = source.stamp(), source.digests()
    if manifests.key_of(recipe.quantization, digests) != key:
        raise source.changed()
    checkpoint = open_checkpoint(source)
    _check_family(recipe, checkpoint.family)
    gguf = source.weights[0] if source.format == "gguf" else None
    tokenizer = load_tokenizer(source.folder, checkpoint.family, recipe.chat, gguf)
    treatments, budget = plan(checkpoint, recipe.quantization), Spent({}, {})
    if recipe.quantization.effective_budget:
        with files.disk_errors(ArtifactError, _("Writing to {folder}", folder=folder.parent)):
            budget = spent(checkpoint, recipe.quantization, tokenizer.encode, digests, folder.parent / SENSITIVITY)
        treatments = plan(checkpoint, recipe.quantization, budget.kinds)
    partial = folder.with_name(folder.name + PARTIAL)
    with files.disk_errors(ArtifactError, _("Writing {folder}", folder=partial)):
        partial.mkdir(parents=True, exist_ok=True)
        calibrated = _calibrated(checkpoint, recipe, treatments, tokenizer)
        _check_space(partial, treatments, calibrated.kept_bytes() if calibrated else 0)
        written = _write_weights(checkpoint, treatments, partial, stamp, calibrated)
        statistics = summarize(
            treatments,
            recipe.quantization.group_size,
            source.size(),
            time.perf_counter() - started,
            peak_memory(),
            bool(budget.kinds),
        )
        source.check(stamp)
        _write_descriptions(recipe, source, checkpoint, tokenizer, treatments, statistics, partial)
        manifests.write(
            partial,
            {
                "format": manifests.WITH_ZEROS if any(each.zeros for each in treatments) else manifests.FORMAT_VERSION,
                "numerics": manifests.NUMERICS_VERSION,
                "key": key,
                "created": created.isoformat(timespec="seconds"),
                "versions": _versions(),
                **_identity(recipe, source, checkpoint, digests),
                **_contents(checkpoint, treatments, statistics),
                **budget.told,
                **(calibrated.described() if calibrated else {}),
                "files": _files(partial, written),
            },
        )
        (partial / PROGRESS).unlink(missing_ok=True)
        files.sync_folder(partial)
        os.replace(partial, folder)
        files.sync_folder(folder.parent)
    return statistics


def _versions() -> dict[str, str]:
    return {
        "itrex_chat": __version__,
        **{name: version(name) for name in ("neural-compressor-pt", "torch", "safetensors")},
    }


def _identity(recipe: Recipe, source: Source, checkpoint: Checkpoint, digests: dict[str, str]) -> dict:
    """What the artifact is of."""
    return {
        "name": recipe.name,
        "family": checkpoint.family,
        "variant": f"int{recipe.quantization.bits}",
        "content": manifests.content_settings(recipe.quantization),
        "recipe": recipe.as_dict(),
        "source": {"origin": source.origin, "stored": checkpoint.description, "files": digests, "bytes": source.size()},
    }


def _contents(checkpoint: Checkpoint, treatments: list[Treatment], statistics: Statistics) -> dict:
    """What is in it: figures, the decoder, bits and group size of each matrix, the file of each tensor; and how many matrices
    have the integers that the checkpoint had, if some do."""
    return {
        "statistics": asdict(statistics),
        "decoder": as_stored(checkpoint.decoder),
        "matrices": {
            treatment.name: [treatment.bits, treatment.group_size, *ZEROS[treatment.zeros]]
            for treatment in treatments
            if treatment.bits
        },
        "tensors": _homes(treatments),
    } | ({"taken": taken} if (taken := sum(1 for each in treatments if each.taken)) else {})


def _files(folder: Path, known: dict[str, str]) -> dict[str, dict]:
    """Size and SHA-256 of each file but the leftovers of writing."""
    return {
        path.name: {"size": path.stat().st_size, "sha256": known.get(path.name) or sha256(path)}
        for path in sorted(folder.iterdir())
        if path.name != PROGRESS and not path.name.startswith(".")
    }


def _check_family(recipe: Recipe, found: str) -> None:
    if recipe.family and recipe.family != found:
        raise ArtifactError(
            _(
                "The recipe {name} is for the family {wanted}, but the checkpoint is of the family {found}.",
                name=recipe.name,
                wanted=recipe.family,
                found=found,
            )
        )


def _check_space(folder: Path, treatments: list[Treatment], kept: int) -> None:
    """Raise ArtifactError where there is no room for the tensors, and for `kept` bytes beside them until all is done."""
    home = folder.parent.parent
    done = sum(path.stat().st_size for path in folder.iterdir())
    needed = sum(treatment.nbytes() for treatment in treatments) + kept - done + space.SPARE
    space.check(_("The artifact"), needed, folder, home, ArtifactError)


def _calibrated(
    checkpoint: Checkpoint, recipe: Recipe, treatments: list[Treatment], tokenizer: ChatTokenizer
) -> Calibrated | None:
    """What quantizes the matrices that calibration is for; None where there are none."""
    if not any(treatment.calibrated for treatment in treatments):
        return None
    return Calibrated(checkpoint, treatments, recipe.quantization, tokenizer.encode)


def _write_weights(
    checkpoint: Checkpoint, treatments: list[Treatment], folder: Path, stamp: str, calibrated: Calibrated | None
) -> dict[str, str]:
    """Write what is missing of the weight files, if the model's files have this stamp; the SHA-256 of each by its name."""
    done = _finished(folder)
    if calibrated:
        calibrated.go_on(folder, done)
    total = sum(treatment.spec.size * checkpoint.dtype(treatment.spec.name).itemsize for treatment in treatments)
    names = _file_names(treatments)
    number = 0
    with progress.bar(_("quantizing"), total) as bar:
        for name, shard in names:
            tensors: dict[str, torch.Tensor] = {}
            for treatment in shard:
                number += 1
                bar.set_postfix_str(
                    _("tensor {number} of {count}", number=number, count=len(treatments)), refresh=False
                )
                if name in done:
                    bar.update(treatment.spec.size * checkpoint.dtype(treatment.spec.name).itemsize)
                elif calibrated and treatment.calibrated:
                    tensors |= calibrated.tensors(treatment, bar)
                else:
                    tensors |= artifact_tensors(checkpoint, treatment, bar)
            if name not in done:
                checkpoint.source.check(stamp)
                if calibrated:
                    calibrated.keep(folder, done)
                with files.replacing(folder / name) as partial:
                    _save(tensors, partial)
                    digest = sha256(partial)
                done[name] = digest
                files.write_json(folder / PROGRESS, done)
    if calibrated:
        calibrated.forget(folder, done)
    if len(names) > 1:
        files.write_json(
            folder / "model.safetensors.index.json",
            {
                "metadata": {"total_size": sum(treatment.nbytes() for treatment in treatments)},
                "weight_map": _homes(treatments),
            },
        )
    return done


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    try:
        with files.reached(path.parent) as folder:
            save_file(tensors, folder / path.name, metadata={"format": "pt"})
    except Exception as error:  # safetensors' own type hides the number of the system's error
        if "No space left" in str(error) or "os error 28" in str(error):
            raise OSError(28, os.strerror(28)) from error
        raise


def _finished(folder: Path) -> dict[str, str]:
    """The weight files that an interrupted writing finished and that are still whole."""
    try:
        recorded = dict(stored.parsed_json((folder / PROGRESS).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        recorded = {}
    for path in folder.iterdir():
        if path.name not in recorded and path.name != PROGRESS:
            path.unlink()
    return {
        name: digest
        for name, digest in recorded.items()
        if files.is_name(name) and (folder / name).is_file() and sha256(folder / name) == digest
    }


def _file_names(treatments: list[Treatment]) -> list[tuple[str, list[Treatment]]]:
    parts = shards(treatments)
    if len(parts) == 1:
        return [("model.safetensors", parts[0])]
    return [(f"model-{number:05d}-of-{len(parts):05d}.safetensors", part) for number, part in enumerate(parts, 1)]


def _homes(treatments: list[Treatment]) -> dict[str, str]:
    """The file of each stored tensor."""
    homes: dict[str, str] = {}
    for name, part in _file_names(treatments):
        for treatment in part:
            suffixes = [".qweight", ".qzeros", ".scales"] if treatment.bits else [""]
            suffixes += [".zeros"] if treatment.zeros == "float" else []
            homes |= {treatment.name + suffix: name for suffix in suffixes}
    return homes


def _write_descriptions(
    recipe: Recipe,
    source: Source,
    checkpoint: Checkpoint,
    tokenizer: ChatTokenizer,
    treatments: list[Treatment],
    statistics: Statistics,
    folder: Path,
) -> None:
    """Configuration, tokenizer and model card."""
    files.write_json(folder / "config.json", transformers_config(checkpoint.config, recipe.quantization, treatments))
    files.write_json(folder / "generation_config.json", {"eos_token_id": sorted(tokenizer.stop_ids)})
    for name, content in tokenizer.files().items():
        with files.replacing(folder / name) as partial:
            partial.write_bytes(content)
    files.write_text(folder / "README.md", model_card(recipe, source, checkpoint, statistics, treatments))
