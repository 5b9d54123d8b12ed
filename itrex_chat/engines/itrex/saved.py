"""ITREX's quantized models, kept: quantized by ITREX once, then loaded without quantizing.

ITREX's own saved models cannot be relied on to load again. Its layers are
filled with the integers and scales of this program's artifact instead, which
are the same; where ITREX made others, they are kept beside the record:

    itrex/saved/NAME-KEY.json            what ITREX did, and how it compares with the artifact
    itrex/saved/NAME-KEY.safetensors     its integers and scales, only where they differ

ITREX 1.4.2 quantizes to int4_clip when it is asked for int4_fullrange. What
was asked for comes from the artifact.
"""

import hashlib
import json
import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import safe_open

from itrex_chat.artifacts.artifact import Artifact
from itrex_chat.artifacts.obtaining import verified
from itrex_chat.engines.itrex import environment
from itrex_chat.engines.itrex.memory import quantizing
from itrex_chat.engines.itrex.process import Process
from itrex_chat.engines.itrex.quantized import FORMAT, Saved
from itrex_chat.engines.itrex.view import View, prepared
from itrex_chat.foundation import files, machine, progress
from itrex_chat.foundation.digests import sha256
from itrex_chat.foundation.errors import EngineError
from itrex_chat.foundation.harmless import tell
from itrex_chat.foundation.language import _
from itrex_chat.foundation.places import cache_home
from itrex_chat.foundation.units import readable
from itrex_chat.quantization.rtn import quantize_rows
from itrex_chat.quantization.tensor import QuantizedTensor
from itrex_chat.settings.recipe import Recipe
from itrex_chat.sources.digests import DigestMemo

CHECK = "1 + 1 = 2. 2 + 2 = 4. 3 + 3 ="  # what the greedy tokens of the check follow


@dataclass(frozen=True)
class Obtained:
    """A saved model: what ITREX did, the artifact and view it is loaded from, ITREX's own numbers where they differ, and
    whether it was there before."""

    saved: Saved
    artifact: Artifact
    view: View
    own: Path | None
    cached: bool


def obtain(recipe: Recipe, home: Path | None = None, trusted: dict[str, str] | None = None) -> Obtained:
    """The saved model of a recipe, quantized by ITREX if the cache has none. Raises ItrexChatError."""
    home = home or cache_home()
    version = environment.find().version
    quantization = recipe.quantization
    if quantization.compute_dtype == "bf16" and "amx_bf16" not in machine.instructions():
        raise EngineError(
            _("ITREX computes in bf16 only on processors with AMX; set quantization.compute_dtype to int8 or fp32.")
        )
    if quantization.effective_algorithm == "awq":
        raise EngineError(
            _(
                "ITREX's norms are the original's, and AWQ changes these; ask for the variant without itrex-, or set "
                "quantization.algorithm to another one."
            )
        )
    artifact = verified(recipe, home, trusted)
    settings = json.dumps([FORMAT, artifact.manifest["key"], quantization.compute_dtype, version])
    key = hashlib.sha256(settings.encode()).hexdigest()[:12]
    record = home / "itrex" / "saved" / f"{artifact.folder.name.rpartition('-')[0]}-{key}.json"
    numbers = record.with_suffix(".safetensors")
    with files.disk_errors(EngineError, _("Writing {folder}", folder=record.parent)):
        record.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(record.with_suffix(".lock")):
            before = _read(record, numbers, home)
            saved = before or _quantized(recipe, home, artifact, version, numbers)
            if not before and saved.made:  # what does not fit into memory now may fit tomorrow
                files.write_json(record, asdict(saved))
    return Obtained(
        saved, artifact, prepared(recipe, home, blocks=False), numbers if saved.own else None, before is not None
    )


def _quantized(recipe: Recipe, home: Path, artifact: Artifact, version: str, numbers: Path) -> Saved:
    """Have ITREX quantize the model, compare what it made, and see that the saved form gives the same tokens."""
    quantization = recipe.quantization
    saved = Saved(version, quantization.weight_dtype, quantization.compute_dtype)
    if reason := _cannot_quantize(recipe, artifact):
        tell(reason, file=sys.stderr)
        return replace(saved, skipped=reason)
    view = prepared(recipe, home)
    check = view.tokenizer.encode(CHECK)
    made = numbers.with_suffix(".made")
    try:
        tell(
            _("ITREX {version} is quantizing {name}; this is done once.", version=version, name=recipe.name),
            file=sys.stderr,
        )
        with Process(view.folder, view.architecture.name, artifact.variant, home) as itrex, itrex.watched():
            built = itrex.load(**load_job(view, artifact.variant, recipe), keep=str(made), check_ids=check)
            log = itrex.notable()
        if not built["layers"]:
            raise EngineError(_("ITREX quantized none of the model's matrices. Its log: {log}", log=itrex.log))
        kinds = {layer["weight_dtype"] for layer in built["layers"].values()}
        kind = quantization.weight_dtype if quantization.weight_dtype in kinds else min(kinds)
        found = _compared(view, made, built["layers"], kind, artifact if kind == quantization.weight_dtype else None)
        own = kind == quantization.weight_dtype and bool(found["different"] or found["scale_difference"])
        if own:
            os.replace(made, numbers)
        with Process(view.folder, view.architecture.name, artifact.variant, home) as itrex:
            again = itrex.load(
                **load_job(view, artifact.variant, recipe, artifact, numbers if own else None),
                keep=str(made),
                check_ids=check,
            )
        if not own:
            _check_filled(_compared(view, made, again["layers"], quantization.weight_dtype, artifact))
        equal = again["tokens"] == built["tokens"] if kind == quantization.weight_dtype else None
        return replace(
            saved,
            made=kind,
            build_seconds=built["seconds"],
            build_memory=built["memory"],
            log=log,
            own=sha256(numbers) if own else "",
            tokens_equal=equal,
            **found,
        )
    finally:
        made.unlink(missing_ok=True)


