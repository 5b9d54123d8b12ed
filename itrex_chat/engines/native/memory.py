"""How much memory a variant will need, before it is loaded."""

from collections.abc import Callable

import torch

from itrex_chat.architecture.config import DecoderConfig
from itrex_chat.architecture.layout import EMBEDDING, TensorSpec, layer, tensors
from itrex_chat.decoder.kv_cache import KVCache
from itrex_chat.engines.native.weights import DTYPES, kept_as
from itrex_chat.kernels import Kernel
from itrex_chat.quantization.rtn import fitting_group_size
from itrex_chat.settings.recipe import Quantization
from itrex_chat.settings.variant import BITS

PROGRAM = 600 << 20  # bytes: Python, torch, tokenizer


def needed(
    config: DecoderConfig,
    precision: str,
    tokens: int,
    quantization: Quantization,
    kernel: Kernel,
    stored: Callable[[str], torch.dtype],
    storage: str = "stored",
) -> int:
    """Bytes at the peak of loading a variant and answering prompts of `tokens` in all, prompt and answer.

    `stored` says what the originals have a tensor as, `storage` is the recipe's `fp32.storage`.
    """
    dense = precision in DTYPES
    embedding = stored(EMBEDDING) if dense else torch.float16
    weights = largest = 0
    for spec in tensors(config):
        if spec.role == "embedding":
            weights += spec.size * embedding.itemsize
        elif spec.role == "vector":
            weights += spec.size * 4
        elif dense:
            dtype = kept_as(stored(spec.name), precision, storage)
            tied = spec.role == "head" and config.tied_head and dtype == embedding
            weights += 0 if tied else spec.size * dtype.itemsize
        else:
            weights += int(spec.size * _packed_bytes(spec, BITS[precision], quantization, kernel))
            largest = max(largest, spec.size)
    if largest:
        largest = max(largest, config.mlp.largest_product(config.hidden_size))
    unpacking = kernel.packing_bytes * largest
    activations = (
        min(tokens, 1024) * 4 * (6 * config.hidden_size + config.mlp.activation_values()) + 16 * config.vocab_size
    )
    return PROGRAM + weights + unpacking + activations + tokens * KVCache.bytes_per_token(config)


def _packed_bytes(spec: TensorSpec, bits: int, quantization: Quantization, kernel: Kernel) -> float:
    if spec.name.startswith(tuple(map(layer, quantization.keep_layers))):
        return 4
    group_size = fitting_group_size(spec.shape[-1], quantization.group_size)
    if spec.role == "head":
        bits = {"int4": 4, "int8": 8}.get(quantization.head, 0)
    return kernel.bytes_per_weight(bits, group_size) if bits and group_size else 4
