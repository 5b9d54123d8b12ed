"""Variants: what a model is asked as, a precision of its weights and the engine that computes with them.

Engines: "native" is this program with its own kernels; "itrex" is intel-extension-for-transformers itself. A variant of
another engine than "native" carries its engine's name in front, as in "itrex-int4".
"""

import dataclasses
from dataclasses import dataclass

from itrex_chat.foundation.choices import one_of
from itrex_chat.foundation.errors import RecipeError
from itrex_chat.foundation.language import _
from itrex_chat.settings.quantization import Quantization
from itrex_chat.settings.recipe import Recipe

NATIVE, ITREX = "native", "itrex"
ENGINES = (NATIVE, ITREX)
DENSE = ("fp32", "bf16")
BITS = {"int4": 4, "int8": 8}
PRECISIONS = (*DENSE, *BITS)
MOST_PRECISE_FIRST = ("fp32", "bf16", "int8", "int4")
KEPT = "+kv-"  # between a variant's name and a format of keys and values


@dataclass(frozen=True)
class Variant:
    """One way to ask a model. Raises RecipeError for a precision or an engine that does not exist."""

    precision: str
    engine: str = NATIVE

    def __post_init__(self) -> None:
        one_of("variant", self.precision, PRECISIONS)
        one_of("engine", self.engine, ENGINES)

    @classmethod
    def parse(cls, name: "str | Variant") -> "Variant":
        """The variant of a name such as "int4" or "itrex-int4"."""
        if isinstance(name, Variant):
            return name
        engine, dash, precision = name.partition("-")
        return cls(precision, engine) if dash else cls(name)

    @classmethod
    def of(cls, quantization: Quantization, engine: str = NATIVE) -> "Variant":
        """The variant that a recipe's quantization makes."""
        return cls(f"int{quantization.bits}", engine)

    def __str__(self) -> str:
        return self.precision if self.engine == NATIVE else f"{self.engine}-{self.precision}"

    @property
    def title(self) -> str:
        """For people: "INT4", "INT4 (ITREX)"."""
        precision = self.precision.upper()
        return precision if self.engine == NATIVE else f"{precision} ({self.engine.upper()})"

    @property
    def bits(self) -> int | None:
        """Of the quantized weights; None where they are not quantized."""
        return BITS.get(self.precision)

    def cache_format(self, recipe: Recipe) -> str:
        """How it keeps keys and values."""
        return recipe.kv_cache.of(self.bits)

    def applied_to(self, recipe: Recipe) -> Recipe:
        """The recipe with the quantization that this variant means: its own, if that has as many bits."""
        if self.bits in (None, recipe.quantization.bits):
            return recipe
        weight_dtype = {4: "int4_fullrange", 8: "int8"}[self.bits]
        return dataclasses.replace(
            recipe, quantization=dataclasses.replace(recipe.quantization, weight_dtype=weight_dtype)
        )


ORDER = tuple(str(Variant(precision, engine)) for precision in MOST_PRECISE_FIRST for engine in ENGINES)


def kept_in(variant: str, cache_format: str) -> str:
    """The name of what a variant predicts where keys and values are kept in another format than the recipe's."""
    return f"{variant}{KEPT}{cache_format}"


def drafter_title(name: str) -> str:
    """The name for people of a model that drafts: a variant of the same model, or another model."""
    return titled(name) if name in ORDER else name


def titled(name: str) -> str:
    """A variant's name for people; a name that is no variant's in capitals."""
    name, kept, cache_format = name.partition(KEPT)
    if kept:
        return _("{variant}, KV {format}", variant=titled(name), format=cache_format.upper())
    try:
        return Variant.parse(name).title
    except RecipeError:
        return name.upper()
