"""Quantizing one tensor at a time, a slab of rows at a time."""

from collections.abc import Iterator

import torch
from tqdm import tqdm

from itrex_chat.checkpoints import Checkpoint
from itrex_chat.foundation.errors import CheckpointError
from itrex_chat.foundation.language import _
from itrex_chat.quantization.plan import Treatment
from itrex_chat.quantization.rtn import quantize_rows
from itrex_chat.quantization.tensor import packed_words, packed_zeros

SLAB = 1 << 21  # values quantized at a time; dequantizing and rounding take about 60 bytes for each
LARGEST_FLOAT16 = torch.finfo(torch.float16).max


def artifact_tensors(checkpoint: Checkpoint, treatment: Treatment, bar: tqdm) -> dict[str, torch.Tensor]:
    """What the artifact stores of one tensor: `qweight`, `qzeros` and `scales`, or the tensor itself."""
    if treatment.bits:
        return _quantized(checkpoint, treatment, treatment.bits, bar)
    return _kept(checkpoint, treatment, bar)


def _quantized(checkpoint: Checkpoint, treatment: Treatment, bits: int, bar: tqdm) -> dict[str, torch.Tensor]:
    rows, width = treatment.spec.shape
    groups = width // treatment.group_size
    qweight = torch.empty(width * bits // 32, rows, dtype=torch.int32)
    scales = torch.empty(groups, rows, dtype=torch.float16)
    for start, stop, values in _slabs(checkpoint, treatment, bar):
        integers, slab_scales = quantize_rows(values.float(), treatment.weight_dtype, treatment.group_size)
        if slab_scales.abs().max() > LARGEST_FLOAT16:
            raise CheckpointError(
                _("The weights of {name} are too large for float16 scales.", name=treatment.spec.name)
            )
        qweight[:, start:stop] = packed_words(integers, bits)
        scales[:, start:stop] = slab_scales.t()
    return {
        f"{treatment.name}.qweight": qweight,
        f"{treatment.name}.scales": scales,
        f"{treatment.name}.qzeros": packed_zeros(groups, rows, bits),
    }


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
