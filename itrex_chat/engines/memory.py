"""How much memory a variant takes."""

from dataclasses import dataclass

from itrex_chat.foundation import machine
from itrex_chat.settings.recipe import Recipe
from itrex_chat.settings.variant import Variant


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak: `own` of the process, weights that lie in files as they are used, `mapped`, and the `ring` through
    which those pass that do not stay in memory."""

    own: int
    mapped: int = 0
    ring: int = 0

    @property
    def least(self) -> int:
        """What must be left, or the variant cannot run."""
        return self.own + self.ring

    @property
    def total(self) -> int:
        """What must be left for every pass to find all weights in memory."""
        return self.own + self.mapped


def left(recipe: Recipe, variant: Variant) -> int:
    """Bytes of memory that a variant may take: what is left, or the recipe's `fp32.memory` if that is less."""
    free = machine.available_memory()
    return free if variant.bits or not recipe.fp32.memory else min(free, int(recipe.fp32.memory * 1e9))
