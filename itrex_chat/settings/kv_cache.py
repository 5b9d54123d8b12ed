"""How keys and values of a conversation are kept."""

from dataclasses import dataclass

from itrex_chat.foundation.choices import one_of

FORMATS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class CacheFormats:
    """`format` of the quantized variants, INT4 and INT8; `dense` of FP32 and BF16, which the others are compared with.

    "fp16" takes half the memory of "fp32", "int8" a little more than a quarter: a scale for each head and position.
    Weights do not depend on it, answers do.
    """

    format: str = "fp32"
    dense: str = "fp32"

    def of(self, bits: int | None) -> str:
        """That of a variant whose weights have so many bits, None where they are not quantized."""
        return self.format if bits else self.dense

    def __post_init__(self) -> None:
        one_of("kv_cache.format", self.format, FORMATS)
        one_of("kv_cache.dense", self.dense, FORMATS)
