"""What becomes of each tensor of a checkpoint, decided before anything is read."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from itrex_chat.architecture.layout import HEAD, TensorSpec, layer
from itrex_chat.checkpoints import Checkpoint
from itrex_chat.checkpoints.integers import Packed
from itrex_chat.foundation.errors import CheckpointError, RecipeError
from itrex_chat.foundation.language import _
from itrex_chat.quantization.budget import Kind
from itrex_chat.quantization.rtn import fitting_group_size
from itrex_chat.settings.quantization import CALIBRATED, WEIGHT_DTYPES, Quantization

# What may be divided by AWQ's factors beside rows of matrices; then it is stored in float32.
FOLDED = re.compile(
    r"model\.layers\.\d+\.((input|post_attention)_layernorm\.weight|self_attn\.v_proj\.bias|mlp\.(gate_)?up_proj\.bias)"
)
SHARD = 256 << 20  # bytes of an artifact's weight file, so that an interrupted run loses little


@dataclass(frozen=True)
class Treatment:
    """One tensor's fate: quantized to `weight_dtype` in groups of `group_size`, or kept in `dtype`.

    `algorithm` finds integers and scales; it is "awq", too, for a vector that this may change. `weight_dtype` is "" and `group_size` 0 where it is kept; the integers of a quantized
    one lie in int32 words. `taken`: how the checkpoint has it as integers, which are taken as they are. `zero_offset` is what
    zero points are stored less.
    """

    spec: TensorSpec
    weight_dtype: str = ""
    group_size: int = 0
    dtype: torch.dtype = torch.int32
    taken: Packed | None = None
    zero_offset: int = 1
    algorithm: str = "rtn"

    @property
    def bits(self) -> int | None:
        if self.taken:
            return self.taken.bits
        return WEIGHT_DTYPES[self.weight_dtype] if self.weight_dtype else None

    @property
    def calibrated(self) -> bool:
        return self.algorithm in CALIBRATED

    @property
    def name(self) -> str:
        """The module's name where it is quantized, else the tensor's."""
        return module_of(self.spec) if self.bits else self.spec.name

    def nbytes(self) -> int:
        """Bytes in the artifact: integers, float16 scales and zero points, or the values."""
        if not self.bits:
            return self.spec.size * self.dtype.itemsize
        groups = self.spec.size // self.group_size
        nbytes = (self.spec.size + groups) * self.bits // 8 + 2 * groups
        return nbytes + (2 * groups if self.zeros == "float" else 0)

    @property
    def zeros(self) -> str:
        """The kind of zero points of its own that it has (`Packed.zeros`)."""
        return self.taken.zeros if self.taken else ""


def plan(
    checkpoint: Checkpoint, quantization: Quantization, kinds: Mapping[str, Kind] | None = None
) -> list[Treatment]:
    """The treatment of every tensor, in the order of the checkpoint.

    Matrices of the decoder blocks are quantized, the head as `head` says;
    where the width is no multiple of the wanted group size the largest one
    that fits is taken, and a matrix that none fits is kept, as are those of
    `keep_layers`. The embedding is
    kept in 16 bits, everything else as it is stored. `kinds` says, by module, what a budget
    has chosen for matrices of the blocks instead. Where the checkpoint's
    integers are to be taken, they come before all that, and in their groups.
    """
    if too_large := [number for number in quantization.keep_layers if number >= checkpoint.decoder.layers]:
        raise RecipeError(
            _(
                "quantization.keep_layers names layer {number}, but the model has layers 0 to {last}.",
                number=too_large[0],
                last=checkpoint.decoder.layers - 1,
            )
        )
    taken = _taken(checkpoint, quantization)
    if taken and quantization.effective_budget:
        raise RecipeError(
            _(
                "{folder} ({stored}) has integers that are taken as they are, and quantization.budget would choose others; leave "
                "it out, or set quantization.integers new.",
                folder=checkpoint.source.folder,
                stored=checkpoint.description,
            )
        )
    if taken and quantization.effective_algorithm != "rtn":
        raise RecipeError(
            _(
                "{folder} ({stored}) has integers that are taken as they are, and quantization.algorithm {algorithm} would find "
                "none; leave it out, or set quantization.integers new.",
                folder=checkpoint.source.folder,
                stored=checkpoint.description,
                algorithm=quantization.algorithm,
            )
        )
    found = [
        _treatment(spec, checkpoint, quantization, taken.get(spec.name), (kinds or {}).get(module_of(spec)))
        for spec in checkpoint.specs()
    ]
    if any(treatment.zeros for treatment in found):
        found = [replace(treatment, zero_offset=0) for treatment in found]
    return found


def module_of(spec: TensorSpec) -> str:
    """The name of the module whose weight a tensor is."""
    return spec.name.removesuffix(".weight")


def _taken(checkpoint: Checkpoint, quantization: Quantization) -> dict[str, Packed]:
    """The matrices whose integers are taken as the checkpoint has them."""
    kept = tuple(map(layer, quantization.keep_layers))
    roles = ("linear",) if quantization.head == "none" else ("linear", "head")
    if quantization.integers == "new" or (quantization.integers == "auto" and not checkpoint.quantized_before):
        return {}
    stored = {
        spec.name: packed
        for spec in checkpoint.specs()
        if spec.role in roles and not spec.name.startswith(kept) and (packed := checkpoint.packed(spec.name))
    }
    bits = {packed.bits for name, packed in stored.items() if name != HEAD}
    if quantization.bits in bits:
        return stored
    if quantization.integers == "auto":
        return {}
    raise CheckpointError(
        _(
            "{folder} ({stored}) has no integers of {bits} bits that can be taken as they are; leave quantization.integers as "
            "it is, or choose other bits.",
            folder=checkpoint.source.folder,
            stored=checkpoint.description,
            bits=quantization.bits,
        )
    )


def _treatment(
    spec: TensorSpec,
    checkpoint: Checkpoint,
    quantization: Quantization,
    taken: Packed | None = None,
    kind: Kind | None = None,
) -> Treatment:
    if taken:
        return Treatment(spec, "", taken.group_size, taken=taken)
    stored = checkpoint.dtype(spec.name)
    if spec.role == "embedding":
        return Treatment(spec, dtype=stored if stored.itemsize == 2 else torch.float16)
    if kind:
        if not kind.weight_dtype:
            return Treatment(spec, dtype=stored)
        algorithm = _algorithm(spec, kind.weight_dtype, quantization)
        return Treatment(spec, kind.weight_dtype, kind.group_size, algorithm=algorithm)
    wanted = {"linear": quantization.weight_dtype, "head": _head_dtype(quantization)}.get(spec.role)
    group_size = fitting_group_size(spec.shape[-1], quantization.group_size)
    if spec.name.startswith(tuple(map(layer, quantization.keep_layers))):
        return Treatment(spec, dtype=stored)
    if wanted and group_size:
        return Treatment(spec, wanted, group_size, algorithm=_algorithm(spec, wanted, quantization))
    if quantization.effective_algorithm == "awq" and FOLDED.fullmatch(spec.name):
        return Treatment(spec, dtype=torch.float32, algorithm="awq")
    return Treatment(spec, dtype=stored)


def _algorithm(spec: TensorSpec, weight_dtype: str, quantization: Quantization) -> str:
    """8 bits are rounded to nearest whatever the recipe says; a head of 4 bits has no inputs of its own to go by."""
    if WEIGHT_DTYPES[weight_dtype] == 8:
        return "rtn"
    return "search" if spec.role == "head" and quantization.calibrated else quantization.effective_algorithm


def _head_dtype(quantization: Quantization) -> str | None:
    if quantization.head == "int4":
        return quantization.weight_dtype if quantization.bits == 4 else "int4_fullrange"
    return None if quantization.head == "none" else quantization.head


def shards(treatments: list[Treatment]) -> list[list[Treatment]]:
    """The tensors in files of about SHARD bytes, in order; where blocks are calibrated, each has files of its own, since what
    is in a finished file need not be made again."""
    files: list[list[Treatment]] = [[]]
    size, before = 0, -1
    apart = any(treatment.calibrated for treatment in treatments)
    for treatment in treatments:
        here = treatment.spec.block
        if files[-1] and (size + treatment.nbytes() > SHARD or (apart and here != before)):
            files.append([])
            size = 0
        before = here
        files[-1].append(treatment)
        size += treatment.nbytes()
    return files
