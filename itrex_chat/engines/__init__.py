"""Engines: the programs that can compute a model's variants.

`open_session` loads a variant, `engine_of` gives its engine. An engine is a module `engines/<name>/engine.py` with an
`ENGINE`; nothing outside of this room asks which engine it is.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from itrex_chat.engines.memory import Memory
from itrex_chat.settings.engine_options import EngineOptions
from itrex_chat.settings.recipe import Recipe
from itrex_chat.settings.variant import ENGINES, Variant

if TYPE_CHECKING:
    from itrex_chat.engines.finding import Finding
    from itrex_chat.engines.on_disk import OnDisk
    from itrex_chat.engines.session import Session
    from itrex_chat.foundation.kept import Kept

__all__ = ["Engine", "EngineOptions", "engine_of", "engines", "open_session"]


class Engine(Protocol):
    """`name` as in variants and `--engine`; `gives_logits` where what its models predict can be measured, `batches` where
    it can answer several questions at a time."""

    name: str
    gives_logits: bool
    batches: bool

    def check(self, variant: Variant) -> None:
        """Raise EngineError or KernelError, saying what to do, where this engine cannot compute a variant here."""

    def on_disk(
        self, recipe: Recipe, variant: Variant, options: EngineOptions, trusted: dict[str, str] | None = None
    ) -> "OnDisk":
        """Have on disk what loading a variant needs. Raises ItrexChatError."""

    def memory(self, found: "OnDisk", recipe: Recipe, variant: Variant, tokens: int) -> Memory:
        """What loading a variant and answering prompts of `tokens` in all, prompt and answer, takes."""

    def load(
        self,
        recipe: Recipe,
        variant: Variant,
        home: Path | None = None,
        options: EngineOptions = EngineOptions(),
        trusted: dict[str, str] | None = None,
        needed: int | None = None,
        batch: int = 1,
    ) -> "Session":
        """A variant of a recipe that has the quantization that the variant means. `needed`: `Memory.least` as it was
        planned for `batch` answers at a time; beside that, weights may stay in memory. Raises ItrexChatError."""

    def quantize(self, recipe: Recipe, refresh: bool = False) -> str:
        """Quantize a recipe's model if that was not done before; what came of it, for people. Raises ItrexChatError."""

    def told(self, facts: dict) -> list[str]:
        """Sentences on what a run's record keeps of this engine (`Facts.engine`)."""

    def build_seconds(self, facts: dict) -> float | None:
        """What quantizing took, by what a run's record keeps of this engine."""

    def examine(self, tried: bool) -> "list[Finding]":
        """What works here; with `tried`, after trying it out."""

    def install(self, python: str | None) -> str:
        """Install or repair it, or adopt the environment of an interpreter; what was done, for people."""

    def kept(self, home: Path) -> "list[Kept]":
        """What it keeps in the cache beside artifacts."""


def engine_of(variant: str | Variant) -> Engine:
    """The engine that computes a variant. Raises RecipeError for a name that is no variant's."""
    return _engine(Variant.parse(variant).engine)


def engines() -> list[Engine]:
    return [_engine(name) for name in ENGINES]


def _engine(name: str) -> Engine:
    return import_module(f"itrex_chat.engines.{name}.engine").ENGINE


def open_session(
    recipe: Recipe,
    variant: str | Variant,
    home: Path | None = None,
    options: EngineOptions = EngineOptions(),
    trusted: dict[str, str] | None = None,
    needed: int | None = None,
    batch: int = 1,
) -> "Session":
    """Load a variant ("fp32", "int4", "itrex-int4", …) of a recipe's model; `needed` and `batch` as in `Engine.load`.

    Artifacts that `trusted` (folder to stamp, `Artifact.stamp`) vouches for
    are not hashed again; what is verified here is added to it.
    Raises ItrexChatError.
    """
    variant = Variant.parse(variant)
    return engine_of(variant).load(variant.applied_to(recipe), variant, home, options, trusted, needed, batch)
