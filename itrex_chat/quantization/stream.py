"""Quantizing one tensor at a time, a slab of rows at a time."""

from collections.abc import Iterator

import torch
from tqdm import tqdm

from itrex_chat.checkpoints import Checkpoint
from itrex_chat.checkpoints.integers import Packed
from itrex_chat.foundation.errors import CheckpointError
from itrex_chat.foundation.language import _
from itrex_chat.quantization.plan import Treatment
from itrex_chat.quantization.rtn import quantize_rows
from itrex_chat.quantization.search import searched_rows
from itrex_chat.quantization.tensor import packed_words, packed_zero_points, packed_zeros

SLAB = 1 << 21  # values quantized at a time; dequantizing and rounding take about 60 bytes for each
ALONE = {"rtn": quantize_rows, "search": searched_rows}  # algorithms that need nothing but the weights
LARGEST_FLOAT16 = torch.finfo(torch.float16).max


def artifact_tensors(checkpoint: Checkpoint, treatment: Treatment, bar: tqdm) -> dict[str, torch.Tensor]:
    """What the artifact stores of one tensor: `qweight`, `qzeros` and `scales`, `zeros` where they are float16; or the tensor
    itself."""
    if treatment.taken:
        return _taken(checkpoint, treatment, treatment.taken, bar)
    if treatment.bits:
        return _quantized(checkpoint, treatment, treatment.bits, bar)
    return _kept(checkpoint, treatment, bar)


def _quantized(checkpoint: Checkpoint, treatment: Treatment, bits: int, bar: tqdm) -> dict[str, torch.Tensor]:
    rows, width = treatment.spec.shape
    groups = width // treatment.group_size
    qweight = torch.empty(width * bits // 32, rows, dtype=torch.int32)
    scales = torch.empty(groups, rows, dtype=torch.float16)
    quantize = ALONE[treatment.algorithm]
    for start, stop, values in _slabs(checkpoint, treatment, bar):
        integers, slab_scales = quantize(values.float(), treatment.weight_dtype, treatment.group_size)
        _refuse_large(treatment, slab_scales)
        qweight[:, start:stop] = packed_words(integers, bits)
        scales[:, start:stop] = slab_scales.t()
    return _named(treatment, qweight, scales)


def stored(treatment: Treatment, integers: torch.Tensor, scales: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the artifact stores of a matrix: integers int8 [out, in], scales float32 [out, groups]. Raises CheckpointError."""
    assert treatment.bits
    _refuse_large(treatment, scales)
    return _named(treatment, packed_words(integers, treatment.bits), scales.t().half())


def _named(treatment: Treatment, qweight: torch.Tensor, scales: torch.Tensor) -> dict[str, torch.Tensor]:
    assert treatment.bits
    return {
        f"{treatment.name}.qweight": qweight,
        f"{treatment.name}.scales": scales.contiguous(),
        f"{treatment.name}.qzeros": packed_zeros(
            scales.shape[0], scales.shape[1], treatment.bits, treatment.zero_offset
        ),
    }


def _taken(checkpoint: Checkpoint, treatment: Treatment, packed: Packed, bar: tqdm) -> dict[str, torch.Tensor]:
    """The checkpoint's own integers; scales that are no float16 are rounded to it."""
    rows, width = treatment.spec.shape
    groups, middle = width // treatment.group_size, 1 << (packed.bits - 1)
    qweight = torch.empty(width * packed.bits // 32, rows, dtype=torch.int32)
    scales, zeros = torch.empty(groups, rows, dtype=torch.float16), torch.empty(groups, rows, dtype=torch.float16)
    step, value = max(8, SLAB // width // 8 * 8), checkpoint.dtype(treatment.spec.name).itemsize
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        found = checkpoint.integers(treatment.spec.name, start, stop)
        qweight[:, start:stop] = packed_words(found.integers.to(torch.int16) - middle, packed.bits)
        scales[:, start:stop] = found.scales.t()
        if found.zeros is not None:
            zeros[:, start:stop] = found.zeros.t()
        bar.update((stop - start) * width * value)
    _refuse_large(treatment, scales)
    tensors = {f"{treatment.name}.qweight": qweight, f"{treatment.name}.scales": scales}
    if packed.zeros == "whole":
        return tensors | {f"{treatment.name}.qzeros": packed_zero_points(zeros.to(torch.uint8))}
    tensors[f"{treatment.name}.qzeros"] = packed_zeros(groups, rows, packed.bits, treatment.zero_offset)
    return tensors | ({f"{treatment.name}.zeros": zeros} if packed.zeros else {})


def _refuse_large(treatment: Treatment, scales: torch.Tensor) -> None:
    if not scales.abs().max() <= LARGEST_FLOAT16:
        raise CheckpointError(_("The weights of {name} are too large for float16 scales.", name=treatment.spec.name))


def _kept(checkpoint: Checkpoint, treatment: Treatment, bar: tqdm) -> dict[str, torch.Tensor]:
    tensor = torch.empty(treatment.spec.shape, dtype=treatment.dtype)
    for start, stop, values in _slabs(checkpoint, treatment, bar):
        tensor[start:stop] = values
        if not torch.isfinite(tensor[start:stop]).all():
            raise CheckpointError(_("The values of {name} are too large for float16.", name=treatment.spec.name))
    return {treatment.name: tensor}


def _slabs(checkpoint: Checkpoint, treatment: Treatment, bar: tqdm) -> Iterator[tuple[int, int, torch.Tensor]]:
    """The tensor's slabs, counting the bytes that are read."""
    for start, stop, values in checkpoint.slabs(treatment.spec, SLAB):
        yield start, stop, values
        bar.update(values.nbytes)
