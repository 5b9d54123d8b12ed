"""How much memory ITREX will take, from what it took on models of 0.1 to 1.5 billion weights."""

from itrex_chat.architecture.config import DecoderConfig
from itrex_chat.architecture.layout import tensors
from itrex_chat.decoder.kv_cache import KVCache

PROGRAM = 900 << 20  # bytes: Python, torch 2.3, transformers, neural-compressor


def needed(config: DecoderConfig, precision: str, tokens: int) -> int:
    """Bytes at the peak of loading a variant, quantized before, and answering prompts of `tokens` in all."""
    blocks = sum(spec.size for spec in tensors(config) if spec.role == "linear")
    others = _bytes_of_others(config)
    weights = {"fp32": 4.4 * blocks, "int8": 1.4 * blocks, "int4": 0.85 * blocks}[precision] + 1.3 * others
    activations = 8 * config.vocab_size + 8 * config.heads * tokens**2  # logits, and attention's scores
    return PROGRAM + int(weights) + tokens * KVCache.bytes_per_token(config) + activations


def unknown_model(size: int) -> int:
    """A guess for a model that only ITREX can read, of `size` bytes on disk: in 16 bits there, in FP32 in memory."""
    return PROGRAM + int(2.6 * size)


def quantizing(config: DecoderConfig) -> int:
    """Bytes at the peak of ITREX's own quantization: it holds the weights in FP32, and more."""
    blocks = sum(spec.size for spec in tensors(config) if spec.role == "linear")
    return PROGRAM + int(1.35 * (4 * blocks + _bytes_of_others(config)))


def _bytes_of_others(config: DecoderConfig) -> int:
    return sum(
        4 * spec.size
        for spec in tensors(config)
        if spec.role in ("embedding", "vector") or spec.role == "head" and not config.tied_head
    )
