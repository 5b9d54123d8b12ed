"""How much memory a variant will need, before it is loaded.

Two kinds, which do different things where they do not fit: what the process takes for itself, and weights that are read
where they lie in files. The pages of these are the system's; it takes them back when it must, and reads them again.
"""

from collections.abc import Callable

import torch

from itrex_chat.architecture.config import DecoderConfig
from itrex_chat.architecture.layout import TensorSpec, layer, tensors
from itrex_chat.decoder.kv_cache import KVCache
from itrex_chat.engines.memory import Memory
from itrex_chat.engines.native.streaming import RING
from itrex_chat.engines.native.weights import DTYPES, kept_as
from itrex_chat.kernels import Kernel
from itrex_chat.quantization.rtn import fitting_group_size
from itrex_chat.settings.quantization import Quantization
from itrex_chat.settings.variant import BITS

PROGRAM = 600 << 20  # bytes: Python, torch, tokenizer
PANEL = 16 << 20  # bytes: weights that are widened at a time


def needed(
    config: DecoderConfig,
    precision: str,
    tokens: int,
    quantization: Quantization,
    kernel: Kernel,
    stored: Callable[[TensorSpec], tuple[torch.dtype, bool]],
    storage: str = "stored",
    cache_format: str = "fp32",
) -> Memory:
    """The peak of loading a variant and answering prompts of `tokens` in all, prompt and answer.

    `stored` says what the originals have a tensor as, and whether it lies there as it is; `storage` is the recipe's
    `fp32.storage`, `cache_format` how keys and values are kept.
    """
    dense, mapped = precision in DTYPES, 0
    weights = largest = 0
    embedding = None
    for spec in tensors(config):
        if spec.role == "vector":
            weights += spec.size * 4
        elif dense:
            original, in_place = stored(spec)
            dtype = original if spec.role == "embedding" else kept_as(original, precision, storage)
            if spec.role == "embedding":
                embedding = dtype
            elif spec.role == "head" and config.tied_head and dtype == embedding:
                continue
            if in_place and dtype == original:
                mapped += spec.size * dtype.itemsize
            else:
                weights += spec.size * dtype.itemsize
        elif spec.role == "embedding":
            weights += spec.size * 2
        else:
            weights += int(spec.size * _packed_bytes(spec, BITS[precision], quantization, kernel))
            largest = max(largest, spec.size)
    if largest:
        largest = max(largest, config.mlp.largest_product(config.hidden_size))
    activations = (
        min(tokens, 1024) * 4 * (6 * config.hidden_size + config.mlp.activation_values()) + 16 * config.vocab_size
    )
    unpacking = PANEL if dense else kernel.packing_bytes * largest
    own = PROGRAM + weights + unpacking + activations + tokens * KVCache.bytes_per_token(config, cache_format)
    return Memory(own, mapped, min(RING, mapped))


def zero_points(config: DecoderConfig, matrices: dict[str, list]) -> int:
    """Bytes of the zero points of an artifact whose manifest lists these matrices, packed for a kernel."""
    sizes = {spec.name.removesuffix(".weight"): spec.size for spec in tensors(config)}
    return sum(2 * sizes.get(name, 0) // group for name, (_bits, group, *zeros) in matrices.items() if zeros and group)


def _packed_bytes(spec: TensorSpec, bits: int, quantization: Quantization, kernel: Kernel) -> float:
    if spec.name.startswith(tuple(map(layer, quantization.keep_layers))):
        return 4
    group_size = fitting_group_size(spec.shape[-1], quantization.group_size)
    if spec.role == "linear" and quantization.effective_budget:
        return quantization.budget / 8 * (1 if quantization.budget < 8.5 else 2)  # what is kept is widened to 32 bits
    if spec.role == "head":
        bits = {"int4": 4, "int8": 8}.get(quantization.head, 0)
    return kernel.bytes_per_weight(bits, group_size) if bits and group_size else 4
