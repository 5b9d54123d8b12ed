"""The tensors that an artifact must hold: those that its decoder and its list of quantized matrices say."""

from dataclasses import dataclass

import torch

from itrex_chat.architecture.config import DecoderConfig
from itrex_chat.architecture.layout import TensorSpec, tensors

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
MULTIPLE = 32  # of inputs: what group sizes are multiples of, for the kernels
QUANTIZED = ("linear", "head")  # roles


@dataclass(frozen=True)
class Expected:
    """A stored tensor's shape, and the dtypes that it may have."""

    shape: tuple[int, ...]
    dtypes: tuple[torch.dtype, ...]

    def holds(self, tensor: torch.Tensor) -> bool:
        return tuple(tensor.shape) == self.shape and tensor.dtype in self.dtypes


def expected(config: DecoderConfig, matrices: dict[str, list]) -> dict[str, Expected]:
    """Every tensor of the artifact by its name in the files; `matrices` gives bits and group size by module, and which
    tensor its zero points are where it has some (`manifest.ZEROS`).

    Raises ValueError naming a matrix that the decoder does not have, or that cannot be of these bits and groups.
    """
    found: dict[str, Expected] = {}
    left = dict(matrices)
    for spec in tensors(config):
        module = spec.name.removesuffix(".weight")
        if spec.role in QUANTIZED and module in left:
            found |= _quantized(module, spec, *left.pop(module))
        else:
            found[spec.name] = Expected(spec.shape, FLOATS)
    if left:
        raise ValueError(next(iter(left)))
    return found


def _quantized(module: str, spec: TensorSpec, bits: int, group_size: int, zeros: str = "") -> dict[str, Expected]:
    """A matrix in GPTQ's layout (`quantization/tensor.py`)."""
    outputs, inputs = spec.shape
    if bits not in (4, 8) or group_size < MULTIPLE or group_size % MULTIPLE or inputs % group_size:
        raise ValueError(module)
    if zeros and bits != 4:
        raise ValueError(module)
    groups, words = inputs // group_size, -(-outputs * bits // 32)
    found = {
        f"{module}.qweight": Expected((inputs * bits // 32, outputs), (torch.int32,)),
        f"{module}.qzeros": Expected((groups, words), (torch.int32,)),
        f"{module}.scales": Expected((groups, outputs), (torch.float16,)),
    }
    if zeros == "zeros":
        found[f"{module}.zeros"] = Expected((groups, outputs), (torch.float16,))
    return found