def load_job(
    view: View, variant: str, recipe: Recipe, artifact: Artifact | None = None, own: Path | None = None
) -> dict:
    """What the worker is told to load: FP32, ITREX's own quantization, or its layers filled from an artifact."""
    quantization = recipe.quantization
    groups = artifact.manifest["matrices"] if artifact else {}
    return {
        "variant": variant,
        "artifact": str(artifact.folder) if artifact else None,
        "own": str(own) if own else None,
        "matrices": {
            name: {**asdict(rows), "group": groups.get(rows.module, (None, None))[1]}
            for name, rows in view.architecture.matrices.items()
        }
        if artifact
        else {},
        "quantization": None
        if variant == "fp32"
        else {
            "bits": quantization.bits,
            "group_size": quantization.group_size,
            "weight_dtype": quantization.weight_dtype,
            "compute_dtype": quantization.compute_dtype,
        },
        "frequencies": list(view.architecture.frequencies),
        "trust": False,
    }


def _cannot_quantize(recipe: Recipe, artifact: Artifact) -> str:
    """Why ITREX itself does not quantize this model here, or ""."""
    if recipe.quantization.keep_layers:
        return _("ITREX cannot leave layers unquantized; its layers are built from the artifact.")
    if recipe.quantization.effective_budget:
        return _("ITREX knows no budget of bits; its layers are built from the artifact.")
    if recipe.quantization.effective_algorithm != "rtn":
        return _(
            "ITREX would round to nearest; its layers are built from the artifact, which {algorithm} made.",
            algorithm=recipe.quantization.algorithm,
        )
    needed, free = quantizing(artifact.decoder), machine.available_memory()
    if needed > free:
        return _(
            "ITREX needs about {needed} to quantize {name}, but {free} is left; its layers are built from the artifact.",
            needed=readable(needed),
            name=recipe.name,
            free=readable(free),
        )
    return ""


def _compared(view: View, made: Path, layers: dict, kind: str, artifact: Artifact | None) -> dict:
    """ITREX's integers and scales beside the artifact's, or beside this program's quantization to the same type."""
    different = total = 0
    largest = 0.0
    with (
        files.reached(made) as reached,
        safe_open(reached, "pt") as numbers,
        progress.bar(_("comparing integers"), len(layers), "layers") as bar,
    ):
        for name, layer in layers.items():
            integers, scales = numbers.get_tensor(f"{name}.integers"), numbers.get_tensor(f"{name}.scales")
            ours = (
                _from_artifact(artifact, view, name)
                if artifact
                else _from_weights(view, name, kind, layer["group_size"])
            )
            if ours[0].shape != integers.shape or ours[1].shape != scales.shape:
                different += integers.numel()
            else:
                seen = (
                    ours[1].repeat_interleave(layer["group_size"], 0)[: len(integers)] != 0
                )  # times 0 all are the same
                different += int(((ours[0] != integers) & seen).sum())
                scale = ours[1].abs().clamp_min(torch.finfo(torch.float32).tiny)
                largest = max(largest, float(((ours[1] - scales).abs() / scale).max()))
            total += integers.numel()
            bar.update(1)
    return {"layers": len(layers), "integers": total, "different": different, "scale_difference": largest}


def _check_filled(found: dict) -> None:
    if found["different"] or found["scale_difference"]:
        raise EngineError(
            _(
                "ITREX's layers did not take the artifact's integers: {count} of {total} differ.",
                count=found["different"],
                total=found["integers"],
            )
        )


def _from_artifact(artifact: Artifact, view: View, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The artifact's integers int8 [in, out] and scales float32 [in/group, out] of one of ITREX's matrices."""
    rows = view.architecture.matrices[name]
    matrix = artifact.matrix(rows.module)
    if not isinstance(matrix, QuantizedTensor):
        return torch.empty(0), torch.empty(0)
    if matrix.zeros is not None:
        raise EngineError(
            _(
                "ITREX's layers are filled with symmetric integers here, and {name} has zero points of its own; ask for the "
                "variant without itrex-.",
                name=rows.module,
            )
        )
    part = matrix.columns(rows.first, rows.first + rows.count)
    columns = list(rows.order) if rows.order else slice(None)
    return part.integers()[:, columns], part.scales.float()[:, columns]


def _from_weights(view: View, name: str, kind: str, group_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    weight = view.matrix(name).float()
    if weight.shape[1] % group_size:
        return torch.empty(0), torch.empty(0)
    integers, scales = quantize_rows(weight, kind, group_size)
    return integers.t(), scales.t().half().float()


def _read(record: Path, numbers: Path, home: Path) -> Saved | None:
    try:
        saved = Saved.from_record(json.loads(record.read_text("utf-8")))
    except (OSError, ValueError):
        return None
    if (
        saved
        and saved.own
        and not (numbers.is_file() and DigestMemo(home / "itrex").sha256([numbers])[numbers] == saved.own)
    ):
        return None
    return saved
